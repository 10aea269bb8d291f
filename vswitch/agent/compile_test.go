package agent

import (
	"net/netip"
	"strings"
	"testing"

	"vswitch/vswitch"
)

func prefixes(s ...string) (ps []netip.Prefix) {
	for _, p := range s {
		ps = append(ps, netip.MustParsePrefix(p))
	}
	return ps
}

func addrs(s ...string) (as []netip.Addr) {
	for _, a := range s {
		as = append(as, netip.MustParseAddr(a))
	}
	return as
}

var (
	testSelf = Self{Name: "node1", GatewayMAC: [6]byte{0x0a, 0x58, 10, 244, 1, 1}, VTEPMAC: [6]byte{2, 0, 0, 0, 0, 1},
		PodCIDRs: prefixes("10.244.1.0/24", "fd00:10:244:1::/64"), Addresses: addrs("172.29.0.1"),
		ClusterRanges: prefixes("10.244.0.0/16", "10.96.0.0/16")}
	testPod = LocalPod{Port: 2, Name: "shop/web", MAC: [6]byte{0x0a, 0x58, 10, 244, 1, 2}, MTU: 1450,
		IPs: addrs("10.244.1.2", "fd00:10:244:1::2")}
	testNode = RemoteNode{Peer: 1, Port: 1, Name: "node2", MAC: [6]byte{2, 0, 0, 0, 0, 2}, MTU: 1450,
		PodCIDRs: prefixes("10.244.2.0/24"), Addresses: addrs("172.29.0.2")}
)

func compiled() *Compiler {
	c := new(Compiler)
	c.SetOverlay(1, vswitch.PortOverlay, 1450)
	c.SetSelf(testSelf)
	c.SetPod(testPod)
	c.SetNode(testNode)
	return c
}

const golden = `
port 1              overlay      00:00:00:00:00:00  mtu 1450  []
port 2              shop/web     0a:58:0a:f4:01:02  mtu 1450  [10.244.1.2 fd00:10:244:1::2]
peer 1              node2        02:00:00:00:00:02
10.244.1.0/24       unreachable  node1     port 0  peer 0
10.244.1.0/32       local        node1     port 0  peer 0
10.244.1.1/32       local        node1     port 0  peer 0
10.244.1.2/32       pod          shop/web  port 2  peer 0
10.244.2.0/24       peer         node2     port 1  peer 1
172.29.0.1/32       local        node1     port 0  peer 0
172.29.0.2/32       peer         node2     port 1  peer 1
fd00:10:244:1::/64  unreachable  node1     port 0  peer 0
fd00:10:244:1::/128  local        node1     port 0  peer 0
fd00:10:244:1::1/128 local       node1     port 0  peer 0
fd00:10:244:1::2/128 pod         shop/web  port 2  peer 0
cluster             10.96.0.0/16
cluster             10.244.0.0/16
`

// words compares tables without their alignment.
func words(s string) string {
	var lines []string
	for l := range strings.Lines(strings.TrimSpace(s)) {
		lines = append(lines, strings.Join(strings.Fields(l), " "))
	}
	return strings.Join(lines, "\n")
}

func TestCompile(t *testing.T) {
	if got := dump(compiled().Publish()); words(got) != words(golden) {
		t.Errorf("got\n%s\nwant%s", got, golden)
	}
}

// TestCompileIsIncremental: what was published never changes, and a change taken
// back gives what was there before.
func TestCompileIsIncremental(t *testing.T) {
	c := compiled()
	first := c.Publish()
	c.DeletePod(testPod)
	c.DeleteNode(testNode)
	second := c.Publish()
	if got := dump(second); strings.Contains(got, "shop/web") || strings.Contains(got, "node2") {
		t.Errorf("what was deleted is still there:\n%s", got)
	}
	c.SetPod(testPod)
	c.SetNode(testNode)
	for name, tables := range map[string]*vswitch.Tables{"the first": first, "the last": c.Publish()} {
		if got := dump(tables); words(got) != words(golden) {
			t.Errorf("%s tables are\n%s\nwant%s", name, got, golden)
		}
	}
}

