package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// maker makes random clusters, small enough that everything meets everything.
type maker struct{ *rand.Rand }

func (m maker) pick(list ...string) string { return list[m.IntN(len(list))] }
func (m maker) oneIn(n int) bool           { return m.IntN(n) == 0 }

var (
	spaces   = []string{"x", "y", "z"}
	machines = []string{"n1", "n2", "n3"}
)

func (m maker) labels() map[string]string {
	out := map[string]string{}
	for _, k := range []string{"app", "tier", "env"} {
		if !m.oneIn(3) {
			out[k] = m.pick("a", "b", "c")
		}
	}
	return out
}

// podAddr returns one of few addresses of pods, so that two pods have the same
// at times.
func (m maker) podAddr(four bool) netip.Addr {
	if four {
		return netip.AddrFrom4([4]byte{10, 244, byte(m.IntN(3)), byte(m.IntN(24))})
	}
	return netip.MustParseAddr(fmt.Sprintf("fd00:244:%d::%x", m.IntN(3), m.IntN(24)))
}

func (m maker) nodeAddr(four bool) netip.Addr {
	if four {
		return netip.AddrFrom4([4]byte{172, 29, 0, byte(m.IntN(4))})
	}
	return netip.MustParseAddr(fmt.Sprintf("fd00:29::%x", m.IntN(4)))
}

func (m maker) addr() netip.Addr {
	four := !m.oneIn(3)
	switch m.IntN(6) {
	case 0:
		return m.nodeAddr(four)
	case 1:
		return netip.AddrFrom4([4]byte{192, 0, 2, byte(m.IntN(256))})
	}
	return m.podAddr(four)
}

func (m maker) namespace() *cluster.Namespace {
	return &cluster.Namespace{Meta: cluster.Meta{Name: m.pick(spaces...), Labels: m.labels()}, IsolatesIngress: m.oneIn(6)}
}

func (m maker) node() *cluster.Node {
	n := &cluster.Node{Meta: cluster.Meta{Name: m.pick(machines...), Labels: m.labels()}, Addresses: []netip.Addr{m.nodeAddr(true), m.nodeAddr(false)}}
	if m.oneIn(3) {
		n.ExtraAddresses = []netip.Addr{m.nodeAddr(true)}
	}
	return n
}

func (m maker) pod() *cluster.Pod {
	p := &cluster.Pod{
		Meta: cluster.Meta{Namespace: m.pick(spaces...), Name: fmt.Sprint("p", m.IntN(6)), Labels: m.labels()},
		Node: m.pick(machines...), IPs: []netip.Addr{m.podAddr(true)}, HostNetwork: m.oneIn(12),
	}
	if m.oneIn(2) {
		p.IPs = append(p.IPs, m.podAddr(false))
	}
	if m.oneIn(12) {
		p.Phase = cluster.PodSucceeded
	}
	if m.oneIn(12) {
		p.Deleted = time.Unix(1, 0)
	}
	if m.oneIn(2) {
		p.Containers = []cluster.Container{{}, {}}
		for i := range m.IntN(4) {
			c := &p.Containers[i%2]
			c.Ports = append(c.Ports, cluster.ContainerPort{Name: m.pick("", "http", "dns"), Port: m.port(), Protocol: m.proto()})
		}
	}
	return p
}

func (m maker) port() uint16 { return []uint16{80, 81, 82, 443, 8080, 65535}[m.IntN(6)] }
func (m maker) proto() uint8 {
	return []uint8{packet.ProtoTCP, packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP}[m.IntN(4)]
}

func (m maker) selector() *cluster.Selector {
	s := &cluster.Selector{}
	for range m.IntN(3) {
		r := cluster.Requirement{Key: m.pick("app", "tier", "env"), Operator: cluster.SelectIn}
		switch m.IntN(8) {
		case 0:
			r.Operator = cluster.SelectNotIn
		case 1:
			r.Operator = cluster.SelectExists
		case 2:
			r.Operator = cluster.SelectNotExists
		}
		if r.Operator == cluster.SelectIn || r.Operator == cluster.SelectNotIn {
			r.Values = []string{m.pick("a", "b")}
			if m.oneIn(3) {
				r.Values = append(r.Values, "c")
			}
		}
		if m.oneIn(200) {
			r.Operator = "Near"
		}
		s.Requirements = append(s.Requirements, r)
	}
	return s
}

