package stack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"vswitch/vswitch/packet"
)

// unreachable6 is an ICMPv6 destination unreachable (RFC 4443 section 3.1) of a
// code that gVisor ignores: prohibited, beyond scope, address unreachable,
// policy, reject route. Over IPv4 it knows their like. Without them a dial to
// an unreachable or forbidden address would wait for its deadline.
type unreachable6 struct{ code header.ICMPv6Code }

var _ stack.TransportError = unreachable6{}

// Kind implements [stack.TransportError]: "no route to host", as for ICMP's
// prohibited and host unreachable.
func (unreachable6) Kind() stack.TransportErrorKind {
	return stack.DestinationHostUnreachableTransportError
}

// Origin implements [tcpip.SockErrorCause].
func (unreachable6) Origin() tcpip.SockErrOrigin { return tcpip.SockExtErrorOriginICMP6 }

// Type implements [tcpip.SockErrorCause].
func (unreachable6) Type() uint8 { return uint8(header.ICMPv6DstUnreachable) }

// Code implements [tcpip.SockErrorCause].
func (u unreachable6) Code() uint8 { return uint8(u.code) }

// Info implements [tcpip.SockErrorCause].
func (unreachable6) Info() uint32 { return 0 }

// unreachable hands the frame f to the socket that it is about, if it is one
// that gVisor would ignore, and reports whether it was.
func (l *link) unreachable(f []byte) bool {
	h := f[packet.EthernetLen:]
	if binary.BigEndian.Uint16(f[12:14]) != packet.EtherTypeIPv6 ||
		len(h) < header.IPv6MinimumSize+header.ICMPv6DstUnreachableMinimumSize ||
		h[6] != uint8(header.ICMPv6ProtocolNumber) {
		return false
	}
	m := header.ICMPv6(h[header.IPv6MinimumSize:])
	if m.Type() != header.ICMPv6DstUnreachable ||
		m.Code() == header.ICMPv6NetworkUnreachable || m.Code() == header.ICMPv6PortUnreachable {
		return false
	}
	n := int(binary.BigEndian.Uint16(h[4:6]))
	if n < header.ICMPv6DstUnreachableMinimumSize || n > len(m) {
		return true
	}
	m = m[:n]
	src, dst := packet.Addr(h[8:24]), packet.Addr(h[24:40])
	if packet.Fold(packet.Sum(m, packet.PseudoSum(&src, &dst, packet.ProtoICMPv6, n))) != 0xffff {
		return true
	}
	l.refuse(m[header.ICMPv6DstUnreachableMinimumSize:], unreachable6{m.Code()})
	return true
}

// refuse tells the socket that sent the quoted packet, if there is one.
func (l *link) refuse(quoted []byte, err stack.TransportError) {
	nic := l.dispatcher.Load()
	if nic == nil || len(quoted) < header.IPv6MinimumSize {
		return
	}
	d, ok := (*nic).(stack.TransportDispatcher)
	h := header.IPv6(quoted)
	if !ok || l.stack.CheckLocalAddress(nicID, header.IPv6ProtocolNumber, h.SourceAddress()) == 0 {
		return
	}
	proto, rest := tcpip.TransportProtocolNumber(h.NextHeader()), quoted[header.IPv6MinimumSize:]
	if proto == header.IPv6FragmentHeader {
		f := header.IPv6Fragment(rest)
		if !f.IsValid() || f.FragmentOffset() != 0 {
			return
		}
		proto, rest = f.TransportProtocol(), rest[header.IPv6FragmentHeaderSize:]
	}
	pkt := newPacket(rest)
	defer pkt.DecRef()
	pkt.NetworkProtocolNumber = header.IPv6ProtocolNumber
	d.DeliverTransportError(h.SourceAddress(), h.DestinationAddress(), header.IPv6ProtocolNumber, proto, err, pkt)
}
