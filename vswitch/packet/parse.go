package packet

import "encoding/binary"

// EtherTypes.
const (
	EtherTypeIPv4 = 0x0800
	EtherTypeARP  = 0x0806
	EtherTypeIPv6 = 0x86dd
)

// TCP flag bits.
const (
	TCPFin = 1 << iota
	TCPSyn
	TCPRst
	TCPPsh
	TCPAck
	TCPUrg
	TCPEce
	TCPCwr
)

// Class is what kind of handling a frame needs, found by Parse. The zero value
// is a frame that must die.
type Class uint8

// Classes of frames.
const (
	// Malformed: truncated, inconsistent or nonsense; dropped.
	Malformed Class = iota
	// Unknown: an EtherType that the switch does not carry; dropped.
	Unknown
	// Flow: a unicast packet with a tuple that names its flow.
	Flow
	// Fragment: a fragment of an IP packet. Addresses and protocol are set;
	// ports only of a first fragment (FirstFragment).
	Fragment
	// ICMPError: an ICMP or ICMPv6 error about another packet. The ports are zero.
	ICMPError
	// ICMPOther: ICMP that is neither echo nor error: ND, MLD, router
	// solicitation. The ports are zero.
	ICMPOther
	// ARP: an ARP packet of Ethernet and IPv4.
	ARP
	// Multicast: IP to a multicast or broadcast address, from the Ethernet
	// destination; the tuple is set as for Flow.
	Multicast
)

var classNames = [...]string{"malformed", "unknown", "flow", "fragment", "icmp-error", "icmp-other", "arp", "multicast"}

func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return "class-?"
}

// IPv6 extension headers that are walked to find the transport.
const (
	extHopByHop = 0
	extRouting  = 43
	extFragment = 44
	extAuth     = 51
	extNoNext   = 59
	extDestOpts = 60
	// maxExt bounds the walk; more extension headers than this are malformed.
	maxExt = 8
)

// Parse reads the headers of p, whose frame must be in b, and fills Class, L4,
// TCPFlags, Chunk, Control and Tuple (In is copied from p), and Plain of Flags. It
// trims padding behind the IP packet from p.Len. The source and the checksums are
// not checked here.
func (b *Batch) Parse(p *Packet) {
	if f := b.Buf[p.Off:]; len(f) < plainHeaders || !parsePlain(p, (*[plainHeaders]byte)(f)) {
		b.parse(p)
	}
}

// parse is Parse for any packet; none is Plain to it.
func (b *Batch) parse(p *Packet) {
	f := b.Frame(p)
	p.Class = Malformed
	p.Tuple.In = p.In
	p.Tuple.Flags = 0
	p.TCPFlags, p.Chunk, p.Control = 0, 0, false
	p.Flags &^= Plain
	if len(f) < EthernetLen+20 {
		if len(f) >= EthernetLen {
			switch binary.BigEndian.Uint16(f[12:14]) {
			case EtherTypeIPv4, EtherTypeIPv6, EtherTypeARP:
			default:
				p.Class = Unknown
			}
		}
		return
	}
	switch binary.BigEndian.Uint16(f[12:14]) {
	case EtherTypeIPv4:
		parse4(p, f)
	case EtherTypeIPv6:
		parse6(p, f)
	case EtherTypeARP:
		// Hardware Ethernet, protocol IPv4, lengths 6 and 4.
		if len(f) >= EthernetLen+28 && binary.BigEndian.Uint64(f[14:22])>>16 == 0x000108000604 {
			p.Class = ARP
		}
		return
	default:
		p.Class = Unknown
		return
	}
	if p.Class == Malformed {
		return
	}
	if (p.GSO != GSONone || p.Flags&NeedsCsum != 0) && !offload(p, f) {
		p.Class = Malformed
		return
	}
	if f[0]&1 != 0 && p.Class != ICMPOther {
		p.Class = Multicast
	}
}

