package gossip

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

// delegate is what memberlist calls. Events and alive messages come under
// memberlist's lock: nothing here may call it back.
type delegate struct{ g *Gossip }

var (
	_ memberlist.Delegate         = delegate{}
	_ memberlist.EventDelegate    = delegate{}
	_ memberlist.AliveDelegate    = delegate{}
	_ memberlist.MergeDelegate    = delegate{}
	_ memberlist.ConflictDelegate = delegate{}
	_ memberlist.PingDelegate     = delegate{}
)

// NodeMeta returns the encoded metadata, which announce keeps within the limit.
func (d delegate) NodeMeta(int) []byte { return *d.g.meta.Load() }

// NotifyMsg takes a message of a member.
func (d delegate) NotifyMsg(b []byte) { d.g.receive(b) }

// GetBroadcasts returns the digests and goodbyes that ride on gossip packets.
func (d delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.g.beacons.GetBroadcasts(overhead, limit)
}

// LocalState returns what a push/pull compares; for a join also the states.
func (d delegate) LocalState(join bool) []byte { return d.g.digest(join).encode() }

// MergeRemoteState takes the other side's LocalState.
func (d delegate) MergeRemoteState(b []byte, _ bool) { d.g.receive(b) }

// NotifyJoin, NotifyUpdate and NotifyLeave tell about other nodes and this one.
func (d delegate) NotifyJoin(n *memberlist.Node)   { d.g.met(n) }
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.g.met(n) }
func (d delegate) NotifyLeave(n *memberlist.Node)  { d.g.lost(n.Name) }

// NotifyAlive refuses nodes whose metadata is malformed or of another cluster.
func (d delegate) NotifyAlive(n *memberlist.Node) error {
	if n.Name == d.g.cfg.Name {
		return nil // memberlist itself defends the own name
	}
	_, err := d.g.vet(n)
	if err != nil {
		d.g.counters.refusedNodes.Add(1)
		d.g.lines.warn("refused node", "node", fmt.Sprintf("%.64q", n.Name), "gossip", nodeAddr(n).String(), "err", err)
	}
	return err
}

// NotifyMerge refuses to join a cluster that is another one, and learns from
// the others what this node was before.
func (d delegate) NotifyMerge(peers []*memberlist.Node) error {
	for _, n := range peers {
		m, err := decodeMeta(n.Meta)
		if err != nil {
			continue // NotifyAlive refuses the one node
		}
		if m.cluster != clusterID(d.g.cfg.Cluster) {
			d.g.counters.refusedNodes.Add(1)
			return fmt.Errorf("node %.64q: %w", n.Name, errCluster)
		}
		if n.Name == d.g.cfg.Name {
			d.g.recognize(n, m)
		}
	}
	return nil
}

// NotifyConflict notes that two nodes use one name.
func (d delegate) NotifyConflict(existing, other *memberlist.Node) {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	d.g.conflict(existing.Name, nodeAddr(existing), nodeAddr(other))
}

// conflict needs g.mu.
func (g *Gossip) conflict(name string, was, other netip.AddrPort) {
	g.rivals[name] = rival{was: was, other: other, seen: time.Now()}
	g.changed()
}

// AckPayload puts the number of this life into the answers to probes.
func (d delegate) AckPayload() []byte { return binary.BigEndian.AppendUint64(nil, d.g.life) }

// NotifyPingComplete compares the life that answered with the one known. A
// node that restarted so quickly that nobody missed it is found this way: it
// may know no seed, and nobody else would tell it of the cluster.
func (d delegate) NotifyPingComplete(n *memberlist.Node, _ time.Duration, payload []byte) {
	if len(payload) != 8 {
		return
	}
	life := binary.BigEndian.Uint64(payload)
	g := d.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if m := g.members[n.Name]; m != nil && m.state == Alive && m.meta.life != life {
		g.suspects[m.addr] = true
		poke(g.rejoin)
	}
}

// vet decodes what a node announces and refuses what cannot be believed at
// all. Ranges are judged later (rebuild): they cost a node its routes, not its
// membership.
func (g *Gossip) vet(n *memberlist.Node) (*meta, error) {
	if !validName(n.Name) {
		return nil, fmt.Errorf("name: %w", errMalformed)
	}
	if a := nodeAddr(n); !a.IsValid() || a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
		return nil, fmt.Errorf("gossip address: %w", errMalformed)
	}
	m, err := decodeMeta(n.Meta)
	if err != nil {
		return nil, err
	}
	if m.cluster != clusterID(g.cfg.Cluster) {
		return nil, errCluster
	}
	return m, nil
}

// met takes a node that is alive, or that changed what it announces.
func (g *Gossip) met(n *memberlist.Node) {
	if n.Name == g.cfg.Name {
		return
	}
	decoded, err := g.vet(n)
	if err != nil {
		return // NotifyAlive has refused it; memberlist never gets here
	}
	addr := nodeAddr(n)
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.members[n.Name]
	if m == nil {
		m = &member{name: n.Name}
		g.members[n.Name] = m
	}
	if m.over == decoded.life {
		return // it said goodbye; this is an echo
	}
	reborn := m.state != Alive || m.meta.life != decoded.life
	if reborn {
		g.log.Info("node is up", "peer", n.Name, "gossip", addr, "was", m.state)
		m.state, m.since, m.held, m.heard = Alive, time.Now(), nil, edition{}
	}
	if m.peer == nil || m.addr != addr || reborn {
		m.hangUp()
		m.peer = g.newPeer(n.Name, addr)
	}
	m.addr, m.meta = addr, decoded
	g.alone = false
	delete(g.rivals, n.Name)
	delete(g.suspects, addr)
	g.replace(n.Name, addr)
	if m.held == nil {
		g.behind(edition{n.Name, decoded.life, 1}, g.cfg.Timing.Repair/4)
	}
	if g.counters.joins.Load() == 0 {
		poke(g.rejoin)
	}
	g.count()
	g.changed()
}

// replace forgets failed nodes whose gossip address now belongs to name.
func (g *Gossip) replace(name string, addr netip.AddrPort) {
	for other, m := range g.members {
		if other != name && m.state != Alive && m.addr == addr {
			delete(g.members, other)
		}
	}
}

// lost takes a node that memberlist gave up, or that left. Whoever else used its
// name may have it now, and is to be asked at once (targets): it was ignored
// while it announced itself, and does not know that this is over.
func (g *Gossip) lost(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.rivals[name]; ok {
		poke(g.rejoin)
	}
	if m := g.members[name]; m != nil && m.state == Alive {
		g.end(m, Failed)
	}
}

// parted takes a goodbye.
func (g *Gossip) parted(e *edition) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m := g.members[e.owner]; m != nil && m.meta.life == e.life && m.state != Left {
		m.over = e.life
		g.end(m, Left)
	}
}

// end drops all that lived as long as the node. It needs g.mu.
func (g *Gossip) end(m *member, s NodeState) {
	m.hangUp()
	m.state, m.since, m.held, m.peer = s, time.Now(), nil, nil
	delete(g.gaps, m.name)
	g.log.Info("node is gone", "peer", m.name, "gossip", m.addr, "how", s)
	taken := m.addr == g.self
	for _, o := range g.members {
		taken = taken || o.state == Alive && o.addr == m.addr
	}
	if taken {
		delete(g.members, m.name) // another name has its address now
	}
	g.count()
	g.changed()
}

// count keeps the number that scales gossip. It needs g.mu.
func (g *Gossip) count() {
	n := int64(1)
	for _, m := range g.members {
		if m.state == Alive {
			n++
		}
	}
	g.alive.Store(n)
}
