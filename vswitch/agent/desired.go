package agent

import (
	"context"
	"sync"
	"sync/atomic"
)

// revisions tells which state of the cluster the node has heard of, and which
// one its tables go by, so that others can wait for it: for an endpoint to be out
// of all tables before its process is told to end, or for what was applied to be
// in all of them.
type revisions struct {
	heard atomic.Uint64
	news  chan struct{} // receives when heard has changed

	mu      sync.Mutex
	now     uint64        // in force
	changed chan struct{} // closed and replaced when now changes
}

func newRevisions() *revisions {
	return &revisions{news: make(chan struct{}, 1), changed: make(chan struct{})}
}

// hear notes that the node's store has a revision.
func (r *revisions) hear(revision uint64) {
	r.heard.Store(revision)
	select {
	case r.news <- struct{}{}:
	default: // it has been told already
	}
}

// enforce notes that the tables that were published last go by a revision. It
// may go back: another writer of the desired state may count anew.
func (r *revisions) enforce(revision uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now != revision {
		r.now = revision
		close(r.changed)
		r.changed = make(chan struct{})
	}
}

// present returns the revision in force, and a channel that is closed when it changes.
func (r *revisions) present() (uint64, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now, r.changed
}

// wait waits until a revision, or a later one, is in force.
func (r *revisions) wait(ctx context.Context, revision uint64) (uint64, error) {
	for {
		now, changed := r.present()
		if now >= revision {
			return now, nil
		}
		select {
		case <-ctx.Done():
			return now, ctx.Err()
		case <-changed:
		}
	}
}
