package agent

import (
	"net/netip"
	"slices"

	"vswitch/policy"
	"vswitch/vswitch/cluster"
)

// An address in another node's range of which no pod is known may be nobody's, or
// that of a pod that the news of has not come yet. The feed tells which pods each
// node should have, and gossip which addresses they have. So when the feed is
// there, the other node has told its pods, and every pod that it should have is
// among them, there is nobody left to hear of, as far as anybody can know.

// untold reports whether a pod should have an address, and none is known.
func untold(p *cluster.Pod) bool {
	return p != nil && p.Node != "" && !p.HostNetwork && !p.Ended() && len(p.IPs) == 0
}

// countUntold counts the pods without known addresses by node. Called with mu held.
func (n *Node) countUntold(c *cluster.Changes) {
	h := &n.hearsay
	for _, ch := range c.Pods {
		if untold(ch.Old) {
			if h.untold[ch.Old.Node]--; h.untold[ch.Old.Node] == 0 {
				delete(h.untold, ch.Old.Node)
			}
		}
		if untold(ch.New) {
			h.untold[ch.New.Node]++
		}
	}
}

// settleRanges tells policy of which ranges all pods are known, and reports whether
// that makes the next world another one. Called with mu held, or from Start.
func (n *Node) settleRanges() bool {
	if n.cfg.Control == "" {
		return false
	}
	r := policy.Ranges{Pods: n.cfg.ClusterCIDRs, Here: n.ranges()}
	if !n.deaf && n.feed == "" {
		r.Told, r.Awaited = n.toldRanges()
	}
	if !n.policies.SetRanges(r) || n.deaf {
		return false
	}
	n.compiler.SetPolicies(n.policies)
	return true
}

// toldRanges returns the ranges of which all pods are known, and those within them of
// which they are not. Where no node has its range there can be no pod either, if
// all nodes are there.
func (n *Node) toldRanges() (told, awaited []netip.Prefix) {
	all := true
	for node := range n.store.State().Nodes.All() {
		if node.Name == n.cfg.Name {
			continue
		}
		if n.hearsay.present[node.Name] && n.hearsay.untold[node.Name] == 0 {
			told = append(told, node.PodCIDRs...)
			continue
		}
		awaited = append(awaited, node.PodCIDRs...)
		all = all && n.hearsay.present[node.Name]
	}
	if all {
		told = append(told, n.cfg.ClusterCIDRs...)
	}
	compare := func(a, b netip.Prefix) int { return a.Compare(b) }
	slices.SortFunc(told, compare)
	slices.SortFunc(awaited, compare)
	return told, awaited
}
