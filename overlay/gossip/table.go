package gossip

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// held is a peer's state as it announced it. It is immutable: a change makes
// a new one that shares the pods that did not change.
type held struct {
	edition
	labels map[string]string
	pods   []Pod // sorted by key
}

// verdict is what became of a message about an owner's state.
type verdict uint8

const (
	stale  verdict = iota // nothing new, or of a life that is over
	taken                 // the state moved on
	gapped                // an earlier change is missing
)

// take returns the state after s, which must be of the owner's present life.
// h may be nil.
func (h *held) take(s *stateMsg) (*held, verdict) {
	if h != nil && h.life == s.life && s.version <= h.version || s.version == 0 {
		return h, stale
	}
	return &held{edition: s.edition, labels: s.labels, pods: s.pods}, taken
}

// apply returns the state after d, which must be of the owner's present life.
// h may be nil.
func (h *held) apply(d *deltaMsg) (*held, verdict) {
	if h == nil || h.life != d.life {
		if d.base > 0 {
			return h, gapped
		}
		h = &held{edition: edition{owner: d.owner, life: d.life}}
	}
	switch {
	case d.version <= h.version:
		return h, stale
	case d.base > h.version:
		return h, gapped
	}
	n := &held{edition: d.edition, labels: h.labels, pods: merge(h.pods, d.set, d.removed)}
	if d.hasLabels {
		n.labels = d.labels
	}
	if len(n.pods) > maxPods {
		return h, gapped
	}
	return n, taken
}

// merge returns old without removed, and with the pods of set in place of
// those of the same key. All three are sorted.
func merge(old, set []Pod, removed []podKey) []Pod {
	out := make([]Pod, 0, len(old)+len(set))
	for len(old) > 0 || len(set) > 0 {
		if len(set) == 0 || len(old) > 0 && old[0].key().compare(set[0].key()) < 0 {
			k := old[0].key()
			for len(removed) > 0 && removed[0].compare(k) < 0 {
				removed = removed[1:]
			}
			if len(removed) == 0 || removed[0] != k {
				out = append(out, old[0])
			}
			old = old[1:]
			continue
		}
		if len(old) > 0 && old[0].key() == set[0].key() {
			old = old[1:]
		}
		out = append(out, set[0])
		set = set[1:]
	}
	return out
}

// maxGraves bounds how many removed pods a ledger remembers; a member that is
// further behind gets the complete state.
const maxGraves = 1024

// ledger is the node's own state with a memory of when each part changed, so
// that any member can be told what it misses.
type ledger struct {
	edition
	labels   map[string]string
	labelsAt uint64 // version that changed them
	pods     []Pod  // sorted by key
	changed  map[podKey]uint64
	graves   []grave // oldest first
	floor    uint64  // deltas can start here, not earlier
	whole    []byte  // encoded state of the present version
	part     []byte  // encoded delta from partBase to the present version
	partBase uint64
}

type grave struct {
	key podKey
	at  uint64
}

func newLedger(owner string, life uint64, labels map[string]string) *ledger {
	return &ledger{edition: edition{owner, life, 1}, labels: labels, labelsAt: 1, floor: 1, changed: map[podKey]uint64{}}
}

// setLabels reports whether anything changed.
func (l *ledger) setLabels(labels map[string]string) bool {
	if maps.Equal(l.labels, labels) {
		return false
	}
	l.step()
	l.labels, l.labelsAt = labels, l.version
	return true
}

// setPods replaces all pods, which must be sorted and unique, and reports
// whether anything changed.
func (l *ledger) setPods(pods []Pod) bool {
	if slices.EqualFunc(l.pods, pods, func(a, b Pod) bool { return a.equal(&b) }) {
		return false
	}
	l.step()
	old := l.pods
	for i := range pods {
		k := pods[i].key()
		for len(old) > 0 && old[0].key().compare(k) < 0 {
			l.bury(old[0].key())
			old = old[1:]
		}
		if len(old) > 0 && old[0].key() == k {
			if !old[0].equal(&pods[i]) {
				l.changed[k] = l.version
			}
			old = old[1:]
			continue
		}
		l.changed[k] = l.version
	}
	for i := range old {
		l.bury(old[i].key())
	}
	l.pods = pods
	if over := len(l.graves) - maxGraves; over > 0 {
		l.floor = l.graves[over-1].at
		l.graves = slices.Delete(l.graves, 0, over)
	}
	return true
}

