package cluster

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestTableAgainstMap runs random operations on a Table and on a Go map, and
// compares lookups, order, namespaces and differences after each.
func TestTableAgainstMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	type snapshot struct {
		table Table[int]
		model map[Key]*int
	}
	table, model := Table[int]{}, map[Key]*int{}
	var past []snapshot
	for step := range 6000 {
		k := Key{fmt.Sprint("ns", rng.IntN(4)), fmt.Sprint("n", rng.IntN(120))}
		if rng.IntN(3) == 0 {
			table = table.Without(k)
			model = without(model, k)
		} else {
			v := new(step)
			table = table.With(k, v)
			model = with(model, k, v)
		}
		if step%97 == 0 {
			checkTable(t, table, model)
			past = append(past, snapshot{table, model})
			old := past[rng.IntN(len(past))]
			checkDiff(t, old.table, table, old.model, model)
			checkDiff(t, table, old.table, model, old.model)
		}
	}
	for _, s := range past { // nothing of the past changed
		checkTable(t, s.table, s.model)
	}
}

func with(m map[Key]*int, k Key, v *int) map[Key]*int {
	n := make(map[Key]*int, len(m)+1)
	for a, b := range m {
		n[a] = b
	}
	n[k] = v
	return n
}

func without(m map[Key]*int, k Key) map[Key]*int {
	n := with(m, k, nil)
	delete(n, k)
	return n
}

func sortedKeys(m map[Key]*int) []Key {
	var keys []Key
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b Key) int {
		if a.Namespace != b.Namespace {
			if a.Namespace < b.Namespace {
				return -1
			}
			return 1
		}
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return keys
}

func checkTable(t *testing.T, table Table[int], model map[Key]*int) {
	t.Helper()
	if table.Len() != len(model) {
		t.Fatalf("Len %d, want %d", table.Len(), len(model))
	}
	var want []*int
	in := map[string][]*int{}
	for _, k := range sortedKeys(model) {
		want = append(want, model[k])
		in[k.Namespace] = append(in[k.Namespace], model[k])
		if table.Get(k) != model[k] {
			t.Fatalf("Get(%v) is wrong", k)
		}
	}
	if got := slices.Collect(table.All()); !slices.Equal(got, want) {
		t.Fatal("All is out of order or incomplete")
	}
	for ns, want := range in {
		if got := slices.Collect(table.In(ns)); !slices.Equal(got, want) {
			t.Fatalf("In(%s) is out of order or incomplete", ns)
		}
	}
	if table.Get(Key{"nobody", "here"}) != nil {
		t.Fatal("Get of a missing key found something")
	}
	for range table.All() { // stopping early must not panic
		break
	}
}

func checkDiff(t *testing.T, a, b Table[int], ma, mb map[Key]*int) {
	t.Helper()
	both := with(ma, Key{}, nil)
	for k := range mb {
		both[k] = nil
	}
	delete(both, Key{})
	var want []Change[int]
	for _, k := range sortedKeys(both) {
		if ma[k] != mb[k] {
			want = append(want, Change[int]{ma[k], mb[k]})
		}
	}
	if got := a.Diff(b); !slices.Equal(got, want) {
		t.Fatalf("Diff has %d changes, want %d", len(got), len(want))
	}
}

// TestTableIsBalanced holds the depth to a small multiple of log2, for names
// that differ only in a number, as pods' do.
func TestTableIsBalanced(t *testing.T) {
	var table Table[int]
	for i := range 10000 {
		table = table.With(Key{"shop", fmt.Sprintf("web-%05d", i)}, new(int))
	}
	if d := depth(table.root); d > 45 {
		t.Fatalf("depth %d for 10000 keys", d)
	}
}

func depth(n *node[int]) int {
	if n == nil {
		return 0
	}
	return 1 + max(depth(n.left), depth(n.right))
}
