package packet

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/gopacket/layers"
)

// TestRewriteRouted: it does what DecrementTTL and Rewrite do, or nothing, also
// with checksums that are wrong.
func TestRewriteRouted(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	b := NewBatch()
	for _, v6 := range []bool{false, true} {
		for name, s := range rewritten(v6) {
			for what, to := range targets(s) {
				t.Run(fmt.Sprintf("%s/v6=%v/%s", name, v6, what), func(t *testing.T) {
					from, dest := s.tuple(), to.tuple()
					tr := Translate(&from, &dest)
					short := tr.Short()
					ported := s.proto == layers.IPProtocolTCP || s.proto == layers.IPProtocolUDP
					for round := range 200 {
						partial := ported && !s.noChecksum && round%2 == 1
						b.Reset()
						add := s.add
						if partial {
							add = s.addPartial
						}
						p := add(t, b)
						q := add(t, b)
						if round > 1 { // whatever checksums, zeros among them, and ends of the TTL
							f, g := b.Frame(p), b.Frame(q)
							for _, i := range []int{22, 24, 25, 40, 41, 50, 51} {
								if !v6 && i < len(f) {
									f[i] = byte(rng.IntN(256) >> rng.IntN(9))
									g[i] = f[i]
								}
							}
						}
						b.Parse(p)
						b.Parse(q)
						before := bytes.Clone(b.Frame(q))
						done := b.RewriteRouted(q, &short)
						if !done {
							if !bytes.Equal(b.Frame(q), before) {
								t.Fatalf("round %d: refused, and changed", round)
							}
							if round < 2 && !v6 && ported && len(before) >= 54 {
								t.Fatal("refused")
							}
							continue
						}
						if !b.DecrementTTL(p) || !b.Rewrite(p, &tr) {
							t.Fatal("only one of both refuses")
						}
						if !bytes.Equal(b.Frame(p), b.Frame(q)) {
							t.Fatalf("round %d: %s", round, difference(b.Frame(q), b.Frame(p)))
						}
					}
				})
			}
		}
	}
}
