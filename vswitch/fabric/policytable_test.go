package fabric

import (
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"vswitch/policy/policytest"
	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
	"vswitch/vswitch/kube"
	"vswitch/vswitch/packet"
)

// TestPolicyTables sends the first packet of a flow for every cell of the truth
// tables whose ends are both pods, and looks whether it comes out of the receiver's
// port. The rows and columns of nodes and addresses are asked about with traces.
func TestPolicyTables(t *testing.T) {
	sent := 0
	for _, table := range policytest.Read(t, "../../policy/testdata") {
		t.Run(table.Name, func(t *testing.T) {
			g := newGround(t, &table)
			for _, m := range table.Matrices {
				for i, from := range m.From {
					for j, to := range m.To {
						if got := g.reaches(m, from, to); got != m.Allowed[i][j] {
							t.Errorf("%s from %s to %s: allowed %v, want %v", m.Name, from, to, got, m.Allowed[i][j])
						}
					}
				}
			}
			sent += int(g.sent)
		})
	}
	if sent < 100 {
		t.Errorf("only %d packets were sent", sent)
	}
}

// ground is the cluster of a table, in memory.
type ground struct {
	*testing.T
	f     *Fabric
	state *cluster.State
	batch *packet.Batch
	sent  uint16 // packets; each is of a flow of its own
}

