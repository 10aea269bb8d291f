package cluster

import (
	"slices"
	"strings"
)

// Kind is the kind of an object, written as Kubernetes does.
type Kind string

// Kinds of objects.
const (
	KindNamespace            Kind = "Namespace"
	KindNode                 Kind = "Node"
	KindPod                  Kind = "Pod"
	KindDeployment           Kind = "Deployment"
	KindService              Kind = "Service"
	KindEndpointSlice        Kind = "EndpointSlice"
	KindEndpoints            Kind = "Endpoints"
	KindNetworkPolicy        Kind = "NetworkPolicy"
	KindClusterNetworkPolicy Kind = "ClusterNetworkPolicy"
)

// Kind implements Object; so do those below.
func (*Namespace) Kind() Kind            { return KindNamespace }
func (*Node) Kind() Kind                 { return KindNode }
func (*Pod) Kind() Kind                  { return KindPod }
func (*Deployment) Kind() Kind           { return KindDeployment }
func (*Service) Kind() Kind              { return KindService }
func (*EndpointSlice) Kind() Kind        { return KindEndpointSlice }
func (*Endpoints) Kind() Kind            { return KindEndpoints }
func (*NetworkPolicy) Kind() Kind        { return KindNetworkPolicy }
func (*ClusterNetworkPolicy) Kind() Kind { return KindClusterNetworkPolicy }

// kinds are all kinds, in the order in which objects are applied and listed:
// what others need comes before them. A new one is a type with its Kind, a field
// of State, Objects and Changes (and a line in Diff and Empty), and a row here;
// TestKinds misses what is left out. Then it is stored, watched, loaded, kept and
// deleted as others are.
var kinds = []kind{
	{KindNamespace, "namespace", "namespace namespaces ns", false, held(mergeFirst,
		func(s *State) *Table[Namespace] { return &s.Namespaces },
		func(o *Objects) *[]*Namespace { return &o.Namespaces },
		func(c *Changes) *[]Change[Namespace] { return &c.Namespaces })},
	{KindNode, "node", "node nodes no", false, held(mergeNode,
		func(s *State) *Table[Node] { return &s.Nodes },
		func(o *Objects) *[]*Node { return &o.Nodes },
		func(c *Changes) *[]Change[Node] { return &c.Nodes })},
	{KindDeployment, "deployment.apps", "deployment deployments deploy deployment.apps deployments.apps", true, held(mergeFirst,
		func(s *State) *Table[Deployment] { return &s.Deployments },
		func(o *Objects) *[]*Deployment { return &o.Deployments },
		func(c *Changes) *[]Change[Deployment] { return &c.Deployments })},
	{KindPod, "pod", "pod pods po", true, held(mergePod,
		func(s *State) *Table[Pod] { return &s.Pods },
		func(o *Objects) *[]*Pod { return &o.Pods },
		func(c *Changes) *[]Change[Pod] { return &c.Pods })},
	{KindService, "service", "service services svc", true, held(mergeFirst,
		func(s *State) *Table[Service] { return &s.Services },
		func(o *Objects) *[]*Service { return &o.Services },
		func(c *Changes) *[]Change[Service] { return &c.Services })},
	{KindEndpointSlice, "endpointslice.discovery.k8s.io", "endpointslice endpointslices endpointslice.discovery.k8s.io endpointslices.discovery.k8s.io", true, held(mergeFirst,
		func(s *State) *Table[EndpointSlice] { return &s.EndpointSlices },
		func(o *Objects) *[]*EndpointSlice { return &o.EndpointSlices },
		func(c *Changes) *[]Change[EndpointSlice] { return &c.EndpointSlices })},
	{KindEndpoints, "endpoints", "endpoints ep", true, held(mergeFirst,
		func(s *State) *Table[Endpoints] { return &s.Endpoints },
		func(o *Objects) *[]*Endpoints { return &o.Endpoints },
		func(c *Changes) *[]Change[Endpoints] { return &c.Endpoints })},
	{KindNetworkPolicy, "networkpolicy.networking.k8s.io", "networkpolicy networkpolicies netpol policy policies networkpolicy.networking.k8s.io networkpolicies.networking.k8s.io", true, held(mergeFirst,
		func(s *State) *Table[NetworkPolicy] { return &s.NetworkPolicies },
		func(o *Objects) *[]*NetworkPolicy { return &o.NetworkPolicies },
		func(c *Changes) *[]Change[NetworkPolicy] { return &c.NetworkPolicies })},
	{KindClusterNetworkPolicy, "clusternetworkpolicy.policy.networking.k8s.io", "clusternetworkpolicy clusternetworkpolicies cnp clusternetworkpolicy.policy.networking.k8s.io clusternetworkpolicies.policy.networking.k8s.io", false, held(mergeFirst,
		func(s *State) *Table[ClusterNetworkPolicy] { return &s.ClusterNetworkPolicies },
		func(o *Objects) *[]*ClusterNetworkPolicy { return &o.ClusterNetworkPolicies },
		func(c *Changes) *[]Change[ClusterNetworkPolicy] { return &c.ClusterNetworkPolicies })},
}

