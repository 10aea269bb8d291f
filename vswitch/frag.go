package vswitch

import (
	"vswitch/nat"
	"vswitch/vswitch/packet"
)

// Bounds of what is kept for fragmented datagrams, a worker. A fragment that
// cannot be matched is never let through.
const (
	maxDatagrams = 1024      // of which some fragments are still to come
	maxWaiting   = 512 << 10 // bytes
	fragTimeout  = 15        // seconds (RFC 8200: 60 at most)
)

// fragments remembers, by the identification that all fragments of a datagram
// share, what was decided for the first one; only that one has ports. Fragments
// that overtake it wait. A datagram is forgotten when all of it has come, or
// else when its time is over or its slot is needed.
type fragments struct {
	m       map[fragKey]*datagram // those of slots that are in use
	slots   []datagram            // maxDatagrams, made with the first fragment
	next    int                   // the slot to take next; those before it were taken later
	waiting int                   // bytes
	wholes  []*whole              // at most maxWholes, made when they are needed
	begun   uint64                // how many wholes there have been
	// lost counts fragments that were kept for nothing, by the port they came in by.
	lost func(from uint16, n int)
}

type fragKey struct {
	src, dst packet.Addr
	id       uint32
	in       uint16
	proto    uint8
}

type datagram struct {
	key     fragKey
	used    bool
	denied  bool
	from    uint16 // the port that the first one to arrive came in by
	to      nat.Decision
	decided bool // by the first fragment
	expires uint32
	came    int // bytes of payload so far, whatever became of them
	size    int // bytes of payload in all; 0 until the last fragment came
	waiting []waiter
	whole   *whole // of a datagram for the switch itself
}

// waiter is a fragment that waits for the first one.
type waiter struct {
	frame  []byte
	l4     int // where its payload begins in the frame
	offset int // of its payload in the datagram
	more   bool
}

func newFragments(lost func(from uint16, n int)) *fragments {
	return &fragments{m: map[fragKey]*datagram{}, lost: lost}
}

// get returns the datagram of a key, a new one if need be. When there are too
// many it takes the place of one that waits longest: of those that still lack
// a fragment, that is the least likely to get it.
func (fs *fragments) get(k fragKey, from uint16, now uint32) *datagram {
	if d := fs.m[k]; d != nil {
		return d
	}
	if fs.slots == nil {
		fs.slots = make([]datagram, maxDatagrams)
	}
	for len(fs.m) < maxDatagrams && fs.slots[fs.next].used {
		fs.next = (fs.next + 1) % maxDatagrams
	}
	d := &fs.slots[fs.next]
	fs.next = (fs.next + 1) % maxDatagrams
	fs.forget(d)
	*d = datagram{key: k, used: true, from: from, expires: now + fragTimeout}
	fs.m[k] = d
	return d
}

// arrived counts a fragment, and forgets its datagram with the last one to
// come. One that comes twice makes that too early, and the rest of the datagram
// is lost. What is put together for the switch itself keeps its own count.
func (fs *fragments) arrived(d *datagram, offset, length int, more bool) {
	if !d.used || d.whole != nil {
		return
	}
	d.came += length
	if !more {
		d.size = offset + length
	}
	if d.size > 0 && d.came >= d.size {
		fs.forget(d)
	}
}

// expire forgets datagrams whose time is over.
func (fs *fragments) expire(now uint32) {
	for _, d := range fs.m {
		if int32(now-d.expires) >= 0 {
			fs.forget(d)
		}
	}
}

// forget makes room; what was still kept of the datagram is lost.
func (fs *fragments) forget(d *datagram) {
	if d.used {
		fs.lose(d)
		delete(fs.m, d.key)
		*d = datagram{}
	}
}

// lose gives up what is kept of a datagram.
func (fs *fragments) lose(d *datagram) {
	n := len(d.waiting)
	if d.whole != nil {
		n += d.whole.fragments
	}
	if n > 0 {
		fs.lost(d.from, n)
	}
	fs.release(d)
}

// release frees the memory of what is kept of a datagram.
func (fs *fragments) release(d *datagram) {
	fs.waiters(d)
	if d.whole != nil {
		d.whole.of, d.whole = nil, nil
	}
}

// waiters returns the fragments of a datagram that wait, which do not wait any
// longer.
func (fs *fragments) waiters(d *datagram) []waiter {
	ws := d.waiting
	for _, f := range ws {
		fs.waiting -= len(f.frame)
	}
	d.waiting = nil
	return ws
}

