package vswitch

import (
	"errors"
	"time"

	"vswitch/nat"
	"vswitch/policy"
	"vswitch/vswitch/fib"
	"vswitch/vswitch/packet"
)

// decider knows the order of things for the first packet of a flow. It is part
// of every worker, and of a trace.
type decider struct {
	tables     *Tables
	conns      *nat.Table
	affinities *nat.Affinities
	now        time.Duration  // monotonic, of the batch
	seconds    uint32         // now in seconds
	rec        *Recorder      // nil but in a trace; then nothing is remembered
	said       policy.Verdict // what policy said last of the packet; zero if it had no say
	other      Prod           // the end of a connection that is to be told of its end
}

// verdict is what decide found, beside the Decision that it filled in.
type verdict struct {
	reason Reason
	hop    *fib.Hop // the next hop, where there is one
	// begins: it is the first packet of a connection, and goes on as to.
	begins bool
	to     packet.Tuple
	// cut: its sender has to be told that the connection is over; prods: so has
	// the other end (decider.other).
	cut, prods bool
}

// passage is a packet on its way through decide.
type passage struct {
	b    *packet.Batch
	p    *packet.Packet
	info *PortInfo
	// came is the packet's tuple as connections have it, and to the one that it
	// leaves with.
	came, to packet.Tuple
	// conn is the connection that it belongs to, if known, and dir its direction.
	conn  nat.Info
	dir   nat.Dir
	known bool
	// over is the connection that ended, and to which a SYN gives another
	// beginning; 0: none.
	over nat.ID
	// origin is who sends it, for services.
	origin nat.Origin
	// mapping is what a new connection is made with.
	mapping nat.Mapping
	// service: came is a service's address. masquerade: it leaves with the
	// node's own address.
	service, masquerade bool
	// gone: the service of its connection no longer has the backend.
	gone bool
	// cut and prods are the verdict's.
	cut, prods bool
	// peer is where it goes, whatever the routes say; nil: they say it.
	peer *PeerInfo
	hop  *fib.Hop
}

// decide answers where a packet of class Flow, or the first fragment of one,
// goes and what is rewritten, and writes that into to. With a reason other than
// Forwarded, to is not to be used. Steps are numbered as in the package
// documentation.
func (d *decider) decide(b *packet.Batch, p *packet.Packet, info *PortInfo, to *nat.Decision) verdict {
	w := passage{b: b, p: p, info: info, came: p.Tuple.Flow()}
	d.said = policy.Verdict{}
	w.to = w.came
	d.find(&w)
	r := d.source(&w) // 1. source
	if r == Forwarded {
		d.forget(w.over)
		r = d.service(&w) // 2. service
	}
	if r == Forwarded {
		r = d.egress(&w) // 3. egress
	}
	if r == Forwarded {
		r = d.route(&w) // 4. route
	}
	if r == Forwarded {
		r = d.ingress(&w) // 5. ingress
	}
	if r == Forwarded {
		r = d.masquerade(&w) // 6. masquerade
	}
	if r == Forwarded {
		r = d.remember(&w, to) // 7. remember
	}
	if r == Answered && d.rec != nil {
		_ = d.masquerade(&w) // the node, which nobody listens for here, would hear it translated
	}
	if r == Forwarded {
		d.fill(w.hop, to)
		to.Translate(&w.came, &w.to)
	}
	return verdict{reason: r, hop: w.hop, begins: !w.known, to: w.to, cut: w.cut, prods: w.prods}
}

// find looks for the connection that the packet belongs to. A SYN after the end
// of one begins another, about which everything is decided anew.
func (d *decider) find(w *passage) {
	id, dir, ok := d.conns.Lookup(&w.came)
	if !ok {
		return
	}
	if w.p.Control && d.conns.Begins(id, w.p.Event()) {
		w.over = id // not deleted yet: anybody might say so
		return
	}
	w.conn, w.known = d.conns.Get(id)
	w.dir = dir
}

