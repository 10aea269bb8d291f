package nat

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
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

// TestSlot: a slot's frontend is in one cache line, whether memory begins with one
// or a word later.
func TestSlot(t *testing.T) {
	var s slot
	is64 := unsafe.Sizeof(uintptr(0)) == 8 // pointers of 32 bits make it smaller
	if size, used := unsafe.Sizeof(s), unsafe.Offsetof(s.near); is64 && size%64 != 0 || used > 56 {
		t.Errorf("%d bytes, and the first %d are the frontend", size, used)
	}
	services, _ := benchServices(10_000)
	for _, p := range services.fronts.root {
		if at := uintptr(unsafe.Pointer(unsafe.SliceData(p.slots))) % 64; at > 8 {
			t.Fatalf("a page begins %d bytes behind a cache line", at)
		}
	}
}

// TestNear: what is chosen from is the same, whether the slot has a copy or not, and
// one that goes by the order of the service's own list has none.
func TestNear(t *testing.T) {
	addr := packet.AddrFrom(netip.MustParseAddr("10.96.0.1"))
	for _, n := range []int{0, 1, nearby, nearby + 1, 1000} {
		for _, affinity := range []uint32{0, 60} {
			svc := &Service{Name: "x/a", Affinity: affinity}
			for i := range n {
				svc.Cluster = append(svc.Cluster, Backend{Addr: packet.Addr{15: byte(i)}, Port: uint16(i), ID: uint32(i)})
			}
			fs := frontends{}.with(placed{addr, 80, frontendOf(svc, ClusterIP, false)})
			fs = fs.with(placed{addr, 81, frontendOf(svc, ClusterIP, false)}) // moves it
			f := fs.get(&addr, 80)
			got, _ := f.Backends(FromPod, &addr)
			if !slices.Equal(got, svc.Cluster) {
				t.Errorf("%d backends: %v, want %v", n, got, svc.Cluster)
			}
			if n == 0 {
				continue
			}
			want := &svc.Cluster[0]
			if affinity == 0 && n <= nearby {
				want = &(*slot)(unsafe.Pointer(uintptr(unsafe.Pointer(f)) - unsafe.Offsetof(slot{}.Frontend))).near[0]
			}
			if &got[0] != want {
				t.Errorf("%d backends, affinity %d: they are elsewhere", n, affinity)
			}
		}
	}
}

// TestFrontends: after any changes, frontends are what a map says, and so are all
// that they were made from.
func TestFrontends(t *testing.T) {
	type where struct {
		addr packet.Addr
		key  uint32
	}
	r := rand.New(rand.NewPCG(5, 6))
	var wheres []where
	for len(wheres) < 200 { // in few pages, so that many meet
		w := where{packet.AddrFrom(netip.AddrFrom4([4]byte{10, 96, byte(r.Uint32()), byte(r.Uint32())})), portKey(packet.ProtoTCP, uint16(r.Uint32()))}
		if r.IntN(2) == 0 {
			w.addr = packet.Addr{0xfd, 14: byte(r.Uint32()), 15: byte(r.Uint32())}
		}
		if hashOf(&w.addr, w.key)%pages < 3 {
			wheres = append(wheres, w, where{w.addr, w.key ^ 1}, where{packet.Addr{15: w.addr[15]}, w.key})
		}
	}
	type version struct {
		fronts frontends
		want   map[where]uint32
	}
	check := func(v version) {
		t.Helper()
		for _, w := range wheres {
			f, want := v.fronts.get(&w.addr, w.key), v.want[w]
			if (f == nil) != (want == 0) || f != nil && f.ID != want {
				t.Fatalf("%x %x: %v, want %d", w.addr, w.key, f, want)
			}
		}
		n := 0
		for p := range pages {
			if v.fronts.root == nil {
				break
			}
			p := &v.fronts.root[p]
			n += len(p.slots)
			used := 0
			for _, s := range p.index {
				if s != 0 {
					used++
				}
			}
			if size := len(p.index); size&(size-1) != 0 || size < 2*used || used != len(p.slots) || used == 0 && size > 0 {
				t.Fatalf("an index of %d has %d of %d frontends", size, used, len(p.slots))
			}
		}
		if n != len(v.want) || n == 0 && v.fronts.root != nil {
			t.Fatalf("%d frontends, want %d", n, len(v.want))
		}
	}
	s := new(Service)
	now := version{want: map[where]uint32{}}
	var versions []version
	for i := range uint32(3000) {
		var changes []placed
		for range 1 + r.IntN(5) {
			w := wheres[r.IntN(len(wheres))]
			if slices.ContainsFunc(changes, func(c placed) bool { return c.addr == w.addr && c.key == w.key }) {
				continue
			}
			if r.IntN(3) == 0 || i > 2000 && r.IntN(3) > 0 {
				changes = append(changes, placed{w.addr, w.key, nil})
				delete(now.want, w)
			} else {
				changes = append(changes, placed{w.addr, w.key, &Frontend{ID: i + 1, Service: s}})
				now.want[w] = i + 1
			}
		}
		now.fronts = now.fronts.with(changes...)
		if i%100 == 0 {
			versions = append(versions, version{now.fronts, maps.Clone(now.want)})
		}
	}
	for _, w := range wheres {
		now.fronts = now.fronts.with(placed{w.addr, w.key, nil})
		delete(now.want, w)
	}
	for _, v := range append(versions, now) {
		check(v)
	}
}

// put returns Services in which f, if not nil, is at the spot.
func (s Services) put(at spot, f *Frontend) Services { return s.with(map[spot]*Frontend{at: f}) }

