package vswitch

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"vswitch/nat"
	"vswitch/vswitch/fib"
	"vswitch/vswitch/packet"
)

// Step is one thing that decide found or did.
type Step struct {
	Stage string // "source", "route", "conntrack" …
	Did   string
}

// Recorder collects the steps of a trace.
type Recorder struct {
	Steps []Step
	// Service is who the packet was for, Backends all that it could be given.
	Service  string
	Backends []netip.AddrPort
	// Policy is the policy that decided last, and its rule; empty if none did.
	Policy string
	// Masqueraded: it leaves with the node's own address.
	Masqueraded bool
}

// Explanation is what would become of a packet on this node.
type Explanation struct {
	Recorder
	Reason Reason
	// Hop is where the packet goes next; nil if it dies here.
	Hop *fib.Hop
	// Tuple names the packet as it goes on or reaches the node itself or, if it
	// does neither, as it came.
	Tuple packet.Tuple
	// Frame is the packet as it goes on; nil if it does not.
	Frame []byte
}

// tracing is the memory that traces work in, one after the other.
type tracing struct {
	mu    sync.Mutex
	batch *packet.Batch // made by the first trace
}

// Trace explains a frame that came in by a port or from a peer
// (packet.Packet.In), with the code that forwards, and without sending or
// remembering anything.
func (s *Switch) Trace(in uint16, frame []byte) Explanation {
	t := s.tables.Load()
	info := t.Port(in)
	if t.Peer(in) != nil {
		in, info = t.link(in)
	}
	return s.explain(t, in, info, frame)
}

// TraceFrom is Trace for a sender that has no port at the switch: info says
// what a port would.
func (s *Switch) TraceFrom(info *PortInfo, frame []byte) Explanation {
	return s.explain(s.tables.Load(), 0, info, frame)
}

func (s *Switch) explain(t *Tables, in uint16, info *PortInfo, frame []byte) Explanation {
	if info == nil {
		return Explanation{Reason: NotAttached}
	}
	s.tracing.mu.Lock()
	defer s.tracing.mu.Unlock()
	if s.tracing.batch == nil {
		s.tracing.batch = packet.NewBatch()
	}
	b := s.tracing.batch
	b.Reset()
	p := b.Append(frame)
	if p == nil || len(frame) < packet.EthernetLen {
		return Explanation{Reason: Malformed}
	}
	p.In = in
	b.Parse(p)
	if [6]byte(frame) == t.gatewayMAC(info.Kind) {
		p.Tuple.Flags = packet.Routed
	}
	if p.Class != packet.Flow {
		return Explanation{Reason: Malformed, Tuple: p.Tuple}
	}
	now := s.cfg.Clock()
	d := decider{tables: t, conns: s.conns, affinities: s.affinities, now: now, seconds: uint32(now / time.Second), rec: &Recorder{}}
	return d.explain(b, p, info)
}

// explain takes p as far as worker.first does, and describes what it finds.
func (d *decider) explain(b *packet.Batch, p *packet.Packet, info *PortInfo) Explanation {
	var to nat.Decision
	v := d.decide(b, p, info, &to)
	e := Explanation{Reason: v.reason, Hop: v.hop, Tuple: p.Tuple}
	if e.Reason == Answered {
		e.Tuple = v.to
	}
	if e.Reason == Forwarded && p.WireLen() > int(v.hop.MTU) {
		e.Reason = d.drop(TooBig, "mtu", "the packet is larger than the way to {name} takes", v.hop.Name, nil)
	}
	if e.Reason == Forwarded && p.Tuple.Flags&packet.Routed != 0 && !b.DecrementTTL(p) {
		e.Reason = d.drop(TTLExpired, "ttl", "the packet has passed too many routers", "", nil)
	}
	if e.Reason == Forwarded {
		if !d.apply(b, p, &to) {
			panic("a packet of class Flow could not be rewritten") // decide saw its tuple
		}
		e.Frame = b.AppendTo(nil, p)
		b.Parse(p)
		e.Tuple = p.Tuple
	}
	e.Recorder = *d.rec
	return e
}

// link returns by which port, and as whose, the packets of a peer come in: the
// overlay tells peers apart, the uplink does not.
func (t *Tables) link(peer uint16) (in uint16, info *PortInfo) {
	for id, p := range t.Ports {
		switch {
		case p == nil:
		case p.Kind == PortOverlay:
			return peer, p
		case p.Kind == PortUplink:
			return uint16(id), p
		}
	}
	return 0, nil
}

// did records a step of a trace; else it does nothing. In text, {name} and
// {addr} stand for the arguments: formatting only happens in a trace.
func (d *decider) did(stage, text, name string, addr *packet.Addr) {
	if d.rec == nil {
		return
	}
	var a string
	if addr != nil {
		a = addr.String()
	}
	d.rec.Steps = append(d.rec.Steps, Step{stage, strings.NewReplacer("{name}", name, "{addr}", a).Replace(text)})
}

// choiceWords say in a trace which endpoints a service had to choose from.
var choiceWords = [...]struct{ only, of string }{
	nat.OfAll:   {"its only endpoint", "one of %d endpoints"},
	nat.OfZone:  {"the only endpoint that hints give to this zone", "one of %d endpoints that hints give to this zone"},
	nat.OfNode:  {"the only endpoint that hints give to this node", "one of %d endpoints that hints give to this node"},
	nat.OfLocal: {"the only endpoint on this node, as policy is Local", "one of %d endpoints on this node, as policy is Local"},
	nat.OfHere:  {"the only endpoint on this node", "one of %d endpoints on this node"},
}

// chose records a choice of service.
func (d *decider) chose(f *nat.Frontend, origin nat.Origin, from []nat.Backend, b *nat.Backend) {
	if d.rec == nil {
		return
	}
	d.rec.Service = f.Service.Name
	for i := range from {
		d.rec.Backends = append(d.rec.Backends, from[i].AddrPort())
	}
	why := f.Why(origin)
	of := choiceWords[why.Of()].only
	if n := len(from); n > 1 {
		of = fmt.Sprintf(choiceWords[why.Of()].of, n)
	}
	if why&nat.Ending != 0 {
		of += ", where none is ready and what ends still serves"
	}
	if f.Service.Affinity > 0 {
		of += ", the client's own for a while"
	}
	d.did("service", fmt.Sprintf("the %s of {name} -> %s, %s", f.Kind, b.AddrPort(), of), f.Service.Name, nil)
}

// drop is did for a step that ends the packet. It returns r.
func (d *decider) drop(r Reason, stage, text, name string, addr *packet.Addr) Reason {
	d.did(stage, text, name, addr)
	return r
}
