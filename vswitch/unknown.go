package vswitch

import (
	"vswitch/nat"
	"vswitch/vswitch/fib"
	"vswitch/vswitch/l2"
	"vswitch/vswitch/packet"
)

// unknown handles every packet that is not simply the next one of a known
// flow. With Forwarded, p.Out is set; with Answered, somebody got a reply or
// the packet was taken over; all else is why it died.
func (w *worker) unknown(p *packet.Packet, info *PortInfo) Reason {
	switch p.Class {
	case packet.Flow:
		return w.first(p, info)
	case packet.Fragment:
		return w.fragment(p, info)
	case packet.ARP:
		return w.arp(p, info)
	case packet.ICMPOther:
		return w.icmp(p, info)
	case packet.ICMPError:
		return w.related(p, info)
	case packet.Multicast:
		return w.multicast(p, info)
	case packet.Unknown:
		return UnknownEtherType
	}
	return Malformed
}

// first decides a packet of class Flow and, if it may go, remembers its flow
// in the cache and forwards it.
func (w *worker) first(p *packet.Packet, info *PortInfo) Reason {
	var to nat.Decision
	v := w.decide(w.in, p, info, &to)
	switch v.reason {
	case Forwarded:
	case Answered:
		return w.local(p)
	default:
		if v.cut {
			w.reset(p)
		}
		if v.prods && w.errors.take(w.now) {
			w.prod(&w.other)
		}
		return w.reject(p, v.reason)
	}
	if r := w.fits(p, &to); r != Forwarded {
		return r
	}
	if p.Tuple.Flags&packet.Routed != 0 && !w.in.DecrementTTL(p) {
		w.timeExceeded(p)
		return TTLExpired
	}
	if p.TCPFlags&packet.TCPSyn != 0 && info.MTU > to.MTU {
		w.in.ClampMSS(p, int(to.MTU))
	}
	f := w.flows[w.cur]
	if f == nil {
		f = w.cache.Insert(&p.Tuple, p.Hash)
		w.inserted = true
	} else {
		w.drain(f)
	}
	w.cache.Set(f, &to, w.seconds)
	if !w.apply(w.in, p, &to) {
		return Untranslatable
	}
	f.Count(p.Segments(), p.Len)
	if v.begins {
		w.observe(p, &v.to, Forwarded)
	}
	return Forwarded
}

// reject tells the sender of a packet that dies, where the reason is one to
// tell, and returns it.
func (w *worker) reject(p *packet.Packet, r Reason) Reason {
	switch r {
	case NoRoute:
		w.unreachable(p)
	case NoEndpoints, NotServicePort, NoConnection, EndpointGone:
		switch {
		case p.Tuple.Proto == packet.ProtoTCP:
			w.reset(p)
		case p.Tuple.Proto == packet.ProtoSCTP && (r == NoConnection || r == EndpointGone):
			w.abort(p)
		default:
			w.portUnreachable(p)
		}
	}
	return r
}

// fits checks the packet against the MTU of its flow. One that is too
// big is cut if that is allowed (IPv4 without DF), else its sender is told
// (RFC 1191, RFC 8201).
func (w *worker) fits(p *packet.Packet, to *nat.Decision) Reason {
	if p.WireLen() <= int(to.MTU) {
		return Forwarded
	}
	if p.Tuple.Is4() && p.GSO == packet.GSONone && !w.in.DontFragment(p) && p.Tuple.Flags&packet.Routed != 0 {
		return w.cut(p, to)
	}
	w.tooBig(p, to.MTU)
	return TooBig
}

// cut forwards an oversized IPv4 packet as fragments, each a packet of its own
// in the batch of what the switch made.
func (w *worker) cut(p *packet.Packet, to *nat.Decision) Reason {
	if !w.in.DecrementTTL(p) {
		w.timeExceeded(p)
		return TTLExpired
	}
	w.in.Complete(p)
	if !w.apply(w.in, p, to) {
		return Untranslatable
	}
	for it := w.in.Fragments(p, int(to.MTU)); ; {
		if w.made.Full() {
			w.flush(w.made, &w.outMade)
			w.made.Reset()
		}
		if !w.piece(&it, p) {
			return Answered
		}
	}
}

// piece sends the next fragment of p. It reports false when there is none.
func (w *worker) piece(it *packet.Fragmenter, p *packet.Packet) bool {
	off := w.made.Next()
	n, ok := it.Next(w.made.Buf[off:])
	if !ok {
		return false
	}
	q := w.made.Add(off, n)
	q.Out, q.Peer, q.Hash = p.Out, p.Peer, p.Hash
	w.outMade.add(q.Out, q, len(w.made.Packets)-1)
	return true
}

// arp answers a request from the tables. Nothing is ever flooded: a request
// for an address of this node's pods is answered with the pod's MAC, for any
// other that has a route with the gateway's (proxy ARP), else not at all.
func (w *worker) arp(p *packet.Packet, info *PortInfo) Reason {
	m, ok := l2.ParseARP(w.in.Frame(p))
	if !ok {
		return Malformed
	}
	if !info.neighbor() || m.SenderMAC != info.MAC || [6]byte(w.in.Buf[p.Off+6:]) != info.MAC {
		return Spoofed
	}
	// A probe (RFC 5227) has no sender address; an announcement asks for itself.
	if m.SenderIP != (packet.Addr{}) && !m.SenderUnspecified() && !info.owns(&m.SenderIP) {
		return Spoofed
	}
	if !m.Request() {
		return Answered
	}
	mac, ok := w.resolve(&m.TargetIP, info)
	if !ok {
		return Answered
	}
	w.send(p, m.Reply(w.room(), mac))
	return Answered
}

