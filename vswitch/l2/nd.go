package l2

import (
	"encoding/binary"

	"vswitch/vswitch/packet"
)

// ICMPv6 types of neighbor discovery (RFC 4861 section 4).
const (
	RouterSolicitation    = 133
	RouterAdvertisement   = 134
	NeighborSolicitation  = 135
	NeighborAdvertisement = 136
	Redirect              = 137
)

// AdvertisementLen is the length in bytes of a frame that this package writes
// for neighbor discovery: an advertisement with a link-layer address.
const AdvertisementLen = neighborAt + 24 + 8

// Offsets in a frame of neighbor discovery.
const (
	ip6At      = packet.EthernetLen
	neighborAt = ip6At + 40 // of the ICMPv6 header: neighbor discovery knows no extension headers
)

// Flags of a neighbor advertisement (RFC 4861 section 4.4).
const (
	flagRouter    = 1 << 31
	flagSolicited = 1 << 30
	flagOverride  = 1 << 29
)

// Header is what all messages of neighbor discovery have in common.
type Header struct {
	// MAC is the Ethernet source.
	MAC [6]byte
	// Source and Destination are those of the IPv6 packet.
	Source, Destination packet.Addr
	// Options are valid as long as the frame is.
	Options Options
}

// NS is a neighbor solicitation: who has Target? Its Source is unspecified in
// duplicate address detection (RFC 4862).
type NS struct {
	Header
	Target packet.Addr
}

// NA is a neighbor advertisement: Target is at the Ethernet source, or at the
// target link-layer address among the options.
type NA struct {
	Header
	Target                      packet.Addr
	Router, Solicited, Override bool
}

// RS is a router solicitation.
type RS struct{ Header }

// RA is a router advertisement. Times are in the units of the wire.
type RA struct {
	Header
	HopLimit       uint8
	Managed, Other bool
	Lifetime       uint16 // seconds; 0: no default router
	Reachable      uint32 // milliseconds; 0: unspecified
	Retransmit     uint32 // milliseconds; 0: unspecified
}

// ParseNS reads a neighbor solicitation and validates it as RFC 4861 section
// 7.1.1 demands.
func ParseNS(frame []byte) (n NS, ok bool) {
	m, ok := parse(frame, NeighborSolicitation, 24, &n.Header)
	if !ok {
		return NS{}, false
	}
	n.Target = packet.Addr(m[8:24])
	if group(&n.Target) || n.Probe() && (!solicitedNode(&n.Destination) || n.Options.has(SourceMAC)) {
		return NS{}, false
	}
	return n, true
}

// ParseNA reads a neighbor advertisement and validates it as RFC 4861 section
// 7.1.2 demands.
func ParseNA(frame []byte) (n NA, ok bool) {
	m, ok := parse(frame, NeighborAdvertisement, 24, &n.Header)
	if !ok {
		return NA{}, false
	}
	flags := binary.BigEndian.Uint32(m[4:8])
	n.Router, n.Solicited, n.Override = flags&flagRouter != 0, flags&flagSolicited != 0, flags&flagOverride != 0
	n.Target = packet.Addr(m[8:24])
	if group(&n.Target) || n.Solicited && group(&n.Destination) || n.Source == (packet.Addr{}) {
		return NA{}, false
	}
	return n, true
}

// ParseRS reads a router solicitation and validates it as RFC 4861 section 6.1.1
// demands.
func ParseRS(frame []byte) (r RS, ok bool) {
	if _, ok := parse(frame, RouterSolicitation, 8, &r.Header); !ok {
		return RS{}, false
	}
	if r.Source == (packet.Addr{}) && r.Options.has(SourceMAC) {
		return RS{}, false
	}
	return r, true
}

// ParseRA reads a router advertisement and validates it as RFC 4861 section 6.1.2
// demands.
func ParseRA(frame []byte) (r RA, ok bool) {
	m, ok := parse(frame, RouterAdvertisement, 16, &r.Header)
	if !ok || r.Source[0] != 0xfe || r.Source[1]&0xc0 != 0x80 {
		return RA{}, false
	}
	r.HopLimit, r.Managed, r.Other = m[4], m[5]&0x80 != 0, m[5]&0x40 != 0
	r.Lifetime = binary.BigEndian.Uint16(m[6:8])
	r.Reachable, r.Retransmit = binary.BigEndian.Uint32(m[8:12]), binary.BigEndian.Uint32(m[12:16])
	return r, true
}

