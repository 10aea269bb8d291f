package overlay

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// Sizes of a sender's memory.
const (
	// maxSenders is how many workers write without waiting for another.
	maxSenders = 8
	maxRuns    = packet.BatchSize
	maxIovecs  = 512
	// headerBytes holds the VXLAN and inner headers of cut segments.
	headerBytes = 32 << 10
	// enough is how many bytes are collected before they are sent. Large
	// packets so leave at once, and keep the thread in the kernel only as long
	// as one of them takes; small ones leave together.
	enough = 32 << 10
)

// sender is the memory of one Write. It holds no Go pointers but to its queues.
type sender struct {
	mu      sync.Mutex // whoever writes
	queues  []queue    // by socket; nil until first used
	headers [headerBytes]byte
	used    int    // of headers
	bytes   int    // queued
	failed  uint64 // packets of this Write, by position, that were not sent
}

// queue is what is to be sent by one socket, in order.
type queue struct {
	n, niov int
	msgs    [maxRuns]mmsghdr
	ctls    [maxRuns]control
	runs    [maxRuns]run
	iovs    [maxIovecs]iovec
}

// run is one send: datagrams to one peer, all of one size but for the last,
// which may be shorter.
type run struct {
	peer   uint16
	ecn    uint8
	closed bool   // a shorter datagram ended it
	size   int    // of a datagram
	count  int    // of datagrams
	bytes  int    // sum
	iov    int    // first one in queue.iovs
	mask   uint64 // packets that are part of it, by position
}

// sender returns memory to write with, locked. With one worker, that is one
// uncontended lock a batch.
func (l *Link) sender() *sender {
	s := &l.senders[0]
	for i := range l.senders {
		if l.senders[i].mu.TryLock() {
			s = &l.senders[i]
			break
		}
		if i == maxSenders-1 {
			s.mu.Lock()
		}
	}
	if s.queues == nil {
		s.queues = make([]queue, len(l.send))
	}
	return s
}

// Write implements port.Port. Superpackets and runs of small packets to one
// peer leave with one system call; their payload is not copied. A packet of
// which a part was not sent does not count as sent.
func (l *Link) Write(b *packet.Batch, idx []uint16) (int, error) {
	if !l.guard.Enter() {
		return 0, fmt.Errorf("vxlan link on %s: %w", l.local, port.ErrClosed)
	}
	s := l.sender()
	t := l.peers.Load()
	sent := 0
	for len(idx) > 0 {
		n := min(len(idx), 64) // the bits of failed
		sent += l.write(s, t, b, idx[:n])
		idx = idx[n:]
	}
	s.mu.Unlock()
	runtime.KeepAlive(t)
	runtime.KeepAlive(b)
	l.guard.Leave()
	return sent, nil
}

func (l *Link) write(s *sender, t *peerTable, b *packet.Batch, idx []uint16) (sent int) {
	s.failed = 0
	for pos, i := range idx {
		p := &b.Packets[i]
		to := t.get(p.Peer)
		if d := l.sendable(p, to); d != dropNone {
			l.drop(d, p.Segments())
			s.failed |= 1 << pos
			continue
		}
		if p.GSO == packet.GSONone {
			l.single(s, t, to, b, p, pos)
		} else if !l.super(s, t, to, b, p, pos) {
			l.drop(DropMalformed, p.Segments())
			s.failed |= 1 << pos
		}
		if s.bytes >= enough {
			l.flush(s, t)
		}
	}
	l.flush(s, t)
	return len(idx) - bits.OnesCount64(s.failed)
}

// queueOf returns the queue of the socket that p's flow leaves by.
func (s *sender) queueOf(p *packet.Packet) *queue {
	return &s.queues[(p.Hash>>32)*uint64(len(s.queues))>>32]
}

// single queues an ordinary packet, behind a header in the headroom that every
// frame has.
func (l *Link) single(s *sender, t *peerTable, to *peer, b *packet.Batch, p *packet.Packet, pos int) {
	b.Complete(p)
	q := s.queueOf(p)
	if !q.room() {
		l.flush(s, t)
	}
	binary.BigEndian.PutUint64(b.Buf[p.Off-HeaderLen:], l.header)
	n := HeaderLen + int(p.Len)
	q.run(l, to, ecnOf(b.Buf[p.Off:p.Off+p.Len]), n, pos)
	q.add(unsafe.Pointer(&b.Buf[p.Off-HeaderLen]), n)
	s.bytes += n
}

