package overlay

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// A datagram of the kernel, which may be several merged ones, can be as large as
// 64 KiB, and cannot be asked for its size without another system call. So every
// message of one recvmmsg gets a slot, in which nearly every datagram that comes
// alone fits, and a region for the rest. Slots lie close together; regions lie
// behind all slots, and are used again by the next call unless they were needed.
const (
	maxMessage = 65535 // bytes of UDP payload
	// lead is from the start of a slot, which lies on a cache line, to the
	// datagram: as much as before the first frame of a batch.
	lead = packet.Headroom + 2 - HeaderLen
	// slotSize is an odd number of cache lines, so that the headers of a batch
	// do not compete for one set of the cache.
	slotSize   = 33 * 64
	slotBytes  = slotSize - lead
	regionSize = (lead + maxMessage + 63) &^ 63

	// maxMessages is how many datagrams one call takes while they are small.
	maxMessages = 48
	// maxLarge is that while they are large: the thread cannot be stopped for
	// the garbage collector in between, and each takes about 10 µs.
	maxLarge = 4
	// maxCalls bounds the calls of one Read in which nothing was for us.
	maxCalls = 16
	// spare descriptors are left in the batch, so that there are some to turn
	// datagrams into packets with, even if the packets have to wait.
	spare = 8
)

// receiver is what Read needs. The one who reads owns it.
type receiver struct {
	msgs  [maxMessages]mmsghdr
	iovs  [maxMessages][2]iovec
	names [maxMessages]sockaddr
	ctls  [maxMessages]control
	large bool // the last datagram did not fit a slot

	table *peerTable // of this Read
	cache struct {   // what table says about the last source
		source
		peer *peer
	}
	tally tally // of cache.peer, not yet counted

	held held // packets that the caller had no room for
	rung bool // the waker knows of them
}

func (r *receiver) init() error { return r.held.init() }

func (r *receiver) free() { r.held.free() }

// Read implements port.Port. Packets come with In set and, if segments were
// merged, as trains. It never gives more than packet.BatchSize less a few.
func (l *Link) Read(b *packet.Batch, limit int) (int, error) {
	if !l.guard.Enter() {
		return 0, fmt.Errorf("vxlan link on %s: %w", l.local, port.ErrClosed)
	}
	r := &l.rx
	r.start(l.peers.Load())
	before := len(b.Packets)
	end := min(before+limit, packet.BatchSize-spare)
	r.held.give(b, end)
	for range maxCalls {
		if len(b.Packets) >= end || b.Full() || r.held.count() > 0 || !l.receive(b, end) {
			break
		}
	}
	r.settle()
	if waiting := r.held.count() > 0; waiting != r.rung {
		r.rung = waiting
		if waiting {
			l.ring()
		} else {
			l.quiet()
		}
	}
	runtime.KeepAlive(b)
	l.guard.Leave()
	return len(b.Packets) - before, nil
}

// start makes t the table of this Read.
func (r *receiver) start(t *peerTable) {
	if r.table != t {
		r.table = t
		r.cache.peer = nil
	}
}

// settle adds what was received from the last peer to its counters.
func (r *receiver) settle() {
	if r.cache.peer != nil && r.tally.packets != 0 {
		r.cache.peer.n.rx.count(&r.tally)
	}
	r.tally = tally{}
}

// from returns the peer that sends from s, or nil.
func (r *receiver) from(s source) *peer {
	if p := r.cache.peer; p != nil && r.cache.source == s {
		return p
	}
	p := r.table.lookup(s)
	if p != nil {
		r.settle()
		r.cache.source, r.cache.peer = s, p
	}
	return p
}

// receive takes waiting datagrams with one system call. It reports false if no
// more wait.
func (l *Link) receive(b *packet.Batch, end int) (more bool) {
	r := &l.rx
	first := b.Next() - HeaderLen
	room := len(b.Buf) - (first - lead)
	want := min(maxMessages, end-len(b.Packets), room/(slotSize+regionSize))
	if r.large {
		want = min(want, maxLarge)
	}
	if want <= 1 {
		return l.receiveOne(b, first, end)
	}
	regions := first + want*slotSize
	base := uintptr(unsafe.Pointer(&b.Buf[0]))
	for i := range want {
		r.prepare(i)
		r.iovs[i][0] = iovec{base + uintptr(first+i*slotSize), slotBytes}
		r.iovs[i][1] = iovec{base + uintptr(regions+i*regionSize+slotBytes), maxMessage - slotBytes}
		r.msgs[i].iovLen = 2
	}
	n, errno := recvmmsg(l.recv, r.msgs[:want])
	if errno != 0 {
		return l.failed(errno)
	}
	for i := 0; i < n; {
		m := &r.msgs[i]
		at := first + i*slotSize
		r.large = m.len > slotBytes
		if r.large {
			// The slot's part goes in front of the rest.
			from := at
			at = regions + i*regionSize
			copy(b.Buf[at:at+slotBytes], b.Buf[from:])
		}
		k := r.run(i, n)
		l.received(b, i, k, at, end)
		i += k
	}
	return n == want
}

