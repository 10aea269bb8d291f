package vswitch

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"vswitch/nat"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/fib"
	"vswitch/vswitch/packet"
)

const (
	// benchEndpoints is how many endpoints a service has.
	benchEndpoints = 10
	// benchTargets is how many addresses and ports a benchmark sends to at least.
	// A pod has 65536 ports, and so as many connections with each.
	benchTargets = 64
	// benchNew is how many connections are made before the tables are replaced
	// by empty ones.
	benchNew = 1 << 20
	// benchTurns is how many turns are compared at least: of a few, the median says
	// what else the machine did.
	benchTurns = 16
)

// targets are n addresses and ports of services, the first one and the distance
// between two, as they stand in a packet with a gap of two bytes for the sender's
// port between them. They are computed: a table of them would take memory from
// what is measured.
type targets struct{ first, step, n uint64 }

// benchServices compiles n services of ten endpoints each on another node, and
// returns where they are reached. One that is alone has many ports.
func benchServices(n int) (nat.Services, targets) {
	ports := (benchTargets + n - 1) / n
	to := targets{first: 10<<56 | 96<<48 | 80, step: 1 << 32, n: uint64(n)}
	if n == 1 {
		to.step, to.n = 1, uint64(ports)
	}
	c := nat.NewCompiler(nat.Self{Name: "node1"})
	c.SetRanges([]netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")})
	for i := range n {
		ip := [4]byte{10, 96, byte(i >> 8), byte(i)}
		svc := &cluster.Service{Meta: cluster.Meta{Namespace: "bench", Name: fmt.Sprint("s", i)},
			ClusterIPs: []netip.Addr{netip.AddrFrom4(ip)}}
		slice := &cluster.EndpointSlice{Meta: cluster.Meta{Namespace: "bench", Name: svc.Name}, Family: cluster.IPv4}
		for k := range ports {
			name := fmt.Sprint("p", k)
			svc.Ports = append(svc.Ports, cluster.ServicePort{Name: name, Protocol: packet.ProtoUDP, Port: uint16(80 + k)})
			slice.Ports = append(slice.Ports, cluster.EndpointPort{Name: name, Protocol: packet.ProtoUDP, Port: uint16(8000 + k)})
		}
		for e := range benchEndpoints {
			var a [4]byte
			binary.BigEndian.PutUint32(a[:], 10<<24|128<<16+uint32(i*benchEndpoints+e))
			slice.Endpoints = append(slice.Endpoints, cluster.Endpoint{Addresses: []netip.Addr{netip.AddrFrom4(a)}, Ready: true, Serving: true})
		}
		c.Set(svc, []*cluster.EndpointSlice{slice})
	}
	return c.Services(), to
}

// serve makes a pipeline's source send to services, instead of to a pod.
func (s *source) serve(w *worker, services nat.Services, to targets) {
	t := *w.sw.Tables()
	t.Services = services
	hop := t.Routes.Lookup(new(addr(remote)))
	t.Routes = t.Routes.Insert(netip.MustParsePrefix("10.128.0.0/9"),
		&fib.Hop{Kind: fib.Peer, Port: hop.Port, Peer: 1, MTU: 1450, MAC: macPeer, Name: "node2"})
	w.sw.Publish(&t)
	s.targets = to
}

// put makes frame f a packet of a flow to a service: one of 65536 ports of the
// sender, to one of the targets.
func (s *source) put(f *[64]byte, flow uint32) {
	port := flow & 0xffff
	// Multiples of the golden ratio: up to 16 of a port are for 16 targets, and so
	// of a million flows none comes twice.
	i := uint64((flow>>16)*0x9e3779b1+port*0x85ebca6b) * s.targets.n >> 32
	binary.BigEndian.PutUint64(f[30:], s.targets.first+i*s.targets.step|uint64(port)<<16)
}

// BenchmarkKnownFlowDNAT: as BenchmarkKnownFlow, to a service. Destination
// address and port are rewritten.
func BenchmarkKnownFlowDNAT(b *testing.B) {
	for _, flows := range []int{1, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
			w, a, src := pipeline(b, flows)
			services, to := benchServices(1)
			src.serve(w, services, to)
			pump(w, a, src, 4*flows)
			b.ReportAllocs()
			b.ResetTimer()
			pump(w, a, src, b.N)
			b.StopTimer()
			if n := a.txDrops(); n > 0 {
				b.Errorf("%d packets died", n)
			}
		})
	}
}

// BenchmarkFirstPacketService: choose a backend for a new flow, decide, and
// remember both directions, with one service and with ten thousand in turns, long
// enough to be at home in the caches: x-one is the median of the ratios. The tables
// begin empty, so this includes the first touch of their memory, and that is why
// millions of connections are made, however few are asked for.
func BenchmarkFirstPacketService(b *testing.B) {
	const turn = benchNew / 4
	var worlds [2]nat.Services
	var to [2]targets
	for i, n := range [2]int{1, 10_000} {
		worlds[i], to[i] = benchServices(n)
	}
	runtime.GC() // what compiling them has left over is nobody's here
	var all [2]time.Duration
	var ratios []float64
	made := 0
	b.ResetTimer()
	for made < b.N || len(ratios) < benchTurns {
		b.StopTimer()
		var ws [2]*worker
		var as [2]*attached
		var srcs [2]*source
		for i := range worlds {
			ws[i], as[i], srcs[i] = pipeline(b, benchNew)
			srcs[i].serve(ws[i], worlds[i], to[i])
			srcs[i].fresh = true
		}
		b.StartTimer()
		for range benchNew / turn {
			var took [2]time.Duration
			for i, w := range ws {
				start := time.Now()
				pump(w, as[i], srcs[i], turn)
				took[i] = time.Since(start)
				all[i] += took[i]
			}
			ratios = append(ratios, float64(took[1])/float64(took[0]))
		}
		b.StopTimer()
		made += benchNew
		for i, w := range ws {
			if n := as[i].txDrops(); n > 0 {
				b.Errorf("%d packets died", n)
			}
			if got := w.conns.Len(); got != benchNew {
				b.Errorf("%d connections of %d packets", got, benchNew)
			}
			w.sw.Close()
			w.sw.Conns().Close()
		}
		b.StartTimer()
	}
	slices.Sort(ratios)
	b.ReportMetric(float64(all[0].Nanoseconds())/float64(made), "ns/op")
	b.ReportMetric(float64(all[1].Nanoseconds())/float64(made), "ns/op-10000")
	b.ReportMetric(ratios[len(ratios)/2], "x-one")
}

// TestServiceNoAllocations: neither a known flow to a service nor a new one
// costs memory of the heap.
func TestServiceNoAllocations(t *testing.T) {
	for _, n := range []int{1, 1000} {
		w, a, src := pipeline(t, benchNew)
		services, to := benchServices(n)
		src.serve(w, services, to)
		src.flows = 100
		pump(w, a, src, 1000)
		if got := testing.AllocsPerRun(100, func() { pump(w, a, src, 64) }); got != 0 {
			t.Errorf("%d services: %v allocations for 64 packets of known flows", n, got)
		}
		src.flows, src.fresh = benchNew, true
		known := w.conns.Len()
		pump(w, a, src, 1<<16) // the indexes grow to their size
		if got := testing.AllocsPerRun(100, func() { pump(w, a, src, 64) }); got != 0 {
			t.Errorf("%d services: %v allocations for 64 new flows", n, got)
		}
		if got := w.conns.Len() - known; got < 1<<16 || a.txDrops() != 0 {
			t.Errorf("%d services: %d connections were made, and %d packets died", n, got, a.txDrops())
		}
	}
}