// resolve returns the MAC to answer a pod with that asks for an address.
func (w *worker) resolve(a *packet.Addr, info *PortInfo) (mac [6]byte, ok bool) {
	if info.owns(a) {
		return mac, false
	}
	hop := w.tables.Routes.Lookup(a)
	if hop == nil {
		return mac, false
	}
	switch hop.Kind {
	case fib.Pod:
		return hop.MAC, true
	case fib.Local, fib.Peer, fib.Host, fib.Outside:
		return w.tables.GatewayMAC, true
	}
	return mac, false
}

// icmp handles ICMP that is neither echo nor error: neighbor discovery is
// answered from the tables as ARP is; the rest is nothing for a router.
func (w *worker) icmp(p *packet.Packet, info *PortInfo) Reason {
	if p.Tuple.Proto != packet.ProtoICMPv6 {
		return UnrelatedICMP
	}
	frame := w.in.Frame(p)
	if !info.neighbor() {
		return UnrelatedICMP
	}
	if [6]byte(frame[6:12]) != info.MAC {
		return Spoofed
	}
	switch frame[p.L4] {
	case l2.NeighborSolicitation:
		ns, ok := l2.ParseNS(frame)
		if !ok {
			return Malformed
		}
		probe := ns.Source == packet.Addr{} // duplicate address detection
		if !probe && !info.owns(&ns.Source) && !linkLocal(&ns.Source) {
			return Spoofed
		}
		if mac, ok := w.resolve(&ns.Target, info); ok {
			w.send(p, ns.Advertise(w.room(), mac, mac == w.tables.GatewayMAC))
		}
	case l2.NeighborAdvertisement:
		na, ok := l2.ParseNA(frame)
		if !ok {
			return Malformed
		}
		if !info.owns(&na.Target) && !linkLocal(&na.Target) {
			return Spoofed
		}
	}
	return Answered
}

// linkLocal reports whether a is in fe80::/10.
func linkLocal(a *packet.Addr) bool { return a[0] == 0xfe && a[1]&0xc0 == 0x80 }

// related forwards an ICMP error, if the packet that it quotes belongs to a
// connection that is known, to whoever sent that packet. He knows the packet as
// he sent it, so the quotation is translated back, too, and so is the error's
// source if it is the one that he sent to (RFC 5508 section 4).
func (w *worker) related(p *packet.Packet, info *PortInfo) Reason {
	inner, ok := w.in.ErrorTuple(p)
	if !ok {
		return Malformed
	}
	if info.neighbor() && (!info.owns(&p.Tuple.Src) || [6]byte(w.in.Buf[p.Off+6:]) != info.MAC) {
		return Spoofed
	}
	if info.Kind == PortOutside && !w.outside(&p.Tuple.Src) {
		return Spoofed
	}
	// The error goes the way of an answer to the packet that it quotes.
	pass := passage{b: w.in, p: p, info: info, came: inner.Reverse()}
	id, dir, ok := w.conns.Lookup(&pass.came)
	if !ok || inner.Src != p.Tuple.Dst {
		return UnrelatedICMP
	}
	if pass.conn, pass.known = w.conns.Get(id); !pass.known {
		return UnrelatedICMP
	}
	pass.dir = dir
	if !w.decider.follow(&pass) || w.route(&pass) != Forwarded {
		return UnrelatedICMP
	}
	if r := w.permit(&pass); r != Forwarded {
		return r
	}
	var to nat.Decision
	w.fill(pass.hop, &to)
	if r := w.fits(p, &to); r != Forwarded {
		return r
	}
	if p.Tuple.Flags&packet.Routed != 0 && !w.in.DecrementTTL(p) {
		return TTLExpired
	}
	if pass.to != pass.came {
		src, quoted := p.Tuple.Src, pass.to.Reverse()
		if src == pass.came.Src {
			src = pass.to.Src
		}
		if !w.in.RewriteError(p, &src, &pass.to.Dst, &quoted) {
			return Untranslatable
		}
	}
	w.apply(w.in, p, &to)
	return Forwarded
}

// multicast gives a broadcast or multicast packet to the other pods of this
// node, within a rate.
func (w *worker) multicast(p *packet.Packet, info *PortInfo) Reason {
	if info.Kind == PortNode {
		return Answered // there is nobody else on its link
	}
	if info.Kind != PortPod {
		return NoRoute
	}
	src := &p.Tuple.Src
	if [6]byte(w.in.Buf[p.Off+6:]) != info.MAC || !info.owns(src) && !linkLocal(src) {
		return Spoofed
	}
	if p.Stride != 0 || p.GSO != packet.GSONone {
		return Malformed
	}
	if !w.flood.take(w.now) {
		return MulticastLimit
	}
	if r := w.sends(p, info); r != Forwarded {
		return r
	}
	w.in.Complete(p)
	for id, other := range w.tables.Ports {
		if other != nil && other.Kind == PortPod && uint16(id) != p.In && w.hears(p, other) {
			w.out.add(uint16(id), p, w.cur)
		}
	}
	return Answered
}
