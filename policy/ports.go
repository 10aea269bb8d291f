package policy

import (
	"slices"

	"vswitch/vswitch/packet"
)

// ports leads from a protocol and port to the row of the terms whose ports
// match it.
type ports struct {
	tcp, udp, sctp portRows
	// other is the row of protocols without ports, and of unknown ones.
	other []uint64
}

// portRows cuts the ports of a protocol into ranges of equal rows.
type portRows struct {
	starts []uint16 // of the ranges, in order, the first is 0
	rows   []uint64 // of each range
}

// row returns the row of a port.
func (p *ports) row(proto uint8, port uint16) []uint64 {
	var r *portRows
	switch proto {
	case packet.ProtoTCP:
		r = &p.tcp
	case packet.ProtoUDP:
		r = &p.udp
	case packet.ProtoSCTP:
		r = &p.sctp
	default:
		return p.other
	}
	lo, n := 0, len(r.starts)
	for n > 1 { // starts[lo] <= port always holds
		half := n / 2
		if r.starts[lo+half] <= port {
			lo += half
		}
		n -= half
	}
	words := len(p.other)
	return r.rows[lo*words : (lo+1)*words]
}

// portRange is ports of a protocol, both ends included.
type portRange struct {
	proto       uint8
	first, last uint16
}

// compilePorts builds ports from the ranges of each term. A term with nil
// ranges matches all protocols; one with none of them, nothing.
func compilePorts(terms [][]portRange) ports {
	words := rowWords(len(terms))
	p := ports{other: make([]uint64, words)}
	for i, ranges := range terms {
		if ranges == nil {
			p.other[i/64] |= 1 << (i % 64)
		}
	}
	p.tcp = p.compile(packet.ProtoTCP, terms)
	p.udp = p.compile(packet.ProtoUDP, terms)
	p.sctp = p.compile(packet.ProtoSCTP, terms)
	return p
}

// edge is where a term begins or ceases to match.
type edge struct {
	port uint32 // up to 65536
	term int
}

func (p *ports) compile(proto uint8, terms [][]portRange) portRows {
	var edges []edge
	for i, ranges := range terms {
		edges = appendEdges(edges, i, proto, ranges)
	}
	slices.SortFunc(edges, func(a, b edge) int { return int(a.port) - int(b.port) })
	now := slices.Clone(p.other)
	r := portRows{starts: []uint16{0}}
	for len(edges) > 0 && edges[0].port == 0 {
		now[edges[0].term/64] ^= 1 << (edges[0].term % 64)
		edges = edges[1:]
	}
	r.rows = append(r.rows, now...)
	for i, e := range edges {
		if e.port > 0xffff {
			break
		}
		now[e.term/64] ^= 1 << (e.term % 64)
		if i+1 < len(edges) && edges[i+1].port == e.port || slices.Equal(now, r.rows[len(r.rows)-len(now):]) {
			continue
		}
		r.starts = append(r.starts, uint16(e.port))
		r.rows = append(r.rows, now...)
	}
	return r
}

// appendEdges joins a term's ranges of one protocol, so that its bit turns on
// and off in turns.
func appendEdges(edges []edge, term int, proto uint8, ranges []portRange) []edge {
	var own []portRange
	for _, r := range ranges {
		if r.proto == proto {
			own = append(own, r)
		}
	}
	slices.SortFunc(own, func(a, b portRange) int { return int(a.first) - int(b.first) })
	for i := 0; i < len(own); {
		end := uint32(own[i].last) + 1
		j := i + 1
		for ; j < len(own) && uint32(own[j].first) <= end; j++ {
			end = max(end, uint32(own[j].last)+1)
		}
		edges = append(edges, edge{uint32(own[i].first), term}, edge{end, term})
		i = j
	}
	return edges
}

// rowWords returns how many words a row of n bits has; at least one, so that
// every row can be pointed at.
func rowWords(n int) int { return max(1, (n+63)/64) }

// setBit sets a bit of a row.
func setBit(row []uint64, bit int) { row[bit/64] |= 1 << (bit % 64) }

// setBits sets the bits of a list and no others.
func setBits(row []uint64, bits []int) {
	clear(row)
	for _, b := range bits {
		setBit(row, b)
	}
}

// orInto sets in row what is set in other.
func orInto(row, other []uint64) {
	for i, w := range other {
		row[i] |= w
	}
}
