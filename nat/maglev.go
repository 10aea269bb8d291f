package nat

import (
	"encoding/binary"
	"hash/fnv"

	"vswitch/vswitch/packet"
)

// maglev is a lookup table by which every node gives the same packet to the
// same backend, and a change of backends moves few others (Eisenbud et al.,
// "Maglev", NSDI 2016, section 3.4).
type maglev struct {
	slots    []uint16 // indices of backends
	backends []Backend
}

// sizes are primes; a table has at least maglevShare slots a backend, so that
// none gets much more than another.
var maglevSizes = []int{251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521}

const maglevShare = 100

// newMaglev makes the table of backends, which must not change.
func newMaglev(backends []Backend) *maglev {
	if len(backends) == 0 {
		return nil
	}
	size := maglevSizes[len(maglevSizes)-1]
	for _, s := range maglevSizes {
		if s >= len(backends)*maglevShare {
			size = s
			break
		}
	}
	m := &maglev{slots: make([]uint16, size), backends: backends}
	taken := make([]bool, size)
	next := make([]uint32, len(backends)) // where each looks next
	skip := make([]uint32, len(backends))
	for i := range backends {
		h := backends[i].hash()
		next[i] = uint32(h % uint64(size))
		skip[i] = uint32(h>>32%uint64(size-1)) + 1
	}
	for filled := 0; filled < size; {
		for i := range backends {
			for taken[next[i]] {
				next[i] = (next[i] + skip[i]) % uint32(size)
			}
			taken[next[i]] = true
			m.slots[next[i]] = uint16(i)
			if filled++; filled == size {
				break
			}
		}
	}
	return m
}

// hash names the backend to all nodes alike.
func (b *Backend) hash() uint64 {
	h := fnv.New64a()
	h.Write(b.Addr[:])
	h.Write(binary.BigEndian.AppendUint16(nil, b.Port))
	v := h.Sum64()
	// The last bytes of FNV reach the upper bits too little.
	v ^= v >> 32
	v *= 0xd6e8feb86659fd93
	return v ^ v>>29
}

// maglevSeed is no secret: all nodes must agree, and so may clients, whose worst
// is to choose their own backend.
const maglevSeed = 0x76737769746368

// choose returns the backend of t if the table was made of these backends.
func (m *maglev) choose(from []Backend, t *packet.Tuple) *Backend {
	if len(from) != len(m.backends) || &from[0] != &m.backends[0] {
		return nil
	}
	u := t.Flow()
	return &from[m.slots[u.Hash(maglevSeed)%uint64(len(m.slots))]]
}
