package policy

import "slices"

// patch brings the directions up to date with the identities, and reports
// whether any changed.
func (c *Compiler) patch() bool {
	if len(c.renamed) > 0 {
		for _, d := range c.drafts {
			if !d.new && d.namesAny(c.renamed) {
				c.build(d)
				c.queueDraft(d)
			}
		}
		clear(c.renamed)
	}
	changed := false
	for _, d := range c.stale {
		d.queued, d.new = false, false
		if d.pods == 0 {
			continue
		}
		if len(d.stale) > 0 {
			c.patchDraft(d)
		}
		if c.directions[d.slot] != d.direction {
			c.directions[d.slot] = d.direction
			changed = true
		}
	}
	c.stale = c.stale[:0]
	return changed
}

// namesAny reports whether the draft's egress rules use one of the port names.
func (d *draft) namesAny(names map[string]struct{}) bool {
	for name := range d.names {
		if _, ok := names[name]; ok {
			return true
		}
	}
	return false
}

// patchDraft makes a direction from the last one, with the rows of the stale
// identities anew. It shares what did not change.
func (c *Compiler) patchDraft(d *draft) {
	slices.Sort(d.stale)
	old, next := d.direction, *d.direction
	next.pages = slices.Clone(old.pages)
	own := map[int]bool{} // pages of next that are not old's
	changed := false
	for _, id := range slices.Compact(d.stale) {
		n := d.table.add(c.rowOf(d, id))
		if next.row(id) == n {
			continue
		}
		changed = true
		if at := int(id / pageSize); at < len(next.pages) && next.pages[at] != nil && !own[at] {
			p := *next.pages[at]
			next.pages[at] = &p
			own[at] = true
		}
		next.setRow(id, n)
	}
	d.stale = d.stale[:0]
	if !changed {
		return
	}
	next.rows = d.table.words
	d.direction = &next
	if len(d.table.number) > 2*d.builtRows+64 {
		c.build(d) // most rows are of the past
	}
}

// rowOf returns the identity's row of the draft. It is valid until the next call.
func (c *Compiler) rowOf(d *draft, id uint32) []uint64 {
	c.row = append(c.row[:0], d.base...)
	i := c.ids.byID[id]
	if i == nil {
		return c.row
	}
	_, selected := c.open[d]
	for _, s := range i.selectors {
		for _, term := range d.bits[s] {
			setBit(c.row, term)
			selected = true
		}
	}
	if len(d.named) > 0 && selected { // names mean nothing for who is no peer
		for _, p := range i.ports {
			for _, term := range d.named[p] {
				setBit(c.row[d.direction.words:], term)
			}
		}
	}
	return c.row
}
