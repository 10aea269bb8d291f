package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"vswitch/vswitch/agent"
)

// chapter is one part of the life of a packet. It returns what was shown, in
// one sentence, or why it failed.
type chapter struct {
	Title string
	play  func(ctx context.Context, d *demo) (string, error)
}

var chapters = []chapter{
	{"Pod to pod on one node", sameNode},
	{"Pod to pod across nodes", acrossNodes},
	{"Dealing with change", change},
	{"Pod to service", podToService},
	{"Services by name", servicesByName},
	{"External to service", externalToService},
	{"Rolling update", rollingUpdate},
	{"Network policy", networkPolicy},
}

// sameNode: two pods of a node are neighbors on an Ethernet; the switch bridges.
func sameNode(ctx context.Context, d *demo) (string, error) {
	front, err := d.pod(ctx, "node1", "shop/front")
	if err != nil {
		return "", err
	}
	cart, err := d.pod(ctx, "node1", "shop/cart")
	if err != nil {
		return "", err
	}
	d.calls(front, cart)
	for i := range cart.IPs {
		hops, err := d.call(ctx, front, cart, i, i == 0, "node1 shop/front in", "node1 shop/cart out")
		if err != nil {
			return "", err
		}
		if in, out := hops[0], hops[1]; in.TTL != out.TTL || in.DstMAC != out.DstMAC || in.SrcMAC != out.SrcMAC {
			return "", fmt.Errorf("a bridged packet changed on its way: %+v, %+v", in, out)
		}
	}
	return "neighbors on one Ethernet: the frame arrived as sent, TTL and MACs too", nil
}

// acrossNodes: the gateway routes into the overlay, the other node out of it.
func acrossNodes(ctx context.Context, d *demo) (string, error) {
	front, err := d.pod(ctx, "node1", "shop/front")
	if err != nil {
		return "", err
	}
	db, err := d.pod(ctx, "node2", "shop/db")
	if err != nil {
		return "", err
	}
	d.calls(front, db)
	for i := range db.IPs {
		hops, err := d.call(ctx, front, db, i, i == 0, "node1 shop/front in", "node1 overlay out", "node2 overlay in", "node2 shop/db out")
		if err != nil {
			return "", err
		}
		if first, last := hops[0], hops[3]; last.TTL != first.TTL-2 {
			return "", fmt.Errorf("two routers should have taken 2 of the TTL: %d became %d", first.TTL, last.TTL)
		}
	}
	const size = 64 << 20
	start := time.Now()
	if err := d.stage.Stream(ctx, front.Name, db.at(0), size, nil); err != nil {
		return "", err
	}
	took := time.Since(start)
	d.say("64 MiB with equal sha256, %.1f Gb/s", float64(size)*8/float64(took))
	return "routed twice, carried between the nodes, and every byte arrived", nil
}

// change: pods and nodes come and go.
func change(ctx context.Context, d *demo) (string, error) {
	front, err := d.pod(ctx, "node1", "shop/front")
	if err != nil {
		return "", err
	}
	db, err := d.pod(ctx, "node2", "shop/db")
	if err != nil {
		return "", err
	}

	d.say("%s dies, and comes back with another address", db.Name)
	if err := deletePod(ctx, d.stage, db.Name); err != nil {
		return "", err
	}
	says, err := d.deadAddress(ctx, front, db)
	if err != nil {
		return "", err
	}
	d.detail("its old address says: %s", reason(says))
	again, err := d.addPod(ctx, "node2", db.Name)
	if err != nil {
		return "", err
	}
	if slices.Equal(again.IPs, db.IPs) {
		return "", fmt.Errorf("the pod got the same address %s at once; late packets of others would reach it", list(db.IPs))
	}
	if _, err := d.call(ctx, front, again, 0, false); err != nil {
		return "", err
	}
	d.detail("%s answers", again)

	d.say("node2's process is killed in the middle of a transfer, and returns")
	if err := d.stage.Stream(ctx, front.Name, again.at(0), 256<<20, func() {
		if err := d.stage.KillNode(ctx, "node2"); err != nil {
			d.detail("%v", err)
		}
	}); err != nil {
		return "", fmt.Errorf("the transfer did not survive: %w", err)
	}
	d.detail("256 MiB with equal sha256: the pods and the connection outlived it")

	node, err := d.stage.AddNode(ctx)
	if err != nil {
		return "", err
	}
	d.say("%s is added", node)
	spare, err := d.pod(ctx, node, "shop/spare")
	if err != nil {
		return "", err
	}
	if _, err := d.call(ctx, front, spare, 0, true); err != nil {
		return "", err
	}
	return "pods, a node process and a whole node changed, and traffic followed", nil
}

