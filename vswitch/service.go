package vswitch

import (
	"vswitch/nat"
	"vswitch/vswitch/fib"
	"vswitch/vswitch/packet"
)

// Clients outside may keep their address although their backend is on another
// node. Then two nodes share the work, and each remembers the other in the
// connection (Via, by PeerID) together with its part (Zone).
const (
	// ingress: this node let the client in, and passes its packets on untouched
	// to the backend's node.
	ingress = 1
	// translator: this node has the backend, translates, and sends answers back
	// through the node where the client came in.
	translator = 2
)

// service makes a service's address one of its backends. For a packet of a
// known connection that was decided before.
func (d *decider) service(w *passage) Reason {
	if w.known && d.follow(w) {
		return Forwarded
	}
	if w.known { // it begins anew, and nothing of what follow has found still counts
		d.forget(w.conn.ID)
		w.known, w.gone, w.to, w.peer = false, false, w.came, nil
	}
	front, match := d.tables.Services.Lookup(&w.came, w.origin == nat.FromIngress)
	switch match {
	case nat.NoService:
		if w.origin == nat.FromIngress {
			return d.drop(Spoofed, "source", "{addr} is a client outside, and asks for no service", "", &w.came.Src)
		}
		if d.tables.Starting && d.maybeService(&w.came) {
			return d.drop(Starting, "service", "nobody has said yet whether {addr} is a service's", "", &w.came.Dst)
		}
		return Forwarded
	case nat.WrongPort:
		return d.drop(NotServicePort, "service", "{addr} is a service's, but not with that port and protocol", "", &w.came.Dst)
	case nat.Unallocated:
		return d.drop(UnallocatedService, "service", "{addr} is of the services' range, and no service's cluster IP", "", &w.came.Dst)
	}
	if d.alone(w) {
		d.did("service", "{name} knows no such connection; the node may have it with itself", front.Service.Name, nil)
		return Forwarded
	}
	w.service = true
	return d.balance(w, front)
}

// alone reports whether a packet may be of a connection that the node has with
// itself, and of which the switch sees one direction only: what a namespace sends
// to its own addresses comes by here only where a service is. So does what it says
// on an older connection to a server of its own there, and what a server of its
// own answers to a client at a service's port. Its kernel knows, and refuses what
// is of no connection. Of datagrams it cannot be told.
func (d *decider) alone(w *passage) bool {
	if w.info.Kind != PortNode || w.begins() {
		return false
	}
	hop := d.tables.Routes.Lookup(&w.came.Dst)
	return hop != nil && hop.Kind == fib.Host
}

// begins reports whether the packet may be the first one of a connection: of TCP
// a SYN, of SCTP an INIT, and of all else any.
func (w *passage) begins() bool {
	switch w.came.Proto {
	case packet.ProtoTCP:
		return w.p.TCPFlags&(packet.TCPSyn|packet.TCPAck) == packet.TCPSyn
	case packet.ProtoSCTP:
		return w.p.Chunk == packet.ChunkInit
	}
	return true
}

// maybeService reports whether a packet might be for a service that the node
// does not know: to an address that nobody is known to have, which may be a load
// balancer's, or to the node's own, where node ports are. A reset or an ICMP
// error would be the wrong answer, and clients believe it.
func (d *decider) maybeService(t *packet.Tuple) bool {
	if t.Proto != packet.ProtoTCP && t.Proto != packet.ProtoUDP && t.Proto != packet.ProtoSCTP {
		return false
	}
	hop := d.tables.Routes.Lookup(&t.Dst)
	return hop == nil || hop.Kind == fib.Local || hop.Kind == fib.Host
}

