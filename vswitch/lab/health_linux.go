package lab

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"vswitch/vswitch/cluster"
)

const (
	// healthEvery is how often nodes are asked for their health, and healthSoon
	// how soon after services changed: nodes may not know yet.
	healthEvery = time.Second
	healthSoon  = 100 * time.Millisecond
	// healthTimeout is how long a node has to answer. One that is dead is known
	// as not ready before.
	healthTimeout = 3 * time.Second
	// healthAtOnce bounds how many questions are under way.
	healthAtOnce = 16
)

// watch asks the nodes again and again, until the cluster goes down.
func (o *outside) watch() {
	w := o.sup.store.Watch()
	defer w.Close()
	next := time.NewTimer(healthEvery)
	defer next.Stop()
	defer o.dismiss(nil)
	for {
		select {
		case <-o.sup.ctx.Done():
			return
		case <-w.C():
			if c := w.Next(); len(c.Services) > 0 {
				next.Reset(healthSoon)
			}
		case <-next.C:
			o.ask(o.sup.ctx)
			next.Reset(healthEvery)
		}
	}
}

// asker returns who asks a node.
func (o *outside) asker(node string) *http.Client {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.askers[node] == nil {
		o.askers[node] = newHTTPClient(newSpace(o.sup.dir, node).dial)
	}
	return o.askers[node]
}

// dismiss ends the connections to all nodes but those that are left.
func (o *outside) dismiss(left []outsideNode) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for name, c := range o.askers {
		if !slices.ContainsFunc(left, func(n outsideNode) bool { return n.name == name }) {
			c.CloseIdleConnections()
			delete(o.askers, name)
		}
	}
}

// ask asks each node at each health check node port, as a cloud's balancer does,
// but from the node's own network, so that the questions are not among the
// client's packets. One answer decides.
func (o *outside) ask(ctx context.Context) {
	fronts, checks := frontsOf(o.sup.store.State())
	o.mu.Lock()
	nodes := slices.Clone(o.nodes)
	o.mu.Unlock()
	o.dismiss(nodes)
	passing := map[uint16]map[string]bool{}
	var mu sync.Mutex // guards passing
	var wg sync.WaitGroup
	turn := make(chan struct{}, healthAtOnce)
	for _, port := range checks {
		passing[port] = map[string]bool{}
		for _, n := range nodes {
			if len(n.addrs) == 0 {
				continue
			}
			turn <- struct{}{}
			wg.Go(func() {
				defer func() { <-turn }()
				ctx, cancel := context.WithTimeout(ctx, healthTimeout)
				defer cancel()
				f := askHTTPBy(ctx, o.asker(n.name), &cluster.HTTPGet{Path: "/"}, n.addrs[0].String(), port)
				mu.Lock()
				defer mu.Unlock()
				passing[port][n.name] = f.outcome == healthy
			})
		}
	}
	wg.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	for port, nodes := range passing {
		for name, now := range nodes {
			if was, known := o.lb.passing[port][name]; was != now || !known {
				o.sup.log.Info("a node's health as its balancer sees it", "node", name, "healthCheckNodePort", port, "passes", now)
			}
		}
	}
	o.lb.fronts, o.lb.passing = fronts, passing
}
