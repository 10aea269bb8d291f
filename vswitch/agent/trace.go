package agent

import (
	"fmt"
	"net/netip"
	"slices"

	"vswitch/vswitch"
	"vswitch/vswitch/fib"
	"vswitch/vswitch/packet"
)

// Sender says who sends a packet that is traced.
type Sender string

// Senders.
const (
	// SenderPod is a pod of this node: the one of that Name or, without a
	// Name, one that nobody knows and that no label selects.
	SenderPod Sender = "pod"
	// SenderNode is the node itself.
	SenderNode Sender = "node"
	// SenderOutside is a client outside the cluster, whose packet enters here.
	SenderOutside Sender = "outside"
	// SenderPeer is the node called Name, which passes Frame on.
	SenderPeer Sender = "peer"
)

// TraceRequest asks what would become of a packet on this node. The packet is
// made of the fields here or, from a peer, what came out of its trace.
type TraceRequest struct {
	Sender Sender `json:"sender"`
	Name   string `json:"name,omitempty"`

	// Source and Destination are of one family. Ports are left out with ICMP.
	Source      netip.AddrPort `json:"source,omitzero"`
	Destination netip.AddrPort `json:"destination,omitzero"`
	// Proto is the IP protocol. ICMP is that of the addresses' family.
	Proto uint8 `json:"proto,omitempty"`
	// Size of the IP packet in bytes; 0 is the smallest.
	Size int `json:"size,omitempty"`

	Frame []byte `json:"frame,omitempty"`
}

// TraceResult is what this node would do.
type TraceResult struct {
	Node  string      `json:"node"`
	Steps []TraceStep `json:"steps"`
	// Reason is why the packet died; empty if it did not.
	Reason string `json:"reason"`
	// Rejected is set when the sender is told of the packet's death.
	Rejected bool `json:"rejected,omitempty"`
	// Policy is the policy that decided, and its rule; empty if none did.
	Policy string `json:"policy,omitempty"`
	// Source and Destination are those of the packet as it goes on, or as it died.
	Source      netip.AddrPort `json:"source"`
	Destination netip.AddrPort `json:"destination"`
	// Backends are all that the service could have chosen, if one had to do with
	// the packet.
	Backends []netip.AddrPort `json:"backends,omitempty"`
	// SNAT: the source was rewritten, be it to the same address.
	SNAT bool `json:"snat,omitempty"`
	// NextNode is set when the packet goes on to another node, as Frame.
	NextNode string `json:"nextNode,omitempty"`
	Frame    []byte `json:"frame,omitempty"`
	// Pod is set when the packet reaches a pod of this node. Neither this nor
	// NextNode: it reached the node itself.
	Pod string `json:"pod,omitempty"`
}

// TraceStep is one thing that was found or done.
type TraceStep struct {
	Stage string `json:"stage"`
	Did   string `json:"did"`
}

// Tracer takes packets through the decision of a node's switch, whose Tables
// were made by a Compiler.
type Tracer struct {
	Switch *vswitch.Switch
	// PodCIDRs are the node's. Within one of them pods need no gateway.
	PodCIDRs []netip.Prefix
}

// Trace says what would become of a packet on the node.
func (n *Node) Trace(r TraceRequest) (TraceResult, error) {
	n.mu.Lock()
	t := Tracer{n.sw, n.ranges()}
	n.mu.Unlock()
	return t.Trace(r)
}

// Trace makes the packet and explains it. Errors wrap ErrBadRequest.
func (t Tracer) Trace(r TraceRequest) (TraceResult, error) {
	tables := t.Switch.Tables()
	var e vswitch.Explanation
	if r.Sender == SenderPeer {
		id := slices.IndexFunc(tables.Peers, func(p *vswitch.PeerInfo) bool { return p != nil && p.Name == r.Name })
		if id < 0 {
			return TraceResult{}, fmt.Errorf("%w: node %s is not a peer of %s", ErrBadRequest, r.Name, tables.Node)
		}
		e = t.Switch.Trace(packet.PeerBase|uint16(id), r.Frame)
	} else {
		if err := r.check(); err != nil {
			return TraceResult{}, err
		}
		port, info, err := t.sender(tables, &r)
		if err != nil {
			return TraceResult{}, err
		}
		frame := probe(t.nextMAC(tables, &r), info.MAC, &r)
		if port != 0 {
			e = t.Switch.Trace(port, frame)
		} else {
			e = t.Switch.TraceFrom(info, frame)
		}
	}
	return resultOf(tables.Node, e), nil
}