// kind is all that this package knows of a kind of object.
type kind struct {
	kind       Kind
	resource   string // as kubectl prints results
	names      string // that people use: resource, plural, short
	namespaced bool
	holder
}

// find returns what is known of a kind, or nil.
func (k Kind) find() *kind {
	for i := range kinds {
		if kinds[i].kind == k {
			return &kinds[i]
		}
	}
	return nil
}

// ParseKind returns the kind that a person means by name: "po", "pods", "Pod".
func ParseKind(name string) (Kind, bool) {
	name = strings.ToLower(name)
	for _, k := range kinds {
		for n := range strings.FieldsSeq(k.names) {
			if n == name {
				return k.kind, true
			}
		}
	}
	return "", false
}

// Compare orders kinds as objects are applied and listed, those that are not
// known first.
func (k Kind) Compare(other Kind) int { return k.place() - other.place() }

func (k Kind) place() int {
	return slices.IndexFunc(kinds, func(x kind) bool { return x.kind == k })
}

// Known reports whether there are objects of the kind.
func (k Kind) Known() bool { return k.find() != nil }

// Resource returns the kind as kubectl prints it before a name: "pod",
// "deployment.apps".
func (k Kind) Resource() string {
	if f := k.find(); f != nil {
		return f.resource
	}
	return strings.ToLower(string(k))
}

// Namespaced reports whether objects of the kind live in a namespace.
func (k Kind) Namespaced() bool {
	f := k.find()
	return f == nil || f.namespaced
}

// Ref names the object of the kind and key, whose namespace means nothing to
// kinds that live in none.
func (k Kind) Ref(key Key) Ref {
	if !k.Namespaced() {
		key.Namespace = ""
	}
	return Ref{k, key}
}

// holder is where State, Objects and Changes hold the objects of a kind,
// whatever their type.
type holder interface {
	// get returns the object, or nil.
	get(s *State, k Key) Object
	// each yields the objects in order, of one namespace unless that is nil, and
	// reports whether yield wants more.
	each(s *State, namespace *string, yield func(Object) bool) bool
	// with puts an object into a State that nobody else has.
	with(s *State, o Object)
	// put is Txn.Put and, with nil for the object, Txn.Delete.
	put(tx *Txn, k Key, o Object)

	list(o *Objects, yield func(Object) bool) bool
	count(o *Objects) int
	add(to *Objects, o Object)

	changed(c *Changes, yield func(old, now Object) bool) bool

	clone(o Object) Object
}

// pointer is a pointer to the objects T of a kind.
type pointer[T any] interface {
	*T
	Object
}

// holds is the holder of the objects T.
type holds[T any, P pointer[T]] struct {
	merge   func(*[sources]*T) *T
	table   func(*State) *Table[T]
	objects func(*Objects) *[]*T
	changes func(*Changes) *[]Change[T]
}

// held returns the holder of the objects T, which merge puts together from what
// the sources say.
func held[T any, P pointer[T]](merge func(*[sources]*T) *T, table func(*State) *Table[T], objects func(*Objects) *[]*T, changes func(*Changes) *[]Change[T]) holder {
	return holds[T, P]{merge, table, objects, changes}
}

// object returns v as an Object, nil if it is nil.
func (holds[T, P]) object(v *T) Object {
	if v == nil {
		return nil
	}
	return P(v)
}

func (h holds[T, P]) get(s *State, k Key) Object { return h.object(h.table(s).Get(k)) }

func (h holds[T, P]) each(s *State, namespace *string, yield func(Object) bool) bool {
	t := h.table(s)
	return t.size == 0 || walk(t.root, namespace, func(v *T) bool { return yield(P(v)) })
}

func (h holds[T, P]) with(s *State, o Object) {
	t := h.table(s)
	*t = t.With(o.Key(), o.(P))
}

func (h holds[T, P]) list(o *Objects, yield func(Object) bool) bool {
	for _, v := range *h.objects(o) {
		if !yield(P(v)) {
			return false
		}
	}
	return true
}

func (h holds[T, P]) count(o *Objects) int { return len(*h.objects(o)) }

func (h holds[T, P]) add(to *Objects, o Object) {
	l := h.objects(to)
	*l = append(*l, o.(P))
}

func (h holds[T, P]) changed(c *Changes, yield func(old, now Object) bool) bool {
	for _, ch := range *h.changes(c) {
		if !yield(h.object(ch.Old), h.object(ch.New)) {
			return false
		}
	}
	return true
}

func (holds[T, P]) clone(o Object) Object {
	v := *o.(P)
	return P(&v)
}
