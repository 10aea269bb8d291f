package gossip

import (
	"time"

	"github.com/hashicorp/memberlist"
)

// memory is what others told about the ranges of a node that is gone.
type memory struct {
	claims []Claim
	until  time.Time
}

// remember takes what another node knows about nodes that are gone: this one
// may have started after they were lost. It is not believed for longer than
// this node itself would remember.
func (g *Gossip) remember(told []former) {
	if len(told) == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for _, f := range told {
		left := g.cfg.Timing.Forget
		if f.left < uint64(left/time.Second) {
			left = time.Duration(f.left) * time.Second
		}
		if _, known := g.members[f.node]; known || left <= 0 || len(g.memories) >= maxGone {
			continue
		}
		if m, ok := g.memories[f.node]; !ok || m.until.Before(now.Add(left)) {
			g.memories[f.node] = memory{f.claims, now.Add(left)}
		}
	}
}

// recall returns what this node knows about nodes that are gone. It needs g.mu.
func (g *Gossip) recall(now time.Time) []former {
	var out []former
	add := func(name string, claims []Claim, until time.Time) {
		if left := until.Sub(now); left >= time.Second && len(claims) > 0 {
			out = append(out, former{name, claims, uint64(left / time.Second)})
		}
	}
	for name, m := range g.members {
		if m.state != Alive {
			add(name, m.meta.claims, m.since.Add(g.cfg.Timing.Forget))
		}
	}
	for name, m := range g.memories {
		if _, known := g.members[name]; !known && name != g.cfg.Name {
			add(name, m.claims, m.until)
		}
	}
	return out
}

// lastClaims returns the claims of this node's earlier life: as configured,
// and as others remember them. It needs g.mu.
func (g *Gossip) lastClaims() []Claim {
	return append(g.cfg.LastClaims[:len(g.cfg.LastClaims):len(g.cfg.LastClaims)], g.memories[g.cfg.Name].claims...)
}

// recognize takes what others still have of this node's name: the claims of
// its earlier life, and a place where they look for it.
func (g *Gossip) recognize(n *memberlist.Node, m *meta) {
	if m.life == g.life {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(m.claims) > 0 {
		g.memories[g.cfg.Name] = memory{m.claims, time.Now().Add(g.cfg.Timing.Forget)}
	}
	// Of a node that is suspected, memberlist reports no conflict: it refutes
	// the suspicion, which the others ignore as they ignore the new address.
	gone := n.State == memberlist.StateDead || n.State == memberlist.StateLeft
	if a := nodeAddr(n); g.self.IsValid() && a != g.self && !gone {
		g.conflict(g.cfg.Name, g.self, a)
	}
}
