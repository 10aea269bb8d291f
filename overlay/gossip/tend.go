package gossip

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// coalesce is how long news are collected before they are worked on.
const coalesce = 5 * time.Millisecond

// maxGone bounds how many nodes that left or failed are remembered.
const maxGone = 4096

// claimable says whether the node may claim ranges yet.
type claimable uint8

const (
	claimNot      claimable = iota // it is still looking for its seeds
	claimBlind                     // it has seeds and found none
	claimInformed                  // it knows the cluster, or has no seeds
)

// tend asks for what is missing, claims ranges, and forgets nodes, until the
// Gossip is closed.
func (g *Gossip) tend() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-g.done:
			return
		case <-g.wake:
			select {
			case <-g.done:
				return
			case <-time.After(coalesce):
			}
		case <-timer.C:
		}
		if next := g.round(time.Now()); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
	}
}

// round does all that is due and returns when the next thing is, or zero.
func (g *Gossip) round(now time.Time) (next time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	next = g.ask(now)
	next = sooner(next, g.forget(now))
	g.reclaim(g.rebuild(), now)
	next = sooner(next, g.settle(now))
	g.tell(g.rebuild())
	return next
}

// settle frees claims for use whose time has come. It needs g.mu.
func (g *Gossip) settle(now time.Time) (next time.Time) {
	for p, due := range g.settling {
		if now.Before(due) {
			next = sooner(next, due)
			continue
		}
		delete(g.settling, p)
		g.changed()
	}
	return next
}

// forget drops nodes that are gone for long, and name conflicts and refused
// traffic that nobody has seen again. It needs g.mu.
func (g *Gossip) forget(now time.Time) (next time.Time) {
	var gone []*member
	for name, m := range g.members {
		if m.state == Alive {
			continue
		}
		if due := m.since.Add(g.cfg.Timing.Forget); now.Before(due) {
			next = sooner(next, due)
			gone = append(gone, m)
			continue
		}
		delete(g.members, name)
		g.changed()
	}
	if over := len(gone) - maxGone; over > 0 {
		slices.SortFunc(gone, func(a, b *member) int { return a.since.Compare(b.since) })
		for _, m := range gone[:over] {
			delete(g.members, m.name)
		}
		g.changed()
	}
	for name, m := range g.memories {
		if !now.Before(m.until) {
			delete(g.memories, name)
		}
	}
	for problem, seen := range g.complaints {
		if due := seen.Add(quiet); now.Before(due) {
			next = sooner(next, due)
			continue
		}
		delete(g.complaints, problem)
		g.changed()
	}
	hold := max(4*g.cfg.Timing.Rejoin, 2*g.cfg.Timing.PushPull)
	for name, r := range g.rivals {
		if due := r.seen.Add(hold); now.Before(due) {
			next = sooner(next, due)
			continue
		}
		delete(g.rivals, name)
		g.changed()
	}
	return next
}

// reclaim makes the first claims, and leaves those that another node holds and
// this one does not use. It needs g.mu.
func (g *Gossip) reclaim(s *State, now time.Time) {
	if g.claimable == claimNot || g.leaving {
		return
	}
	var claims []Claim
	g.exhausted = g.exhausted[:0:0]
	if len(g.cfg.PodCIDRs) > 0 {
		if len(g.claims) > 0 {
			return
		}
		for _, p := range g.cfg.PodCIDRs {
			claims = append(claims, Claim{Prefix: p, Stamp: g.stampOf(p)})
		}
	}
	for _, cluster := range g.cfg.ClusterCIDRs {
		if len(g.cfg.PodCIDRs) > 0 {
			break
		}
		if c, ok := g.choose(cluster, s, claims); ok {
			claims = append(claims, c)
		}
	}
	if !slices.Equal(claims, g.claims) {
		g.claim(claims, now)
	} else if len(g.exhausted) > 0 != slices.ContainsFunc(s.Problems, isExhausted) {
		g.changed()
	}
}

// claim announces claims in place of the present ones. It needs g.mu.
func (g *Gossip) claim(claims []Claim, now time.Time) {
	alone := g.alive.Load() == 1 && len(g.seeds()) == 0
	for _, c := range claims {
		if !slices.ContainsFunc(g.claims, func(o Claim) bool { return o.Prefix == c.Prefix }) && !alone {
			g.settling[c.Prefix] = now.Add(g.cfg.Timing.ClaimSettle)
		}
	}
	g.log.Info("claim pod ranges", "claims", claims, "instead", g.claims)
	old := g.claims
	g.claims = claims
	if err := g.announce(); err != nil {
		// Validate bounds what is configured, so this is a bug of this package.
		g.log.Error("cannot announce pod ranges", "err", err)
		g.claims = old
		return
	}
	g.offer()
	g.changed()
}

