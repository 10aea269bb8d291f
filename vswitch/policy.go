package vswitch

import (
	"vswitch/nat"
	"vswitch/policy"
	"vswitch/vswitch/fib"
	"vswitch/vswitch/packet"
)

// Policy is asked about the one who begins a connection and the one whom it is
// for, after services have chosen that one and before anybody's address is
// hidden. Answers are part of what was allowed; but when the world has changed,
// both directions of a connection are judged again by how it began.

// egress checks whether the pod of this node that begins the connection may.
func (d *decider) egress(w *passage) Reason {
	if d.tables.Policy == nil || w.known {
		return Forwarded // route tells where a known one goes, permit judges it
	}
	if w.info.Kind != PortPod || w.info.Stranger {
		return Forwarded
	}
	return d.asked(w, "egress", PolicyEgress, d.tables.Policy.Egress(&w.came.Src, &w.to.Dst, w.to.Proto, portOf(&w.to)))
}

// ingress checks whether the pod of this node that the connection is for hears
// it, and judges a known connection.
func (d *decider) ingress(w *passage) Reason {
	switch {
	case d.tables.Policy == nil:
		return Forwarded
	case w.known:
		return d.permit(w)
	case w.hop.Kind != fib.Pod:
		return Forwarded
	}
	return d.asked(w, "ingress", PolicyIngress, d.tables.Policy.Ingress(&w.came.Src, &w.to.Dst, w.to.Proto, portOf(&w.to)))
}

// permit judges a known connection by whoever of its ends is a pod of this node.
// It stays known for a while when it is no longer allowed, so that neither end's
// packets count as the first of another one.
func (d *decider) permit(w *passage) Reason {
	if d.tables.Policy == nil || d.tables.KeepEstablished {
		return Forwarded
	}
	c := &w.conn
	sender, receiver := w.info.Kind == PortPod, w.hop.Kind == fib.Pod
	if w.dir == nat.Reply {
		sender, receiver = receiver, sender
	}
	to := c.Reply.Reverse()
	port := portOf(&to)
	r := Forwarded
	if sender {
		r = d.asked(w, "egress", PolicyEgress, d.tables.Policy.Egress(&c.Orig.Src, &to.Dst, to.Proto, port))
	}
	if receiver && r == Forwarded {
		r = d.asked(w, "ingress", PolicyIngress, d.tables.Policy.Ingress(&c.Orig.Src, &to.Dst, to.Proto, port))
	}
	switch {
	case d.rec != nil:
	case r == PolicyEgress || r == PolicyIngress:
		d.bar(w)
	case r == Forwarded && c.Flags&nat.Barred != 0:
		d.conns.Unbar(c.ID)
	}
	return r
}

// bar ends a connection. Both ends of one of TCP are told: whoever sends gets a
// reset, and the other one, which may send nothing for long, is prodded so that it
// gets one, too.
func (d *decider) bar(w *passage) {
	c := &w.conn
	news := d.conns.Bar(c.ID, w.dir, d.seconds)
	if c.Orig.Proto != packet.ProtoTCP {
		return
	}
	w.cut = w.p.TCPFlags&(packet.TCPSyn|packet.TCPRst) == 0
	if news && c.State != nat.Closed {
		w.prods = true
		if d.other = ProdClient(c); w.dir == nat.Original {
			d.other = ProdServer(c)
		}
	}
}

// portOf returns the destination port that policy knows a packet by: 0 for
// protocols that have none, as what stands there is the identifier of an echo.
func portOf(t *packet.Tuple) uint16 {
	switch t.Proto {
	case packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP:
		return t.DstPort
	}
	return 0
}

// asked makes a Reason of what policy says.
func (d *decider) asked(w *passage, stage string, denied Reason, v policy.Verdict) Reason {
	switch {
	case (v.Pending || v.Unknown) && w.known && w.conn.Flags&nat.Barred == 0:
		return Forwarded // it was allowed when something was known last
	case v.Pending && v.Unknown:
		if d.said = v; d.rec != nil {
			d.did(stage, v.Why(), "", nil)
		}
		return Starting
	case v.Pending:
		name := w.info.Name
		if denied == PolicyIngress {
			name = w.hop.Name
		}
		return d.drop(Starting, stage, "nobody has said yet which policies {name} has", name, nil)
	}
	d.judged(stage, v)
	if v.Decided() {
		d.said = v
	}
	if v.Allowed {
		return Forwarded
	}
	if d.rec == nil {
		v.Count()
	}
	return denied
}

// judged records a verdict of policy.
func (d *decider) judged(stage string, v policy.Verdict) {
	if d.rec == nil {
		return
	}
	if by := v.Policy(); by != "" {
		d.rec.Policy = by
	} else if !v.Exempt() {
		return
	}
	d.did(stage, v.Why(), "", nil)
}

// hears reports whether policy lets the pod of a port hear a multicast packet.
func (w *worker) hears(p *packet.Packet, info *PortInfo) bool {
	if w.tables.Policy == nil || len(info.Addrs) == 0 {
		return w.tables.Policy == nil
	}
	v := w.tables.Policy.Ingress(&p.Tuple.Src, &info.Addrs[0], p.Tuple.Proto, portOf(&p.Tuple))
	return v.Allowed
}

// sends tells whether policy lets the pod of a port send a multicast packet:
// Forwarded, or why not.
func (w *worker) sends(p *packet.Packet, info *PortInfo) Reason {
	if w.tables.Policy == nil {
		return Forwarded
	}
	v := w.tables.Policy.Egress(&info.Addrs[0], &p.Tuple.Dst, p.Tuple.Proto, portOf(&p.Tuple))
	switch {
	case v.Allowed:
		return Forwarded
	case v.Pending:
		return Starting
	}
	w.said = v
	v.Count()
	return PolicyEgress
}
