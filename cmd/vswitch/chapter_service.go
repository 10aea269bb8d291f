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

	d.say("%s calls the service at %s", d.pods[client], vip)
	r, t, err := d.tripTo(ctx, d.stage, client, vip, "a pod of another node", func(r reply, _ trip) bool { return r.Pod != "default/be-1" })
	if err != nil {
		return "", err
	}
	d.showTrip(t)
	node := d.pods[r.Pod].Node
	if err := t.paths(client, r.Pod, "node1", node); err != nil {
		return "", err
	}
	if first, last := t.there[0], t.there[3]; first.Destination != vip || last.Source != first.Source ||
		last.Destination != netip.AddrPortFrom(d.pods[r.Pod].IPs[0], webPort) || r.Seen != first.Source {
		return "", fmt.Errorf("the service's address was not replaced by the pod's, and that only: %+v became %+v", first, last)
	}
	if last := t.back[3]; last.Source != vip {
		return "", fmt.Errorf("the answer came from %s, not from the service", last.Source)
	}

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
	r, t, err = d.tripTo(ctx, d.stage, "default/be-1", vip, "itself", func(r reply, _ trip) bool { return r.Pod == "default/be-1" })
	if err != nil {
		return "", err
	}
	d.showTrip(t)
	if r.Seen.Addr() == d.pods["default/be-1"].IPs[0] {
		return "", fmt.Errorf("the pod saw itself as %s, and would have answered past the switch", r.Seen)
	}
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

// tripTo connects until the answer is as wanted, and returns the trip of that
// connection. what names who is wanted.
func (d *demo) tripTo(ctx context.Context, s stage, from string, to netip.AddrPort, what string, wanted func(reply, trip) bool) (r reply, t trip, err error) {
	for deadline := time.Now().Add(8 * time.Second); ; {
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
			return r, t, err
		}
		r, err = one(ctx, s, from, to, 500*time.Millisecond)
		stop()
		if err == nil {
			t = tripOf(r, seen)
			if wanted(r, t) {
				return r, t, nil
			}
			err = fmt.Errorf("the last answer was from %s, which saw %s", r.Pod, r.Seen)
		}
		if ctx.Err() != nil {
			return r, t, ctx.Err()
		}
		if time.Now().After(deadline) {
			return r, t, fmt.Errorf("%s does not reach %s at %s: %w", from, what, to, err)
		}
	}
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
	for _, s := range slices.Concat(t.there, t.back) {
		width = max(width, len(s.Port))
	}
	show := func(hops []agent.Sight, source, destination string) {
		for i, h := range hops {
			dir := "→ switch"
			if h.Out {
				dir = "switch →"
			}
			var notes []string
			if i > 0 && h.Destination != hops[i-1].Destination {
				notes = append(notes, destination)
			}
			if i > 0 && h.Source != hops[i-1].Source {
				notes = append(notes, source)
			}
			d.printf("     %s  %-*s %s  %s\n", h.Node, width, h.Port, dir,
				strings.TrimRight(fmt.Sprintf("%s > %s  %s", h.Source, h.Destination, d.paint("33", strings.Join(notes, ", "))), " "))
		}
	}
	d.detail("there:")
	show(t.there, "SNAT", "DNAT")
	d.detail("and back:")
	show(t.back, "un-DNAT", "un-SNAT")
}

// shares asks n times and counts answers by pod. Before that it waits until all
// pods that are named answer, and no others.
func (d *demo) shares(ctx context.Context, s stage, from string, to netip.AddrPort, n int, pods ...string) (map[string]int, error) {
	count := func(n int) (map[string]int, error) {
		replies, err := s.Ask(ctx, from, to, n, time.Second)
		got := map[string]int{}
		for _, r := range replies {
			if r.Error != "" && err == nil {
				err = fmt.Errorf("%s called %s: %s", from, to, r.Error)
			}
			got[r.Pod]++
		}
		return got, err
	}
	for deadline := time.Now().Add(8 * time.Second); ; {
		got, err := count(20 * len(pods))
		if err == nil && slices.Equal(slices.Sorted(maps.Keys(got)), pods) {
			return count(n)
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
