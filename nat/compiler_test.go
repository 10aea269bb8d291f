package nat

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// universe is where the services of the model test may be, and a bit more.
var universe = struct {
	addrs  []netip.Addr
	ports  []uint16
	protos []uint8
}{
	addrs: func() (out []netip.Addr) {
		for _, s := range strings.Fields("10.96.0.1 10.96.0.2 10.96.0.3 10.96.0.9 10.97.0.1 192.0.2.1 192.0.2.2 172.29.0.1 172.29.0.2 172.29.0.3 fd00:96::1 fd00:96::2 fd00:96::9 2001:db8::1") {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}(),
	ports:  []uint16{80, 81, 30080, 30081},
	protos: []uint8{packet.ProtoTCP, packet.ProtoUDP},
}

// describeServices says what happens to everybody at every place of the universe.
func describeServices(s *Services) string {
	var b strings.Builder
	src := packet.AddrFrom(netip.MustParseAddr("198.51.100.7"))
	for _, a := range universe.addrs {
		for proto, port := range s.At(a) {
			fmt.Fprint(&b, a, " serves ", proto, " ", port, "\n")
		}
		for _, port := range universe.ports {
			for _, proto := range universe.protos {
				for _, ingress := range []bool{false, true} {
					t := packet.Tuple{Src: src, Dst: packet.AddrFrom(a), DstPort: port, Proto: proto}
					f, m := s.Lookup(&t, ingress)
					fmt.Fprint(&b, a, " ", port, " ", proto, " ", ingress, ": ", m)
					if f != nil {
						v := f.Service
						fmt.Fprint(&b, " ", v.Name, v.ID, v.Affinity, f.Kind, f.Local, v.sources, v.Cluster, v.Local, v.serving, v.leaving, v.maglev != nil)
					}
					b.WriteByte('\n')
				}
			}
		}
	}
	return b.String()
}

func randomService(r *rand.Rand, name string) (*cluster.Service, []*cluster.EndpointSlice) {
	pick := func(p int) bool { return r.IntN(p) == 0 }
	svc := &cluster.Service{
		Meta: cluster.Meta{Namespace: "x", Name: name, Created: time.Unix(int64(r.IntN(3)), 0)},
		Type: cluster.ServiceClusterIP, ClusterIPs: []netip.Addr{universe.addrs[r.IntN(3)]},
		ExternalLocal: pick(2), InternalLocal: pick(2), Affinity: time.Duration(r.IntN(2)) * time.Hour, Headless: pick(8),
	}
	if pick(2) {
		svc.ClusterIPs = append(svc.ClusterIPs, universe.addrs[10+r.IntN(2)])
	}
	if pick(8) {
		svc.Labels = map[string]string{cluster.LabelServiceProxy: "other"}
	}
	if pick(4) {
		svc.Annotations = map[string]string{AnnotationBalance: "maglev"}
	}
	if pick(2) {
		svc.ExternalIPs = []netip.Addr{universe.addrs[5+r.IntN(3)]}
	}
	if pick(2) {
		svc.Ingress = []cluster.LBIngress{{IP: universe.addrs[5+r.IntN(2)], Proxy: pick(3)}}
		svc.SourceRanges = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}[:r.IntN(2)]
	}
	for i := range 1 + r.IntN(2) {
		p := cluster.ServicePort{Name: fmt.Sprint("p", i), Protocol: universe.protos[r.IntN(2)], Port: universe.ports[i]}
		if pick(2) {
			p.NodePort = universe.ports[2+i]
		}
		svc.Ports = append(svc.Ports, p)
	}
	var list []*cluster.EndpointSlice
	for k := range r.IntN(3) {
		sl := &cluster.EndpointSlice{Meta: cluster.Meta{Namespace: "x", Name: fmt.Sprint(name, k)}, Family: cluster.IPv4}
		for _, p := range svc.Ports {
			sl.Ports = append(sl.Ports, cluster.EndpointPort{Name: p.Name, Protocol: p.Protocol, Port: 8080})
		}
		for range r.IntN(4) {
			node := 1 + r.IntN(3)
			sl.Endpoints = append(sl.Endpoints, cluster.Endpoint{
				Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, byte(node), byte(r.IntN(4))})},
				Ready:     pick(2), Serving: pick(2), Terminating: pick(2), Node: fmt.Sprint("n", node),
			})
		}
		list = append(list, sl)
	}
	return svc, list
}

