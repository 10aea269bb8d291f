package stack

import (
	"encoding/binary"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// MTU implements [port.Port].
func (s *Stack) MTU() int { return int(s.link.mtu) }

// Stats implements [port.Counted]. RxErrors are packets of the stack that found
// the queue to the switch full.
func (s *Stack) Stats() port.Stats { return s.link.lost.stats() }

// losses counts the packets that did not cross.
type losses struct{ rxLong, rxFull, txTooBig, txInvalid atomic.Uint64 }

func (l *losses) stats() port.Stats {
	return port.Stats{
		RxLong: l.rxLong.Load(), RxErrors: l.rxFull.Load(),
		TxTooBig: l.txTooBig.Load(), TxInvalid: l.txInvalid.Load(),
	}
}

// Notify implements [port.Notifier].
func (s *Stack) Notify(wake func()) { s.link.notify(wake) }

// Read implements [port.Port]: what the stack sent. After Close it gives what
// was sent before, the resets of connections among it, and then ErrClosed.
func (s *Stack) Read(b *packet.Batch, limit int) (int, error) {
	l := s.link
	l.readMu.Lock()
	n := 0
	for n < limit && !b.Full() {
		pkt := l.pop()
		if pkt == nil {
			break
		}
		if pkt.Size() <= packet.MaxFrame {
			off := b.Next()
			describe(b.Add(off, gather(b.Buf[off:], pkt)), pkt)
			n++
		} else {
			l.lost.rxLong.Add(1)
		}
		pkt.DecRef()
	}
	waiting, closed, wake := l.rest()
	l.readMu.Unlock()
	switch {
	case waiting && wake != nil:
		// A full batch, or limit: who takes either for the end must learn
		// that there is more.
		wake()
	case closed && n == 0:
		return 0, port.ErrClosed
	}
	return n, nil
}

// gather copies the whole of pkt to dst and returns its length.
func gather(dst []byte, pkt *stack.PacketBuffer) int {
	views, skip := pkt.AsViewList()
	n := 0
	for v := views.Front(); v != nil; v = v.Next() {
		data := v.AsSlice()
		if skip >= len(data) {
			skip -= len(data)
			continue
		}
		n += copy(dst[n:], data[skip:])
		skip = 0
	}
	return n
}

// describe sets p's offload fields as pkt has them.
func describe(p *packet.Packet, pkt *stack.PacketBuffer) {
	gso := &pkt.GSOOptions
	if gso.Type != stack.GSOTCPv4 && gso.Type != stack.GSOTCPv6 {
		// The stack has computed all checksums itself.
		p.Flags = packet.Verified
		return
	}
	l4 := header.EthernetMinimumSize + len(pkt.NetworkHeader().Slice())
	p.Flags = packet.NeedsCsum
	p.CsumStart, p.CsumOffset = uint16(l4), gso.CsumOffset
	if pkt.Data().Size() <= int(gso.MSS) {
		return
	}
	p.GSO = packet.GSOTCPv4
	if gso.Type == stack.GSOTCPv6 {
		p.GSO = packet.GSOTCPv6
	}
	p.HdrLen = uint16(l4 + len(pkt.TransportHeader().Slice()))
	p.GSOSize = gso.MSS
}

// Write implements [port.Port]: what the stack receives. Frames for another
// MAC, what is larger than the MTU, and what contradicts itself are dropped.
func (s *Stack) Write(b *packet.Batch, idx []uint16) (int, error) {
	l := s.link
	l.rxMu.Lock()
	defer l.rxMu.Unlock()
	if l.deaf {
		return 0, port.ErrClosed
	}
	n := 0
	for _, i := range idx {
		if l.receive(b, &b.Packets[i]) {
			n++
		}
	}
	return n, nil
}

// receive hands p to the stack.
func (l *link) receive(b *packet.Batch, p *packet.Packet) bool {
	f := b.Frame(p)
	if p.WireLen() > int(l.mtu) {
		l.lost.txTooBig.Add(1)
		return false
	}
	if len(f) < header.EthernetMinimumSize || !l.accepts(f) || !headerOK(f) || !l.give(b, p, f) {
		l.lost.txInvalid.Add(1)
		return false
	}
	return true
}

// give hands the frame f of p to the stack, in one piece where it can take it.
func (l *link) give(b *packet.Batch, p *packet.Packet, f []byte) bool {
	switch p.GSO.Kind() {
	case packet.GSONone:
		// A fragment is verified when it is whole again, whatever is said
		// of the parts.
		if isFragment(f) {
			b.Complete(p)
			p.Flags &^= packet.Verified
		}
		l.windows.admit(b, p)
		if !l.unreachable(f) {
			l.deliver(newPacket(f), p.Flags&(packet.NeedsCsum|packet.Verified) != 0)
		}
	case packet.GSOUDPL4:
		return l.datagrams(b, p)
	default:
		return l.superpacket(b, p)
	}
	return true
}

// superpacket hands a TCP superpacket to the stack in one piece.
func (l *link) superpacket(b *packet.Batch, p *packet.Packet) bool {
	// Cut finds out whether the descriptor agrees with the bytes.
	c := b.Cut(p, true)
	if _, _, ok := c.Next(l.scratch); !ok {
		return false
	}
	v := buffer.NewView(int(p.Len))
	if p.Stride == 0 {
		v.Write(b.Frame(p))
	} else {
		v.Write(b.Buf[p.Off : p.Off+uint32(p.HdrLen)])
		for c = b.Cut(p, true); ; {
			_, payload, ok := c.Next(l.scratch)
			if !ok {
				break
			}
			v.Write(payload)
		}
	}
	l.deliver(packetOf(v), true)
	return true
}

// datagrams hands the datagrams of a UDP superpacket to the stack one by one;
// each is a message of its own.
func (l *link) datagrams(b *packet.Batch, p *packet.Packet) bool {
	c := b.Cut(p, true)
	some := false
	for {
		n, payload, ok := c.Next(l.scratch)
		if !ok {
			return some
		}
		v := buffer.NewView(n + len(payload))
		v.Write(l.scratch[:n])
		v.Write(payload)
		l.deliver(packetOf(v), true)
		some = true
	}
}

// newPacket returns a packet with a copy of data.
func newPacket(data []byte) *stack.PacketBuffer { return packetOf(buffer.NewViewWithData(data)) }

// packetOf returns a packet that owns v.
func packetOf(v *buffer.View) *stack.PacketBuffer {
	return stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(v)})
}

