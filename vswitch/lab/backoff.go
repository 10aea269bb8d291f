package lab

import (
	"context"
	"time"
)

// backoff says how long to wait before something that ended is started again.
type backoff struct {
	first, max time.Duration
	// calm is how long it must have run for its past to be forgotten.
	calm time.Duration
	ends int
}

// containerBackoff is the kubelet's (pkg/kubelet: 10 s doubling to 5 minutes,
// reset after 10 minutes), the first restart being immediate.
func containerBackoff() backoff {
	return backoff{first: 10 * time.Second, max: 5 * time.Minute, calm: 10 * time.Minute}
}

// nodeBackoff is short: the pods of a dead node have no network.
func nodeBackoff() backoff {
	return backoff{first: 500 * time.Millisecond, max: 15 * time.Second, calm: time.Minute}
}

// next returns how long to wait after something that ran for that long ended.
func (b *backoff) next(ran time.Duration) time.Duration {
	if ran >= b.calm {
		b.ends = 0
	}
	b.ends++
	if b.ends == 1 {
		return 0
	}
	wait := b.first
	for range b.ends - 2 {
		if wait *= 2; wait >= b.max {
			return b.max
		}
	}
	return wait
}

// sleep waits for d or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
