package gossip

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Leave says goodbye, so that others drop this node's routes at once and need
// not find out. It returns when the word is out or ctx ends. Close must follow.
func (g *Gossip) Leave(ctx context.Context) error {
	g.parting.Lock()
	defer g.parting.Unlock()
	g.mu.Lock()
	if g.leaving {
		g.mu.Unlock()
		return nil
	}
	select {
	case <-g.done:
		g.mu.Unlock()
		return ErrClosed
	default:
	}
	g.leaving = true
	bye := encodeGoodbye(g.own.edition)
	peers := g.peers()
	g.mu.Unlock()

	g.beacons.QueueBroadcast(beacon{g.cfg.Name, bye})
	wait := g.cfg.Timing.Stream
	if d, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(d))
	}
	var told sync.WaitGroup
	for _, p := range peers {
		told.Go(func() {
			g.sending <- struct{}{}
			defer func() { <-g.sending }()
			if ctx.Err() == nil {
				_ = g.ml.SendReliable(&p.to, bye) // the gossiped copy and memberlist's own message follow
			}
		})
	}
	out := make(chan struct{})
	go func() { told.Wait(); close(out) }()
	select {
	case <-out:
	case <-ctx.Done():
	}
	err := g.ml.Leave(max(wait, time.Millisecond))
	<-out
	return errors.Join(err, ctx.Err())
}

// Close ends the membership without a word; call Leave first unless a crash is
// what others should see. It waits for all of its goroutines.
func (g *Gossip) Close() error {
	var err error
	g.ending.Do(func() {
		g.parting.Lock()
		defer g.parting.Unlock()
		g.mu.Lock()
		close(g.done)
		close(g.changes)
		for _, m := range g.members {
			m.hangUp()
		}
		g.mu.Unlock()
		err = g.ml.Shutdown()
	})
	g.wg.Wait()
	return err
}
