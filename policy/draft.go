package policy

import (
	"encoding/binary"
	"slices"
)

// draft is the compiler's side of a direction: what it is made from, and what
// it takes to change it.
type draft struct {
	key      string
	dir      Direction
	policies []*policy // that speak, in order
	// namespace is the pods', if its annotation isolates them.
	namespace string
	isolated  bool
	ports     []namedPort // the pods', if ingress rules name ports

	pods int // that have it
	slot uint32
	// deniers are who may drop, by decision.counter.
	deniers []denier
	// bits are the terms that have a selector as peer.
	bits map[*selector][]int
	// base is row 0.
	base []uint64
	// names are the port names of egress rules, named the terms for peers that
	// have a port of that name and value.
	names     map[string]struct{}
	named     map[namedPort][]int
	table     *rowTable
	builtRows int // how many table had at first
	direction *direction

	stale  []uint32 // identities whose row may have changed
	queued bool     // in Compiler.stale
	idle   bool     // in Compiler.idle
	new    bool     // made by this Apply
}

// resolve finds the policies of the pods for which they may have changed.
func (c *Compiler) resolve() {
	for _, s := range c.moved {
		s.queued = false
		for _, id := range s.members {
			for _, p := range c.ids.byID[id].parties {
				if p.local {
					c.queueResolve(p)
				}
			}
		}
	}
	c.moved = c.moved[:0]
	for _, p := range c.unresolved {
		p.unresolved = false
		if !p.gone {
			c.resolveParty(p)
		}
	}
	c.unresolved = c.unresolved[:0]
	for _, d := range c.idle {
		if d.idle = false; d.pods == 0 {
			c.removeDraft(d)
		}
	}
	c.idle = c.idle[:0]
	for _, s := range c.left {
		c.release(s)
	}
	c.left = c.left[:0]
}

// resolveParty gives a pod the drafts of its policies.
func (c *Compiler) resolveParty(p *party) {
	var all []*policy
	for _, s := range p.identity.selectors {
		for q := range s.subjects {
			all = append(all, q)
		}
	}
	slices.SortFunc(all, comparePolicies)
	ns := c.namespaces[p.key.Namespace]
	for _, dir := range []Direction{Egress, Ingress} {
		want := draft{dir: dir, isolated: dir == Ingress && ns.isolates}
		names := false
		for _, q := range all {
			if q.speaks(dir) {
				want.policies = append(want.policies, q)
				names = names || dir == Ingress && slices.ContainsFunc(q.rules[dir], (*rule).usesNames)
			}
		}
		if want.isolated {
			want.namespace = p.key.Namespace
		}
		if names {
			want.ports = p.identity.ports
		}
		if d := c.draft(&want); d != p.drafts[dir] {
			c.leaveDraft(p.drafts[dir])
			p.drafts[dir] = d
			c.queueParty(p)
			if d != nil {
				d.pods++
			}
		}
	}
}

// draft returns the draft that is made from the same as want, or nil if nothing
// speaks about the pod.
func (c *Compiler) draft(want *draft) *draft {
	if len(want.policies) == 0 && !want.isolated {
		return nil
	}
	key := []byte{byte(want.dir)}
	for _, p := range want.policies {
		key = binary.AppendUvarint(key, p.serial)
	}
	if want.isolated {
		key = append(append(key, 0), want.namespace...)
	}
	if want.ports != nil {
		key = append(key, identityKey(true, "", nil, want.ports)...)
	}
	if d := c.drafts[string(key)]; d != nil {
		return d
	}
	d := *want
	d.key = string(key)
	d.policies = slices.Clone(d.policies)
	d.new = true
	c.drafts[d.key] = &d
	for _, p := range d.policies {
		if p.users[d.dir]++; p.users[d.dir] == 1 {
			c.acquirePeers(p, d.dir)
		}
		for _, r := range p.rules[d.dir] {
			for _, s := range r.peers {
				s.users[&d] = struct{}{}
			}
		}
	}
	if n := len(c.freeSlots); n > 0 {
		d.slot = c.freeSlots[n-1]
		c.freeSlots = c.freeSlots[:n-1]
	} else {
		d.slot = uint32(len(c.directions))
		c.directions = append(c.directions, nil)
	}
	c.build(&d)
	c.queueDraft(&d)
	return &d
}

// acquirePeers turns the peers of a policy's rules into selectors.
func (c *Compiler) acquirePeers(p *policy, dir Direction) {
	for _, r := range p.rules[dir] {
		for i := range r.spec.Peers {
			if peer := &r.spec.Peers[i]; len(peer.Blocks) == 0 {
				r.peers = append(r.peers, c.acquire(p.peerSelector(peer)))
			}
		}
	}
}

func (c *Compiler) releasePeers(p *policy, dir Direction) {
	for _, r := range p.rules[dir] {
		for _, s := range r.peers {
			c.release(s)
		}
		r.peers = nil
	}
}

// leaveDraft notes that a pod does not have the draft any more.
func (c *Compiler) leaveDraft(d *draft) {
	if d == nil {
		return
	}
	d.pods--
	if d.pods == 0 && !d.idle {
		d.idle = true
		c.idle = append(c.idle, d)
	}
}

func (c *Compiler) removeDraft(d *draft) {
	delete(c.drafts, d.key)
	delete(c.open, d)
	c.directions[d.slot] = nil
	c.freeSlots = append(c.freeSlots, d.slot)
	for _, p := range d.policies {
		for _, r := range p.rules[d.dir] {
			for _, s := range r.peers {
				delete(s.users, d)
			}
		}
		if p.users[d.dir]--; p.users[d.dir] == 0 {
			c.releasePeers(p, d.dir)
		}
	}
}

// queueDraft remembers a draft whose direction must be published.
func (c *Compiler) queueDraft(d *draft) {
	if !d.queued {
		d.queued = true
		c.stale = append(c.stale, d)
	}
}

// queueRow remembers that an identity's row of the draft may have changed.
func (c *Compiler) queueRow(d *draft, id uint32) {
	d.stale = append(d.stale, id)
	c.queueDraft(d)
}
