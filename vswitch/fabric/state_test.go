package fabric

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// testState has two nodes in full use, one that is not ready, and pods of all
// conditions.
func testState() *cluster.State {
	addrs := func(s string) (as []netip.Addr) {
		for f := range strings.FieldsSeq(s) {
			as = append(as, netip.MustParseAddr(f))
		}
		return as
	}
	node := func(name, addresses, extra, ranges string) *cluster.Node {
		n := &cluster.Node{Meta: cluster.Meta{Name: name}, Addresses: addrs(addresses), ExtraAddresses: addrs(extra), Ready: name != "sick"}
		for f := range strings.FieldsSeq(ranges) {
			n.PodCIDRs = append(n.PodCIDRs, netip.MustParsePrefix(f))
		}
		return n
	}
	pod := func(name, node, ips string, change ...func(*cluster.Pod)) *cluster.Pod {
		p := &cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: name}, Node: node, IPs: addrs(ips), Phase: cluster.PodRunning, Ready: true}
		for _, f := range change {
			f(p)
		}
		return p
	}
	o := cluster.Objects{
		Nodes: []*cluster.Node{
			node("n1", "172.29.0.1 fd00:10:29::1", "192.168.7.1", "10.244.1.0/24 fd00:10:244:1::/64"),
			node("n2", "172.29.0.2", "", "10.244.2.0/24 fd00:10:244:2::/64"),
			node("sick", "172.29.0.3", "", "10.244.3.0/24"),
			node("bare", "172.29.0.4", "", ""),
		},
		Pods: []*cluster.Pod{
			pod("a", "n1", "10.244.1.2 fd00:10:244:1::2"),
			pod("b", "n1", "10.244.1.4 fd00:10:244:1::4"),
			pod("c", "n2", "10.244.2.2 fd00:10:244:2::2"),
			pod("unready", "sick", "10.244.3.2", func(p *cluster.Pod) { p.Ready = false }),
			pod("stray", "n2", "192.168.1.77 fd00:77::1"),
			pod("guest", "n2", "10.244.1.3"), // in the range of another node
			pod("lonely", "bare", "10.244.9.9"),
			pod("pending", "", ""),
			pod("starting", "n1", ""),
			pod("lost", "n9", "10.244.9.10"),
			pod("ended", "n1", "10.244.1.5", func(p *cluster.Pod) { p.Phase = cluster.PodSucceeded }),
			pod("host", "n1", "172.29.0.1", func(p *cluster.Pod) { p.HostNetwork = true }),
		},
	}
	return o.State()
}

