package cluster

import (
	"hash/fnv"
	"iter"
	"strings"
)

// Table is an ordered map from Key to object that never changes. Its zero
// value is empty. With and Without return another table that shares all that
// did not change, so a change costs O(log n), and so does comparing a table to
// one that it was made from, per change.
//
// It is a treap whose priorities are a hash of the key: the shape depends on
// the keys alone, never on history, which is what makes changes cheap to find.
type Table[T any] struct {
	root *node[T]
	size int
}

type node[T any] struct {
	key         Key
	prio        uint32
	val         *T
	left, right *node[T]
}

// compareKeys orders by namespace, then name.
func compareKeys(a, b Key) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

func priority(k Key) uint32 {
	h := fnv.New64a()
	h.Write([]byte(k.Namespace))
	h.Write([]byte{0})
	h.Write([]byte(k.Name))
	// FNV mixes the last bytes badly into the high bits; names that differ in
	// their last digit would make a list of the tree.
	x := h.Sum64()
	x ^= x >> 32
	x *= 0xd6e8feb86659fd93
	x ^= x >> 32
	return uint32(x)
}

// above reports whether a belongs above b: by priority, then key, so that the
// order is total.
func above[T any](a, b *node[T]) bool {
	if a.prio != b.prio {
		return a.prio > b.prio
	}
	return compareKeys(a.key, b.key) < 0
}

// Len returns the number of objects.
func (t Table[T]) Len() int { return t.size }

// Get returns the object of that name, or nil.
func (t Table[T]) Get(k Key) *T {
	for n := t.root; n != nil; {
		switch c := compareKeys(k, n.key); {
		case c < 0:
			n = n.left
		case c > 0:
			n = n.right
		default:
			return n.val
		}
	}
	return nil
}

// With returns the table with v under k.
func (t Table[T]) With(k Key, v *T) Table[T] {
	if t.Get(k) != nil {
		return Table[T]{replace(t.root, k, v), t.size}
	}
	return Table[T]{insert(t.root, &node[T]{key: k, prio: priority(k), val: v}), t.size + 1}
}

// Without returns the table without k.
func (t Table[T]) Without(k Key) Table[T] {
	if t.Get(k) == nil {
		return t
	}
	return Table[T]{remove(t.root, k), t.size - 1}
}

// All returns the objects in order of namespace and name.
func (t Table[T]) All() iter.Seq[*T] {
	return func(yield func(*T) bool) { walk(t.root, nil, yield) }
}

// In returns the objects of one namespace, by name.
func (t Table[T]) In(namespace string) iter.Seq[*T] {
	return func(yield func(*T) bool) { walk(t.root, &namespace, yield) }
}

// walk yields the objects below n in order, of one namespace if ns is not nil.
func walk[T any](n *node[T], ns *string, yield func(*T) bool) bool {
	if n == nil {
		return true
	}
	c := 0
	if ns != nil {
		c = strings.Compare(*ns, n.key.Namespace)
	}
	if c <= 0 && !walk(n.left, ns, yield) {
		return false
	}
	if c == 0 && !yield(n.val) {
		return false
	}
	return c < 0 || walk(n.right, ns, yield)
}

func replace[T any](n *node[T], k Key, v *T) *node[T] {
	m := *n
	switch c := compareKeys(k, n.key); {
	case c < 0:
		m.left = replace(n.left, k, v)
	case c > 0:
		m.right = replace(n.right, k, v)
	default:
		m.val = v
	}
	return &m
}

func insert[T any](n, add *node[T]) *node[T] {
	if n == nil {
		return add
	}
	if above(add, n) {
		add.left, add.right = split(n, add.key)
		return add
	}
	m := *n
	if compareKeys(add.key, n.key) < 0 {
		m.left = insert(n.left, add)
	} else {
		m.right = insert(n.right, add)
	}
	return &m
}

func remove[T any](n *node[T], k Key) *node[T] {
	c := compareKeys(k, n.key)
	if c == 0 {
		return join(n.left, n.right)
	}
	m := *n
	if c < 0 {
		m.left = remove(n.left, k)
	} else {
		m.right = remove(n.right, k)
	}
	return &m
}

// split returns what is before k and what is after it; k itself is left out.
func split[T any](n *node[T], k Key) (before, after *node[T]) {
	if n == nil {
		return nil, nil
	}
	switch c := compareKeys(k, n.key); {
	case c == 0:
		return n.left, n.right
	case c < 0:
		before, rest := split(n.left, k)
		if rest == n.left {
			return before, n
		}
		m := *n
		m.left = rest
		return before, &m
	default:
		rest, after := split(n.right, k)
		if rest == n.right {
			return n, after
		}
		m := *n
		m.right = rest
		return &m, after
	}
}

// join puts together two trees, all keys of a before all of b.
func join[T any](a, b *node[T]) *node[T] {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case above(a, b):
		m := *a
		m.right = join(a.right, b)
		return &m
	default:
		m := *b
		m.left = join(a, b.left)
		return &m
	}
}

// Change is one object before and after; nil where it was not there.
type Change[T any] struct{ Old, New *T }

// diff appends the changes from a to b, in order of key.
func diff[T any](a, b *node[T], out []Change[T]) []Change[T] {
	switch {
	case a == b:
		return out
	case a == nil:
		for v := range (Table[T]{root: b}).All() {
			out = append(out, Change[T]{nil, v})
		}
		return out
	case b == nil:
		for v := range (Table[T]{root: a}).All() {
			out = append(out, Change[T]{v, nil})
		}
		return out
	case a.key == b.key:
		out = diff(a.left, b.left, out)
		if a.val != b.val {
			out = append(out, Change[T]{a.val, b.val})
		}
		return diff(a.right, b.right, out)
	case above(a, b):
		// a's key is not in b, or it would be b's root.
		before, after := split(b, a.key)
		out = diff(a.left, before, out)
		out = append(out, Change[T]{a.val, nil})
		return diff(a.right, after, out)
	default:
		before, after := split(a, b.key)
		out = diff(before, b.left, out)
		out = append(out, Change[T]{nil, b.val})
		return diff(after, b.right, out)
	}
}

// Diff returns what changed from t to newer, in order of key. It costs what
// changed, if one was made from the other.
func (t Table[T]) Diff(newer Table[T]) []Change[T] { return diff(t.root, newer.root, nil) }
