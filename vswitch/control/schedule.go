package control

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"vswitch/vswitch/cluster"
)

// schedule gives pods without a node the one that fits and has the fewest
// pods; of equals, the first by name. Events have the words of kube-scheduler.
func (s *step) schedule() {
	s.index.startBy = time.Time{}
	if len(s.index.pending) == 0 {
		return
	}
	nodes, early := s.candidates()
	for _, k := range sorted(s.index.pending) {
		own := s.tx.Own().Pod(k)
		if own == nil || own.Node != "" {
			continue
		}
		p := *own
		best := pick(nodes, p.NodeSelector)
		if best != nil {
			best.pods++
			best.free--
			p.Node, p.Reason = best.node.Name, ""
			s.put(&p)
			s.said.happened(&p, false, "Scheduled", fmt.Sprintf("Successfully assigned %s to %s", k, p.Node))
		} else if why := unschedulable(nodes, p.NodeSelector); why != p.Reason {
			p.Reason = why
			s.put(&p)
			s.said.happened(&p, true, eventUnschedulable, why)
		}
	}
	s.index.startBy = early
}

// candidate is a node and what it carries.
type candidate struct {
	node *cluster.Node
	pods int    // that stay
	free int    // addresses left in its ranges
	why  string // it takes no pods at all; empty if it does
}

// candidates returns all nodes by name, and when it must be asked again
// because a node's time to start will be over.
func (s *step) candidates() (list []candidate, again time.Time) {
	for own := range s.tx.Own().Nodes.All() {
		n := s.tx.State().Node(own.Name)
		c := candidate{node: n, free: capacity(n)}
		if l := s.index.onNode[n.Name]; l != nil {
			c.pods = l.live
			c.free -= l.held
		}
		starting := later(n.Created, s.started).Add(s.cfg.StartupGrace)
		switch {
		case n.Unschedulable:
			c.why = "were unschedulable"
		case n.Ready:
		case s.index.reached[n.Name] || !s.now.Before(starting):
			c.why = "were not ready"
		default:
			again = earlier(again, starting)
		}
		list = append(list, c)
	}
	return list, again
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// earlier treats the zero time as never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// capacity is how many pods a node's smallest range has addresses for: the
// network's own, the gateway's and, of IPv4, the broadcast address are not for
// pods.
func capacity(n *cluster.Node) int {
	most := 1 << 30
	for _, r := range n.PodCIDRs {
		if host := r.Addr().BitLen() - r.Bits(); host < 30 {
			reserved := 2
			if r.Addr().Is4() {
				reserved = 3
			}
			most = min(most, max(0, 1<<host-reserved))
		}
	}
	return most
}

// pick returns the node for a pod, or nil.
func pick(nodes []candidate, selector map[string]string) *candidate {
	var best *candidate
	for i := range nodes {
		c := &nodes[i]
		if c.why == "" && c.free > 0 && matches(c.node, selector) && (best == nil || c.pods < best.pods) {
			best = c
		}
	}
	return best
}

func matches(n *cluster.Node, selector map[string]string) bool {
	for k, v := range selector {
		if have, ok := n.Labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// unschedulable says why no node was picked, in kube-scheduler's words.
func unschedulable(nodes []candidate, selector map[string]string) string {
	if len(nodes) == 0 {
		return "no nodes available to schedule pods"
	}
	reasons := map[string]int{}
	for i := range nodes {
		c := &nodes[i]
		switch {
		case c.why != "":
			reasons[c.why]++
		case !matches(c.node, selector):
			reasons["didn't match Pod's node affinity/selector"]++
		default:
			reasons["had too many pods"]++
		}
	}
	var parts []string
	for _, why := range slices.Sorted(maps.Keys(reasons)) {
		parts = append(parts, fmt.Sprintf("%d node(s) %s", reasons[why], why))
	}
	return fmt.Sprintf("0/%d nodes are available: %s.", len(nodes), strings.Join(parts, ", "))
}
