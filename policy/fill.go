package policy

// fillRows gives every identity its row of a direction that nobody has seen yet.
func (c *Compiler) fillRows(d *draft) {
	f := c.newFiller(d)
	peers := make([]uint64, d.direction.words)
	for s, terms := range d.bits {
		setBits(peers, terms)
		for _, id := range s.members {
			orInto(f.row(id), peers)
		}
	}
	if _, open := c.open[d]; open {
		for id := range c.ids.ported {
			f.row(id)
		}
	}
	d.table = newRowTable()
	d.table.add(d.base)
	masks := map[namedPort][]uint64{}
	for v, terms := range d.named {
		masks[v] = make([]uint64, d.direction.words)
		setBits(masks[v], terms)
	}
	for _, id := range f.touched {
		row := f.row(id)
		if len(masks) > 0 {
			for _, p := range c.ids.byID[id].ports {
				orInto(row[d.direction.words:], masks[p])
			}
		}
		if n := d.table.add(row); n != 0 {
			d.direction.setRow(id, n)
		}
		c.marked[id] = false
	}
	d.direction.rows = d.table.words
	d.builtRows = len(d.table.number)
}

// filler collects rows by identity, in memory that the compiler keeps.
type filler struct {
	c       *Compiler
	base    []uint64
	touched []uint32 // identities that have a row
}

func (c *Compiler) newFiller(d *draft) *filler {
	if need := len(c.ids.byID) * len(d.base); len(c.scratch) < need {
		c.scratch = make([]uint64, need+need/4)
	}
	if need := len(c.ids.byID); len(c.marked) < need {
		c.marked = make([]bool, need+need/4)
	}
	return &filler{c: c, base: d.base}
}

// row returns the row of an identity, which is the draft's base at first.
func (f *filler) row(id uint32) []uint64 {
	row := f.c.scratch[int(id)*len(f.base):][:len(f.base)]
	if !f.c.marked[id] {
		f.c.marked[id] = true
		f.touched = append(f.touched, id)
		copy(row, f.base)
	}
	return row
}

// setRow gives an identity a row. Its page must not be shared.
func (d *direction) setRow(id, row uint32) {
	n := int(id / pageSize)
	for len(d.pages) <= n {
		d.pages = append(d.pages, nil)
	}
	if d.pages[n] == nil {
		d.pages[n] = new(page)
	}
	d.pages[n][id%pageSize] = row
}
