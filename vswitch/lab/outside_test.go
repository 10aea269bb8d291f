package lab

import (
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// TestDestination: packets of a flow have one hash, and others another one.
func TestDestination(t *testing.T) {
	build := func(dst string, port uint16, offset uint16) []byte {
		buf := gopacket.NewSerializeBuffer()
		udp := &layers.UDP{SrcPort: 1000, DstPort: layers.UDPPort(port)}
		var err error
		if a := netip.MustParseAddr(dst); a.Is4() {
			ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolUDP, FragOffset: offset, SrcIP: []byte{203, 0, 113, 10}, DstIP: a.AsSlice()}
			err = gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true}, ip, udp, gopacket.Payload("data"))
		} else {
			ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: netip.MustParseAddr("2001:db8:113::10").AsSlice(), DstIP: a.AsSlice()}
			err = gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true}, ip, udp, gopacket.Payload("data"))
		}
		if err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	for _, dst := range []string{"192.0.2.1", "2001:db8::1"} {
		to, hash, ok := destination(build(dst, 80, 0))
		if !ok || to.String() != dst {
			t.Errorf("%s: goes to %s, %v", dst, to, ok)
		}
		if _, again, _ := destination(build(dst, 80, 0)); again != hash {
			t.Errorf("%s: the same packet has another hash", dst)
		}
		if _, other, _ := destination(build(dst, 81, 0)); other == hash {
			t.Errorf("%s: another flow has the same hash", dst)
		}
	}
	_, one, _ := destination(build("192.0.2.1", 80, 100))
	if _, other, _ := destination(build("192.0.2.1", 81, 200)); one != other {
		t.Error("fragments go different ways")
	}
	for _, bad := range [][]byte{nil, {0x45}, make([]byte, 60)} {
		if to, _, ok := destination(bad); ok {
			t.Errorf("%x goes to %s", bad, to)
		}
	}
}

// TestDestinationSpread: connections of one client, whose ports Linux lets grow
// by twos, are spread over the nodes, and not in long runs.
func TestDestinationSpread(t *testing.T) {
	packet := make([]byte, 24)
	packet[0], packet[9] = 0x45, 6
	copy(packet[12:], []byte{203, 0, 113, 10, 172, 30, 0, 1})
	packet[23] = 80
	for nodes := uint32(2); nodes <= 4; nodes++ {
		got := make([]int, nodes)
		run, last, longest := 0, uint32(0), 0
		const n = 400
		for i := range n {
			port := 33000 + 2*i
			packet[20], packet[21] = byte(port>>8), byte(port)
			_, hash, ok := destination(packet)
			if !ok {
				t.Fatal("not a packet")
			}
			to := hash % nodes
			if got[to]++; to != last {
				run = 0
			}
			run, last = run+1, to
			longest = max(longest, run)
		}
		for i, count := range got {
			if fair := n / int(nodes); count < fair*3/4 || count > fair*5/4 {
				t.Errorf("of %d connections, node %d of %d got %d", n, i, nodes, count)
			}
		}
		if longest > 20 {
			t.Errorf("%d connections in a row went to the same one of %d nodes", longest, nodes)
		}
	}
}
