package lab

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"vswitch/vswitch/cluster"
)

// serialize builds an IP packet from the client to dst.
func serialize(t testing.TB, dst string, offset uint16, l4 gopacket.SerializableLayer, proto layers.IPProtocol) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true}
	var ip gopacket.SerializableLayer
	if a := netip.MustParseAddr(dst); a.Is4() {
		ip = &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: proto, FragOffset: offset, SrcIP: []byte{203, 0, 113, 10}, DstIP: a.AsSlice()}
	} else {
		ip = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: netip.MustParseAddr("2001:db8:113::10").AsSlice(), DstIP: a.AsSlice()}
	}
	if err := gopacket.SerializeLayers(buf, opts, ip, l4, gopacket.Payload("data")); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// TestFlowOf: what is read of a packet is what was written into it.
func TestFlowOf(t *testing.T) {
	udp := &layers.UDP{SrcPort: 1000, DstPort: 80}
	tcp := func(syn, ack bool) *layers.TCP {
		return &layers.TCP{SrcPort: 1000, DstPort: 80, SYN: syn, ACK: ack, DataOffset: 5}
	}
	sctp := func(chunk layers.SCTPChunkType) gopacket.SerializableLayer {
		return gopacket.Payload{1000 >> 8, 1000 & 0xff, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, byte(chunk), 0, 0, 4}
	}
	for _, dst := range []string{"192.0.2.1", "2001:db8::1"} {
		src := "203.0.113.10"
		if dst == "2001:db8::1" {
			src = "2001:db8:113::10"
		}
		want := flow{src: netip.MustParseAddr(src), dst: netip.MustParseAddr(dst), srcPort: 1000, dstPort: 80}
		for _, c := range []struct {
			l4     gopacket.SerializableLayer
			proto  layers.IPProtocol
			begins bool
		}{
			{udp, layers.IPProtocolUDP, false}, {tcp(true, false), layers.IPProtocolTCP, true},
			{tcp(true, true), layers.IPProtocolTCP, false}, {tcp(false, true), layers.IPProtocolTCP, false},
			{sctp(layers.SCTPChunkTypeInit), layers.IPProtocolSCTP, true}, {sctp(layers.SCTPChunkTypeInitAck), layers.IPProtocolSCTP, false},
		} {
			want.proto = uint8(c.proto)
			if f, begins, ok := flowOf(serialize(t, dst, 0, c.l4, c.proto)); f != want || begins != c.begins || !ok {
				t.Errorf("%+v begins %v, %v; want %+v, %v", f, begins, ok, want, c.begins)
			}
		}
	}
	// Fragments of one datagram go one way.
	f, _, _ := flowOf(serialize(t, "192.0.2.1", 100, udp, layers.IPProtocolUDP))
	if f.srcPort != 0 || f.dstPort != 0 {
		t.Errorf("a later fragment has ports: %+v", f)
	}
	for _, bad := range [][]byte{nil, {0x45}, make([]byte, 60)} {
		if f, _, ok := flowOf(bad); ok {
			t.Errorf("%x is of %+v", bad, f)
		}
	}
}

// FuzzFlowOf: no bytes of a client end the router.
func FuzzFlowOf(f *testing.F) {
	udp := &layers.UDP{SrcPort: 1000, DstPort: 80}
	f.Add(serialize(f, "192.0.2.1", 0, udp, layers.IPProtocolUDP))
	f.Add(serialize(f, "2001:db8::1", 0, udp, layers.IPProtocolUDP))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, _, ok := flowOf(b); ok && (!got.dst.IsValid() || got.src.Is4() != got.dst.Is4()) {
			t.Errorf("%x is of %+v", b, got)
		}
	})
}

