package packet

import (
	"net/netip"
	"testing"
	"unsafe"
)

func TestAddr(t *testing.T) {
	for _, s := range []string{"10.0.0.1", "0.0.0.0", "255.255.255.255", "::", "::1", "fd00::1", "::ffff:0:0:1"} {
		n := netip.MustParseAddr(s)
		a := AddrFrom(n)
		if a.Netip() != n || a.String() != s || a.Is4() != n.Is4() {
			t.Errorf("%s: %v, %v, IPv4 %v", s, a.Netip(), a, a.Is4())
		}
	}
	if AddrFrom(netip.Addr{}) != (Addr{}) {
		t.Error("the zero netip.Addr is not the zero Addr")
	}
}

// TestTupleLayout: Hash and maps take a tuple for memory, so there must be no
// padding.
func TestTupleLayout(t *testing.T) {
	if n := unsafe.Sizeof(Tuple{}); n != 40 || unsafe.Offsetof(Tuple{}.In) != 38 {
		t.Errorf("a tuple has %d bytes", n)
	}
	if n := unsafe.Sizeof(Translation{}); n != 40 {
		t.Errorf("a translation has %d bytes", n)
	}
}

func TestTuple(t *testing.T) {
	u := tcp(false, nil).tuple()
	u.In, u.Flags = 7, Routed
	r := u.Reverse()
	if r.Src != u.Dst || r.Dst != u.Src || r.SrcPort != 80 || r.DstPort != 40000 || r.Proto != ProtoTCP || r.In != 0 || r.Flags != 0 {
		t.Errorf("reverse: %+v", r)
	}
	if f := u.Flow(); r.Reverse() != f || f == u {
		t.Errorf("flow: %+v", f)
	}
	if !u.Is4() {
		t.Error("not IPv4")
	}
	tests := map[string]Tuple{
		"tcp 10.244.1.7:40000 -> 10.244.2.9:80":       u,
		"udp [fd00::1:7]:40000 -> [fd00:1::2:9]:4433": udp(true, nil).tuple(),
		"icmpv6 fd00::1:7 -> fd00:1::2:9 id 40000":    rewritten(true)["echo/8"].tuple(),
		"proto-47 10.244.1.7 -> 10.244.2.9":           rewritten(false)["gre"].tuple(),
		"sctp 10.244.1.7:40000 -> 10.244.2.9:4433":    rewritten(false)["sctp"].tuple(),
		"icmp 10.244.1.7 -> 10.244.2.9 id 40000":      rewritten(false)["echo/0"].tuple(),
	}
	for want, tuple := range tests {
		if got := tuple.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestHash changes every bit of a tuple and of the seed: about half of the bits
// of the hash must change, and no hash may come twice.
func TestHash(t *testing.T) {
	u := udp(true, nil).tuple()
	seen := map[uint64]bool{u.Hash(1): true}
	changed := 0
	check := func(h uint64) {
		if seen[h] {
			t.Error("a hash came twice")
		}
		seen[h] = true
		for d := h ^ u.Hash(1); d != 0; d &= d - 1 {
			changed++
		}
	}
	for i := range unsafe.Sizeof(u) {
		for bit := range 8 {
			v := u
			(*[40]byte)(unsafe.Pointer(&v))[i] ^= 1 << bit
			check(v.Hash(1))
		}
	}
	for bit := range 64 {
		check(u.Hash(1 ^ 1<<bit))
	}
	if n := 40*8 + 64; changed < n*28 || changed > n*36 {
		t.Errorf("%d of %d bits change", changed/n, 64)
	}
}