func (l *ledger) step() {
	l.version++
	l.whole, l.part = nil, nil
}

func (l *ledger) bury(k podKey) {
	delete(l.changed, k)
	l.graves = append(l.graves, grave{k, l.version})
}

// state returns the complete state, encoded. It is shared: not to be modified.
func (l *ledger) state() []byte {
	if l.whole == nil {
		l.whole = (&stateMsg{edition: l.edition, labels: l.labels, pods: l.pods}).encode()
	}
	return l.whole
}

// since returns what a member needs that holds version base: a delta, or the
// complete state where base is too old. It is shared: not to be modified.
func (l *ledger) since(base uint64) []byte {
	if base < l.floor || base >= l.version {
		return l.state()
	}
	if l.part == nil || l.partBase != base {
		l.part, l.partBase = l.delta(base).encode(), base
	}
	return l.part
}

func (l *ledger) delta(base uint64) *deltaMsg {
	d := &deltaMsg{edition: l.edition, base: base}
	if l.labelsAt > base {
		d.hasLabels, d.labels = true, l.labels
	}
	for i := range l.pods {
		if l.changed[l.pods[i].key()] > base {
			d.set = append(d.set, l.pods[i])
		}
	}
	for _, g := range l.graves {
		if _, lives := l.changed[g.key]; g.at > base && !lives {
			d.removed = append(d.removed, g.key)
		}
	}
	slices.SortFunc(d.removed, podKey.compare)
	d.removed = slices.Compact(d.removed)
	return d
}

// vetPods returns pods sorted by key, without those that cannot be announced,
// and all that is wrong with pods.
func vetPods(pods []Pod) ([]Pod, error) {
	var errs []error
	out := make([]Pod, 0, len(pods))
	for i := range pods {
		if err := pods[i].validate(); err != nil {
			errs = append(errs, fmt.Errorf("pod %s/%s: %w", pods[i].Namespace, pods[i].Name, err))
			continue
		}
		out = append(out, pods[i])
	}
	slices.SortStableFunc(out, func(a, b Pod) int { return a.key().compare(b.key()) })
	owner := map[netip.Addr]podKey{}
	kept := out[:0]
	for i := range out {
		p := out[i]
		if len(kept) > 0 && kept[len(kept)-1].key() == p.key() {
			errs = append(errs, fmt.Errorf("pod %s/%s is given twice; names must be unique", p.Namespace, p.Name))
			continue
		}
		for _, ip := range p.IPs {
			if k, ok := owner[ip]; ok {
				errs = append(errs, fmt.Errorf("pod %s/%s: %s belongs to %s/%s already", p.Namespace, p.Name, ip, k.namespace, k.name))
			}
			owner[ip] = p.key()
		}
		kept = append(kept, p)
	}
	if n := fitting(kept); n < len(kept) {
		errs = append(errs, fmt.Errorf("%d pods; at most %d of one node are announced, and %d MiB of names and labels: %d are left out", len(kept), maxPods, maxJoinBytes>>20, len(kept)-n))
		kept = kept[:n]
	}
	return kept, errors.Join(errs...)
}

// fitting returns how many of pods fit one message.
func fitting(pods []Pod) int {
	size := 0
	for i := range pods {
		p := &pods[i]
		size += 32 + len(p.Namespace) + len(p.Name) + len(p.UID) + 17*len(p.IPs)
		for k, v := range p.Labels {
			size += 4 + len(k) + len(v)
		}
		if i == maxPods || size > maxJoinBytes {
			return i
		}
	}
	return len(pods)
}
