package overlay

import (
	"bytes"
	"fmt"
	"testing"
)

// rfc6040 is figure 4 of RFC 6040: what becomes of the inner field; not ok is a
// drop.
func rfc6040(inner, outer uint8) (uint8, bool) {
	const not, e1, e0, c, drop = 0, 1, 2, 3, 0xff
	table := [4][4]uint8{ // [inner][outer]
		not: {not: not, e0: not, e1: not, c: drop},
		e0:  {not: e0, e0: e0, e1: e1, c: c},
		e1:  {not: e1, e0: e1, e1: e1, c: c},
		c:   {not: c, e0: c, e1: c, c: c},
	}
	v := table[inner][outer]
	return v, v != drop
}

func TestDecapECN(t *testing.T) {
	for inner := range uint8(4) {
		for outer := range uint8(4) {
			for _, f := range []frame{tcp4(9), tcp6(9), udp4(9), udp6(9)} {
				// Checksums that make the sums carry.
				for id := range 300 {
					f.id, f.ecn = uint16(id*219), inner
					got := f.bytes(false)
					if ecnOf(got) != inner {
						t.Fatalf("ecnOf %d = %d", inner, ecnOf(got))
					}
					want, ok := rfc6040(inner, outer)
					if decapECN(got, outer) != ok {
						t.Fatalf("inner %d outer %d: not %v", inner, outer, ok)
					}
					if !ok {
						continue
					}
					f.ecn = want
					if !bytes.Equal(got, f.bytes(false)) {
						t.Fatalf("inner %d outer %d:\n got %x\nwant %x", inner, outer, got, f.bytes(false))
					}
				}
			}
		}
	}
}

// TestDecapECNShort: nothing is read or written behind a short frame, and what
// is no IP passes.
func TestDecapECNShort(t *testing.T) {
	f := tcp4(0)
	whole := f.bytes(false)
	for n := range len(whole) {
		for outer := range uint8(4) {
			b := bytes.Clone(whole[:n])
			decapECN(b[:n:n], outer)
		}
	}
	arp := append(make([]byte, 12), 8, 6, 0xff, 0xff, 0xff)
	for outer := range uint8(4) {
		if b := bytes.Clone(arp); !decapECN(b, outer) || !bytes.Equal(b, arp) {
			t.Errorf("%s", fmt.Sprint("ARP did not pass as it was: outer ", outer))
		}
	}
}
