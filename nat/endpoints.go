package nat

import (
	"net/netip"
	"slices"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// Self is the node that services are compiled for.
type Self struct{ Name, Zone string }

// endpoint is a cluster.Endpoint at one port of its slice.
type endpoint struct {
	Backend
	ready, serving, terminating bool
	zones, nodes                []string
}

// endpointsOf returns the endpoints of one port of a service in one family,
// each once, in order.
func endpointsOf(sp *cluster.ServicePort, fam cluster.IPFamily, list []*cluster.EndpointSlice, self *Self) []endpoint {
	var out []endpoint
	for _, sl := range list {
		if sl.Family != fam || has(sl.Labels, cluster.LabelHeadless) {
			continue
		}
		for _, p := range sl.Ports {
			if p.Name != sp.Name || p.Protocol != sp.Protocol || p.Port == 0 {
				continue
			}
			for i := range sl.Endpoints {
				e := &sl.Endpoints[i]
				if len(e.Addresses) == 0 || cluster.FamilyOf(e.Addresses[0]) != fam {
					continue
				}
				b := Backend{Addr: packet.AddrFrom(e.Addresses[0]), Port: p.Port, Local: e.Node == self.Name && self.Name != "", Placed: e.Node != ""}
				b.ID = uint32(b.hash())
				out = append(out, endpoint{
					Backend: b,
					ready:   e.Ready, serving: e.Serving, terminating: e.Terminating,
					zones: e.ForZones, nodes: e.ForNodes,
				})
			}
		}
	}
	// While an endpoint moves from one slice to another it may be in both.
	slices.SortStableFunc(out, func(a, b endpoint) int {
		if c := a.compare(b.Backend); c != 0 {
			return c
		}
		return b.worth() - a.worth()
	})
	each := out[:0]
	for i := range out {
		if n := len(each); n > 0 && each[n-1].compare(out[i].Backend) == 0 {
			// Where it is does not depend on how it is; one of them may not say.
			each[n-1].Local = each[n-1].Local || out[i].Local
			each[n-1].Placed = each[n-1].Placed || out[i].Placed
			continue
		}
		each = append(each, out[i])
	}
	return each
}

// worth orders what two slices say of one endpoint.
func (e *endpoint) worth() int {
	switch {
	case e.ready:
		return 2
	case e.serving:
		return 1
	}
	return 0
}

func has(labels map[string]string, key string) bool {
	_, ok := labels[key]
	return ok
}

// assign fills in a service's backends as kube-proxy categorizes endpoints
// (pkg/proxy/topology.go; KEP-1669, KEP-2433, KEP-3015, KEP-4444): those that
// are ready, or if there are none, those that are on their way out and still
// serve; of all, where policy is Cluster, those that hints prefer.
func (s *Service) assign(list []endpoint, self *Self) {
	prefer, why := preference(list, self)
	s.Cluster, s.why, s.whyLocal = pick(list, func(e *endpoint) bool { return e.ready && prefer(e) }), why, 0
	if s.Cluster == nil {
		s.Cluster, s.why = pick(list, func(e *endpoint) bool { return e.serving && e.terminating }), Ending
	}
	s.Local = pick(list, func(e *endpoint) bool { return e.Local && e.ready })
	if s.Local == nil {
		s.Local, s.whyLocal = pick(list, func(e *endpoint) bool { return e.Local && e.serving && e.terminating }), Ending
	}
	s.serving = pick(list, func(e *endpoint) bool { return e.serving || e.ready })
	s.leaving = pick(list, func(e *endpoint) bool { return !e.serving && !e.ready })
}

func pick(list []endpoint, which func(*endpoint) bool) []Backend {
	var out []Backend
	for i := range list {
		if which(&list[i]) {
			out = append(out, list[i].Backend)
		}
	}
	return out
}

// preference returns which endpoints the node prefers: those that hints give to
// it, else those that hints give to its zone, else all. Hints count only if
// every ready endpoint has them.
func preference(list []endpoint, self *Self) (which func(*endpoint) bool, why Choice) {
	mine := func(hints []string, name string) bool { return name != "" && slices.Contains(hints, name) }
	forNode := func(e *endpoint) bool { return mine(e.nodes, self.Name) }
	forZone := func(e *endpoint) bool { return mine(e.zones, self.Zone) }
	nodes, zones, anyNode, anyZone := true, true, false, false
	for i := range list {
		if e := &list[i]; e.ready {
			nodes, zones = nodes && len(e.nodes) > 0, zones && len(e.zones) > 0
			anyNode, anyZone = anyNode || forNode(e), anyZone || forZone(e)
		}
	}
	switch {
	case nodes && anyNode:
		return forNode, OfNode
	case zones && anyZone:
		return forZone, OfZone
	}
	return func(*endpoint) bool { return true }, OfAll
}

// prefixesOf returns source ranges as frontends have them: nil for everybody.
func prefixesOf(ranges []netip.Prefix, fam cluster.IPFamily) []netip.Prefix {
	if len(ranges) == 0 {
		return nil
	}
	out := []netip.Prefix{}
	for _, p := range ranges {
		if cluster.FamilyOf(p.Addr()) == fam {
			out = append(out, p)
		}
	}
	return out
}
