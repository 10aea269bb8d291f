package port

import (
	"encoding/binary"

	"vswitch/vswitch/packet"
)

// vnetLen is the length of struct virtio_net_hdr without num_buffers
// (include/uapi/linux/virtio_net.h), what a TAP with IFF_VNET_HDR puts before
// each frame:
//
//	0      1        2        4         6          8            10
//	flags  gso_type hdr_len  gso_size  csum_start csum_offset
//
// All in host order.
const vnetLen = 10

// Flags of virtio_net_hdr.
const (
	vnetNeedsCsum = 1
	vnetDataValid = 2
)

// maxSegments bounds what one superpacket may be cut into. A pod can write any
// offload header on a packet socket; one that asks for segments of a byte would
// make a single read into 65,000 packets. 64 KiB in segments of 64 bytes is
// more than any TCP does.
const maxSegments = 1024

// decodeVnet reads a vnet header into p, whose frame is f. It reports false if
// the header contradicts the frame, which must then be dropped: it comes from
// whoever sent the frame, not from the kernel alone.
func decodeVnet(h *[vnetLen]byte, f []byte, p *packet.Packet) bool {
	flags, gso := h[0], packet.GSO(h[1])
	if flags&vnetNeedsCsum == 0 {
		if flags&vnetDataValid != 0 {
			p.Flags = packet.Verified
		}
		// A superpacket without NEEDS_CSUM does not leave a Linux stack; its
		// segments could not be told apart from damaged ones.
		return gso == packet.GSONone
	}
	start := int(binary.NativeEndian.Uint16(h[6:8]))
	offset := int(binary.NativeEndian.Uint16(h[8:10]))
	if start < packet.EthernetLen || start+offset+2 > len(f) {
		return false
	}
	p.Flags = packet.NeedsCsum
	p.CsumStart, p.CsumOffset = uint16(start), uint16(offset)
	if gso == packet.GSONone {
		return true
	}
	p.GSO = gso
	p.GSOSize = binary.NativeEndian.Uint16(h[4:6])
	hdr := headerLen(gso, start, offset, f)
	p.HdrLen = uint16(hdr)
	if hdr == 0 || hdr >= len(f) || p.GSOSize == 0 {
		return false
	}
	return p.Segments() <= maxSegments
}

// headerLen returns the length of all headers of the superpacket f, whose
// transport header is at start, or 0 if it is none of that kind. The hdr_len of
// the vnet header is only a hint: it may cover payload.
func headerLen(gso packet.GSO, start, offset int, f []byte) int {
	ethertype := binary.BigEndian.Uint16(f[12:14])
	switch gso.Kind() {
	case packet.GSOTCPv4:
		if ethertype != packet.EtherTypeIPv4 {
			return 0
		}
	case packet.GSOTCPv6:
		if ethertype != packet.EtherTypeIPv6 {
			return 0
		}
	case packet.GSOUDPL4:
		if offset != 6 || gso != packet.GSOUDPL4 {
			return 0
		}
		return start + 8
	default:
		return 0
	}
	if offset != 16 || start+20 > len(f) {
		return 0
	}
	n := int(f[start+12]>>4) * 4
	if n < 20 {
		return 0
	}
	return start + n
}

// encodeVnet writes the vnet header of p.
func encodeVnet(h *[vnetLen]byte, p *packet.Packet) {
	*h = [vnetLen]byte{}
	if p.Flags&packet.NeedsCsum != 0 {
		h[0] = vnetNeedsCsum
		binary.NativeEndian.PutUint16(h[6:8], p.CsumStart)
		binary.NativeEndian.PutUint16(h[8:10], p.CsumOffset)
	} else if p.Flags&packet.Verified != 0 {
		h[0] = vnetDataValid
	}
	if p.GSO != packet.GSONone {
		h[1] = byte(p.GSO)
		binary.NativeEndian.PutUint16(h[2:4], p.HdrLen)
		binary.NativeEndian.PutUint16(h[4:6], p.GSOSize)
	}
}
