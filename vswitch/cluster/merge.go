package cluster

import "slices"

// mergeFirst takes an object as its most trusted source says it.
func mergeFirst[T any](parts *[sources]*T) *T {
	for _, p := range parts {
		if p != nil {
			return p
		}
	}
	return nil
}

// mergeNode takes a node's name and labels as they are desired, and believes
// the node itself about its addresses, ranges, VTEP and readiness wherever it
// says something: packets must go where the node really is.
func mergeNode(parts *[sources]*Node) *Node {
	first := mergeFirst(parts)
	var seen *Node
	for _, i := range []int{gossip, local} { // local has the last word
		o := parts[i]
		if o == nil || o == first && seen == nil {
			continue
		}
		if seen == nil {
			n := *first
			seen = &n
		}
		seen.observe(o)
	}
	if seen != nil {
		return seen
	}
	return first
}

func (n *Node) observe(o *Node) {
	n.ResourceVersion = max(n.ResourceVersion, o.ResourceVersion)
	n.Ready, n.Reason = o.Ready, o.Reason
	if len(o.Addresses) > 0 {
		n.Addresses = o.Addresses
	}
	if len(o.ExtraAddresses) > 0 {
		n.ExtraAddresses = o.ExtraAddresses
	}
	if len(o.PodCIDRs) > 0 {
		n.PodCIDRs = o.PodCIDRs
	}
	if o.Underlay.IsValid() {
		n.Underlay = o.Underlay
	}
	if o.VTEPMAC != ([6]byte{}) {
		n.VTEPMAC = o.VTEPMAC
	}
	if n.Created.IsZero() {
		n.Created = o.Created
	}
	if len(n.Labels) == 0 {
		n.Labels = o.Labels
	}
}

// mergePod takes what a pod should be from the most trusted source, and
// believes the pod's own node about its addresses, and about its status if it
// reports a phase. What is said of another pod of the same name (its UID
// differs: one that was there before) is ignored.
func mergePod(parts *[sources]*Pod) *Pod {
	first := mergeFirst(parts)
	var seen *Pod
	for _, i := range []int{gossip, local} {
		o := parts[i]
		if o == nil || o == first && seen == nil || o.UID != "" && first.UID != "" && o.UID != first.UID {
			continue
		}
		if seen == nil {
			p := *first
			seen = &p
		}
		seen.observe(o)
	}
	if seen != nil {
		return seen
	}
	return first
}

func (p *Pod) observe(o *Pod) {
	p.ResourceVersion = max(p.ResourceVersion, o.ResourceVersion)
	if p.UID == "" {
		p.UID = o.UID
	}
	if p.Node == "" {
		p.Node = o.Node
	}
	if len(o.IPs) > 0 {
		p.IPs = slices.Clone(o.IPs)
	}
	if o.Phase == "" {
		return
	}
	p.Phase, p.Ready, p.ReadyAt, p.Reason = o.Phase, o.Ready, o.ReadyAt, o.Reason
	p.Restarts, p.Started, p.Statuses = o.Restarts, o.Started, o.Statuses
}
