package stack

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"vswitch/vswitch/packet"
)

// maxShut bounds the connections that a windows remembers at once.
const maxShut = 4096

// windows stands between gVisor's TCP receivers and a link, because what they
// say of their window and what they do are two things (tcp/rcv.go). Without it,
// a connection that runs full in both directions, an echo for one, may stop for
// good: each end waits for room at the other, whose word of it has arrived and
// was thrown away.
//
// First, a receiver counts its window in bytes and advertises it in units of
// 1 << scale, rounded down. As data comes in, the edge that it advertises moves
// to and fro by up to a unit, and segments are checked against the last one
// (receiver.acceptable). That takes back space that the other end was promised
// and may have filled already, which a receiver should not do (RFC 9293 section
// 3.8.6, RFC 7323 section 2.4). So offer advertises one unit less than gVisor
// means: rounding then takes from that unit, and never from a promise.
//
// Second, a receiver whose window is shut accepts nothing but an empty segment
// with the very number that it expects next (header.Acceptable). The other end
// may have sent more, for one when an old ACK with a larger window overtook a
// new one, and gives its ACKs numbers behind that. RFC 9293 section 3.10.7.4
// asks for an exception: no segment is acceptable to a window of zero, but
// valid ACKs are to be processed nevertheless. So admit gives an empty ACK the
// expected number, if it has one that a window might have allowed. That changes
// nothing else, because an ACK without data occupies no sequence space; whether
// what it acknowledges is valid, gVisor checks as ever. If the window changes
// while an ACK is under way, the number may be old when it is looked at; the ACK
// is lost then, as any may be, and the next one is not.
//
// The type can go when receiver.acceptable checks against the largest edge that
// was ever advertised, and lets the ACKs of what it refuses through to the
// sender. TestFilledWindow and TestShutWindow tell: they then pass without it.
type windows struct {
	any  atomic.Bool // shut is not empty
	mu   sync.Mutex
	shut map[packet.Tuple]uint32 // the byte expected next, by what comes in
}

// offer changes what the packet pkt, which the stack sends, says of the window,
// and remembers whether it is shut. It must see all that the stack sends.
func (w *windows) offer(pkt *stack.PacketBuffer) {
	h := tcpOf(pkt)
	switch {
	case h == nil || h.Flags()&header.TCPFlagRst != 0:
		return // the window of a reset means nothing
	case h.Flags()&header.TCPFlagSyn != 0:
		// Its window is in bytes (RFC 7323 section 2.2), and what is known
		// is of an earlier connection.
		w.forget(pkt)
		return
	}
	size := h.WindowSize()
	if size > 0 {
		size--
		h.SetWindowSize(size)
		if pkt.GSOOptions.Type == stack.GSONone { // else the checksum is partial
			mend(h, uint32(size)+1, uint32(size))
		}
	}
	if size == 0 {
		w.note(pkt, h.AckNumber())
	} else {
		w.forget(pkt)
	}
}

// note remembers that the window of pkt's sender is shut.
func (w *windows) note(pkt *stack.PacketBuffer, next uint32) {
	t := tupleOf(pkt)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.shut) >= maxShut {
		clear(w.shut) // those that are still shut come again with their next ACK
	}
	if w.shut == nil {
		w.shut = make(map[packet.Tuple]uint32)
	}
	w.shut[t.Reverse()] = next
	w.any.Store(true)
}

// forget is note for a window that is open.
func (w *windows) forget(pkt *stack.PacketBuffer) {
	if !w.any.Load() {
		return
	}
	t := tupleOf(pkt)
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.shut, t.Reverse())
	w.any.Store(len(w.shut) > 0)
}

// admit changes the sequence number of p, which the stack receives, if it is an
// ACK that would be ignored.
func (w *windows) admit(b *packet.Batch, p *packet.Packet) {
	if !w.any.Load() || p.GSO != packet.GSONone {
		return
	}
	q := *p
	b.Parse(&q)
	if q.Class == packet.Flow && q.Tuple.Proto == packet.ProtoTCP {
		w.renumber(q.Tuple.Flow(), b.Frame(&q)[q.L4:], p.Flags&(packet.NeedsCsum|packet.Verified) == 0)
	}
}

// admitOwn is admit for a packet that the stack sends to itself.
func (w *windows) admitOwn(pkt *stack.PacketBuffer) {
	if !w.any.Load() || pkt.Data().Size() > 0 {
		return
	}
	if h := tcpOf(pkt); h != nil {
		w.renumber(tupleOf(pkt), h, false)
	}
}

// renumber gives the segment h of the flow t the sequence number that a shut
// window lets through. If summed, its checksum is complete and stays so.
func (w *windows) renumber(t packet.Tuple, h header.TCP, summed bool) {
	const others = header.TCPFlagSyn | header.TCPFlagFin | header.TCPFlagRst
	if h.Flags()&others != 0 || len(h) != int(h.DataOffset()) {
		return // it occupies sequence space, which may be refused
	}
	w.mu.Lock()
	next, shut := w.shut[t]
	w.mu.Unlock()
	seq := h.SequenceNumber()
	if ahead := seq - next; !shut || ahead == 0 || ahead > maxTCPBuffer {
		return
	}
	h.SetSequenceNumber(next)
	if summed {
		mend(h, seq, next)
	}
}

// tcpOf returns the TCP header of a packet that the stack sends, or nil.
func tcpOf(pkt *stack.PacketBuffer) header.TCP {
	if pkt.TransportProtocolNumber != header.TCPProtocolNumber {
		return nil
	}
	h := header.TCP(pkt.TransportHeader().Slice())
	if len(h) < header.TCPMinimumSize {
		return nil
	}
	return h
}

// tupleOf returns the tuple of a TCP segment that the stack sends.
func tupleOf(pkt *stack.PacketBuffer) packet.Tuple {
	h, l := pkt.NetworkHeader().Slice(), header.TCP(pkt.TransportHeader().Slice())
	t := packet.Tuple{SrcPort: l.SourcePort(), DstPort: l.DestinationPort(), Proto: packet.ProtoTCP}
	if pkt.NetworkProtocolNumber == header.IPv4ProtocolNumber {
		mapped := packet.Addr{10: 0xff, 11: 0xff}
		t.Src, t.Dst = mapped, mapped
		copy(t.Src[12:], h[12:16])
		copy(t.Dst[12:], h[16:20])
	} else {
		t.Src, t.Dst = packet.Addr(h[8:24]), packet.Addr(h[24:40])
	}
	return t
}

// mend changes h's checksum as a word that was from and is to does (RFC 1624
// equation 3). A wrong checksum stays wrong.
func mend(h header.TCP, from, to uint32) {
	c := binary.BigEndian.Uint16(h[header.TCPChecksumOffset:])
	sum := uint32(^c) + ^from>>16 + ^from&0xffff + to>>16 + to&0xffff
	binary.BigEndian.PutUint16(h[header.TCPChecksumOffset:], ^packet.Fold(sum))
}
