package gossip

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/bits"
	"net/netip"
	"slices"
)

// Claim is a node's claim on a pod range. Store it to keep the node's rank
// over a restart (Config.LastClaims).
type Claim struct {
	Prefix netip.Prefix `json:"prefix"`
	// Stamp is a Lamport time: the lower one is the older claim.
	Stamp uint64 `json:"stamp"`
	// Automatic claims were chosen by the node itself, which chooses again
	// where it loses one that has no pods.
	Automatic bool `json:"automatic,omitempty"`
}

// blindStamp is added to the stamps of a node that has seeds and could reach
// none: whatever it did not see was there before.
const blindStamp = 1 << 32

// Conflict is a claim that its node lost, because it overlaps an older one.
type Conflict struct {
	// Prefix is the range that Loser must not use.
	Prefix netip.Prefix
	Loser  string
	// Winner holds With, which overlaps Prefix.
	With   netip.Prefix
	Winner string
}

// String says what happened and what to do about it.
func (c Conflict) String() string {
	return fmt.Sprintf("pod range %s of node %s overlaps %s of node %s, which claimed it first: %s gets no traffic in it and accepts no pods; give %s another pod range",
		c.Prefix, c.Loser, c.With, c.Winner, c.Loser, c.Loser)
}

// bid is one claim of one node.
type bid struct {
	node string
	Claim
}

// before orders bids; no two different bids of live nodes are equal in it.
func (b bid) before(o bid) int {
	return cmp.Or(cmp.Compare(b.Stamp, o.Stamp), cmp.Compare(b.node, o.node), comparePrefix(b.Prefix, o.Prefix))
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// grant divides the ranges: in the order of the bids, each is granted that
// overlaps none granted before to another node. The result depends on the bids
// alone, not on their order, so every node that sees the same bids agrees.
func grant(bids []bid) (granted map[string][]netip.Prefix, conflicts []Conflict) {
	bids = slices.Clone(bids)
	slices.SortFunc(bids, bid.before)
	granted = map[string][]netip.Prefix{}
	won := make([]bid, 0, len(bids))
	for _, b := range bids {
		i := slices.IndexFunc(won, func(w bid) bool { return w.node != b.node && w.Prefix.Overlaps(b.Prefix) })
		if i >= 0 {
			conflicts = append(conflicts, Conflict{Prefix: b.Prefix, Loser: b.node, With: won[i].Prefix, Winner: won[i].node})
			continue
		}
		won = append(won, b)
		granted[b.node] = append(granted[b.node], b.Prefix)
	}
	for _, p := range granted {
		slices.SortFunc(p, comparePrefix)
	}
	slices.SortFunc(conflicts, func(a, b Conflict) int {
		return cmp.Or(cmp.Compare(a.Loser, b.Loser), comparePrefix(a.Prefix, b.Prefix))
	})
	return granted, conflicts
}

// free returns a range of length mask inside cluster that overlaps none of
// taken. The search starts where a hash of name points, so that a node comes
// back to its range while it is free, and nodes that start together seldom meet.
func free(cluster netip.Prefix, mask int, name string, taken []netip.Prefix) (netip.Prefix, bool) {
	h := fnv.New64a()
	h.Write([]byte(name))
	width := mask - cluster.Bits()
	if width < 0 || width > 32 || mask > cluster.Addr().BitLen() {
		return netip.Prefix{}, false
	}
	total := uint64(1) << width
	at := h.Sum64() % total
	for tried := uint64(0); tried < total; {
		p := subnet(cluster, mask, at)
		i := slices.IndexFunc(taken, p.Overlaps)
		if i < 0 {
			return p, true
		}
		step := uint64(1)
		if wide := mask - taken[i].Bits(); wide > 0 {
			// The taken range covers several of ours: go on behind it.
			size := uint64(1) << min(wide, width)
			step = size - at%size
		}
		tried += step
		at = (at + step) % total
	}
	return netip.Prefix{}, false
}

// subnet returns the range number i of length mask in cluster.
func subnet(cluster netip.Prefix, mask int, i uint64) netip.Prefix {
	a := cluster.Addr().As16()
	shift := 128 - mask
	if cluster.Addr().Is4() {
		shift = 32 - mask
	}
	hi, lo := binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])
	addHi, addLo := uint64(0), uint64(0)
	if shift >= 64 {
		addHi = i << (shift - 64)
	} else {
		addLo = i << shift
		addHi = i >> (64 - shift)
	}
	var carry uint64
	lo, carry = bits.Add64(lo, addLo, 0)
	hi, _ = bits.Add64(hi, addHi, carry)
	binary.BigEndian.PutUint64(a[:8], hi)
	binary.BigEndian.PutUint64(a[8:], lo)
	addr := netip.AddrFrom16(a)
	if cluster.Addr().Is4() {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, mask)
}