// super cuts a superpacket and queues its segments, headers and payloads side
// by side. It reports false if there is nothing to send.
func (l *Link) super(s *sender, t *peerTable, to *peer, b *packet.Batch, p *packet.Packet, pos int) bool {
	c := b.Cut(p, false)
	q := s.queueOf(p)
	ecn := ecnOf(b.Frame(p))
	need := (HeaderLen + int(p.HdrLen) + 15) &^ 7
	if need > headerBytes {
		return false
	}
	any := false
	for {
		if !q.room() || len(s.headers)-s.used < need {
			l.flush(s, t)
		}
		at := s.headers[s.used:]
		n, payload, ok := c.Next(at[HeaderLen:])
		if !ok {
			return any
		}
		any = true
		binary.BigEndian.PutUint64(at, l.header)
		n += HeaderLen
		s.used += (n + 7) &^ 7
		s.bytes += n + len(payload)
		q.run(l, to, ecn, n+len(payload), pos)
		q.add(unsafe.Pointer(&at[0]), n)
		if len(payload) > 0 {
			q.add(unsafe.Pointer(&payload[0]), len(payload))
		}
	}
}

// room reports whether another datagram fits.
func (q *queue) room() bool { return q.n < maxRuns && q.niov+2 <= maxIovecs }

// add appends n bytes to the current run.
func (q *queue) add(at unsafe.Pointer, n int) {
	q.iovs[q.niov] = iovec{uintptr(at), uintptr(n)}
	q.niov++
}

// run makes the last run of the queue one that takes a datagram of size bytes,
// and counts that datagram.
func (q *queue) run(l *Link, to *peer, ecn uint8, size, pos int) {
	if q.n > 0 && !to.alone.Load() {
		r := &q.runs[q.n-1]
		if r.peer == to.id && r.ecn == ecn && !r.closed && size <= r.size &&
			r.count < int(l.segments.Load()) && r.bytes+size <= l.maxBytes {
			r.count++
			r.bytes += size
			r.mask |= 1 << pos
			r.closed = size < r.size
			return
		}
	}
	q.runs[q.n] = run{peer: to.id, ecn: ecn, size: size, count: 1, bytes: size, iov: q.niov, mask: 1 << pos}
	q.n++
}

// flush sends all that is queued.
func (l *Link) flush(s *sender, t *peerTable) {
	for i := range s.queues {
		if q := &s.queues[i]; q.n > 0 {
			l.flushQueue(s, q, t, l.send[i])
			q.n, q.niov = 0, 0
		}
	}
	s.used, s.bytes = 0, 0
}

func (l *Link) flushQueue(s *sender, q *queue, t *peerTable, fd int) {
	for i := range q.n {
		r := &q.runs[i]
		end := q.niov
		if i+1 < q.n {
			end = q.runs[i+1].iov
		}
		q.prepare(i, t.get(r.peer), r.iov, end, r.count)
	}
	for i := 0; i < q.n; {
		n, errno := 1, unix.Errno(0)
		if i == q.n-1 {
			errno = sendmsg(fd, &q.msgs[i])
		} else {
			n, errno = sendmmsg(fd, q.msgs[i:q.n])
		}
		if errno == 0 {
			q.count(t, i, i+n)
			i += n
			continue
		}
		i += l.notSent(s, q, t, fd, i, errno)
	}
}

// prepare fills message i with the iovecs from first to end.
func (q *queue) prepare(i int, to *peer, first, end, count int) {
	m := &q.msgs[i].msghdr
	r := &q.runs[i]
	m.name, m.nameLen = uintptr(unsafe.Pointer(&to.sa.b)), to.sa.n
	m.iov, m.iovLen = uintptr(unsafe.Pointer(&q.iovs[first])), uintptr(end-first)
	m.flags = 0
	n := 0
	if count > 1 {
		binary.NativeEndian.PutUint16(q.ctls[i].put(n, unix.SOL_UDP, unix.UDP_SEGMENT, 2)[:], uint16(r.size))
		n++
	}
	if r.ecn != notECT {
		// RFC 6040 section 4.1, normal mode. The DSCP stays zero.
		level, typ := int32(unix.IPPROTO_IP), int32(unix.IP_TOS)
		if to.sa.n != unix.SizeofSockaddrInet4 {
			level, typ = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
		}
		binary.NativeEndian.PutUint32(q.ctls[i].put(n, level, typ, 4)[:], uint32(r.ecn))
		n++
	}
	m.control, m.controlLen = uintptr(unsafe.Pointer(&q.ctls[i])), uintptr(n)*cmsgSpace
	if n == 0 {
		m.control = 0
	}
}

// count adds the runs from first to end to the counters of their peers.
func (q *queue) count(t *peerTable, first, end int) {
	var n tally
	for i := first; i < end; i++ {
		r := &q.runs[i]
		n.packets += uint64(r.count)
		n.bytes += uint64(r.bytes - r.count*HeaderLen)
		if r.count > 1 {
			n.super++
		}
		if i+1 == end || q.runs[i+1].peer != r.peer {
			t.get(r.peer).n.tx.add(&n)
			n = tally{}
		}
	}
}
