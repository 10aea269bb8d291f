package nat

import (
	"math/bits"
	"sync/atomic"
	"unsafe"
)

const (
	// movesPerInsert and movesPerBatch are how many slots a growing index moves
	// with each insertion and each batch of lookups. Four an insertion would be
	// enough to be done before the next growth is due.
	movesPerInsert = 8
	movesPerBatch  = 16
)

// index finds entries by the hash of their key: open addressing with linear
// probing, at most half full, in slots of four bytes so that sixteen neighbours
// share a cache line. A slot holds the number of an entry plus one in its low
// bits and bits of the hash above; 0 is an empty slot.
//
// It grows without a pause: a table of twice the size takes over a few slots at
// a time, and until it has all of them what is not found in it is looked for in
// the old one. An entry is always in exactly one of both.
type index struct {
	slots []uint32
	mask  uint32
	refs  uint32 // the bits of a slot that hold the entry; all set: a slot that was emptied
	n     uint32 // entries

	old     []uint32 // nil unless growing
	oldMask uint32
	moved   uint32 // slots of old before this one are done

	// tags has the low half of every entry's hash, by entry. The caller sets it
	// before insert; several indexes may share it.
	tags []uint32

	// ground is where slots and old lie; number tells it whose they are.
	ground *ground
	number int

	// at and oldAt are where slots and old lie, with the binary logarithm of their
	// number in the low bits; 0: nowhere. They are for prefetch, by whoever, and
	// may be read at any time.
	at, oldAt uintptr
}

// makeIndex returns index number i of those on g, for entries 0 to size-1, that
// begins with so many slots, a power of two.
func makeIndex(g *ground, i, slots int, size uint32, tags []uint32) index {
	x := index{
		ground: g, number: i, slots: g.take(i, slots), mask: uint32(slots - 1),
		refs: 1<<bits.Len32(size+1) - 1, tags: tags,
	}
	x.at = place(x.slots)
	return x
}

// place returns the address of slots with the binary logarithm of their number.
func place(slots []uint32) uintptr {
	return uintptr(unsafe.Pointer(unsafe.SliceData(slots)))&^63 | uintptr(bits.Len32(uint32(len(slots)-1)))
}

// prefetch begins to load what next and insert will need for a hash. It may be
// called at any time, and needs no lock: what has moved meanwhile is only not
// there when it is needed, even if its memory was given back.
func (x *index) prefetch(hash uint64) {
	for _, at := range [...]uintptr{atomic.LoadUintptr(&x.at), atomic.LoadUintptr(&x.oldAt)} {
		if at != 0 {
			prefetch(at&^63 + uintptr(uint32(hash)&(1<<(at&63)-1))*4)
		}
	}
}

func (x *index) close() {
	x.ground.give(x.slots)
	if x.old != nil {
		x.ground.give(x.old)
	}
	*x = index{}
}

// cursor walks over the entries that may have a hash.
type cursor struct {
	pos, tag, want uint32
	old            bool
}

// seek returns a cursor for a hash.
func (x *index) seek(hash uint64) cursor {
	return cursor{pos: uint32(hash), tag: uint32(hash), want: uint32(hash>>32) &^ x.refs}
}

// next returns the next entry that may have the cursor's hash.
func (x *index) next(c *cursor) (entry uint32, ok bool) {
	for {
		slots, mask := x.slots, x.mask
		if c.old {
			slots, mask = x.old, x.oldMask
		}
		for s := slots[c.pos&mask]; s != 0; s = slots[c.pos&mask] {
			c.pos++
			if s&^x.refs == c.want && s != x.refs {
				return s&x.refs - 1, true
			}
		}
		if c.old || x.old == nil {
			return 0, false
		}
		c.old, c.pos = true, c.tag
	}
}

// insert adds an entry that is not in the index. Its tag is set.
func (x *index) insert(hash uint64, entry uint32) {
	switch {
	case x.old != nil:
		x.migrate(movesPerInsert)
	case x.n >= uint32(len(x.slots)/2):
		x.grow()
	}
	x.put(uint32(hash), uint32(hash>>32)&^x.refs|(entry+1))
	x.n++
}

// put stores a slot at the first empty place from its home on.
func (x *index) put(tag, slot uint32) {
	pos := tag & x.mask
	for x.slots[pos] != 0 {
		pos = (pos + 1) & x.mask
	}
	x.slots[pos] = slot
}

// locate returns the slot of an entry.
func (x *index) locate(entry uint32) (slots []uint32, pos uint32, ok bool) {
	tag := x.tags[entry]
	for pos = tag & x.mask; x.slots[pos] != 0; pos = (pos + 1) & x.mask {
		if x.slots[pos]&x.refs == entry+1 {
			return x.slots, pos, true
		}
	}
	if x.old == nil {
		return nil, 0, false
	}
	for pos = tag & x.oldMask; x.old[pos] != 0; pos = (pos + 1) & x.oldMask {
		if x.old[pos]&x.refs == entry+1 {
			return x.old, pos, true
		}
	}
	return nil, 0, false
}

// remove takes an entry out.
func (x *index) remove(entry uint32) {
	slots, pos, ok := x.locate(entry)
	if !ok {
		return
	}
	x.n--
	if &slots[0] != &x.slots[0] {
		slots[pos] = x.refs // nothing is added to the old table: the mark stays till it goes
		return
	}
	// Close the gap: whoever stands behind it and not before its home moves up.
	for next := (pos + 1) & x.mask; ; next = (next + 1) & x.mask {
		s := slots[next]
		if s == 0 {
			break
		}
		home := x.tags[s&x.refs-1] & x.mask
		if (next-home)&x.mask >= (next-pos)&x.mask {
			slots[pos] = s
			pos = next
		}
	}
	slots[pos] = 0
}

// rename gives the entry from the number to. Its tag moves along.
func (x *index) rename(from, to uint32) {
	if slots, pos, ok := x.locate(from); ok {
		slots[pos] = slots[pos]&^x.refs | (to + 1)
		x.tags[to] = x.tags[from]
	}
}

// grow begins to move to a table of twice the size.
func (x *index) grow() {
	x.old, x.oldMask, x.moved = x.slots, x.mask, 0
	x.slots = x.ground.take(x.number, 2*len(x.old))
	x.mask = uint32(len(x.slots) - 1)
	atomic.StoreUintptr(&x.oldAt, x.at)
	atomic.StoreUintptr(&x.at, place(x.slots))
}

// migrate moves up to n slots of the old table, n being at most movesPerBatch. The
// tags of all of them are read first, so that the waits for memory overlap.
func (x *index) migrate(n int) {
	if x.old == nil {
		return
	}
	from := x.old[x.moved:min(x.moved+uint32(n), uint32(len(x.old)))]
	var tags [movesPerBatch]uint32
	for i, s := range from {
		if s != 0 && s != x.refs {
			tags[i] = x.tags[s&x.refs-1]
		}
	}
	for i, s := range from {
		if s != 0 && s != x.refs {
			x.put(tags[i], s)
			from[i] = x.refs
		}
	}
	if x.moved += uint32(len(from)); x.moved > x.oldMask {
		x.ground.give(x.old)
		x.old = nil
		atomic.StoreUintptr(&x.oldAt, 0)
	}
}