func (m maker) spaceSelector() *cluster.Selector {
	s := m.selector()
	if m.oneIn(4) {
		s.Requirements = append(s.Requirements, cluster.Requirement{Key: "kubernetes.io/metadata.name", Operator: cluster.SelectIn, Values: []string{m.pick(spaces...)}})
	}
	return s
}

func (m maker) block() cluster.IPBlock {
	prefix := func(least int) netip.Prefix {
		a := m.addr()
		return netip.PrefixFrom(a, least+m.IntN(a.BitLen()-least+1))
	}
	b := cluster.IPBlock{CIDR: prefix(0)}
	for range m.IntN(3) {
		b.Except = append(b.Except, prefix(b.CIDR.Bits()%32))
	}
	if m.oneIn(2) {
		b.CIDR = b.CIDR.Masked()
	}
	if m.oneIn(100) {
		b.CIDR = netip.Prefix{}
	}
	return b
}

func (m maker) peer(namespaced bool) cluster.PolicyPeer {
	switch n := m.IntN(8); {
	case n < 2:
		return cluster.PolicyPeer{Blocks: []cluster.IPBlock{m.block(), m.block()}[m.IntN(2):]}
	case n == 2 && !namespaced:
		return cluster.PolicyPeer{Nodes: m.selector()}
	case n < 5 && namespaced:
		return cluster.PolicyPeer{Pods: m.selector()}
	case n == 6:
		return cluster.PolicyPeer{Namespaces: m.spaceSelector()}
	case m.oneIn(200):
		return cluster.PolicyPeer{}
	}
	return cluster.PolicyPeer{Namespaces: m.spaceSelector(), Pods: m.selector()}
}

func (m maker) policyPort() cluster.PolicyPort {
	p := cluster.PolicyPort{Protocol: m.proto()}
	switch m.IntN(6) {
	case 0:
	case 1, 2:
		p.Name = m.pick("http", "dns", "none")
		if m.oneIn(3) {
			p.Protocol = 0
		}
	case 3:
		p.First, p.Last = m.port(), m.port()
		if p.Last < p.First && !m.oneIn(20) {
			p.First, p.Last = p.Last, p.First
		}
	default:
		p.First = m.port()
		p.Last = p.First
	}
	return p
}

func (m maker) rules(namespaced bool) []cluster.PolicyRule {
	var out []cluster.PolicyRule
	for range m.IntN(4) {
		r := cluster.PolicyRule{Action: cluster.ActionAccept}
		if !namespaced {
			r.Action = cluster.PolicyAction(m.pick("Accept", "Deny", "Pass"))
		}
		if m.oneIn(200) {
			r.Action = "Log"
		}
		for range m.IntN(3) {
			r.Peers = append(r.Peers, m.peer(namespaced))
		}
		if m.oneIn(2) {
			for range m.IntN(4) {
				r.Ports = append(r.Ports, m.policyPort())
			}
		}
		out = append(out, r)
	}
	return out
}

func (m maker) policy() *cluster.NetworkPolicy {
	p := &cluster.NetworkPolicy{
		Meta: cluster.Meta{Namespace: m.pick(spaces...), Name: fmt.Sprint("p", m.IntN(5))},
		Pods: *m.selector(), IsolatesIngress: !m.oneIn(3), IsolatesEgress: m.oneIn(2),
		Ingress: m.rules(true), Egress: m.rules(true),
	}
	if m.oneIn(30) {
		p.Invalid = "it makes no sense"
	}
	return p
}

