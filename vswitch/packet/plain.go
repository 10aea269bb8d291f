package packet

import "encoding/binary"

const (
	// plainL4 is where the transport header of a plain packet begins.
	plainL4 = EthernetLen + 20
	// plainHeaders is the length of all headers of a plain packet of TCP without
	// options.
	plainHeaders = plainL4 + 20
)

// parsePlain is parse for what most packets are (Plain). h is where the frame of p
// is, and reaches beyond its end if that is short. For all others it reports false,
// and has changed nothing.
func parsePlain(p *Packet, h *[plainHeaders]byte) bool {
	// EtherType, and version and length of the IP header; what is a fragment.
	if binary.LittleEndian.Uint32(h[12:16])&0xffffff != 0x450008 || binary.BigEndian.Uint16(h[20:22])&0x3fff != 0 {
		return false
	}
	if h[0]&1 != 0 || p.GSO != GSONone || EthernetLen+uint32(binary.BigEndian.Uint16(h[16:18])) != p.Len {
		return false
	}
	flags, at := uint8(0), uint16(tcpCsum)
	proto, rest := h[23], int(p.Len)-plainL4
	switch proto {
	case ProtoTCP:
		if n := int(h[plainL4+12]>>4) * 4; n < 20 || n > rest {
			return false
		}
		flags = h[plainL4+13]
	case ProtoUDP:
		if n := int(binary.BigEndian.Uint16(h[plainL4+4:])); n < 8 || n > rest {
			return false
		}
		at = udpCsum
	default:
		return false
	}
	if p.Flags&NeedsCsum != 0 && (p.CsumStart != plainL4 || p.CsumOffset != at) {
		return false
	}
	p.Flags |= Plain
	p.Class = Flow
	p.TCPFlags, p.Chunk, p.Control = flags, 0, flags&(TCPSyn|TCPFin|TCPRst) != 0
	p.L4 = plainL4
	t := &p.Tuple
	// What stands in front of the last four bytes maps IPv4.
	const mapped = 0xffff << 16
	binary.NativeEndian.PutUint64(t.Src[:8], 0)
	binary.NativeEndian.PutUint64(t.Dst[:8], 0)
	binary.LittleEndian.PutUint64(t.Src[8:], mapped|uint64(binary.LittleEndian.Uint32(h[26:]))<<32)
	binary.LittleEndian.PutUint64(t.Dst[8:], mapped|uint64(binary.LittleEndian.Uint32(h[30:]))<<32)
	t.SrcPort = binary.BigEndian.Uint16(h[plainL4:])
	t.DstPort = binary.BigEndian.Uint16(h[plainL4+2:])
	t.Proto, t.Flags, t.In = proto, 0, p.In
	return true
}
