package nat

import (
	"errors"
	"sync"
	"sync/atomic"

	"vswitch/vswitch/packet"
)

// Errors of Create.
var (
	// ErrFull: the table has as many connections as it may have, and all of
	// them are in use.
	ErrFull = errors.New("connection table full")
	// ErrExists: one of the tuples belongs to a connection that exists.
	ErrExists = errors.New("connection exists")
)

// Table is the connection tracking of a node: every connection by both its
// tuples. All methods may be called from any goroutine; none allocates but Open,
// those that return copies of many and, now and then, one that makes it grow.
//
// The index is divided into shards by the hash of a tuple, each with its lock
// and its part of the timers. A lock is held for one operation on one
// connection. Where two are needed, that of the lower shard is taken first; the
// lock of the free entries comes last.
type Table struct {
	entries  []entry
	tags     []uint32 // hash bits of the tuples of entry i: 2i the original, 2i+1 the reply one
	links    []link   // of the timers, by entry
	shards   []shard
	shift    uint8 // of a tag, to its shard
	seed     uint64
	max      int
	timeouts seconds

	free struct {
		sync.Mutex
		head uint32 // first free entry plus one; linked by links.next
	}
	high                 atomic.Uint32 // entries before this one were used at least once; no other is touched
	mem, tagMem, linkMem *region

	count atomic.Int64
	hand  atomic.Uint32 // which shard evict begins with
	turn  atomic.Uint32 // which shard Expire begins with
	stats struct{ created, expired, evicted, refused, noPort atomic.Uint64 }

	backing backing
}

// shard is a part of the index, and the timers of the connections whose
// original tuple is in it.
type shard struct {
	sync.Mutex
	x      index
	heads  [slots + 1]uint32
	queues [kept]queue
	tick   uint32        // the last second that the timers have come to
	done   atomic.Uint32 // the last second whose timers are all done; read without the lock
	begun  bool          // both are valid
}

// Stats counts what has happened since Open.
type Stats struct {
	Created uint64
	// Expired connections ended by their timeout.
	Expired uint64
	// Evicted ones made room for others when the table was full.
	Evicted uint64
	// Refused: no room could be made (ErrFull).
	Refused uint64
	// NoPort: no source port was free (ErrNoPort).
	NoPort uint64
}

// Stats returns the counters.
func (t *Table) Stats() Stats {
	s := &t.stats
	return Stats{s.created.Load(), s.expired.Load(), s.evicted.Load(), s.refused.Load(), s.noPort.Load()}
}

// Len returns the number of connections.
func (t *Table) Len() int { return int(t.count.Load()) }

func (t *Table) shard(tag uint32) *shard { return &t.shards[uint64(tag)>>t.shift] }

// lock locks the shards of two tags.
func (t *Table) lock(a, b uint32) {
	x, y := uint64(a)>>t.shift, uint64(b)>>t.shift
	t.shards[min(x, y)].Lock()
	if x != y {
		t.shards[max(x, y)].Lock()
	}
}

func (t *Table) unlock(a, b uint32) {
	x, y := uint64(a)>>t.shift, uint64(b)>>t.shift
	t.shards[x].Unlock()
	if x != y {
		t.shards[y].Unlock()
	}
}

// find looks a tuple up in its shard, which is locked.
func (t *Table) find(s *shard, tuple *packet.Tuple, hash uint64) (ID, Dir, bool) {
	for c := s.x.seek(hash); ; {
		ref, ok := s.x.next(&c)
		if !ok {
			return 0, Original, false
		}
		e := &t.entries[ref/2]
		// A tuple may be its own reverse; then it is the original one.
		if sameTuple(&e.orig, tuple) {
			return makeID(e.commit.Load()>>1, ref/2), Original, true
		}
		if sameTuple(&e.reply, tuple) {
			return makeID(e.commit.Load()>>1, ref/2), Reply, true
		}
	}
}

// Lookup returns the connection that a packet with the tuple belongs to, and
// the direction. In and Flags of the tuple count; see packet.Tuple.Flow.
func (t *Table) Lookup(tuple *packet.Tuple) (ID, Dir, bool) {
	h := tuple.Hash(t.seed)
	s := t.shard(uint32(h))
	s.Lock()
	id, dir, ok := t.find(s, tuple, h)
	s.Unlock()
	return id, dir, ok
}

// Create makes a connection without translation. See CreateMapped.
func (t *Table) Create(orig *packet.Tuple, now uint32) (ID, error) {
	m := Mapping{Reply: orig.Reverse()}
	return t.CreateMapped(orig, &m, now)
}

// CreateMapped makes a connection that later packets find by its original and
// its reply tuple. With ErrExists, one of them is taken, and the ID is that of
// the connection that has it: another worker was faster, or a translation
// collides. With ErrFull there is no room: connections without answer, then
// those that never got beyond the handshake or are closed, have been given up
// before; those in use never are.
func (t *Table) CreateMapped(orig *packet.Tuple, m *Mapping, now uint32) (ID, error) {
	return t.create(orig, m, noEvent, now)
}

// noEvent is in place of the event of a packet where there is none.
const noEvent = -1

