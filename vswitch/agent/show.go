package agent

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"vswitch/overlay/gossip"
	"vswitch/vswitch"
	"vswitch/vswitch/fib"
	"vswitch/vswitch/packet"
)

// Version is the program's, set by the command.
var Version = "devel"

// Status reports the node's view of itself.
func (n *Node) Status() Status {
	g := n.gossip.Snapshot()
	n.mu.Lock()
	defer n.mu.Unlock()
	s := Status{
		Name: n.cfg.Name, Version: Version, PID: os.Getpid(), Started: n.started,
		Ready: len(n.pools) > 0 && n.refuse == "" && !n.deaf && n.forwarding, Problems: slices.Clone(n.problems),
		Underlay: n.link.underlay(), Gossip: g.Self.Gossip, Addresses: n.cfg.Addresses, PodCIDRs: n.ranges(),
		Pods: len(n.pods), Peers: len(n.peers), Flows: n.conns.Len(), Generation: n.sw.Tables().Gen,
		Drops: drops(n.sw.Drops()),
	}
	s.Life, s.Reached = life(&g.Self), map[string]Reached{}
	for name, p := range n.peers {
		s.Reached[name] = Reached{life(&p.Node), p.remote.PodCIDRs}
	}
	s.DesiredRevision, _ = n.revisions.present()
	s.NodePort = n.ownStatus()
	switch {
	case n.feed != "":
		s.Problems = append(s.Problems, n.feed)
	case n.deaf:
		s.Problems = append(s.Problems, "nothing has been heard yet of services and policies from "+n.cfg.Control)
	}
	if n.own != nil && n.own.undiverted != "" {
		s.Problems = append(s.Problems, n.own.undiverted)
	}
	for _, name := range slices.Sorted(maps.Keys(n.refused)) {
		s.Problems = append(s.Problems, fmt.Sprintf("node %s cannot be a peer: %s", name, n.refused[name]))
	}
	s.Problems = slices.Concat(s.Problems, slices.Sorted(maps.Values(n.portProblems)), n.strangers, n.health.problems(), n.link.problems(), g.Problems)
	return s
}

func life(n *gossip.Node) string { return strconv.FormatUint(n.Life, 16) }

// Nodes lists the nodes that this one knows, itself first.
func (n *Node) Nodes() []NodeStatus {
	g := n.gossip.Snapshot()
	n.mu.Lock()
	defer n.mu.Unlock()
	self := NodeStatus{
		Name: n.cfg.Name, State: "self", Labels: n.cfg.Labels, Addresses: n.cfg.Addresses, PodCIDRs: n.ranges(),
		Underlay: n.link.underlay(), VTEPMAC: macString(n.mac("vtep")), Pods: len(n.pods),
	}
	var others []NodeStatus
	for _, node := range g.Nodes {
		s := NodeStatus{
			Name: node.Name, State: node.State.String(), Labels: node.Labels, Addresses: node.Addresses,
			PodCIDRs: node.PodCIDRs, Underlay: node.Underlay, VTEPMAC: macString(node.VTEPMAC), Pods: len(node.Pods),
		}
		if p := n.peers[node.Name]; p != nil {
			s.Counters = n.link.traffic(p.remote.Peer)
		}
		others = append(others, s)
	}
	slices.SortFunc(others, func(a, b NodeStatus) int { return strings.Compare(a.Name, b.Name) })
	return append([]NodeStatus{self}, others...)
}

// Routes lists the forwarding table.
func (n *Node) Routes() []Route {
	t := n.sw.Tables()
	var out []Route
	for prefix, hop := range t.Routes.All() {
		r := Route{Prefix: prefix, Kind: hop.Kind.String(), To: hop.Name, MTU: int(hop.MTU)}
		if info := t.Port(hop.Port); info != nil {
			r.Port = portName(info)
		}
		if hop.Kind == fib.Peer {
			n.mu.Lock()
			if p := n.peers[hop.Name]; p != nil {
				r.Via = n.link.via(p, prefix)
			}
			n.mu.Unlock()
		}
		out = append(out, r)
	}
	return out
}

// Neighbors lists what the switch answers ARP and neighbor solicitations with.
func (n *Node) Neighbors() []Neighbor {
	t := n.sw.Tables()
	var out []Neighbor
	for prefix, hop := range t.Routes.All() {
		switch {
		case hop.Kind == fib.Pod && prefix.IsSingleIP():
			out = append(out, Neighbor{IP: prefix.Addr(), MAC: macString(hop.MAC), Kind: "pod", To: hop.Name, Port: hop.Name})
		case hop.Kind == fib.Host && t.Port(hop.Port) != nil && t.Port(hop.Port).Kind == vswitch.PortNode:
			out = append(out, Neighbor{IP: prefix.Addr(), MAC: macString(hop.MAC), Kind: "node", To: hop.Name, Port: ownPortName})
		case hop.Kind == fib.Local && isGateway(t, prefix.Addr()):
			out = append(out, Neighbor{IP: prefix.Addr(), MAC: macString(t.GatewayMAC), Kind: "gateway", To: hop.Name})
		}
	}
	return out
}

// portName is the name that captures know a port by.
func portName(info *vswitch.PortInfo) string {
	if info.Kind == vswitch.PortNode {
		return ownPortName
	}
	return info.Name
}

func isGateway(t *vswitch.Tables, a netip.Addr) bool {
	b := packet.AddrFrom(a)
	return b == t.Gateway4 || b == t.Gateway6
}

func counters(c vswitch.Counters) *Counters {
	return &Counters{RxPackets: c.RxPackets, RxBytes: c.RxBytes, TxPackets: c.TxPackets, TxBytes: c.TxBytes, Drops: drops(c.Drops)}
}

func drops(m map[vswitch.Reason]uint64) map[string]uint64 {
	out := map[string]uint64{}
	for r, n := range m {
		out[r.String()] = n
	}
	return out
}

// wall turns the switch's time into a wall time.
func (n *Node) wall(at time.Duration) time.Time {
	return time.Now().Add(at - n.sw.Now())
}
