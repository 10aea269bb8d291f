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
