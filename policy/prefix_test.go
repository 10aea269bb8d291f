package policy

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// TestPrefixesAgainstScan compares compiled blocks with a scan through them,
// for addresses in and around prefixes that lie in each other.
func TestPrefixesAgainstScan(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	addr := func() netip.Addr {
		if r.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, byte(r.IntN(2)), byte(r.IntN(2)), byte(r.IntN(8))})
		}
		return netip.AddrFrom16([16]byte{0xfd, byte(r.IntN(2)), 7: byte(r.IntN(2)), 15: byte(r.IntN(8))})
	}
	prefix := func() netip.Prefix {
		a := addr()
		return netip.PrefixFrom(a, r.IntN(a.BitLen()+1))
	}
	for range 60 {
		var blocks []block
		for range 1 + r.IntN(150) {
			b := block{term: r.IntN(100), cidr: prefix()}
			for range r.IntN(3) {
				b.except = append(b.except, prefix())
			}
			blocks = append(blocks, b)
		}
		table, rows := compilePrefixes(blocks, rowWords(100))
		for range 300 {
			a := addr()
			want := make([]uint64, rowWords(100))
			for _, b := range blocks {
				if b.cidr.Contains(a) && !containsAny(b.except, a) {
					setBit(want, b.term)
				}
			}
			got := make([]uint64, len(want))
			if n, ok := table.Lookup(a); ok {
				copy(got, rows[int(n)*len(got):])
			}
			for i := range want {
				if got[i] != want[i] {
					t.Fatalf("%s: %x, want %x; blocks %v", a, got, want, blocks)
				}
			}
		}
	}
	if table, _ := compilePrefixes(nil, 1); table != nil {
		t.Error("no blocks have a table")
	}
}
