package vswitch

import (
	"sync"
	"time"

	"vswitch/vswitch/port"
)

// poller is what a worker sleeps in. add, remove, wait and again are the
// worker's; wake and ring may be called from anywhere.
type poller interface {
	add(a *attached) error
	remove(a *attached)
	// wait appends the ports that may have something to ready. With block it
	// waits for one, for wake, or for a tick.
	wait(block bool, ready []*attached) []*attached
	// again makes the next wait return a at once, if nothing else would: the
	// last read left something.
	again(a *attached)
	// ring makes wait return a.
	ring(a *attached)
	wake()
	close()
}

// bells collects the ports that said of themselves that they have something.
type bells struct {
	mu   sync.Mutex
	rung []*attached
}

func (b *bells) ring(a *attached) {
	b.mu.Lock()
	b.rung = append(b.rung, a)
	b.mu.Unlock()
}

func (b *bells) drain(ready []*attached) []*attached {
	b.mu.Lock()
	ready = append(ready, b.rung...)
	clear(b.rung)
	b.rung = b.rung[:0]
	b.mu.Unlock()
	return ready
}

// bellPoller waits on a channel. It serves Notifier ports only: systems without
// epoll, and switches in memory, where time may be virtual.
type bellPoller struct {
	bells
	c chan struct{}
}

func newBellPoller() *bellPoller { return &bellPoller{c: make(chan struct{}, 1)} }

func (p *bellPoller) add(a *attached) error {
	if _, ok := a.port.(port.Notifier); !ok {
		return errNotPollable
	}
	return nil
}

func (p *bellPoller) remove(*attached) {}

func (p *bellPoller) wait(block bool, ready []*attached) []*attached {
	if ready = p.drain(ready); len(ready) > 0 || !block {
		return ready
	}
	t := time.NewTimer(tick)
	defer t.Stop()
	select {
	case <-p.c:
	case <-t.C:
	}
	return p.drain(ready)
}

func (p *bellPoller) again(a *attached) {
	if !a.rung.Swap(true) {
		p.bells.ring(a)
	}
}

func (p *bellPoller) ring(a *attached) {
	p.bells.ring(a)
	p.wake()
}

func (p *bellPoller) wake() {
	select {
	case p.c <- struct{}{}:
	default:
	}
}

func (p *bellPoller) close() {}
