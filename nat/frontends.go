package nat

import (
	"encoding/binary"
	"math/bits"
	"slices"

	"vswitch/vswitch/packet"
)

// fanout is the number of branches of a node of frontends.
const fanout = 128

// frontends finds the frontend at an address, protocol and port: a tree of two
// levels over the hash of all three, with a few slots at the end of a path. So
// of ten thousand services, one is found with one cache line for each of the
// three, none of which needs much computing to be found. It never changes; with
// returns another one, that shares all other paths.
type frontends struct{ root *[fanout]*branch }

type branch [fanout][]slot

// slot is a frontend and where it is.
type slot struct {
	addr packet.Addr
	key  uint32
	*Frontend
}

// path returns the branches that lead to an address and key. Both are chosen by
// whoever runs the cluster, so nobody need be kept from finding some that meet.
func path(addr *packet.Addr, key uint32) (first, second uint32) {
	hi := binary.NativeEndian.Uint64(addr[:8])
	lo := binary.NativeEndian.Uint64(addr[8:])
	a, b := bits.Mul64(hi^0xa0761d6478bd642f, lo^0xe7037ed1a0b428db)
	a, b = bits.Mul64(a^b^0x8ebc6af09c88c6e3, uint64(key)^0x589965cc75374cc3)
	h := uint32((a ^ b) >> 32)
	return h % fanout, h / fanout % fanout
}

// end returns the slots at the end of the path to an address and key, or nil.
func (fs *frontends) end(addr *packet.Addr, key uint32) *[]slot {
	first, second := path(addr, key)
	if fs.root == nil || fs.root[first] == nil {
		return nil
	}
	return &fs.root[first][second]
}

// among returns the frontend among slots, or nil.
func among(slots []slot, addr *packet.Addr, key uint32) *Frontend {
	for i := range slots {
		if s := &slots[i]; s.key == key && s.addr == *addr {
			return s.Frontend
		}
	}
	return nil
}

func (fs *frontends) get(addr *packet.Addr, key uint32) *Frontend {
	if end := fs.end(addr, key); end != nil {
		return among(*end, addr, key)
	}
	return nil
}

// with returns frontends of which f, if not nil, is the one at an address and key.
func (fs frontends) with(addr packet.Addr, key uint32, f *Frontend) frontends {
	first, second := path(&addr, key)
	var root [fanout]*branch
	if fs.root != nil {
		root = *fs.root
	}
	var b branch
	if root[first] != nil {
		b = *root[first]
	}
	var slots []slot
	for _, s := range b[second] {
		if s.key != key || s.addr != addr {
			slots = append(slots, s)
		}
	}
	if f != nil {
		slots = append(slots, slot{addr, key, f})
	}
	b[second], root[first] = slots, &b
	if slots == nil && !slices.ContainsFunc(b[:], func(s []slot) bool { return s != nil }) {
		root[first] = nil
	}
	if root == ([fanout]*branch{}) {
		return frontends{}
	}
	return frontends{&root}
}
