package l2

import (
	"encoding/binary"

	"vswitch/vswitch/packet"
)

// ARPLen is the length in bytes of a frame that this package writes for ARP. It
// has no padding: nothing inside the switch needs it, and a driver whose medium
// does adds it.
const ARPLen = packet.EthernetLen + 28

// arpHeader is the fixed start of an ARP packet: hardware Ethernet, protocol
// IPv4, lengths 6 and 4; the operation follows in the low 16 bits.
const arpHeader = 0x000108000604 << 16

// Operations of ARP (RFC 826).
const (
	ARPRequest = 1
	ARPReply   = 2
)

// ARP is an ARP packet for Ethernet and IPv4 (RFC 826).
type ARP struct {
	Op        uint16
	SenderMAC [6]byte
	// TargetMAC means something in a reply only.
	TargetMAC [6]byte
	// SenderIP is 0.0.0.0 in a probe (RFC 5227).
	SenderIP, TargetIP packet.Addr
}

// ParseARP reads an ARP frame; padding behind it is ignored. It refuses other
// hardware, protocols and operations, a sender MAC that is no station's, and
// addresses that no host has: multicast and broadcast anywhere, 0.0.0.0 but as
// the sender of a request. Whether the sender is who it says is the caller's
// question, and so is the Ethernet source.
func ParseARP(frame []byte) (a ARP, ok bool) {
	if len(frame) < ARPLen || binary.BigEndian.Uint16(frame[12:]) != packet.EtherTypeARP {
		return ARP{}, false
	}
	h := frame[packet.EthernetLen:ARPLen]
	if binary.BigEndian.Uint64(h)&^0xffff != arpHeader {
		return ARP{}, false
	}
	a.Op = binary.BigEndian.Uint16(h[6:])
	a.SenderMAC, a.TargetMAC = [6]byte(h[8:14]), [6]byte(h[18:24])
	a.SenderIP, a.TargetIP = mapped([4]byte(h[14:18])), mapped([4]byte(h[24:28]))
	switch {
	case a.Op != ARPRequest && a.Op != ARPReply,
		!station(&a.SenderMAC),
		!host(&a.SenderIP) && !(a.Request() && a.SenderUnspecified()),
		// A reply to a probe has no target address.
		!host(&a.TargetIP) && !(a.Op == ARPReply && a.TargetIP == unspecified4):
		return ARP{}, false
	}
	return a, true
}

// unspecified4 is 0.0.0.0.
var unspecified4 = mapped([4]byte{})

// mapped returns an IPv4 address as an Addr.
func mapped(b [4]byte) (a packet.Addr) {
	a[10], a[11] = 0xff, 0xff
	copy(a[12:], b[:])
	return a
}

// host reports whether an IPv4 address may be that of a host: not in 0.0.0.0/8,
// not multicast, not 255.255.255.255. The rest of 240.0.0.0/4 is reserved, and
// in use as private space all the same.
func host(a *packet.Addr) bool {
	return a[12] != 0 && a[12]&0xf0 != 0xe0 && binary.BigEndian.Uint32(a[12:]) != 0xffffffff
}

// station reports whether mac is one interface's: neither a group's nor zero.
func station(mac *[6]byte) bool { return mac[0]&1 == 0 && *mac != [6]byte{} }

// Request reports whether a asks for an address.
func (a *ARP) Request() bool { return a.Op == ARPRequest }

// SenderUnspecified reports whether a has no sender address: it is a probe for
// an address that its sender does not use yet (RFC 5227 section 2.1.1).
func (a *ARP) SenderUnspecified() bool { return a.SenderIP == unspecified4 }

// Announcement reports whether a asks for, or tells, its sender's own address
// (RFC 5227 section 2.3; gratuitous ARP).
func (a *ARP) Announcement() bool { return a.SenderIP == a.TargetIP }

// Reply writes the answer to the request a into buf, saying that TargetIP is at
// mac, and returns the frame. It is sent to the one who asked. buf must have
// room for ARPLen bytes.
func (a *ARP) Reply(buf []byte, mac [6]byte) []byte {
	r := ARP{Op: ARPReply, SenderMAC: mac, SenderIP: a.TargetIP, TargetMAC: a.SenderMAC, TargetIP: a.SenderIP}
	return r.put(buf, &a.SenderMAC)
}

// GratuitousARP writes an announcement to all into buf, saying that the IPv4
// address ip is at mac, and returns the frame: a request for one's own address,
// which updates the caches of all who have ip in them (RFC 5227 section 2.3).
// buf must have room for ARPLen bytes.
func GratuitousARP(buf []byte, mac [6]byte, ip packet.Addr) []byte {
	r := ARP{Op: ARPRequest, SenderMAC: mac, SenderIP: ip, TargetIP: ip}
	return r.put(buf, &broadcast)
}

var broadcast = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// put writes a as a frame to dst.
func (a *ARP) put(buf []byte, dst *[6]byte) []byte {
	f := buf[:ARPLen]
	putEthernet(f, dst, &a.SenderMAC, packet.EtherTypeARP)
	h := f[packet.EthernetLen:]
	binary.BigEndian.PutUint64(h, arpHeader|uint64(a.Op))
	copy(h[8:14], a.SenderMAC[:])
	copy(h[14:18], a.SenderIP[12:])
	copy(h[18:24], a.TargetMAC[:])
	copy(h[24:28], a.TargetIP[12:])
	return f
}

// putEthernet writes the Ethernet header of f.
func putEthernet(f []byte, dst, src *[6]byte, etherType uint16) {
	_ = f[packet.EthernetLen-1]
	copy(f[0:6], dst[:])
	copy(f[6:12], src[:])
	binary.BigEndian.PutUint16(f[12:14], etherType)
}
