package packet

import "encoding/binary"

// RewriteRouted is DecrementTTL and Rewrite in one step, for what most packets are
// that a router translates: TCP and UDP in IPv4 without options or fragments. It
// reports false, and changes nothing, for all others and when the TTL is at its
// end; then the two know what to do.
func (b *Batch) RewriteRouted(p *Packet, t *Translation4) bool {
	const l4 = EthernetLen + 20
	if p.Class != Flow || p.L4 != l4 || p.Len < l4+20 {
		return false
	}
	f := b.Buf[p.Off : p.Off+l4+20]
	at := l4 + 16
	switch {
	case !is4(f) || f[22] <= 1:
		return false
	case p.Tuple.Proto == ProtoUDP:
		at = l4 + 6
	case p.Tuple.Proto != ProtoTCP:
		return false
	}
	sum := uint32(binary.BigEndian.Uint16(f[at:]))
	switch {
	case p.Flags&NeedsCsum != 0:
		if p.CsumStart != l4 {
			return false // that of a packet in a tunnel
		}
		sum = uint32(Fold(sum + uint32(t.Delta.Addrs)))
	case p.Tuple.Proto != ProtoUDP:
		sum = uint32(^Fold(sum ^ 0xffff + uint32(t.Delta.Addrs) + uint32(t.Delta.Ports)))
	case sum != 0: // zero says that there is no checksum (RFC 768)
		if sum = uint32(^Fold(sum ^ 0xffff + uint32(t.Delta.Addrs) + uint32(t.Delta.Ports))); sum == 0 {
			sum = 0xffff
		}
	}
	binary.BigEndian.PutUint16(f[at:], uint16(sum))
	f[22]--
	// The word of TTL and protocol shrinks by 0x0100: see DecrementTTL.
	head := uint32(^binary.BigEndian.Uint16(f[24:26])) + uint32(t.Delta.Addrs) + 0xfeff
	binary.BigEndian.PutUint16(f[24:26], ^Fold(head))
	*(*[12]byte)(f[26:38]) = t.Header
	return true
}
