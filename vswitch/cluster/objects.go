package cluster

import "iter"

// Object is an object of any kind: a pointer to one of this package's.
type Object interface {
	Kind() Kind
	Key() Key
	// Metadata returns the object's own, not a copy.
	Metadata() *Meta
}

// Clone returns a copy of o, whose fields may be set. What they point to it
// shares with o.
func Clone(o Object) Object { return o.Kind().find().clone(o) }

// Ref names any object.
type Ref struct {
	Kind Kind `json:"kind"`
	Key
}

// RefOf returns the name of o.
func RefOf(o Object) Ref { return Ref{o.Kind(), o.Key()} }

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

// All returns all objects, namespaces first, each kind in the order of the input.
func (o *Objects) All() iter.Seq[Object] {
	return func(yield func(Object) bool) {
		for _, k := range kinds {
			if !k.list(o, yield) {
				return
			}
		}
	}
}

// Add adds an object to those of its kind.
func (o *Objects) Add(v Object) { v.Kind().find().add(o, v) }

// Len returns the number of objects.
func (o *Objects) Len() (n int) {
	for _, k := range kinds {
		n += k.count(o)
	}
	return n
}

// Refs names all objects, in the order of All.
func (o *Objects) Refs() []Ref {
	refs := make([]Ref, 0, o.Len())
	for v := range o.All() {
		refs = append(refs, RefOf(v))
	}
	return refs
}

// State returns the State that holds these objects and no others, at revision 0.
func (o *Objects) State() *State {
	var s State
	for v := range o.All() {
		v.Kind().find().with(&s, v)
	}
	return &s
}
