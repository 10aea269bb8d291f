package port

import (
	"math"
	"sync"
	"sync/atomic"
)

// Guard keeps descriptors open while a raw system call may still use them:
// another file could get their numbers at once. Enter and Leave cost one atomic
// add each, once a batch. It is for drivers that make such calls.
type Guard struct {
	users atomic.Int64 // negative: closing
	once  sync.Once
	// Free closes the descriptors. It is set before use.
	Free func()
}

// closing is added to users by Shut.
const closing = math.MinInt64 / 2

// Enter reports whether the descriptor is open; if so, Leave must follow.
func (g *Guard) Enter() bool {
	if g.users.Add(1) < 0 {
		g.Leave()
		return false
	}
	return true
}

// Leave ends what Enter began.
func (g *Guard) Leave() {
	if g.users.Add(-1) == closing {
		g.once.Do(g.Free)
	}
}

// Shut lets nobody enter any more. The last one inside, or Shut itself,
// frees. It reports whether it was the first call.
func (g *Guard) Shut() bool {
	for {
		n := g.users.Load()
		if n < 0 {
			return false
		}
		if g.users.CompareAndSwap(n, n+closing) {
			if n == 0 {
				g.once.Do(g.Free)
			}
			return true
		}
	}
}