// TestFronts: load balancers' addresses have the checks of services of policy
// Local; what a balancer's proxy answers is none of ours.
func TestFronts(t *testing.T) {
	store := cluster.NewStore()
	at := func(s string) []cluster.LBIngress { return []cluster.LBIngress{{IP: netip.MustParseAddr(s)}} }
	ports := []cluster.ServicePort{{Protocol: protoTCP, Port: 80}, {Protocol: protoUDP, Port: 53}}
	if err := store.Update(cluster.Desired, func(tx *cluster.Txn) error {
		meta := func(name string) cluster.Meta { return cluster.Meta{Namespace: "x", Name: name} }
		tx.Put(&cluster.Service{Meta: meta("local"), Ports: ports, Ingress: at("172.30.0.1"), ExternalLocal: true, HealthCheckPort: 30500})
		outer := func(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }
		tx.Put(&cluster.Service{Meta: meta("sticky"), Ports: ports, Ingress: at("172.30.0.4"), ExternalLocal: true, HealthCheckPort: 30503,
			Affinity: time.Hour, ExternalIPs: outer("198.51.100.1")})
		tx.Put(&cluster.Service{Meta: meta("external"), Ports: ports, ExternalIPs: outer("198.51.100.2")})
		tx.Put(&cluster.Service{Meta: meta("cluster"), Ports: ports, Ingress: at("172.30.0.2"), HealthCheckPort: 30501})
		tx.Put(&cluster.Service{Meta: meta("proxy"), Ports: ports, ExternalLocal: true, HealthCheckPort: 30502,
			Ingress: []cluster.LBIngress{{IP: netip.MustParseAddr("172.30.0.3"), Proxy: true}, {Hostname: "lb.example"}}})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	b := newBalancer()
	var checks []uint16
	b.fronts, checks = frontsOf(store.State())
	if slices.Sort(checks); !slices.Equal(checks, []uint16{30500, 30503}) {
		t.Errorf("asks at %v", checks)
	}
	for _, c := range []struct {
		dst   string
		proto uint8
		port  uint16
		want  uint16
	}{
		{"172.30.0.1", protoTCP, 80, 30500}, {"172.30.0.1", protoUDP, 53, 30500}, {"172.30.0.1", protoUDP, 0, 30500},
		{"172.30.0.1", protoTCP, 81, 0}, {"172.30.0.1", 1, 0, 0}, {"172.30.0.2", protoTCP, 80, 0}, {"172.30.0.3", protoTCP, 80, 0},
	} {
		if got := b.front(&flow{dst: netip.MustParseAddr(c.dst), proto: c.proto, dstPort: c.port}); got.check != c.want || got.sticky {
			t.Errorf("%v is at %+v", c, got)
		}
	}
	for dst, want := range map[string]front{
		"172.30.0.4": {protoTCP, true, 80, 30503}, "198.51.100.1": {protoTCP, true, 80, 0}, "198.51.100.2": {protoTCP, false, 80, 0},
	} {
		if got := b.front(&flow{dst: netip.MustParseAddr(dst), proto: protoTCP, dstPort: 80}); got != want {
			t.Errorf("%s is at %+v, want %+v", dst, got, want)
		}
	}
}

// TestBalancer: who gets a flow's packets as nodes come, fail and go.
func TestBalancer(t *testing.T) {
	lb := netip.MustParseAddr("172.30.0.1")
	nodes := []string{"node1", "node2", "node3"}
	now := time.Unix(1e9, 0)
	b := newBalancer()
	b.fronts = map[netip.Addr][]front{lb: {{protoTCP, false, 80, 30500}, {protoUDP, false, 80, 30500}, {protoTCP, false, 81, 0}, {protoTCP, true, 82, 30500}, {protoUDP, true, 82, 30500}}}
	pass := func(names ...string) {
		b.passing = map[uint16]map[string]bool{30500: {}}
		for _, n := range names {
			b.passing[30500][n] = true
		}
	}
	tcp := func(i int) flow { return flow{dst: lb, proto: protoTCP, dstPort: 80, srcPort: uint16(i)} }
	udp := func(i int) flow { return flow{dst: lb, proto: protoUDP, dstPort: 80, srcPort: uint16(i)} }
	shares := func(f func(int) flow, begins bool, ready []string) map[string]int {
		n := map[string]int{}
		for i := range 3000 {
			n[b.choose(f(i), begins, ready, now)]++
		}
		return n
	}

	// All nodes without a check, in about equal parts; those that pass with one.
	free := shares(func(i int) flow { return flow{dst: lb, proto: protoTCP, dstPort: 81, srcPort: uint16(i)} }, true, nodes)
	for _, n := range nodes {
		if free[n] < 800 || free[n] > 1200 {
			t.Errorf("without a check, nodes get %v", free)
		}
	}
	pass("node1", "node3")
	first := map[int]string{}
	for i := range 3000 {
		first[i] = b.choose(tcp(i), true, nodes, now)
		b.choose(udp(i), false, nodes, now)
	}
	if got := shares(tcp, false, nodes); got["node2"] != 0 || got["node1"] < 1300 || got["node3"] < 1300 {
		t.Errorf("with a check that node1 and node3 pass, nodes get %v", got)
	}

	// With session affinity, a client has one node, of those that pass.
	clients := map[string]int{}
	for i := range 300 {
		client := netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})
		its := map[string]bool{}
		for port := range uint16(10) {
			for _, proto := range []uint8{protoTCP, protoUDP} {
				its[b.choose(flow{src: client, dst: lb, proto: proto, srcPort: 1000 + port, dstPort: 82}, true, nodes, now)] = true
			}
		}
		for n := range its {
			clients[n]++
		}
		if len(its) != 1 {
			t.Fatalf("client %s has %v", client, its)
		}
	}
	if clients["node2"] != 0 || clients["node1"] < 90 || clients["node3"] < 90 {
		t.Errorf("clients have %v", clients)
	}

	// One more node takes no flow from another.
	pass(nodes...)
	for i := range 3000 {
		if got := b.choose(tcp(i), false, nodes, now); got != first[i] {
			t.Fatalf("a flow moves from %s to %s, which came later", first[i], got)
		}
	}
	// What has begun drains at a node that no longer passes; datagrams and what
	// begins go elsewhere.
	pass("node2", "node3")
	for i := range 3000 {
		if got := b.choose(tcp(i), false, nodes, now); got != first[i] {
			t.Fatalf("a connection moves from %s to %s", first[i], got)
		}
	}
	if got := shares(udp, false, nodes); got["node1"] != 0 {
		t.Errorf("datagrams go to %v", got)
	}
	if got := shares(tcp, true, nodes); got["node1"] != 0 || got["node2"] == 0 || got["node3"] == 0 {
		t.Errorf("new connections go to %v", got)
	}
	// A node that is not ready gets nothing.
	if got := shares(tcp, false, nodes[:2]); got["node2"] != 3000 {
		t.Errorf("with node3 gone: %v", got)
	}
	// If none passes, all may answer; without any, nobody does.
	pass()
	others := func(i int) flow { f := udp(i); f.src = lb; return f }
	if got := shares(others, false, nodes); len(got) != 3 {
		t.Errorf("if none passes: %v", got)
	}
	if got := b.choose(udp(1), false, nil, now); got != "" {
		t.Errorf("without nodes: %q", got)
	}
}

// TestBalancerIsBounded: flows are forgotten when idle, and never too many.
func TestBalancerIsBounded(t *testing.T) {
	b, now := newBalancer(), time.Unix(1e9, 0)
	nodes := []string{"node1", "node2"}
	add := func(n int) {
		for i := range n {
			f := flow{src: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), proto: protoTCP}
			if one, again := b.choose(f, true, nodes, now), b.choose(f, false, nodes, now); one != again {
				t.Fatalf("flow %d goes to %s and %s", i, one, again)
			}
		}
	}
	add(maxFlows + 1000)
	if len(b.flows) != maxFlows {
		t.Errorf("%d flows are known, want %d", len(b.flows), maxFlows)
	}
	now = now.Add(flowIdle)
	b.choose(flow{srcPort: 1}, true, nodes, now)
	if len(b.flows) != 1 {
		t.Errorf("%d flows are known after all were idle, want 1", len(b.flows))
	}
}
