package policy

import (
	"slices"
)

// queueIdentity remembers an identity that is new, has nobody any more, or is
// in a namespace with other labels.
func (c *Compiler) queueIdentity(i *identity) {
	if !i.queued {
		i.queued = true
		c.unmatched = append(c.unmatched, i)
	}
}

func (c *Compiler) queueSelector(s *selector) {
	if !s.queued {
		s.queued = true
		c.moved = append(c.moved, s)
	}
}

func (c *Compiler) queueParty(p *party) {
	if !p.queued {
		p.queued = true
		c.changed = append(c.changed, p)
	}
}

func (c *Compiler) queueResolve(p *party) {
	if !p.unresolved {
		p.unresolved = true
		c.unresolved = append(c.unresolved, p)
	}
}

// matchIdentities brings the members of all selectors up to date with the
// identities that changed.
func (c *Compiler) matchIdentities() {
	var gone []*identity
	for _, i := range c.unmatched {
		i.queued = false
		if len(i.parties) == 0 {
			gone = append(gone, i)
			for _, s := range i.selectors {
				c.leave(s, i)
			}
			i.selectors = nil
			if i.counted {
				c.countPorts(i, -1)
			}
			continue
		}
		if !i.counted {
			c.countPorts(i, 1)
		}
		c.match(i)
	}
	c.unmatched = c.unmatched[:0]
	for _, i := range gone {
		c.ids.remove(i, c.namespaces[i.who.namespace])
		c.freed = append(c.freed, i.id)
		if ns := c.namespaces[i.who.namespace]; ns != nil && !ns.exists && len(ns.postings.all) == 0 {
			delete(c.namespaces, i.who.namespace)
		}
	}
}

// match finds the selectors that match an identity, among those that share an
// anchor with it.
func (c *Compiler) match(i *identity) {
	c.selectors.pass++
	pass := c.selectors.pass
	var now []*selector
	anchorsOf(i.who, func(a anchor) {
		for _, s := range c.selectors.byAnchor[a] {
			if s.seen != pass {
				s.seen = pass
				if s.matches(i.who) {
					now = append(now, s)
				}
			}
		}
	})
	c.selectors.pass++
	pass = c.selectors.pass
	for _, s := range now {
		s.seen = pass
	}
	for _, s := range i.selectors {
		if s.seen == pass {
			s.seen--
		} else {
			c.leave(s, i)
		}
	}
	for _, s := range now {
		if s.seen == pass {
			c.enter(s, i)
		}
	}
	i.selectors = now
}

// enter makes an identity a member of a selector; leave undoes it.
func (c *Compiler) enter(s *selector, i *identity) {
	if at, ok := slices.BinarySearch(s.members, i.id); !ok {
		s.members = slices.Insert(s.members, at, i.id)
		c.membershipChanged(s, i)
	}
}

func (c *Compiler) leave(s *selector, i *identity) {
	if at, ok := slices.BinarySearch(s.members, i.id); ok {
		s.members = slices.Delete(s.members, at, at+1)
		c.membershipChanged(s, i)
	}
}

func (c *Compiler) membershipChanged(s *selector, i *identity) {
	for d := range s.users {
		c.queueRow(d, i.id)
	}
	if len(s.subjects) > 0 {
		for _, p := range i.parties {
			if p.local {
				c.queueResolve(p)
			}
		}
	}
}

// acquire returns the selector that is written like s, with its members.
func (c *Compiler) acquire(s selector) *selector {
	t, fresh := c.selectors.find(s)
	if !fresh {
		return t
	}
	c.candidates(t, func(i *identity) {
		if t.matches(i.who) {
			t.members = append(t.members, i.id)
		}
	})
	slices.Sort(t.members)
	t.members = slices.Compact(t.members)
	for _, id := range t.members {
		i := c.ids.byID[id]
		i.selectors = append(i.selectors, t)
	}
	return t
}

// release gives back a selector that acquire returned.
func (c *Compiler) release(s *selector) {
	if s.refs--; s.refs > 0 {
		return
	}
	for _, id := range s.members {
		i := c.ids.byID[id]
		i.selectors = without(i.selectors, s)
	}
	c.selectors.remove(s)
}

// countPorts keeps ids.named, and remembers names whose values changed, and
// rows that change though no selector matches the identity.
func (c *Compiler) countPorts(i *identity, by int) {
	i.counted = by > 0
	for _, p := range i.ports {
		values := c.ids.named[p.name]
		if values == nil {
			values = map[namedPort]int{}
			c.ids.named[p.name] = values
		}
		values[p] += by
		for d := range c.open {
			if _, ok := d.names[p.name]; ok {
				c.queueRow(d, i.id)
			}
		}
		if values[p] == by || values[p] == 0 {
			c.renamed[p.name] = struct{}{}
		}
		if values[p] == 0 {
			delete(values, p)
		}
		if len(values) == 0 {
			delete(c.ids.named, p.name)
		}
	}
}
