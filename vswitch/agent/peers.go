package agent

import (
	"net/netip"
	"slices"
	"time"

	"vswitch/overlay/gossip"
	"vswitch/vswitch"
)

// peer is another node in use: its place in the overlay and in the tables.
type peer struct {
	gossip.Node
	remote RemoteNode
	extra  []netip.Addr // those of ExtraAddresses that are used
}

// sameRoute reports whether o is reached as p is, for the same ranges.
func (p *peer) sameRoute(o *gossip.Node) bool {
	return p.Underlay == o.Underlay && p.VTEPMAC == o.VTEPMAC &&
		slices.Equal(p.SourcePorts, o.SourcePorts) && slices.Equal(p.PodCIDRs, o.PodCIDRs) && slices.Equal(p.Addresses, o.Addresses) &&
		slices.Equal(p.ExtraAddresses, o.ExtraAddresses)
}

// sync makes the tables follow what gossip knows: other nodes come, change
// and go.
func (n *Node) sync(s *gossip.State) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refuse = ""
	for _, c := range s.Conflicts {
		if c.Loser == n.cfg.Name {
			n.refuse = c.String()
		}
	}
	// Ranges come once the claim has settled. While pods use the old ones they
	// stay, and the conflict is reported.
	if cidrs := s.Self.PodCIDRs; len(cidrs) > 0 && len(n.pods) == 0 && !slices.Equal(cidrs, n.ranges()) {
		n.setRanges(cidrs)
		if err := n.save(); err != nil {
			n.log.Error("the state could not be saved", "err", err)
		}
	}
	// Their pods are known before they are reached, and can reach this node.
	n.hearPods(s)
	changed := n.refresh(false)
	alive := map[string]bool{}
	n.strangers = nil
	var absent []netip.Prefix
	for _, node := range s.Nodes {
		if node.State != gossip.Alive {
			for _, a := range slices.Concat(node.Addresses, node.ExtraAddresses) {
				absent = append(absent, host(a))
			}
		}
		if node.State != gossip.Alive || !node.Underlay.IsValid() {
			continue
		}
		if why := n.mixed(&node); why != "" {
			n.strangers = append(n.strangers, why)
			continue
		}
		alive[node.Name] = true
		old := n.peers[node.Name]
		if old != nil && old.sameRoute(&node) {
			old.Life = node.Life
			continue
		}
		if old != nil {
			n.dropPeer(old)
		}
		changed = n.addPeer(node) || changed || old != nil
	}
	for name := range n.refused {
		if !alive[name] {
			delete(n.refused, name)
		}
	}
	for name, p := range n.peers {
		if !alive[name] {
			n.dropPeer(p)
			changed = true
		}
	}
	if !slices.Equal(absent, n.absent) {
		n.absent = absent
		n.setSelf()
	}
	if len(n.peers) > 0 && n.meeting {
		n.meeting, changed = false, true
		n.compiler.SetMeeting(false)
	}
	if changed {
		n.serviceNodes()
		n.sw.Publish(n.compiler.Publish())
		n.link.follow(n.ranges(), n.peers)
	}
}

// meetWithin bounds how long a node that meets no other takes it for possible that
// there are some.
const meetWithin = 10 * time.Second

// metNobody ends the time in which there may be others.
func (n *Node) metNobody() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.meeting {
		n.meeting = false
		n.compiler.SetMeeting(false)
		n.sw.Publish(n.compiler.Publish())
	}
}

// addPeer makes a node a peer, and reports whether it could. What is in the way
// is a problem until it could, and is logged when it is another than before.
func (n *Node) addPeer(node gossip.Node) bool {
	id, err := n.link.add(&node)
	if err != nil {
		if text := err.Error(); n.refused[node.Name] != text {
			n.refused[node.Name] = text
			n.log.Warn("cannot use a node as peer", "peer", node.Name, "err", err)
		}
		return false
	}
	delete(n.refused, node.Name)
	p := &peer{Node: node, extra: n.usable(&node)}
	p.remote = RemoteNode{
		Peer: id, Port: n.uplink, Name: node.Name, MAC: node.VTEPMAC, MTU: n.link.MTU(),
		PodCIDRs: node.PodCIDRs, Addresses: slices.Concat(node.Addresses, p.extra),
	}
	if n.link.kind() == vswitch.PortUplink {
		// What the peer's host says itself comes from there.
		p.remote.Addresses = append(slices.Clone(node.Addresses), node.Underlay.Addr())
	}
	n.peers[node.Name] = p
	n.compiler.SetNode(p.remote)
	n.log.Info("node is reachable", "peer", node.Name, "vtep", node.Underlay, "podCIDRs", node.PodCIDRs)
	return true
}

// usable returns those of a node's further addresses that nobody else has a
// better right to: pods, services, this node, and others' first addresses.
func (n *Node) usable(node *gossip.Node) (extra []netip.Addr) {
	for _, a := range node.ExtraAddresses {
		taken := slices.ContainsFunc(slices.Concat(n.cfg.ClusterCIDRs, n.ranges(), n.cfg.Services.CIDRs), func(p netip.Prefix) bool { return p.Contains(a) }) ||
			slices.Contains(n.cfg.allAddresses(), a)
		for _, p := range n.peers {
			taken = taken || p.Name != node.Name && slices.Contains(p.Addresses, a)
		}
		if taken {
			n.log.Warn("a node's further address is not used: somebody else has it", "peer", node.Name, "address", a)
			continue
		}
		extra = append(extra, a)
	}
	return extra
}

func (n *Node) dropPeer(p *peer) {
	n.compiler.DeleteNode(p.remote)
	n.link.remove(p.remote.Peer)
	delete(n.peers, p.Name)
	n.log.Info("node is gone", "peer", p.Name)
}
