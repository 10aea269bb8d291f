package packet

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"unsafe"
)

// IP protocol numbers (IANA).
const (
	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58
	ProtoSCTP   = 132
)

// Addr is an IPv4 or IPv6 address in 16 bytes; IPv4 is mapped (::ffff:a.b.c.d),
// so that one code path serves both families.
type Addr [16]byte

// AddrFrom returns a as an Addr. The zero netip.Addr gives the zero Addr.
func AddrFrom(a netip.Addr) Addr {
	if !a.IsValid() {
		return Addr{}
	}
	return a.As16()
}

// Netip returns a as netip.Addr, IPv4 unmapped.
func (a Addr) Netip() netip.Addr { return netip.AddrFrom16(a).Unmap() }

// Is4 reports whether a is an IPv4 address.
func (a *Addr) Is4() bool {
	return binary.NativeEndian.Uint64(a[:8]) == 0 && binary.BigEndian.Uint32(a[8:12]) == 0xffff
}

func (a Addr) String() string { return a.Netip().String() }

// Tuple names one direction of a flow as a packet shows it. It is a map key
// without pointers: 40 bytes, no padding, compared and hashed as memory.
//
// ICMP echo has its identifier in both ports, so that the reply is the
// reversed tuple; protocols without ports have zero ports.
type Tuple struct {
	Src, Dst         Addr
	SrcPort, DstPort uint16
	Proto            uint8
	// Flags tells apart packets of equal addresses that take different ways
	// through the switch (Routed). Zero in connection tracking.
	Flags uint8
	// In is the port or peer the packet came in by, so that what was found
	// allowed for one pod is never applied to another. Zero in connection
	// tracking.
	In uint16
}

// Routed is set in Tuple.Flags of a frame sent to the gateway's MAC.
const Routed uint8 = 1

// Reverse returns the tuple of the opposite direction. In and Flags are zero.
func (t *Tuple) Reverse() Tuple {
	return Tuple{Src: t.Dst, Dst: t.Src, SrcPort: t.DstPort, DstPort: t.SrcPort, Proto: t.Proto}
}

// Flow returns the tuple without In and Flags: the key of connection tracking.
func (t *Tuple) Flow() Tuple {
	u := *t
	u.Flags, u.In = 0, 0
	return u
}

// Is4 reports whether the tuple is of IPv4.
func (t *Tuple) Is4() bool { return t.Dst.Is4() }

// Rest returns all of the tuple but the addresses, as one word in memory order.
func (t *Tuple) Rest() uint64 { return (*[5]uint64)(unsafe.Pointer(t))[4] }

// String gives "tcp 10.0.0.1:1234 -> 10.0.0.2:80".
func (t Tuple) String() string {
	switch t.Proto {
	case ProtoTCP, ProtoUDP, ProtoSCTP:
		return fmt.Sprintf("%s %s -> %s", ProtoName(t.Proto),
			netip.AddrPortFrom(t.Src.Netip(), t.SrcPort), netip.AddrPortFrom(t.Dst.Netip(), t.DstPort))
	case ProtoICMP, ProtoICMPv6:
		return fmt.Sprintf("%s %s -> %s id %d", ProtoName(t.Proto), t.Src, t.Dst, t.SrcPort)
	}
	return fmt.Sprintf("%s %s -> %s", ProtoName(t.Proto), t.Src, t.Dst)
}

// ProtoName returns the protocol's name in lower case, or "proto-N".
func ProtoName(proto uint8) string {
	switch proto {
	case ProtoICMP:
		return "icmp"
	case ProtoTCP:
		return "tcp"
	case ProtoUDP:
		return "udp"
	case ProtoICMPv6:
		return "icmpv6"
	case ProtoSCTP:
		return "sctp"
	}
	return fmt.Sprintf("proto-%d", proto)
}

// Hash returns a seeded 64-bit hash of the tuple. With a random seed, a pod
// cannot choose tuples that collide. The construction is the folded multiply
// of wyhash, unrolled for five words.
func (t *Tuple) Hash(seed uint64) uint64 {
	w := (*[5]uint64)(unsafe.Pointer(t))
	h1, l1 := bits.Mul64(w[0]^seed^0xa0761d6478bd642f, w[1]^0xe7037ed1a0b428db)
	h2, l2 := bits.Mul64(w[2]^seed^0x8ebc6af09c88c6e3, w[3]^0x589965cc75374cc3)
	h3, l3 := bits.Mul64(h1^l1^h2^l2^seed, w[4]^0x1d8e4e27c47d124f)
	return h3 ^ l3
}
