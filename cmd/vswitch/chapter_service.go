package main

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
)

// podToService: a virtual address leads to whichever pods are ready.
func podToService(ctx context.Context, d *demo) (string, error) {
	const client, unready = "default/client", "default/be-4"
	err := d.ensure(ctx,
		role{node: "node1", name: client},
		role{node: "node1", name: "default/be-1", labels: backend},
		role{node: "node2", name: "default/be-2", labels: backend},
		role{node: "node3", name: "default/be-3", labels: backend},
		role{node: "node2", name: unready, labels: backend, unready: true})
	if err != nil {
		return "", err
	}
	d.say("applied is a Service; it comes back with what the cluster added (+)")
	if err := apply(ctx, d.stage, storeService); err != nil {
		return "", err
	}
	svc, err := service(ctx, d.stage, storeKey, func(v *cluster.Service) bool { return len(v.ClusterIPs) > 0 })
	if err != nil {
		return "", err
	}
	if err := d.showObject(storeService, svc); err != nil {
		return "", err
	}
	vip := netip.AddrPortFrom(svc.ClusterIPs[0], webPort)

	d.say("%s on node1 calls the service at %s", short(client), vip)
	_, t, err := d.tripTo(ctx, d.stage, client, vip, func(r reply, t trip) error {
		pod := d.pods[r.Pod]
		if pod.Node == "node1" {
			return fmt.Errorf("only pods of the same node answer")
		}
		if err := t.paths(client, r.Pod, "node1", pod.Node); err != nil {
			return err
		}
		first, last := t.there[0], t.there[3]
		if first.Destination != vip || last.Destination != netip.AddrPortFrom(pod.IPs[0], webPort) || last.Source != first.Source || r.Seen != first.Source {
			return fmt.Errorf("the service's address was not replaced by the pod's, and that only: %+v became %+v", first, last)
		}
		if back := t.back[3]; back.Source != vip {
			return fmt.Errorf("the answer came from %s, not from the service", back.Source)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	d.showTrip(t)

	const n = 60
	got, err := d.shares(ctx, d.stage, client, vip, n, "default/be-1", "default/be-2", "default/be-3")
	if err != nil {
		return "", err
	}
	if got[unready] > 0 {
		return "", fmt.Errorf("%s is not ready and got %d of %d requests", unready, got[unready], n)
	}
	d.say("%d requests: %s; be-4, which is not ready, got none", n, countsOf(got))

	d.say("a pod behind the service calls it, and reaches itself (hairpin)")
	_, t, err = d.tripTo(ctx, d.stage, "default/be-1", vip, func(r reply, t trip) error {
		if r.Pod != "default/be-1" {
			return fmt.Errorf("only others answer")
		}
		if r.Seen.Addr() == r.Local.Addr() {
			return fmt.Errorf("the pod saw itself as %s, and would have answered past the switch", r.Seen)
		}
		return t.paths("default/be-1", "default/be-1", "node1", "node1")
	})
	if err != nil {
		return "", err
	}
	d.showTrip(t)
	return "one address, several pods; both translations are undone on the way back", nil
}

// trip is where the first packet of a connection was seen, and the answer to it.
type trip struct{ there, back []agent.Sight }

// entry is the node that the packet came in at.
func (t trip) entry() string {
	if len(t.there) == 0 {
		return ""
	}
	return t.there[0].Node
}

// paths checks that a connection took the straight way from a port of one node
// to a pod of the same or another one, and back.
func (t trip) paths(from, to, entry, node string) error {
	there := []string{entry + " " + from + " in", node + " " + to + " out"}
	back := []string{node + " " + to + " in", entry + " " + from + " out"}
	if node != entry {
		there = slices.Insert(there, 1, entry+" overlay out", node+" overlay in")
		back = slices.Insert(back, 1, node+" overlay out", entry+" overlay in")
	}
	if err := path(t.there, there...); err != nil {
		return err
	}
	if err := path(t.back, back...); err != nil {
		return fmt.Errorf("on the way back, %w", err)
	}
	return nil
}

// tripTo connects until accept has nothing to say against the answer and where
// the connection's packets were seen.
func (d *demo) tripTo(ctx context.Context, s stage, from string, to netip.AddrPort, accept func(reply, trip) error) (r reply, t trip, err error) {
	for deadline := time.Now().Add(patience); ; {
		if r, t, err = oneTrip(ctx, s, from, to); err == nil {
			if err = accept(r, t); err == nil {
				return r, t, nil
			}
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return r, t, fmt.Errorf("%s called %s again and again, at last: %w", from, to, err)
		}
	}
}

func oneTrip(ctx context.Context, s stage, from string, to netip.AddrPort) (reply, trip, error) {
	var mu sync.Mutex
	var seen []agent.Sight
	stop, err := s.Watch(ctx, func(s agent.Sight) {
		if s.TCPFlags == "S" || s.TCPFlags == "S." {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, s)
		}
	})
	if err != nil {
		return reply{}, trip{}, err
	}
	r, err := one(ctx, s, from, to, 500*time.Millisecond)
	stop()
	return r, tripOf(r, seen), err
}

// tripOf picks a connection's handshake out of what was seen.
func tripOf(r reply, seen []agent.Sight) (t trip) {
	slices.SortStableFunc(seen, func(a, b agent.Sight) int { return int(a.At - b.At) })
	for _, s := range seen {
		switch {
		case s.TCPFlags == "S" && (s.Source == r.Local || s.Source == r.Seen):
			t.there = append(t.there, s)
		case s.TCPFlags == "S." && (s.Destination == r.Local || s.Destination == r.Seen):
			t.back = append(t.back, s)
		}
	}
	return t
}

// showTrip prints where packets were seen, and where their addresses changed.
func (d *demo) showTrip(t trip) {
	width := 0
	for _, h := range slices.Concat(t.there, t.back) {
		width = max(width, len(short(h.Port)))
	}
	d.detail("there:")
	for i, h := range t.there {
		d.showHop(h, width, strings.Join(changed(t.there, i), ", "))
	}
	d.detail("and back:")
	for i, h := range t.back {
		what := changed(t.back, i)
		if len(what) == 2 {
			what = []string{"both"}
		} else if len(what) == 1 && what[0] == "DNAT" {
			what[0] = "SNAT" // its address is the destination now
		} else if len(what) == 1 {
			what[0] = "DNAT"
		}
		note := ""
		if len(what) > 0 {
			note = what[0] + " undone"
		}
		d.showHop(h, width, note)
	}
}

func (d *demo) showHop(h agent.Sight, width int, note string) {
	dir := "→ switch"
	if h.Out {
		dir = "switch →"
	}
	line := fmt.Sprintf("     %s  %-*s %s %s > %s", h.Node, width, short(h.Port), dir, h.Source, h.Destination)
	if note != "" {
		line += "  " + d.paint("33", note)
	}
	d.printf("%s\n", line)
}

// changed says which addresses of hop i are not those of the one before.
func changed(hops []agent.Sight, i int) (what []string) {
	if i > 0 && hops[i].Destination != hops[i-1].Destination {
		what = append(what, "DNAT")
	}
	if i > 0 && hops[i].Source != hops[i-1].Source {
		what = append(what, "SNAT")
	}
	return what
}

// short leaves out the namespace that goes without saying.
func short(name string) string { return strings.TrimPrefix(name, "default/") }

// shares asks n times and counts answers by pod. Before that it waits until all
// pods that are named answer, and no others.
func (d *demo) shares(ctx context.Context, s stage, from string, to netip.AddrPort, n int, pods ...string) (map[string]int, error) {
	count := func(n int, limit time.Duration) (map[string]int, error) {
		replies, err := s.Ask(ctx, from, to, n, limit)
		got := map[string]int{}
		for _, r := range replies {
			if r.Error != "" && err == nil {
				err = fmt.Errorf("%s called %s: %s", from, to, r.Error)
			}
			got[r.Pod]++
		}
		return got, err
	}
	for deadline := time.Now().Add(patience); ; {
		got, err := count(20*len(pods), time.Second)
		if err == nil && slices.Equal(slices.Sorted(maps.Keys(got)), pods) {
			return count(n, patience)
		}
		if err == nil {
			err = fmt.Errorf("%s answer at %s, not %s", countsOf(got), to, strings.Join(pods, ", "))
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return nil, err
		}
	}
}

// countsOf writes "be-1 20, be-2 19".
func countsOf(counts map[string]int) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		_, pod := split(name)
		out = append(out, fmt.Sprintf("%s %d", pod, counts[name]))
	}
	return strings.Join(out, ", ")
}
