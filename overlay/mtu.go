package overlay

import (
	"net/netip"

	"vswitch/vswitch/packet"
)

// Overhead in bytes between the IP packet of a pod and the one that carries it:
// inner Ethernet, VXLAN, UDP and the outer IP header.
const (
	Overhead4 = packet.EthernetLen + HeaderLen + 8 + 20
	Overhead6 = packet.EthernetLen + HeaderLen + 8 + 40
)

// InnerMTU returns the largest IP packet, in bytes, that fits a VXLAN datagram
// on an underlay of that address family and MTU. It is never negative, nor
// larger than a datagram of UDP can hold.
func InnerMTU(underlay netip.Addr, underlayMTU int) int {
	overhead := Overhead4
	if underlay.Is6() && !underlay.Is4In6() {
		overhead = Overhead6
	}
	return max(0, min(underlayMTU-overhead, maxMTU))
}

// Bounds of an inner MTU: the smallest that IPv4 knows (RFC 791), and what is
// left of the largest IPv4 packet.
const (
	minMTU = 68
	maxMTU = packet.MaxIP - Overhead4
)
