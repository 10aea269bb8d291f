package fabric

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// movingService is all that changes of the service, as its users understand it.
type movingService struct {
	exists, balancer       bool // and the balancer has given it an address
	port, nodePort, target uint16
	external, internal     bool // policies Local
	closed                 bool // the source ranges are those of nobody here
	affinity               bool
	endpoints              []movingEndpoint
}

type movingEndpoint struct {
	pod                         string
	ready, serving, terminating bool
}

// serviceFlow is who sends from which port to where.
type serviceFlow struct {
	from string
	port uint16
	to   netip.AddrPort
	udp  bool
}

// serviceStorm is a world in which one service changes, and a model of what that means:
// kube-proxy's rules of endpoints (pkg/proxy/topology.go), and what becomes of
// connections (pkg/proxy/conntrack).
type serviceStorm struct {
	*world
	r       *rand.Rand
	service movingService
	conns   map[serviceFlow]netip.AddrPort // the backends that flows were given
	log     []string
}

// TestServiceStorm: whatever changes of a service, and in whatever order, each
// packet of many clients goes where it should: connections stay, datagrams move
// when their backend no longer serves, new ones go to any endpoint that policy
// allows, and to none where there is none.
func TestServiceStorm(t *testing.T) {
	met := map[string]int{}
	inFamilies(t, agent.ServiceConfig{ExternalClient: agent.MasqueradeClient}, func(w *world) {
		for seed := range uint64(40) {
			w := newWorld(w.T, agent.ServiceConfig{ExternalClient: agent.MasqueradeClient}, w.v6)
			s := &serviceStorm{world: w, r: rand.New(rand.NewPCG(seed, 1)), conns: map[serviceFlow]netip.AddrPort{},
				service: movingService{exists: true, balancer: true, port: 80, nodePort: 30080, target: 8080}}
			s.publish()
			for range 120 {
				w.now += 100 * time.Millisecond
				if s.r.IntN(3) == 0 {
					s.change()
				} else if what, good := s.packet(); good {
					met[what]++
				} else {
					t.Fatalf("seed %d: %s\n%s", seed, what, s.log[max(0, len(s.log)-20):])
				}
			}
		}
	})
	for _, what := range []string{"new", "rejected", "silent", "known TCP", "known UDP", "moved"} {
		if met[what] == 0 {
			t.Errorf("nothing was %s: %v", what, met)
		}
	}
}

// change changes one thing.
func (s *serviceStorm) change() {
	v, one := &s.service, func(n int) bool { return s.r.IntN(n) == 0 }
	switch s.r.IntN(10) {
	case 0:
		v.exists = !one(3)
	case 1:
		v.balancer = !one(4)
	case 2:
		v.port = 80 + uint16(s.r.IntN(2))
	case 3:
		v.nodePort = 30080 + uint16(s.r.IntN(2))
	case 4:
		v.target = 8080 + uint16(s.r.IntN(2))
	case 5:
		v.external, v.internal = one(2), one(3)
	case 6:
		v.closed, v.affinity = one(4), one(2)
	default:
		v.endpoints = nil
		for _, pod := range []string{"b", "c", "d", "e"} {
			switch s.r.IntN(6) {
			case 0, 1:
				v.endpoints = append(v.endpoints, movingEndpoint{pod, true, true, false})
			case 2:
				v.endpoints = append(v.endpoints, movingEndpoint{pod, false, true, !one(4)})
			case 3:
				v.endpoints = append(v.endpoints, movingEndpoint{pod, false, false, one(2)})
			}
		}
	}
	s.publish()
}

func (s *serviceStorm) publish() {
	v := &s.service
	s.log = append(s.log, fmt.Sprintf("\n%+v", *v))
	sl := &cluster.EndpointSlice{
		Meta:   cluster.Meta{Namespace: "x", Name: "web-1", Labels: map[string]string{cluster.LabelServiceName: "web"}},
		Family: cluster.FamilyOf(s.ip("vip")),
		Ports:  []cluster.EndpointPort{{Name: "t", Protocol: packet.ProtoTCP, Port: v.target}, {Name: "u", Protocol: packet.ProtoUDP, Port: v.target}},
	}
	for _, e := range v.endpoints {
		sl.Endpoints = append(sl.Endpoints, cluster.Endpoint{
			Addresses: []netip.Addr{s.ip(e.pod)}, Node: s.pods[e.pod].Node.Name, Ready: e.ready, Serving: e.serving, Terminating: e.terminating,
		})
	}
	if !v.exists {
		s.follow(nil, []*cluster.EndpointSlice{sl})
		return
	}
	svc := &cluster.Service{
		Meta: cluster.Meta{Namespace: "x", Name: "web"}, Type: cluster.ServiceLoadBalancer, ClusterIPs: []netip.Addr{s.ip("vip")},
		ExternalLocal: v.external, InternalLocal: v.internal,
		Ports: []cluster.ServicePort{
			{Name: "t", Protocol: packet.ProtoTCP, Port: v.port, NodePort: v.nodePort}, {Name: "u", Protocol: packet.ProtoUDP, Port: v.port, NodePort: v.nodePort},
		},
	}
	if v.balancer {
		svc.Ingress = []cluster.LBIngress{{IP: s.ip("lb")}}
	}
	if v.closed {
		svc.SourceRanges = []netip.Prefix{netip.PrefixFrom(s.ip("stranger"), s.ip("stranger").BitLen())}
	}
	if v.affinity {
		svc.Affinity = time.Minute
	}
	s.follow([]*cluster.Service{svc}, []*cluster.EndpointSlice{sl})
}

