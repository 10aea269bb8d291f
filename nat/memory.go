package nat

import (
	"sync"
	"unsafe"
)

const (
	// hugePage is the size of a huge page of the systems that have them for us.
	hugePage = 2 << 20
	// hugeFrom is how many bytes of a region are in use before huge pages are
	// asked for: a few flows must not cost megabytes.
	hugeFrom = 4 << 20
	// smallStep is how many bytes are made ready at once where there are fewer.
	smallStep = 64 << 10
	// fileStep is how many bytes a file grows by at least.
	fileStep = 256 << 10
)

// heapOnly makes tables of heap memory, for tests: the race detector sees no other.
var heapOnly bool

// region is zeroed memory outside the Go heap that is filled from its
// beginning. Pages cost nothing until they are used or soon will be. It belongs
// to whoever may call its methods, one at a time; what populates it in the
// background only touches pages that release and close wait for.
type region struct {
	mem  []byte // what may be used; its beginning is aligned to a huge page if it is that large
	raw  []byte // what the system gave
	done int    // the first so many bytes are ready; anonymous memory always is
	// populated is how far ahead has had pages populated, or will have when
	// populating is done; of anonymous memory, never less than done.
	populated  int
	populating sync.WaitGroup
	// extend makes room for the bytes of mem from one offset to another. Nil
	// for anonymous memory.
	extend func(from, to int) error
}

// words returns memory as n words.
func words(b []byte, n int) []uint32 {
	return unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(b))), n)[:n:n]
}

// reserve returns a region of n bytes of anonymous memory. Where the system
// gives none, it is of the heap.
func reserve(n int) *region {
	if heapOnly {
		return &region{mem: make([]byte, n)}
	}
	size := n
	if n >= hugePage {
		size += hugePage
	}
	raw, err := mapAnonymous(size)
	if err != nil {
		return &region{mem: make([]byte, n)}
	}
	off := 0
	if n >= hugePage {
		off = int(-uintptr(unsafe.Pointer(unsafe.SliceData(raw))) % hugePage)
	}
	return &region{mem: raw[off : off+n : off+n], raw: raw}
}

// ready prepares the first n bytes to be written: room in the file, huge pages
// for anonymous memory of some size. It is called in steps as the region fills.
func (r *region) ready(n int) error {
	if n <= r.done {
		return nil
	}
	if r.extend != nil {
		end := min((n+fileStep-1)/fileStep*fileStep, len(r.mem))
		if err := r.extend(r.done, end); err != nil {
			return err
		}
		r.done = end
		return nil
	}
	step := smallStep
	if n >= hugeFrom-hugePage {
		step = hugePage
	}
	// What is to be used now may lack pages still: they then come as it is written.
	r.done = min((n+step-1)/step*step, len(r.mem))
	r.ahead(min(r.done+step, len(r.mem)))
	return nil
}

// ahead has the first end bytes populated in the background, so far as they are
// not: whoever gets there first would wait for the system to find a page and fill
// it with zeros, which takes longer than all else about a new flow.
func (r *region) ahead(end int) {
	if r.raw == nil || end <= r.populated {
		return
	}
	mem, from := r.mem[:end], r.populated
	r.populated = end
	r.populating.Add(1)
	go func() {
		defer r.populating.Done()
		if end >= hugeFrom {
			adviseHuge(mem)
		}
		for ; from < end; from += hugePage { // whoever else maps memory waits for one of them
			populate(mem, from, min(from+hugePage, end))
		}
	}()
}

// reached tells that the first n bytes may be in use, of which some stretches are
// not: their pages come when they are written.
func (r *region) reached(n int) {
	if n > r.done {
		r.done, r.populated = n, max(r.populated, n)
	}
}

// release gives memory behind the first n bytes back, at most limit bytes (a huge
// page or more) at once, the last ones first. It reads as zero afterwards.
func (r *region) release(n, limit int) {
	n = (n + hugePage - 1) / hugePage * hugePage
	if r.raw == nil || r.done-n < 2*hugePage {
		return // not worth it: the next flows come soon
	}
	from := max(n, (r.populated-limit+hugePage-1)/hugePage*hugePage)
	r.populating.Wait() // or it would bring back what nobody knows of
	if giveBack(r.mem[from:r.populated]) {
		r.done, r.populated = min(r.done, from), from
	}
}

// close gives all memory back, once it is no longer being populated. It may be
// called again.
func (r *region) close() {
	r.populating.Wait()
	if r.raw != nil {
		unmap(r.raw)
	}
	r.mem, r.raw, r.extend, r.done, r.populated = nil, nil, nil, 0, 0
}
