package fib

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"vswitch/vswitch/packet"
)

// linear is the oracle: the longest of all prefixes that hold the address.
func linear(m map[netip.Prefix]*Hop, a netip.Addr) *Hop {
	var best *Hop
	bits := -1
	for p, h := range m {
		if p.Contains(a) && p.Bits() > bits {
			best, bits = h, p.Bits()
		}
	}
	return best
}

func TestLookupAgainstLinearScan(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	randomAddr := func() netip.Addr {
		if r.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, byte(r.IntN(4)), byte(r.IntN(4)), byte(r.IntN(256))})
		}
		var a [16]byte
		a[0], a[1], a[6], a[15] = 0xfd, 0, byte(r.IntN(4)), byte(r.IntN(256))
		return netip.AddrFrom16(a)
	}
	var table Table
	want := map[netip.Prefix]*Hop{}
	type version struct {
		table Table
		addr  netip.Addr
		hop   *Hop
	}
	var old []version
	for range 5000 {
		a := randomAddr()
		p := netip.PrefixFrom(a, r.IntN(a.BitLen()+1)).Masked()
		if r.IntN(3) == 0 {
			delete(want, p)
			table = table.Delete(p)
		} else {
			h := &Hop{Kind: Pod, Port: uint16(r.IntN(1000))}
			want[p] = h
			table = table.Insert(p, h)
		}
		for range 5 {
			q := randomAddr()
			key := packet.AddrFrom(q)
			got := table.Lookup(&key)
			if exp := linear(want, q); got != exp {
				t.Fatalf("Lookup(%s) = %+v, want %+v", q, got, exp)
			}
			old = append(old, version{table, q, got})
		}
		if table.Len() != len(want) {
			t.Fatalf("Len() = %d, want %d", table.Len(), len(want))
		}
	}
	// Earlier generations still answer as they did when they were current.
	for _, v := range old {
		key := packet.AddrFrom(v.addr)
		if got := v.table.Lookup(&key); got != v.hop {
			t.Fatalf("an old table changed: Lookup(%s) = %+v, was %+v", v.addr, got, v.hop)
		}
	}
}

func TestZeroTable(t *testing.T) {
	var table Table
	a := packet.AddrFrom(netip.MustParseAddr("10.0.0.1"))
	if table.Lookup(&a) != nil || table.Len() != 0 || table.Get(netip.MustParsePrefix("10.0.0.0/8")) != nil {
		t.Error("the zero table is not empty")
	}
	table = table.Delete(netip.MustParsePrefix("10.0.0.0/8"))
	for range table.All() {
		t.Error("the zero table has rows")
	}
}

func BenchmarkLookup(b *testing.B) {
	var table Table
	for i := range 1000 {
		table = table.Insert(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i >> 2), byte(i)}), 32), &Hop{})
	}
	a := packet.AddrFrom(netip.MustParseAddr("10.244.3.7"))
	b.ReportAllocs()
	for b.Loop() {
		table.Lookup(&a)
	}
}

func BenchmarkInsert(b *testing.B) {
	var table Table
	for i := range 1000 {
		table = table.Insert(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i >> 2), byte(i)}), 32), &Hop{})
	}
	h := &Hop{}
	b.ReportAllocs()
	for b.Loop() {
		table.Insert(netip.MustParsePrefix("10.244.200.7/32"), h)
	}
}
