package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/netns"
	"vswitch/vswitch/netns/netnstest"
)

// TestOwn: a node port gives the node's addresses to a namespace, over the
// death of the node, and gives them back.
func TestOwn(t *testing.T) {
	l := &lone{cfg: nodeConfig(t, 1), ns: netnstest.New(t)}
	netnstest.Do(t, l.ns, func() error { return netns.SetUp("lo") })
	l.cfg.Addresses, l.cfg.ExtraAddresses = addrs("172.29.0.1", "fd00:10:29::1"), addrs("192.0.2.1")
	l.cfg.Services.NodePorts = cluster.PortRange{First: 1, Last: 65535}
	l.node = startNode(t, l.ns, l.cfg)
	l.node.ready(0)
	l.pod = l.node.pod(PodRequest{Namespace: "test", Name: "pod", PortSpec: PortSpec{NetNS: netnstest.New(t)}})
	ctx := context.Background()
	all := slices.Concat(l.cfg.Addresses, l.cfg.ExtraAddresses)

	// Without one, the switch has the addresses.
	talk(t, l.pod.NetNS, all)
	r := PortRequest{NetNS: netnstest.New(t)}
	p, err := l.node.AttachOwn(ctx, r)
	if err != nil || p.Interface != "eth0" || p.MTU != 1450 || p.MAC != "0a:58:ac:1d:00:01" || !slices.Equal(p.Addresses, all) {
		t.Fatalf("attached as %+v, error %v", p, err)
	}
	alone := func(ns string) {
		t.Helper()
		for _, ip := range l.cfg.Addresses {
			if err := bulk(ns, ns, ip, 16<<20); err != nil {
				t.Errorf("from the node to itself, %s: %v", ip, err)
			}
		}
	}
	both := func() {
		t.Helper()
		alone(r.NetNS) // by the switch, as all ports are node ports
		talk(t, l.pod.NetNS, all)
		talk(t, r.NetNS, append(l.pod.Gateways, l.pod.IPs...))
		for i, ip := range l.cfg.Addresses {
			if err := bulk(l.pod.NetNS, r.NetNS, ip, 16<<20); err != nil {
				t.Errorf("from the pod to %s: %v", ip, err)
			}
			if err := bulk(r.NetNS, l.pod.NetNS, l.pod.IPs[i], 16<<20); err != nil {
				t.Errorf("from the node to %s: %v", l.pod.IPs[i], err)
			}
		}
	}
	both()
	shown(t, l, "172.29.0.1/32 host node1 via  port node")

	// A node that is killed finds it again, with nobody's help.
	l.restart(t)
	both()
	again, err := l.node.AttachOwn(ctx, r)
	if err != nil || !slices.Equal(again.Addresses, all) || again.MAC != p.MAC {
		t.Errorf("attached again as %+v, error %v", again, err)
	}

	// Another namespace takes them over; nobody is left in the first one.
	first := r
	r.NetNS = netnstest.New(t)
	if _, err := l.node.AttachOwn(ctx, r); err != nil {
		t.Fatal(err)
	}
	both()
	if out, err := run(first.NetNS, "ping", "-n", "-c1", "-W1", l.pod.IPs[0].String()); err == nil {
		t.Errorf("the namespace before is still heard: %s", out)
	}
	alone(first.NetNS)
	for range 2 {
		if err := l.node.DetachOwn(ctx); err != nil {
			t.Fatal(err)
		}
	}
	alone(r.NetNS)
	talk(t, l.pod.NetNS, all)
	shown(t, l, "172.29.0.1/32 local node1 via  port ")
	if s, err := l.node.Status(ctx); err != nil || s.NodePort != nil {
		t.Errorf("the status has %+v, error %v", s.NodePort, err)
	}
}

// talk pings addresses from a namespace.
func talk(t *testing.T, ns string, to []netip.Addr) {
	t.Helper()
	for _, a := range to {
		if out, err := run(ns, "ping", "-n", "-c1", "-W30", a.String()); err != nil {
			t.Errorf("ping %s: %s", a, out)
		}
	}
}

// shown looks for a route in what the node shows.
func shown(t *testing.T, l *lone, want string) {
	t.Helper()
	routes, err := l.node.Routes(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range routes {
		all = append(all, fmt.Sprintf("%s %s %s via %s port %s", r.Prefix, r.Kind, r.To, r.Via, r.Port))
	}
	if !slices.Contains(all, want) {
		t.Errorf("no %q in\n%s", want, strings.Join(all, "\n"))
	}
}

// TestOwnErrors: what cannot be is one clear error.
func TestOwnErrors(t *testing.T) {
	l := newLone(t)
	for _, c := range []struct {
		r    PortRequest
		want string
	}{
		{PortRequest{}, "netns is needed"},
		{PortRequest{NetNS: "/nowhere", MTU: 100}, "mtu 100 is outside 1280..65521"},
		{PortRequest{NetNS: "/nowhere"}, "the node has no address; give it addresses in its configuration"},
	} {
		if _, err := l.node.AttachOwn(context.Background(), c.r); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.r, err, c.want)
		}
	}
}

// TestOutsideErrors: what cannot be is one clear error.
func TestOutsideErrors(t *testing.T) {
	l := newLone(t)
	dir := t.TempDir()
	for _, c := range []struct {
		r    OutsideRequest
		want string
	}{
		{OutsideRequest{}, "socket is needed"},
		{OutsideRequest{Socket: dir + "/a"}, "remote is needed"},
		{OutsideRequest{Socket: dir + "/a", Remote: dir + "/b"}, "prefixes are needed"},
		{OutsideRequest{Socket: dir + "/a", Remote: dir + "/b", Prefixes: prefixes("10.244.7.0/24")}, "prefix 10.244.7.0/24 is no range outside of the cluster"},
	} {
		if _, err := l.node.AttachOutside(context.Background(), c.r); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.r, err, c.want)
		}
	}
}
