package vswitch

import (
	"time"

	"vswitch/nat"
	"vswitch/vswitch/fib"
	"vswitch/vswitch/packet"
)

// decider knows the order of things for the first packet of a flow. It is part
// of every worker, and of a trace.
type decider struct {
	tables  *Tables
	conns   *nat.Table
	now     time.Duration // monotonic, of the batch
	seconds uint32        // now in seconds
	rec     *Recorder     // nil but in a trace; then nothing is remembered
}

// verdict is what decide found, beside the flow that it filled in.
type verdict struct {
	reason Reason
	hop    *fib.Hop // the next hop, where there is one
}

// decide answers where a packet of class Flow goes and what is rewritten, and
// writes that into f. With a reason other than Forwarded, f is not to be used.
// Steps are numbered as in the package documentation.
func (d *decider) decide(b *packet.Batch, p *packet.Packet, info *PortInfo, f *nat.Flow) verdict {
	// 1. source
	if r := d.source(b, p, info); r != Forwarded {
		return verdict{reason: r}
	}
	// 4. route
	hop, r := d.route(b, p)
	if r != Forwarded {
		return verdict{r, hop}
	}
	d.fill(b, p, hop, f)
	// 7. remember
	return verdict{d.remember(p, f), hop}
}

// source checks that whoever is behind the port may speak as this source.
func (d *decider) source(b *packet.Batch, p *packet.Packet, info *PortInfo) Reason {
	src := &p.Tuple.Src
	switch info.Kind {
	case PortPod:
		if [6]byte(b.Buf[p.Off+6:]) != info.MAC || !info.owns(src) {
			return d.drop(Spoofed, "source", "{name} does not own {addr}", info.Name, src)
		}
	case PortNode:
		if info.neighbor() && ([6]byte(b.Buf[p.Off+6:]) != info.MAC || !info.owns(src)) {
			return d.drop(Spoofed, "source", "{name} does not own {addr}", info.Name, src)
		}
		if hop := d.tables.Routes.Lookup(src); hop == nil || hop.Kind != fib.Local && hop.Kind != fib.Host {
			return d.drop(Spoofed, "source", "{name} does not own {addr}", info.Name, src)
		}
	case PortOverlay:
		hop := d.tables.Routes.Lookup(src)
		if hop == nil || hop.Kind != fib.Peer || hop.Peer != p.In-packet.PeerBase {
			return d.drop(Spoofed, "source", "{name} does not own {addr}", d.peerName(p), src)
		}
		if p.Tuple.Flags&packet.Routed == 0 {
			return d.drop(UnknownMAC, "source", "the frame is not for this node", "", nil)
		}
		d.did("source", "{name} speaks for {addr}", hop.Name, src)
		return Forwarded
	case PortUplink:
		if hop := d.tables.Routes.Lookup(src); hop == nil || hop.Kind != fib.Peer && hop.Kind != fib.Host {
			return d.drop(Spoofed, "source", "neither a peer nor the host owns {addr}", "", src)
		}
	case PortOutside:
		if hop := d.tables.Routes.Lookup(src); hop != nil && hop.Kind != fib.Outside || d.tables.Cluster.Lookup(src) != nil {
			return d.drop(Spoofed, "source", "{addr} belongs to the cluster, and came from outside", "", src)
		}
		if p.Tuple.Flags&packet.Routed == 0 {
			return d.drop(UnknownMAC, "source", "the frame is not for this node", "", nil)
		}
		d.did("source", "{addr} is a client outside", "", src)
		return Forwarded
	default:
		return d.drop(NotAttached, "source", "port {name} is closed", info.Name, nil)
	}
	d.did("source", "{name} speaks as {addr}", info.Name, src)
	return Forwarded
}

// peerName returns the name of the peer that p came from.
func (d *decider) peerName(p *packet.Packet) string {
	if peer := d.tables.Peer(p.In); peer != nil {
		return peer.Name
	}
	return "nobody known"
}

// route finds the next hop. Packets for the switch itself come back Answered.
func (d *decider) route(b *packet.Batch, p *packet.Packet) (*fib.Hop, Reason) {
	hop := d.tables.Routes.Lookup(&p.Tuple.Dst)
	if hop == nil || hop.Kind == fib.Unreachable {
		return nil, d.drop(NoRoute, "route", "nobody has {addr}", "", &p.Tuple.Dst)
	}
	switch hop.Kind {
	case fib.Local:
		d.did("route", "{addr} is {name} itself", hop.Name, &p.Tuple.Dst)
		return hop, Answered
	case fib.Blackhole:
		return hop, d.drop(Blackholed, "route", "{addr} is a blackhole", "", &p.Tuple.Dst)
	}
	if p.Tuple.Flags&packet.Routed == 0 {
		// Bridged: the frame must be for the pod that the packet is for.
		if hop.Kind != fib.Pod || [6]byte(b.Buf[p.Off:]) != hop.MAC {
			return hop, d.drop(UnknownMAC, "bridge", "no pod of this node has that MAC and {addr}", "", &p.Tuple.Dst)
		}
		d.did("bridge", "{addr} is {name} on this node", hop.Name, &p.Tuple.Dst)
		return hop, Forwarded
	}
	if hop.Kind == fib.Peer && p.In >= packet.PeerBase || hop.Kind != fib.Pod && p.In == hop.Port {
		// From one peer to another: the ranges are not ours, and a loop would follow.
		return nil, d.drop(NoRoute, "route", "{addr} is not on this node", "", &p.Tuple.Dst)
	}
	d.did("route", routeWords[hop.Kind], hop.Name, &p.Tuple.Dst)
	return hop, Forwarded
}

// routeWords say in a trace what was found, by kind of hop.
var routeWords = [...]string{
	fib.Pod:     "{addr} is {name} on this node",
	fib.Peer:    "{addr} is behind {name}",
	fib.Host:    "{addr} is {name}'s own",
	fib.Outside: "{addr} is outside",
}

// fill writes what the packets of the flow need on their way to hop.
func (d *decider) fill(b *packet.Batch, p *packet.Packet, hop *fib.Hop, f *nat.Flow) {
	f.Gen = d.tables.Gen
	f.Out, f.Peer, f.MTU = hop.Port, hop.Peer, hop.MTU
	f.DstMAC = hop.MAC
	f.SrcMAC = d.tables.GatewayMAC
	if hop.Kind == fib.Peer {
		f.SrcMAC = d.tables.VTEPMAC
	}
}

// remember finds or makes the connection that the packet belongs to, and lets
// it see the packet.
func (d *decider) remember(p *packet.Packet, f *nat.Flow) Reason {
	key := p.Tuple.Flow()
	id, dir, ok := d.conns.Lookup(&key)
	if d.rec != nil {
		if ok {
			d.did("conntrack", "a packet of a known connection", "", nil)
		} else {
			d.did("conntrack", "the first packet of a connection", "", nil)
		}
		return Forwarded
	}
	if !ok {
		var err error
		if id, err = d.conns.Create(&key, d.seconds); err != nil {
			return d.drop(TableFull, "conntrack", "the connection table is full", "", nil)
		}
		dir = nat.Original
	}
	d.conns.Track(id, dir, p.TCPFlags, d.seconds)
	f.SetConn(id, dir, d.seconds)
	return Forwarded
}
