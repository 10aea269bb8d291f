package policy

import (
	"net/netip"
	"slices"

	"vswitch/vswitch/cluster"
)

// covers reports whether q matches whatever r matches. It goes by how the rules
// are written, whoever is there at present; if in doubt, it says no.
func covers(q, r *rule) bool {
	return coversPeers(q, r) && coversPorts(q.spec.Ports, r.spec.Ports)
}

func coversPeers(q, r *rule) bool {
	if len(q.spec.Peers) == 0 || len(r.spec.Peers) == 0 {
		return len(q.spec.Peers) == 0
	}
	for i := range r.spec.Peers {
		peer := &r.spec.Peers[i]
		if !slices.ContainsFunc(q.spec.Peers, func(by cluster.PolicyPeer) bool { return coversPeer(q.policy, &by, r.policy, peer) }) {
			return false
		}
	}
	return true
}

func coversPeer(q *policy, by *cluster.PolicyPeer, p *policy, peer *cluster.PolicyPeer) bool {
	if len(by.Blocks) > 0 || len(peer.Blocks) > 0 {
		for _, b := range peer.Blocks {
			if !slices.ContainsFunc(by.Blocks, func(a cluster.IPBlock) bool { return coversBlock(a, b) }) {
				return false
			}
		}
		return len(peer.Blocks) > 0
	}
	a, b := q.peerSelector(by), p.peerSelector(peer)
	return coversSelector(&a, &b)
}

// coversBlock reports whether a holds all addresses of b.
func coversBlock(a, b cluster.IPBlock) bool {
	within := func(outer, inner netip.Prefix) bool {
		return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
	}
	if !within(a.CIDR, b.CIDR) {
		return false
	}
	for _, e := range a.Except {
		if e.Overlaps(b.CIDR) && !slices.ContainsFunc(b.Except, func(f netip.Prefix) bool { return within(f, e) }) {
			return false
		}
	}
	return true
}

func coversPorts(a, b []cluster.PolicyPort) bool {
	if len(a) == 0 || len(b) == 0 {
		return len(a) == 0
	}
	for _, p := range b {
		if !slices.ContainsFunc(a, func(by cluster.PolicyPort) bool { return coversPort(by, p) }) {
			return false
		}
	}
	return true
}

func coversPort(a, b cluster.PolicyPort) bool {
	switch {
	case a.Name != "":
		return a.Name == b.Name && (a.Protocol == 0 || a.Protocol == b.Protocol)
	case a.Protocol != b.Protocol:
		return false
	case a.First == 0:
		return true
	}
	return b.Name == "" && b.First != 0 && a.First <= b.First && b.Last <= a.Last
}

// coversSelector reports whether a selects all that b does.
func coversSelector(a, b *selector) bool {
	return a.nodes == b.nodes && implies(placeOf(b), placeOf(a)) && implies(requirements(b.labels), requirements(a.labels))
}

// placeOf returns what a selector requires of namespaces.
func placeOf(s *selector) []cluster.Requirement {
	if s.scoped {
		return []cluster.Requirement{{Key: nameLabel, Operator: cluster.SelectIn, Values: []string{s.namespace}}}
	}
	return requirements(s.namespaces)
}

func requirements(s *cluster.Selector) []cluster.Requirement {
	if s == nil {
		return nil
	}
	return s.Requirements
}

// implies reports whether what fulfils all of b fulfils all of a.
func implies(b, a []cluster.Requirement) bool {
	for _, r := range a {
		if !slices.ContainsFunc(b, func(q cluster.Requirement) bool { return impliesOne(q, r) }) {
			return false
		}
	}
	return true
}

func impliesOne(b, a cluster.Requirement) bool {
	if a.Key != b.Key {
		return false
	}
	in := func(list []string, other bool) func(string) bool {
		return func(v string) bool { return slices.Contains(list, v) == other }
	}
	switch a.Operator {
	case cluster.SelectExists:
		return b.Operator == cluster.SelectExists || b.Operator == cluster.SelectIn
	case cluster.SelectNotExists:
		return b.Operator == cluster.SelectNotExists
	case cluster.SelectIn: // no value of b may be missing in a
		return b.Operator == cluster.SelectIn && !slices.ContainsFunc(b.Values, in(a.Values, false))
	case cluster.SelectNotIn:
		return b.Operator == cluster.SelectNotExists ||
			b.Operator == cluster.SelectIn && !slices.ContainsFunc(b.Values, in(a.Values, true)) ||
			b.Operator == cluster.SelectNotIn && !slices.ContainsFunc(a.Values, in(b.Values, false))
	}
	return false
}
