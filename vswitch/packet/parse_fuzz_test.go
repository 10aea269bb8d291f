package packet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// FuzzParse compares with gopacket what both understand.
func FuzzParse(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		for _, s := range rewritten(v6) {
			f.Add(s.frame(f)[:min(len(s.payload), 40)+s.l4()])
			f.Add(s.frame(f))
		}
		f.Add(udp(v6, pattern(100)).fragments(f, 64)[0])
		f.Add(udp(v6, pattern(100)).fragments(f, 64)[1])
	}
	l4 := udp(true, pattern(20)).frame(f)[54:]
	f.Add(ether(EtherTypeIPv6, ip6(ProtoUDP, l4, hopByHop, destOpts, routing, auth)...))
	f.Add(ether(EtherTypeIPv6, ip6(ProtoUDP, l4, atomic)...))
	f.Add(ether(EtherTypeARP, append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, make([]byte, 20)...)...))
	b := NewBatch()
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > MaxFrame {
			return
		}
		samePlain(t, b, data)
		b.Reset()
		p := b.Append(data)
		b.Parse(p)
		if !bytes.Equal(b.Buf[p.Off:int(p.Off)+len(data)], data) || int(p.Len) > len(data) {
			t.Fatal("Parse changed the frame")
		}
		want, ok := reference(data)
		if !ok {
			return
		}
		if p.Class == Multicast && data[0]&1 != 0 {
			p.Class = Flow
		}
		if p.Class != Flow {
			t.Fatalf("%v, but gopacket sees %v", p.Class, want)
		}
		if p.Tuple != want {
			t.Fatalf("%v, but gopacket sees %v", p.Tuple, want)
		}
	})
}

// samePlain checks that Parse finds what parse finds, which knows nothing of plain
// packets, with checksums that are complete or not, and behind a frame that is longer.
func samePlain(t *testing.T, b *Batch, data []byte) {
	for _, start := range []uint16{0, plainL4, plainL4 + 4} {
		for _, at := range []uint16{tcpCsum, udpCsum} {
			b.Reset()
			p := b.Append(data)
			p.In = 77
			if start != 0 {
				p.Flags, p.CsumStart, p.CsumOffset = NeedsCsum, start, at
			}
			q := *p
			b.parse(&q)
			b.Parse(p)
			plain := p.Flags&Plain != 0
			if p.Flags &^= Plain; *p != q {
				t.Fatalf("plain %v: %+v, want %+v", plain, *p, q)
			}
			if ported := q.Tuple.Proto == ProtoTCP || q.Tuple.Proto == ProtoUDP; plain && (q.Class != Flow || !q.Tuple.Is4() || !ported || q.L4 != plainL4) {
				t.Fatalf("not plain: %+v", q)
			}
		}
	}
}

