package nat

import (
	"math/bits"
	"sync"
)

// ground is the memory of the slots of indexes that have about as many entries
// each, as those of a table's shards. So they are of one size at a time, and all
// of that size lie side by side in a region, which is worth huge pages long before
// a single one of them would be. It is given back when the last of them has left.
// Where one index alone is of a size, it keeps room for all.
type ground struct {
	sync.Mutex
	indexes int // how many there are on it
	sizes   [32]struct {
		mem   *region
		users int
	} // by the binary logarithm of the number of slots
}

// take returns so many empty slots, a power of two, for index i. It may take each
// number once: what it had before would not be empty while others have theirs.
func (g *ground) take(i, slots int) []uint32 {
	g.Lock()
	defer g.Unlock()
	s := &g.sizes[bits.TrailingZeros(uint(slots))]
	if s.mem == nil {
		s.mem = reserve(g.indexes * slots * 4)
		s.mem.ahead(len(s.mem.mem)) // a quarter of all slots are used as soon as all have moved
	}
	s.users++
	return words(s.mem.mem[i*slots*4:], slots)
}

// give takes slots back that take returned. Nobody waits for the system to take
// what was the last of a region.
func (g *ground) give(slots []uint32) {
	g.Lock()
	defer g.Unlock()
	s := &g.sizes[bits.TrailingZeros(uint(len(slots)))]
	if s.users--; s.users == 0 {
		go s.mem.close()
		s.mem = nil
	}
}
