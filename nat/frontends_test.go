package nat

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"unsafe"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// BenchmarkServices: find the frontend and a backend for the packets of a batch
// none of which has a flow, of one service and of ten thousand.
func BenchmarkServices(b *testing.B) {
	for _, n := range []int{1, 10_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			s, targets := benchServices(n)
			conns, err := Open(Config{Max: 1 << 20})
			if err != nil {
				b.Fatal(err)
			}
			defer conns.Close()
			r := rand.New(rand.NewPCG(1, 1))
			ps := make([]packet.Packet, packet.BatchSize)
			var flows [packet.BatchSize]*Flow
			order := make([]packet.Tuple, 1<<16)
			for i := range order {
				order[i] = targets[r.IntN(len(targets))]
				order[i].SrcPort = uint16(i)
			}
			var sum uint64
			b.ResetTimer()
			for i := 0; i < b.N; i += len(ps) {
				for k := range ps {
					ps[k].Class = packet.Flow
					ps[k].Tuple = order[(i+k)%len(order)]
					ps[k].Hash = ps[k].Tuple.Hash(7)
				}
				s.Prefetch(ps, flows[:], conns)
				for k := range ps {
					f, _ := s.Lookup(&ps[k].Tuple, false)
					list, _ := f.Backends(FromPod, &ps[k].Tuple.Src)
					sum += uint64(Draw(list, ps[k].Hash).ID) + uint64(f.ID)
				}
			}
			if sum == 0 {
				b.Error("nobody was chosen")
			}
		})
	}
}

// benchServices compiles n services of ten endpoints each, and returns tuples of
// packets to them, 64 at least.
func benchServices(n int) (Services, []packet.Tuple) {
	c := NewCompiler(Self{Name: "node1"})
	c.SetRanges([]netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")})
	var targets []packet.Tuple
	for i := range n {
		ip := netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})
		svc := &cluster.Service{Meta: cluster.Meta{Namespace: "bench", Name: fmt.Sprint("s", i)}, ClusterIPs: []netip.Addr{ip}}
		slice := &cluster.EndpointSlice{Meta: cluster.Meta{Namespace: "bench", Name: svc.Name}, Family: cluster.IPv4}
		for k := range (64 + n - 1) / n {
			name := fmt.Sprint("p", k)
			svc.Ports = append(svc.Ports, cluster.ServicePort{Name: name, Protocol: packet.ProtoUDP, Port: uint16(80 + k)})
			slice.Ports = append(slice.Ports, cluster.EndpointPort{Name: name, Protocol: packet.ProtoUDP, Port: uint16(8000 + k)})
			targets = append(targets, packet.Tuple{Src: packet.AddrFrom(netip.MustParseAddr("10.244.1.2")), Dst: packet.AddrFrom(ip), DstPort: uint16(80 + k), Proto: packet.ProtoUDP})
		}
		for e := range 10 {
			a := netip.AddrFrom4([4]byte{10, 128 + byte(i>>12), byte(i >> 4), byte(i<<4 + e)})
			slice.Endpoints = append(slice.Endpoints, cluster.Endpoint{Addresses: []netip.Addr{a}, Ready: true, Serving: true})
		}
		c.Set(svc, []*cluster.EndpointSlice{slice})
	}
	return c.Services(), targets
}

// TestSlot: all that is used of a slot is in one cache line, whether memory begins
// with one or a word later.
func TestSlot(t *testing.T) {
	if unsafe.Sizeof(uintptr(0)) != 8 {
		t.Skip("for machines of 64 bits")
	}
	var s slot
	if size, used := unsafe.Sizeof(s), unsafe.Offsetof(s.Frontend)+unsafe.Sizeof(s.Frontend); size != 64 || used > 56 {
		t.Errorf("%d bytes, and the first %d are used", size, used)
	}
	services, _ := benchServices(10_000)
	for _, p := range services.fronts.root {
		if at := uintptr(unsafe.Pointer(unsafe.SliceData(p))) % 64; at > 8 {
			t.Fatalf("a page begins %d bytes behind a cache line", at)
		}
	}
}