func newGround(t *testing.T, table *policytest.Table) *ground {
	t.Helper()
	o, _, err := kube.Parse(table.File, table.Manifests)
	if err != nil {
		t.Fatal(err)
	}
	if table.Invalid != nil {
		_, _, err := kube.Parse(table.File, table.Invalid)
		in := kube.StandIns(err)
		o.NetworkPolicies = append(o.NetworkPolicies, in.NetworkPolicies...)
		o.ClusterNetworkPolicies = append(o.ClusterNetworkPolicies, in.ClusterNetworkPolicies...)
	}
	state, err := control.Static(control.Default(), o)
	if err != nil {
		t.Fatal(err)
	}
	f, err := FromState(state, Config{Inline: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	f.RecordOnFailure(t)
	return &ground{T: t, f: f, state: state, batch: packet.NewBatch()}
}

// pod returns a pod that has a port, or nil.
func (g *ground) pod(name string) *Pod {
	for _, p := range g.f.Pods {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// addr returns the address that a table means by a name.
func (g *ground) addr(name string, ipv6 bool) netip.Addr {
	if a, err := netip.ParseAddr(name); err == nil {
		return a
	}
	var list []netip.Addr
	for n := range g.state.Nodes.All() {
		if "node/"+n.Name == name {
			list = n.Addresses
		}
	}
	for p := range g.state.Pods.All() {
		if p.Key().String() == name {
			list = p.IPs
		}
	}
	for _, a := range list {
		if a.Is6() || !ipv6 {
			return a
		}
	}
	g.Fatalf("%s has no address", name)
	return netip.Addr{}
}

// reaches sends a packet, or asks what would become of one.
func (g *ground) reaches(m policytest.Matrix, from, to string) bool {
	g.Helper()
	src, dst := g.addr(from, m.IPv6), g.addr(to, m.IPv6)
	a, b := g.pod(from), g.pod(to)
	if a == nil || b == nil {
		return g.traced(m, from, src, dst)
	}
	if a == b {
		return true // a pod's packets to itself do not leave it
	}
	g.sent++
	mac := a.Node.Switch.Tables().GatewayMAC
	if a.Node == b.Node && g.sent%2 == 0 { // bridged, or routed
		mac = b.MAC
	}
	frame := firstPacket(g.T, mac, a.MAC, src, dst, m.Proto, 20000+g.sent, m.Port)
	g.batch.Reset()
	g.batch.Append(frame)
	if n, err := a.End.Write(g.batch, []uint16{0}); n != 1 || err != nil {
		g.Fatalf("%s cannot send: %d, %v", from, n, err)
	}
	g.f.Settle()
	came := false
	for _, p := range g.f.Pods {
		g.batch.Reset()
		n, err := p.End.Read(g.batch, packet.BatchSize)
		if err != nil {
			g.Fatal(err)
		}
		for i := range n {
			q := &g.batch.Packets[i]
			g.batch.Parse(q)
			if p != b || q.Tuple.Src.Netip() != src || q.Tuple.Dst.Netip() != dst {
				g.Fatalf("%s got %s", p.Name, q.Tuple)
			}
			came = true
		}
	}
	return came
}

// traced walks from node to node, as package trace does.
func (g *ground) traced(m policytest.Matrix, from string, src, dst netip.Addr) bool {
	g.Helper()
	node, r := g.sender(from, src, dst)
	r.Proto, r.Source, r.Destination = m.Proto, netip.AddrPortFrom(src, 40000), netip.AddrPortFrom(dst, m.Port)
	for {
		res, err := g.f.Trace(g.Context(), node, r)
		if err != nil {
			g.Fatal(err)
		}
		if res.Reason != "" || res.NextNode == "" {
			return res.Reason != "policy-egress" && res.Reason != "policy-ingress"
		}
		r = agent.TraceRequest{Sender: agent.SenderPeer, Name: node, Frame: res.Frame}
		node = res.NextNode
	}
}

// sender is where somebody's packet enters the cluster: that of somebody outside
// at the receiver's node, as no other one would take it on.
func (g *ground) sender(name string, src, dst netip.Addr) (node string, r agent.TraceRequest) {
	for p := range g.state.Pods.All() {
		if p.Key().String() != name {
			continue
		}
		if p.HostNetwork {
			return p.Node, agent.TraceRequest{Sender: agent.SenderNode}
		}
		return p.Node, agent.TraceRequest{Sender: agent.SenderPod, Name: name}
	}
	for _, n := range g.f.Nodes {
		if "node/"+n.Name == name {
			return n.Name, agent.TraceRequest{Sender: agent.SenderNode}
		}
		if n.rangeOf(src).IsValid() {
			return n.Name, agent.TraceRequest{Sender: agent.SenderPod}
		}
	}
	for _, n := range g.f.Nodes {
		if n.rangeOf(dst).IsValid() {
			return n.Name, agent.TraceRequest{Sender: agent.SenderOutside}
		}
	}
	return g.f.Nodes[0].Name, agent.TraceRequest{Sender: agent.SenderOutside}
}

// firstPacket is the first packet of a flow.
func firstPacket(t testing.TB, to, from [6]byte, src, dst netip.Addr, proto uint8, srcPort, dstPort uint16) []byte {
	t.Helper()
	return transport(t, to, from, src, dst, proto, srcPort, dstPort, func(l *layers.TCP) { l.SYN = true })
}

// transport is a packet of a protocol; flags says what kind it is of TCP.
func transport(t testing.TB, to, from [6]byte, src, dst netip.Addr, proto uint8, srcPort, dstPort uint16, flags func(*layers.TCP)) []byte {
	t.Helper()
	eth := &layers.Ethernet{DstMAC: to[:], SrcMAC: from[:], EthernetType: layers.EthernetTypeIPv4}
	var ip gopacket.SerializableLayer
	var network gopacket.NetworkLayer
	if src.Is4() {
		l := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocol(proto), SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		ip, network = l, l
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		l := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocol(proto), SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		ip, network = l, l
	}
	var all []gopacket.SerializableLayer
	switch proto {
	case packet.ProtoTCP:
		l := &layers.TCP{SrcPort: layers.TCPPort(srcPort), DstPort: layers.TCPPort(dstPort), Window: 1000}
		flags(l)
		_ = l.SetNetworkLayerForChecksum(network) // fails for no IP layer only
		if all = append(all, l); !l.SYN {
			all = append(all, gopacket.Payload("policy"))
		}
	case packet.ProtoUDP:
		l := &layers.UDP{SrcPort: layers.UDPPort(srcPort), DstPort: layers.UDPPort(dstPort)}
		_ = l.SetNetworkLayerForChecksum(network)
		all = append(all, l, gopacket.Payload("policy"))
	case packet.ProtoSCTP:
		all = append(all, &layers.SCTP{SrcPort: layers.SCTPPort(srcPort), DstPort: layers.SCTPPort(dstPort)},
			&layers.SCTPInit{SCTPChunk: layers.SCTPChunk{Type: layers.SCTPChunkTypeInit}, InitiateTag: 1, OutboundStreams: 1, InboundStreams: 1})
	case packet.ProtoICMP:
		if src.Is4() {
			all = append(all, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: srcPort})
			break
		}
		fallthrough
	default:
		ip.(*layers.IPv6).NextHeader = layers.IPProtocolICMPv6
		l := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoRequest, 0)}
		_ = l.SetNetworkLayerForChecksum(network)
		all = append(all, l, &layers.ICMPv6Echo{Identifier: srcPort})
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		append([]gopacket.SerializableLayer{eth, ip}, all...)...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
