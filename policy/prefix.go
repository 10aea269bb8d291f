package policy

import (
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// block is an address range of a term, less its exceptions.
type block struct {
	term   int
	cidr   netip.Prefix
	except []netip.Prefix
}

// compilePrefixes returns a table that leads from an address to the row of the
// terms one of whose blocks holds it, and the rows. At each prefix that is
// mentioned stands the whole row for the addresses that have no longer one, so
// that one search is enough. It returns nil for no blocks.
func compilePrefixes(blocks []block, words int) (*bart.Table[uint32], []uint64) {
	if len(blocks) == 0 {
		return nil, nil
	}
	marks := map[netip.Prefix]*mark{}
	at := func(p netip.Prefix) *mark {
		p = p.Masked()
		if marks[p] == nil {
			marks[p] = &mark{prefix: p}
		}
		return marks[p]
	}
	for i, b := range blocks {
		m := at(b.cidr)
		m.begins = append(m.begins, i)
		for _, e := range b.except {
			m := at(e)
			m.excepts = append(m.excepts, i)
		}
	}
	sorted := make([]*mark, 0, len(marks))
	for _, m := range marks {
		sorted = append(sorted, m)
	}
	slices.SortFunc(sorted, func(a, b *mark) int {
		if c := a.prefix.Addr().Compare(b.prefix.Addr()); c != 0 {
			return c
		}
		return a.prefix.Bits() - b.prefix.Bits()
	})
	table, rows := new(bart.Table[uint32]), newRowTable()
	var open []*mark // those that the present one lies in
	for _, m := range sorted {
		for len(open) > 0 && !open[len(open)-1].prefix.Contains(m.prefix.Addr()) {
			open = open[:len(open)-1]
		}
		open = append(open, m)
		m.row = make([]uint64, words)
		fillRow(m, open, blocks)
		table.Insert(m.prefix, rows.add(m.row))
	}
	return table, rows.words
}

// mark is a prefix at which blocks begin or have exceptions, by their index.
type mark struct {
	prefix          netip.Prefix
	begins, excepts []int
	row             []uint64
}

// fillRow sets m's row, given the prefixes that it lies in, itself the last.
func fillRow(m *mark, open []*mark, blocks []block) {
	excepted := false
	for _, o := range open {
		excepted = excepted || len(o.excepts) > 0
	}
	if !excepted {
		if len(open) > 1 {
			copy(m.row, open[len(open)-2].row)
		}
		for _, i := range m.begins {
			setBit(m.row, blocks[i].term)
		}
		return
	}
	out := map[int]bool{}
	for _, o := range open {
		for _, i := range o.excepts {
			out[i] = true
		}
	}
	for _, o := range open {
		for _, i := range o.begins {
			if !out[i] {
				setBit(m.row, blocks[i].term)
			}
		}
	}
}
