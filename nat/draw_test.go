package nat

import (
	"testing"

	"vswitch/vswitch/packet"
)

// TestDrawSpreads: whatever the seed, neighboring ports of one client are
// spread over all backends.
func TestDrawSpreads(t *testing.T) {
	from := make([]Backend, 4)
	for i := range from {
		from[i].ID = uint32(i)
	}
	for seed := range uint64(2000) {
		seed *= 0x9e3779b97f4a7c15
		var got [4]int
		for port := range uint16(200) {
			tuple := packet.Tuple{Src: packet.Addr{15: 2}, Dst: packet.Addr{15: 3}, SrcPort: 1000 + port, DstPort: 80, Proto: packet.ProtoTCP}
			got[Draw(from, tuple.Hash(seed)).ID]++
		}
		for i, n := range got {
			if n < 12 || n > 95 { // 50 ± 6 standard deviations and some
				t.Errorf("seed %#x: backend %d got %d of 200", seed, i, n)
			}
		}
	}
}
