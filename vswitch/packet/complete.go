package packet

import (
	"encoding/binary"
	"hash/crc32"
)

// castagnoli is the polynomial of SCTP's checksum (RFC 9260 appendix A).
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Complete finishes the checksum of a packet that NeedsCsum, in place, and
// clears the flag. Superpackets are left alone: Cut completes their segments.
// Offsets outside of the frame only lose the flag; the packet then carries a
// wrong checksum and dies at its receiver.
func (b *Batch) Complete(p *Packet) {
	if p.Flags&NeedsCsum == 0 || p.GSO != GSONone {
		return
	}
	p.Flags &^= NeedsCsum
	f := b.Frame(p)
	at := int(p.CsumStart) + int(p.CsumOffset)
	if at+2 > len(f) {
		return
	}
	c := ^fold(sum(f[p.CsumStart:]))
	if c == 0 && p.CsumOffset == udpCsum {
		c = 0xffff // zero says that there is no checksum (RFC 768)
	}
	binary.LittleEndian.PutUint16(f[at:], c)
}

// VerifyTransport reports whether the transport checksum of p, which Parse has
// seen, is right, and sets Verified then. What cannot be wrong is right: UDP
// over IPv4 without a checksum, protocols that have none, and checksums that
// are still to be completed. Fragments and trains cannot be checked and are not
// right.
func (b *Batch) VerifyTransport(p *Packet) bool {
	if p.Flags&(NeedsCsum|Verified) != 0 {
		return true
	}
	f := b.Frame(p)
	if p.Stride != 0 || len(f) < EthernetLen+20 {
		return false
	}
	h := f[EthernetLen:]
	off, proto, fragment, ok := transport(h)
	if !ok || fragment || p.Class == Fragment || !transportOK(h, off, proto) {
		return false
	}
	p.Flags |= Verified
	return true
}

// transportOK reports whether the checksum of the transport packet at off of
// the whole IP packet h is right.
func transportOK(h []byte, off int, proto uint8) bool {
	l := h[off:]
	pseudo := add(sum(addresses(h)), uint64(proto)<<8)
	switch proto {
	case ProtoTCP:
		if len(l) < 20 {
			return false
		}
	case ProtoUDP:
		if len(l) < 8 {
			return false
		}
		if l[6] == 0 && l[7] == 0 {
			return h[0]>>4 == 4
		}
		n := int(binary.BigEndian.Uint16(l[4:6]))
		if n < 8 || n > len(l) {
			return false
		}
		l = l[:n]
	case ProtoICMP:
		return len(l) >= 4 && fold(sum(l)) == 0xffff
	case ProtoICMPv6:
		if len(l) < 4 {
			return false
		}
	case ProtoSCTP:
		return len(l) >= 12 && binary.LittleEndian.Uint32(l[8:12]) == sctpSum(l)
	default:
		return true
	}
	return fold(add(add(pseudo, le16(len(l))), sum(l))) == 0xffff
}

// sctpSum returns the CRC32c of the SCTP packet l with its checksum field
// taken as zero.
func sctpSum(l []byte) uint32 {
	c := crc32.Update(0, castagnoli, l[:8])
	c = crc32.Update(c, castagnoli, zeros[:4])
	return crc32.Update(c, castagnoli, l[12:])
}
