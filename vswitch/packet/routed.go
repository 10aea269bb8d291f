package packet

import "encoding/binary"

// RewriteRouted is DecrementTTL and Rewrite in one step, for what is Plain. It
// reports false, and changes nothing, for all others and when the TTL is at its
// end; then the two know what to do.
func (b *Batch) RewriteRouted(p *Packet, t *Translation4) bool {
	f := b.Buf[p.Off:]
	if p.Flags&Plain == 0 || len(f) < plainHeaders || f[22] <= 1 {
		return false
	}
	f = f[:plainHeaders]
	at := plainL4 + tcpCsum
	if p.Tuple.Proto == ProtoUDP {
		at = plainL4 + udpCsum
	}
	sum := uint32(binary.BigEndian.Uint16(f[at:]))
	switch {
	case p.Flags&NeedsCsum != 0:
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
