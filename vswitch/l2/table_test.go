package l2

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"vswitch/vswitch/packet"
)

// numbered returns a different address for every i, every second of IPv4.
func numbered(i int) packet.Addr {
	if i%2 == 0 {
		return addr(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
	}
	return addr(fmt.Sprintf("fd00:10:244:%x::%x", i>>8, i&255))
}

// TestTable compares with a map under random changes, and checks that no older
// table ever changes.
func TestTable(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var table Table
	model := map[packet.Addr]Neighbor{}
	type past struct {
		table Table
		model map[packet.Addr]Neighbor
	}
	var history []past
	for i := range 20000 {
		a := numbered(r.IntN(500))
		if r.IntN(3) == 0 {
			table = table.Delete(a)
			delete(model, a)
		} else {
			n := Neighbor{MAC: [6]byte{2, byte(i)}, Port: uint16(i), Name: uint32(i)}
			table = table.Insert(a, n)
			model[a] = n
		}
		a = numbered(r.IntN(600))
		got, ok := table.Lookup(&a)
		if want, has := model[a]; got != want || ok != has {
			t.Fatalf("%v: %v %v, want %v %v", a, got, ok, want, has)
		}
		if i%1000 == 0 {
			history = append(history, past{table, maps.Clone(model)})
		}
	}
	for _, p := range append(history, past{table, model}) {
		if got := maps.Collect(p.table.All()); !maps.Equal(got, p.model) || p.table.Len() != len(p.model) {
			t.Fatalf("%d addresses, want %d", len(got), len(p.model))
		}
	}
}

func TestTableEmpty(t *testing.T) {
	var table Table
	a := addr("10.0.0.1")
	if _, ok := table.Lookup(&a); ok || table.Len() != 0 || len(maps.Collect(table.All())) != 0 {
		t.Error("the zero table is not empty")
	}
	table = table.Delete(a).Insert(a, Neighbor{Port: 1}).Delete(a)
	if _, ok := table.Lookup(&a); ok || table.Len() != 0 {
		t.Error("not empty after delete")
	}
}

func TestTableOrder(t *testing.T) {
	var table Table
	want := []packet.Addr{addr("10.0.0.1"), addr("10.0.0.2"), addr("10.0.1.0"), addr("fd00::1"), addr("fd00::2")}
	for _, i := range []int{3, 1, 4, 0, 2} {
		table = table.Insert(want[i], Neighbor{Port: uint16(i)})
	}
	var got []packet.Addr
	for a := range table.All() {
		got = append(got, a)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for range table.All() {
		break
	}
}

// large returns a table of n addresses.
func large(n int) (t Table) {
	for i := range n {
		t = t.Insert(numbered(i), Neighbor{Port: uint16(i)})
	}
	return t
}

// TestTableShares: a change costs the same in any table.
func TestTableShares(t *testing.T) {
	cost := func(n int) uint64 {
		table := large(n)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for i := range 1000 {
			table.Insert(numbered(i%n), Neighbor{Port: 9})
		}
		runtime.ReadMemStats(&after)
		return (after.TotalAlloc - before.TotalAlloc) / 1000
	}
	small, big := cost(100), cost(20000)
	if big > 8*small || big > 20000 {
		t.Errorf("a change allocates %d bytes in a table of 100 and %d in one of 20,000", small, big)
	}
	t.Logf("a change allocates %d bytes in a table of 100 and %d in one of 20,000", small, big)
}

func TestLookupAllocates(t *testing.T) {
	table := large(1000)
	a, b := numbered(500), numbered(501)
	if n := testing.AllocsPerRun(100, func() {
		table.Lookup(&a)
		table.Lookup(&b)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{100, 10000} {
		table := large(n)
		for _, family := range []int{0, 1} {
			a := numbered(n/2 + family)
			b.Run(fmt.Sprintf("%d/%v", n, a.Is4()), func(b *testing.B) {
				for b.Loop() {
					table.Lookup(&a)
				}
			})
		}
	}
}

func BenchmarkInsert(b *testing.B) {
	for _, n := range []int{100, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			table := large(n)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				table = table.Insert(numbered(i%n), Neighbor{Port: 9})
				i++
			}
		})
	}
}

func BenchmarkAnswer(b *testing.B) {
	arp := arpFrame(b, 1, alice, "10.0.0.1", [6]byte{}, "10.0.0.2")
	solicit := ns(b, alice6, solicitedBob, bob6)
	buf := make([]byte, 128)
	b.Run("arp", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			a, _ := ParseARP(arp)
			a.Reply(buf, bob)
		}
	})
	b.Run("nd", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n, _ := ParseNS(solicit)
			n.Advertise(buf, bob, false)
		}
	})
}