// offload reports whether the offload metadata of p, which came with it from
// the other end of a port, agree with the headers in f. It replaces the length
// of the headers, which the system that sent it means as a hint only, and makes
// an ordinary packet of a superpacket of one segment.
func offload(p *Packet, f []byte) bool {
	if p.Class == Fragment {
		return false
	}
	at := csumOffset(p.Tuple.Proto)
	if p.Flags&NeedsCsum != 0 {
		// A checksum further in is that of a packet in a tunnel of the sender's own.
		if p.CsumStart < p.L4 || uint32(p.CsumStart)+uint32(p.CsumOffset)+2 > p.Len ||
			p.CsumStart == p.L4 && at >= 0 && int(p.CsumOffset) != at {
			return false
		}
	}
	if p.GSO == GSONone {
		return true
	}
	if p.Flags&NeedsCsum == 0 || p.CsumStart != p.L4 || p.GSOSize == 0 {
		return false
	}
	hdr := int(p.L4) + 8
	switch {
	case p.GSO.Kind() == GSOUDPL4 && p.Tuple.Proto == ProtoUDP:
	case p.GSO.Kind() == GSOTCPv4 && p.Tuple.Proto == ProtoTCP && is4(f),
		p.GSO.Kind() == GSOTCPv6 && p.Tuple.Proto == ProtoTCP && !is4(f):
		hdr = int(p.L4) + int(f[p.L4+12]>>4)*4
	default:
		return false
	}
	if hdr > MaxHeader || p.Stride != 0 && (int(p.HdrLen) != hdr || p.Stride < p.GSOSize) {
		return false
	}
	p.HdrLen = uint16(hdr)
	if int(p.Len)-hdr <= int(p.GSOSize) {
		p.GSO, p.GSOSize, p.HdrLen, p.Stride = GSONone, 0, 0, 0
	}
	return true
}

func parse4(p *Packet, f []byte) {
	h := f[EthernetLen:]
	ihl := int(h[0]&15) * 4
	total := int(binary.BigEndian.Uint16(h[2:4]))
	wire := int(p.Len) - EthernetLen
	if h[0]>>4 != 4 || ihl < 20 || total < ihl || total > wire || len(h) < ihl {
		return
	}
	if total < wire {
		if p.GSO != GSONone {
			return
		}
		p.Len = uint32(EthernetLen + total)
		h = h[:total]
	}
	t := &p.Tuple
	binary.NativeEndian.PutUint64(t.Src[:8], 0)
	binary.NativeEndian.PutUint64(t.Dst[:8], 0)
	binary.BigEndian.PutUint32(t.Src[8:12], 0xffff)
	binary.BigEndian.PutUint32(t.Dst[8:12], 0xffff)
	*(*[4]byte)(t.Src[12:]) = [4]byte(h[12:16])
	*(*[4]byte)(t.Dst[12:]) = [4]byte(h[16:20])
	t.Proto = h[9]
	p.L4 = uint16(EthernetLen + ihl)
	frag := binary.BigEndian.Uint16(h[6:8])
	if frag&0x1fff != 0 {
		t.SrcPort, t.DstPort = 0, 0
		p.Class = Fragment
		return
	}
	first := frag&ipMF != 0
	ports(p, h[ihl:], !first)
	if first && p.Class != Malformed {
		p.Class = Fragment
	}
}

func parse6(p *Packet, f []byte) {
	h := f[EthernetLen:]
	if len(h) < 40 || h[0]>>4 != 6 {
		return
	}
	total := 40 + int(binary.BigEndian.Uint16(h[4:6]))
	wire := int(p.Len) - EthernetLen
	if total > wire {
		return
	}
	if total < wire {
		if p.GSO != GSONone {
			return
		}
		p.Len = uint32(EthernetLen + total)
		h = h[:total]
	}
	t := &p.Tuple
	t.Src = Addr(h[8:24])
	t.Dst = Addr(h[24:40])
	if t.Src.Is4() || t.Dst.Is4() {
		return // would pass for IPv4 from here on; RFC 4291 has no such packets
	}
	next, off := h[6], 40
	for range maxExt {
		switch next {
		case extHopByHop, extRouting, extDestOpts:
			if len(h) < off+8 {
				return
			}
			next, off = h[off], off+8+int(h[off+1])*8
			continue
		case extAuth:
			if len(h) < off+8 {
				return
			}
			next, off = h[off], off+8+int(h[off+1])*4
			continue
		case extFragment:
			if len(h) < off+8 {
				return
			}
			frag := binary.BigEndian.Uint16(h[off+2 : off+4])
			next, off = h[off], off+8
			t.Proto = next
			p.L4 = uint16(EthernetLen + off)
			if frag&^uint16(6) == 0 {
				continue // an atomic fragment (RFC 6946) is an ordinary packet
			}
			if frag>>3 != 0 {
				t.SrcPort, t.DstPort = 0, 0
				p.Class = Fragment
				return
			}
			switch next {
			case extHopByHop, extRouting, extDestOpts, extAuth, extFragment:
				return // RFC 7112: the first fragment holds the whole chain
			}
			if off > len(h) {
				return
			}
			ports(p, h[off:], false)
			if p.Class != Malformed {
				p.Class = Fragment
			}
			return
		}
		if off > len(h) {
			return
		}
		t.Proto = next
		p.L4 = uint16(EthernetLen + off)
		if next == extNoNext {
			t.SrcPort, t.DstPort = 0, 0
			p.Class = Flow
			return
		}
		ports(p, h[off:], true)
		return
	}
}