// create is CreateMapped, and Track of the first packet if there is an event.
func (t *Table) create(orig *packet.Tuple, m *Mapping, event int, now uint32) (ID, error) {
	w := kinds(orig, &m.Reply)
	if event != noEvent {
		w = next(orig.Proto, w, Original, uint8(event), 0)
	}
	h := [2]uint64{orig.Hash(t.seed), m.Reply.Hash(t.seed)}
	a, b := uint32(h[0]), uint32(h[1])
	s := t.shard(a)
	if s.due(now) {
		t.expireShard(s, now, expirePerCreate)
	}
	for range 4 {
		t.lock(a, b)
		r := t.shard(b)
		s.x.prefetch(h[0])
		r.x.prefetch(h[1])
		id, _, exists := t.find(s, orig, h[0])
		if !exists {
			id, _, exists = t.find(r, &m.Reply, h[1])
		}
		if exists {
			t.unlock(a, b)
			return id, ErrExists
		}
		if i, ok := t.take(); ok {
			id = t.write(i, orig, m, w, h, now)
			t.index(i, h)
			t.arm(s, i, now+t.timeout(orig.Proto, w), now)
			t.enqueue(s, i, w)
			t.unlock(a, b)
			t.stats.created.Add(1)
			return id, nil
		}
		t.unlock(a, b)
		if !t.evict(now) {
			break
		}
	}
	t.stats.refused.Add(1)
	return 0, ErrFull
}

// write fills the entry in and commits it.
func (t *Table) write(i uint32, orig *packet.Tuple, m *Mapping, w word, h [2]uint64, now uint32) ID {
	e := &t.entries[i]
	version := (e.commit.Load()>>1 + 1) & (1<<31 - 1)
	if version == 0 {
		version = 1
	}
	e.orig, e.reply = *orig, m.Reply
	e.service, e.backend, e.zone, e.why, e.via = m.Service, m.Backend, m.Zone, m.Why, m.Via
	e.created = now
	e.check = e.sum(h, version)
	for dir := range 2 {
		e.seen[dir].Store(now)
		e.packets[dir].Store(0)
		e.bytes[dir].Store(0)
	}
	e.state.Store(uint32(w))
	e.commit.Store(version<<1 | 1)
	return makeID(version, i)
}

// kinds returns a new connection's word, with what is translated.
func kinds(orig, reply *packet.Tuple) word {
	var w word
	if orig.Dst != reply.Src || orig.DstPort != reply.SrcPort {
		w = w.with(DNAT)
	}
	if orig.Src != reply.Dst || orig.SrcPort != reply.DstPort {
		w = w.with(SNAT)
	}
	return w
}

// index makes an entry findable. Its shards are locked.
func (t *Table) index(i uint32, h [2]uint64) {
	for dir, hash := range h {
		ref := 2*i + uint32(dir)
		atomic.StoreUint32(&t.tags[ref], uint32(hash))
		t.shard(uint32(hash)).x.insert(hash, ref)
	}
}

// take returns a free entry, or false when there are as many connections as
// there may be, or the file cannot grow.
func (t *Table) take() (uint32, bool) {
	t.free.Lock()
	defer t.free.Unlock()
	if t.count.Load() >= int64(t.max) {
		return 0, false
	}
	i := t.free.head - 1
	if t.free.head != 0 {
		t.free.head = t.links[i].next
	} else {
		i = t.high.Load()
		if int(i) == len(t.entries) || t.extend(i+1) != nil {
			return 0, false
		}
		t.high.Store(i + 1)
	}
	t.count.Add(1)
	return i, true
}

// extend makes the memory of the first n entries ready.
func (t *Table) extend(n uint32) error {
	// Nothing of an anonymous region can fail.
	_ = t.tagMem.ready(int(n) * 8)
	_ = t.linkMem.ready(int(n) * 8)
	return t.mem.ready(int(n) * entrySize)
}

// give returns an entry that is neither committed nor indexed nor armed.
func (t *Table) give(i uint32) {
	t.free.Lock()
	t.links[i].next = t.free.head
	t.free.head = i + 1
	t.count.Add(-1)
	t.free.Unlock()
}

// hold locks the shards of a connection if it still exists.
func (t *Table) hold(id ID) (e *entry, a, b uint32, ok bool) {
	i := id.entry()
	if !t.Valid(id) {
		return nil, 0, 0, false
	}
	e = &t.entries[i]
	a, b = atomic.LoadUint32(&t.tags[2*i]), atomic.LoadUint32(&t.tags[2*i+1])
	t.lock(a, b)
	if !e.live(id) { // it ended in between; the tags may be another one's
		t.unlock(a, b)
		return nil, 0, 0, false
	}
	return e, a, b, true
}

// drop removes a connection that is held, and lets go of it.
func (t *Table) drop(i uint32, e *entry, a, b uint32) {
	e.commit.Store(e.commit.Load() &^ 1)
	t.shard(a).x.remove(2 * i)
	t.shard(b).x.remove(2*i + 1)
	t.disarm(t.shard(a), i)
	t.dequeue(t.shard(a), i, word(e.state.Load()))
	t.unlock(a, b)
	t.give(i)
}

// Delete ends a connection. It reports whether it still existed.
func (t *Table) Delete(id ID) bool {
	e, a, b, ok := t.hold(id)
	if ok {
		t.drop(id.entry(), e, a, b)
	}
	return ok
}

// Valid reports whether the connection still exists.
func (t *Table) Valid(id ID) bool {
	return id.entry() < t.high.Load() && t.entries[id.entry()].live(id)
}

// Get returns a copy of a connection.
func (t *Table) Get(id ID) (Info, bool) {
	_, a, b, ok := t.hold(id)
	if !ok {
		return Info{}, false
	}
	c := t.info(id.entry())
	t.unlock(a, b)
	return c, true
}

// To returns the tuple that packets of one direction leave with: the reverse of
// what the other direction comes in with.
func (t *Table) To(id ID, dir Dir) (packet.Tuple, bool) {
	e, a, b, ok := t.hold(id)
	if !ok {
		return packet.Tuple{}, false
	}
	other := e.reply
	if dir == Reply {
		other = e.orig
	}
	t.unlock(a, b)
	return other.Reverse(), true
}
