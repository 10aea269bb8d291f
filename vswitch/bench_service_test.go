package vswitch

import (
	"encoding/binary"
	"fmt"
	"net/netip"
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
)

// target is an address and port of a service, as they stand in a packet with a
// gap of two bytes for the sender's port between them.
type target uint64

func newTarget(ip [4]byte, port uint16) target {
	return target(binary.BigEndian.Uint32(ip[:]))<<32 | target(port)
}

// benchServices compiles n services of ten endpoints each on another node, and
// returns where they are reached. One that is alone has many ports.
func benchServices(n int) (nat.Services, []target) {
	ports := (benchTargets + n - 1) / n
	c := nat.NewCompiler(nat.Self{Name: "node1"})
	c.SetRanges([]netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")})
	var targets []target
	for i := range n {
		ip := [4]byte{10, 96, byte(i >> 8), byte(i)}
		svc := &cluster.Service{Meta: cluster.Meta{Namespace: "bench", Name: fmt.Sprint("s", i)},
			ClusterIPs: []netip.Addr{netip.AddrFrom4(ip)}}
		slice := &cluster.EndpointSlice{Meta: cluster.Meta{Namespace: "bench", Name: svc.Name}, Family: cluster.IPv4}
		for k := range ports {
			name := fmt.Sprint("p", k)
			svc.Ports = append(svc.Ports, cluster.ServicePort{Name: name, Protocol: packet.ProtoUDP, Port: uint16(80 + k)})
			slice.Ports = append(slice.Ports, cluster.EndpointPort{Name: name, Protocol: packet.ProtoUDP, Port: uint16(8000 + k)})
			targets = append(targets, newTarget(ip, uint16(80+k)))
		}
		for e := range benchEndpoints {
			var a [4]byte
			binary.BigEndian.PutUint32(a[:], 10<<24|128<<16+uint32(i*benchEndpoints+e))
			slice.Endpoints = append(slice.Endpoints, cluster.Endpoint{Addresses: []netip.Addr{netip.AddrFrom4(a)}, Ready: true, Serving: true})
		}
		c.Set(svc, []*cluster.EndpointSlice{slice})
	}
	return c.Services(), targets
}

// serve makes a pipeline's source send to services, instead of to a pod.
func (s *source) serve(w *worker, services nat.Services, targets []target) {
	t := *w.sw.Tables()
	t.Services = services
	hop := t.Routes.Lookup(new(addr(remote)))
	t.Routes = t.Routes.Insert(netip.MustParsePrefix("10.128.0.0/9"),
		&fib.Hop{Kind: fib.Peer, Port: hop.Port, Peer: 1, MTU: 1450, MAC: macPeer, Name: "node2"})
	w.sw.Publish(&t)
	s.targets = targets
}

// put makes frame f a packet of a flow to a service: one of 65536 ports of the
// sender, to one of the targets, all combinations before any comes again.
func (s *source) put(f *[64]byte, flow uint32) {
	port := flow & 0xffff
	// Steps of 151 through 10000 services meet none twice within benchTargets.
	n, i := uint32(len(s.targets)), flow>>16*151+port*7919
	if n&(n-1) == 0 {
		i &= n - 1
	} else {
		i %= n
	}
	binary.BigEndian.PutUint64(f[30:], uint64(s.targets[i])|uint64(port)<<16)
}

// BenchmarkKnownFlowDNAT: as BenchmarkKnownFlow, to a service. Destination
// address and port are rewritten.
func BenchmarkKnownFlowDNAT(b *testing.B) {
	for _, flows := range []int{1, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
			w, a, src := pipeline(b, flows)
			services, targets := benchServices(1)
			src.serve(w, services, targets)
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
// enough to be at home in the caches: x-one is the median of the ratios. The tables begin empty, so
// this includes the first touch of their memory.
func BenchmarkFirstPacketService(b *testing.B) {
	const turn = benchNew / 4
	var worlds [2]nat.Services
	var targets [2][]target
	for i, n := range [2]int{1, 10_000} {
		worlds[i], targets[i] = benchServices(n)
	}
	var all [2]time.Duration
	var ratios []float64
	b.ResetTimer()
	for left := b.N; left > 0; left -= benchNew {
		made := min(left, benchNew)
		b.StopTimer()
		var ws [2]*worker
		var as [2]*attached
		var srcs [2]*source
		for i := range worlds {
			ws[i], as[i], srcs[i] = pipeline(b, benchNew)
			srcs[i].serve(ws[i], worlds[i], targets[i])
			srcs[i].fresh = true
		}
		b.StartTimer()
		for rest := made; rest > 0; rest -= turn {
			var took [2]time.Duration
			for i, w := range ws {
				start := time.Now()
				pump(w, as[i], srcs[i], min(rest, turn))
				took[i] = time.Since(start)
				all[i] += took[i]
			}
			ratios = append(ratios, float64(took[1])/float64(took[0]))
		}
		b.StopTimer()
		for i, w := range ws {
			if n := as[i].txDrops(); n > 0 {
				b.Errorf("%d packets died", n)
			}
			if got := w.conns.Len(); got != made {
				b.Errorf("%d connections of %d packets", got, made)
			}
			w.sw.Close()
			w.sw.Conns().Close()
		}
		b.StartTimer()
	}
	slices.Sort(ratios)
	b.ReportMetric(float64(all[0].Nanoseconds())/float64(b.N), "ns/op")
	b.ReportMetric(float64(all[1].Nanoseconds())/float64(b.N), "ns/op-10000")
	b.ReportMetric(ratios[len(ratios)/2], "x-one")
}

// TestServiceNoAllocations: neither a known flow to a service nor a new one
// costs memory of the heap.
func TestServiceNoAllocations(t *testing.T) {
	for _, n := range []int{1, 1000} {
		w, a, src := pipeline(t, benchNew)
		services, targets := benchServices(n)
		src.serve(w, services, targets)
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
