package agent

import (
	"encoding/binary"
	"hash/crc32"

	"vswitch/vswitch/packet"
)

// probeTTL is what Linux sends with (net.ipv4.ip_default_ttl).
const probeTTL = 64

// probe makes the first packet of a flow, as a sender would: a TCP SYN, a UDP
// datagram, an SCTP INIT, an echo request, or of any other protocol some zeros.
func probe(dst, src [6]byte, r *TraceRequest) []byte {
	proto, v4 := r.Proto, r.Source.Addr().Is4()
	if proto == packet.ProtoICMP && !v4 {
		proto = packet.ProtoICMPv6
	}
	header := 40
	if v4 {
		header = 20
	}
	frame := make([]byte, packet.EthernetLen+max(header+transportLen(proto), r.Size))
	copy(frame, dst[:])
	copy(frame[6:], src[:])
	ip := frame[packet.EthernetLen:]
	if v4 {
		binary.BigEndian.PutUint16(frame[12:], packet.EtherTypeIPv4)
		ip[0], ip[6], ip[8], ip[9] = 0x45, 0x40, probeTTL, proto // do not fragment
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		copy(ip[12:], r.Source.Addr().AsSlice())
		copy(ip[16:], r.Destination.Addr().AsSlice())
		binary.BigEndian.PutUint16(ip[10:], ^packet.Fold(packet.Sum(ip[:20], 0)))
	} else {
		binary.BigEndian.PutUint16(frame[12:], packet.EtherTypeIPv6)
		ip[0], ip[6], ip[7] = 0x60, proto, probeTTL
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
		copy(ip[8:], r.Source.Addr().AsSlice())
		copy(ip[24:], r.Destination.Addr().AsSlice())
	}
	fillTransport(ip[header:], proto, r)
	return frame
}

// transportLen is the length of the smallest packet that begins a flow.
func transportLen(proto uint8) int {
	switch proto {
	case packet.ProtoTCP:
		return 20
	case packet.ProtoSCTP:
		return 12 + sctpInitLen
	}
	return 8
}

// sctpInitLen is the length of an INIT chunk without options (RFC 9260 3.3.2).
const sctpInitLen = 20

func fillTransport(l []byte, proto uint8, r *TraceRequest) {
	be := binary.BigEndian
	if proto == packet.ProtoTCP || proto == packet.ProtoUDP || proto == packet.ProtoSCTP {
		be.PutUint16(l, r.Source.Port())
		be.PutUint16(l[2:], r.Destination.Port())
	}
	src, dst := packet.AddrFrom(r.Source.Addr()), packet.AddrFrom(r.Destination.Addr())
	sum := func() uint16 { return ^packet.Fold(packet.Sum(l, packet.PseudoSum(&src, &dst, proto, len(l)))) }
	switch proto {
	case packet.ProtoTCP:
		l[12], l[13] = 5<<4, packet.TCPSyn
		be.PutUint16(l[14:], 65535) // window
		be.PutUint16(l[16:], sum())
	case packet.ProtoUDP:
		be.PutUint16(l[4:], uint16(len(l)))
		if be.PutUint16(l[6:], sum()); l[6] == 0 && l[7] == 0 {
			l[6], l[7] = 0xff, 0xff // zero says that there is no checksum (RFC 768)
		}
	case packet.ProtoSCTP:
		l[12], l[15] = 1, sctpInitLen // INIT
		l[19] = 1                     // initiate tag
		be.PutUint32(l[20:], 65535)   // window
		l[25], l[27] = 1, 1           // streams
		l[31] = 1                     // initial TSN
		binary.LittleEndian.PutUint32(l[8:], crc32.Checksum(l, crc32.MakeTable(crc32.Castagnoli)))
	case packet.ProtoICMP:
		l[0] = 8 // echo request
		be.PutUint16(l[2:], ^packet.Fold(packet.Sum(l, 0)))
	case packet.ProtoICMPv6:
		l[0] = 128
		be.PutUint16(l[2:], sum())
	}
}