// TestMatch: what an address without a frontend for a port is, where it is a
// cluster IP, an external IP, a range of its own and a node's, in any order.
func TestMatch(t *testing.T) {
	ip := netip.MustParseAddr("10.96.0.1")
	at := func(port uint16) spot { return spot{ip, portKey(packet.ProtoTCP, port)} }
	svc := &Service{Name: "x/a"}
	cluster, external := frontendOf(svc, ClusterIP, false), frontendOf(svc, ExternalIP, false)
	wide, own := netip.MustParsePrefix("10.96.0.0/16"), netip.PrefixFrom(ip, 32)
	node := spot{netip.IPv4Unspecified(), portKey(packet.ProtoTCP, 30080)}
	var s Services
	steps := []struct {
		what   string
		change func()
		want   Match // of a port that no frontend has
	}{
		{"nothing", func() {}, NoService},
		{"a range", func() { s = s.withRange(wide, true) }, Unallocated},
		{"an external IP", func() { s = s.put(at(80), external) }, Unallocated},
		{"a cluster IP, too", func() { s = s.put(at(81), cluster) }, WrongPort},
		{"a second port of it", func() { s = s.put(at(82), cluster) }, WrongPort},
		{"the first goes", func() { s = s.put(at(81), nil) }, WrongPort},
		{"and again", func() { s = s.put(at(81), nil) }, WrongPort},
		{"the second becomes external", func() { s = s.put(at(82), external) }, Unallocated},
		{"a range of its own", func() { s = s.withRange(own, true) }, WrongPort},
		{"all frontends go", func() { s = s.put(at(80), nil).put(at(82), nil) }, Unallocated},
		{"a cluster IP in it", func() { s = s.put(at(80), cluster) }, WrongPort},
		{"its range goes", func() { s = s.withRange(own, false) }, WrongPort},
		{"it is a node's", func() { s = s.put(node, frontendOf(svc, NodePort, false)).withNode(ip, true, false) }, WrongPort},
		{"it is a node's only", func() { s = s.put(at(80), nil) }, NoService},
		{"it is nobody's", func() { s = s.withNode(ip, false, false).put(node, nil) }, Unallocated},
		{"no range", func() { s = s.withRange(wide, false) }, NoService},
		{"an external IP elsewhere", func() { s = s.put(at(80), external) }, NoService},
		{"it goes", func() { s = s.put(at(80), nil) }, NoService},
	}
	for _, step := range steps {
		step.change()
		tuple := packet.Tuple{Dst: packet.AddrFrom(ip), DstPort: 9, Proto: packet.ProtoTCP}
		if f, m := s.Lookup(&tuple, false); f != nil || m != step.want {
			t.Errorf("%s: %v, %v, want %v", step.what, f, m, step.want)
		}
	}
	if s.fronts.root != nil || s.addrs.Size() != 0 {
		t.Error("something is left")
	}
}

// TestNodePortAddress: node ports are at no address of their own: a packet to the
// unspecified address does not find them, and one to a node's does.
func TestNodePortAddress(t *testing.T) {
	f := frontendOf(&Service{Name: "x/a"}, NodePort, false)
	for own, any := range map[string]netip.Addr{"192.0.2.1": netip.IPv4Unspecified(), "2001:db8::1": netip.IPv6Unspecified()} {
		s := Services{}.put(spot{any, portKey(packet.ProtoTCP, 30080)}, f).withNode(netip.MustParseAddr(own), true, false)
		tuple := packet.Tuple{Dst: packet.AddrFrom(any), DstPort: 30080, Proto: packet.ProtoTCP}
		if got, m := s.Lookup(&tuple, false); got != nil || m != NoService {
			t.Errorf("%s: %v, %v", any, got, m)
		}
		tuple.Dst = packet.AddrFrom(netip.MustParseAddr(own))
		if got, m := s.Lookup(&tuple, false); got == nil || got.Service != f.Service || m != Matched {
			t.Errorf("%s: %v, %v", own, got, m)
		}
	}
}

// TestChoice: how each choice is called.
func TestChoice(t *testing.T) {
	for c, want := range map[Choice]string{
		OfAll: "random", OfZone: "random-zone", OfNode | ByHash: "maglev-node", OfLocal | ByAffinity: "affinity-local",
		OfHere | Ending: "random-local-terminating", Ending: "random-terminating",
	} {
		if got := c.String(); got != want {
			t.Errorf("%#x: %s, want %s", uint8(c), got, want)
		}
	}
}

// TestWhy: a frontend says what its service was compiled by, and how it chooses.
func TestWhy(t *testing.T) {
	s := &Service{Name: "x/a", why: OfZone, whyLocal: Ending}
	tests := []struct {
		kind     FrontendKind
		local    bool
		affinity uint32
		from     Origin
		want     Choice
	}{
		{ClusterIP, false, 0, FromPod, OfZone},
		{ClusterIP, false, 60, FromPod, OfZone | ByAffinity},
		{ClusterIP, true, 60, FromPod, OfLocal | Ending | ByAffinity},
		{NodePort, true, 0, FromPod, OfZone},
		{NodePort, true, 0, FromOutside, OfLocal | Ending},
		{NodePort, false, 0, FromIngress, OfHere | Ending},
	}
	for _, tt := range tests {
		s.Affinity = tt.affinity
		if got := frontendOf(s, tt.kind, tt.local).Why(tt.from); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
	s.Affinity, s.maglev = 0, newMaglev(backends(2))
	if got := frontendOf(s, ClusterIP, false).Why(FromNode); got != OfZone|ByHash {
		t.Errorf("with maglev: %v", got)
	}
}