// forget deletes a connection, but not in a trace. 0 names none.
func (d *decider) forget(id nat.ID) {
	if d.rec == nil {
		d.conns.Delete(id)
	}
}

// source checks that whoever is behind the port may speak as this source, and
// finds out who it is for services.
func (d *decider) source(w *passage) Reason {
	src, info := &w.p.Tuple.Src, w.info
	switch info.Kind {
	case PortPod:
		if [6]byte(w.b.Buf[w.p.Off+6:]) != info.MAC || !info.owns(src) {
			return d.drop(Spoofed, "source", "{name} does not own {addr}", info.Name, src)
		}
	case PortNode:
		if info.neighbor() && ([6]byte(w.b.Buf[w.p.Off+6:]) != info.MAC || !info.owns(src)) {
			return d.drop(Spoofed, "source", "{name} does not own {addr}", info.Name, src)
		}
		if hop := d.tables.Routes.Lookup(src); hop == nil || hop.Kind != fib.Local && hop.Kind != fib.Host {
			return d.drop(Spoofed, "source", "{name} does not own {addr}", info.Name, src)
		}
		w.origin = nat.FromNode
	case PortOverlay:
		return d.peerSource(w)
	case PortUplink:
		hop := d.tables.Routes.Lookup(src)
		switch {
		case hop == nil || hop.Kind != fib.Peer && hop.Kind != fib.Host:
			return d.drop(Spoofed, "source", "neither a peer nor the host owns {addr}", "", src)
		case hop.Kind == fib.Host:
			w.origin = nat.FromNode
		case hop.Node:
			w.origin = nat.FromOutside
		}
	case PortOutside:
		if !d.outside(src) {
			return d.drop(Spoofed, "source", "{addr} belongs to the cluster, and came from outside", "", src)
		}
		if w.p.Tuple.Flags&packet.Routed == 0 {
			return d.drop(UnknownMAC, "source", "the frame is not for this node", "", nil)
		}
		d.did("source", "{addr} is a client outside", "", src)
		w.origin = nat.FromOutside
		return Forwarded
	default:
		return d.drop(NotAttached, "source", "port {name} is closed", info.Name, nil)
	}
	d.did("source", "{name} speaks as {addr}", info.Name, src)
	return Forwarded
}

// peerSource checks the source of a packet from the overlay. A peer speaks for
// its own ranges; for a client outside that it let in, towards a service; and
// for a service, to a client that came in here and was sent on to it.
func (d *decider) peerSource(w *passage) Reason {
	src := &w.p.Tuple.Src
	if w.p.Tuple.Flags&packet.Routed == 0 {
		return d.drop(UnknownMAC, "source", "the frame is not for this node", "", nil)
	}
	hop, peer := d.tables.Routes.Lookup(src), d.tables.Peer(w.p.In)
	switch {
	case hop != nil && hop.Kind == fib.Peer && hop.Peer == w.p.In-packet.PeerBase:
		if hop.Node {
			w.origin = nat.FromOutside
		}
		d.did("source", "{name} speaks for {addr}", hop.Name, src)
		return Forwarded
	case w.known && w.conn.Zone != 0 && peer != nil && peer.ID == w.conn.Via:
		w.origin = nat.FromIngress
		return Forwarded
	case peer != nil && d.outside(src) && w.mayMove():
		if _, m := d.tables.Services.Lookup(&w.came, true); m == nat.Matched {
			w.origin = nat.FromIngress
			if w.known {
				w.known, w.over = false, w.conn.ID
			}
			d.did("source", "{name} let in {addr}, a client outside", peer.Name, src)
			return Forwarded
		}
	}
	return d.drop(Spoofed, "source", "{name} does not own {addr}", d.peerName(w.p), src)
}