// balance chooses the backend.
func (d *decider) balance(w *passage, front *nat.Frontend) Reason {
	s := front.Service
	begins := w.begins()
	if !begins && w.origin == nat.FromIngress { // the other node has checked all else
		return d.drop(NoConnection, "service", "{name} knows no such connection", s.Name, nil)
	}
	client := w.came.Src
	if client == w.came.Dst { // a node that has the balancer's address for its own speaks as it
		client = d.tables.own(&client)
	}
	backends, refusal := front.Backends(w.origin, &client)
	switch refusal {
	case nat.NotInRange:
		return d.drop(SourceRange, "service", "{name} does not let in {addr}", s.Name, &w.came.Src)
	case nat.NoLocalEndpoints:
		return d.drop(NoLocalEndpoints, "service", "{name} has endpoints on other nodes only, and policy Local", s.Name, nil)
	case nat.NoEndpoints:
		return d.drop(NoEndpoints, "service", "{name} has no endpoints", s.Name, nil)
	}
	if !begins {
		return d.drop(NoConnection, "service", "{name} knows no such connection", s.Name, nil)
	}
	b := d.choose(front, backends, w)
	d.chose(front, w.origin, backends, b)
	w.mapping.Service, w.mapping.Backend, w.mapping.Why = front.ID, b.ID, front.Why(w.origin)
	w.masquerade = front.Masquerades(w.origin, &w.came.Src, b) ||
		d.tables.MasqueradeAll && front.Kind == nat.ClusterIP && w.origin != nat.FromIngress
	if w.origin == nat.FromPod && w.info.Kind != PortPod {
		// A pod of another node, that uses a node port here: who is elsewhere would
		// not take its address from this node, and would not answer through it.
		hop := d.tables.Routes.Lookup(&b.Addr)
		w.masquerade = w.masquerade || hop == nil || hop.Kind != fib.Pod
	}
	if w.origin == nat.FromIngress {
		w.mapping.Zone, w.mapping.Via = translator, d.tables.Peer(w.p.In).ID
	}
	// A node is outside, too, when it uses another one's node port; but no
	// other node would believe that a packet with its address came from here.
	if w.masquerade && w.info.Kind == PortOutside && !d.tables.MasqueradeOutside {
		if d.preserve(w, b) {
			return Forwarded
		}
	}
	w.to.Dst, w.to.DstPort = b.Addr, b.Port
	return Forwarded
}

func (d *decider) choose(front *nat.Frontend, from []nat.Backend, w *passage) *nat.Backend {
	s, hash := front.Service, w.p.Hash
	switch {
	case front.Random:
		return nat.Draw(from, hash)
	case s.Affinity == 0:
		return s.Choose(from, &w.came, hash)
	case d.rec != nil:
		return d.affinities.Peek(s, from, &w.came, hash, d.seconds)
	}
	return d.affinities.Choose(s, from, &w.came, hash, d.seconds)
}

// preserve lets a client outside keep its address: with a backend here, by
// doing nothing; with one on a node that packets can be told to come from, by
// passing the packet on as it is. It reports true if so. A backend that does not say
// its node is local to none, so that node would not choose it: then the client is
// masqueraded.
func (d *decider) preserve(w *passage, b *nat.Backend) (passOn bool) {
	hop := d.tables.Routes.Lookup(&b.Addr)
	if hop == nil || hop.Kind != fib.Peer {
		w.masquerade = false
		return false
	}
	if !b.Placed || int(hop.Peer) >= len(d.tables.Peers) || d.tables.Peers[hop.Peer] == nil || d.tables.Peers[hop.Peer].Hop == nil {
		return false
	}
	w.masquerade = false
	w.peer = d.tables.Peers[hop.Peer]
	w.mapping.Zone, w.mapping.Via = ingress, w.peer.ID
	d.did("service", "the packet stays as it is for {name}, which then sees the client's own address", w.peer.Name, nil)
	return true
}

// follow takes a packet of a known connection the way that was decided. It
// reports false if that is no longer right: datagrams, and TCP before its first
// answer, move to another backend as soon as theirs does not serve any more, and
// are those of no service as soon as there is none.
// Connections stay with theirs for as long as somebody has its address; route
// finds out.
func (d *decider) follow(w *passage) bool {
	c := &w.conn
	if w.dir == nat.Reply {
		w.to = c.Orig.Reverse()
		if c.Zone == translator {
			w.peer = d.tables.peerByID(c.Via)
		}
		return true
	}
	w.to = c.Reply.Reverse()
	// Who says SYN (or INIT) again had no answer, and may as well go elsewhere.
	anew := c.Orig.Proto == packet.ProtoUDP || c.State == nat.SynSent && (w.p.TCPFlags&packet.TCPSyn != 0 || w.p.Chunk == packet.ChunkInit)
	if c.Zone == ingress {
		if w.peer = d.tables.peerByID(c.Via); w.peer == nil {
			w.gone = true
			return !anew
		}
	}
	if !anew && (c.Zone == ingress || c.Flags&nat.DNAT == 0) {
		return true // the backend is the other node's business, or there is none
	}
	// A datagram's address may have become a service's since.
	front, match := d.tables.Services.Lookup(&w.came, w.origin == nat.FromIngress)
	if match != nat.Matched {
		// The service ended. Its connections need not, but datagrams are of none:
		// they would go on to whoever has the backend's address.
		return !anew || c.Service == 0 || d.tables.Starting
	}
	fate := front.Service.Fate(c.Reply.Src, c.Reply.SrcPort)
	if c.Zone == ingress {
		fate = front.Service.FateOf(c.Backend)
	}
	if anew {
		return fate == nat.Serving
	}
	w.gone = fate == nat.Gone
	return true
}
