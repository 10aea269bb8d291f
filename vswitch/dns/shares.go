package dns

import (
	"net/netip"
	"sync"
)

// shares counts what addresses hold of something that there is so much of. No
// address may take what is for all of them.
type shares struct {
	max, each int // of all, and of one address

	mu    sync.Mutex
	total int
	held  map[netip.Addr]int
}

func newShares(max, each int) *shares {
	return &shares{max: max, each: each, held: map[netip.Addr]int{}}
}

// take reports whether an address may have one more. If so it has it until it is
// released. An address that is not known has no share of its own.
func (s *shares) take(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= s.max || a.IsValid() && s.held[a] >= s.each {
		return false
	}
	s.total++
	if a.IsValid() {
		s.held[a]++
	}
	return true
}

// release gives back what was taken.
func (s *shares) release(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.held[a]--; s.held[a] <= 0 {
		delete(s.held, a)
	}
}
