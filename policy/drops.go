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
	Policy    string // kind and name, as in Verdict.Policy without the rule
	Pod       cluster.Key
	Direction Direction
	// Packets are all that the policy dropped. A packet that no NetworkPolicy lets
	// pass is dropped by every one that isolates the pod: Shared are those of
	// Packets that others dropped as well.
	Packets, Shared uint64
}

// dropKey names a counter. A packet is counted once, for all policies that drop it
// together.
type dropKey struct {
	deniers string // joined by NUL
	pod     cluster.Key
	dir     Direction
}

type counter struct {
	packets atomic.Uint64
	deniers []string
	// retired is the round of the ledger since which no endpoint counts here; 0:
	// some does.
	retired uint64
}

// dropOf names what is counted of a policy and a pod.
type dropOf struct {
	policy string
	pod    cluster.Key
	dir    Direction
}

type dropped struct{ packets, shared uint64 }

func (d *dropped) add(packets uint64, deniers []string) {
	d.packets += packets
	if len(deniers) > 1 {
		d.shared += packets
	}
}

// ledger holds the counters of a Compiler and all of its Sets. What it counts of a
// policy and a pod lasts as long as both do.
type ledger struct {
	mu       sync.Mutex
	counters map[dropKey]*counter
	retired  []dropKey
	round    uint64 // of sweep, from 1
	// past is what counters held that are no longer in use.
	past map[dropOf]dropped
}

func newLedger() *ledger {
	return &ledger{counters: map[dropKey]*counter{}, round: 1, past: map[dropOf]dropped{}}
}

// denier is who drops packets together, by name.
type denier struct {
	key   string
	names []string
}

func newDenier(names []string) denier { return denier{strings.Join(names, "\x00"), names} }

// counter returns the counter for what a denier drops of a pod, made if need be.
func (l *ledger) counter(d *denier, pod cluster.Key, dir Direction) *counter {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := dropKey{d.key, pod, dir}
	c := l.counters[k]
	if c == nil {
		c = &counter{deniers: d.names}
		l.counters[k] = c
	}
	c.retired = 0
	return c
}

// retire notes that an endpoint does not count any more where it did, unless
// counter says otherwise until the next sweep.
func (l *ledger) retire(e *endpoint, pod cluster.Key) {
	if e == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for dir, list := range e.drops {
		for _, c := range list {
			c.retired = l.round
			l.retired = append(l.retired, dropKey{strings.Join(c.deniers, "\x00"), pod, Direction(dir)})
		}
	}
}

// sweep puts what retired counters hold to the past. They have a round to wait:
// until then, workers may still count by the Set before.
func (l *ledger) sweep() {
	l.mu.Lock()
	defer l.mu.Unlock()
	var rest []dropKey
	for _, k := range l.retired {
		switch c := l.counters[k]; {
		case c == nil || c.retired == 0:
		case c.retired == l.round:
			rest = append(rest, k)
		default:
			l.bury(k, c)
		}
	}
	l.retired = rest
	l.round++
}

// bury puts what a counter holds to the past, and forgets it.
func (l *ledger) bury(k dropKey, c *counter) {
	if n := c.packets.Swap(0); n > 0 {
		for _, name := range c.deniers {
			d := l.past[dropOf{name, k.pod, k.dir}]
			d.add(n, c.deniers)
			l.past[dropOf{name, k.pod, k.dir}] = d
		}
	}
	delete(l.counters, k)
}

// forget drops what was counted of pods and policies that are gone.
func (l *ledger) forget(pods map[cluster.Key]struct{}, policies map[string]struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	gone := func(name string) bool { _, ok := policies[name]; return ok }
	for k, c := range l.counters {
		if slices.ContainsFunc(c.deniers, gone) {
			l.bury(k, c)
		} else if _, ok := pods[k.pod]; ok {
			delete(l.counters, k)
		}
	}
	for k := range l.past {
		if _, ok := pods[k.pod]; ok || gone(k.policy) {
			delete(l.past, k)
		}
	}
}

// Drops returns what was counted, in order of policy, pod and direction,
// without those that dropped nothing. It may be called at any time.
func (s *Set) Drops() []Drop {
	if s == nil || s.drops == nil {
		return nil
	}
	var out []Drop
	for k, d := range s.drops.sum() {
		out = append(out, Drop{k.policy, k.pod, k.dir, d.packets, d.shared})
	}
	slices.SortFunc(out, func(a, b Drop) int {
		return cmp.Or(strings.Compare(a.Policy, b.Policy), strings.Compare(a.Pod.Namespace, b.Pod.Namespace),
			strings.Compare(a.Pod.Name, b.Pod.Name), cmp.Compare(a.Direction, b.Direction))
	})
	return out
}

// sum returns what was counted so far.
func (l *ledger) sum() map[dropOf]dropped {
	l.mu.Lock()
	defer l.mu.Unlock()
	sum := make(map[dropOf]dropped, len(l.past))
	for k, d := range l.past {
		sum[k] = d
	}
	for k, c := range l.counters {
		n := c.packets.Load()
		if n == 0 {
			continue
		}
		for _, name := range c.deniers {
			of := dropOf{name, k.pod, k.dir}
			d := sum[of]
			d.add(n, c.deniers)
			sum[of] = d
		}
	}
	return sum
}
