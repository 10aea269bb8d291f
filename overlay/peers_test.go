package overlay

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func testEndpoint(local string) *endpoint {
	e := new(endpoint)
	e.init(Config{})
	e.local = netip.MustParseAddrPort(local)
	return e
}

func TestAddPeer(t *testing.T) {
	e := testEndpoint("10.0.0.1:8472")
	ap := netip.MustParseAddrPort
	ok := func(p Peer) uint16 {
		t.Helper()
		id, err := e.AddPeer(p)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	a := ok(Peer{Name: "a", Addr: ap("10.0.0.2:8472")})
	b := ok(Peer{Name: "b", Addr: ap("10.0.0.3:8472"), SourcePorts: []uint16{7, 5, 7}})
	c := ok(Peer{Name: "c", Addr: ap("10.0.0.3:8473"), SourcePorts: []uint16{6}})
	d := ok(Peer{Name: "d", Addr: ap("[::ffff:10.0.0.3]:8474")})
	if a != 1 || b != 2 || c != 3 || d != 4 {
		t.Errorf("ids %d %d %d %d", a, b, c, d)
	}
	for _, x := range []struct {
		p    Peer
		want string
	}{
		{Peer{Name: "x", Addr: ap("10.0.0.2:1")}, "another peer has that address: a"},
		{Peer{Name: "x", Addr: ap("10.0.0.3:1"), SourcePorts: []uint16{9, 5}}, "another peer has that address: b"},
		{Peer{Name: "x", Addr: ap("10.0.0.3:1")}, "another peer has that address: d"},
		{Peer{Name: "x"}, "peer x: invalid AddrPort"},
		{Peer{Name: "x", Addr: ap("10.0.0.9:0")}, "has no port"},
		{Peer{Name: "x", Addr: ap("0.0.0.0:1")}, "no address of a VTEP"},
		{Peer{Name: "x", Addr: ap("224.0.0.1:1")}, "no address of a VTEP"},
		{Peer{Name: "x", Addr: ap("[fd00::1]:1")}, "another family"},
		{Peer{Name: "x", Addr: ap("[fe80::1%eth0]:1")}, "zone"},
		{Peer{Name: "x", Addr: ap("10.0.0.9:1"), SourcePorts: []uint16{0}}, "0 is no source port"},
	} {
		if id, err := e.AddPeer(x.p); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%+v: %d, %v; want %q", x.p, id, err, x.want)
		}
	}
	for from, want := range map[string]uint16{
		"10.0.0.2:1": a, "10.0.0.2:65535": a, "10.0.0.3:5": b, "10.0.0.3:7": b, "10.0.0.3:6": c,
		"10.0.0.3:8": d, "10.0.0.4:5": 0, "0.0.0.0:0": 0, "[::a00:2]:1": 0,
	} {
		a := ap(from)
		p := e.peers.Load().lookup(sourceOf(a.Addr(), a.Port()))
		if (p == nil) != (want == 0) || (p != nil && p.id != want) {
			t.Errorf("%s is %+v, want id %d", from, p, want)
		}
	}
	if err := e.UpdatePeer(a, Peer{Name: "a", Addr: ap("10.0.0.3:1"), SourcePorts: []uint16{6}}); !errors.Is(err, ErrPeerExists) {
		t.Errorf("update into another peer's address: %v", err)
	}
	if p, _ := e.PeerCounters(a); p != (PeerCounters{}) || e.Peers()[0].Addr != ap("10.0.0.2:8472") {
		t.Error("a refused update changed something")
	}
	if err := e.UpdatePeer(a, Peer{Name: "a", Addr: ap("10.0.0.2:9")}); err != nil {
		t.Errorf("update of the port: %v", err)
	}
	if got := e.Peers()[1].SourcePorts; !slices.Equal(got, []uint16{5, 7}) {
		t.Errorf("source ports %v", got)
	}
}

