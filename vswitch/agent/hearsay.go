package agent

import (
	"maps"
	"net/netip"
	"slices"

	"vswitch/overlay/gossip"
	"vswitch/vswitch"
	"vswitch/vswitch/cluster"
)

// hearsay is what gossip says of other nodes and their pods.
type hearsay struct {
	nodes map[string]*gossip.Node
	// pods are the nodes that say they have a pod, and what each says of it.
	pods map[cluster.Key]map[string]*gossip.Pod
	// present are the nodes that are there, and have told their pods.
	present map[string]bool
	// untold is how many pods a node should have of which no address is known.
	untold map[string]int
}

func newHearsay() hearsay {
	return hearsay{nodes: map[string]*gossip.Node{}, pods: map[cluster.Key]map[string]*gossip.Pod{},
		present: map[string]bool{}, untold: map[string]int{}}
}

// replace puts what a node says in the place of what it said; either may be nil.
// The pods of which it says something else are noted in touched.
func (h *hearsay) replace(old, now *gossip.Node, touched map[cluster.Key]bool) {
	left := map[cluster.Key]bool{}
	if old != nil {
		delete(h.nodes, old.Name)
		for i := range old.Pods {
			left[keyOf(&old.Pods[i])] = true
		}
	}
	if now != nil {
		h.nodes[now.Name] = now
		for i := range now.Pods {
			p := &now.Pods[i]
			k := keyOf(p)
			delete(left, k)
			if h.pods[k] == nil {
				h.pods[k] = map[string]*gossip.Pod{}
			}
			if was := h.pods[k][now.Name]; was == nil || !samePod(was, p) {
				touched[k] = true
			}
			h.pods[k][now.Name] = p
		}
	}
	for k := range left {
		touched[k] = true
		if delete(h.pods[k], old.Name); len(h.pods[k]) == 0 {
			delete(h.pods, k)
		}
	}
}

func keyOf(p *gossip.Pod) cluster.Key { return cluster.Key{Namespace: p.Namespace, Name: p.Name} }

func samePod(a, b *gossip.Pod) bool {
	return a.UID == b.UID && slices.Equal(a.IPs, b.IPs) && maps.Equal(a.Labels, b.Labels)
}

// sameList reports whether both have the same list of pods, not an equal one.
func sameList(a, b *gossip.Node) bool {
	return len(a.Pods) == len(b.Pods) && (len(a.Pods) == 0 || &a.Pods[0] == &b.Pods[0])
}

func sameFacts(a, b *gossip.Node) bool {
	return slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.PodCIDRs, b.PodCIDRs) &&
		a.Underlay == b.Underlay && maps.Equal(a.Labels, b.Labels)
}

// hearPods takes in what gossip says now, and tells the store. Called with mu
// held, or from Start.
func (n *Node) hearPods(s *gossip.State) {
	if n.cfg.Control == "" {
		return
	}
	h := &n.hearsay
	touched := map[cluster.Key]bool{}
	var changed []*gossip.Node
	listed := map[string]bool{}
	clear(h.present)
	for i := range s.Nodes {
		o := &s.Nodes[i]
		old := h.nodes[o.Name]
		// One that failed, or has come back and not told its pods yet, is believed
		// what it said last, so that nothing is open or shut meanwhile. Another
		// node that has its range ends that.
		if o.State != gossip.Alive || !o.Synced {
			listed[o.Name] = old != nil && !n.inherited(old, s)
			continue
		}
		listed[o.Name], h.present[o.Name] = true, true
		if old == nil || !sameList(old, o) || !sameFacts(old, o) {
			said := *o // which does not keep all of s
			h.replace(old, &said, touched)
			changed = append(changed, &said)
		}
	}
	var gone []string
	for name, old := range h.nodes {
		if !listed[name] {
			h.replace(old, nil, touched)
			gone = append(gone, name)
		}
	}
	if len(touched)+len(changed)+len(gone) == 0 {
		return
	}
	n.tell(cluster.Gossip, func(tx *cluster.Txn) {
		for _, name := range gone {
			tx.Delete(cluster.KindNode.Ref(cluster.Key{Name: name}))
		}
		for _, o := range changed {
			tx.Put(n.saidNode(o))
		}
		for k := range touched {
			n.putSaid(tx, k)
		}
	})
}

// inherited reports whether a live node has a range of one that may be dead.
func (n *Node) inherited(dead *gossip.Node, s *gossip.State) bool {
	overlaps := func(cidrs []netip.Prefix) bool {
		return slices.ContainsFunc(cidrs, func(a netip.Prefix) bool { return slices.ContainsFunc(dead.PodCIDRs, a.Overlaps) })
	}
	return overlaps(n.ranges()) || slices.ContainsFunc(s.Nodes, func(o gossip.Node) bool {
		return o.Name != dead.Name && overlaps(o.PodCIDRs)
	})
}

// saidNode is another node as the store is told of it.
func (n *Node) saidNode(o *gossip.Node) *cluster.Node {
	out := &cluster.Node{Meta: cluster.Meta{Name: o.Name, Labels: o.Labels}, Addresses: o.Addresses, PodCIDRs: o.PodCIDRs, Ready: true}
	if n.link.kind() == vswitch.PortUplink && o.Underlay.IsValid() {
		out.ExtraAddresses = []netip.Addr{o.Underlay.Addr()} // what its host says itself comes from there
	}
	return out
}

// putSaid tells the store what gossip says of a pod. Of two nodes that say they
// have it, that one is believed whose pod is the one that is desired; without
// one, the one that is believed already, else the first by name.
func (n *Node) putSaid(tx *cluster.Txn, k cluster.Key) {
	var best *cluster.Pod
	desired := tx.State().Pod(k)
	for node, p := range n.hearsay.pods[k] {
		said := &cluster.Pod{Meta: cluster.Meta{Namespace: p.Namespace, Name: p.Name, UID: p.UID, Labels: p.Labels}, Node: node, IPs: p.IPs}
		meant := desired != nil && desired.UID == p.UID
		if best == nil || meant || node < best.Node && (desired == nil || desired.UID != best.UID) {
			best = said
		}
	}
	if best == nil {
		tx.Delete(cluster.KindPod.Ref(k))
		return
	}
	tx.Put(best)
}

// hearAgain looks anew at pods that two nodes say they have, and of which the
// feed told something. Called with mu held.
func (n *Node) hearAgain(c *cluster.Changes) {
	var again []cluster.Key
	for _, ch := range c.Pods {
		if ch.New != nil && len(n.hearsay.pods[ch.New.Key()]) > 1 {
			again = append(again, ch.New.Key())
		}
	}
	if len(again) > 0 {
		n.tell(cluster.Gossip, func(tx *cluster.Txn) {
			for _, k := range again {
				n.putSaid(tx, k)
			}
		})
	}
}

// tellSelf tells the store of this node's own addresses.
func (n *Node) tellSelf() {
	if n.cfg.Control == "" {
		return
	}
	own := n.cfg.allAddresses()
	if n.link.kind() == vswitch.PortUplink {
		own = n.cfg.hostAddresses()
	}
	n.tell(cluster.Local, func(tx *cluster.Txn) {
		tx.Put(&cluster.Node{Meta: cluster.Meta{Name: n.cfg.Name, Labels: n.cfg.Labels}, Addresses: n.cfg.Addresses, ExtraAddresses: own, Ready: true})
	})
}