// check reports what is wrong with a packet that is to be made.
func (r *TraceRequest) check() error {
	src, dst := r.Source.Addr(), r.Destination.Addr()
	switch {
	case !src.IsValid() || !dst.IsValid() || src.Is4() != dst.Is4():
		return fmt.Errorf("%w: source %s and destination %s are no two addresses of one family", ErrBadRequest, src, dst)
	case r.Size < 0 || r.Size > packet.MaxIP:
		return fmt.Errorf("%w: size %d is outside 0..%d", ErrBadRequest, r.Size, packet.MaxIP)
	}
	return nil
}

// sender returns the port that the packet comes in by, or 0 for a sender
// without one, and what is known of who is behind it.
func (t Tracer) sender(tables *vswitch.Tables, r *TraceRequest) (uint16, *vswitch.PortInfo, error) {
	switch r.Sender {
	case SenderNode:
		for id, info := range tables.Ports {
			if info != nil && info.Kind == vswitch.PortNode {
				return uint16(id), info, nil
			}
		}
		return 0, &vswitch.PortInfo{Kind: vswitch.PortNode, Name: tables.Node, MAC: tables.GatewayMAC}, nil
	case SenderOutside:
		return 0, &vswitch.PortInfo{Kind: vswitch.PortOutside, Name: "outside"}, nil
	case SenderPod:
		if r.Name == "" {
			a := r.Source.Addr()
			p := LocalPod{Name: "a pod without labels", MAC: MACOf(a), IPs: []netip.Addr{a}}
			info := p.info()
			info.Stranger = true
			return 0, info, nil
		}
		for id, info := range tables.Ports {
			if info != nil && info.Kind == vswitch.PortPod && info.Name == r.Name {
				return uint16(id), info, nil
			}
		}
		return 0, nil, fmt.Errorf("%w: no pod %s on node %s", ErrBadRequest, r.Name, tables.Node)
	}
	return 0, nil, fmt.Errorf("%w: sender %q: use pod, node, outside or peer", ErrBadRequest, r.Sender)
}

// nextMAC is whom the sender's Ethernet header names: a neighbor of the same
// range, else the gateway.
func (t Tracer) nextMAC(tables *vswitch.Tables, r *TraceRequest) [6]byte {
	onLink := slices.ContainsFunc(t.PodCIDRs, func(c netip.Prefix) bool {
		return c.Contains(r.Source.Addr()) && c.Contains(r.Destination.Addr())
	})
	dst := packet.AddrFrom(r.Destination.Addr())
	if hop := tables.Routes.Lookup(&dst); r.Sender == SenderPod && onLink && hop != nil && hop.Kind == fib.Pod {
		return hop.MAC
	}
	return tables.GatewayMAC
}

func resultOf(node string, e vswitch.Explanation) TraceResult {
	res := TraceResult{
		Node: node, Steps: []TraceStep{}, Reason: e.Reason.String(), Rejected: e.Reason.Rejected(),
		Source:      netip.AddrPortFrom(e.Tuple.Src.Netip(), e.Tuple.SrcPort),
		Destination: netip.AddrPortFrom(e.Tuple.Dst.Netip(), e.Tuple.DstPort),
		Backends:    e.Backends, SNAT: e.Masqueraded, Policy: e.Policy,
	}
	for _, s := range e.Steps {
		res.Steps = append(res.Steps, TraceStep(s))
	}
	switch {
	case e.Reason == vswitch.Answered:
		res.Reason = ""
	case e.Reason != vswitch.Forwarded:
	case e.Hop.Kind == fib.Peer:
		res.NextNode, res.Frame = e.Hop.Name, e.Frame
	case e.Hop.Kind == fib.Pod:
		res.Pod = e.Hop.Name
	}
	return res
}
