package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
)

// servicesByName: names lead to services and pods, and follow them.
func servicesByName(ctx context.Context, d *demo) (string, error) {
	const client = "default/client"
	backends := []string{"default/be-1", "default/be-2", "default/be-3"}
	err := d.ensure(ctx,
		role{node: "node1", name: client},
		role{node: "node1", name: backends[0], labels: backend},
		role{node: "node2", name: backends[1], labels: backend},
		role{node: "node3", name: backends[2], labels: backend})
	if err != nil {
		return "", err
	}
	if err := apply(ctx, d.stage, storeService); err != nil {
		return "", err
	}
	svc, err := service(ctx, d.stage, storeKey, func(v *cluster.Service) bool { return len(v.ClusterIPs) > 0 })
	if err != nil {
		return "", err
	}
	server, err := d.nameServer(ctx)
	if err != nil {
		return "", err
	}
	d.say("%s asks its resolver, Service kube-system/kube-dns at %s, for %s", short(client), server.Addr(), storeKey.Name)
	t, err := d.lookupTrip(ctx, client, storeKey.Name, server, func(got []string, t trip) error {
		if want := textOf(svc.ClusterIPs[:1]); !slices.Equal(got, want) {
			return fmt.Errorf("it is %s, not %s", orNothing(got), orNothing(want))
		}
		if err := t.paths(client, "kube-system/dns-node1", "node1", "node1"); err != nil {
			return fmt.Errorf("the question went another way than to the server of its own node: %w", err)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	d.showTrip(t)
	d.answers(storeKey.Name+".default.svc.cluster.local", "A", textOf(svc.ClusterIPs[:1]))

	d.say("a headless Service has the addresses of its pods, and their ports by name")
	if err := apply(ctx, d.stage, headlessService); err != nil {
		return "", err
	}
	names := []struct {
		kind, name string
		want       []string
	}{
		{"A", headlessName, d.addresses(0, backends...)},
		{"AAAA", headlessName, d.addresses(1, backends...)},
		{"SRV", "_http._tcp." + headlessName, d.targets(0, backends...)},
	}
	for _, n := range names {
		if err := d.resolves(ctx, client, n.kind, n.name, n.want); err != nil {
			return "", err
		}
	}

	d.say("a pod comes, and its address with it")
	added, err := addPods(ctx, d.stage, role{node: "node2", name: passing, labels: backend})
	if err != nil {
		return "", err
	}
	with := append(d.addresses(0, backends...), added[0].IPs[0].String())
	if err := d.resolves(ctx, client, "A", headlessName, with); err != nil {
		return "", err
	}
	d.say("it goes, and so does its address")
	if err := deletePod(ctx, d.stage, passing); err != nil {
		return "", err
	}
	if err := d.resolves(ctx, client, "A", headlessName, d.addresses(0, backends...)); err != nil {
		return "", err
	}
	return "every node answers for all names, and what it says is what its data plane goes by", nil
}

// passing is a pod behind the services for a while.
const passing = "default/be-5"

// nameServer is where pods ask.
func (d *demo) nameServer(ctx context.Context) (netip.AddrPort, error) {
	var server netip.AddrPort
	err := await(ctx, d.stage, func(s *cluster.State) bool {
		if at := control.NameServers(s); len(at) > 0 {
			server = netip.AddrPortFrom(at[0], 53)
		}
		return server.IsValid()
	})
	return server, err
}

// addresses are those of pods, of one family.
func (d *demo) addresses(i int, pods ...string) (list []string) {
	for _, p := range pods {
		list = append(list, d.pods[p].IPs[i].String())
	}
	return list
}

// targets are the names of pods behind the headless service, which have none of
// their own, at the port of the service.
func (d *demo) targets(i int, pods ...string) (list []string) {
	for _, a := range d.addresses(i, pods...) {
		list = append(list, fmt.Sprintf("%s.%s:%d", strings.ReplaceAll(a, ".", "-"), headlessName, webPort))
	}
	return list
}

// resolves waits until a name leads to what it should, and says so. A pod that is
// ready, or gone, is so before all nodes have heard of it.
func (d *demo) resolves(ctx context.Context, from, kind, name string, want []string) error {
	want = slices.Sorted(slices.Values(want))
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		got, err := d.stage.Lookup(ctx, from, kind, name)
		if kind == "SRV" { // those of both families
			got = slices.DeleteFunc(got, func(target string) bool { return !slices.Contains(want, target) })
		}
		if err == nil && slices.Equal(got, want) {
			d.answers(name, kind, want)
			return nil
		}
		if err == nil {
			err = fmt.Errorf("it is %s, not %s", orNothing(got), orNothing(want))
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("%s asked for %s, %s, again and again, at last: %w", short(from), name, kind, err)
		}
	}
}

// answers says what a name leads to, a line each.
func (d *demo) answers(name, kind string, values []string) {
	what := fmt.Sprintf("%s  %-4s", strings.TrimSuffix(name, "."), kind)
	for _, v := range values {
		d.detail("%s %s", what, strings.ReplaceAll(v, ".:", ":"))
		what = strings.Repeat(" ", len(what))
	}
}

func orNothing(list []string) string {
	if len(list) == 0 {
		return "nothing"
	}
	return strings.Join(list, ", ")
}

func textOf(ips []netip.Addr) (list []string) {
	for _, ip := range ips {
		list = append(list, ip.String())
	}
	return list
}

// lookupTrip asks for a name until accept has nothing to say against the answer,
// and where it and the question were seen.
func (d *demo) lookupTrip(ctx context.Context, from, name string, server netip.AddrPort, accept func([]string, trip) error) (t trip, err error) {
	self := d.pods[from].IPs[0]
	for deadline := time.Now().Add(patience); ; {
		var got []string
		if got, t, err = d.lookupOnce(ctx, from, name, self, server); err == nil {
			if err = accept(got, t); err == nil {
				return t, nil
			}
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return t, fmt.Errorf("%s asked for %s again and again, at last: %w", short(from), name, err)
		}
	}
}

func (d *demo) lookupOnce(ctx context.Context, from, name string, self netip.Addr, server netip.AddrPort) (got []string, t trip, err error) {
	var mu sync.Mutex
	var seen []agent.Sight
	stop, err := d.stage.Watch(ctx, func(s agent.Sight) {
		if s.Proto == "udp" && (s.Source.Addr() == self && s.Destination.Port() == server.Port() || s.Destination.Addr() == self && s.Source.Port() == server.Port()) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, s)
		}
	})
	if err != nil {
		return nil, trip{}, err
	}
	got, err = d.stage.Lookup(ctx, from, "A", name)
	// What was seen is told later than the answer comes.
	for end := time.Now().Add(time.Second); err == nil && time.Now().Before(end) && ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
		mu.Lock()
		n := len(seen)
		mu.Unlock()
		if n >= 4 {
			break
		}
	}
	stop()
	slices.SortStableFunc(seen, func(a, b agent.Sight) int { return int(a.At - b.At) })
	for _, s := range seen {
		if s.Source.Addr() == self {
			t.there = append(t.there, s)
		} else {
			t.back = append(t.back, s)
		}
	}
	return got, t, err
}
