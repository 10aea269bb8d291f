package policy

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"vswitch/vswitch/cluster"
)

// Drop tells how many packets of a pod a policy has dropped.
type Drop struct {
	Policy    string // as Verdict.Policy has it, without the rule
	Pod       cluster.Key
	Direction Direction
	Packets   uint64
}

type dropKey struct {
	policy string
	pod    cluster.Key
	dir    Direction
}

type counter struct{ packets atomic.Uint64 }

// ledger holds the counters of a Compiler and all of its Sets. A counter lives
// as long as its pod and its policy do.
type ledger struct {
	mu       sync.Mutex
	counters map[dropKey]*counter
}

// counter returns the counter of that name, made if need be.
func (l *ledger) counter(k dropKey) *counter {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.counters[k]
	if c == nil {
		c = &counter{}
		l.counters[k] = c
	}
	return c
}

// forget removes the counters of which gone says so.
func (l *ledger) forget(gone func(dropKey) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k := range l.counters {
		if gone(k) {
			delete(l.counters, k)
		}
	}
}

// Drops returns what was counted, in order of policy, pod and direction,
// without those that dropped nothing. It may be called at any time.
func (s *Set) Drops() []Drop {
	if s == nil || s.drops == nil {
		return nil
	}
	s.drops.mu.Lock()
	defer s.drops.mu.Unlock()
	var out []Drop
	for k, c := range s.drops.counters {
		if n := c.packets.Load(); n > 0 {
			out = append(out, Drop{k.policy, k.pod, k.dir, n})
		}
	}
	slices.SortFunc(out, func(a, b Drop) int {
		return cmp.Or(strings.Compare(a.Policy, b.Policy), strings.Compare(a.Pod.Namespace, b.Pod.Namespace),
			strings.Compare(a.Pod.Name, b.Pod.Name), cmp.Compare(a.Direction, b.Direction))
	})
	return out
}
