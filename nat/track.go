package nat

import (
	"unsafe"

	"vswitch/vswitch/packet"
)

// Begins reports whether a packet of the connection, with this event (as Track
// takes it), begins a new one with the same tuple because the old one has ended: a
// SYN in TIME_WAIT or after a reset, or an INIT. Who wants to decide anew about it
// deletes id; else Track opens it again.
func (t *Table) Begins(id ID, event uint8) bool {
	e, a, b, ok := t.hold(id)
	if !ok {
		return false
	}
	proto, w := e.orig.Proto, word(e.state.Load())
	t.unlock(a, b)
	return w.ended() && next(proto, w, Original, event, 0).state() == SynSent
}

// Track shows a packet to its connection: the first of each direction, and all
// that open or close it (packet.Packet.Control). Others may be shown, too. event is
// packet.Packet.Event: TCP flags, or the type of an SCTP packet's first chunk. It
// reports false if the connection is gone.
func (t *Table) Track(id ID, dir Dir, event uint8, now uint32) bool {
	e, a, b, ok := t.hold(id)
	if !ok {
		return false
	}
	t.advance(e, id.entry(), dir, event, now)
	e.saw(dir, now)
	t.unlock(a, b)
	return true
}

// advance takes a connection that is held to its next state.
func (t *Table) advance(e *entry, i uint32, dir Dir, event uint8, now uint32) {
	old := word(e.state.Load())
	if old.state() == Closed && int32(now-e.seen[dir].Load()) <= 0 {
		// Packets of the second of the reset may have been behind it on the way.
		if w := next(e.orig.Proto, old, dir, event, 0); w.state() == Established {
			return
		}
	}
	w := next(e.orig.Proto, old, dir, event, now-e.created)
	if w == old {
		return
	}
	e.state.Store(uint32(w))
	s := t.shard(t.tags[2*i])
	if worth(w) != worth(old) {
		t.dequeue(s, i, old)
		t.enqueue(s, i, w)
	}
	was, is := t.timeout(e.orig.Proto, old), t.timeout(e.orig.Proto, w)
	if is < was {
		// The timers are lazy about being later; earlier they have to be told.
		t.disarm(s, i)
		t.arm(s, i, now+is, now)
	}
}

// Bar notes that a connection is not allowed any more, of which a packet of that
// direction was seen. It stays known; one of TCP counts as reset, and so not for
// long. Bar reports whether that is news.
func (t *Table) Bar(id ID, dir Dir, now uint32) bool {
	e, a, b, ok := t.hold(id)
	if !ok {
		return false
	}
	defer t.unlock(a, b)
	if word(e.state.Load()).has(Barred) {
		return false
	}
	if e.orig.Proto == packet.ProtoTCP {
		t.advance(e, id.entry(), dir, packet.TCPRst, now)
	}
	e.state.Store(uint32(word(e.state.Load()).with(Barred)))
	return true
}

// Unbar takes Bar back.
func (t *Table) Unbar(id ID) {
	if e, a, b, ok := t.hold(id); ok {
		e.state.Store(uint32(word(e.state.Load()).less(Barred)))
		t.unlock(a, b)
	}
}

// Touch reports what a flow has counted since it last did, and that a packet
// was seen at now. The worker calls it when a packet comes in another second
// than the flow's last one, before it counts that packet, and when it forgets
// the flow (now is the flow's LastSeen then). It reports false if the
// connection is gone. No lock is taken, but for a change of state.
func (t *Table) Touch(id ID, dir Dir, now uint32, packets uint32, bytes uint64) bool {
	if !t.Valid(id) {
		return false
	}
	e := &t.entries[id.entry()]
	if packets != 0 {
		e.packets[dir].Add(uint64(packets))
		e.bytes[dir].Add(bytes)
	}
	if w := word(e.state.Load()); w.expects(dir) && int32(now-e.seen[dir].Load()) >= 0 {
		t.settle(id, dir, now)
	}
	e.saw(dir, now)
	return true
}

// PrefetchConn begins to load what Touch will need of a connection, without waiting
// for it.
func (t *Table) PrefetchConn(id ID) {
	if id.entry() < t.high.Load() {
		e := &t.entries[id.entry()]
		prefetch(uintptr(unsafe.Pointer(&e.packets[0]))) // the first and the last of it
		prefetch(uintptr(unsafe.Pointer(&e.seen[1])))    // lie in two cache lines
	}
}

// Prefetch begins to load what Lookup and Begin will need for a tuple, without
// waiting for it.
func (t *Table) Prefetch(tuple *packet.Tuple) {
	h := tuple.Hash(t.seed)
	t.shard(uint32(h)).x.prefetch(h)
}

// expects reports whether a plain packet of the direction may change the
// connection.
func (w word) expects(dir Dir) bool {
	switch w.state() {
	case New, Replied:
		return true
	case SynRecv:
		return w.begunBy(dir)
	case Established:
		return !w.has(Assured) && (w.has(SeenReply) || !w.begunBy(dir))
	case Closed:
		return w.has(of(RstOriginal, dir))
	case Unreplied:
		return dir == Reply
	}
	return false // SynSent: what leads on from there comes by Track
}

// settle is Track for a packet without flags.
func (t *Table) settle(id ID, dir Dir, now uint32) {
	if e, a, b, ok := t.hold(id); ok {
		t.advance(e, id.entry(), dir, 0, now)
		t.unlock(a, b)
	}
}
