package packet

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

var (
	macA = [6]byte{2, 0, 0, 0, 0, 0xa}
	macB = [6]byte{2, 0, 0, 0, 0, 0xb}

	a4, b4 = netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("10.244.2.9")
	a6, b6 = netip.MustParseAddr("fd00::1:7"), netip.MustParseAddr("fd00:1::2:9")
)

// frameSpec describes a frame; gopacket builds it, so that what the package
// does is checked by code that it does not share.
type frameSpec struct {
	src, dst     netip.Addr
	proto        layers.IPProtocol
	sport, dport uint16
	seq, ack     uint32
	flags        uint8
	window       uint16
	urgent       uint16
	options      []layers.TCPOption // of TCP
	ipOptions    []layers.IPv4Option
	id           uint16
	ipFlags      layers.IPv4Flag
	fragOffset   uint16 // in units of 8 bytes
	tos, ttl     uint8
	icmpType     uint8
	noChecksum   bool // of UDP
	payload      []byte
}

// tcp returns a TCP data segment of the family.
func tcp(v6 bool, payload []byte) frameSpec {
	s := frameSpec{
		src: a4, dst: b4, proto: layers.IPProtocolTCP, sport: 40000, dport: 80,
		seq: 0xfffff000, ack: 7777777, flags: TCPAck, window: 501, id: 65520,
		ipFlags: layers.IPv4DontFragment, ttl: 64, payload: payload,
		options: []layers.TCPOption{{OptionType: 1}, {OptionType: 1},
			{OptionType: layers.TCPOptionKindTimestamps, OptionData: []byte{1, 2, 3, 4, 5, 6, 7, 8}}},
	}
	if v6 {
		s.src, s.dst = a6, b6
	}
	return s
}

// udp returns a UDP datagram of the family.
func udp(v6 bool, payload []byte) frameSpec {
	s := tcp(v6, payload)
	s.proto, s.dport = layers.IPProtocolUDP, 4433
	return s
}

func (s frameSpec) is6() bool { return s.src.Is6() }

func (s frameSpec) tuple() Tuple {
	t := Tuple{Src: AddrFrom(s.src), Dst: AddrFrom(s.dst), SrcPort: s.sport, DstPort: s.dport, Proto: uint8(s.proto)}
	switch s.proto {
	case layers.IPProtocolTCP, layers.IPProtocolUDP, layers.IPProtocolSCTP:
	case layers.IPProtocolICMPv4, layers.IPProtocolICMPv6:
		t.DstPort = s.sport
	default:
		t.SrcPort, t.DstPort = 0, 0
	}
	return t
}

func serialize(t testing.TB, all ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, all...); err != nil {
		t.Fatal(err)
	}
	return append([]byte(nil), buf.Bytes()...)
}

// network returns the Ethernet and IP layers of s.
func (s frameSpec) network() (eth *layers.Ethernet, ip gopacket.SerializableLayer, pseudo gopacket.NetworkLayer) {
	eth = &layers.Ethernet{DstMAC: net.HardwareAddr(macB[:]), SrcMAC: net.HardwareAddr(macA[:])}
	if s.is6() {
		eth.EthernetType = layers.EthernetTypeIPv6
		l := &layers.IPv6{Version: 6, TrafficClass: s.tos, FlowLabel: 0xabcde, NextHeader: s.proto,
			HopLimit: s.ttl, SrcIP: s.src.AsSlice(), DstIP: s.dst.AsSlice()}
		return eth, l, l
	}
	eth.EthernetType = layers.EthernetTypeIPv4
	l := &layers.IPv4{Version: 4, TOS: s.tos, Id: s.id, Flags: s.ipFlags, FragOffset: s.fragOffset, TTL: s.ttl,
		Protocol: s.proto, SrcIP: s.src.AsSlice(), DstIP: s.dst.AsSlice(), Options: s.ipOptions}
	return eth, l, l
}