// choose returns the claim that the node should have in one of the cluster's
// ranges: the one it has, if nobody else holds it or pods use it; that of an
// earlier life; or a free one. It needs g.mu.
func (g *Gossip) choose(cluster netip.Prefix, s *State, mine []Claim) (Claim, bool) {
	i := slices.IndexFunc(g.claims, func(c Claim) bool { return cluster.Overlaps(c.Prefix) })
	if i >= 0 && (g.inUse(g.claims[i].Prefix) || !g.contested(g.claims[i].Prefix, s)) {
		return g.claims[i], true
	}
	live, gone := g.others()
	for _, c := range mine {
		live = append(live, c.Prefix)
	}
	if i < 0 {
		for _, c := range g.lastClaims() {
			if validRange(c.Prefix) && inside(c.Prefix, []netip.Prefix{cluster}) && (g.inUse(c.Prefix) || !overlapsAny(c.Prefix, live)) {
				return Claim{Prefix: c.Prefix, Stamp: c.Stamp, Automatic: true}, true
			}
		}
	}
	mask := g.cfg.nodeMask(cluster)
	p, ok := free(cluster, mask, g.cfg.Name, append(gone, live...))
	if !ok {
		p, ok = free(cluster, mask, g.cfg.Name, live)
	}
	if ok {
		return Claim{Prefix: p, Stamp: g.stamp(), Automatic: true}, true
	}
	g.exhausted = append(g.exhausted, fmt.Sprintf("%s a /%d in %s: this node can have no pods there; widen clusterCIDRs or make the node mask longer", noRange, mask, cluster))
	if i >= 0 {
		return g.claims[i], true
	}
	return Claim{}, false
}

const noRange = "no node range is free for"

func isExhausted(problem string) bool { return strings.HasPrefix(problem, noRange) }

// contested tells whether an automatic claim should move: it is lost, or it
// stands in the way of a claim that somebody configured. It needs g.mu.
func (g *Gossip) contested(p netip.Prefix, s *State) bool {
	for _, c := range s.Conflicts {
		if c.Loser == g.cfg.Name && c.Prefix == p {
			return true
		}
		if c.Winner != g.cfg.Name || c.With != p {
			continue
		}
		m := g.members[c.Loser]
		if m != nil && m.state == Alive && slices.ContainsFunc(m.meta.claims, func(o Claim) bool { return o.Prefix == c.Prefix && !o.Automatic }) {
			return true
		}
	}
	return false
}

// inUse tells whether a pod of this node has an address in p. It needs g.mu.
func (g *Gossip) inUse(p netip.Prefix) bool {
	return slices.ContainsFunc(g.pods, func(pod Pod) bool { return slices.ContainsFunc(pod.IPs, p.Contains) })
}

// others returns what live nodes claim, and what the others claimed last: they
// may come back. It needs g.mu.
func (g *Gossip) others() (live, gone []netip.Prefix) {
	for _, m := range g.members {
		for _, c := range m.meta.claims {
			if m.state == Alive {
				live = append(live, c.Prefix)
			} else {
				gone = append(gone, c.Prefix)
			}
		}
	}
	for name, m := range g.memories {
		for _, c := range m.claims {
			if g.members[name] == nil && name != g.cfg.Name {
				gone = append(gone, c.Prefix)
			}
		}
	}
	return live, gone
}

// stamp returns the Lamport time of a new claim. It needs g.mu.
func (g *Gossip) stamp() uint64 {
	top := uint64(0)
	if g.claimable == claimBlind {
		top = blindStamp
	}
	for _, m := range g.members {
		for _, c := range m.meta.claims {
			top = max(top, c.Stamp)
		}
	}
	for _, c := range g.claims {
		top = max(top, c.Stamp)
	}
	if top == ^uint64(0) {
		return top // a member announced nonsense; the name decides then
	}
	return top + 1
}

// stampOf returns the stamp that the node's claim on p had in an earlier life,
// or a new one. It needs g.mu.
func (g *Gossip) stampOf(p netip.Prefix) uint64 {
	for _, c := range g.lastClaims() {
		if c.Prefix == p {
			return c.Stamp
		}
	}
	return g.stamp()
}
