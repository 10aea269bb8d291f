package packet

import "encoding/binary"

// Datagram is what the switch itself sends in one piece or in fragments, of
// either family (RFC 791, RFC 8200 section 4.5). The headers have no options.
type Datagram struct {
	Src, Dst Addr
	Proto    uint8
	// ID names the fragments; IPv4 has its lower 16 bits. No other datagram
	// between the two may have it while these fragments are on their way.
	ID uint32
	// Payload begins with the transport header, complete with its checksum.
	Payload []byte

	sent int // bytes of payload
}

// Next writes the next packet of at most mtu bytes as a frame to buf, with
// Ethernet addresses left zero, and returns its length. It is not ok behind the
// last one, nor when mtu leaves no room for payload or IP has no datagram as
// large as this. buf must have room for the MTU and an Ethernet header.
func (d *Datagram) Next(buf []byte, mtu int) (n int, ok bool) {
	v4 := d.Src.Is4()
	hdr, limit := ipv6HeaderBytes, MaxIP
	if v4 {
		hdr, limit = ipv4HeaderBytes, MaxIP-ipv4HeaderBytes
	}
	left := len(d.Payload) - d.sent
	if left <= 0 || len(d.Payload) > limit {
		return 0, false
	}
	whole := d.sent == 0 && hdr+left <= mtu
	if !whole && !v4 {
		hdr += fragmentHeader
	}
	part := left
	if hdr+left > mtu {
		if part = (mtu - hdr) &^ 7; part < 8 {
			return 0, false
		}
	}
	frag, more := uint16(d.sent), part < left
	h := buf[EthernetLen : EthernetLen+hdr]
	if v4 {
		putEtherType(buf, EtherTypeIPv4)
		putIPv4(h, hdr+part, d.Proto, &d.Src, d.Dst[12:])
		if !whole {
			if frag /= 8; more {
				frag |= ipMF
			}
			binary.BigEndian.PutUint16(h[4:6], uint16(d.ID))
			binary.BigEndian.PutUint16(h[6:8], frag)
			putHeaderSum(h)
		}
	} else {
		putEtherType(buf, EtherTypeIPv6)
		putIPv6(h, hdr-ipv6HeaderBytes+part, d.Proto, &d.Src, d.Dst[:])
		if !whole {
			if more {
				frag |= 1
			}
			h[6] = extFragment
			h[40], h[41] = d.Proto, 0
			binary.BigEndian.PutUint16(h[42:44], frag)
			binary.BigEndian.PutUint32(h[44:48], d.ID)
		}
	}
	copy(buf[EthernetLen+hdr:], d.Payload[d.sent:d.sent+part])
	d.sent += part
	return EthernetLen + hdr + part, true
}