// transport returns the transport layer of s.
func (s frameSpec) transport(pseudo gopacket.NetworkLayer) []gopacket.SerializableLayer {
	switch s.proto {
	case layers.IPProtocolTCP:
		l := &layers.TCP{SrcPort: layers.TCPPort(s.sport), DstPort: layers.TCPPort(s.dport), Seq: s.seq, Ack: s.ack,
			Window: s.window, Urgent: s.urgent, Options: s.options,
			FIN: s.flags&TCPFin != 0, SYN: s.flags&TCPSyn != 0, RST: s.flags&TCPRst != 0, PSH: s.flags&TCPPsh != 0,
			ACK: s.flags&TCPAck != 0, URG: s.flags&TCPUrg != 0, ECE: s.flags&TCPEce != 0, CWR: s.flags&TCPCwr != 0}
		l.SetNetworkLayerForChecksum(pseudo)
		return []gopacket.SerializableLayer{l}
	case layers.IPProtocolUDP:
		l := &layers.UDP{SrcPort: layers.UDPPort(s.sport), DstPort: layers.UDPPort(s.dport)}
		l.SetNetworkLayerForChecksum(pseudo)
		return []gopacket.SerializableLayer{l}
	case layers.IPProtocolSCTP:
		return []gopacket.SerializableLayer{&layers.SCTP{SrcPort: layers.SCTPPort(s.sport), DstPort: layers.SCTPPort(s.dport), VerificationTag: 99}}
	case layers.IPProtocolICMPv4:
		return []gopacket.SerializableLayer{&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(s.icmpType, 0), Id: s.sport, Seq: 3}}
	case layers.IPProtocolICMPv6:
		l := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(s.icmpType, 0)}
		l.SetNetworkLayerForChecksum(pseudo)
		return []gopacket.SerializableLayer{l, &layers.ICMPv6Echo{Identifier: s.sport, SeqNumber: 3}}
	}
	return nil
}

// frame returns the complete wire frame.
func (s frameSpec) frame(t testing.TB) []byte {
	t.Helper()
	eth, ip, pseudo := s.network()
	all := append([]gopacket.SerializableLayer{eth, ip}, s.transport(pseudo)...)
	f := serialize(t, append(all, gopacket.Payload(s.payload))...)
	// gopacket pads as Ethernet does; the switch has no such frames of its own.
	if s.is6() {
		f = f[:EthernetLen+40+int(binary.BigEndian.Uint16(f[EthernetLen+4:]))]
	} else {
		f = f[:EthernetLen+int(binary.BigEndian.Uint16(f[EthernetLen+2:]))]
	}
	if s.proto == layers.IPProtocolUDP {
		c := f[s.l4()+udpCsum:][:2]
		switch {
		case s.noChecksum:
			c[0], c[1] = 0, 0
		case c[0]|c[1] == 0: // gopacket leaves what RFC 768 forbids
			c[0], c[1] = 0xff, 0xff
		}
	}
	return f
}

// l4 returns the offset of the transport header.
func (s frameSpec) l4() int {
	if s.is6() {
		return EthernetLen + 40
	}
	n := 20
	for _, o := range s.ipOptions {
		n += max(int(o.OptionLength), 1)
	}
	return EthernetLen + (n+3)&^3
}

// hdrLen returns the length of all headers of a TCP or UDP frame f of s.
func (s frameSpec) hdrLen(f []byte) int {
	if s.proto == layers.IPProtocolUDP {
		return s.l4() + 8
	}
	return s.l4() + int(f[s.l4()+12]>>4)*4
}

// gso returns the kind of superpacket that s can be.
func (s frameSpec) gso() GSO {
	switch {
	case s.proto == layers.IPProtocolUDP:
		return GSOUDPL4
	case s.is6():
		return GSOTCPv6
	}
	return GSOTCPv4
}

// csumAt returns the offset of the transport checksum.
func (s frameSpec) csumAt() int {
	if s.proto == layers.IPProtocolUDP {
		return s.l4() + udpCsum
	}
	return s.l4() + tcpCsum
}

// pseudo returns the folded sum of the pseudo header for a packet of length bytes.
func (s frameSpec) pseudo(length int) uint16 {
	var w []byte
	w = append(append(w, s.src.AsSlice()...), s.dst.AsSlice()...)
	w = append(w, 0, uint8(s.proto), byte(length>>8), byte(length))
	return slowSum(w)
}

// partial puts the pseudo header's sum where f, a frame of s, has its checksum.
func (s frameSpec) partial(f []byte) []byte {
	binary.BigEndian.PutUint16(f[s.csumAt():], s.pseudo(len(f)-s.l4()))
	return f
}

// add appends the frame of s to the batch, complete.
func (s frameSpec) add(t testing.TB, b *Batch) *Packet {
	t.Helper()
	p := b.Append(s.frame(t))
	if p == nil {
		t.Fatal("the batch is full")
	}
	return p
}

