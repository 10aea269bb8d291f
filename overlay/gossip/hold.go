package gossip

import (
	"context"
	"errors"
	"slices"
	"time"
)

// ErrRotating: somebody else rotates the keys.
var ErrRotating = errors.New("another rotation is under way; rotate again once it has ended")

// holdFor is how long a rotation holds a keyring without saying so again. It is
// what others wait for after a node died in the middle of one.
const holdFor = time.Minute

// hold is the claim of a node's rotation on a keyring.
type hold struct {
	by    string // the node; empty: nobody
	until time.Time
}

// take makes the hold that of a node, or fails with ErrRotating. What the node
// had not let go of before it could not reach this one is its own still.
func (h *hold) take(by string) error {
	now := time.Now()
	if h.by != "" && h.by != by && now.Before(h.until) {
		return ErrRotating
	}
	h.by, h.until = by, now.Add(holdFor)
	return nil
}

func (h *hold) release(by string) {
	if h.by == by {
		*h = hold{}
	}
}

// holdKeys holds the keyrings of all live nodes for a rotation of this node, or
// fails with ErrRotating. The node that is first by name is asked before all
// others: of rotations that begin at once, it lets one pass. If it does not
// fail, release lets go.
func (g *Gossip) holdKeys(ctx context.Context) (release func(), err error) {
	if !g.rotating.TryLock() {
		return nil, ErrRotating
	}
	own := g.cfg.Name
	release = func() {
		defer g.rotating.Unlock()
		g.ring.do(opRelease, own)
		// Whoever does not answer lets go by itself in time.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.cfg.Timing.Stream)
		defer cancel()
		g.question(ctx, opRelease, own, g.peerNames())
	}
	if first := slices.Min(append(g.peerNames(), own)); first != own {
		if as := g.question(ctx, opHold, own, []string{first}); as[0].Err == ErrRotating.Error() {
			g.rotating.Unlock()
			return nil, ErrRotating
		}
	}
	if err := g.holdAll(ctx); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// holdAll takes the holds, or makes them last.
func (g *Gossip) holdAll(ctx context.Context) error {
	as, err := g.command(ctx, opHold, g.cfg.Name)
	if slices.ContainsFunc(as, func(a KeyAnswer) bool { return a.Err == ErrRotating.Error() }) {
		return ErrRotating
	}
	return err
}
