package policy

import (
	"math/bits"

	"github.com/gaissmai/bart"

	"vswitch/vswitch/packet"
)

// direction is what policies say about one direction of a pod, or of all pods
// about which they say the same. It is a list of terms, of which the first that
// matches decides: the Admin tier, the NetworkPolicies, one that denies all if
// they isolate the pod, the Baseline tier. What no term matches is allowed.
//
// A term is a bit. Sets of them are rows of words; the terms that match a packet
// are those whose peer matches, by identity or by address, and whose ports do.
type direction struct {
	words  int // of a set of terms
	stride int // words of a row: twice as many, if some terms have port names
	// pages lead from an identity to its row. A nil page is of identities that
	// have row 0, as who is nobody has.
	pages []*page
	// rows are the terms whose peer the identity is, each followed, if stride
	// says so, by those whose named port the identity has, and all without names.
	rows []uint64
	// prefixes lead from an address to its row in blocks; nil: none.
	prefixes *bart.Table[uint32]
	blocks   []uint64
	ports    ports
	terms    []decision
	// network is the first term that is not of the Admin tier.
	network int
	// selected are the terms that have a selector of pods as peer.
	selected []uint64
	// openNames are rules with named ports of the peer: a pod that nobody knows
	// yet may have another port of the name than those that there are.
	openNames []decision
}

const pageSize = 128

// page holds numbers of rows.
type page [pageSize]uint32

// row returns the number of the identity's row.
func (d *direction) row(id uint32) uint32 {
	if n := int(id / pageSize); n < len(d.pages) && d.pages[n] != nil {
		return d.pages[n][id%pageSize]
	}
	return 0
}

// decide returns the first term that decides, or nil, and whether the packet
// may pass.
func (d *direction) decide(id uint32, other *packet.Addr, proto uint8, port uint16) (*decision, bool) {
	at := int(d.row(id)) * d.stride
	row := d.rows[at : at+d.stride]
	peers, names := row[:d.words], row[d.stride-d.words:]
	named := d.stride > d.words
	blocks := peers
	if d.prefixes != nil {
		if n, ok := d.prefixes.Lookup(other.Netip()); ok {
			blocks = d.blocks[int(n)*d.words:]
		}
	}
	blocks = blocks[:len(peers)]
	ports := d.ports.row(proto, port)[:len(peers)]
	from := 0 // the first term that still counts
	for i := 0; i < len(peers); {
		hit := (peers[i] | blocks[i]) & ports[i]
		if named {
			hit &= names[i]
		}
		if hit &= ^uint64(0) << max(from-i*64, 0); hit == 0 {
			i++
			continue
		}
		term := &d.terms[i*64+bits.TrailingZeros64(hit)]
		if term.action != pass {
			return term, term.action == accept
		}
		from = d.network
		if term.tier == baseline {
			from = len(d.terms)
		}
		i = from / 64
	}
	return nil, true
}