// deliver gives a frame to the stack, which owns it then.
func (l *link) deliver(pkt *stack.PacketBuffer, verified bool) {
	defer pkt.DecRef()
	d := l.dispatcher.Load()
	if d == nil || !l.ParseHeader(pkt) {
		return
	}
	f := header.Ethernet(pkt.LinkHeader().Slice())
	switch dst := f.DestinationAddress(); {
	case dst == header.EthernetBroadcastAddress:
		pkt.PktType = tcpip.PacketBroadcast
	case header.IsMulticastEthernetAddress(dst):
		pkt.PktType = tcpip.PacketMulticast
	default:
		pkt.PktType = tcpip.PacketHost
	}
	l.verified.Store(verified)
	(*d).DeliverNetworkPacket(f.Type(), pkt)
}

// accepts reports whether a frame is addressed to this interface.
func (l *link) accepts(f []byte) bool {
	return f[0]&1 != 0 || string(f[:6]) == string(l.mac)
}

// headerOK checks what gVisor does not where the transport needs no
// verification: the checksum of an IPv4 header.
func headerOK(f []byte) bool {
	if binary.BigEndian.Uint16(f[12:14]) != packet.EtherTypeIPv4 {
		return true
	}
	h := f[packet.EthernetLen:]
	if len(h) < header.IPv4MinimumSize {
		return false
	}
	n := int(h[0]&15) * 4
	return n >= header.IPv4MinimumSize && n <= len(h) && packet.Fold(packet.Sum(h[:n], 0)) == 0xffff
}

// isFragment reports whether f holds a fragment of an IP packet.
func isFragment(f []byte) bool {
	h := f[packet.EthernetLen:]
	switch binary.BigEndian.Uint16(f[12:14]) {
	case packet.EtherTypeIPv4:
		return binary.BigEndian.Uint16(h[6:8])&0x3fff != 0
	case packet.EtherTypeIPv6:
		return len(h) > 6 && h[6] == uint8(header.IPv6FragmentHeader)
	}
	return false
}
