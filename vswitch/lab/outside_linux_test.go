package lab

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
)

// TestOutside lets a client outside speak to nodes, also when they were killed.
func TestOutside(t *testing.T) {
	t.Setenv(realNodes, "1")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := options(newTestPod("one", exe, "test-echo"), newTestPod("two", exe, "test-echo"))
	o.Nodes = 2
	command := []string{exe, "test-talk", "4194304"}
	for i, p := range o.Objects.Pods {
		p.Node, p.HostNetwork = fmt.Sprintf("node%d", i+1), true
	}
	c := start(t, o)
	listening(t, c, "tcp", echoPort, "one", "two")
	for _, name := range []string{"one", "two"} {
		for _, ip := range getPod(t, c, name).IPs {
			command = append(command, ip.String())
		}
	}
	if len(command) != 3+4 {
		t.Fatalf("the nodes' addresses are %v", command[3:])
	}
	if got, _ := run(t, c, ExecRequest{Outside: true, Command: command}, ""); got != "done\n" {
		t.Error(got)
	}
	for _, n := range []string{"node1", "node2"} {
		if err := c.KillNode(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	waitReady(t, c)
	if got, _ := run(t, c, ExecRequest{Outside: true, Command: command}, ""); got != "done\n" {
		t.Errorf("after the nodes were killed: %s", got)
	}
	// A node that comes later is connected, too.
	if err := c.AddNode(t.Context(), "node3"); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if nodes, err := c.Nodes(t.Context()); err != nil || len(nodes) != 3 || !nodes[2].Ready {
			return fmt.Sprintf("nodes %+v, error %v", nodes, err)
		}
		return ""
	})
	s, err := c.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range s.Nodes {
		for _, ip := range n.Addresses {
			echoes(t, c, ExecRequest{Outside: true}, ip.String(), "56")
		}
	}
}

// TestOutsideRoute: a node's address, and one in its range of pods, leads to that
// node, ready or not, all else to one that is ready.
func TestOutsideRoute(t *testing.T) {
	o := &outside{lb: newBalancer()}
	for i, ready := range []bool{true, false, true} {
		o.nodes = append(o.nodes, outsideNode{name: fmt.Sprintf("node%d", i+1), addrs: []netip.Addr{netip.AddrFrom4([4]byte{172, 29, 0, byte(i + 1)})},
			pods:  []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%d::/64", i+1))},
			ready: func() bool { return ready }})
	}
	for _, n := range o.nodes {
		for _, a := range []netip.Addr{n.addrs[0], n.pods[0].Addr().Next(), n.pods[1].Addr().Next()} {
			for port := range uint16(10) {
				if got := o.route(flow{dst: a, proto: protoTCP, srcPort: port}, true); got == nil || got.name != n.name {
					t.Errorf("%s of %s leads to %+v", a, n.name, got)
				}
			}
		}
	}
	seen := map[string]bool{}
	for port := range uint16(100) {
		seen[o.route(flow{dst: netip.MustParseAddr("192.0.2.1"), proto: protoTCP, srcPort: port}, true).name] = true
	}
	if !seen["node1"] || !seen["node3"] || len(seen) != 2 {
		t.Errorf("packets go to %v", seen)
	}
	o.nodes = o.nodes[1:2]
	if n := o.route(flow{dst: netip.MustParseAddr("192.0.2.1")}, true); n != nil {
		t.Errorf("with no node that is ready, a packet goes to %s", n.name)
	}
}
