package policy

import (
	"strings"
	"unsafe"
)

// rowTable collects rows of equal length, each of them once. Rows that it gave
// out stay where they are when more are added.
type rowTable struct {
	words  []uint64 // all rows, one after the other
	number map[string]uint32
}

func newRowTable() *rowTable { return &rowTable{number: map[string]uint32{}} }

// add returns the number of the row, which it copies if it is new.
func (t *rowTable) add(row []uint64) uint32 {
	key := unsafe.String((*byte)(unsafe.Pointer(&row[0])), len(row)*8)
	if n, ok := t.number[key]; ok {
		return n
	}
	n := uint32(len(t.number))
	t.number[strings.Clone(key)] = n
	t.words = append(t.words, row...)
	return n
}
