package nat

import (
	"math/rand/v2"
	"slices"
	"testing"

	"vswitch/vswitch/packet"
)

// TestChooseSpread: at random, every backend gets its share.
func TestChooseSpread(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, n := range []int{1, 2, 3, 7, 100} {
		s, list, got := &Service{}, backends(n), map[uint32]int{}
		total := 10000 * n
		for range total {
			got[s.Choose(list, client(1), r.Uint64()).ID]++
		}
		for _, b := range list {
			if c := got[b.ID]; c < 9500 || c > 10500 {
				t.Errorf("one of %d gets %d, want about 10000", n, c)
			}
		}
	}
}

// TestMaglevSpread: the table is shared out evenly, and so are clients.
func TestMaglevSpread(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10, 77, 500, 1000} {
		list := backends(n)
		m := newMaglev(list)
		share := make([]int, n)
		for _, b := range m.slots {
			share[b]++
		}
		if lo, hi := slices.Min(share), slices.Max(share); hi-lo > max(2, len(m.slots)/n/33) {
			t.Errorf("%d backends have %d to %d of %d slots", n, lo, hi, len(m.slots))
		}
	}
	list := backends(10)
	s := &Service{maglev: newMaglev(list)}
	got := map[uint32]int{}
	for i := range 100000 {
		got[s.Choose(list, client(i), 0).ID]++
	}
	for _, b := range list {
		if c := got[b.ID]; c < 9000 || c > 11000 {
			t.Errorf("one of 10 gets %d of 100000 clients", c)
		}
	}
}

// TestMaglevDisruption: without one backend, few others lose clients.
func TestMaglevDisruption(t *testing.T) {
	const n = 20
	list := backends(n)
	less := slices.Delete(slices.Clone(list), 7, 8)
	before, after := &Service{maglev: newMaglev(list)}, &Service{maglev: newMaglev(less)}
	moved, total := 0, 0
	for i := range 20000 {
		a, b := before.Choose(list, client(i), 0), after.Choose(less, client(i), 0)
		if a.ID == list[7].ID {
			continue
		}
		if total++; a.ID != b.ID {
			moved++
		}
	}
	if moved*100 > total*5 {
		t.Errorf("%d of %d clients moved although their backend stayed", moved, total)
	}
}

// TestMaglevAgrees: nodes choose alike, whatever their secrets and ports are;
// and what the table was not made of is chosen from all the same.
func TestMaglevAgrees(t *testing.T) {
	one, two := backends(30), backends(30)
	two[3].Local = true
	a, b := &Service{maglev: newMaglev(one)}, &Service{maglev: newMaglev(two)}
	for i := range 1000 {
		t1, t2 := *client(i), *client(i)
		t2.In, t2.Flags = 7, packet.Routed
		x, y := a.Choose(one, &t1, rand.Uint64()), b.Choose(two, &t2, rand.Uint64())
		if x.ID != y.ID {
			t.Fatalf("client %d: %v and %v", i, x, y)
		}
	}
	local := backends(2)
	if got := a.Choose(local, client(1), at(1, 2)); got != &local[1] {
		t.Errorf("of another list: %v", got)
	}
	if newMaglev(nil) != nil {
		t.Error("a table of nobody")
	}
}
