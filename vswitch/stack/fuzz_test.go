package stack

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"vswitch/vswitch/packet"
)

// descriptor is how many bytes of fuzz input stand before each frame: its
// length and what a driver says of it.
const descriptor = 14

// encode is the fuzz input that holds one frame.
func encode(f []byte, p packet.Packet) []byte {
	d := make([]byte, descriptor, descriptor+len(f))
	binary.BigEndian.PutUint16(d[0:], uint16(len(f)))
	d[2], d[3] = byte(p.GSO), p.Flags
	binary.BigEndian.PutUint16(d[4:], p.HdrLen)
	binary.BigEndian.PutUint16(d[6:], p.GSOSize)
	binary.BigEndian.PutUint16(d[8:], p.CsumStart)
	binary.BigEndian.PutUint16(d[10:], p.CsumOffset)
	binary.BigEndian.PutUint16(d[12:], p.Stride)
	return append(d, f...)
}

// decode adds the frames of a fuzz input to b. A driver never describes bytes
// beyond its batch; everything else it may say.
func decode(b *packet.Batch, in []byte) (idx []uint16) {
	for len(in) > descriptor && len(b.Packets) < 8 && !b.Full() {
		d := in[:descriptor]
		in = in[descriptor:]
		n := min(int(binary.BigEndian.Uint16(d[0:])), len(in))
		f := in[:n]
		in = in[n:]
		p := b.Append(f)
		p.GSO, p.Flags = packet.GSO(d[2]), d[3]&3
		p.HdrLen, p.GSOSize = binary.BigEndian.Uint16(d[4:]), binary.BigEndian.Uint16(d[6:])
		p.CsumStart, p.CsumOffset = binary.BigEndian.Uint16(d[8:]), binary.BigEndian.Uint16(d[10:])
		p.Stride = binary.BigEndian.Uint16(d[12:])
		if p.GSO == packet.GSONone {
			p.Stride = 0
		}
		fix(b.Frame(p))
		idx = append(idx, uint16(len(b.Packets)-1))
	}
	return idx
}

// fix addresses a frame to pod 0 and repairs its IPv4 header, so that what the
// fuzzer changes gets further than the first check.
func fix(f []byte) {
	if len(f) < packet.EthernetLen {
		return
	}
	if f[0]&1 == 0 {
		copy(f, macs[0][:])
	}
	if h := f[packet.EthernetLen:]; len(h) >= 20 && binary.BigEndian.Uint16(f[12:]) == packet.EtherTypeIPv4 {
		if n := int(h[0]&15) * 4; n >= 20 && n <= len(h) {
			h[10], h[11] = 0, 0
			binary.BigEndian.PutUint16(h[10:], ^packet.Fold(packet.Sum(h[:n], 0)))
		}
	}
}