// run returns how many messages, from i on and before n, are datagrams that
// came one by one but belong together: of one source and one size, but for a
// last one that may be shorter. A network card that merges leaves it at one.
func (r *receiver) run(i, n int) int {
	k := 1
	tos, alone := r.alone(i)
	for alone && i+k < n && r.msgs[i+k-1].len == r.msgs[i].len {
		t, ok := r.alone(i + k)
		if !ok || t != tos || r.msgs[i+k].len > r.msgs[i].len || r.names[i+k].source() != r.names[i].source() {
			break
		}
		k++
	}
	return k
}

// alone reports whether message i is one datagram and lies in its slot. It
// returns the TOS or traffic class that it came with.
func (r *receiver) alone(i int) (tos uint8, ok bool) {
	m := &r.msgs[i]
	size, tos := r.ctls[i].received(m.controlLen)
	return tos, m.len <= slotBytes && m.flags&unix.MSG_TRUNC == 0 && (size <= 0 || size >= int(m.len))
}

// receiveOne takes one datagram, straight to where it stays.
func (l *Link) receiveOne(b *packet.Batch, at, end int) (more bool) {
	r := &l.rx
	r.prepare(0)
	r.iovs[0][0] = iovec{uintptr(unsafe.Pointer(&b.Buf[at])), maxMessage}
	r.msgs[0].iovLen = 1
	if errno := recvmsg(l.recv, &r.msgs[0]); errno != 0 {
		return l.failed(errno)
	}
	r.large = r.msgs[0].len > slotBytes
	l.received(b, 0, 1, at, end)
	return true
}

// prepare makes message i ready to be filled.
func (r *receiver) prepare(i int) {
	m := &r.msgs[i].msghdr
	m.name, m.nameLen = uintptr(unsafe.Pointer(&r.names[i].b)), uint32(len(r.names[i].b))
	m.iov = uintptr(unsafe.Pointer(&r.iovs[i]))
	m.control, m.controlLen = uintptr(unsafe.Pointer(&r.ctls[i])), unsafe.Sizeof(r.ctls[i])
	m.flags = 0
}

// failed looks at an error of a receiving call and reports whether to go on.
func (l *Link) failed(errno unix.Errno) (more bool) {
	switch errno {
	case unix.EAGAIN:
		return false
	case unix.EINTR:
		return true
	}
	l.drop(DropReceive, 1)
	return false
}

// received turns k messages from i on, whose bytes start at Buf[at], into
// packets: one message, which the kernel may have merged from many, or a run.
func (l *Link) received(b *packet.Batch, i, k, at, end int) {
	r := &l.rx
	m := &r.msgs[i]
	n := int(m.len)
	size, tos := r.ctls[i].received(m.controlLen)
	if size <= 0 || size > n {
		size = max(n, 1)
	}
	count, stride := max(1, (n+size-1)/size), size
	if k > 1 {
		count, stride = k, slotSize
		n = (k-1)*slotSize + int(r.msgs[i+k-1].len)
	}
	if m.flags&unix.MSG_TRUNC != 0 {
		l.drop(DropLong, count)
		return
	}
	from := r.from(r.names[i].source())
	if from == nil {
		l.drop(DropUnknownPeer, count)
		return
	}
	if size < HeaderLen+packet.EthernetLen {
		l.drop(DropShort, count)
		return
	}
	if count > 1 {
		r.tally.super++
	}
	for count > 0 {
		first := len(b.Packets)
		_, dropped := b.AddTrain(at, size, n, HeaderLen, packet.TrainOptions{Verify: from.Verify, Spacing: stride})
		more := dropped > 0 && len(b.Packets) == packet.BatchSize
		l.accept(b, first, from, tos&3)
		r.held.take(b, end)
		if !more {
			l.drop(DropShort, dropped)
			return
		}
		// There were not enough descriptors; now there are some again.
		done := (count - dropped) * stride
		at, n, count = at+done, n-done, dropped
	}
}

// accept looks at the packets from first on, which came from a peer, drops
// those that must be and completes the others.
func (l *Link) accept(b *packet.Batch, first int, from *peer, outer uint8) {
	keep := first
	for i := first; i < len(b.Packets); i++ {
		p := &b.Packets[i]
		if h := b.Buf[p.Off-HeaderLen : p.Off]; binary.BigEndian.Uint64(h) != l.header {
			l.refuse(h, p.Segments())
			continue
		}
		if p.Len < packet.EthernetLen {
			l.drop(DropShort, 1)
			continue
		}
		n := p.Segments()
		if outer != notECT && !decapECN(b.Frame(p), outer) {
			l.drop(DropECN, n)
			continue
		}
		p.In = packet.PeerBase | from.id
		if from.Verify && p.Flags&packet.Verified == 0 {
			finish(b, p, l.cfg.MTU)
		}
		l.rx.tally.packets += uint64(n)
		l.rx.tally.bytes += uint64(p.Len) + uint64(n-1)*uint64(p.HdrLen)
		if keep != i {
			b.Packets[keep] = *p
		}
		keep++
	}
	b.Packets = b.Packets[:keep]
}

// refuse counts n datagrams with the header h, which is not ours.
func (l *Link) refuse(h []byte, n int) {
	if _, err := ParseHeader(h); err != nil {
		l.drop(DropHeader, n)
		return
	}
	l.drop(DropVNI, n)
}

// Burst implements port.Burster.
func (l *Link) Burst() {}