// reference returns the tuple that gopacket finds in a frame. It is not ok if
// gopacket finds fault with the frame, or if it is no whole TCP, UDP or SCTP
// packet of consistent lengths.
func reference(data []byte) (t Tuple, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false // gopacket panics on some inputs
		}
	}()
	pkt := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.DecodeOptions{NoCopy: true, SkipDecodeRecovery: true})
	if pkt.Metadata().Truncated {
		return t, false
	}
	var l4 []byte
	if ip, _ := pkt.Layer(layers.LayerTypeIPv4).(*layers.IPv4); ip != nil {
		if ip.Flags&layers.IPv4MoreFragments != 0 || ip.FragOffset != 0 || ip.Version != 4 || binary.BigEndian.Uint16(data[12:]) != EtherTypeIPv4 ||
			binary.BigEndian.Uint16(data[16:]) == 0 { // gopacket takes that for a superpacket
			return t, false
		}
		t.Src, t.Dst, t.Proto, l4 = mapped([4]byte(ip.SrcIP)), mapped([4]byte(ip.DstIP)), uint8(ip.Protocol), ip.Payload
	} else if ip, _ := pkt.Layer(layers.LayerTypeIPv6).(*layers.IPv6); ip != nil {
		if ip.Version != 6 || binary.BigEndian.Uint16(data[12:]) != EtherTypeIPv6 || ip.HopByHop != nil || ip.Length == 0 {
			return t, false
		}
		t.Src, t.Dst, t.Proto, l4 = Addr(ip.SrcIP), Addr(ip.DstIP), uint8(ip.NextHeader), ip.Payload
		if t.Src.Is4() || t.Dst.Is4() {
			return t, false
		}
	}
	switch {
	case t.Proto == ProtoTCP:
		l := &layers.TCP{}
		if l.DecodeFromBytes(l4, gopacket.NilDecodeFeedback) != nil {
			return t, false
		}
		t.SrcPort, t.DstPort = uint16(l.SrcPort), uint16(l.DstPort)
	case t.Proto == ProtoUDP:
		l := &layers.UDP{}
		if l.DecodeFromBytes(l4, gopacket.NilDecodeFeedback) != nil || l.Length < 8 || int(l.Length) > len(l4) {
			return t, false
		}
		t.SrcPort, t.DstPort = uint16(l.SrcPort), uint16(l.DstPort)
	case t.Proto == ProtoSCTP:
		l := &layers.SCTP{}
		if l.DecodeFromBytes(l4, gopacket.NilDecodeFeedback) != nil {
			return t, false
		}
		t.SrcPort, t.DstPort = uint16(l.SrcPort), uint16(l.DstPort)
	default:
		return t, false
	}
	return t, true
}

// FuzzOffload takes any frame with any offload metadata, as an evil virtual
// machine may send, through everything that ports and the switch do with it.
func FuzzOffload(f *testing.F) {
	f.Add(tcp(false, pattern(3000)).frame(f), []byte{1, 1, 0, 66, 5, 120, 0, 34, 0, 16})
	f.Add(tcp(true, pattern(3000)).frame(f), []byte{0x84, 1, 0, 66, 0, 1, 0, 54, 0, 16})
	f.Add(udp(true, pattern(300)).frame(f), []byte{5, 1, 0, 62, 0, 100, 0, 54, 0, 6})
	f.Add(udp(false, pattern(300)).frame(f), []byte{0, 1, 255, 255, 255, 255, 255, 255, 255, 255})
	b := NewBatch()
	scratch := make([]byte, MaxFrame)
	f.Fuzz(func(t *testing.T, data, meta []byte) {
		if len(data) > 20000 {
			return
		}
		b.Reset()
		p := b.Append(data)
		var m [10]byte
		copy(m[:], meta)
		p.GSO, p.Flags = GSO(m[0]), m[1]
		p.HdrLen, p.GSOSize = binary.BigEndian.Uint16(m[2:]), binary.BigEndian.Uint16(m[4:])
		p.CsumStart, p.CsumOffset = binary.BigEndian.Uint16(m[6:]), binary.BigEndian.Uint16(m[8:])
		if p.GSOSize != 0 && len(data)/int(p.GSOSize) > 2000 {
			return
		}
		b.Parse(p)
		if p.Class == Malformed || p.Class == Unknown || p.Class == ARP {
			return
		}
		if p.HdrLen > MaxHeader && p.GSO != GSONone {
			t.Fatalf("header of %d bytes", p.HdrLen)
		}
		b.ClampMSS(p, 1400)
		from := p.Tuple
		to := from.Reverse()
		tr := Translate(&from, &to)
		b.Rewrite(p, &tr)
		b.DecrementTTL(p)
		b.VerifyTransport(p)
		b.ErrorTuple(p)
		if p.GSO == GSONone {
			cutAll(b, p, 576)
		}
		n := 0
		b.Each(p, scratch, func([]byte) { n++ })
		if n != p.Segments() {
			t.Fatalf("%d segments, said %d: %s", n, p.Segments(), fmt.Sprintf("%+v", p))
		}
	})
}
