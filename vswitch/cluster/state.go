package cluster

import "iter"

// State is the cluster at one revision. It never changes; a newer State shares
// with it all that did not change.
type State struct {
	// Revision counts the changes of the Store; it never goes back.
	Revision               uint64
	Namespaces             Table[Namespace]
	Nodes                  Table[Node]
	Pods                   Table[Pod]
	Deployments            Table[Deployment]
	Services               Table[Service]
	EndpointSlices         Table[EndpointSlice]
	Endpoints              Table[Endpoints]
	NetworkPolicies        Table[NetworkPolicy]
	ClusterNetworkPolicies Table[ClusterNetworkPolicy]
}

// All returns all objects, namespaces first, each kind in order of key.
func (s *State) All() iter.Seq[Object] { return s.each(nil) }

// In returns all objects of one namespace, in the order of All.
func (s *State) In(namespace string) iter.Seq[Object] { return s.each(&namespace) }

func (s *State) each(namespace *string) iter.Seq[Object] {
	return func(yield func(Object) bool) {
		for _, k := range kinds {
			if !k.each(s, namespace, yield) {
				return
			}
		}
	}
}

// Get returns the object, or nil.
func (s *State) Get(r Ref) Object {
	if k := r.Kind.find(); k != nil {
		return k.get(s, r.Key)
	}
	return nil
}

// Objects returns all objects.
func (s *State) Objects() *Objects {
	var o Objects
	for v := range s.All() {
		o.Add(v)
	}
	return &o
}

// Namespace returns the namespace, or nil.
func (s *State) Namespace(name string) *Namespace { return s.Namespaces.Get(Key{Name: name}) }

// Node returns the node, or nil.
func (s *State) Node(name string) *Node { return s.Nodes.Get(Key{Name: name}) }

// Pod returns the pod, or nil.
func (s *State) Pod(k Key) *Pod { return s.Pods.Get(k) }

// Deployment returns the deployment, or nil.
func (s *State) Deployment(k Key) *Deployment { return s.Deployments.Get(k) }

// Service returns the service, or nil.
func (s *State) Service(k Key) *Service { return s.Services.Get(k) }

// NetworkPolicy returns the policy, or nil.
func (s *State) NetworkPolicy(k Key) *NetworkPolicy { return s.NetworkPolicies.Get(k) }

// ClusterNetworkPolicy returns the policy, or nil.
func (s *State) ClusterNetworkPolicy(name string) *ClusterNetworkPolicy {
	return s.ClusterNetworkPolicies.Get(Key{Name: name})
}

// Changes are the objects that differ between two States, by kind, each in
// order of key.
type Changes struct {
	From, To               *State
	Namespaces             []Change[Namespace]
	Nodes                  []Change[Node]
	Pods                   []Change[Pod]
	Deployments            []Change[Deployment]
	Services               []Change[Service]
	EndpointSlices         []Change[EndpointSlice]
	Endpoints              []Change[Endpoints]
	NetworkPolicies        []Change[NetworkPolicy]
	ClusterNetworkPolicies []Change[ClusterNetworkPolicy]
}

// All returns all changes, in the order of State.All: the object before and
// after, nil where it was not there.
func (c *Changes) All() iter.Seq2[Object, Object] {
	return func(yield func(old, now Object) bool) {
		for _, k := range kinds {
			if !k.changed(c, yield) {
				return
			}
		}
	}
}

// Empty reports whether nothing changed.
func (c *Changes) Empty() bool {
	return len(c.Namespaces)+len(c.Nodes)+len(c.Pods)+len(c.Deployments)+
		len(c.Services)+len(c.EndpointSlices)+len(c.Endpoints)+
		len(c.NetworkPolicies)+len(c.ClusterNetworkPolicies) == 0
}

// Diff returns what changed from s to newer. An object that came and went in
// between is not mentioned; one that was replaced by another of the same name
// is one Change, whose UIDs differ.
func (s *State) Diff(newer *State) Changes {
	return Changes{ // by name, so that it needs no memory where little changes
		From: s, To: newer,
		Namespaces:             s.Namespaces.Diff(newer.Namespaces),
		Nodes:                  s.Nodes.Diff(newer.Nodes),
		Pods:                   s.Pods.Diff(newer.Pods),
		Deployments:            s.Deployments.Diff(newer.Deployments),
		Services:               s.Services.Diff(newer.Services),
		EndpointSlices:         s.EndpointSlices.Diff(newer.EndpointSlices),
		Endpoints:              s.Endpoints.Diff(newer.Endpoints),
		NetworkPolicies:        s.NetworkPolicies.Diff(newer.NetworkPolicies),
		ClusterNetworkPolicies: s.ClusterNetworkPolicies.Diff(newer.ClusterNetworkPolicies),
	}
}
