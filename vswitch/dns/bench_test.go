package dns_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	wire "github.com/miekg/dns"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/dns"
)

// largeState has 10,000 services, every tenth of them headless, and 100,000
// endpoints.
func largeState() *cluster.State {
	var o cluster.Objects
	for i := range 10 {
		o.Add(&cluster.Namespace{Meta: cluster.Meta{Name: fmt.Sprint("ns", i)}})
	}
	for i := range 10000 {
		s := &cluster.Service{Meta: cluster.Meta{Namespace: fmt.Sprint("ns", i%10), Name: fmt.Sprint("service-", i)}, Type: cluster.ServiceClusterIP,
			Ports: []cluster.ServicePort{{Name: "http", Protocol: 6, Port: 80}}}
		if s.Headless = i%10 == 0; !s.Headless {
			s.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})}
		}
		o.Add(s)
		v := &cluster.EndpointSlice{Family: cluster.IPv4, Ports: []cluster.EndpointPort{{Name: "http", Protocol: 6, Port: 8080}}}
		v.Namespace, v.Name, v.Labels = s.Namespace, s.Name+"-abcde", map[string]string{cluster.LabelServiceName: s.Name}
		for j := range 10 {
			n := i*10 + j
			v.Endpoints = append(v.Endpoints, cluster.Endpoint{Ready: true, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 128 + byte(n>>16), byte(n >> 8), byte(n)})}})
		}
		o.Add(v)
	}
	return o.State()
}

var largeRanges = []netip.Prefix{netip.MustParsePrefix("10.128.0.0/9"), netip.MustParsePrefix("10.96.0.0/16")}

// BenchmarkAnswer answers from bytes to bytes.
func BenchmarkAnswer(b *testing.B) {
	s := dns.NewServer(zoneOf(b, largeState(), largeRanges), dns.ServerConfig{})
	for _, k := range []struct {
		name, question string
		qtype          uint16
	}{
		{"cluster-ip", "service-4711.ns1.svc.cluster.local.", wire.TypeA},
		{"nodata", "service-4711.ns1.svc.cluster.local.", wire.TypeAAAA},
		{"nxdomain", "service-4711.ns1.svc.cluster.local.svc.cluster.local.", wire.TypeA},
		{"headless-10", "service-4710.ns0.svc.cluster.local.", wire.TypeA},
		{"endpoint", "10-128-184-0.service-4710.ns0.svc.cluster.local.", wire.TypeA},
		{"srv", "_http._tcp.service-4711.ns1.svc.cluster.local.", wire.TypeSRV},
		{"ptr", "103.18.96.10.in-addr.arpa.", wire.TypePTR},
	} {
		m := question(k.question, k.qtype)
		m.SetEdns0(1232, false)
		query, err := m.Pack()
		if err != nil {
			b.Fatal(err)
		}
		b.Run(k.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				req := new(wire.Msg)
				if err := req.Unpack(query); err != nil {
					b.Fatal(err)
				}
				r := s.Reply(b.Context(), req, netip.AddrPort{}, true)
				if _, err := r.Pack(); err != nil || len(r.Answer)+len(r.Ns) == 0 {
					b.Fatal(r, err)
				}
			}
		})
	}
}

// BenchmarkFollow changes one endpoint: it becomes ready, or is no longer.
func BenchmarkFollow(b *testing.B) {
	state := largeState()
	z := zoneOf(b, state, largeRanges)
	key := cluster.Key{Namespace: "ns0", Name: "service-4710-abcde"}
	ready := state.EndpointSlices.Get(key)
	not := *ready
	not.Endpoints = append([]cluster.Endpoint(nil), ready.Endpoints...)
	not.Endpoints[5].Ready = false
	other := *state
	other.EndpointSlices = state.EndpointSlices.With(key, &not)
	there, back := state.Diff(&other), other.Diff(state)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%2 == 0 {
			z = z.Follow(&there)
		} else {
			z = z.Follow(&back)
		}
	}
}

// BenchmarkFirst makes the zone of a whole cluster, and measures its memory.
func BenchmarkFirst(b *testing.B) {
	state := largeState()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var z *dns.Zone
	for b.Loop() {
		z = zoneOf(b, state, largeRanges)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
	runtime.KeepAlive(z)
	runtime.KeepAlive(state)
}
