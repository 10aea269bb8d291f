package nat

import (
	"fmt"
	"math/bits"
	"sync/atomic"
	"unsafe"

	"vswitch/vswitch/packet"
)

// MaxConns is the largest size of a Table.
const MaxConns = 1 << 26

// ID names a connection: its entry and, in the upper half, the entry's version,
// which changes with every use. The zero ID names none.
type ID uint64

func makeID(version, entry uint32) ID { return ID(version)<<32 | ID(entry) }

func (id ID) entry() uint32   { return uint32(id) }
func (id ID) version() uint32 { return uint32(id >> 32) }

// String gives "17.3": entry and version.
func (id ID) String() string { return fmt.Sprintf("%d.%d", id.entry(), id.version()) }

// Mapping is what a connection is made with, beside its original tuple. It
// never changes.
type Mapping struct {
	// Reply is the tuple of the answers as they come in: the reverse of the
	// original one after its translation.
	Reply packet.Tuple
	// All else is the caller's: the table keeps it, also in its file, and gives it
	// back. Why is how the service chose the backend.
	Service, Backend, Via uint32
	Zone                  uint16
	Why                   Choice
}

// entrySize is the size of an entry in bytes.
const entrySize = 160

// entry is a connection in the table's memory or file. What a Mapping says and
// the tuples are written before commit and stay as they are while it is
// committed; all else are single words that are changed atomically. So whoever
// is killed leaves a valid entry or none.
type entry struct {
	orig, reply packet.Tuple
	packets     [2]atomic.Uint64 // by Dir
	bytes       [2]atomic.Uint64
	// commit is the version shifted left by one, plus one if the entry is a
	// connection. It is written last at creation and first at removal.
	commit           atomic.Uint32
	state            atomic.Uint32 // a word
	created          uint32        // in seconds
	seen             [2]atomic.Uint32
	check            uint32 // finds damage: see sum
	service, backend uint32
	zone             uint16
	why              Choice
	via              uint32
	// Links of a queue; they mean nothing in a file that is opened.
	older, newer uint32
}

// live reports whether the entry is still the connection id.
func (e *entry) live(id ID) bool { return e.commit.Load() == id.version()<<1|1 }

// last returns when the connection was last seen.
func (e *entry) last() uint32 {
	a, b := e.seen[0].Load(), e.seen[1].Load()
	if int32(a-b) < 0 {
		return b
	}
	return a
}

// saw notes a packet. Time does not go back.
func (e *entry) saw(dir Dir, now uint32) {
	if int32(now-e.seen[dir].Load()) > 0 {
		e.seen[dir].Store(now)
	}
}

// sum folds what never changes about a connection into a word. The seeded
// hashes of its tuples are at hand when an entry is made and when a file is read.
func (e *entry) sum(h [2]uint64, version uint32) uint32 {
	hi, lo := bits.Mul64(h[0]^uint64(e.service)<<32^uint64(e.backend), h[1]^(uint64(e.zone)|uint64(e.why)<<16)<<32^uint64(e.via))
	return uint32((hi^lo)>>32) ^ version*0x9e3779b1 ^ e.created*0x85ebca6b
}

// Info is a copy of a connection.
type Info struct {
	ID          ID
	Orig, Reply packet.Tuple
	State       State
	Flags       ConnFlags
	// Created and Seen, by Dir, are in seconds of the caller's clock. Expires is
	// when the connection ends if nothing more is seen of it.
	Created uint32
	Seen    [2]uint32
	Expires uint32
	// Packets and Bytes, by Dir, are what flows have reported.
	Packets, Bytes [2]uint64

	Service, Backend, Via uint32
	Zone                  uint16
	Why                   Choice
}

// info copies the entry. Its shard is locked.
func (t *Table) info(i uint32) Info {
	e := &t.entries[i]
	w := word(e.state.Load())
	c := Info{
		ID: makeID(e.commit.Load()>>1, i), Orig: e.orig, Reply: e.reply,
		State: w.state(), Flags: w.flags(), Created: e.created,
		Service: e.service, Backend: e.backend, Via: e.via, Zone: e.zone, Why: e.why,
	}
	for dir := range 2 {
		c.Seen[dir] = e.seen[dir].Load()
		c.Packets[dir], c.Bytes[dir] = e.packets[dir].Load(), e.bytes[dir].Load()
	}
	c.Expires = e.last() + t.timeout(e.orig.Proto, w)
	return c
}

// entries views memory as n entries.
func entries(b []byte, n int) []entry {
	return unsafe.Slice((*entry)(unsafe.Pointer(unsafe.SliceData(b))), n)[:n:n]
}

// sameTuple compares all 40 bytes in five words, without a call.
func sameTuple(a, b *packet.Tuple) bool {
	x, y := (*[5]uint64)(unsafe.Pointer(a)), (*[5]uint64)(unsafe.Pointer(b))
	return (x[0]^y[0])|(x[1]^y[1])|(x[2]^y[2])|(x[3]^y[3])|(x[4]^y[4]) == 0
}
