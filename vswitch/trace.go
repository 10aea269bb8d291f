package vswitch

import (
	"strings"
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
type Recorder struct{ Steps []Step }

// Explanation is what would become of a packet on this node.
type Explanation struct {
	Steps  []Step
	Reason Reason
	// Hop is where the packet goes next; nil if it dies here.
	Hop *fib.Hop
}

// Trace explains a frame that came in by a port or a peer (packet.Packet.In),
// with the code that forwards, and without sending or remembering anything.
func (s *Switch) Trace(in uint16, frame []byte) Explanation {
	t := s.tables.Load()
	port := in
	if peer := t.Peer(in); peer != nil {
		port = s.overlay(t)
	}
	info := t.Port(port)
	if info == nil {
		return Explanation{Reason: NotAttached}
	}
	b := packet.NewBatch()
	p := b.Append(frame)
	if p == nil {
		return Explanation{Reason: Malformed}
	}
	p.In = in
	b.Parse(p)
	if mac := [6]byte(frame); mac == t.GatewayMAC || mac == t.VTEPMAC {
		p.Tuple.Flags = packet.Routed
	}
	if p.Class != packet.Flow {
		return Explanation{Reason: Malformed}
	}
	now := s.cfg.Clock()
	d := decider{tables: t, conns: s.conns, now: now, seconds: uint32(now / time.Second), rec: &Recorder{}}
	var f nat.Flow
	v := d.decide(b, p, info, &f)
	if v.reason == Forwarded && p.WireLen() > int(v.hop.MTU) {
		v.reason = d.drop(TooBig, "mtu", "larger than the way to {name} takes", v.hop.Name, nil)
	}
	return Explanation{Steps: d.rec.Steps, Reason: v.reason, Hop: v.hop}
}

// overlay returns the id of the overlay's port.
func (s *Switch) overlay(t *Tables) uint16 {
	for id, p := range t.Ports {
		if p != nil && p.Kind == PortOverlay {
			return uint16(id)
		}
	}
	return 0
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

// drop is did for a step that ends the packet. It returns r.
func (d *decider) drop(r Reason, stage, text, name string, addr *packet.Addr) Reason {
	d.did(stage, text, name, addr)
	return r
}
