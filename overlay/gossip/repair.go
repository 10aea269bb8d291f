package gossip

import (
	"math/rand/v2"
	"time"
)

// gap says that an owner has announced more than this node holds.
type gap struct {
	edition           // what is known to exist
	due     time.Time // when to ask
	asked   int       // how often it was asked for
}

// receive takes a message of any kind, from a stream, a packet or a push/pull.
// It does not block.
func (g *Gossip) receive(b []byte) {
	kind, msg, err := decodeMessage(b)
	if err != nil {
		g.counters.malformed.Add(1)
		g.lines.warn("ignored a member's message", "bytes", len(b), "err", err)
		return
	}
	switch m := msg.(type) {
	case *stateMsg:
		g.takeState(m)
	case *deltaMsg:
		g.takeDelta(m)
	case *digestMsg:
		for _, s := range m.states {
			g.receiveState(s)
		}
		g.compare(m.editions, len(m.editions) == 1)
		g.remember(m.gone)
	case *wantMsg:
		g.answer(m)
	case *edition:
		g.parted(m)
	case *keyMsg:
		if kind == kindKeyAsk {
			g.obey(m)
		} else {
			g.asks.answered(m)
		}
	}
}

// receiveState takes a state inside a digest, and nothing else: a digest
// inside a digest would recurse.
func (g *Gossip) receiveState(b []byte) {
	_, msg, err := decodeMessage(b)
	if s, ok := msg.(*stateMsg); err == nil && ok {
		g.takeState(s)
		return
	}
	g.counters.malformed.Add(1)
}

// present returns the owner's entry if it is alive with the life of e. Only
// then may anything be said in its name. It needs g.mu.
func (g *Gossip) present(e *edition) *member {
	m := g.members[e.owner]
	if m == nil || m.state != Alive || m.meta.life != e.life {
		return nil
	}
	return m
}

func (g *Gossip) takeState(s *stateMsg) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.present(&s.edition)
	if m == nil {
		g.counters.stale.Add(1)
		return
	}
	h, v := m.held.take(s)
	g.keep(m, h, v, &s.edition)
}

func (g *Gossip) takeDelta(d *deltaMsg) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.present(&d.edition)
	if m == nil {
		g.counters.stale.Add(1)
		return
	}
	h, v := m.held.apply(d)
	g.keep(m, h, v, &d.edition)
}

// keep stores what became of a member's state. It needs g.mu.
func (g *Gossip) keep(m *member, h *held, v verdict, said *edition) {
	switch v {
	case stale:
		g.counters.stale.Add(1)
		return
	case gapped:
		g.behind(*said, g.cfg.Timing.Repair)
		return
	}
	m.held = h
	if p := g.gaps[m.name]; p != nil && h.version >= p.version {
		delete(g.gaps, m.name)
	}
	g.changed()
}

// compare notes which owners others know more of. A beacon is passed on the
// first time it is seen, whatever is held here: the next node may need it.
func (g *Gossip) compare(es []edition, beacon bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range es {
		e := &es[i]
		m := g.present(e)
		if m == nil {
			continue
		}
		if m.held == nil || m.held.version < e.version {
			g.behind(*e, g.cfg.Timing.Repair)
		}
		if beacon && m.heard.version < e.version {
			m.heard = *e
			g.beacons.QueueBroadcast(newBeacon(*e))
		}
	}
}

// behind notes that e exists and is missing here, and has it asked for if it
// does not arrive within wait. It needs g.mu.
func (g *Gossip) behind(e edition, wait time.Duration) {
	p := g.gaps[e.owner]
	if p == nil || p.life != e.life {
		g.gaps[e.owner] = &gap{edition: e, due: time.Now().Add(wait/2 + rand.N(wait/2+1))}
		poke(g.wake)
		return
	}
	p.version = max(p.version, e.version)
}

// ask sends a question for every gap that is due: to the owner, and every
// third time to any other member, in case the owner cannot be reached from
// here. It returns when the next one is due. It needs g.mu.
func (g *Gossip) ask(now time.Time) (next time.Time) {
	for owner, p := range g.gaps {
		m := g.present(&p.edition)
		if m == nil || m.peer == nil {
			delete(g.gaps, owner)
			continue
		}
		if !now.Before(p.due) {
			have := edition{owner: owner, life: p.life}
			if m.held != nil {
				have.version = m.held.version
			}
			to := m.peer
			if p.asked%3 == 2 {
				to = g.anyPeer(owner, to)
			}
			if p.asked == 1 {
				// The owner does not answer who it does not know: a node that
				// restarted without seeds knows nobody. A join tells it.
				g.suspects[m.addr] = true
				poke(g.rejoin)
			}
			p.asked++
			to.send((&wantMsg{from: g.cfg.Name, editions: []edition{have}}).encode())
			g.counters.asked.Add(1)
			p.due = now.Add(g.cfg.Timing.Repair * time.Duration(min(p.asked, 10)))
		}
		next = sooner(next, p.due)
	}
	return next
}

// anyPeer returns a random live member other than owner, or fallback.
func (g *Gossip) anyPeer(owner string, fallback *peer) *peer {
	ps := g.peers()
	for range min(3, len(ps)) {
		if p := ps[rand.N(len(ps))]; p.to.Name != owner {
			return p
		}
	}
	return fallback
}

// answer owes the asker what it wants and this node has.
func (g *Gossip) answer(w *wantMsg) {
	g.mu.Lock()
	defer g.mu.Unlock()
	asker := g.members[w.from]
	if asker == nil || asker.peer == nil {
		return // it will ask again; by then memberlist may know it
	}
	p := asker.peer
	for i := range w.editions {
		e := &w.editions[i]
		if e.owner == g.cfg.Name {
			switch {
			case e.life != g.life || e.version == 0:
				p.whole = true
			case e.version < g.own.version:
				p.sent = min(p.sent, e.version)
			}
			continue
		}
		if m := g.present(e); m != nil && m.held != nil && m.held.version > e.version {
			p.relay[e.owner] = true
		}
	}
	poke(p.wake)
}

// digest returns the versions that this node holds; for a join also the states
// themselves, as many as fit.
func (g *Gossip) digest(join bool) *digestMsg {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := &digestMsg{editions: []edition{g.own.edition}}
	size := 0
	pack := func(b []byte) {
		if size += len(b); join && size <= maxJoinBytes {
			d.states = append(d.states, b)
		}
	}
	pack(g.own.state())
	if join {
		d.gone = g.recall(time.Now())
	}
	for _, m := range g.members {
		if m.state != Alive || m.held == nil {
			continue
		}
		d.editions = append(d.editions, m.held.edition)
		if join {
			pack((&stateMsg{edition: m.held.edition, labels: m.held.labels, pods: m.held.pods}).encode())
		}
	}
	return d
}

// sooner returns the earlier of two times, where zero is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
