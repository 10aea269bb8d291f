package agent

import (
	"fmt"
	"net/netip"
	"testing"

	"vswitch/vswitch/packet"
)

// TestProbe: what is made is what a receiver takes, checksums included.
func TestProbe(t *testing.T) {
	b := packet.NewBatch()
	for _, ends := range [][2]string{{"10.244.1.2:40000", "10.244.2.3:80"}, {"[fd00:10:244:1::2]:40000", "[fd00:10:244:2::3]:80"}} {
		src, dst := netip.MustParseAddrPort(ends[0]), netip.MustParseAddrPort(ends[1])
		for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP, packet.ProtoICMP, 47} {
			for _, size := range []int{0, 100, 1451, packet.MaxIP} {
				t.Run(fmt.Sprintf("%s to %s size %d", packet.ProtoName(proto), dst.Addr(), size), func(t *testing.T) {
					frame := probe([6]byte{2}, [6]byte{4}, &TraceRequest{Source: src, Destination: dst, Proto: proto, Size: size})
					if size > 0 && len(frame) != packet.EthernetLen+size {
						t.Errorf("%d bytes", len(frame))
					}
					b.Reset()
					p := b.Append(frame)
					b.Parse(p)
					if p.Class != packet.Flow || int(p.Len) != len(frame) || !b.VerifyTransport(p) {
						t.Fatalf("class %s, %d of %d bytes, or a bad checksum", p.Class, p.Len, len(frame))
					}
					if ip := frame[packet.EthernetLen:]; src.Addr().Is4() && packet.Fold(packet.Sum(ip[:20], 0)) != 0xffff {
						t.Error("the header has a bad checksum")
					}
					want := packet.Tuple{Src: packet.AddrFrom(src.Addr()), Dst: packet.AddrFrom(dst.Addr()), Proto: proto}
					switch proto {
					case packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP:
						want.SrcPort, want.DstPort = src.Port(), dst.Port()
					case packet.ProtoICMP:
						if src.Addr().Is6() {
							want.Proto = packet.ProtoICMPv6
						}
					}
					if p.Tuple != want {
						t.Errorf("%s, want %s", p.Tuple, want)
					}
					if proto == packet.ProtoTCP && p.TCPFlags != packet.TCPSyn {
						t.Errorf("TCP flags %#x", p.TCPFlags)
					}
				})
			}
		}
	}
}
