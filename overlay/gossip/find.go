package gossip

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// tryAtOnce bounds the seeds and the lost nodes that are contacted in one
// round. One that answers tells about all it knows.
const tryAtOnce = 3

// find looks for seeds that are no members and for members that failed, for as
// long as the Gossip lives: a partition that outlasted memberlist's memory of
// the other side is healed by nobody else.
func (g *Gossip) find() {
	deadline := time.Now().Add(g.cfg.Timing.ClaimWait)
	aliases := map[netip.AddrPort]bool{}
	lone := len(g.seeds()) == 0
	if lone && len(g.cfg.PodCIDRs)+len(g.cfg.LastClaims) > 0 {
		g.permit(claimInformed)
	}
	for {
		joined, err := g.reach(g.targets(aliases), aliases)
		switch {
		case joined:
			g.permit(claimInformed)
		case time.Now().Before(deadline):
		case lone:
			// Nobody missed this node: it is the first one.
			g.permit(claimInformed)
		default:
			g.permit(claimBlind)
			if err != nil && g.alive.Load() == 1 {
				g.isolated()
				g.lines.warn("this node is alone: no node of the join list answers", "join", g.seeds(), "err", err)
			}
		}
		pause := g.cfg.Timing.Rejoin*3/4 + rand.N(g.cfg.Timing.Rejoin/2+1)
		if !joined && time.Now().Before(deadline) {
			pause = g.cfg.Timing.ClaimWait / 10
		}
		if !g.rest(pause) {
			return
		}
	}
}

// rest waits until it is time to look again, and reports false at the end.
func (g *Gossip) rest(pause time.Duration) bool {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-g.rejoin:
	case <-g.done:
		return false
	}
	// Whatever wakes this up, it does not run in circles.
	select {
	case <-time.After(g.cfg.Timing.GossipInterval):
		return true
	case <-g.done:
		return false
	}
}

// permit lets the node claim ranges; it never takes knowledge back.
func (g *Gossip) permit(c claimable) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c > g.claimable {
		g.claimable = c
		poke(g.wake)
	}
}

// seeds returns the join list without this node.
func (g *Gossip) seeds() []netip.AddrPort {
	return slices.DeleteFunc(slices.Clone(g.cfg.Join), func(a netip.AddrPort) bool {
		return a == g.self || a == g.cfg.Listen || a == g.cfg.Advertise
	})
}

// targets returns the addresses to try now. A seed that answered and turned
// out to be known under another address is an alias: it is tried again only
// by a node that is alone.
func (g *Gossip) targets(aliases map[netip.AddrPort]bool) []netip.AddrPort {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.leaving {
		return nil
	}
	live := map[netip.AddrPort]bool{g.self: true}
	var alive, failed, out []netip.AddrPort
	for _, m := range g.members {
		switch m.state {
		case Alive:
			live[m.addr] = true
			alive = append(alive, m.addr)
		case Failed:
			failed = append(failed, m.addr)
		}
	}
	add := func(from []netip.AddrPort, n int) {
		rand.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
		for _, a := range from {
			if n > 0 && !slices.Contains(out, a) {
				out = append(out, a)
				n--
			}
		}
	}
	for a := range live {
		delete(aliases, a)
	}
	for a := range g.suspects {
		add([]netip.AddrPort{a}, 1)
	}
	clear(g.suspects)
	add(slices.DeleteFunc(g.seeds(), func(a netip.AddrPort) bool {
		return live[a] || aliases[a] && len(alive) > 0
	}), tryAtOnce)
	add(slices.DeleteFunc(failed, func(a netip.AddrPort) bool { return live[a] }), tryAtOnce)
	if len(out) == 0 && g.counters.joins.Load() == 0 {
		// It heard of members by chance, as one without seeds that restarted
		// does. They know the others.
		add(alive, 1)
	}
	var heirs []netip.AddrPort
	for name, r := range g.rivals {
		if name == g.cfg.Name {
			// Others still know an older node of this name. Ask some of them again
			// and again: each accepts this one as soon as the other is gone.
			add(alive, 2)
		} else if m := g.members[name]; m == nil || m.state != Alive {
			heirs = append(heirs, r.other)
		}
	}
	add(heirs, tryAtOnce)
	return out
}

// reach joins at all addresses at the same time and reports whether any worked.
func (g *Gossip) reach(to []netip.AddrPort, aliases map[netip.AddrPort]bool) (joined bool, err error) {
	errs := make([]error, len(to))
	var wg sync.WaitGroup
	for i, a := range to {
		wg.Go(func() { _, errs[i] = g.ml.Join([]string{a.String()}) })
	}
	wg.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, a := range to {
		if errs[i] != nil {
			err = errs[i]
			continue
		}
		joined = true
		g.counters.joins.Add(1)
		known := false
		for _, m := range g.members {
			known = known || m.addr == a && m.state == Alive
		}
		if !known {
			aliases[a] = true
		}
	}
	return joined, err
}
