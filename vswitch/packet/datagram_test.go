package packet

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/gopacket/layers"
)

// TestDatagram compares with frames and fragments that gopacket builds.
func TestDatagram(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, mtu := range []int{68, 576, 1280, 1450, 1499, 9000, 65535} {
			for _, n := range []int{0, 1, 8, 1400, 1412, 1422, 1423, 1432, 20000, 65507} {
				t.Run(fmt.Sprintf("v6=%v/mtu=%d/%d", v6, mtu, n), func(t *testing.T) {
					s := frameSpec{src: a4, dst: b4, proto: layers.IPProtocolICMPv4, icmpType: 0}
					hdr := 20
					if v6 {
						s = frameSpec{src: a6, dst: b6, proto: layers.IPProtocolICMPv6, icmpType: 129}
						hdr = 40
					}
					s.sport, s.ttl, s.payload = 7, 64, pattern(n)
					d := Datagram{Src: AddrFrom(s.src), Dst: AddrFrom(s.dst), Proto: uint8(s.proto), ID: 42}
					var want [][]byte
					switch {
					case hdr+8+n <= mtu:
						s.ipFlags = layers.IPv4DontFragment
						want = append(want, s.frame(t))
					case v6:
						want = s.fragments(t, (mtu-48)&^7)
					default:
						s.id = 42
						want = s.fragments(t, (mtu-20)&^7)
					}
					d.Payload = bytes.Clone(s.frame(t)[s.l4():])
					var got [][]byte
					buf := make([]byte, EthernetLen+mtu)
					for i := range buf {
						buf[i] = 0xee
					}
					for {
						k, ok := d.Next(buf, mtu)
						if !ok {
							break
						}
						got = append(got, bytes.Clone(buf[12:k]))
					}
					for i := range want {
						want[i] = want[i][12:]
						if v6 {
							want[i][3] &= 0xf0 // no flow label
							want[i][4], want[i][5] = 0, 0
						}
					}
					compareFrames(t, got, want)
				})
			}
		}
	}
}

// TestDatagramRefuses: what does not fit IP, or nothing fits into.
func TestDatagramRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		src, dst Addr
		len, mtu int
	}{
		"nothing":      {AddrFrom(a4), AddrFrom(b4), 0, 1500},
		"too long v4":  {AddrFrom(a4), AddrFrom(b4), MaxIP - 19, 1500},
		"too long v6":  {AddrFrom(a6), AddrFrom(b6), MaxIP + 1, 1500},
		"small MTU v4": {AddrFrom(a4), AddrFrom(b4), 100, 27},
		"small MTU v6": {AddrFrom(a6), AddrFrom(b6), 100, 55},
		"no MTU":       {AddrFrom(a6), AddrFrom(b6), 100, 0},
	} {
		d := Datagram{Src: c.src, Dst: c.dst, Proto: ProtoUDP, Payload: make([]byte, c.len)}
		if n, ok := d.Next(make([]byte, MaxFrame), c.mtu); ok {
			t.Errorf("%s: a packet of %d bytes", name, n)
		}
	}
}
