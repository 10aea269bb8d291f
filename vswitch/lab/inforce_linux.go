package lab

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"vswitch/vswitch/cluster"
)

// What is desired is in force when the data planes of all nodes go by it. In
// Kubernetes nobody knows when that is, so that a pod may be told to end while
// others still choose it, and people add a preStop handler that sleeps. On one
// machine it takes a millisecond, and the supervisor waits for it.

// Bounds of waiting for nodes.
const (
	// inForceWithin bounds what a command waits for its changes. It takes long
	// only on a machine that is out of breath, or where a node hangs.
	inForceWithin = 10 * time.Second
	// Before a pod is told to end, it waits until nobody chooses it any more, for
	// at most unchosenWithin, and then until those who did a moment ago are done
	// with it, for at most drainWithin. The first takes long only on a machine
	// that is out of breath, the second as long as clients like; a machine that
	// stalls for a second or two must not cut them off.
	unchosenWithin = 5 * time.Second
	drainWithin    = 3 * time.Second
)

// inForce waits until all nodes that are ready go by a revision of the State,
// for at most inForceWithin. The error names one that does not.
func (s *supervisor) inForce(ctx context.Context, revision uint64) error {
	ctx, cancel := context.WithTimeout(ctx, inForceWithin)
	defer cancel()
	if late := s.waitNodes(ctx, revision); late != "" {
		return failure(ErrConflict, "node %s does not go by it yet; vswitch status says how the node is", late)
	}
	return nil
}

// waitNodes waits until all nodes that are ready go by a revision, or ctx ends,
// and returns one that does not. One that cannot tell is not waited for: it
// dies, and learns all when it comes back.
func (s *supervisor) waitNodes(ctx context.Context, revision uint64) (late string) {
	s.mu.Lock()
	nodes := slices.Clone(s.nodes)
	s.mu.Unlock()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, n := range nodes {
		if n.notReady() != nil {
			continue
		}
		wg.Go(func() {
			if _, err := n.client.WaitDesired(ctx, revision); errors.Is(err, context.DeadlineExceeded) {
				mu.Lock()
				late = n.name
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return late
}

// leave tells the pod to end, when no service chooses it any more on any node,
// and those who chose it a moment ago have their answers. It does not wait.
// state is the one in which the pod is to end. Called with the supervisor's mu
// held.
func (p *pod) leave(state *cluster.State) {
	if p.leaving {
		return
	}
	p.leaving = true
	if p.spec.GracePeriod <= 0 || !served(state, p.key()) {
		p.stop()
		return
	}
	go func() {
		defer p.stop()
		began := time.Now()
		within, cancel := context.WithTimeout(p.ctx, unchosenWithin)
		defer cancel()
		if late := p.sup.waitNodes(within, state.Revision); late != "" {
			p.log.Warn("pod ends though a node may still choose it", "node", late)
		}
		if n := p.sup.node(p.spec.Node); n != nil && n.notReady() == nil {
			within, cancel := context.WithTimeout(p.ctx, drainWithin)
			defer cancel()
			if err := n.client.WaitDrained(within, p.spec.Namespace, p.spec.Name); errors.Is(err, context.DeadlineExceeded) {
				p.log.Info("pod ends though it has connections that began a moment ago")
			}
		}
		p.log.Info("pod left its services", "after", time.Since(began))
	}()
}

// served reports whether a service has, or had a moment ago, the pod as an
// endpoint.
func served(state *cluster.State, pod cluster.Key) bool {
	for v := range state.EndpointSlices.In(pod.Namespace) {
		for i := range v.Endpoints {
			if e := &v.Endpoints[i]; e.Pod == pod && e.Serving {
				return true
			}
		}
	}
	return false
}
