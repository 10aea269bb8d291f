package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"vswitch/vswitch/agent"
)

// A node that came back answers before all packets of its pods pass: the others
// may have given it up meanwhile, and refuse what is for its pods until gossip
// has told them otherwise. Ready is what it is called when that is over. It is
// about one life of the node's process: who loses another node later, because
// that one died or the machine is slow, stays ready.

// notJoined says what is still missing before packets pass between the node and
// all others; nil if they do.
func (n *node) notJoined() error {
	if err := n.notReady(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.lack(); err != nil {
		return fmt.Errorf("node %s is not ready: %w", n.name, err)
	}
	return nil
}

// lack says what a node lacks that answers and is ready by itself; called with mu
// held.
func (n *node) lack() error {
	if n.joined != "" && n.joined == n.status.Life {
		return nil
	}
	why := n.lacks
	if why == "" {
		why = "it has not met the other nodes yet"
	}
	return errors.New(why)
}

// says is what a node said last of itself and the others.
type says struct {
	*node
	agent.Status
	restored bool // it has its pods
	joined   bool
}

// meet finds out which nodes have joined the others, and has nodes asked again
// that may have news of those that have not.
func (s *supervisor) meet() {
	s.mu.Lock()
	nodes := slices.Clone(s.nodes)
	s.mu.Unlock()
	var all []says
	for _, n := range nodes {
		n.mu.Lock()
		if n.ready && n.answers {
			all = append(all, says{n, n.status, n.restored == n.status.Life, n.joined == n.status.Life})
		}
		n.mu.Unlock()
	}
	for i := range all {
		if n := &all[i]; !n.joined {
			n.join(n.missing(all))
		}
	}
}

// missing says what a node lacks to have joined all others; empty: nothing.
func (n *says) missing(all []says) string {
	if !n.restored {
		return "its pods are not attached again yet"
	}
	for i := range all {
		switch o := &all[i]; {
		case o.node == n.node:
		case !n.reaches(o):
			return fmt.Sprintf("it does not reach node %s yet", o.name)
		case !o.reaches(n):
			return fmt.Sprintf("node %s does not reach it yet", o.name)
		}
	}
	return ""
}

// reaches reports whether a node has routes to all pods of another one as it is
// now.
func (n *says) reaches(o *says) bool {
	r, ok := n.Reached[o.name]
	return ok && r.Life == o.Life && !slices.ContainsFunc(o.PodCIDRs, func(p netip.Prefix) bool { return !slices.Contains(r.PodCIDRs, p) })
}

// join notes that the node has joined the others, or why it has not. Others may
// know more about it by now.
func (n *says) join(missing string) {
	n.mu.Lock()
	same := n.lacks == missing && missing != ""
	n.mu.Unlock()
	if same {
		return
	}
	n.update(func() {
		if n.status.Life != n.Life {
			return // its process has ended since
		}
		if n.lacks = missing; missing == "" {
			n.node.joined = n.Life
		}
	})
	if missing == "" {
		n.log.Info("node knows all others, and they know it")
		n.sup.poke()
	}
}

// unmet reports whether a node that is ready has not joined the others.
func (s *supervisor) unmet() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.nodes, func(n *node) bool { return n.notReady() == nil && n.notJoined() != nil })
}

// askAll has all nodes asked at once how they are.
func (s *supervisor) askAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		select {
		case n.ask <- struct{}{}:
		default: // it is asked soon
		}
	}
}

// meetProblem says which node has not joined the others: traffic to them would
// have no route.
func (s *supervisor) meetProblem() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		if err := n.notJoined(); err != nil {
			return err
		}
	}
	return nil
}

// restorePods makes a node that came back know its pods, and no others, in that
// life of it.
func (s *supervisor) restorePods(n *node, life string) {
	s.mu.Lock()
	var own []*pod
	for _, p := range s.pods {
		if p.spec.Node == n.name {
			own = append(own, p)
		}
	}
	s.mu.Unlock()
	var first sync.WaitGroup
	for _, p := range own {
		first.Go(func() {
			if p.tryReattach(n) != nil {
				go p.reattach(n)
			}
		})
	}
	first.Wait()
	n.update(func() { n.restored = life })
	s.meet()
	n.forgetOthers(s)
}
