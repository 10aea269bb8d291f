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
	if !r.Kind.Known() {
		return fmt.Errorf("%w: kind %q is not handled", ErrNotFound, r.Kind)
	}
	r = r.Kind.Ref(r.Key)
	if r == cluster.KindNamespace.Ref(cluster.Key{Name: "default"}) {
		return &conflictError{"Namespace default cannot be deleted"}
	}
	switch o := s.tx.Own().Get(r).(type) {
	case nil:
		return fmt.Errorf("%s: %w", r, ErrNotFound)
	case *cluster.Namespace:
		gone := *o
		if gone.Deleted.IsZero() {
			gone.Deleted = s.now
			s.put(&gone)
		}
	case *cluster.Pod:
		s.endPod(r.Key)
	case *cluster.Node:
		if l := s.index.onNode[r.Name]; l != nil {
			for _, k := range sorted(l.pods) {
				s.endPod(k)
			}
		}
		s.tx.Delete(r)
	case *cluster.EndpointSlice:
		s.tx.Delete(r)
		if derived(o) { // it comes back as its service needs it
			s.index.fan.whole[o.Service()] = true
		}
	default:
		s.tx.Delete(r)
	}
	return nil
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
	for o := range a.tx.Own().All() {
		if r := cluster.RefOf(o); !keep[r] && prunable(o) && a.remove(r) == nil {
			a.done(o, "deleted")
		}
	}
}

// prunable reports whether an object is one that somebody applied.
func prunable(o cluster.Object) bool {
	if system(o) {
		return false
	}
	switch o := o.(type) {
	case *cluster.Namespace, *cluster.Node:
		return len(o.Metadata().Manifest) > 0
	case *cluster.Pod:
		return o.Owner.Name == "" && o.Deleted.IsZero()
	}
	return !derived(o)
}
