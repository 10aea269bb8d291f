package control

import (
	"errors"

	"vswitch/vswitch/cluster"
)

// Isolate stores policies that could not be understood, with Invalid set, so
// that the pods which they select are isolated until somebody corrects or
// deletes them. A policy that is there and was understood stays in force as it
// is ("kept"); all others are "isolated".
func (c *Controller) Isolate(o *cluster.Objects) ([]Result, error) {
	var results []Result
	err := c.update(func(s *step) error {
		a := &applying{step: s}
		for _, v := range o.NetworkPolicies {
			m := *v
			isolate(a, cluster.KindNetworkPolicy, &m, s.tx.Own().NetworkPolicy(m.Key()), metaOfPolicy, s.putNetworkPolicy,
				func(v *cluster.NetworkPolicy) string { return v.Invalid })
		}
		for _, v := range o.ClusterNetworkPolicies {
			m := *v
			isolate(a, cluster.KindClusterNetworkPolicy, &m, s.tx.Own().ClusterNetworkPolicy(m.Name), metaOfClusterPolicy, s.putClusterNetworkPolicy,
				func(v *cluster.ClusterNetworkPolicy) string { return v.Invalid })
		}
		results = a.results
		return errors.Join(a.errs...)
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// isolate stores one policy that is invalid, unless cur, which is there, is not.
// A namespace that is being deleted takes it, too: its pods may still run.
func isolate[T any](a *applying, kind cluster.Kind, v, cur *T, meta func(*T) *cluster.Meta, store func(*T), invalid func(*T) string) {
	m := meta(v)
	switch {
	case invalid(v) == "":
		a.refuse(kind, m, "", "nothing is wrong with the policy; apply it")
		return
	case cur == nil:
		a.create(m)
	case invalid(cur) == "":
		a.done(kind, m, "kept")
		return
	default:
		take(m, meta(cur))
		if same(v, cur, func(v *T) *string { return &meta(v).Source }) {
			a.done(kind, m, "isolated")
			return
		}
		m.Generation++
	}
	store(v)
	a.done(kind, m, "isolated")
}

func (a *applying) networkPolicy(in *cluster.NetworkPolicy) {
	v := *in
	put(a, cluster.KindNetworkPolicy, &v, a.tx.Own().NetworkPolicy(v.Key()), metaOfPolicy, a.putNetworkPolicy)
}

func (a *applying) clusterNetworkPolicy(in *cluster.ClusterNetworkPolicy) {
	v := *in
	put(a, cluster.KindClusterNetworkPolicy, &v, a.tx.Own().ClusterNetworkPolicy(v.Name), metaOfClusterPolicy, a.putClusterNetworkPolicy)
}

func metaOfPolicy(v *cluster.NetworkPolicy) *cluster.Meta               { return &v.Meta }
func metaOfClusterPolicy(v *cluster.ClusterNetworkPolicy) *cluster.Meta { return &v.Meta }

// put applies an object of a kind of which nothing is immutable and nothing is
// decided here. cur is the one that is there, or nil.
func put[T any](a *applying, kind cluster.Kind, v, cur *T, meta func(*T) *cluster.Meta, store func(*T)) {
	m := meta(v)
	if cur == nil {
		if a.leaving(kind, m, nil) {
			return
		}
		a.create(m)
		store(v)
		a.done(kind, m, "created")
		return
	}
	old := meta(cur)
	if a.leaving(kind, m, old) {
		return
	}
	take(m, old)
	if same(v, cur, func(v *T) *string { return &meta(v).Source }) {
		a.done(kind, m, "unchanged")
		return
	}
	m.Generation++
	store(v)
	a.done(kind, m, "configured")
}

// policies puts policies as they are given.
func (s *static) policies(o *cluster.Objects) {
	for _, v := range o.NetworkPolicies {
		m := *v
		s.known(&m.Meta)
		s.putNetworkPolicy(&m)
	}
	for _, v := range o.ClusterNetworkPolicies {
		m := *v
		s.known(&m.Meta)
		s.putClusterNetworkPolicy(&m)
	}
}
