package control

import (
	"iter"
	"net/netip"
	"slices"
	"strings"

	"vswitch/vswitch/cluster"
)

// endpointsIn yields all endpoints that are given, and what gives them.
func endpointsIn(o *cluster.Objects) iter.Seq2[*cluster.Endpoint, *cluster.Meta] {
	return func(yield func(*cluster.Endpoint, *cluster.Meta) bool) {
		each := func(list []cluster.Endpoint, m *cluster.Meta) bool {
			for i := range list {
				if !yield(&list[i], m) {
					return false
				}
			}
			return true
		}
		for _, v := range o.EndpointSlices {
			if !each(v.Endpoints, &v.Meta) {
				return
			}
		}
		for _, v := range o.Endpoints {
			for _, sub := range v.Subsets {
				if !each(sub.Ready, &v.Meta) || !each(sub.NotReady, &v.Meta) {
					return
				}
			}
		}
	}
}

// impliedPods makes the pods that stand behind endpoints, unless somebody has
// their address, or they name a pod that has none yet. Endpoints that name
// their node come first, since the node's range follows from them; unplaced are
// the others. Those stand on the node whose range holds them, else on the first
// by name: only for packets to have an end, the endpoint itself is local nowhere.
func (s *static) impliedPods(o *cluster.Objects, unplaced bool) {
	owned := s.owned()
	unset := map[cluster.Key]bool{} // pods without an address of their own
	for p := range s.tx.Own().Pods.All() {
		if len(p.IPs) == 0 && !p.HostNetwork {
			unset[p.Key()] = true
		}
	}
	for e, m := range endpointsIn(o) {
		if (e.Node == "") != unplaced || len(e.Addresses) == 0 || owned[e.Addresses[0]] {
			continue
		}
		a := e.Addresses[0]
		own := s.tx.Own().Pod(e.Pod)
		named := own != nil && unset[e.Pod]
		node := e.Node
		if unplaced && named {
			node = own.Node
		}
		if node == "" {
			node = s.nodeAt(a)
		}
		if node == "" {
			return // a cluster without nodes
		}
		owned[a] = true
		s.given[node] = append(s.given[node], a)
		if named && (own.Node == "" || own.Node == node) {
			p := *own
			p.Node, p.IPs = node, append(slices.Clip(own.IPs), a)
			s.put(&p)
			continue
		}
		p := &cluster.Pod{Node: node, IPs: []netip.Addr{a}, Phase: cluster.PodRunning, Ready: e.Ready}
		p.Namespace, p.Source = m.Namespace, m.Source
		p.Name = "endpoint-" + strings.NewReplacer(".", "-", ":", "-").Replace(a.String())
		for s.tx.Own().Pod(p.Key()) != nil {
			p.Name += "-x"
		}
		s.create(&p.Meta)
		s.put(p)
	}
}

// owned are the addresses of nodes and pods.
func (s *static) owned() map[netip.Addr]bool {
	owned := map[netip.Addr]bool{}
	for n := range s.tx.Own().Nodes.All() {
		for _, a := range slices.Concat(n.Addresses, n.ExtraAddresses) {
			owned[a] = true
		}
	}
	for p := range s.tx.Own().Pods.All() {
		for _, a := range p.IPs {
			owned[a] = true
		}
	}
	return owned
}

// nodeAt is the node in whose range of pods a lies, else the first by name.
func (s *static) nodeAt(a netip.Addr) (name string) {
	for n := range s.tx.Own().Nodes.All() {
		if name == "" {
			name = n.Name
		}
		if slices.ContainsFunc(n.PodCIDRs, func(r netip.Prefix) bool { return r.Contains(a) }) {
			return n.Name
		}
	}
	return name
}