// TestCompilerModel: whatever the order of changes, the services are those of a
// compiler that has only seen the last of each; and in the end nothing is left.
// What was returned before never changes.
func TestCompilerModel(t *testing.T) {
	type version struct {
		svc  *cluster.Service
		list []*cluster.EndpointSlice
	}
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 1))
		self := Self{Name: "n1"}
		c, model := NewCompiler(self), map[string]version{}
		var own, peers []netip.Addr
		var ranges []netip.Prefix
		var old Services
		var was string
		fresh := func() *Compiler {
			f := NewCompiler(self)
			f.SetRanges(ranges)
			f.SetNodes(own, peers)
			for _, name := range []string{"d", "b", "a", "c"} { // the order must not matter
				if v, ok := model[name]; ok {
					f.Set(v.svc, v.list)
				}
			}
			return f
		}
		for step := range 300 {
			name := string(rune('a' + r.IntN(4)))
			switch r.IntN(10) {
			case 0:
				own, peers = nil, nil
				for _, a := range universe.addrs[7:10] {
					switch r.IntN(3) {
					case 0:
						own = append(own, a)
					case 1:
						peers = append(peers, a)
					}
				}
				c.SetNodes(own, peers)
			case 1:
				ranges = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/112")}[:r.IntN(3)]
				c.SetRanges(ranges)
			case 2, 3, 4:
				c.Delete(cluster.Key{Namespace: "x", Name: name})
				delete(model, name)
			default:
				svc, list := randomService(r, name)
				model[name] = version{svc, list}
				c.Set(svc, list)
			}
			now := c.Services()
			if got, want := describeServices(&now), describeServices(ptr(fresh().Services())); got != want {
				t.Fatalf("seed %d, step %d:\n%s", seed, step, firstDifference(got, want))
			}
			if step == 100 {
				old, was = now, describeServices(&now)
			}
		}
		if describeServices(&old) != was {
			t.Error("services that were published have changed")
		}
		for _, name := range []string{"a", "b", "c", "d"} {
			c.Delete(cluster.Key{Namespace: "x", Name: name})
		}
		c.SetNodes(nil, nil)
		c.SetRanges(nil)
		s := c.Services()
		if n := s.addrs.Size(); n != 0 || s.fronts.root != nil || len(c.claims)+len(c.services)+len(c.nodes) != 0 {
			t.Errorf("seed %d: %d addresses, frontends %v, claims %v, services %v are left", seed, n, s.fronts, c.claims, c.services)
		}
	}
}

func ptr[T any](v T) *T { return &v }

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range g {
		if g[i] != w[i] {
			return "got  " + g[i] + "\nwant " + w[i]
		}
	}
	return ""
}

// TestAt: what is served at an address is found by it, whatever kind of address
// it is, and node ports are not among it.
func TestAt(t *testing.T) {
	node, other := universe.addrs[7], universe.addrs[5]
	c := NewCompiler(Self{Name: "n1"})
	c.SetNodes([]netip.Addr{node}, nil)
	at := func(want string) {
		t.Helper()
		s := c.Services()
		var got []string
		for proto, port := range s.At(node) {
			got = append(got, fmt.Sprint(proto, ":", port))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("served at %s: %v, want %s", node, got, want)
		}
	}
	at("")
	a := &cluster.Service{
		Meta: cluster.Meta{Namespace: "x", Name: "a"}, ClusterIPs: universe.addrs[:1], ExternalIPs: []netip.Addr{node, other},
		Ports: []cluster.ServicePort{{Name: "a", Protocol: 17, Port: 53, NodePort: 30053}, {Name: "b", Protocol: 6, Port: 80, NodePort: 30080}},
	}
	c.Set(a, nil)
	at("6:80 17:53")
	b := &cluster.Service{
		Meta: cluster.Meta{Namespace: "x", Name: "b"}, ClusterIPs: universe.addrs[1:2], Ingress: []cluster.LBIngress{{IP: node}, {IP: other, Proxy: true}},
		Ports: []cluster.ServicePort{{Protocol: 132, Port: 5060}},
	}
	c.Set(b, nil)
	at("6:80 17:53 132:5060")
	b.Ingress[0].Proxy = true
	c.Set(b, nil)
	a.Ports = a.Ports[1:]
	c.Set(a, nil)
	at("6:80")
	c.Delete(a.Key())
	at("")
}

