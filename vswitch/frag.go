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
	flow    nat.Flow
	decided bool // by the first fragment
	expires uint32
	came    int // bytes of payload so far, whatever became of them
	size    int // bytes of payload in all; 0 until the last fragment came
	waiting [][]byte
}

func newFragments() *fragments { return &fragments{m: map[fragKey]*datagram{}} }

// get returns the datagram of a key, a new one if need be. When there are too
// many it takes the place of one that waits longest: of those that still lack
// a fragment, that is the least likely to get it.
func (fs *fragments) get(k fragKey, now uint32) *datagram {
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
	*d = datagram{key: k, used: true, expires: now + fragTimeout}
	fs.m[k] = d
	return d
}

// arrived counts a fragment, and forgets its datagram with the last one to
// come. One that comes twice makes that too early, and the rest of the datagram
// is lost.
func (fs *fragments) arrived(d *datagram, offset, length int, more bool) {
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

func (fs *fragments) forget(d *datagram) {
	if d.used {
		fs.release(d)
		delete(fs.m, d.key)
		*d = datagram{}
	}
}

func (fs *fragments) release(d *datagram) {
	for _, f := range d.waiting {
		fs.waiting -= len(f)
	}
	d.waiting = nil
}

// fragment forwards one fragment the way its first one went.
func (w *worker) fragment(p *packet.Packet, info *PortInfo) Reason {
	// Whether anybody else may speak as this source, the first fragment tells:
	// the others are matched to it by the port they came in by, too.
	if info.Kind == PortPod && ([6]byte(w.in.Buf[p.Off+6:]) != info.MAC || !info.owns(&p.Tuple.Src)) {
		return Spoofed
	}
	id, off, more := w.in.FragmentID(p)
	length := int(p.Len) - int(p.L4)
	// Overlapping tricks start with a first fragment that ends inside the
	// transport header, or a second one that begins there (RFC 1858, RFC 3128).
	if length <= 0 || off+length > packet.MaxIP || more && length%8 != 0 || off == 8 && p.Tuple.Proto == packet.ProtoTCP {
		return Malformed
	}
	t := &p.Tuple
	d := w.frags.get(fragKey{t.Src, t.Dst, id, t.In, t.Proto}, w.seconds)
	defer w.frags.arrived(d, off, length, more)
	switch {
	case off == 0:
		return w.firstFragment(p, d, info)
	case d.denied:
		return FragmentLost
	case !d.decided:
		return w.wait(p, d)
	}
	return w.follow(p, d)
}

// firstFragment decides for the whole datagram, and sends after it what came earlier.
func (w *worker) firstFragment(p *packet.Packet, d *datagram, info *PortInfo) Reason {
	if d.decided || d.denied {
		return FragmentLost // a second first fragment: an overlap
	}
	v := w.decide(w.in, p, info, &d.flow)
	if v.reason != Forwarded {
		d.denied = true
		w.frags.release(d)
		if v.reason == Answered { // nothing on the switch itself takes fragments
			return NoListener
		}
		return w.refuse(p, v.reason)
	}
	d.decided = true
	r := w.follow(p, d)
	if r != Forwarded && r != Answered { // it went, whole or cut
		w.frags.release(d)
		return r
	}
	// This fragment leaves from the batch it came in, the others from the
	// batch of what the switch made, which is flushed after it.
	for _, frame := range d.waiting {
		if w.made.Full() {
			break // they count as lost on the way
		}
		w.late(frame, p, d)
	}
	w.frags.release(d)
	return r
}

// late sends a fragment that came before p, the first one of its datagram.
func (w *worker) late(frame []byte, p *packet.Packet, d *datagram) {
	q := w.made.Append(frame)
	q.In, q.Hash = p.In, p.Hash
	w.made.Parse(q)
	q.Tuple.Flags = p.Tuple.Flags
	if q.Tuple.Flags&packet.Routed != 0 && !w.made.DecrementTTL(q) || !apply(w.made, q, &d.flow) {
		return
	}
	if q.WireLen() <= int(d.flow.MTU) {
		w.outMade.add(q.Out, uint16(len(w.made.Packets)-1))
		return
	}
	whole := *q // the batch may move its descriptors
	for it := w.made.Fragments(&whole, int(d.flow.MTU)); !w.made.Full() && w.piece(&it, &whole); {
	}
}

// follow sends a fragment the way that was decided.
func (w *worker) follow(p *packet.Packet, d *datagram) Reason {
	if d.flow.Gen != w.tables.Gen {
		return FragmentLost // the world changed in the middle of a datagram
	}
	if r := w.fits(p, &d.flow); r != Forwarded {
		return r
	}
	if p.Tuple.Flags&packet.Routed != 0 && !w.in.DecrementTTL(p) {
		w.timeExceeded(p)
		return TTLExpired
	}
	if !apply(w.in, p, &d.flow) {
		return Untranslatable
	}
	return Forwarded
}

// wait keeps a fragment that came before the first one.
func (w *worker) wait(p *packet.Packet, d *datagram) Reason {
	if w.frags.waiting+int(p.Len) > maxWaiting {
		return FragmentLost
	}
	d.waiting = append(d.waiting, w.in.AppendTo(nil, p))
	w.frags.waiting += int(p.Len)
	return Answered
}