// mayMove reports whether a client outside may have come to another node than
// before, so that its packet is decided as a first one: with a datagram only, as
// TCP would have been refused at the other node.
func (w *passage) mayMove() bool {
	return !w.known || w.dir == nat.Original && w.came.Proto == packet.ProtoUDP
}

// outside reports whether an address is nobody's of the cluster.
func (d *decider) outside(a *packet.Addr) bool {
	hop := d.tables.Routes.Lookup(a)
	return (hop == nil || hop.Kind == fib.Outside) && d.tables.Cluster.Lookup(a) == nil
}

// peerName returns the name of the peer that p came from.
func (d *decider) peerName(p *packet.Packet) string {
	if peer := d.tables.Peer(p.In); peer != nil {
		return peer.Name
	}
	return "nobody known"
}

// route finds the next hop. Packets for the switch itself come back Answered.
func (d *decider) route(w *passage) Reason {
	dst, p := &w.to.Dst, w.p
	if w.peer != nil {
		if w.hop = w.peer.Hop; w.hop == nil {
			return d.drop(NoRoute, "route", "there is no way to {name}", w.peer.Name, nil)
		}
		d.did("route", w.peerWords(), w.peer.Name, nil)
		return Forwarded
	}
	hop := d.tables.Routes.Lookup(dst)
	if hop == nil || hop.Kind == fib.Unreachable {
		if w.lost(hop) {
			d.forget(w.conn.ID)
			return d.drop(EndpointGone, "route", "nobody has {addr} any more", "", dst)
		}
		if hop == nil && d.tables.Meeting && d.tables.Cluster.Lookup(dst) != nil {
			return d.drop(Starting, "route", "no other node has been met yet, and {addr} may be one's", "", dst)
		}
		return d.drop(NoRoute, "route", "nobody has {addr}", "", dst)
	}
	w.hop = hop
	switch hop.Kind {
	case fib.Local:
		d.did("route", "{addr} is {name} itself", hop.Name, dst)
		return Answered
	case fib.Blackhole:
		return d.drop(Blackholed, "route", "{addr} is a blackhole", "", dst)
	}
	if p.Tuple.Flags&packet.Routed == 0 {
		// Bridged: the frame must be for the pod that the packet is for. One whose
		// destination was translated, as a pod's address may be a service's, too,
		// was for that pod, and is routed on.
		owner := hop
		if *dst != w.came.Dst {
			owner = d.tables.Routes.Lookup(&w.came.Dst)
		}
		if owner == nil || owner.Kind != fib.Pod || [6]byte(w.b.Buf[p.Off:]) != owner.MAC {
			return d.drop(UnknownMAC, "bridge", "no pod of this node has that MAC and {addr}", "", &w.came.Dst)
		}
		if owner == hop {
			d.did("bridge", "{addr} is {name} on this node", hop.Name, dst)
			return Forwarded
		}
	}
	back := p.In == hop.Port && hop.Kind != fib.Pod && (hop.Kind != fib.Host || !w.info.neighbor())
	if ((hop.Kind == fib.Peer || hop.Kind == fib.Outside) && p.In >= packet.PeerBase || back) && !w.turns() {
		// From one peer to another: the ranges are not ours, and a loop would
		// follow. To the outside, a node lets only its own pods out. The node
		// itself has its own packets back, if no service is at its node port.
		w.hop = nil
		return d.drop(NoRoute, "route", "{addr} is not on this node", "", dst)
	}
	d.did("route", routeWords[hop.Kind], hop.Name, dst)
	return Forwarded
}

// lost reports whether the other end of a TCP or SCTP connection that no hop leads to
// any more, but perhaps an unreachable one, will not come back: this node would
// have the pod, or the service no longer has it. The pods of a node that is away
// may come back with it.
func (w *passage) lost(hop *fib.Hop) bool {
	switch w.came.Proto {
	case packet.ProtoTCP:
		return w.p.TCPFlags&packet.TCPSyn == 0 && (hop != nil || w.gone)
	case packet.ProtoSCTP:
		return w.p.Chunk != packet.ChunkInit && (hop != nil || w.gone)
	}
	return false
}

