package cluster

import "strings"

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

// kindNames are the names people use for each kind: resource, plural, short.
var kindNames = []struct {
	kind       Kind
	resource   string // as kubectl prints results
	names      string
	namespaced bool
}{
	{KindNamespace, "namespace", "namespace namespaces ns", false},
	{KindNode, "node", "node nodes no", false},
	{KindPod, "pod", "pod pods po", true},
	{KindDeployment, "deployment.apps", "deployment deployments deploy deployment.apps deployments.apps", true},
	{KindService, "service", "service services svc", true},
	{KindEndpointSlice, "endpointslice.discovery.k8s.io", "endpointslice endpointslices endpointslice.discovery.k8s.io endpointslices.discovery.k8s.io", true},
	{KindEndpoints, "endpoints", "endpoints ep", true},
	{KindNetworkPolicy, "networkpolicy.networking.k8s.io", "networkpolicy networkpolicies netpol policy policies networkpolicy.networking.k8s.io networkpolicies.networking.k8s.io", true},
	{KindClusterNetworkPolicy, "clusternetworkpolicy.policy.networking.k8s.io", "clusternetworkpolicy clusternetworkpolicies cnp clusternetworkpolicy.policy.networking.k8s.io clusternetworkpolicies.policy.networking.k8s.io", false},
}

// ParseKind returns the kind that a person means by name: "po", "pods", "Pod".
func ParseKind(name string) (Kind, bool) {
	name = strings.ToLower(name)
	for _, k := range kindNames {
		for n := range strings.FieldsSeq(k.names) {
			if n == name {
				return k.kind, true
			}
		}
	}
	return "", false
}

// Resource returns the kind as kubectl prints it before a name: "pod",
// "deployment.apps".
func (k Kind) Resource() string {
	for _, n := range kindNames {
		if n.kind == k {
			return n.resource
		}
	}
	return strings.ToLower(string(k))
}

// Namespaced reports whether objects of the kind live in a namespace.
func (k Kind) Namespaced() bool {
	for _, n := range kindNames {
		if n.kind == k {
			return n.namespaced
		}
	}
	return true
}

// Ref names any object.
type Ref struct {
	Kind Kind `json:"kind"`
	Key
}

// String returns "Pod shop/web-1".
func (r Ref) String() string { return string(r.Kind) + " " + r.Key.String() }

// Objects are objects by kind, each list in the order of the input.
type Objects struct {
	Namespaces     []*Namespace     `json:"namespaces,omitempty"`
	Nodes          []*Node          `json:"nodes,omitempty"`
	Pods           []*Pod           `json:"pods,omitempty"`
	Deployments    []*Deployment    `json:"deployments,omitempty"`
	Services       []*Service       `json:"services,omitempty"`
	EndpointSlices []*EndpointSlice `json:"endpointSlices,omitempty"`
	// Endpoints are those that somebody wrote.
	Endpoints              []*Endpoints            `json:"endpoints,omitempty"`
	NetworkPolicies        []*NetworkPolicy        `json:"networkPolicies,omitempty"`
	ClusterNetworkPolicies []*ClusterNetworkPolicy `json:"clusterNetworkPolicies,omitempty"`
}

// Len returns the number of objects.
func (o *Objects) Len() int {
	return len(o.Namespaces) + len(o.Nodes) + len(o.Pods) + len(o.Deployments) +
		len(o.Services) + len(o.EndpointSlices) + len(o.Endpoints) +
		len(o.NetworkPolicies) + len(o.ClusterNetworkPolicies)
}

// Refs names all objects, namespaces first, each kind in the order of the input.
func (o *Objects) Refs() []Ref {
	refs := make([]Ref, 0, o.Len())
	for _, n := range o.Namespaces {
		refs = append(refs, Ref{KindNamespace, n.Key()})
	}
	for _, n := range o.Nodes {
		refs = append(refs, Ref{KindNode, n.Key()})
	}
	for _, d := range o.Deployments {
		refs = append(refs, Ref{KindDeployment, d.Key()})
	}
	for _, p := range o.Pods {
		refs = append(refs, Ref{KindPod, p.Key()})
	}
	for _, v := range o.Services {
		refs = append(refs, Ref{KindService, v.Key()})
	}
	for _, v := range o.EndpointSlices {
		refs = append(refs, Ref{KindEndpointSlice, v.Key()})
	}
	for _, v := range o.Endpoints {
		refs = append(refs, Ref{KindEndpoints, v.Key()})
	}
	for _, v := range o.NetworkPolicies {
		refs = append(refs, Ref{KindNetworkPolicy, v.Key()})
	}
	for _, v := range o.ClusterNetworkPolicies {
		refs = append(refs, Ref{KindClusterNetworkPolicy, v.Key()})
	}
	return refs
}

// State returns the State that holds these objects and no others, at revision 0.
func (o *Objects) State() *State {
	var s State
	for _, n := range o.Namespaces {
		s.Namespaces = s.Namespaces.With(n.Key(), n)
	}
	for _, n := range o.Nodes {
		s.Nodes = s.Nodes.With(n.Key(), n)
	}
	for _, d := range o.Deployments {
		s.Deployments = s.Deployments.With(d.Key(), d)
	}
	for _, p := range o.Pods {
		s.Pods = s.Pods.With(p.Key(), p)
	}
	for _, v := range o.Services {
		s.Services = s.Services.With(v.Key(), v)
	}
	for _, v := range o.EndpointSlices {
		s.EndpointSlices = s.EndpointSlices.With(v.Key(), v)
	}
	for _, v := range o.Endpoints {
		s.Endpoints = s.Endpoints.With(v.Key(), v)
	}
	for _, v := range o.NetworkPolicies {
		s.NetworkPolicies = s.NetworkPolicies.With(v.Key(), v)
	}
	for _, v := range o.ClusterNetworkPolicies {
		s.ClusterNetworkPolicies = s.ClusterNetworkPolicies.With(v.Key(), v)
	}
	return &s
}
