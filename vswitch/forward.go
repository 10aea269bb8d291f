package vswitch

import (
	"encoding/binary"

	"vswitch/nat"
	"vswitch/vswitch/packet"
)

// forward takes the batch that was read from a port through the switch: parse
// all, look up all, then each packet as a known flow or as anything else, and
// flush. A panic costs the packet that caused it.
func (w *worker) forward(from *attached) {
	if t := w.sw.taps.active.Load(); t != nil {
		t.see(w.in, from, w.now)
	}
	info := w.tables.Port(from.id)
	if info == nil || info.Kind == PortClosed {
		from.drops[NotAttached].Add(uint64(len(w.in.Packets)))
		return
	}
	w.from, w.mac = from.id, macWord(info.MAC)
	w.cur = 0
	for !w.parse(from, info) {
		// The packet that panicked stays Malformed; go on behind it.
		w.in.Packets[w.cur].Class = packet.Malformed
		w.cur++
	}
	w.cache.LookupBatch(w.in.Packets, w.flows[:])
	w.inserted = false
	w.cur = 0
	for !w.each(from, info) {
		from.drops[Unexplained].Add(1)
		w.cur++
	}
	w.flush(w.in, &w.out)
	w.flush(w.made, &w.outMade)
	w.made.Reset()
}

// parse reads the headers of all packets from w.cur on. It reports whether it
// came to the end.
func (w *worker) parse(from *attached, info *PortInfo) (done bool) {
	defer func() {
		if r := recover(); r != nil {
			w.recovered(r)
		}
	}()
	gateway := macWord(w.tables.gatewayMAC(info.Kind))
	overlay := info.Kind == PortOverlay
	var bytes, packets uint64
	ps := w.in.Packets
	for ; w.cur < len(ps); w.cur++ {
		p := &ps[w.cur]
		if !overlay {
			p.In = from.id
		}
		routed := binary.LittleEndian.Uint64(w.in.Buf[p.Off:])&macMask == gateway
		w.in.Parse(p)
		if routed {
			p.Tuple.Flags = packet.Routed
		}
		segments := uint64(p.Segments())
		packets += segments
		bytes += uint64(p.Len) + (segments-1)*uint64(p.HdrLen)
	}
	// A pass of its own: the tuple was written in small pieces, and reading it
	// in large ones at once would stall for every packet.
	for i := range ps {
		ps[i].Hash = ps[i].Tuple.Hash(w.seed)
	}
	from.rxPackets.Add(packets)
	from.rxBytes.Add(bytes)
	return true
}

// macMask is of the bits of macWord.
const macMask = 1<<48 - 1

// macWord returns a MAC as the word that a little-endian load gives.
func macWord(mac [6]byte) uint64 {
	return uint64(binary.LittleEndian.Uint32(mac[:4])) | uint64(binary.LittleEndian.Uint16(mac[4:]))<<32
}

// warm has memory loaded that is needed beside the flows: of connections that
// are to hear of a packet, of the index in which those of new flows are looked
// for, and what decide reads of services where the batch has more than one new
// flow. Their waits overlap.
func (w *worker) warm() {
	misses := 0
	for i, f := range w.flows[:len(w.in.Packets)] {
		switch {
		case f == nil:
			misses++
			came := w.in.Packets[i].Tuple.Flow()
			w.conns.Prefetch(&came)
		case f.LastSeen != w.seconds:
			w.conns.PrefetchConn(w.cache.Conn(f))
		}
	}
	if misses > 1 {
		w.tables.Services.Prefetch(w.in.Packets, w.flows[:], w.conns)
	}
}

// each forwards, answers or drops every packet from w.cur on. It reports
// whether it came to the end.
func (w *worker) each(from *attached, info *PortInfo) (done bool) {
	defer func() {
		if r := recover(); r != nil {
			w.recovered(r)
		}
	}()
	ps := w.in.Packets
	if w.cur == 0 {
		w.warm()
	}
	for ; w.cur < len(ps); w.cur++ {
		p := &ps[w.cur]
		f := w.flows[w.cur]
		if w.inserted && p.Class == packet.Flow {
			f = w.cache.Lookup(&p.Tuple, p.Hash) // the batch's lookup is older than what it inserted
			w.flows[w.cur] = f
		}
		if f != nil && p.Class == packet.Flow && w.known(p, f, info) {
			w.out.add(p.Out, p, w.cur)
			continue
		}
		switch r := w.unknown(p, info); r {
		case Forwarded:
			w.out.add(p.Out, p, w.cur)
		case Answered:
		default:
			from.drops[r].Add(1)
			w.observe(p, nil, r)
		}
	}
	return true
}

