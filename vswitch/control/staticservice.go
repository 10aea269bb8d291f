package control

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"vswitch/vswitch/cluster"
)

// services puts services and their endpoints as they are given.
func (s *static) services(o *cluster.Objects) error {
	s.index.claims.lenient = true
	rules := familyRules{have: familiesOf(&s.cfg), lenient: true}
	for _, v := range o.Services {
		m := *v
		s.known(&m.Meta)
		m.Ports = slices.Clone(v.Ports)
		if m.Type == "" {
			m.Type = cluster.ServiceClusterIP
		}
		if f := rules.complete(&m); f != nil {
			text := fmt.Sprintf("Service %s: %s: %s", m.Key(), f.field, f.message)
			if m.Source != "" {
				text = m.Source + ": " + text
			}
			return &conflictError{text}
		}
		s.putService(&m)
	}
	for _, v := range o.EndpointSlices {
		m := *v
		s.known(&m.Meta)
		m.Labels = written(v.Labels)
		s.putEndpointSlice(&m)
	}
	for _, v := range o.Endpoints {
		m := *v
		s.known(&m.Meta)
		s.putEndpoints(&m)
	}
	return nil
}

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

// impliedPods makes the pods that stand behind endpoints on a node, unless
// somebody has their address, or they name a pod that has none yet.
func (s *static) impliedPods(o *cluster.Objects) {
	owned := map[netip.Addr]bool{}
	for n := range s.tx.Own().Nodes.All() {
		for _, a := range slices.Concat(n.Addresses, n.ExtraAddresses) {
			owned[a] = true
		}
	}
	unset := map[cluster.Key]bool{} // pods without an address of their own
	for p := range s.tx.Own().Pods.All() {
		for _, a := range p.IPs {
			owned[a] = true
		}
		if len(p.IPs) == 0 && !p.HostNetwork {
			unset[p.Key()] = true
		}
	}
	for e, m := range endpointsIn(o) {
		if e.Node == "" || len(e.Addresses) == 0 || owned[e.Addresses[0]] {
			continue
		}
		a := e.Addresses[0]
		owned[a] = true
		s.given[e.Node] = append(s.given[e.Node], a)
		if own := s.tx.Own().Pod(e.Pod); own != nil && unset[e.Pod] && (own.Node == "" || own.Node == e.Node) {
			p := *own
			p.Node, p.IPs = e.Node, append(slices.Clip(own.IPs), a)
			s.putPod(&p)
			continue
		}
		p := &cluster.Pod{Node: e.Node, IPs: []netip.Addr{a}, Phase: cluster.PodRunning, Ready: e.Ready}
		p.Namespace, p.Source = m.Namespace, m.Source
		p.Name = "endpoint-" + strings.NewReplacer(".", "-", ":", "-").Replace(a.String())
		for s.tx.Own().Pod(p.Key()) != nil {
			p.Name += "-x"
		}
		s.create(&p.Meta)
		s.putPod(p)
	}
}
