package agent

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"vswitch/vswitch"
	"vswitch/vswitch/fib"
	"vswitch/vswitch/packet"
)

// TraceRequest asks what would become of a packet on this node.
type TraceRequest struct {
	// From is the pod that sends it ("shop/web-1"), or, with Peer set, empty.
	From string `json:"from,omitempty"`
	// Peer is the node that the packet comes from.
	Peer string `json:"peer,omitempty"`

	Source      netip.AddrPort `json:"source"` // the zero address: the pod's own of the family
	Destination netip.AddrPort `json:"destination"`
	Proto       uint8          `json:"proto"`
	// Size of the IP packet in bytes; 0 is the smallest.
	Size int `json:"size,omitempty"`
}

// TraceResult is what this node would do.
type TraceResult struct {
	Node   string         `json:"node"`
	Steps  []TraceStep    `json:"steps"`
	Reason string         `json:"reason"` // empty: forwarded
	Source netip.AddrPort `json:"source"`
	// NextNode is set when the packet goes on to another node.
	NextNode string `json:"nextNode,omitempty"`
	// Pod is set when the packet reaches a pod of this node.
	Pod string `json:"pod,omitempty"`
}

// TraceStep is one thing that was found or done.
type TraceStep struct {
	Stage string `json:"stage"`
	Did   string `json:"did"`
}

// Trace builds the packet and takes it through the switch's own decision.
func (n *Node) Trace(r TraceRequest) (TraceResult, error) {
	t := n.sw.Tables()
	in, mac, src, err := n.entry(r)
	if err != nil {
		return TraceResult{}, err
	}
	if r.Source.Addr().IsValid() {
		src = r.Source
	}
	if !src.IsValid() {
		return TraceResult{}, fmt.Errorf("%w: %s has no address of the family of %s", ErrBadRequest, r.From, r.Destination.Addr())
	}
	dst := t.VTEPMAC
	if r.Peer == "" {
		dst = t.GatewayMAC
		a := packet.AddrFrom(r.Destination.Addr())
		if hop := t.Routes.Lookup(&a); hop != nil && hop.Kind == fib.Pod && n.onLink(src.Addr(), r.Destination.Addr()) {
			dst = hop.MAC
		}
	}
	e := n.sw.Trace(in, probe(dst, mac, src, r.Destination, r.Proto, r.Size))
	res := TraceResult{Node: n.cfg.Name, Source: src, Reason: e.Reason.String()}
	if e.Reason == vswitch.Answered {
		res.Reason = ""
	}
	for _, s := range e.Steps {
		res.Steps = append(res.Steps, TraceStep(s))
	}
	if e.Hop != nil && res.Reason == "" {
		switch e.Hop.Kind {
		case fib.Peer:
			res.NextNode = e.Hop.Name
		case fib.Pod:
			res.Pod = e.Hop.Name
		}
	}
	return res, nil
}

// entry finds where the packet comes in, and who sends it.
func (n *Node) entry(r TraceRequest) (in uint16, mac [6]byte, src netip.AddrPort, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r.Peer != "" {
		p := n.peers[r.Peer]
		if p == nil {
			return 0, mac, src, fmt.Errorf("%w: node %s is not a peer of %s", ErrBadRequest, r.Peer, n.cfg.Name)
		}
		if n.link.kind() == vswitch.PortUplink {
			return n.uplink, p.VTEPMAC, src, nil
		}
		return packet.PeerBase | p.remote.Peer, p.VTEPMAC, src, nil
	}
	p := n.pods[r.From]
	if p == nil {
		return 0, mac, src, fmt.Errorf("%w: no pod %s on node %s", ErrBadRequest, r.From, n.cfg.Name)
	}
	for _, ip := range p.IPs {
		if ip.Is4() == r.Destination.Addr().Is4() {
			src = netip.AddrPortFrom(ip, 40000)
		}
	}
	return p.id, p.mac, src, nil
}

// onLink reports whether a pod reaches dst without its gateway.
func (n *Node) onLink(src, dst netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.pools {
		if p.cidr.Contains(src) && p.cidr.Contains(dst) {
			return true
		}
	}
	return false
}

// probe builds the first packet of a flow: a TCP SYN, a UDP or SCTP packet, or
// an echo request. Checksums of the transport are left out: nothing on the
// way reads them.
func probe(dst, srcMAC [6]byte, from, to netip.AddrPort, proto uint8, size int) []byte {
	v4 := from.Addr().Is4()
	header := 40
	if v4 {
		header = 20
	}
	frame := make([]byte, packet.EthernetLen+max(header+20, size))
	copy(frame, dst[:])
	copy(frame[6:], srcMAC[:])
	ip := frame[packet.EthernetLen:]
	if v4 {
		binary.BigEndian.PutUint16(frame[12:], packet.EtherTypeIPv4)
		ip[0], ip[6], ip[8], ip[9] = 0x45, 0x40, 64, proto
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		copy(ip[12:], from.Addr().AsSlice())
		copy(ip[16:], to.Addr().AsSlice())
		binary.BigEndian.PutUint16(ip[10:], ^packet.Fold(packet.Sum(ip[:20], 0)))
	} else {
		binary.BigEndian.PutUint16(frame[12:], packet.EtherTypeIPv6)
		ip[0], ip[6], ip[7] = 0x60, proto, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
		copy(ip[8:], from.Addr().AsSlice())
		copy(ip[24:], to.Addr().AsSlice())
	}
	l := ip[header:]
	switch proto {
	case packet.ProtoICMP:
		l[0] = 8
	case packet.ProtoICMPv6:
		l[0] = 128
	default:
		binary.BigEndian.PutUint16(l[0:], from.Port())
		binary.BigEndian.PutUint16(l[2:], to.Port())
		if proto == packet.ProtoTCP {
			l[12], l[13] = 5<<4, packet.TCPSyn
		}
	}
	return frame
}