// turns reports whether the packet is translated here, or of a client that came
// in here. Then it may come from one peer and go to another: no other node would
// do the same again.
func (w *passage) turns() bool {
	return w.service || w.known && (w.conn.Flags&(nat.DNAT|nat.SNAT) != 0 || w.conn.Zone != 0)
}

// peerWords say in a trace why the packet goes to another node than its
// destination's: to where the backend is, or to where the client came in.
func (w *passage) peerWords() string {
	if w.mapping.Zone == ingress || w.known && w.conn.Zone == ingress && w.dir == nat.Original {
		return "on to {name}, which has the backend"
	}
	return "back through {name}, where the client came in"
}

// routeWords say in a trace what was found, by kind of hop.
var routeWords = [...]string{
	fib.Pod:     "{addr} is {name} on this node",
	fib.Peer:    "{addr} is behind {name}",
	fib.Host:    "{addr} is {name}'s own",
	fib.Outside: "{addr} is outside",
}

// masquerade gives the packet the node's own address as its source, or the
// gateway's on the way to the node itself: no kernel takes a packet that comes
// from outside and has its own address for the source. A node without any address
// of the family can hide nobody.
func (d *decider) masquerade(w *passage) Reason {
	if w.masquerade {
		w.to.Src = d.tables.own(&w.to.Dst)
		if g := d.tables.gateway(&w.to.Dst); (w.hop.Kind == fib.Host || w.hop.Kind == fib.Local) && g != (packet.Addr{}) {
			w.to.Src = g
		}
		if w.to.Src == (packet.Addr{}) {
			return d.drop(NoSNATPort, "masquerade", "{name} has no address of that family that could stand for the source", d.tables.Node, nil)
		}
		d.did("masquerade", "the source becomes {addr}", "", &w.to.Src)
	}
	if d.rec != nil {
		d.rec.Masqueraded = w.masquerade
	}
	return Forwarded
}

// fill writes what the packets of the flow need on their way to hop.
func (d *decider) fill(hop *fib.Hop, to *nat.Decision) {
	to.Gen = d.tables.Gen
	to.Out, to.Peer, to.MTU, to.MAC = hop.Port, hop.Peer, hop.MTU, hop.MAC
	to.Flags &^= nat.FromVTEP
	if hop.Kind == fib.Peer {
		to.Flags |= nat.FromVTEP
	}
}

// remember makes the connection that the packet begins, if it is not known, and
// lets it see the packet. The source port may have to give way to another
// connection's; w.to tells.
func (d *decider) remember(w *passage, to *nat.Decision) Reason {
	if d.rec != nil {
		if w.known {
			d.did("conntrack", "a packet of a known connection", "", nil)
		} else {
			d.did("conntrack", "the first packet of a connection", "", nil)
		}
		return Forwarded
	}
	id := w.conn.ID
	if w.known {
		d.conns.Track(id, w.dir, w.p.Event(), d.seconds)
		to.SetConn(id, w.dir)
		return Forwarded
	}
	w.mapping.Reply = w.to.Reverse()
	w.dir = nat.Original
	id, err := d.conns.Begin(&w.came, &w.mapping, w.p.Event(), d.seconds)
	switch {
	case errors.Is(err, nat.ErrExists): // another worker was faster
		mapped, ok := d.conns.To(id, nat.Original)
		if !ok || mapped.Dst != w.to.Dst {
			return TableFull // and chose otherwise; the next packet finds it
		}
		w.to = mapped
		d.conns.Track(id, nat.Original, w.p.Event(), d.seconds)
	case errors.Is(err, nat.ErrNoPort):
		return NoSNATPort
	case err != nil:
		return TableFull
	default:
		w.to = w.mapping.Reply.Reverse()
	}
	to.SetConn(id, w.dir)
	return Forwarded
}
