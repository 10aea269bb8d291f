package nat

import (
	"sync"

	"vswitch/vswitch/packet"
)

// maxAffinities bounds what is remembered of clients.
const maxAffinities = 1 << 18

// Affinities remember which backend a client of a service was given. They are
// asked for the first packet of a connection to a service with affinity, by any
// goroutine. Time is in seconds of a clock that may wrap around.
type Affinities struct {
	mu      sync.Mutex
	expired uint32                   // when Expire last looked
	m       map[affinityKey]affinity // without pointers, so the collector does not look into it
}

type affinityKey struct {
	client  packet.Addr
	service uint32
}

type affinity struct {
	backend uint32 // its ID
	last    uint32
}

// Choose returns the backend that the client t.Src had within the service's
// time, if it is still one of those given, or else another, and remembers it.
func (a *Affinities) Choose(s *Service, from []Backend, t *packet.Tuple, hash uint64, now uint32) *Backend {
	k := affinityKey{t.Src, s.ID}
	a.mu.Lock()
	defer a.mu.Unlock()
	had, ok := a.m[k]
	if b := had.of(s, from, now); ok && b != nil {
		had.last = now
		a.m[k] = had
		return b
	}
	b := s.Choose(from, t, hash)
	if a.m == nil {
		a.m = map[affinityKey]affinity{}
	}
	if !ok && len(a.m) >= maxAffinities {
		a.makeRoom(now)
	}
	a.m[k] = affinity{b.ID, now}
	return b
}

// Peek is Choose that remembers nothing.
func (a *Affinities) Peek(s *Service, from []Backend, t *packet.Tuple, hash uint64, now uint32) *Backend {
	a.mu.Lock()
	had, ok := a.m[affinityKey{t.Src, s.ID}]
	a.mu.Unlock()
	if b := had.of(s, from, now); ok && b != nil {
		return b
	}
	return s.Choose(from, t, hash)
}

// of returns which of the backends the affinity leads to, if it still does.
func (h *affinity) of(s *Service, from []Backend, now uint32) *Backend {
	if now-h.last >= s.Affinity {
		return nil
	}
	for i := range from {
		if from[i].ID == h.backend {
			return &from[i]
		}
	}
	return nil
}

// makeRoom forgets the oldest of some. A map is iterated in random order, so
// nobody can aim at others.
func (a *Affinities) makeRoom(now uint32) {
	var oldest affinityKey
	age, seen := uint32(0), 0
	for k, v := range a.m {
		if d := now - v.last; seen == 0 || d > age {
			oldest, age = k, d
		}
		if seen++; seen == 16 {
			break
		}
	}
	delete(a.m, oldest)
}

// Expire forgets clients that have not come for longer than any service keeps
// them: a day, the most that Kubernetes allows. It may be called often; it looks
// once in ten minutes.
func (a *Affinities) Expire(now uint32) {
	const day = 86400
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.m) == 0 || now-a.expired < 600 {
		return
	}
	a.expired = now
	for k, v := range a.m {
		if now-v.last > day {
			delete(a.m, k)
		}
	}
}

// Recall finds out which backends clients have from the connections that
// outlived a restart, also of those that another node translates: the backend's ID
// is in the connection.
func (a *Affinities) Recall(t *Table) {
	for c := range t.All {
		if c.Service != 0 {
			a.remember(c.Orig.Src, c.Service, c.Backend, c.Created)
		}
	}
}

func (a *Affinities) remember(client packet.Addr, service uint32, backend, last uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.m == nil {
		a.m = map[affinityKey]affinity{}
	}
	k := affinityKey{client, service}
	if had, ok := a.m[k]; ok && int32(had.last-last) >= 0 || len(a.m) >= maxAffinities {
		return
	}
	a.m[k] = affinity{backend, last}
}
