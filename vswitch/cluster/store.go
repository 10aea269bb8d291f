package cluster

import (
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
)

// Source names who says something about the cluster. The same object may be
// known from several; merge.go says who is believed about what.
type Source string

// Sources, the most trusted for what is desired first.
const (
	// Desired is what somebody wants: manifests, or the Kubernetes API, and
	// what was decided for them (control).
	Desired Source = "desired"
	// Local is what this process sees of its own nodes and pods.
	Local Source = "local"
	// Gossip is what other nodes say of themselves.
	Gossip Source = "gossip"
)

const (
	desired = iota
	local
	gossip
	sources
)

func (s Source) index() (int, error) {
	switch s {
	case Desired:
		return desired, nil
	case Local:
		return local, nil
	case Gossip:
		return gossip, nil
	}
	return 0, fmt.Errorf("update store: %q is not a source; use desired, local or gossip", s)
}

// Store merges what several sources say into one State. All methods are safe
// for concurrent use; readers never wait for the writer, nor it for them.
type Store struct {
	mu       sync.Mutex // one writer at a time; guards world and watchers
	world    world
	watchers []*Watcher
	state    atomic.Pointer[State]
}

// world is all that a Store knows: what each source says, and the merged whole.
// It is a handful of pointers: a transaction works on a copy and leaves the
// Store's alone until it commits.
type world struct {
	parts  [sources]State
	merged State
}

// NewStore returns an empty Store.
func NewStore() *Store {
	s := &Store{}
	s.state.Store(&State{})
	return s
}

// State returns the present State. It costs one atomic load.
func (s *Store) State() *State { return s.state.Load() }

// Update runs fn, which changes what source says. If fn returns nil, all of
// its changes become one new State, with a revision one higher; if it returns
// an error, none of them happened, and Update returns that error. A
// transaction that changes nothing makes no new State.
//
// Writers wait for each other: fn must not block, nor call the Store's Update.
func (s *Store) Update(source Source, fn func(tx *Txn) error) error {
	i, err := source.index()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	base := s.state.Load()
	tx := &Txn{source: i, base: &s.world, world: s.world, revision: base.Revision + 1}
	if err := fn(tx); err != nil {
		return err
	}
	s.world = tx.world
	next := tx.State()
	if base.sameObjects(next) {
		return nil
	}
	s.state.Store(next)
	for _, w := range s.watchers {
		w.signal()
	}
	return nil
}

// sameObjects reports whether both hold the very same objects.
func (s *State) sameObjects(t *State) bool {
	d := s.Diff(t)
	return d.Empty()
}

// Txn is a transaction of one source. It is valid during Update's fn only.
// Objects that are put belong to the Store from then on and must not change.
type Txn struct {
	source   int
	base     *world
	world    world
	revision uint64
}

// Revision is the one that the State will have if the transaction commits.
func (tx *Txn) Revision() uint64 { return tx.revision }

// SkipTo makes the revision at least r, so that it does not go back when what
// was stored is loaded again.
func (tx *Txn) SkipTo(r uint64) { tx.revision = max(tx.revision, r) }

// State returns the merged cluster with the changes made so far.
func (tx *Txn) State() *State { return tx.now(&tx.world.merged) }

// Own returns what the transaction's own source says, with the changes made so
// far: the part of the cluster that it may change.
func (tx *Txn) Own() *State { return tx.now(&tx.world.parts[tx.source]) }

// now returns a copy of s, which goes on changing.
func (tx *Txn) now(s *State) *State {
	now := *s
	now.Revision = tx.revision
	return &now
}

// Put adds or replaces the source's object of that name.
func (tx *Txn) Put(o Object) { o.Kind().find().put(tx, o.Key(), o) }

// Delete removes the source's object. What is not there is no error, and what
// another source says stays.
func (tx *Txn) Delete(r Ref) {
	if k := r.Kind.find(); k != nil {
		k.put(tx, r.Key, nil)
	}
}

// Clear removes all that the source says. Putting the same objects back in
// the same transaction leaves no change, so a source that receives whole lists
// clears and puts.
func (tx *Txn) Clear() {
	for o := range tx.Own().All() {
		tx.Delete(RefOf(o))
	}
}

// put makes o what the source says of key (nil: nothing) and merges key anew.
// What is equal to an object of before the transaction becomes that object
// again, so that equal objects are never seen as a change.
//
// Who observes does not count versions, so put does: an observation that
// differs has this transaction's. Who desires says the version itself.
func (h holds[T, P]) put(tx *Txn, key Key, o Object) {
	var v *T
	if o != nil {
		v = o.(P)
	}
	own := h.table(&tx.world.parts[tx.source])
	old := h.table(&tx.base.parts[tx.source]).Get(key)
	if v != nil && tx.source != desired {
		m := P(v).Metadata()
		m.ResourceVersion = tx.revision
		if old != nil {
			m.ResourceVersion = P(old).Metadata().ResourceVersion
			if v = known(old, v); v != old {
				m.ResourceVersion = tx.revision
			}
		}
	}
	v = known(old, v)
	if v == own.Get(key) {
		return
	}
	*own = set(*own, key, v)
	var parts [sources]*T
	for i := range parts {
		parts[i] = h.table(&tx.world.parts[i]).Get(key)
	}
	merged := h.table(&tx.world.merged)
	*merged = set(*merged, key, known(h.table(&tx.base.merged).Get(key), h.merge(&parts)))
}

// known returns old if v is equal to it, else v.
func known[T any](old, v *T) *T {
	if old == nil || v == nil || old == v || !reflect.DeepEqual(old, v) {
		return v
	}
	return old
}

func set[T any](t Table[T], k Key, v *T) Table[T] {
	if v == nil {
		return t.Without(k)
	}
	return t.With(k, v)
}

// Watcher tells a subscriber what changed since it last asked. It keeps no
// queue: it compares the State it last returned with the present one, so
// nothing is lost, many changes of one object become one, and a subscriber
// that never asks costs the writer nothing.
type Watcher struct {
	store  *Store
	ready  chan struct{}
	mu     sync.Mutex // guards last
	last   *State
	closed atomic.Bool
}

// Watch returns a Watcher whose first Next returns all objects as new. Close
// it when it is no longer needed.
func (s *Store) Watch() *Watcher {
	w := &Watcher{store: s, ready: make(chan struct{}, 1), last: &State{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers = append(s.watchers, w)
	w.signal()
	return w
}

func (w *Watcher) signal() {
	select {
	case w.ready <- struct{}{}:
	default: // it has been told already
	}
}

// C returns a channel that receives once there is something new for Next, at
// once for a new Watcher. It is never closed.
func (w *Watcher) C() <-chan struct{} { return w.ready }

// Next returns what changed since the last call. It never blocks; without
// changes it returns empty Changes.
func (w *Watcher) Next() Changes {
	w.mu.Lock()
	defer w.mu.Unlock()
	select { // what was signalled until now is in this answer
	case <-w.ready:
	default:
	}
	last := w.last
	w.last = w.store.State()
	return last.Diff(w.last)
}

// Close ends the watch: C receives nothing more.
func (w *Watcher) Close() {
	if w.closed.Swap(true) {
		return
	}
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	w.store.watchers = slices.DeleteFunc(w.store.watchers, func(x *Watcher) bool { return x == w })
}
