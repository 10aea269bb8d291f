package policy

import (
	"math/rand/v2"
	"testing"

	"vswitch/vswitch/packet"
)

// TestPortsAgainstRanges compares compiled ports with the ranges they are made
// of, for every port.
func TestPortsAgainstRanges(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	protos := []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP, packet.ProtoICMP, 47}
	terms := make([][]portRange, 70)
	for i := 1; i < len(terms); i++ { // the first matches everything, some nothing
		terms[i] = []portRange{}
		for range r.IntN(5) {
			first := r.IntN(65536)
			last := min(first+[]int{0, 1, 3000, 65535}[r.IntN(4)], 65535)
			terms[i] = append(terms[i], portRange{protos[r.IntN(3)], uint16(first), uint16(last)})
		}
	}
	terms[1] = []portRange{{packet.ProtoTCP, 0, 65535}, {packet.ProtoUDP, 80, 90}, {packet.ProtoUDP, 91, 91}, {packet.ProtoUDP, 85, 86}}
	p := compilePorts(terms)
	for _, proto := range protos {
		for port := range 65536 {
			row := p.row(proto, uint16(port))
			for i := 0; i < len(terms); i += 1 + r.IntN(8) {
				want := terms[i] == nil
				for _, x := range terms[i] {
					want = want || x.proto == proto && int(x.first) <= port && port <= int(x.last)
				}
				if got := row[i/64]>>(i%64)&1 == 1; got != want {
					t.Fatalf("%s port %d, term %d %v: %v", packet.ProtoName(proto), port, i, terms[i], got)
				}
			}
		}
	}
}
