package vswitch

import (
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"vswitch/vswitch/fib"
)

var macNode = [6]byte{0x0a, 0x58, 172, 29, 0, 1}

// newNodeRig is newEdgeRig whose node has a device of its own.
func newNodeRig(t *testing.T) *rig {
	t.Helper()
	r := newEdgeRig(t)
	id := r.ids["node"]
	info := *r.tables.Ports[id]
	info.Name, info.MAC = "node1", macNode
	host := &fib.Hop{Kind: fib.Host, Port: id, MTU: 1450, MAC: macNode, Name: "node1"}
	for _, a := range []string{node4, node6} {
		info.Addrs = append(info.Addrs, addr(a))
		ip := netip.MustParseAddr(a)
		r.tables.Routes = r.tables.Routes.Insert(netip.PrefixFrom(ip, ip.BitLen()), host)
	}
	r.tables.Ports[id] = &info
	out := &fib.Hop{Kind: fib.Outside, Port: r.ids["outside"], MTU: 1450, MAC: macPeer, Name: "outside"}
	r.tables.Routes = r.tables.Routes.Insert(netip.MustParsePrefix("203.0.113.0/24"), out)
	r.publish()
	return r
}

// TestNodePort: the node is reached at its port from everywhere, and speaks as
// itself only.
func TestNodePort(t *testing.T) {
	for _, c := range []struct {
		name, from string
		dst, src   [6]byte
		ips        [2]string
		out        string
		reason     Reason
	}{
		{"a pod to the node", "a", macGW, macA, [2]string{podA, node4}, "node", 0},
		{"a pod to the node, IPv6", "a", macGW, macA, [2]string{podA6, node6}, "node", 0},
		{"a pod to the node's MAC", "a", macNode, macA, [2]string{podA, node4}, "", UnknownMAC},
		{"a pod as the node", "a", macGW, macA, [2]string{node4, podB}, "", Spoofed},
		{"a peer's pod to the node", "overlay", macVTEP, macPeer, [2]string{remote, node4}, "node", 0},
		{"a peer to the node", "overlay", macVTEP, macPeer, [2]string{farNode, node4}, "node", 0},
		{"a peer as the node", "overlay", macVTEP, macPeer, [2]string{node4, podA}, "", Spoofed},
		{"the node to a pod", "node", macGW, macNode, [2]string{node4, podA}, "a", 0},
		{"the node to a peer", "node", macGW, macNode, [2]string{node6, remote6}, "overlay", 0},
		{"the node as its gateway", "node", macGW, macNode, [2]string{gw4, podA}, "", Spoofed},
		{"the node as a pod", "node", macGW, macNode, [2]string{podA, podB}, "", Spoofed},
		{"the node as a peer", "node", macGW, macNode, [2]string{farNode, podB}, "", Spoofed},
		{"the node as a client", "node", macGW, macNode, [2]string{client4, podB}, "", Spoofed},
		{"the node with another MAC", "node", macGW, macPeer, [2]string{node4, podA}, "", Spoofed},
		{"the node to itself", "node", macGW, macNode, [2]string{node4, node4}, "node", 0},
		{"the node to itself, IPv6", "node", macGW, macNode, [2]string{node6, node6}, "node", 0},
		{"a client to the node", "outside", macGW, macPeer, [2]string{client4, node4}, "node", 0},
		{"a client to a pod", "outside", macGW, macPeer, [2]string{client4, podA}, "a", 0},
		{"the node to a client", "node", macGW, macNode, [2]string{node4, client4}, "outside", 0},
		{"a pod to a client", "a", macGW, macA, [2]string{podA, client4}, "outside", 0},
		{"a pod as a client", "a", macGW, macA, [2]string{client4, podB}, "", Spoofed},
		{"a peer as a client", "overlay", macVTEP, macPeer, [2]string{client4, podA}, "", Spoofed},
		{"a client to a client", "outside", macGW, macPeer, [2]string{client4, "203.0.113.8"}, "", NoRoute},
		{"a client as a peer", "outside", macGW, macPeer, [2]string{farNode, podA}, "", Spoofed},
		{"a client as the node", "outside", macGW, macPeer, [2]string{node6, podB6}, "", Spoofed},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newNodeRig(t)
			for range 2 { // decided, and known
				r.send(c.from, build(t, c.dst, c.src, c.ips[0], c.ips[1], udp(), 10))
				if c.reason != 0 {
					r.dropped(c.from, c.reason)
					return
				}
				frame := r.only(c.out).frame
				if dst := [6]byte(frame); c.out == "node" && dst != macNode {
					t.Errorf("it is sent to %x, want the node's MAC", dst)
				}
			}
		})
	}
}

// TestNodePortAsks: the node finds its gateway by ARP and ND, as itself only.
func TestNodePortAsks(t *testing.T) {
	arp := func(mac [6]byte, ip string) []byte {
		return frame(t, &layers.Ethernet{SrcMAC: mac[:], DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP},
			&layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: 1,
				SourceHwAddress: mac[:], SourceProtAddress: netip.MustParseAddr(ip).AsSlice(),
				DstHwAddress: make([]byte, 6), DstProtAddress: netip.MustParseAddr(gw4).AsSlice()})
	}
	solicit := func(mac [6]byte, ip string) []byte {
		net := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6,
			SrcIP: netip.MustParseAddr(ip).AsSlice(), DstIP: netip.MustParseAddr(gw6).AsSlice()}
		icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)}
		icmp.SetNetworkLayerForChecksum(net)
		return frame(t, &layers.Ethernet{SrcMAC: mac[:], DstMAC: macGW[:], EthernetType: layers.EthernetTypeIPv6}, net, icmp,
			&layers.ICMPv6NeighborSolicitation{TargetAddress: netip.MustParseAddr(gw6).AsSlice()})
	}
	for _, c := range []struct {
		name   string
		frame  []byte
		reason Reason
	}{
		{"arp", arp(macNode, node4), 0},
		{"arp as another", arp(macNode, podA), Spoofed},
		{"arp with another MAC", arp(macA, node4), Spoofed},
		{"nd", solicit(macNode, node6), 0},
		{"nd as another", solicit(macNode, podA6), Spoofed},
		{"nd with another MAC", solicit(macA, node6), Spoofed},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newNodeRig(t)
			r.send("node", c.frame)
			if c.reason != 0 {
				r.dropped("node", c.reason)
				return
			}
			p := decode(t, r.only("node").frame)
			if a, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok && [6]byte(a.SourceHwAddress) == macGW {
				return
			}
			if a, ok := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement); ok && len(a.Options) == 1 && [6]byte(a.Options[0].Data) == macGW {
				return
			}
			t.Errorf("the answer is %v", p)
		})
	}
}

// frame builds a frame of layers, with lengths and checksums.
func frame(t *testing.T, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
