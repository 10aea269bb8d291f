package overlay

import (
	"encoding/binary"

	"vswitch/vswitch/packet"
)

// finish recognizes a packet that its sender left to a network card which never
// came. A kernel VXLAN device completes the outer checksum itself and leaves the
// inner one to the card, and cutting too; if the datagram reaches this machine
// by a virtual link (veth, virtio), nobody ever does it, and no call tells. Such
// a packet has the sum of the pseudo header where its checksum should be; it
// gets the metadata that it had at the sender. A complete checksum of the same
// value, one in 65,536, comes to no harm: completing it gives it again.
//
// A TCP packet larger than the MTU then is a superpacket. What its segments
// measured is lost; they become as large as fits. p is parsed on the way.
func finish(b *packet.Batch, p *packet.Packet, mtu int) {
	b.Parse(p)
	at := 16
	switch {
	case p.Class != packet.Flow:
		return
	case p.Tuple.Proto == packet.ProtoUDP:
		at = 6
	case p.Tuple.Proto != packet.ProtoTCP:
		return
	}
	l4 := b.Frame(p)[p.L4:]
	pseudo := packet.PseudoSum(&p.Tuple.Src, &p.Tuple.Dst, p.Tuple.Proto, len(l4))
	if binary.BigEndian.Uint16(l4[at:]) != packet.Fold(pseudo) {
		return
	}
	p.Flags = packet.NeedsCsum
	p.CsumStart, p.CsumOffset = p.L4, uint16(at)
	if at == 6 || int(p.Len)-packet.EthernetLen <= mtu {
		return
	}
	hdr := int(p.L4) + int(l4[12]>>4)*4
	size := mtu + packet.EthernetLen - hdr
	if size <= 0 {
		return
	}
	p.GSO = packet.GSOTCPv6
	if p.Tuple.Is4() {
		p.GSO = packet.GSOTCPv4
	}
	if p.TCPFlags&packet.TCPCwr != 0 {
		p.GSO |= packet.GSOECN
	}
	p.HdrLen, p.GSOSize = uint16(hdr), uint16(size)
}