// TestHealthCheck: terminating endpoints do not count, and an endpoint with
// several ports, or both families, counts once.
func TestHealthCheck(t *testing.T) {
	svc := &cluster.Service{
		Meta: cluster.Meta{Namespace: "x", Name: "a"}, Type: cluster.ServiceLoadBalancer, ExternalLocal: true, HealthCheckPort: 31000,
		ClusterIPs: []netip.Addr{universe.addrs[0], universe.addrs[10]},
		Ports:      []cluster.ServicePort{{Name: "a", Protocol: 6, Port: 80}, {Name: "b", Protocol: 6, Port: 81}},
	}
	endpoint := func(last byte, node string, e cluster.Endpoint) cluster.Endpoint {
		e.Addresses, e.Node = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, last})}, node
		return e
	}
	sl := &cluster.EndpointSlice{
		Family: cluster.IPv4, Ports: []cluster.EndpointPort{{Name: "a", Protocol: 6, Port: 80}, {Name: "b", Protocol: 6, Port: 81}},
		Endpoints: []cluster.Endpoint{
			endpoint(1, "n1", cluster.Endpoint{Ready: true, Serving: true}),
			endpoint(2, "n1", cluster.Endpoint{Serving: true, Terminating: true}),
			endpoint(3, "n1", cluster.Endpoint{Ready: true, Serving: true}),
			endpoint(4, "n2", cluster.Endpoint{Ready: true, Serving: true}),
		},
	}
	six := &cluster.EndpointSlice{Family: cluster.IPv6, Ports: sl.Ports, Endpoints: []cluster.Endpoint{
		{Addresses: []netip.Addr{netip.MustParseAddr("fd00::1")}, Node: "n1", Ready: true, Serving: true},
		{Addresses: []netip.Addr{netip.MustParseAddr("fd00::3")}, Node: "n1", Ready: true, Serving: true},
	}}
	c := NewCompiler(Self{Name: "n1"})
	c.Set(svc, []*cluster.EndpointSlice{sl, six})
	if port, n := c.HealthCheck(svc.Key()); port != 31000 || n != 2 {
		t.Errorf("port %d, %d endpoints; want 31000, 2", port, n)
	}
	c.Delete(svc.Key())
	if port, n := c.HealthCheck(svc.Key()); port != 0 || n != 0 {
		t.Errorf("port %d, %d endpoints of a service that is gone", port, n)
	}
}

// TestLookupDoesNotAllocate: nor do the choice and what goes with it.
func TestLookupDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	svc := &cluster.Service{
		Meta: cluster.Meta{Name: "a", Annotations: map[string]string{AnnotationBalance: "maglev"}}, ClusterIPs: universe.addrs[:1],
		Ports: []cluster.ServicePort{{Protocol: 6, Port: 80}}, Affinity: time.Hour,
		Ingress: []cluster.LBIngress{{IP: universe.addrs[5]}}, SourceRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
	}
	sl := &cluster.EndpointSlice{Family: cluster.IPv4, Ports: []cluster.EndpointPort{{Protocol: 6, Port: 80}}}
	for i := range byte(50) {
		sl.Endpoints = append(sl.Endpoints, cluster.Endpoint{Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 0, i})}, Ready: true, Serving: true})
	}
	c := NewCompiler(Self{Name: "n1"})
	c.Set(svc, []*cluster.EndpointSlice{sl})
	s := c.Services()
	var a Affinities
	n := uint16(0)
	for name, dst := range map[string]netip.Addr{"cluster IP": universe.addrs[0], "load balancer": universe.addrs[5]} {
		tuple := v4(packet.ProtoTCP, [4]byte{10, 0, 0, 1}, 0, [4]byte{}, 80)
		tuple.Dst = packet.AddrFrom(dst)
		a.Choose(&Service{}, []Backend{{}}, &tuple, 0, 1) // makes the map
		if got := testing.AllocsPerRun(100, func() {
			n++
			tuple.SrcPort = n
			f, m := s.Lookup(&tuple, false)
			if m != Matched {
				t.Fatal(m)
			}
			list, _ := f.Backends(FromPod, &tuple.Src)
			if f.Service.Choose(list, &tuple, uint64(n)<<40) == nil {
				t.Fatal("none")
			}
			b := a.Choose(f.Service, list, &tuple, uint64(n)<<40, 1)
			if f.Masquerades(FromPod, &tuple.Src, b) != (f.Kind != ClusterIP) || f.Service.Fate(b.Addr, b.Port) != Serving || f.Service.FateOf(b.ID) != Serving {
				t.Fatal("wrong")
			}
		}); got != 0 {
			t.Errorf("%s: %v allocations", name, got)
		}
	}
}

// TestFate tells endpoints that serve, that leave, and that are gone.
func TestFate(t *testing.T) {
	list := []endpoint{
		{Backend: Backend{Addr: addr4([4]byte{10, 0, 0, 1}), Port: 80, ID: 1}, ready: true},
		{Backend: Backend{Addr: addr4([4]byte{10, 0, 0, 2}), Port: 80, ID: 2}, serving: true, terminating: true},
		{Backend: Backend{Addr: addr4([4]byte{10, 0, 0, 3}), Port: 80, ID: 3}, terminating: true},
	}
	var s Service
	s.assign(list, &Self{})
	for i, want := range []Fate{Serving, Serving, Leaving, Gone} {
		a := addr4([4]byte{10, 0, 0, byte(i + 1)})
		if got := s.Fate(a, 80); got != want {
			t.Errorf("endpoint %d: %d, want %d", i+1, got, want)
		}
		if got := s.FateOf(uint32(i + 1)); got != want {
			t.Errorf("ID %d: %d, want %d", i+1, got, want)
		}
		if got := s.Fate(a, 81); got != Gone {
			t.Errorf("another port of endpoint %d: %d", i+1, got)
		}
	}
	if !slices.Equal(s.Cluster, []Backend{list[0].Backend}) {
		t.Errorf("cluster is %v", s.Cluster)
	}
}