// FuzzWrite: no frame and no descriptor crashes the stack, and what it answers
// is sound.
func FuzzWrite(f *testing.F) {
	eth4 := &layers.Ethernet{SrcMAC: hw(macs[1]), DstMAC: hw(macs[0]), EthernetType: layers.EthernetTypeIPv4}
	eth6 := &layers.Ethernet{SrcMAC: hw(macs[1]), DstMAC: hw(macs[0]), EthernetType: layers.EthernetTypeIPv6}
	ip4 := func(p layers.IPProtocol) *layers.IPv4 {
		return &layers.IPv4{Version: 4, TTL: 64, Protocol: p, SrcIP: addrs4[1].AsSlice(), DstIP: addrs4[0].AsSlice()}
	}
	ip6 := func(p layers.IPProtocol) *layers.IPv6 {
		return &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: p, SrcIP: addrs6[1].AsSlice(), DstIP: addrs6[0].AsSlice()}
	}
	syn := &layers.TCP{SrcPort: 1000, DstPort: 80, SYN: true, Window: 1000, Seq: 7, Options: []layers.TCPOption{
		{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 100}},
		{OptionType: layers.TCPOptionKindSACKPermitted, OptionLength: 2},
	}}
	add := func(p packet.Packet, ls ...gopacket.SerializableLayer) []byte {
		in := encode(serialize(f, ls...), p)
		f.Add(in)
		return in
	}
	f.Add(encode(udpFrame(f, true, make([]byte, 300)), packet.Packet{}))
	f.Add(encode(udpFrame(f, false, make([]byte, 300)), packet.Packet{Flags: packet.NeedsCsum, GSO: packet.GSOUDPL4, HdrLen: 62, GSOSize: 100, CsumStart: 54, CsumOffset: 6}))
	i4, i6 := ip4(layers.IPProtocolTCP), ip6(layers.IPProtocolTCP)
	syn.SetNetworkLayerForChecksum(i4)
	first := add(packet.Packet{}, eth4, i4, syn)
	data := &layers.TCP{SrcPort: 1000, DstPort: 80, ACK: true, PSH: true, Window: 1000, Seq: 8}
	data.SetNetworkLayerForChecksum(i4)
	second := add(packet.Packet{GSO: packet.GSOTCPv4, Flags: packet.NeedsCsum, HdrLen: 54, GSOSize: 100, CsumStart: 34, CsumOffset: 16},
		eth4, i4, data, gopacket.Payload(make([]byte, 500)))
	f.Add(append(first, second...))
	syn.SetNetworkLayerForChecksum(i6)
	add(packet.Packet{}, eth6, i6, syn)
	add(packet.Packet{}, eth4, ip4(layers.IPProtocolICMPv4),
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 1, Seq: 1}, gopacket.Payload("ping"))
	quoted := udpFrame(f, true, []byte("x"))[14:]
	add(packet.Packet{}, eth4, ip4(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4)}, gopacket.Payload(quoted))
	icmp6 := func(typ, code uint8, more ...gopacket.SerializableLayer) {
		i := ip6(layers.IPProtocolICMPv6)
		icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, code)}
		icmp.SetNetworkLayerForChecksum(i)
		add(packet.Packet{}, append([]gopacket.SerializableLayer{eth6, i, icmp}, more...)...)
	}
	icmp6(128, 0, gopacket.Payload([]byte{0, 1, 0, 1, 5, 5}))
	icmp6(1, 3, gopacket.Payload(append(make([]byte, 4), udpFrame(f, false, []byte("x"))[14:]...)))
	icmp6(2, 0, gopacket.Payload(append([]byte{0, 0, 5, 0}, udpFrame(f, false, []byte("x"))[14:]...)))
	opts := layers.ICMPv6Options{{Type: layers.ICMPv6OptSourceAddress, Data: hw(macs[1])}}
	icmp6(135, 0, &layers.ICMPv6NeighborSolicitation{TargetAddress: addrs6[0].AsSlice(), Options: opts})
	icmp6(136, 0, &layers.ICMPv6NeighborAdvertisement{TargetAddress: addrs6[1].AsSlice(), Flags: 0x20})
	icmp6(134, 0, &layers.ICMPv6RouterAdvertisement{HopLimit: 64, RouterLifetime: 100, Options: opts})
	six, release := borrow()
	defer release()
	fragments6(six, udpFrame(f, false, make([]byte, 2500)))
	var all []byte
	for i := range six.Packets {
		all = append(all, encode(six.Frame(&six.Packets[i]), packet.Packet{})...)
	}
	f.Add(all)
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := New(Config{MAC: macs[0], MTU: 1450, Addrs: []netip.Prefix{netip.PrefixFrom(addrs4[0], 24), netip.PrefixFrom(addrs6[0], 64)}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		l, err := s.Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		u, err := s.ListenPacket("udp", ":53")
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		answerARP(t, s)
		b, release := borrow()
		defer release()
		idx := decode(b, in)
		if n, err := s.Write(b, idx); err != nil || n > len(idx) {
			t.Fatal(n, err)
		}
		out, releaseOut := borrow()
		defer releaseOut()
		s.Read(out, packet.BatchSize)
		for i := range out.Packets {
			p := &out.Packets[i]
			out.Parse(p)
			if p.Class == packet.Malformed || net.HardwareAddr(out.Frame(p)[6:12]).String() != hw(macs[0]).String() {
				t.Errorf("answer of class %v: %x", p.Class, out.Frame(p))
			}
		}
	})
}