// ports reads what names the flow from the transport header h and sets Class,
// unless the header is cut off. A first fragment is not the whole packet.
func ports(p *Packet, h []byte, whole bool) {
	t := &p.Tuple
	switch t.Proto {
	case ProtoTCP:
		if len(h) < 20 || h[12]>>4 < 5 || len(h) < int(h[12]>>4)*4 {
			return
		}
		p.TCPFlags = h[13]
		p.Control = h[13]&(TCPSyn|TCPFin|TCPRst) != 0
	case ProtoUDP:
		if len(h) < 8 {
			return
		}
		n := int(binary.BigEndian.Uint16(h[4:6]))
		if n < 8 || whole && n > int(p.Len)-int(p.L4) {
			return
		}
	case ProtoSCTP:
		if len(h) < 12 {
			return
		}
		if len(h) >= 16 && binary.BigEndian.Uint16(h[14:16]) >= 4 {
			p.Chunk = h[12]
			p.Control = p.Chunk < 32 && controlChunks>>p.Chunk&1 != 0
		}
	case ProtoICMP, ProtoICMPv6:
		icmp(p, h)
		return
	default:
		t.SrcPort, t.DstPort = 0, 0
		p.Class = Flow
		return
	}
	t.SrcPort = binary.BigEndian.Uint16(h[0:2])
	t.DstPort = binary.BigEndian.Uint16(h[2:4])
	p.Class = Flow
}

func icmp(p *Packet, h []byte) {
	t := &p.Tuple
	t.SrcPort, t.DstPort = 0, 0
	if len(h) < 8 {
		return
	}
	p.Class = ICMPOther
	typ := h[0]
	if t.Proto == ProtoICMP {
		switch typ {
		case 0, 8: // echo reply, echo request
			p.Class = Flow
		case 3, 4, 5, 11, 12:
			p.Class = ICMPError
		}
	} else {
		switch {
		case typ == 128 || typ == 129:
			p.Class = Flow
		case typ < 128:
			p.Class = ICMPError
		}
	}
	if p.Class == Flow {
		t.SrcPort = binary.BigEndian.Uint16(h[4:6])
		t.DstPort = t.SrcPort
	}
}

// FirstFragment reports whether the Fragment p is the one that has the
// transport header.
func (b *Batch) FirstFragment(p *Packet) bool {
	_, off, _ := b.FragmentID(p)
	return off == 0
}

// FragmentID returns, of a packet of class Fragment, the identification, the
// offset in bytes of its payload in the whole, and whether more follow.
func (b *Batch) FragmentID(p *Packet) (id uint32, offset int, more bool) {
	f := b.Frame(p)
	if binary.BigEndian.Uint16(f[12:14]) == EtherTypeIPv4 {
		v := binary.BigEndian.Uint16(f[EthernetLen+6:])
		return uint32(binary.BigEndian.Uint16(f[EthernetLen+4:])), int(v&0x1fff) * 8, v&0x2000 != 0
	}
	h := f[p.L4-8 : p.L4] // the fragment header stands right before what it carries
	v := binary.BigEndian.Uint16(h[2:4])
	return binary.BigEndian.Uint32(h[4:8]), int(v &^ 7), v&1 != 0
}

// MaxPayload returns how long the payload of the datagram can be that p, of class
// Fragment, is part of: IPv4 counts the header in the length, IPv6 counts the
// extension headers that the datagram keeps.
func (b *Batch) MaxPayload(p *Packet) int {
	hdr := int(p.L4) - EthernetLen
	if !is4(b.Frame(p)) {
		hdr -= ipv6HeaderBytes + fragmentHeader
	}
	return MaxIP - hdr
}