// known forwards a packet of a flow that was decided in this generation: it
// rewrites the headers in place and sets p.Out. It reports false, with the
// packet unchanged, if anything about it calls for a second look.
func (w *worker) known(p *packet.Packet, f *nat.Flow, info *PortInfo) bool {
	if f.Gen != w.tables.Gen || p.Control || p.WireLen() > int(f.MTU) {
		return false
	}
	frame := w.in.Buf[p.Off:]
	if info.Kind == PortPod && binary.LittleEndian.Uint64(frame[4:12])>>16 != w.mac {
		return false
	}
	// A flow with another destination has that one's MAC; decide saw the frame's.
	if p.Tuple.Flags&packet.Routed == 0 && [6]byte(frame[:6]) != f.MAC && f.Flags&nat.Rewrites == 0 {
		return false
	}
	if f.LastSeen != w.seconds {
		if !w.report(f, w.seconds) {
			f.Gen = 0
			return false
		}
		f.LastSeen = w.seconds
	}
	routed, rewrites := p.Tuple.Flags&packet.Routed != 0, f.Flags&nat.Rewrites != 0
	if !routed || !rewrites || !w.in.RewriteRouted(p, &f.To) {
		if routed && !w.in.DecrementTTL(p) {
			return false
		}
		if rewrites {
			t := w.cache.Translation(f)
			if !w.in.Rewrite(p, &t) {
				return false
			}
		}
	}
	w.leave(w.in, p, &f.Exit)
	f.Count(p.Segments(), p.Len)
	return true
}

// apply does to a packet what was decided. The TTL is the caller's. It reports
// false, with the packet unchanged, for one that cannot be translated
// (packet.Batch.Rewrite).
func (d *decider) apply(b *packet.Batch, p *packet.Packet, to *nat.Decision) bool {
	if to.Flags&nat.Rewrites != 0 && !b.Rewrite(p, &to.Translation) {
		return false
	}
	d.leave(b, p, &to.Exit)
	return true
}

// leave addresses a packet whose headers are as they leave.
func (d *decider) leave(b *packet.Batch, p *packet.Packet, e *nat.Exit) {
	if p.Tuple.Flags&packet.Routed != 0 || e.Flags&nat.Rewrites != 0 {
		src := &d.tables.GatewayMAC
		if e.Flags&nat.FromVTEP != 0 {
			src = &d.tables.VTEPMAC
		}
		frame := b.Buf[p.Off:]
		*(*[6]byte)(frame[0:6]) = e.MAC
		*(*[6]byte)(frame[6:12]) = *src
	}
	p.Out, p.Peer = e.Out, e.Peer
}

// outputs groups the packets of a batch by the port that sends them, each
// group in the order of arrival.
type outputs struct {
	groups []group
	used   int
}

type group struct {
	port uint16
	n    int
	// packets and bytes are what the port counts.
	packets, bytes uint64
	idx            [packet.BatchSize]uint16
}

// add appends p, packet i of its batch, to the group of a port.
func (o *outputs) add(port uint16, p *packet.Packet, i int) {
	g := o.group(port)
	g.idx[g.n&(packet.BatchSize-1)] = uint16(i)
	g.n++
	segments := uint64(p.Segments())
	g.packets += segments
	g.bytes += uint64(p.Len) + (segments-1)*uint64(p.HdrLen)
}

// group returns the group of a port, with room for one. A batch rarely has more
// than a few ports, so they are searched, the last one first.
func (o *outputs) group(port uint16) *group {
	for k := o.used - 1; k >= 0; k-- {
		if g := &o.groups[k]; g.port == port && g.n < len(g.idx) {
			return g
		}
	}
	if o.used == len(o.groups) {
		o.groups = append(o.groups, group{})
	}
	g := &o.groups[o.used]
	o.used++
	g.port, g.n, g.packets, g.bytes = port, 0, 0, 0
	return g
}

// flush sends every group and forgets them.
func (w *worker) flush(b *packet.Batch, o *outputs) {
	tap := w.sw.taps.active.Load()
	for k := range o.groups[:o.used] {
		g := &o.groups[k]
		a := w.sw.port(g.port)
		if a == nil {
			w.sw.drops[PortGone].Add(uint64(g.n))
			continue
		}
		idx := g.idx[:g.n]
		if tap != nil {
			tap.seeOut(b, idx, a, w.now)
		}
		sent, _ := a.port.Write(b, idx)
		a.txPackets.Add(g.packets)
		a.txBytes.Add(g.bytes)
		if lost := len(idx) - sent; lost > 0 {
			a.drops[QueueFull].Add(uint64(lost))
		}
	}
	o.used = 0
}
