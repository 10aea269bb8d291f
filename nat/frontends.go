package nat

import (
	"encoding/binary"
	"math/bits"

	"vswitch/vswitch/packet"
)

// pages is the number of pages of frontends.
const pages = 256

// frontends finds the frontend at an address, protocol and port, by the hash of
// all three: it chooses a page, and in it a slot. With ten thousand services, that
// is one cache line that is not at hand. It never changes; with returns another
// one, that shares all pages but one.
type frontends struct{ root *[pages]page }

// page is a hash table with linear probing, at most half full. The number of
// slots is a power of two.
type page []slot

// nearby is how many backends a slot has room for.
const nearby = 11

// slot is a frontend and its address. Without a service, it is free. Where there
// are not many backends, and any of them will do, it has a copy of them. The chosen
// one then mostly lies on the same page of memory, and the processor need not walk
// its tables for another one. Address and frontend are in one cache line: a slot is
// some of them long, and Go's memory of this kind begins a word behind the
// beginning of one.
type slot struct {
	addr packet.Addr
	Frontend
	near [nearby]Backend
	_    [8]byte
}

func (s *slot) free() bool { return s.Service == nil }

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

// page returns the page that a hash chooses.
func (fs *frontends) page(hash uint32) page {
	if fs.root == nil {
		return nil
	}
	return fs.root[hash%pages]
}

// home returns the number of the slot that a hash chooses, of a page that has some.
func (p page) home(hash uint32) uint32 { return hash / pages & uint32(len(p)-1) }

// get returns the frontend at an address and key with that hash, or nil.
func (p page) get(addr *packet.Addr, key, hash uint32) *Frontend {
	if len(p) == 0 {
		return nil
	}
	for i := p.home(hash); ; i = (i + 1) & uint32(len(p)-1) {
		if s := &p[i]; s.free() {
			return nil
		} else if s.is(addr, key) {
			return &s.Frontend
		}
	}
}

func (fs *frontends) get(addr *packet.Addr, key uint32) *Frontend {
	hash := hashOf(addr, key)
	return fs.page(hash).get(addr, key, hash)
}

// with returns frontends of which f, if not nil, is the one at an address and key;
// if it is nil, none is.
func (fs frontends) with(addr packet.Addr, key uint32, f *Frontend) frontends {
	var root [pages]page
	if fs.root != nil {
		root = *fs.root
	}
	p := &root[hashOf(&addr, key)%pages]
	keep := make([]slot, 0, len(*p)/2+1)
	for _, s := range *p {
		if !s.free() && !s.is(&addr, key) {
			keep = append(keep, s)
		}
	}
	if f != nil {
		s := slot{addr: addr, Frontend: *f}
		s.key = key
		keep = append(keep, s)
	}
	*p = nil
	if len(keep) > 0 {
		*p = make(page, 2<<bits.Len(uint(len(keep)-1)))
	}
	for _, s := range keep {
		p.put(s)
	}
	for _, p := range &root {
		if p != nil {
			return frontends{&root}
		}
	}
	return frontends{}
}

// put gives a slot a place that is free.
func (p page) put(s slot) {
	i := p.home(hashOf(&s.addr, s.key))
	for !p[i].free() {
		i = (i + 1) & uint32(len(p)-1)
	}
	p[i] = s
	if s.Random && s.backends <= nearby {
		copy(p[i].near[:], s.Service.Cluster)
		p[i].first = &p[i].near[0]
	}
}
