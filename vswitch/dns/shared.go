package dns

import (
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// shared is a list that Zones share. The one that is being made may change those
// that it has made itself, so that many changes of one list cost one copy.
type shared[T comparable] struct {
	list []T
	made uint64 // the generation
}

func (l *shared[T]) isLong() bool { return l != nil && len(l.list) > short }

// own returns the list to change it: l itself if that may be changed.
func (l *shared[T]) own(generation uint64) *shared[T] {
	switch {
	case l == nil:
		return &shared[T]{made: generation}
	case l.made != generation:
		return &shared[T]{slices.Clone(l.list), generation}
	}
	return l
}

// with returns the list with x.
func (l *shared[T]) with(generation uint64, x T) *shared[T] {
	l = l.own(generation)
	l.list = append(l.list, x)
	return l
}

// without returns the list without what is gone, each as many times as it is among
// that, and nil if nothing is left.
func (l *shared[T]) without(generation uint64, gone []T) *shared[T] {
	if l == nil {
		return nil
	}
	l = l.own(generation)
	if len(gone) == 1 {
		if i := slices.Index(l.list, gone[0]); i >= 0 {
			l.list = slices.Delete(l.list, i, i+1)
		}
		return l.orNil()
	}
	left := make(map[T]int, len(gone))
	for _, x := range gone {
		left[x]++
	}
	l.list = slices.DeleteFunc(l.list, func(x T) bool {
		n := left[x]
		if n > 0 {
			left[x] = n - 1
		}
		return n > 0
	})
	return l.orNil()
}

func (l *shared[T]) orNil() *shared[T] {
	if len(l.list) == 0 {
		return nil
	}
	return l
}

// short is how long a list may be for what goes to be taken out at once.
const short = 8

// gone is what is to be taken out of long lists.
type gone[K, T comparable] map[K][]T

func (g *gone[K, T]) add(of K, x T) {
	if *g == nil {
		*g = gone[K, T]{}
	}
	(*g)[of] = append((*g)[of], x)
}

// put puts x among what an address has. A table that is fresh is changed in place.
func put[T comparable](t **bart.Table[*shared[T]], fresh bool, generation uint64, a netip.Addr, x T) {
	p := netip.PrefixFrom(a, a.BitLen())
	old, _ := (*t).Get(p)
	store(t, fresh, p, old, old.with(generation, x))
}

// drop takes x out of what an address has, now or when all that goes is known.
func drop[T comparable](t **bart.Table[*shared[T]], g *gone[netip.Addr, T], fresh bool, generation uint64, a netip.Addr, x T) {
	if old, _ := (*t).Get(netip.PrefixFrom(a, a.BitLen())); old.isLong() {
		g.add(a, x)
	} else {
		take(t, fresh, generation, a, []T{x})
	}
}

// take takes out of what an address has.
func take[T comparable](t **bart.Table[*shared[T]], fresh bool, generation uint64, a netip.Addr, gone []T) {
	p := netip.PrefixFrom(a, a.BitLen())
	old, _ := (*t).Get(p)
	store(t, fresh, p, old, old.without(generation, gone))
}

func store[T comparable](t **bart.Table[*shared[T]], fresh bool, p netip.Prefix, old, now *shared[T]) {
	switch {
	case now == old:
	case now == nil && fresh:
		(*t).Delete(p)
	case now == nil:
		*t = (*t).DeletePersist(p)
	case fresh:
		(*t).Insert(p, now)
	default:
		*t = (*t).InsertPersist(p, now)
	}
}
