package dns

import (
	"math/rand/v2"
	"net/netip"
	"slices"

	wire "github.com/miekg/dns"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

var protocols = map[string]uint8{"_tcp": packet.ProtoTCP, "_udp": packet.ProtoUDP, "_sctp": packet.ProtoSCTP}

// serves reports whether the service has a named port of the protocol.
func (s *service) serves(proto string) bool {
	return s.hasPort(func(name string, p uint8) bool { return name != "" && p == protocols[proto] })
}

func (s *service) hasPort(is func(name string, proto uint8) bool) bool {
	if !s.headless() {
		return slices.ContainsFunc(s.obj.Ports, func(p cluster.ServicePort) bool { return is(p.Name, p.Protocol) })
	}
	return slices.ContainsFunc(s.parts, func(p *part) bool {
		return len(p.ready) > 0 && slices.ContainsFunc(p.ports, func(e cluster.EndpointPort) bool { return e.Port != 0 && is(e.Name, e.Protocol) })
	})
}

// port answers for a named port of a service.
func (q *lookup) port(s *service, port, proto string) bool {
	is := func(name string, p uint8) bool { return name != "" && name == port && p == protocols[proto] }
	if !s.hasPort(is) {
		return false
	}
	q.ports(s, is)
	return true
}

// ports answers with those ports of a service that are meant.
func (q *lookup) ports(s *service, is func(string, uint8) bool) {
	switch {
	case !q.wants(wire.TypeSRV):
		return
	case s.headless():
		q.endpointPorts(s, is)
		return
	}
	target := q.zone.nameOf(s.key)
	var numbers []uint16 // TCP and UDP may have the same one
	for _, p := range s.obj.Ports {
		if is(p.Name, p.Protocol) && !slices.Contains(numbers, p.Port) {
			numbers = append(numbers, p.Port)
			q.srv(target, p.Port)
		}
	}
	if len(numbers) == 0 {
		return
	}
	for _, a := range s.obj.ClusterIPs {
		q.a.Extra = append(q.a.Extra, q.address(target, a))
	}
}

// endpointPorts answers with the ports of a headless service's endpoints: their
// own, which are not always the service's, as nothing translates them.
func (q *lookup) endpointPorts(s *service, is func(string, uint8) bool) {
	numbers := map[*part][]uint16{}
	for _, p := range s.parts {
		for _, e := range p.ports {
			if e.Port != 0 && is(e.Name, e.Protocol) {
				numbers[p] = append(numbers[p], e.Port)
			}
		}
	}
	type target struct {
		name string
		port uint16
	}
	type glue struct {
		name string
		addr netip.Addr
	}
	of, domain := map[target]bool{}, q.zone.nameOf(s.key)
	known := map[glue]bool{}
	before := len(q.a.Answer) // a CNAME that led here stays in front
	q.some(s, func(p *part) bool { return len(numbers[p]) > 0 }, func(p *part, e *endpoint) {
		if len(q.a.Answer) > q.max { // of several ports
			q.a.More = true
			return
		}
		name := e.label() + "." + domain
		for _, n := range numbers[p] {
			if t := (target{name, n}); !of[t] {
				of[t] = true
				q.srv(name, n)
			}
		}
		if g := (glue{name, e.addr}); fits(name) && !known[g] {
			known[g] = true
			q.a.Extra = append(q.a.Extra, q.address(name, e.addr))
		}
	})
	list := q.a.Answer[before:]
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}
