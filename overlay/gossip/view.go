package gossip

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// rival is another node that uses a name that is taken.
type rival struct {
	was, other netip.AddrPort
	seen       time.Time
}

// rebuild returns the present view, a new one if anything changed since the
// last. It needs g.mu.
func (g *Gossip) rebuild() *State {
	if g.fresh {
		return g.state
	}
	names := slices.Sorted(maps.Keys(g.members))
	bids, problems := g.bids(names)
	if !slices.Equal(bids, g.bidden) || g.granted == nil {
		g.bidden = bids
		g.granted, g.conflicts = grant(bids)
	}
	granted, conflicts := g.granted, g.conflicts
	for _, c := range conflicts {
		problems = append(problems, c.String())
	}
	s := &State{Version: 1, Self: g.selfNode(granted[g.cfg.Name]), Conflicts: conflicts, Nodes: make([]Node, 0, len(g.members))}
	if g.state != nil {
		s.Version = g.state.Version + 1
	}
	for _, name := range names {
		m := g.members[name]
		n := m.node(granted[name])
		if v := &m.view; m.state == Alive && v.outside > 0 {
			problems = append(problems, fmt.Sprintf("node %s announces %d pods outside its pod ranges, as %s: they are ignored; check the address pool of %s", name, v.outside, v.example, name))
		}
		s.Nodes = append(s.Nodes, n)
	}
	problems = append(problems, s.shared()...)
	for name, r := range g.rivals {
		problems = append(problems, fmt.Sprintf("the name %s is used at %s and at %s: the second is ignored until the first is gone; give every node a name of its own", name, r.was, r.other))
	}
	problems = append(problems, g.exhausted...)
	for c := range g.complaints {
		problems = append(problems, c)
	}
	if g.alone {
		problems = append(problems, fmt.Sprintf("this node is alone: no node of its join list %v answers; check that they run, are reached, and have this node's cluster name and key", g.seeds()))
	}
	slices.Sort(problems)
	s.Problems = slices.Compact(problems)
	g.state, g.fresh = s, true
	return s
}

// maxComplaints bounds the sentences about refused traffic: who sends it is
// nobody that is trusted.
const maxComplaints = 8

// complain has a problem listed until it was not seen for a while (forget).
func (g *Gossip) complain(problem string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, known := g.complaints[problem]
	if !known && len(g.complaints) >= maxComplaints {
		return
	}
	g.complaints[problem] = time.Now()
	if !known {
		g.changed()
	}
}

// isolated notes that this node found nobody. Whom it meets ends that.
func (g *Gossip) isolated() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.alone && g.alive.Load() == 1 {
		g.alone = true
		g.changed()
	}
}

// bids returns the claims of this node and of those of names that are alive,
// without claims outside the cluster's ranges. It needs g.mu.
func (g *Gossip) bids(names []string) (bids []bid, problems []string) {
	for _, c := range g.claims {
		bids = append(bids, bid{g.cfg.Name, c})
	}
	for _, name := range names {
		m := g.members[name]
		if m.state != Alive {
			continue
		}
		for _, c := range m.meta.claims {
			if !inside(c.Prefix, g.cfg.ClusterCIDRs) {
				problems = append(problems, fmt.Sprintf("node %s claims pod range %s outside the cluster's %v: it is ignored; give all nodes the same cluster ranges", m.name, c.Prefix, g.cfg.ClusterCIDRs))
				continue
			}
			bids = append(bids, bid{m.name, c})
		}
	}
	return bids, problems
}

// selfNode returns the own entry. A claim that has not settled is not among
// its ranges.
func (g *Gossip) selfNode(granted []netip.Prefix) Node {
	n := Node{Name: g.cfg.Name, State: Alive, Life: g.life, Gossip: g.self, Facts: g.facts, Claims: g.claims, Pods: g.own.pods, Synced: true}
	for _, p := range granted {
		if _, wait := g.settling[p]; !wait {
			n.PodCIDRs = append(n.PodCIDRs, p)
		}
	}
	return n
}

// node returns the member's entry in a view where it was granted ranges.
func (m *member) node(granted []netip.Prefix) Node {
	n := Node{Name: m.name, State: m.state, Life: m.meta.life, Gossip: m.addr, Facts: m.meta.facts, Claims: m.meta.claims}
	if m.state != Alive {
		return n
	}
	n.PodCIDRs = granted
	if m.held == nil {
		return n
	}
	n.Synced, n.Labels = true, m.held.labels
	v := &m.view
	if v.held != m.held || !slices.Equal(v.granted, granted) {
		v.held, v.granted, v.outside = m.held, granted, 0
		v.pods, v.outside, v.example = m.filter(granted)
	}
	n.Pods = v.pods
	return n
}

// filter returns the pods that the node may have: addresses in the ranges it
// was granted, or its own (host network), and no address twice. Those outside
// all of its claims are counted; the others wait for a conflict to end.
func (m *member) filter(granted []netip.Prefix) (pods []Pod, outside int, example string) {
	claimed := make([]netip.Prefix, len(m.meta.claims))
	for i, c := range m.meta.claims {
		claimed[i] = c.Prefix
	}
	own := m.meta.facts.Addresses
	seen := map[netip.Addr]bool{}
	pods = make([]Pod, 0, len(m.held.pods))
	for i := range m.held.pods {
		p := &m.held.pods[i]
		twice := slices.ContainsFunc(p.IPs, func(a netip.Addr) bool { return seen[a] && !slices.Contains(own, a) })
		if twice || !p.covers(claimed, own) {
			if outside++; outside == 1 {
				example = fmt.Sprintf("%s/%s %v", p.Namespace, p.Name, p.IPs)
			}
			continue
		}
		if p.covers(granted, own) {
			pods = append(pods, *p)
		}
		for _, a := range p.IPs {
			seen[a] = true
		}
	}
	return pods, outside, example
}

// shared names the addresses that several live nodes announce.
func (s *State) shared() (problems []string) {
	type use struct{ what, addr string }
	users := map[use][]string{}
	add := func(n *Node) {
		if n.State != Alive {
			return
		}
		for _, a := range slices.Concat(n.Addresses, n.ExtraAddresses) {
			u := use{"address", a.String()}
			users[u] = append(users[u], n.Name)
		}
		if n.Underlay.IsValid() {
			u := use{"underlay endpoint", n.Underlay.String()}
			users[u] = append(users[u], n.Name)
		}
	}
	add(&s.Self)
	for i := range s.Nodes {
		add(&s.Nodes[i])
	}
	for u, names := range users {
		if len(names) > 1 {
			slices.Sort(names)
			problems = append(problems, fmt.Sprintf("nodes %s announce the same %s %s: traffic reaches one of them; give each its own", strings.Join(names, ", "), u.what, u.addr))
		}
	}
	return problems
}

// tell logs problems when they appear and when they end. It needs g.mu.
func (g *Gossip) tell(s *State) {
	now := map[string]bool{}
	for _, p := range s.Problems {
		now[p] = true
		if g.told[p] {
			continue
		}
		if slices.ContainsFunc(s.Conflicts, func(c Conflict) bool { return c.Loser == g.cfg.Name && c.String() == p }) {
			g.log.Error("this node lost a pod range", "problem", p)
			continue
		}
		g.log.Warn("cluster problem", "problem", p)
	}
	for p := range g.told {
		if !now[p] {
			g.log.Info("cluster problem is over", "problem", p)
		}
	}
	g.told = now
}
