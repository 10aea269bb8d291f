package control

import (
	"vswitch/vswitch/cluster"
)

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
