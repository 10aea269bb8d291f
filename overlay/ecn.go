package overlay

import (
	"encoding/binary"

	"vswitch/vswitch/packet"
)

// Codepoints of the ECN field (RFC 3168 section 5).
const (
	notECT = 0
	ect1   = 1
	ect0   = 2
	ce     = 3
)

// ecnOf returns the ECN field of the IP packet in the frame f, notECT if it
// holds none.
func ecnOf(f []byte) uint8 {
	if len(f) < packet.EthernetLen+2 {
		return notECT
	}
	switch binary.BigEndian.Uint16(f[12:14]) {
	case packet.EtherTypeIPv4:
		return f[15] & 3
	case packet.EtherTypeIPv6:
		return f[15] >> 4 & 3
	}
	return notECT
}

// decapECN gives the IP packet in the frame f the ECN field that it has after a
// tunnel whose outer header arrived with outer (RFC 6040 section 4.2). It
// reports false if the packet must be dropped: congestion was marked on the way
// and its sender would not understand that.
func decapECN(f []byte, outer uint8) bool {
	inner := ecnOf(f)
	switch {
	case outer == ce:
		if inner == notECT {
			// ARP and the like carry no mark and do not care.
			return !isIP(f)
		}
	case outer == ect1 && inner == ect0:
	default:
		return true
	}
	if inner != outer {
		setECN(f, outer)
	}
	return true
}

func isIP(f []byte) bool {
	if len(f) < packet.EthernetLen {
		return false
	}
	t := binary.BigEndian.Uint16(f[12:14])
	return t == packet.EtherTypeIPv4 || t == packet.EtherTypeIPv6
}

// setECN replaces the ECN field of the IP packet in the frame f, for which
// ecnOf is not notECT, and mends the checksum of an IPv4 header.
func setECN(f []byte, ecn uint8) {
	h := f[packet.EthernetLen:]
	if f[12] != 0x08 {
		h[1] = h[1]&^0x30 | ecn<<4
		return
	}
	old := h[1]
	h[1] = old&^3 | ecn
	if len(h) >= 12 {
		// RFC 1624 equation 3; only the low byte of the word changes.
		c := uint32(^binary.BigEndian.Uint16(h[10:12])) + uint32(^uint16(old)) + uint32(h[1])
		binary.BigEndian.PutUint16(h[10:12], ^packet.Fold(c))
	}
}