func (m maker) clusterPolicy() *cluster.ClusterNetworkPolicy {
	p := &cluster.ClusterNetworkPolicy{
		Meta: cluster.Meta{Name: fmt.Sprint("c", m.IntN(5))}, Tier: cluster.PolicyTier(m.pick("Admin", "Baseline")),
		Priority: int32(m.IntN(3)), Subject: cluster.PolicyPeer{Namespaces: m.spaceSelector()},
		Ingress: m.rules(false), Egress: m.rules(false),
	}
	if m.oneIn(2) {
		p.Subject.Pods = m.selector()
	}
	if m.oneIn(30) {
		p.Invalid = "it makes no sense"
	}
	if m.oneIn(60) {
		p.Tier = "Middle"
	}
	return p
}

func (m maker) question() question {
	q := question{dir: Direction(m.IntN(2)), from: m.addr(), to: m.addr(), proto: m.proto(), port: m.port()}
	if m.oneIn(8) {
		q.proto, q.port = []uint8{packet.ProtoICMP, packet.ProtoICMPv6, 47}[m.IntN(3)], 0
	}
	return q
}

// put puts an object into a list in the place of one of its name; replace false
// takes that away instead. It returns the change.
func put[T any](list *[]*T, o *T, key func(*T) cluster.Key, replace bool) []cluster.Change[T] {
	at := slices.IndexFunc(*list, func(x *T) bool { return key(x) == key(o) })
	switch {
	case at < 0 && !replace:
		return nil
	case at < 0:
		*list = append(*list, o)
		return []cluster.Change[T]{{New: o}}
	case !replace:
		old := (*list)[at]
		*list = slices.Delete(*list, at, at+1)
		return []cluster.Change[T]{{Old: old}}
	}
	old := (*list)[at]
	(*list)[at] = o
	return []cluster.Change[T]{{Old: old, New: o}}
}

// change changes something in the world, and returns what.
func (m maker) change(w *world) *cluster.Changes {
	ch := &cluster.Changes{}
	keep := !m.oneIn(4)
	switch n := m.IntN(20); {
	case n < 2:
		ch.Namespaces = put(&w.namespaces, m.namespace(), func(n *cluster.Namespace) cluster.Key { return n.Key() }, keep)
	case n < 4:
		ch.Nodes = put(&w.nodes, m.node(), func(n *cluster.Node) cluster.Key { return n.Key() }, keep)
	case n < 11:
		p := m.pod()
		if at := slices.IndexFunc(w.pods, func(q *cluster.Pod) bool { return q.Key() == p.Key() }); at >= 0 && m.oneIn(2) {
			relabelled := *w.pods[at]
			relabelled.Labels = p.Labels
			p = &relabelled
		}
		ch.Pods = put(&w.pods, p, func(p *cluster.Pod) cluster.Key { return p.Key() }, keep)
	case n < 17:
		ch.NetworkPolicies = put(&w.policies, m.policy(), func(p *cluster.NetworkPolicy) cluster.Key { return p.Key() }, keep)
	default:
		ch.ClusterNetworkPolicies = put(&w.clusterPolicies, m.clusterPolicy(), func(p *cluster.ClusterNetworkPolicy) cluster.Key { return p.Key() }, keep)
	}
	return ch
}

// join puts one lot of changes after another. They may be of the same objects,
// which a real State never does to the compiler.
func join(a, b *cluster.Changes) {
	a.Namespaces = append(a.Namespaces, b.Namespaces...)
	a.Nodes = append(a.Nodes, b.Nodes...)
	a.Pods = append(a.Pods, b.Pods...)
	a.NetworkPolicies = append(a.NetworkPolicies, b.NetworkPolicies...)
	a.ClusterNetworkPolicies = append(a.ClusterNetworkPolicies, b.ClusterNetworkPolicies...)
}

// all returns the changes that make the world from nothing.
func (w *world) all() *cluster.Changes {
	return &cluster.Changes{
		Namespaces: added(w.namespaces), Nodes: added(w.nodes), Pods: added(w.pods),
		NetworkPolicies: added(w.policies), ClusterNetworkPolicies: added(w.clusterPolicies),
	}
}

func added[T any](list []*T) []cluster.Change[T] {
	var out []cluster.Change[T]
	for _, o := range list {
		out = append(out, cluster.Change[T]{New: o})
	}
	return out
}
