package packet

import "encoding/binary"

// Offsets of the checksum in a transport header.
const (
	tcpCsum  = 16
	udpCsum  = 6
	icmpCsum = 2
)

// is4 reports whether the frame f carries IPv4. The switch classifies frames
// before it works on them, so what is not IPv4 is IPv6.
func is4(f []byte) bool { return f[12] == 0x08 && f[13] == 0x00 }

// transport finds the transport header of the IP packet h: its offset and the
// protocol. A fragment other than the first has none; then fragment is true
// and off is where its payload starts. It is not ok if h is cut off before.
func transport(h []byte) (off int, proto uint8, fragment, ok bool) {
	if len(h) < 20 {
		return 0, 0, false, false
	}
	if h[0]>>4 == 4 {
		off = int(h[0]&15) * 4
		fragment = binary.BigEndian.Uint16(h[6:8])&0x1fff != 0
		return off, h[9], fragment, off >= 20 && off <= len(h)
	}
	if h[0]>>4 != 6 || len(h) < 40 {
		return 0, 0, false, false
	}
	proto, off = h[6], 40
	for range maxExt {
		unit := 8
		switch proto {
		case extHopByHop, extRouting, extDestOpts:
		case extAuth:
			unit = 4
		case extFragment:
			unit = 0
		default:
			return off, proto, false, off <= len(h)
		}
		if len(h) < off+8 {
			return 0, 0, false, false
		}
		if proto == extFragment && binary.BigEndian.Uint16(h[off+2:])>>3 != 0 {
			return off + 8, h[off], true, true
		}
		proto, off = h[off], off+8+int(h[off+1])*unit
	}
	return 0, 0, false, false
}

// addresses returns the addresses of the IP packet h as they stand in it.
func addresses(h []byte) []byte {
	if h[0]>>4 == 4 {
		return h[12:20]
	}
	return h[8:40]
}

// csumOffset returns where a transport header has its ones-complement
// checksum, or -1.
func csumOffset(proto uint8) int {
	switch proto {
	case ProtoTCP:
		return tcpCsum
	case ProtoUDP:
		return udpCsum
	case ProtoICMP, ProtoICMPv6:
		return icmpCsum
	}
	return -1
}

// putHeaderSum computes the header checksum of the IPv4 header h, options
// included.
func putHeaderSum(h []byte) {
	h[10], h[11] = 0, 0
	binary.LittleEndian.PutUint16(h[10:12], ^fold(sum(h[:int(h[0]&15)*4])))
}

// SetEthernet replaces the MAC addresses of p.
func (b *Batch) SetEthernet(p *Packet, dst, src *[6]byte) {
	f := b.Buf[p.Off : p.Off+12]
	*(*[6]byte)(f[0:6]) = *dst
	*(*[6]byte)(f[6:12]) = *src
}

// DecrementTTL takes one from the TTL or hop limit of an IP packet, as a router
// does. It reports false, and changes nothing, when the packet may not be
// forwarded any more (RFC 1812 section 5.3.1).
func (b *Batch) DecrementTTL(p *Packet) bool {
	f := b.Buf[p.Off : p.Off+EthernetLen+20]
	if !is4(f) {
		if f[EthernetLen+7] <= 1 {
			return false
		}
		f[EthernetLen+7]--
		return true
	}
	h := f[EthernetLen:]
	if h[8] <= 1 {
		return false
	}
	h[8]--
	// The word of TTL and protocol shrinks by 0x0100, so its sum's inverse
	// grows by that (RFC 1141); 0xffff cannot result, as the header is not zero.
	c := uint32(binary.BigEndian.Uint16(h[10:12])) + 0x0100
	if c >= 0xffff {
		c -= 0xffff
	}
	binary.BigEndian.PutUint16(h[10:12], uint16(c))
	return true
}
