package cluster

import (
	"reflect"
	"slices"
	"testing"
)

// examples returns an object of every kind, found by the fields of Objects, in
// namespace x.
func examples(t *testing.T) (list []Object) {
	t.Helper()
	for f := range reflect.TypeFor[Objects]().Fields() {
		o, ok := reflect.New(f.Type.Elem().Elem()).Interface().(Object)
		if !ok {
			t.Fatalf("Objects.%s: %v is no Object", f.Name, f.Type.Elem())
		}
		o.Metadata().Name = "a"
		if o.Kind().Namespaced() {
			o.Metadata().Namespace = "x"
		}
		list = append(list, o)
	}
	return list
}

// TestKinds: there is a row for every kind, and it leads to the right field of
// State, Objects and Changes.
func TestKinds(t *testing.T) {
	list := examples(t)
	if len(list) != len(kinds) {
		t.Fatalf("%d kinds in Objects, %d in the table", len(list), len(kinds))
	}
	for _, o := range list {
		r := RefOf(o)
		if !r.Kind.Known() || string(r.Kind) != reflect.TypeOf(o).Elem().Name() {
			t.Fatalf("%T is of kind %q, of which nothing is known", o, r.Kind)
		}
		if k, ok := ParseKind(string(r.Kind)); !ok || k != r.Kind {
			t.Errorf("%s is not known by its name", r.Kind)
		}
		if got := r.Kind.Ref(Key{"x", "a"}); got != r {
			t.Errorf("Ref: %v, want %v", got, r)
		}
		var in Objects
		in.Add(o)
		s := in.State()
		if got := slices.Collect(in.All()); len(got) != 1 || got[0] != o || in.Len() != 1 || s.Objects().Refs()[0] != r {
			t.Errorf("%s: Objects holds %v", r.Kind, got)
		}
		if s.Get(r) != o || s.Get(r.Kind.Ref(Key{"x", "b"})) != nil {
			t.Errorf("%s: State gives %v", r.Kind, s.Get(r))
		}
		if n := len(slices.Collect(s.In("x"))); (n == 1) != r.Kind.Namespaced() {
			t.Errorf("%s: %d objects in namespace x", r.Kind, n)
		}
		for _, d := range []Changes{(&State{}).Diff(s), s.Diff(&State{})} {
			if d.Empty() {
				t.Fatalf("%s: no change", r.Kind)
			}
			for old, now := range d.All() {
				if (old == nil) == (now == nil) || (old == nil) != (d.To == s) || old != nil && old != o || now != nil && now != o {
					t.Errorf("%s: from %v to %v", r.Kind, old, now)
				}
			}
		}
		c := Clone(o)
		if c.Metadata().UID = "u"; c == o || o.Metadata().UID != "" || RefOf(c) != r {
			t.Errorf("%s: a clone is the same object", r.Kind)
		}
		testTxn(t, o)
	}
}

// testTxn puts an object and deletes it again.
func testTxn(t *testing.T, o Object) {
	t.Helper()
	r, s := RefOf(o), NewStore()
	update(t, s, Desired, func(tx *Txn) {
		tx.Put(o)
		if tx.Own().Get(r) != o || tx.State().Get(r) != o {
			t.Errorf("%s: a transaction does not see what it put", r.Kind)
		}
	})
	seen := Clone(o)
	update(t, s, Local, func(tx *Txn) { tx.Put(seen) })
	if s.State().Get(r) == nil {
		t.Errorf("%s: it is not in the Store", r.Kind)
	}
	update(t, s, Desired, func(tx *Txn) { tx.Delete(r) })
	if s.State().Get(r) == nil {
		t.Errorf("%s: what another source says went, too", r.Kind)
	}
	update(t, s, Local, func(tx *Txn) { tx.Clear() })
	if n := s.State().Objects().Len(); n != 0 {
		t.Errorf("%s: %d objects are left", r.Kind, n)
	}
}

// TestUnknownKind: there is nothing of a kind that nobody knows.
func TestUnknownKind(t *testing.T) {
	r := Kind("Gadget").Ref(Key{"x", "a"})
	s := NewStore()
	update(t, s, Desired, func(tx *Txn) { tx.Delete(r) })
	if r.Kind.Known() || s.State().Get(r) != nil || r.String() != "Gadget x/a" {
		t.Fatal(r)
	}
}
