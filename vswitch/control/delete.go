package control

import (
	"errors"
	"fmt"

	"vswitch/vswitch/cluster"
)

// Delete deletes objects and all that belongs to them: a Deployment's
// replicas, what is in a namespace, the pods of a node. Pods with a node stay,
// as being deleted, until PodGone. An object that is not there is an
// ErrNotFound, joined with the others; those that are there are deleted all
// the same.
func (c *Controller) Delete(refs []cluster.Ref) ([]Result, error) {
	var results []Result
	var missing []error
	err := c.update(func(s *step) error {
		results, missing = nil, nil
		for _, r := range refs {
			if err := s.remove(r); err != nil {
				missing = append(missing, err)
				continue
			}
			results = append(results, Result{Ref: r, Action: "deleted"})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return results, errors.Join(missing...)
}

func (s *step) remove(r cluster.Ref) error {
	own := s.tx.Own()
	switch r.Kind {
	case cluster.KindNamespace:
		if r.Name == "default" {
			return &conflictError{"Namespace default cannot be deleted"}
		}
		if n := own.Namespace(r.Name); n != nil {
			gone := *n
			if gone.Deleted.IsZero() {
				gone.Deleted = s.now
				s.putNamespace(&gone)
			}
			return nil
		}
	case cluster.KindNode:
		if own.Node(r.Name) != nil {
			if l := s.index.onNode[r.Name]; l != nil {
				for _, k := range sorted(l.pods) {
					s.endPod(k)
				}
			}
			s.tx.DeleteNode(r.Name)
			return nil
		}
	case cluster.KindPod:
		if own.Pod(r.Key) != nil {
			s.endPod(r.Key)
			return nil
		}
	case cluster.KindDeployment:
		if own.Deployment(r.Key) != nil {
			s.tx.DeleteDeployment(r.Key)
			return nil
		}
	case cluster.KindService:
		if own.Service(r.Key) != nil {
			s.tx.DeleteService(r.Key)
			return nil
		}
	case cluster.KindEndpointSlice:
		if v := own.EndpointSlices.Get(r.Key); v != nil {
			s.tx.DeleteEndpointSlice(r.Key)
			if derived(v) { // it comes back as its service needs it
				s.index.fan.whole[v.Service()] = true
			}
			return nil
		}
	case cluster.KindEndpoints:
		if own.Endpoints.Get(r.Key) != nil {
			s.tx.DeleteEndpoints(r.Key)
			return nil
		}
	case cluster.KindNetworkPolicy:
		if own.NetworkPolicy(r.Key) != nil {
			s.tx.DeleteNetworkPolicy(r.Key)
			return nil
		}
	case cluster.KindClusterNetworkPolicy:
		if own.ClusterNetworkPolicy(r.Name) != nil {
			s.tx.DeleteClusterNetworkPolicy(r.Name)
			return nil
		}
	default:
		return fmt.Errorf("%w: kind %q is not handled", ErrNotFound, r.Kind)
	}
	return fmt.Errorf("%s: %w", r, ErrNotFound)
}

// prune deletes what came from manifests and is not in o, nor needed by it.
func (a *applying) prune(o *cluster.Objects) {
	keep := map[cluster.Ref]bool{}
	for _, r := range o.Refs() {
		keep[r] = true
		keep[cluster.Ref{Kind: cluster.KindNamespace, Key: cluster.Key{Name: r.Namespace}}] = true
	}
	for _, p := range o.Pods {
		keep[cluster.Ref{Kind: cluster.KindNode, Key: cluster.Key{Name: p.Node}}] = true
	}
	own := a.tx.Own()
	var all cluster.Objects
	for n := range own.Namespaces.All() {
		if len(n.Manifest) > 0 {
			all.Namespaces = append(all.Namespaces, n)
		}
	}
	for n := range own.Nodes.All() {
		if len(n.Manifest) > 0 {
			all.Nodes = append(all.Nodes, n)
		}
	}
	for d := range own.Deployments.All() {
		all.Deployments = append(all.Deployments, d)
	}
	for p := range own.Pods.All() {
		if p.Owner.Name == "" && p.Deleted.IsZero() {
			all.Pods = append(all.Pods, p)
		}
	}
	for v := range own.Services.All() {
		all.Services = append(all.Services, v)
	}
	for v := range own.EndpointSlices.All() {
		if !derived(v) {
			all.EndpointSlices = append(all.EndpointSlices, v)
		}
	}
	for v := range own.Endpoints.All() {
		all.Endpoints = append(all.Endpoints, v)
	}
	for v := range own.NetworkPolicies.All() {
		all.NetworkPolicies = append(all.NetworkPolicies, v)
	}
	for v := range own.ClusterNetworkPolicies.All() {
		all.ClusterNetworkPolicies = append(all.ClusterNetworkPolicies, v)
	}
	for _, r := range all.Refs() {
		if !keep[r] && a.remove(r) == nil {
			a.results = append(a.results, Result{Ref: r, Action: "deleted"})
		}
	}
}
