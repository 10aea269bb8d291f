package nat

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
)

// mapped returns a region of memory of the system, also for the race detector,
// which sees what is done to the region if not what is done to its memory.
func mapped(t *testing.T, n int) *region {
	t.Helper()
	onSystem(t)
	r := reserve(n)
	if r.raw == nil {
		if _, err := mapAnonymous(n); !errors.Is(err, errors.ErrUnsupported) {
			t.Fatalf("the system gives no memory: %v", err)
		}
		t.Skip("no memory but the heap's on this system")
	}
	t.Cleanup(r.close)
	return r
}

// onSystem has the test's tables in memory of the system.
func onSystem(t *testing.T) {
	was := heapOnly
	heapOnly = false
	t.Cleanup(func() { heapOnly = was })
}

// TestRegion: whatever is used and given back, what is in use stays as it was
// written, and what was never used or has been given back is zero.
func TestRegion(t *testing.T) {
	const size, page = 24<<20 + 4096, 4096
	r := mapped(t, size)
	rnd := rand.New(rand.NewPCG(1, 2))
	var want [size / page]byte // the first byte of each page
	used, gaveBack := 0, false
	for i := range 400 {
		if rnd.IntN(3) > 0 {
			from := used
			used = min(size, used+rnd.IntN(1<<(10+rnd.IntN(12))))
			if err := r.ready(used); err != nil {
				t.Fatal(err)
			}
			for p := (from + page - 1) / page; p*page < used; p++ {
				want[p] = byte(i)
				r.mem[p*page] = byte(i)
			}
		} else {
			if i%8 == 0 {
				used = rnd.IntN(used + 1)
			}
			before, limit := r.populated, []int{hugePage, 4 * hugePage}[rnd.IntN(2)]
			r.release(used, limit)
			if given := before - r.populated; given < 0 || given > limit {
				t.Fatalf("%d bytes were given back, of at most %d", given, limit)
			}
			gaveBack = gaveBack || r.populated < before
			if r.populated < before {
				clear(want[(r.populated+page-1)/page:])
			}
		}
		if used > r.done || r.done > r.populated || r.populated > size {
			t.Fatalf("%d bytes are in use, %d ready, %d populated of %d", used, r.done, r.populated, size)
		}
		for p, v := range want {
			if r.mem[p*page] != v {
				t.Fatalf("step %d: page %d has %d, want %d; %d in use, %d ready, %d populated", i, p, r.mem[p*page], v, used, r.done, r.populated)
			}
		}
	}
	if giveBack(r.mem[size-page:]) && !gaveBack {
		t.Error("nothing was given back")
	}
	r.close()
	r.close()
}

// TestRegionClose: memory that is being populated may be closed.
func TestRegionClose(t *testing.T) {
	for range 50 {
		r := mapped(t, 8<<20)
		r.ahead(1 << 20)
		r.ahead(8 << 20)
		r.close()
		if r.mem != nil || r.raw != nil {
			t.Fatal("it is still there")
		}
	}
}

// TestGround: parts do not overlap, are empty, and go when the last of them does.
func TestGround(t *testing.T) {
	onSystem(t)
	g := &ground{indexes: 3}
	const slots = 1 << 14
	for turn := range uint32(3) {
		var parts [3][]uint32
		for i := range parts {
			parts[i] = g.take(i, slots)
			for k, v := range parts[i] {
				if v != 0 {
					t.Fatalf("turn %d: slot %d of part %d has %d", turn, k, i, v)
				}
				parts[i][k] = uint32(i + 1)
			}
		}
		for i, part := range parts {
			if g.sizes[14].mem == nil || len(part) != slots || part[0] != uint32(i+1) || part[slots-1] != uint32(i+1) {
				t.Fatalf("turn %d: part %d has %d slots from %d to %d", turn, i, len(part), part[0], part[slots-1])
			}
			g.give(part)
		}
		if s := &g.sizes[14]; s.mem != nil || s.users != 0 {
			t.Fatalf("turn %d: %d are left", turn, s.users)
		}
	}
}

// TestIndexesShareGround: indexes that grow at different times have what was put
// into them, and nothing else, while somebody prefetches; then nothing is left.
func TestIndexesShareGround(t *testing.T) {
	onSystem(t)
	const size = 1 << 14
	g := &ground{indexes: 4}
	tags := make([]uint32, size)
	xs := make([]index, g.indexes)
	for i := range xs {
		xs[i] = makeIndex(g, i, 64, size, tags)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for h := uint64(1); ; h *= 0x9e3779b97f4a7c15 {
			select {
			case <-stop:
				return
			default:
				for i := range xs {
					xs[i].prefetch(h)
				}
			}
		}
	})
	rnd := rand.New(rand.NewPCG(3, 4))
	type item struct {
		hash uint64
		in   int // -1: nowhere
	}
	var items [size]item
	for e := range items {
		// The first one runs ahead of the second, and so on.
		it := item{rnd.Uint64(), rnd.IntN(1 + rnd.IntN(len(xs)))}
		tags[e] = uint32(it.hash)
		xs[it.in].insert(it.hash, uint32(e))
		items[e] = it
		if gone := rnd.IntN(e + 1); rnd.IntN(8) == 0 && items[gone].in >= 0 {
			xs[items[gone].in].remove(uint32(gone))
			items[gone].in = -1
		}
	}
	close(stop)
	wg.Wait()
	for e, it := range items {
		for i := range xs {
			found := false
			c := xs[i].seek(it.hash)
			for entry, ok := xs[i].next(&c); ok; entry, ok = xs[i].next(&c) {
				found = found || entry == uint32(e)
			}
			if found != (it.in == i) {
				t.Fatalf("entry %d of index %d: found in %d: %v", e, it.in, i, found)
			}
		}
	}
	for i := range xs {
		xs[i].close()
	}
	for i, s := range g.sizes {
		if s.mem != nil || s.users != 0 {
			t.Errorf("of 1<<%d slots, %d are left", i, s.users)
		}
	}
}