// addPartial appends the frame of s as a packet that NeedsCsum.
func (s frameSpec) addPartial(t testing.TB, b *Batch) *Packet {
	t.Helper()
	p := b.Append(s.partial(s.frame(t)))
	if p == nil {
		t.Fatal("the batch is full")
	}
	p.Flags = NeedsCsum
	p.CsumStart, p.CsumOffset = uint16(s.l4()), uint16(s.csumAt()-s.l4())
	return p
}

// addGSO appends s as a superpacket of segments of size bytes; with a gap, as a
// train whose segments lie gap bytes behind the payload before them.
func (s frameSpec) addGSO(t testing.TB, b *Batch, size, gap int) *Packet {
	t.Helper()
	f := s.partial(s.frame(t))
	hdr := s.hdrLen(f)
	off := b.Next()
	to := off + copy(b.Buf[off:], f[:hdr])
	for rest := f[hdr:]; len(rest) > 0; {
		n := copy(b.Buf[to:], rest[:min(size, len(rest))])
		for i := range gap {
			b.Buf[to+n+i] = 0xee
		}
		rest = rest[n:]
		to += n + gap
	}
	p := b.Add(off, len(f))
	b.Take(to)
	p.GSO, p.GSOSize, p.HdrLen = s.gso(), uint16(size), uint16(hdr)
	if s.proto == layers.IPProtocolTCP && s.flags&TCPCwr != 0 {
		p.GSO |= GSOECN
	}
	p.Flags, p.CsumStart, p.CsumOffset = NeedsCsum, uint16(s.l4()), uint16(s.csumAt()-s.l4())
	if gap > 0 {
		p.Stride = uint16(size + gap)
	}
	return p
}

// segments returns the frames that a superpacket of s with segments of size
// bytes is on the wire.
func (s frameSpec) segments(t testing.TB, size int) (frames [][]byte) {
	t.Helper()
	rest := s.payload
	for i := 0; i == 0 || len(rest) > 0; i++ {
		q := s
		q.payload = rest[:min(size, len(rest))]
		rest = rest[len(q.payload):]
		q.id += uint16(i)
		q.seq += uint32(i * size)
		if len(rest) > 0 {
			q.flags &^= TCPFin | TCPPsh
		}
		if i > 0 {
			q.flags &^= TCPCwr
		}
		frames = append(frames, q.frame(t))
	}
	return frames
}

// fragments cuts a frame of s into fragments of at most size payload bytes with
// gopacket.
func (s frameSpec) fragments(t testing.TB, size int) (frames [][]byte) {
	t.Helper()
	if s.is6() {
		return s.fragments6(t, size)
	}
	s.ipFlags = 0
	whole := s.frame(t)[s.l4():]
	for at := 0; at < len(whole); at += size {
		q := s
		q.proto = layers.IPProtocol(255) // no transport layer: payload only
		q.fragOffset = uint16(at / 8)
		q.payload = whole[at:min(at+size, len(whole))]
		if at+size < len(whole) {
			q.ipFlags = layers.IPv4MoreFragments
		}
		f := q.frame(t)
		h := f[EthernetLen:q.l4()]
		h[9] = uint8(s.proto)
		binary.BigEndian.PutUint16(h[10:], 0)
		binary.BigEndian.PutUint16(h[10:], ^slowSum(h))
		frames = append(frames, f)
	}
	return frames
}

func (s frameSpec) fragments6(t testing.TB, size int) (frames [][]byte) {
	t.Helper()
	whole := s.frame(t)[s.l4():]
	for at := 0; at < len(whole); at += size {
		q := s
		q.proto = layers.IPProtocolIPv6Fragment
		part := whole[at:min(at+size, len(whole))]
		h := []byte{uint8(s.proto), 0, byte(at >> 8), byte(at), 0, 0, 0, 42}
		if at+size < len(whole) {
			h[3] |= 1
		}
		q.payload = append(h, part...)
		frames = append(frames, q.frame(t))
	}
	return frames
}

// pattern returns n bytes that no two positions near each other share.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8*13 + 1)
	}
	return b
}

// wire returns the frames that p is on the wire, as Cut gives them.
func wire(b *Batch, p *Packet) (frames [][]byte) {
	hdr := make([]byte, 256)
	c := b.Cut(p, false)
	for {
		n, payload, ok := c.Next(hdr)
		if !ok {
			return frames
		}
		frames = append(frames, append(append([]byte(nil), hdr[:n]...), payload...))
	}
}