func fromState(t *testing.T) *Fabric {
	t.Helper()
	f, err := FromState(testState(), Config{Inline: true, Services: agent.ServiceConfig{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	f.RecordOnFailure(t)
	return f
}

// TestFromStatePods: who has a port, and with which network.
func TestFromStatePods(t *testing.T) {
	f := fromState(t)
	var names []string
	for _, p := range f.Pods {
		names = append(names, p.Node.Name+" "+strings.TrimPrefix(p.Name, "x/"))
	}
	if want := []string{"bare lonely", "n1 a", "n1 b", "n2 c", "n2 guest", "n2 stray", "sick unready"}; !slices.Equal(names, want) {
		t.Errorf("pods are %q, want %q", names, want)
	}
	a := f.Pods[1]
	if want := []netip.Prefix{netip.MustParsePrefix("10.244.1.2/24"), netip.MustParsePrefix("fd00:10:244:1::2/64")}; !slices.Equal(a.IPs, want) {
		t.Errorf("x/a has %v, want %v", a.IPs, want)
	}
	if want := []netip.Addr{netip.MustParseAddr("10.244.1.1"), netip.MustParseAddr("fd00:10:244:1::1")}; !slices.Equal(a.Gateways, want) {
		t.Errorf("x/a has gateways %v, want %v", a.Gateways, want)
	}
	if a.MAC != agent.MACOf(netip.MustParseAddr("10.244.1.2")) {
		t.Errorf("x/a has MAC %x", a.MAC)
	}
	// What is planned later is nobody's yet, on whatever node.
	if p := f.Node("n1").Plan("x/new"); p.IPs[0].Addr() != netip.MustParseAddr("10.244.1.5") || p.IPs[1].Addr() != netip.MustParseAddr("fd00:10:244:1::3") {
		t.Errorf("a new pod gets %v", p.IPs)
	}
}

// TestFromStateReach sends a datagram from every pod to every address, and
// wants it to arrive where Trace says, and nowhere else.
func TestFromStateReach(t *testing.T) {
	f := fromState(t)
	const nobody, node = "", "the node"
	want := map[string]string{
		"10.244.1.2": "x/a", "fd00:10:244:1::2": "x/a", "10.244.1.4": "x/b", "10.244.2.2": "x/c", "fd00:10:244:2::2": "x/c",
		"10.244.3.2": "x/unready", "192.168.1.77": "x/stray", "fd00:77::1": "x/stray", "10.244.1.3": "x/guest", "10.244.9.9": "x/lonely",
		"10.244.1.5": nobody, "10.244.9.10": nobody, "10.244.2.99": nobody, "10.96.0.10": nobody, "192.0.2.1": nobody, "2001:db8::1": nobody,
		"172.29.0.1": node, "172.29.0.4": node, "192.168.7.1": node, "10.244.2.1": node, "fd00:10:29::1": node,
	}
	for _, from := range f.Pods {
		for to, owner := range want {
			dst := netip.MustParseAddr(to)
			i := slices.IndexFunc(from.IPs, func(p netip.Prefix) bool { return p.Addr().Is4() == dst.Is4() })
			if i < 0 {
				continue
			}
			src := from.IPs[i].Addr()
			got, reason := walk(t, f, from.Node.Name, agent.TraceRequest{
				Sender: agent.SenderPod, Name: from.Name, Proto: packet.ProtoUDP,
				Source: netip.AddrPortFrom(src, 1000), Destination: netip.AddrPortFrom(dst, 2000),
			})
			if got != owner || owner == nobody && reason != "no-route" && reason != "unallocated-service-address" {
				t.Errorf("%s to %s: the trace ends at %q (%s), want %q", from.Name, to, got, reason, owner)
			}
			if arrived := send(t, f, from, src, dst); owner != node && arrived != owner {
				t.Errorf("%s to %s: arrives at %q, want %q", from.Name, to, arrived, owner)
			}
		}
	}
}

// walk follows a packet from node to node.
func walk(t *testing.T, f *Fabric, node string, r agent.TraceRequest) (end, reason string) {
	t.Helper()
	for range 4 {
		res, err := f.Trace(t.Context(), node, r)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case res.Reason != "":
			return "", res.Reason
		case res.NextNode == "" && res.Pod == "":
			return "the node", ""
		case res.NextNode == "":
			return res.Pod, ""
		}
		r = agent.TraceRequest{Sender: agent.SenderPeer, Name: node, Frame: res.Frame}
		node = res.NextNode
	}
	t.Fatal("a packet goes round in circles")
	return "", ""
}

// send sends a datagram as a pod, and returns the pod that it arrives at.
func send(t *testing.T, f *Fabric, from *Pod, src, dst netip.Addr) (arrived string) {
	t.Helper()
	payload := []byte(from.Name + " to " + dst.String())
	b := packet.NewBatch()
	b.Append(datagram(t, f, from, src, dst, payload))
	if n, err := from.End.Write(b, []uint16{0}); n != 1 || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
	f.Settle()
	for _, p := range f.Pods {
		b.Reset()
		if _, err := p.End.Read(b, packet.BatchSize); err != nil {
			t.Fatal(err)
		}
		for i := range b.Packets {
			frame := b.Frame(&b.Packets[i])
			if p == from && icmp(frame) {
				continue // the answer that nobody is there, or does not listen
			}
			if arrived != "" || !bytes.HasSuffix(frame, payload) || [6]byte(frame) != p.MAC {
				t.Errorf("%s got %x", p.Name, frame)
			}
			arrived = p.Name
		}
	}
	return arrived
}

// icmp reports whether a frame is ICMP of either family.
func icmp(frame []byte) bool {
	ip := frame[packet.EthernetLen:]
	return ip[0]>>4 == 4 && ip[9] == packet.ProtoICMP || ip[0]>>4 == 6 && ip[6] == packet.ProtoICMPv6
}

func datagram(t *testing.T, f *Fabric, from *Pod, src, dst netip.Addr, payload []byte) []byte {
	t.Helper()
	to := from.Node.Switch.Tables().GatewayMAC
	for _, p := range f.Pods {
		if p.Node == from.Node && slices.ContainsFunc(from.IPs, func(r netip.Prefix) bool { return !r.IsSingleIP() && r.Contains(dst) }) &&
			slices.ContainsFunc(p.IPs, func(r netip.Prefix) bool { return r.Addr() == dst }) {
			to = p.MAC // a neighbor
		}
	}
	eth := &layers.Ethernet{SrcMAC: from.MAC[:], DstMAC: to[:], EthernetType: layers.EthernetTypeIPv4}
	udp := &layers.UDP{SrcPort: 1000, DstPort: 2000}
	var ip gopacket.SerializableLayer
	var nl gopacket.NetworkLayer
	if src.Is4() {
		h := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IP(src.AsSlice()), DstIP: net.IP(dst.AsSlice())}
		ip, nl = h, h
	} else {
		h := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: net.IP(src.AsSlice()), DstIP: net.IP(dst.AsSlice())}
		ip, nl, eth.EthernetType = h, h, layers.EthernetTypeIPv6
	}
	if err := udp.SetNetworkLayerForChecksum(nl); err != nil {
		t.Fatal(err)
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, udp, gopacket.Payload(payload)); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