// TestCompileRangesOnceMore: a node that learns its ranges late takes nothing
// from those that it knows already.
func TestCompileRangesOnceMore(t *testing.T) {
	c := compiled()
	c.SetSelf(testSelf)
	if got := dump(c.Publish()); words(got) != words(golden) {
		t.Errorf("got\n%s\nwant%s", got, golden)
	}
}

// TestCompileMove: a pod address that moved to another port is not taken away
// by the late deletion of the pod that had it before.
func TestCompileMove(t *testing.T) {
	c := compiled()
	moved := testPod
	moved.Port, moved.Name = 3, "shop/web-new"
	c.SetPod(moved)
	c.DeletePod(testPod)
	if got := dump(c.Publish()); !strings.Contains(words(got), "10.244.1.2/32 pod shop/web-new port 3") {
		t.Errorf("got\n%s", got)
	}
}

// TestCompileDirect: in mode direct the node's addresses are its host's, behind
// the uplink.
func TestCompileDirect(t *testing.T) {
	c := new(Compiler)
	c.SetOverlay(1, vswitch.PortUplink, 1500)
	s := testSelf
	s.Uplink, s.UplinkMTU = 1, 1500
	s.Addresses = append(addrs("10.244.1.0"), s.Addresses...) // the host may have the node's address of the range
	c.SetSelf(testSelf)
	c.SetSelf(s) // and nothing is left of what was
	c.SetNode(testNode)
	const want = `
port 1               uplink       00:00:00:00:00:00  mtu 1500  []
peer 1               node2        02:00:00:00:00:02
10.244.1.0/24        unreachable  node1  port 0  peer 0
10.244.1.0/32        host         node1  port 1  peer 0
10.244.1.1/32        local        node1  port 0  peer 0
10.244.2.0/24        peer         node2  port 1  peer 1
172.29.0.1/32        host         node1  port 1  peer 0
172.29.0.2/32        peer         node2  port 1  peer 1
fd00:10:244:1::/64   unreachable  node1  port 0  peer 0
fd00:10:244:1::/128  local        node1  port 0  peer 0
fd00:10:244:1::1/128 local        node1  port 0  peer 0
cluster              10.96.0.0/16
cluster              10.244.0.0/16
`
	if got := dump(c.Publish()); words(got) != words(want) {
		t.Errorf("got\n%s\nwant%s", got, want)
	}
}

// TestCompileOwn: the node port has the node's addresses, while it is there.
func TestCompileOwn(t *testing.T) {
	c := compiled()
	own := OwnPort{Port: 3, Node: "node1", MAC: [6]byte{0x0a, 0x58, 172, 29, 0, 1}, Addresses: testSelf.Addresses, MTU: 1450}
	s := testSelf
	s.Uplink, s.UplinkMTU, s.UplinkMAC = own.Port, own.MTU, own.MAC
	c.SetOwn(own)
	c.SetSelf(s)
	got := words(dump(c.Publish()))
	for _, want := range []string{"port 3 node1 0a:58:ac:1d:00:01 mtu 1450 [172.29.0.1]", "172.29.0.1/32 host node1 port 3 peer 0",
		"10.244.1.1/32 local node1 port 0 peer 0"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	c.DeleteOwn(own)
	c.SetSelf(testSelf)
	if got := dump(c.Publish()); words(got) != words(golden) {
		t.Errorf("got\n%s\nwant%s", got, golden)
	}
}

// TestCompileOutside: the outside is behind its port, while it is there.
func TestCompileOutside(t *testing.T) {
	c := compiled()
	out := OutsidePort{Port: 3, MAC: outsideMAC, Prefixes: prefixes("203.0.113.0/24"), MTU: 1450}
	c.SetOutside(out)
	c.SetSelf(testSelf)
	if got := words(dump(c.Publish())); !strings.Contains(got, "203.0.113.0/24 outside outside port 3 peer 0") {
		t.Errorf("got\n%s", got)
	}
	c.DeleteOutside(out)
	if got := dump(c.Publish()); words(got) != words(golden) {
		t.Errorf("got\n%s\nwant%s", got, golden)
	}
}