// parse checks what all messages have in common: that no router has forwarded
// it (hop limit 255), code, checksum, and that the options, behind fixed bytes,
// are whole. It returns the ICMPv6 message. Fragments are refused (RFC 6980),
// and so are extension headers, which nobody uses here.
func parse(frame []byte, typ byte, fixed int, h *Header) (m []byte, ok bool) {
	if len(frame) < neighborAt+fixed || binary.BigEndian.Uint16(frame[12:]) != packet.EtherTypeIPv6 {
		return nil, false
	}
	ip := frame[ip6At:]
	length := int(binary.BigEndian.Uint16(ip[4:6]))
	if ip[0]>>4 != 6 || ip[6] != packet.ProtoICMPv6 || ip[7] != 255 || length < fixed || length > len(ip)-40 {
		return nil, false
	}
	m = ip[40 : 40+length]
	h.MAC, h.Source, h.Destination = [6]byte(frame[6:12]), packet.Addr(ip[8:24]), packet.Addr(ip[24:40])
	h.Options = Options(m[fixed:])
	if m[0] != typ || m[1] != 0 || group(&h.Source) || !station(&h.MAC) || !h.Options.valid() {
		return nil, false
	}
	return m, packet.Fold(packet.Sum(m, packet.PseudoSum(&h.Source, &h.Destination, packet.ProtoICMPv6, length))) == 0xffff
}

// group reports whether a is a multicast address.
func group(a *packet.Addr) bool { return a[0] == 0xff }

// solicitedNode reports whether a is in ff02::1:ff00:0/104.
func solicitedNode(a *packet.Addr) bool {
	return [13]byte(a[:13]) == [13]byte{0xff, 2, 11: 1, 12: 0xff}
}

// Probe reports whether n is about an address that its sender does not use yet:
// duplicate address detection (RFC 4862 section 5.4.2).
func (n *NS) Probe() bool { return n.Source == packet.Addr{} }

// Advertise writes the answer to n into buf, saying that Target is at mac, and
// whether that is a router's, and returns the frame. It overrides what the
// asker knew. It is sent to the MAC that the solicitation names, else to the
// one that it came from; the answer to a probe goes to all nodes and is not
// solicited (RFC 4861 section 7.2.4). buf must have room for AdvertisementLen
// bytes.
func (n *NS) Advertise(buf []byte, mac [6]byte, router bool) []byte {
	if n.Probe() {
		return UnsolicitedNA(buf, mac, n.Target, router)
	}
	dst := n.MAC
	if named, ok := n.Options.MAC(SourceMAC); ok && station(&named) {
		dst = named
	}
	return putNA(buf, &dst, &mac, &n.Target, &n.Source, flagSolicited|flagOverride, router)
}

// allNodes is ff02::1, and allNodesMAC its Ethernet address (RFC 2464).
var (
	allNodes    = packet.Addr{0xff, 2, 15: 1}
	allNodesMAC = [6]byte{0x33, 0x33, 0, 0, 0, 1}
)

// UnsolicitedNA writes an advertisement to all nodes into buf, saying that the
// IPv6 address ip is at mac, and returns the frame: all who have ip in their
// caches take the new MAC (RFC 4861 section 7.2.6). buf must have room for
// AdvertisementLen bytes.
func UnsolicitedNA(buf []byte, mac [6]byte, ip packet.Addr, router bool) []byte {
	return putNA(buf, &allNodesMAC, &mac, &ip, &allNodes, flagOverride, router)
}

// putNA writes an advertisement of target, sent by itself.
func putNA(buf []byte, dstMAC, mac *[6]byte, target, dst *packet.Addr, flags uint32, router bool) []byte {
	f := buf[:AdvertisementLen]
	putEthernet(f, dstMAC, mac, packet.EtherTypeIPv6)
	const length = AdvertisementLen - neighborAt
	ip := f[ip6At:]
	binary.BigEndian.PutUint32(ip[0:4], 6<<28)
	binary.BigEndian.PutUint16(ip[4:6], length)
	ip[6], ip[7] = packet.ProtoICMPv6, 255
	copy(ip[8:24], target[:])
	copy(ip[24:40], dst[:])
	if router {
		flags |= flagRouter
	}
	m := ip[40:]
	binary.BigEndian.PutUint32(m[0:4], NeighborAdvertisement<<24)
	binary.BigEndian.PutUint32(m[4:8], flags)
	copy(m[8:24], target[:])
	m[24], m[25] = TargetMAC, 1
	copy(m[26:32], mac[:])
	binary.BigEndian.PutUint16(m[2:4], ^packet.Fold(packet.Sum(m, packet.PseudoSum(target, dst, packet.ProtoICMPv6, length))))
	return f
}
