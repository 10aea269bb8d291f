package port

import (
	"sync"

	"vswitch/vswitch/packet"
)

// Bounds of a queue.
const (
	// queueDepth is the largest number of packets in a queue, about what the
	// kernel keeps for a network device (txqueuelen).
	queueDepth = 1024
	// queueBytes bounds their bytes.
	queueBytes = 4 << 20
	// queueStart is the size a queue starts with. It grows with what is sent
	// through it and never shrinks: most ports in memory carry little.
	queueStart = 4 << 10
)

// queue is a bounded queue of packets: bytes and offload metadata. The packets
// lie one behind the other in a ring of bytes. It allocates only to grow, so
// not at all once the traffic has shown its largest burst.
//
// Any number of goroutines may put; one takes. Both hold mu, once a batch.
type queue struct {
	mu      sync.Mutex
	changed sync.Cond // on mu: something was put or taken, or the queue was closed
	buf     []byte
	recs    []record // a ring of a power of two
	first   int      // index of the oldest record
	count   int
	tail    int // end of the newest record in buf
	limit   int // largest len(buf)

	closed bool   // nothing can be put any more
	idle   bool   // the taker found it empty; the next put wakes it
	wake   func() // nil: nobody asked
}

// record describes one packet in a queue.
type record struct {
	off, n                         uint32
	gso                            packet.GSO
	flags                          uint8
	hdrLen, size, csum, csumOffset uint16
}

// init makes q ready. It is called once, before q is shared.
func (q *queue) init(limit int) {
	q.changed.L = &q.mu
	q.limit = limit
	q.buf = make([]byte, min(queueStart, limit))
	q.recs = make([]record, 16)
	q.idle = true
}

// put reserves n bytes for a packet and returns them to be filled, or nil when
// the queue is full or closed. The caller holds mu.
func (q *queue) put(n int, p *packet.Packet) []byte {
	if q.closed || n > q.limit {
		return nil
	}
	if q.count == len(q.recs) {
		if q.count == queueDepth {
			return nil
		}
		q.growRecords()
	}
	off, ok := q.place(n)
	for !ok {
		if len(q.buf) == q.limit {
			return nil
		}
		q.growBytes()
		off, ok = q.place(n)
	}
	q.tail = off + n
	q.recs[(q.first+q.count)&(len(q.recs)-1)] = record{
		off: uint32(off), n: uint32(n),
		gso: p.GSO, flags: p.Flags,
		hdrLen: p.HdrLen, size: p.GSOSize, csum: p.CsumStart, csumOffset: p.CsumOffset,
	}
	q.count++
	return q.buf[off : off+n : off+n]
}

// place finds n contiguous free bytes.
func (q *queue) place(n int) (off int, ok bool) {
	if q.count == 0 {
		return 0, n <= len(q.buf)
	}
	head := int(q.recs[q.first].off)
	if q.tail > head {
		if n <= len(q.buf)-q.tail {
			return q.tail, true
		}
		return 0, n <= head
	}
	return q.tail, n <= head-q.tail
}

func (q *queue) growRecords() {
	recs := make([]record, 2*len(q.recs))
	for i := range q.count {
		recs[i] = *q.at(i)
	}
	q.recs, q.first = recs, 0
}

func (q *queue) growBytes() {
	buf := make([]byte, min(2*len(q.buf), q.limit))
	n := 0
	for i := range q.count {
		r := q.at(i)
		copy(buf[n:], q.buf[r.off:r.off+r.n])
		r.off = uint32(n)
		n += int(r.n)
	}
	q.buf, q.tail = buf, n
}

// at returns the i-th oldest record.
func (q *queue) at(i int) *record { return &q.recs[(q.first+i)&(len(q.recs)-1)] }

// bytes returns the bytes of r.
func (q *queue) bytes(r *record) []byte { return q.buf[r.off : r.off+r.n] }

// drop forgets the oldest record.
func (q *queue) drop() {
	q.first = (q.first + 1) & (len(q.recs) - 1)
	q.count--
}

// flush ends a series of puts: it releases mu and wakes the taker if it sleeps.
func (q *queue) flush() {
	var wake func()
	if q.count > 0 && q.idle {
		q.idle = false
		wake = q.wake
	}
	q.mu.Unlock()
	q.changed.Signal()
	if wake != nil {
		wake()
	}
}

// waitSpace blocks until n bytes can be put or the queue is closed, and reports
// whether they can. The caller, the only one who puts, holds mu; what it put
// before is shown to the taker first.
func (q *queue) waitSpace(n int) bool {
	for !q.closed {
		fits := q.count < queueDepth
		if fits && len(q.buf) == q.limit {
			_, fits = q.place(n)
		}
		if fits {
			return true
		}
		if q.idle && q.wake != nil {
			// Not under mu: wake may come back to the queue.
			q.idle = false
			wake := q.wake
			q.mu.Unlock()
			wake()
			q.mu.Lock()
			continue
		}
		q.changed.Wait()
	}
	return false
}

// read moves packets to b, as Port.Read does. It is the taker.
func (q *queue) read(b *packet.Batch, limit int) (int, error) {
	q.mu.Lock()
	n := 0
	for n < limit && q.count > 0 && !b.Full() {
		r := q.at(0)
		off := b.Next()
		copy(b.Buf[off:], q.bytes(r))
		p := b.Add(off, int(r.n))
		p.GSO, p.Flags = r.gso, r.flags
		p.HdrLen, p.GSOSize, p.CsumStart, p.CsumOffset = r.hdrLen, r.size, r.csum, r.csumOffset
		q.drop()
		n++
	}
	var err error
	if n == 0 && q.count == 0 && q.closed {
		err = ErrClosed
	}
	// Whoever left something here will not be told by the next put, because
	// the queue is not empty then; so it is told now.
	var wake func()
	if q.idle = q.count == 0; !q.idle || (q.closed && n > 0) {
		wake = q.wake
	}
	q.mu.Unlock()
	if n > 0 {
		q.changed.Signal()
	}
	if wake != nil {
		wake()
	}
	return n, err
}

// notify implements Notifier for the taker.
func (q *queue) notify(wake func()) {
	q.mu.Lock()
	q.wake = wake
	now := wake != nil && (q.count > 0 || q.closed)
	if now {
		q.idle = false
	}
	q.mu.Unlock()
	if now {
		wake()
	}
}

// close ends the queue. What is in it can still be taken, unless discard.
func (q *queue) close(discard bool) {
	q.mu.Lock()
	if discard {
		q.count = 0
	}
	q.closed = true
	wake := q.wake
	q.mu.Unlock()
	q.changed.Broadcast()
	if wake != nil {
		wake()
	}
}

// clear forgets what is in the queue and returns how many packets that were.
func (q *queue) clear() int {
	q.mu.Lock()
	n := q.count
	q.count = 0
	q.mu.Unlock()
	q.changed.Signal()
	return n
}