// fragment forwards one fragment the way its first one went.
func (w *worker) fragment(p *packet.Packet, info *PortInfo) Reason {
	// Whether anybody else may speak as this source, the first fragment tells:
	// the others are matched to it by the port they came in by, too.
	if info.neighbor() && ([6]byte(w.in.Buf[p.Off+6:]) != info.MAC || !info.owns(&p.Tuple.Src)) {
		return Spoofed
	}
	id, off, more := w.in.FragmentID(p)
	length := int(p.Len) - int(p.L4)
	// Overlapping tricks start with a first fragment that ends inside the
	// transport header, or a second one that begins there (RFC 1858, RFC 3128).
	if length <= 0 || off+length > w.in.MaxPayload(p) || more && length%8 != 0 || off == 8 && p.Tuple.Proto == packet.ProtoTCP {
		return Malformed
	}
	t := &p.Tuple
	d := w.frags.get(fragKey{t.Src, t.Dst, id, t.In, t.Proto}, w.from, w.seconds)
	defer w.frags.arrived(d, off, length, more)
	switch {
	case d.whole != nil:
		return w.collect(p, d, info, off, more)
	case off == 0:
		return w.firstFragment(p, d, info, more)
	case d.denied:
		return FragmentLost
	case !d.decided:
		return w.wait(p, d, off, more)
	}
	return w.follow(p, d)
}

// firstFragment decides for the whole datagram, and sends after it what came earlier.
func (w *worker) firstFragment(p *packet.Packet, d *datagram, info *PortInfo, more bool) Reason {
	if d.decided || d.denied {
		return FragmentLost // a second first fragment: an overlap
	}
	v := w.decide(w.in, p, info, &d.to)
	if v.reason == Answered && w.in.EchoRequest(p) {
		return w.assemble(p, d, info, more)
	}
	if v.reason != Forwarded {
		d.denied = true
		w.frags.lose(d)
		if v.reason == Answered { // nothing else on the switch itself takes fragments
			return NoListener
		}
		return w.reject(p, v.reason)
	}
	d.decided = true
	r := w.follow(p, d)
	if r == Forwarded && v.begins {
		w.observe(p, &v.to, r)
	}
	// This fragment leaves from the batch it came in, or was cut; the others
	// leave from the batch of what the switch made, which is flushed after it.
	for _, f := range w.frags.waiters(d) {
		if r := w.late(f.frame, p, d); r != Forwarded && r != Answered {
			w.died(d.from, r, 1)
		}
	}
	return r
}

// late sends a fragment that waited for the first one, p. It is handled in a
// batch of its own, as if it had just come in, and copied to what the switch made.
func (w *worker) late(frame []byte, p *packet.Packet, d *datagram) Reason {
	if w.waited == nil {
		w.waited = packet.NewBatch()
	}
	in := w.in
	defer func() { w.in = in }()
	w.in = w.waited
	w.in.Reset()
	q := w.in.Append(frame)
	q.In = p.In
	w.in.Parse(q)
	q.Tuple.Flags, q.Hash = p.Tuple.Flags, p.Hash
	if r := w.follow(q, d); r != Forwarded {
		return r
	}
	n := copy(w.room(), w.in.Frame(q))
	m := w.made.Add(w.made.Next(), n)
	m.Out, m.Peer, m.Hash = q.Out, q.Peer, q.Hash
	w.outMade.add(m.Out, m, len(w.made.Packets)-1)
	return Forwarded
}

// died counts fragments that had not been dropped when they came.
func (w *worker) died(from uint16, r Reason, n int) {
	drops := &w.sw.drops
	if a := w.sw.port(from); a != nil {
		drops = &a.drops
	}
	drops[r].Add(uint64(n))
}

// fragmentsLost counts fragments that were kept for nothing.
func (w *worker) fragmentsLost(from uint16, n int) { w.died(from, FragmentLost, n) }

// follow sends a fragment the way that was decided.
func (w *worker) follow(p *packet.Packet, d *datagram) Reason {
	if d.to.Gen != w.tables.Gen {
		return FragmentLost // the world changed in the middle of a datagram
	}
	if r := w.fits(p, &d.to); r != Forwarded {
		return r
	}
	if p.Tuple.Flags&packet.Routed != 0 && !w.in.DecrementTTL(p) {
		w.timeExceeded(p)
		return TTLExpired
	}
	if !w.apply(w.in, p, &d.to) {
		return Untranslatable
	}
	return Forwarded
}

// wait keeps a fragment that came before the first one.
func (w *worker) wait(p *packet.Packet, d *datagram, off int, more bool) Reason {
	if w.frags.waiting+int(p.Len) > maxWaiting {
		return FragmentLost
	}
	d.waiting = append(d.waiting, waiter{w.in.AppendTo(nil, p), int(p.L4), off, more})
	w.frags.waiting += int(p.Len)
	return Answered
}
