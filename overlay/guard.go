package overlay

import (
	"math"
	"sync"
	"sync/atomic"
)

// guard keeps descriptors open while a raw system call may use them: once one
// is closed, another file may get its number. enter and leave are one atomic
// add each, once a batch.
type guard struct {
	users atomic.Int64 // negative: closing
	once  sync.Once
	free  func() // closes the descriptors
}

// closing is added to users by close.
const closing = math.MinInt64 / 2

// enter reports whether the link is open; if so, leave must follow.
func (g *guard) enter() bool {
	if g.users.Add(1) < 0 {
		g.leave()
		return false
	}
	return true
}

func (g *guard) leave() {
	if g.users.Add(-1) == closing {
		g.once.Do(g.free)
	}
}

// close lets nobody enter any more. The last one inside, or close itself,
// frees. It reports whether it was the first call.
func (g *guard) close() bool {
	for {
		n := g.users.Load()
		if n < 0 {
			return false
		}
		if g.users.CompareAndSwap(n, n+closing) {
			if n == 0 {
				g.once.Do(g.free)
			}
			return true
		}
	}
}
