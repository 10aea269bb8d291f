package nat

import (
	"encoding/binary"
	"math/bits"

	"vswitch/vswitch/packet"
)

// pages is the number of pages of frontends.
const pages = 256

// frontends finds the frontend at an address, protocol and port, by the hash of
// all three: it chooses a page, and in it a slot. It never changes; with returns
// another one, that shares the pages in which nothing is to change.
type frontends struct{ root *[pages]page }

// page is a hash table: its slots lie densely, beside an index with linear probing
// that is at most half full. So there is little memory that one in ten thousand
// services may be in.
type page struct {
	// index has the number of a slot plus one in the low bits, as many as its own
	// length has, and bits of the hash above; 0 is free. Its length is a power of two.
	index []uint32
	slots []slot
}

// nearby is how many backends a slot has room for.
const nearby = 11

// slot is a frontend and its address. Where there are not many backends, and any
// of them will do, it has a copy of them. The chosen one then mostly lies on the
// same page of memory, and the processor need not walk its tables for another one.
// Address and frontend are in one cache line: a slot is some of them long, and Go's
// memory of this kind begins a word behind the beginning of one.
type slot struct {
	addr packet.Addr
	Frontend
	near [nearby]Backend
}

func (s *slot) is(addr *packet.Addr, key uint32) bool { return s.key == key && s.addr == *addr }

// hashOf returns what finds the slot of an address and key. Who runs the cluster
// has chosen them, and need not be kept from finding some that meet.
func hashOf(addr *packet.Addr, key uint32) uint32 {
	hi := binary.NativeEndian.Uint64(addr[:8])
	lo := binary.NativeEndian.Uint64(addr[8:])
	a, b := bits.Mul64(hi^0xa0761d6478bd642f, lo^0xe7037ed1a0b428db)
	a, b = bits.Mul64(a^b^0x8ebc6af09c88c6e3, uint64(key)^0x589965cc75374cc3)
	return uint32((a ^ b) >> 32)
}

// page returns the page that a hash chooses, of frontends that are not empty.
func (fs *frontends) page(hash uint32) *page { return &fs.root[hash%pages] }

// home returns where the search for a hash begins, in a page that is not empty.
func (p *page) home(hash uint32) *uint32 { return &p.index[hash/pages&uint32(len(p.index)-1)] }

// find returns the number plus one of the slot that a hash leads to first, and where
// in the index that stands; 0 is none. It is mostly the slot that is looked for,
// and it is not looked at here.
func (p *page) find(hash uint32) (n, at uint32) {
	if len(p.index) == 0 {
		return 0, 0
	}
	return p.next(hash, hash/pages)
}

// next is find from a place in the index on.
func (p *page) next(hash, at uint32) (n, where uint32) {
	mask := uint32(len(p.index) - 1)
	for {
		s := p.index[at&mask]
		if s == 0 || s&^mask == hash&^mask {
			return s & mask, at
		}
		at++
	}
}

// get returns the number plus one of the slot of an address and key with that
// hash, or 0.
func (p *page) get(addr *packet.Addr, key, hash uint32) uint32 {
	n, at := p.find(hash)
	for n != 0 && !p.slots[n-1].is(addr, key) {
		n, at = p.next(hash, at+1)
	}
	return n
}

func (fs *frontends) get(addr *packet.Addr, key uint32) *Frontend {
	if fs.root == nil {
		return nil
	}
	hash := hashOf(addr, key)
	p := fs.page(hash)
	if n := p.get(addr, key, hash); n != 0 {
		return &p.slots[n-1].Frontend
	}
	return nil
}

// placed is a frontend, or none, and where it is to be.
type placed struct {
	addr packet.Addr
	key  uint32
	f    *Frontend
}

// with returns frontends that are changed as told. No place may be told twice.
func (fs frontends) with(changes ...placed) frontends {
	var root [pages]page
	if fs.root != nil {
		root = *fs.root
	}
	var byPage [pages][]placed
	for _, c := range changes {
		n := hashOf(&c.addr, c.key) % pages
		byPage[n] = append(byPage[n], c)
	}
	empty := true
	for n := range root {
		if len(byPage[n]) > 0 {
			root[n] = root[n].with(byPage[n])
		}
		empty = empty && len(root[n].slots) == 0
	}
	if empty {
		return frontends{}
	}
	return frontends{&root}
}

// with returns a page that is changed as told.
func (p *page) with(changes []placed) (to page) {
	n, changed := len(p.slots), make([]bool, len(p.slots)+1) // by number plus one
	for _, c := range changes {
		old := p.get(&c.addr, c.key, hashOf(&c.addr, c.key))
		if changed[old] = true; old != 0 {
			n--
		}
		if c.f != nil {
			n++
		}
	}
	to.slots = make([]slot, 0, n)
	for i := range p.slots {
		if s := &p.slots[i]; !changed[i+1] {
			to.add(s.addr, s.key, &s.Frontend)
		}
	}
	for _, c := range changes {
		if c.f != nil {
			to.add(c.addr, c.key, c.f)
		}
	}
	if len(to.slots) == 0 {
		return page{}
	}
	to.index = make([]uint32, 2<<bits.Len(uint(len(to.slots)-1)))
	mask := uint32(len(to.index) - 1)
	for i := range to.slots {
		hash := hashOf(&to.slots[i].addr, to.slots[i].key)
		at := hash / pages
		for to.index[at&mask] != 0 {
			at++
		}
		to.index[at&mask] = hash&^mask | uint32(i+1)
	}
	return to
}

// add appends a slot, for which there is room, with a frontend.
func (p *page) add(addr packet.Addr, key uint32, f *Frontend) {
	p.slots = append(p.slots, slot{addr: addr, Frontend: *f})
	s := &p.slots[len(p.slots)-1]
	s.key = key
	if s.Random && s.backends <= nearby {
		copy(s.near[:], s.Service.Cluster)
		s.first = &s.near[0]
	}
}
