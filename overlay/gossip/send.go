package gossip

import (
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"
)

// maxStreams bounds how many members are sent to at the same time, and so what
// a change costs at once in a large cluster.
const maxStreams = 16

// maxQueue bounds the messages that wait for one member, besides states, of
// which only the latest is kept.
const maxQueue = 64

// peer is the way to one live member. Its goroutine sends what is owed, one
// stream at a time; meanwhile changes add up to one delta. The fields below
// sent are guarded by Gossip.mu.
type peer struct {
	to   memberlist.Node
	wake chan struct{}
	stop chan struct{}

	sent  uint64          // version of the own state that the member should hold
	whole bool            // it asked for the complete own state
	relay map[string]bool // owners whose states it asked for
	queue [][]byte
}

// newPeer starts sending to a member. A new member is not sent the own state:
// it asks, or got it from the seed that it joined. It needs g.mu.
func (g *Gossip) newPeer(name string, a netip.AddrPort) *peer {
	p := &peer{to: memberNode(name, a), wake: make(chan struct{}, 1), stop: make(chan struct{}),
		sent: g.own.version, relay: map[string]bool{}}
	select {
	case <-g.done:
	default:
		g.wg.Go(func() { g.serve(p) })
	}
	return p
}

// hangUp ends the peer's goroutine. It needs the Gossip's mu.
func (m *member) hangUp() {
	if m.peer != nil {
		close(m.peer.stop)
		m.peer = nil
	}
}

// peers returns the ways to all live members. It needs g.mu.
func (g *Gossip) peers() []*peer {
	out := make([]*peer, 0, len(g.members))
	for _, m := range g.members {
		if m.peer != nil {
			out = append(out, m.peer)
		}
	}
	return out
}

// spread sends the changed own state to every member, and gossips its version
// so that whoever misses the delta notices. It needs g.mu.
func (g *Gossip) spread() {
	g.beacons.QueueBroadcast(newBeacon(g.own.edition))
	for _, p := range g.peers() {
		poke(p.wake)
	}
}

// send queues a message for a member, if there is room: whoever sends it asks
// again. It needs g.mu.
func (p *peer) send(b []byte) {
	if len(p.queue) >= maxQueue {
		return
	}
	p.queue = append(p.queue, b)
	poke(p.wake)
}

// serve sends to one member until it is gone.
func (g *Gossip) serve(p *peer) {
	select {
	case <-g.started:
	case <-g.done:
		return
	}
	pause := g.cfg.Timing.Repair
	for {
		select {
		case <-p.wake:
		case <-p.stop:
			return
		case <-g.done:
			return
		}
		if g.sendOwed(p) {
			pause = g.cfg.Timing.Repair
			continue
		}
		// The member may be failing. Try again until memberlist gives it up.
		t := time.NewTimer(pause)
		select {
		case <-t.C:
			poke(p.wake)
		case <-p.stop:
		case <-g.done:
		}
		t.Stop()
		pause = min(2*pause, g.cfg.Timing.Stream)
	}
}

// sendOwed sends all that is owed to p and reports whether that worked. What
// did not arrive is owed again.
func (g *Gossip) sendOwed(p *peer) bool {
	select {
	case g.sending <- struct{}{}:
		defer func() { <-g.sending }()
	case <-p.stop:
		return true
	case <-g.done:
		return true
	}
	for {
		b, undo := g.nextOwed(p)
		if b == nil {
			return true
		}
		if err := g.ml.SendReliable(&p.to, b); err != nil {
			g.counters.sendErrors.Add(1)
			g.log.Debug("cannot send to a node", "peer", p.to.Name, "bytes", len(b), "err", err)
			g.mu.Lock()
			undo()
			g.mu.Unlock()
			return false
		}
		g.counters.sent.Add(1)
		g.counters.sentBytes.Add(uint64(len(b)))
	}
}

// nextOwed takes the next message for p, and tells how to owe it again.
func (g *Gossip) nextOwed(p *peer) (b []byte, undo func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(p.queue) > 0 {
		b = p.queue[0]
		p.queue = slices.Delete(p.queue, 0, 1)
		return b, func() { p.queue = slices.Insert(p.queue, 0, b) }
	}
	if before, whole := p.sent, p.whole; whole || before < g.own.version {
		if b = g.own.since(before); whole {
			b = g.own.state()
		}
		p.whole, p.sent = false, g.own.version
		return b, func() { p.whole, p.sent = p.whole || whole, min(p.sent, before) }
	}
	for owner := range p.relay {
		delete(p.relay, owner)
		if m := g.members[owner]; m != nil && m.held != nil {
			h := m.held
			return (&stateMsg{edition: h.edition, labels: h.labels, pods: h.pods}).encode(), func() {}
		}
	}
	return nil, nil
}

// beacon is a small message about one owner that rides on gossip packets.
type beacon struct {
	name string
	b    []byte
}

// newBeacon tells that an edition exists.
func newBeacon(e edition) beacon {
	return beacon{e.owner, (&digestMsg{editions: []edition{e}}).encode()}
}

// Name lets a newer beacon of an owner replace the older one in the queue.
func (b beacon) Name() string { return b.name }

// Invalidates tells the same.
func (b beacon) Invalidates(o memberlist.Broadcast) bool {
	n, ok := o.(beacon)
	return ok && n.name == b.name
}

// Message returns the bytes to send.
func (b beacon) Message() []byte { return b.b }

// Finished is told when the beacon was sent often enough; nobody waits for it.
func (b beacon) Finished() {}