// TestPeerIDs: an id comes again only after all others.
func TestPeerIDs(t *testing.T) {
	e := testEndpoint("10.0.0.1:8472")
	add := func(i int) uint16 {
		id, err := e.AddPeer(Peer{Name: "p", Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 1)})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	kept := add(0)
	last := kept
	for i := 1; i < 20; i++ {
		id := add(i)
		if id != last+1 {
			t.Fatalf("id %d after %d", id, last)
		}
		last = id
		e.RemovePeer(id)
		e.RemovePeer(id)
	}
	e.lastID = maxPeer - 2
	var got []uint16
	for i := 1; i < 5; i++ {
		got = append(got, add(i))
	}
	if want := []uint16{maxPeer - 1, maxPeer, 2, 3}; kept != 1 || !slices.Equal(got, want) {
		t.Errorf("ids %v, want %v", got, want)
	}
}

// TestPeersModel compares the table with a map under random changes.
func TestPeersModel(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, local := range []string{"10.0.0.1:1", "[fd00::1]:1"} {
		e := testEndpoint(local)
		v6 := e.local.Addr().Is6()
		address := func() netip.Addr {
			b := [16]byte{0xfd, 15: byte(r.IntN(40)), 7: byte(r.IntN(2))}
			if v6 {
				return netip.AddrFrom16(b)
			}
			return netip.AddrFrom4([4]byte{10, b[7], 0, b[15] + 1})
		}
		type from struct {
			netip.Addr
			port uint16
		}
		model := map[from]uint16{}
		byID := map[uint16][]from{}
		for range 4000 {
			p := Peer{Name: "p", Addr: netip.AddrPortFrom(address(), 1)}
			var froms []from
			for range r.IntN(3) {
				p.SourcePorts = append(p.SourcePorts, uint16(1+r.IntN(5)))
			}
			slices.Sort(p.SourcePorts)
			p.SourcePorts = slices.Compact(p.SourcePorts)
			for _, port := range p.SourcePorts {
				froms = append(froms, from{p.Addr.Addr(), port})
			}
			if froms == nil {
				froms = []from{{p.Addr.Addr(), 0}}
			}
			if len(byID) > 0 && r.IntN(2) == 0 {
				for id, old := range byID {
					e.RemovePeer(id)
					delete(byID, id)
					for _, f := range old {
						delete(model, f)
					}
					break
				}
			} else {
				id, err := e.AddPeer(p)
				taken := slices.ContainsFunc(froms, func(f from) bool { return model[f] != 0 })
				if taken != errors.Is(err, ErrPeerExists) || taken != (err != nil) {
					t.Fatalf("%+v: %v, in the model: %v", p, err, taken)
				}
				if err == nil {
					byID[id] = froms
					for _, f := range froms {
						model[f] = id
					}
				}
			}
			for range 10 {
				f := from{address(), uint16(1 + r.IntN(6))}
				want := model[f]
				if want == 0 {
					want = model[from{f.Addr, 0}]
				}
				got := uint16(0)
				if p := e.peers.Load().lookup(sourceOf(f.Addr, f.port)); p != nil {
					got = p.id
				}
				if got != want {
					t.Fatalf("%v is peer %d, want %d", f, got, want)
				}
			}
		}
	}
}

func TestDropNames(t *testing.T) {
	seen := map[string]bool{}
	for d := dropNone; d < numDrops; d++ {
		if s := d.String(); s == "" || seen[s] {
			t.Errorf("drop %d is called %q", d, s)
		} else {
			seen[s] = true
		}
	}
	if fmt.Sprint(numDrops) != "drop-?" {
		t.Error(numDrops)
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{1, 1000} {
		e := testEndpoint("10.0.0.1:1")
		for i := range n {
			if _, err := e.AddPeer(Peer{Name: "p", Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 1)}); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			t := e.peers.Load()
			var all []source
			for i := range n {
				all = append(all, sourceOf(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 99))
			}
			i := 0
			for b.Loop() {
				if t.lookup(all[i]) == nil {
					b.Fatal("not found")
				}
				if i++; i == n {
					i = 0
				}
			}
		})
	}
}
