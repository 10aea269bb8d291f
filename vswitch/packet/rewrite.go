package packet

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
)

// Delta is what a change of addresses and ports adds to checksums: for each,
// the folded sum of ~old + new (RFC 1624 equation 3). The address part is all
// that a partial checksum needs, not inverted; the IPv4 header needs it
// inverted; a complete transport checksum needs both parts.
type Delta struct {
	Addrs, Ports uint16
}

// Translation is what becomes of the addresses and ports of one direction of a
// flow: 40 bytes without pointers, made once when the flow is decided.
//
// Of ICMP echo, SrcPort is the identifier. Protocols without ports have zero
// ports.
type Translation struct {
	Src, Dst         Addr
	SrcPort, DstPort uint16
	Delta            Delta
}

// Translate returns the translation of packets that show from into packets that
// show to. Both must be of one family and protocol. Of ICMP echo, either port
// of to may be the new identifier.
func Translate(from, to *Tuple) Translation {
	t := Translation{Src: to.Src, Dst: to.Dst, SrcPort: to.SrcPort, DstPort: to.DstPort}
	t.Delta.Addrs = deltaOf(add(addrSum(&from.Src), addrSum(&from.Dst)), add(addrSum(&to.Src), addrSum(&to.Dst)))
	if from.Proto == ProtoICMP || from.Proto == ProtoICMPv6 {
		if t.SrcPort == from.SrcPort {
			t.SrcPort = t.DstPort
		}
		t.DstPort = t.SrcPort
		t.Delta.Ports = deltaOf(le16(int(from.SrcPort)), le16(int(t.SrcPort)))
	} else {
		t.Delta.Ports = deltaOf(le16(int(from.SrcPort))+le16(int(from.DstPort)), le16(int(t.SrcPort))+le16(int(t.DstPort)))
	}
	return t
}

// Translation4 is a Translation of IPv4 as packets have it: 16 bytes.
type Translation4 struct {
	// Header is what stands in an IPv4 header without options from the source
	// address on, and in the ports behind it.
	Header [12]byte
	Delta  Delta
}

// Short returns t for packets of IPv4. Of IPv6, all but the last four bytes of each
// address is lost.
func (t *Translation) Short() (s Translation4) {
	copy(s.Header[0:4], t.Src[12:])
	copy(s.Header[4:8], t.Dst[12:])
	binary.BigEndian.PutUint16(s.Header[8:10], t.SrcPort)
	binary.BigEndian.PutUint16(s.Header[10:12], t.DstPort)
	s.Delta = t.Delta
	return s
}

// Translation returns the whole of a translation of IPv4.
func (s *Translation4) Translation() Translation {
	t := Translation{
		Src: Addr{10: 0xff, 11: 0xff}, Dst: Addr{10: 0xff, 11: 0xff},
		SrcPort: binary.BigEndian.Uint16(s.Header[8:10]), DstPort: binary.BigEndian.Uint16(s.Header[10:12]),
		Delta: s.Delta,
	}
	copy(t.Src[12:], s.Header[0:4])
	copy(t.Dst[12:], s.Header[4:8])
	return t
}

// deltaOf returns what replacing words of the le sum from by words of the le
// sum to adds to a le sum. No change gives zero, not its other form 0xffff.
func deltaOf(from, to uint64) uint16 {
	d := fold(uint64(^fold(from)) + uint64(fold(to)))
	if d == 0xffff {
		d = 0
	}
	return bits.ReverseBytes16(d)
}

// patch adds d to the inverted checksum at c[0:2] (RFC 1624 equation 3).
func patch(c []byte, d uint32) {
	binary.BigEndian.PutUint16(c, ^Fold(uint32(^binary.BigEndian.Uint16(c))+d))
}

