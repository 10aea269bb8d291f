package vswitch

import (
	"vswitch/vswitch/packet"
)

// What the switch says itself is built in the batch w.made and leaves by the
// port that its cause came in by. Errors and resets are limited in rate
// (RFC 1812 4.3.2.8, RFC 4443 2.4 (f)).

// room returns where the next frame that the switch makes is to be written.
func (w *worker) room() []byte {
	if w.made.Full() {
		w.flush(w.made, &w.outMade)
		w.made.Reset()
	}
	return w.made.Buf[w.made.Next():]
}

// send sends frame, which was built in room, back to where cause came from. An
// empty frame is not sent.
func (w *worker) send(cause *packet.Packet, frame []byte) {
	if len(frame) == 0 {
		return
	}
	q := w.made.Add(w.made.Next(), len(frame))
	q.Hash = cause.Hash
	w.back(w.made, q, cause)
	w.outMade.add(q.Out, q, len(w.made.Packets)-1)
}

// back addresses q, a packet of b, to where cause came from.
func (w *worker) back(b *packet.Batch, q, cause *packet.Packet) {
	dst := [6]byte(w.in.Buf[cause.Off+6:])
	src := w.tables.GatewayMAC
	q.Out = cause.In
	if peer := w.tables.Peer(cause.In); peer != nil {
		dst, src = peer.MAC, w.tables.VTEPMAC
		q.Peer = cause.In - packet.PeerBase
		q.Out = w.from
	}
	b.SetEthernet(q, &dst, &src)
}

// complain sends an ICMP error about p.
func (w *worker) complain(p *packet.Packet, c packet.Complaint, mtu int) {
	from := w.tables.gateway(&p.Tuple.Src)
	if !w.errors.take(w.now) {
		return
	}
	buf := w.room()
	w.send(p, buf[:w.in.ICMPError(buf, p, &from, c, mtu)])
}

func (w *worker) unreachable(p *packet.Packet) { w.complain(p, packet.HostUnreachable, 0) }

func (w *worker) portUnreachable(p *packet.Packet) { w.complain(p, packet.PortUnreachable, 0) }

func (w *worker) timeExceeded(p *packet.Packet) { w.complain(p, packet.HopLimit, 0) }

func (w *worker) tooBig(p *packet.Packet, mtu uint16) {
	w.complain(p, packet.PacketTooBig, int(mtu))
}

// reset refuses the TCP packet p.
func (w *worker) reset(p *packet.Packet) {
	if w.errors.take(w.now) {
		buf := w.room()
		w.send(p, buf[:w.in.TCPReset(buf, p)])
	}
}

// local answers a packet for the switch itself: echo requests, and a refusal
// for all else.
func (w *worker) local(p *packet.Packet) Reason {
	switch p.Tuple.Proto {
	case packet.ProtoICMP, packet.ProtoICMPv6:
		w.in.Complete(p)
		if !w.in.EchoReply(p) {
			return NoListener
		}
		w.back(w.in, p, p)
		w.out.add(p.Out, p, w.cur)
		return Answered
	case packet.ProtoTCP:
		w.reset(p)
	default:
		w.portUnreachable(p)
	}
	return NoListener
}
