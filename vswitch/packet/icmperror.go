package packet

import "encoding/binary"

// icmpHeader is the length of an ICMP or ICMPv6 error before the packet it is about.
const icmpHeader = 8

// ErrorTuple returns the tuple of the packet that the ICMP error p is about, as
// it stands in the error: that of a packet which travelled in the opposite
// direction. It is not ok if the error does not hold enough of that packet, or
// if nothing can be matched with it: a later fragment, another ICMP error.
func (b *Batch) ErrorTuple(p *Packet) (t Tuple, ok bool) {
	f := b.Frame(p)
	if p.Class != ICMPError || len(f) < int(p.L4)+icmpHeader {
		return t, false
	}
	in := f[int(p.L4)+icmpHeader:]
	off, proto, fragment, ok := transport(in)
	if !ok || fragment || (in[0]>>4 == 4) != is4(f) {
		return t, false
	}
	t.Proto = proto
	if in[0]>>4 == 4 {
		t.Src, t.Dst = mapped([4]byte(in[12:16])), mapped([4]byte(in[16:20]))
	} else {
		t.Src, t.Dst = Addr(in[8:24]), Addr(in[24:40])
		if t.Src.Is4() || t.Dst.Is4() {
			return t, false // as in Parse
		}
	}
	l := in[off:]
	switch proto {
	case ProtoTCP, ProtoUDP, ProtoSCTP:
		if len(l) < 4 {
			return t, false
		}
		t.SrcPort, t.DstPort = binary.BigEndian.Uint16(l[0:2]), binary.BigEndian.Uint16(l[2:4])
	case ProtoICMP, ProtoICMPv6:
		if len(l) < 6 || !echo(l[0], proto) {
			return t, false
		}
		t.SrcPort = binary.BigEndian.Uint16(l[4:6])
		t.DstPort = t.SrcPort
	}
	return t, true
}

func mapped(a [4]byte) Addr {
	return Addr{10: 0xff, 11: 0xff, 12: a[0], 13: a[1], 14: a[2], 15: a[3]}
}

// RewriteError translates the ICMP error p: its own addresses become src and
// dst, and the packet it is about, for which ErrorTuple was ok, shows inner. All
// checksums are mended by difference: those of both IPv4 headers, of the
// transport header inside as far as the error holds it, and of the error itself.
// It reports false, and changes nothing, if the families differ.
func (b *Batch) RewriteError(p *Packet, src, dst *Addr, inner *Tuple) bool {
	was, ok := b.ErrorTuple(p)
	f := b.Frame(p)
	v4 := is4(f)
	if !ok || src.Is4() != v4 || dst.Is4() != v4 || inner.Src.Is4() != v4 || inner.Dst.Is4() != v4 {
		return false
	}
	icmp := f[p.L4:]
	in := icmp[icmpHeader:]
	before := sum(icmp)
	t := Translate(&was, inner)
	off, proto, _, _ := transport(in)
	if v4 {
		copy(in[12:16], t.Src[12:])
		copy(in[16:20], t.Dst[12:])
		patch(in[10:12], uint32(t.Delta.Addrs))
	} else {
		copy(in[8:24], t.Src[:])
		copy(in[24:40], t.Dst[:])
	}
	rewriteError(in, off, proto, &t)
	// The error's own checksum covers everything that changed inside, and of
	// ICMPv6 also the outer addresses.
	outer := f[EthernetLen:]
	delta := uint32(deltaOf(before, sum(icmp)))
	from := sum(addresses(outer))
	if v4 {
		copy(outer[12:16], src[12:])
		copy(outer[16:20], dst[12:])
		patch(outer[10:12], uint32(deltaOf(from, sum(addresses(outer)))))
	} else {
		copy(outer[8:24], src[:])
		copy(outer[24:40], dst[:])
		delta += uint32(deltaOf(from, sum(addresses(outer))))
	}
	patch(icmp[icmpCsum:], delta)
	return true
}

// rewriteError puts t into the transport header at off of the packet inside an
// ICMP error. Of SCTP the checksum is lost unless the whole packet is there;
// nobody can check it then.
func rewriteError(in []byte, off int, proto uint8, t *Translation) {
	l := in[off:]
	var whole int
	if in[0]>>4 == 4 {
		whole = int(binary.BigEndian.Uint16(in[2:4]))
	} else {
		whole = 40 + int(binary.BigEndian.Uint16(in[4:6]))
	}
	if proto == ProtoSCTP && whole != len(in) {
		binary.BigEndian.PutUint16(l[0:2], t.SrcPort)
		binary.BigEndian.PutUint16(l[2:4], t.DstPort)
		return
	}
	rewriteTransport(l, proto, t, false)
}