// deadAddress returns what the address of a pod that is gone says, which must come
// at once: a black hole never says anything. A machine that stalls is late once.
func (d *demo) deadAddress(ctx context.Context, from, gone actor) (says, err error) {
	for range 3 {
		start := time.Now()
		_, says = one(ctx, d.stage, from.Name, gone.at(0), 3*time.Second)
		if says == nil {
			return nil, fmt.Errorf("the dead pod still answers at %s", gone.at(0))
		}
		took := time.Since(start)
		if took <= 2*time.Second {
			return says, nil
		}
		err = fmt.Errorf("the old address is a black hole: no answer for %s", took.Round(time.Millisecond))
	}
	return nil, err
}

// path checks which ports a packet was seen at, in order.
func path(hops []agent.Sight, want ...string) error {
	var got []string
	for _, h := range hops {
		dir := "in"
		if h.Out {
			dir = "out"
		}
		got = append(got, h.Node+" "+h.Port+" "+dir)
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("the packet was seen at [%s], not at [%s]", strings.Join(got, ", "), strings.Join(want, ", "))
	}
	return nil
}

// reason returns the last, most telling part of an error.
func reason(err error) string {
	s := err.Error()
	if i := strings.LastIndex(s, ": "); i >= 0 {
		s = s[i+2:]
	}
	return strings.TrimSpace(s)
}

// call connects from one pod to an address of another, until that works, and
// returns where the first packet of the last attempt was seen: at want, if that is
// given. A packet that a stalled machine made a kernel send again is not counted.
func (d *demo) call(ctx context.Context, from, to actor, ip int, show bool, want ...string) (hops []agent.Sight, err error) {
	for range 3 {
		if hops, err = d.callOnce(ctx, from, to, ip, want); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	if show {
		d.hops(hops)
	}
	family := "IPv4"
	if to.IPs[ip].Is6() {
		family = "IPv6"
	}
	took := ""
	if len(hops) > 2 {
		took = fmt.Sprintf(", %s from the first port to the last", (hops[len(hops)-1].At - hops[0].At).Round(time.Microsecond))
	}
	d.detail("%s: answered%s", family, took)
	return hops, nil
}

// callOnce is one try of call.
func (d *demo) callOnce(ctx context.Context, from, to actor, ip int, want []string) ([]agent.Sight, error) {
	var mu sync.Mutex
	var seen []agent.Sight
	stop, err := d.stage.Watch(ctx, func(s agent.Sight) {
		if s.TCPFlags == "S" && s.Destination == to.at(ip) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, s)
		}
	})
	if err != nil {
		return nil, err
	}
	hops := func() []agent.Sight {
		mu.Lock()
		defer mu.Unlock()
		slices.SortStableFunc(seen, func(a, b agent.Sight) int { return int(a.At - b.At) })
		return lastAttempt(seen)
	}
	answer, err := until(ctx, d.stage, from.Name, to.at(ip), nil)
	// What was seen is told later than the answer comes.
	for end := time.Now().Add(3 * time.Second); err == nil && len(want) > 0 && path(hops(), want...) != nil && time.Now().Before(end) && ctx.Err() == nil; {
		time.Sleep(5 * time.Millisecond)
	}
	stop()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("%s cannot reach %s at %s: %w", from.Name, to.Name, to.at(ip), err)
	}
	if answer.Pod != to.Name {
		return nil, fmt.Errorf("%s was answered by %q instead of %s", from.Name, answer.Pod, to.Name)
	}
	if len(want) > 0 {
		err = path(hops(), want...)
	}
	return hops(), err
}

// lastAttempt returns the sights of the last connection attempt.
func lastAttempt(seen []agent.Sight) []agent.Sight {
	if len(seen) == 0 {
		return nil
	}
	source := seen[len(seen)-1].Source
	var out []agent.Sight
	for _, s := range seen {
		if s.Source == source {
			out = append(out, s)
		}
	}
	return out
}