// served reports whether the service is at that address and port, and whether
// that is its cluster IP.
func (s *serviceStorm) served(at netip.AddrPort) (yes, internal bool) {
	v := &s.service
	internal = at == s.at("vip", v.port)
	return v.exists && (internal || v.balancer && at == s.at("lb", v.port) || at == s.at("n1", v.nodePort)), internal
}

// stays reports whether a known flow stays with its backend.
func (s *serviceStorm) stays(f serviceFlow, backend netip.AddrPort) bool {
	if !f.udp {
		return true
	}
	yes, _ := s.served(f.to)
	return yes && slices.ContainsFunc(s.service.endpoints, func(e movingEndpoint) bool {
		return e.serving && s.at(e.pod, s.service.target) == backend
	})
}

// wants says which backends a new flow may get; with none, whether it is told.
func (s *serviceStorm) wants(f serviceFlow) (backends []netip.AddrPort, told bool) {
	v := &s.service
	yes, internal := s.served(f.to)
	if !yes {
		// An unallocated address of the range is the only one that is silent.
		return nil, v.exists || f.to.Addr() != s.ip("vip")
	}
	if v.closed && f.to.Addr() == s.ip("lb") {
		return nil, false
	}
	all, local := s.endpoints(""), s.endpoints("n1")
	if internal && v.internal || !internal && v.external && f.from == "client" {
		return local, len(all) == 0
	}
	return all, true
}

// endpoints are those that are used, of a node or, without one, of all.
func (s *serviceStorm) endpoints(node string) (out []netip.AddrPort) {
	for _, use := range []func(e *movingEndpoint) bool{
		func(e *movingEndpoint) bool { return e.ready },
		func(e *movingEndpoint) bool { return e.serving && e.terminating },
	} {
		for i := range s.service.endpoints {
			if e := &s.service.endpoints[i]; use(e) && (node == "" || s.pods[e.pod].Node.Name == node) {
				out = append(out, s.at(e.pod, s.service.target))
			}
		}
		if out != nil {
			return out
		}
	}
	return nil
}

// packet sends a packet of some flow, and says what it met, or what is wrong.
func (s *serviceStorm) packet() (what string, good bool) {
	tos := []netip.AddrPort{s.at("vip", 80), s.at("lb", 80), s.at("n1", 30080), s.at("vip", 81), s.at("n1", 30081)}
	f := serviceFlow{from: []string{"a", "client"}[s.r.IntN(2)], to: tos[s.r.IntN(len(tos))], udp: s.r.IntN(2) == 0}
	f.port = 1000 + uint16(s.r.IntN(2))
	backend, known := s.conns[f]
	what = "new"
	if known && !s.stays(f, backend) {
		known, what = false, "moved"
		delete(s.conns, f)
	}
	ask := seg{src: s.at(f.from, f.port), dst: f.to, udp: f.udp, flags: "S", payload: []byte("?")}
	if known {
		ask.flags = "A"
	}
	s.send(f.from, ask)
	who, got := s.arrived()
	s.log = append(s.log, fmt.Sprintf("\n%+v, known to be with %v: %q got %v", f, backend, who, got.dst))
	wants, told := s.wants(f)
	switch {
	case known && f.udp:
		what, good = "known UDP", got.dst == backend
	case known:
		what, good = "known TCP", got.dst == backend
	case len(wants) > 0:
		if good = slices.Contains(wants, got.dst); good {
			s.conns[f] = got.dst
		}
	case told:
		what, good = "rejected", who == f.from
	default:
		what, good = "silent", who == ""
	}
	if good && (known || len(wants) > 0) {
		s.send(who, got.reverse("SA"))
		if back, answer := s.arrived(); back != f.from || answer.src != f.to || answer.dst != ask.src {
			return fmt.Sprintf("the answer of %s went to %s as %v -> %v", who, back, answer.src, answer.dst), false
		}
	}
	if !good {
		what = fmt.Sprintf("%s: to %s at %v; wants %v, told %v", what, who, got.dst, wants, told)
	}
	return what, good
}

// arrived returns who got the one packet that came out, if any, and it.
func (s *serviceStorm) arrived() (who string, got arrival) {
	for name, list := range s.all() {
		if who != "" || len(list) != 1 {
			s.Fatalf("several packets came out: %s", s.log)
		}
		who, got = name, list[0]
	}
	return who, got
}