// Rewrite replaces the addresses and ports of p, which Parse has seen and whose
// tuple is the one that t was made from, and mends the checksums by t's deltas:
// a wrong checksum stays wrong. Superpackets and trains have one header and are
// one packet here; of fragments, only the first has ports. p.Tuple keeps what
// came in.
//
// It reports false, and changes nothing, when p cannot be rewritten: it is of
// another class than Flow, Fragment and ICMPOther (errors need RewriteError), t
// is of another family, or it is a fragment of SCTP, whose checksum covers what
// is not there, and the ports change.
func (b *Batch) Rewrite(p *Packet, t *Translation) bool {
	if p.Class != Flow && p.Class != Fragment && p.Class != ICMPOther {
		return false
	}
	f := b.Frame(p)
	v4 := is4(f)
	if v4 != t.Src.Is4() || v4 != t.Dst.Is4() {
		return false
	}
	hasPorts := true
	if p.Class == Fragment {
		hasPorts = b.FirstFragment(p)
		// Not by the delta: ports can change and their sum not.
		if hasPorts && p.Tuple.Proto == ProtoSCTP && (t.SrcPort != p.Tuple.SrcPort || t.DstPort != p.Tuple.DstPort) {
			return false
		}
	}
	h := f[EthernetLen:]
	if v4 {
		h = h[:20]
		*(*[4]byte)(h[12:]) = [4]byte(t.Src[12:])
		*(*[4]byte)(h[16:]) = [4]byte(t.Dst[12:])
		patch(h[10:12], uint32(t.Delta.Addrs))
	} else {
		h = h[:40]
		*(*[16]byte)(h[8:]) = t.Src
		*(*[16]byte)(h[24:]) = t.Dst
	}
	if hasPorts {
		// A checksum further in is that of a packet in a tunnel of the
		// sender's own; then the one here is complete.
		partial := p.Flags&NeedsCsum != 0 && p.CsumStart == p.L4
		rewriteTransport(f[p.L4:], p.Tuple.Proto, t, partial)
	}
	return true
}

// rewriteTransport puts t's ports into the transport header l and mends its
// checksum. l may be cut off behind the ports.
func rewriteTransport(l []byte, proto uint8, t *Translation, partial bool) {
	addrs, ports := uint32(t.Delta.Addrs), uint32(t.Delta.Ports)
	at := csumOffset(proto)
	switch proto {
	case ProtoTCP, ProtoUDP:
		binary.BigEndian.PutUint16(l[0:2], t.SrcPort)
		binary.BigEndian.PutUint16(l[2:4], t.DstPort)
	case ProtoSCTP:
		rewriteSCTP(l, t)
		return
	case ProtoICMP, ProtoICMPv6:
		if proto == ProtoICMP {
			addrs = 0 // no pseudo header
		}
		if echo(l[0], proto) {
			binary.BigEndian.PutUint16(l[4:6], t.SrcPort)
		} else {
			ports = 0
		}
	default:
		return
	}
	if len(l) < at+2 {
		return
	}
	c := l[at : at+2]
	switch {
	case partial:
		binary.BigEndian.PutUint16(c, Fold(uint32(binary.BigEndian.Uint16(c))+addrs))
	case proto != ProtoUDP:
		patch(c, addrs+ports)
	case c[0]|c[1] != 0: // zero says that there is no checksum (RFC 768)
		patch(c, addrs+ports)
		if c[0]|c[1] == 0 {
			c[0], c[1] = 0xff, 0xff
		}
	}
}

// echo reports whether an ICMP type has an identifier that names a flow.
func echo(typ, proto uint8) bool {
	if proto == ProtoICMP {
		return typ == 0 || typ == 8
	}
	return typ == 128 || typ == 129
}

// zeros feeds the CRC of SCTP.
var zeros [4096]byte

// rewriteSCTP puts t's ports into the SCTP packet l. Its CRC32c covers them, but
// no address (RFC 9260 section 6.8). A CRC is linear: the difference of the
// ports, shifted by the length of the rest, is the difference of the CRCs.
func rewriteSCTP(l []byte, t *Translation) {
	var d [4]byte
	binary.BigEndian.PutUint16(d[0:2], binary.BigEndian.Uint16(l[0:2])^t.SrcPort)
	binary.BigEndian.PutUint16(d[2:4], binary.BigEndian.Uint16(l[2:4])^t.DstPort)
	binary.BigEndian.PutUint16(l[0:2], t.SrcPort)
	binary.BigEndian.PutUint16(l[2:4], t.DstPort)
	if d == [4]byte{} || len(l) < 12 {
		return
	}
	var c uint32
	for _, v := range d { // by hand: what is given to crc32.Update escapes
		c = castagnoli[byte(c)^v] ^ c>>8
	}
	for n := len(l) - 4; n > 0; n -= len(zeros) {
		// It inverts the register before and after; undone here.
		c = ^crc32.Update(^c, castagnoli, zeros[:min(n, len(zeros))])
	}
	binary.LittleEndian.PutUint32(l[8:12], binary.LittleEndian.Uint32(l[8:12])^c)
}
