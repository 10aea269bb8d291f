package packet

import "encoding/binary"

// Complaint is what an ICMP error says, in both families.
type Complaint uint8

// Complaints, with their ICMP (RFC 792) and ICMPv6 (RFC 4443) types and codes.
const (
	HostUnreachable Complaint = iota // 3/1, 1/3
	PortUnreachable                  // 3/3, 1/4
	Prohibited                       // 3/13, 1/1
	HopLimit                         // 11/0, 3/0
	PacketTooBig                     // 3/4, 2/0
)

var complaints4 = [...][2]byte{{3, 1}, {3, 3}, {3, 13}, {11, 0}, {3, 4}}
var complaints6 = [...][2]byte{{1, 3}, {1, 4}, {1, 1}, {3, 0}, {2, 0}}

// ICMP types.
const (
	icmpEchoReply   = 0
	icmpEcho        = 8
	icmp6Echo       = 128
	icmp6EchoReply  = 129
	replyTTL        = 64
	maxError4       = 576  // RFC 1812 4.3.2.3
	maxError6       = 1280 // RFC 4443 2.4 (c)
	ipv4HeaderBytes = 20
	ipv6HeaderBytes = 40
	fragmentHeader  = 8
)

// ICMPError writes an ICMP error about p into buf as a frame whose Ethernet
// addresses are left zero, and returns its length. It returns 0 where none may
// be sent: about ICMP errors, about packets that went or claim to come from more
// than one host, and about fragments but the first (RFC 1122 3.2.2, RFC 4443
// 2.4 (e)). from is the address of the one who complains, mtu that of a
// PacketTooBig. buf must have room for 1,294 bytes.
func (b *Batch) ICMPError(buf []byte, p *Packet, from *Addr, c Complaint, mtu int) int {
	src := &p.Tuple.Src
	if p.Class != Flow && p.Class != Fragment || *src == (Addr{}) || *from == (Addr{}) {
		return 0
	}
	if p.Class == Fragment && !b.FirstFragment(p) {
		return 0
	}
	cause := b.Frame(p)[EthernetLen:]
	if src.Is4() {
		if src[12] == 0 || src[12] >= 224 {
			return 0
		}
		return icmpError4(buf, cause, from, complaints4[c], mtu)
	}
	if src[0] == 0xff {
		return 0
	}
	return icmpError6(buf, cause, from, complaints6[c], mtu)
}

func icmpError4(buf, cause []byte, from *Addr, c [2]byte, mtu int) int {
	cause = cause[:min(len(cause), maxError4-ipv4HeaderBytes-8)]
	ip := buf[EthernetLen:]
	total := ipv4HeaderBytes + 8 + len(cause)
	putEtherType(buf, EtherTypeIPv4)
	putIPv4(ip, total, ProtoICMP, from, cause[12:16])
	l := ip[ipv4HeaderBytes:total]
	l[0], l[1], l[2], l[3] = c[0], c[1], 0, 0
	binary.BigEndian.PutUint32(l[4:8], uint32(mtu))
	copy(l[8:], cause)
	binary.BigEndian.PutUint16(l[2:4], ^Fold(Sum(l, 0)))
	return EthernetLen + total
}

func icmpError6(buf, cause []byte, from *Addr, c [2]byte, mtu int) int {
	cause = cause[:min(len(cause), maxError6-ipv6HeaderBytes-8)]
	ip := buf[EthernetLen:]
	length := 8 + len(cause)
	putEtherType(buf, EtherTypeIPv6)
	putIPv6(ip, length, ProtoICMPv6, from, cause[8:24])
	l := ip[ipv6HeaderBytes : ipv6HeaderBytes+length]
	l[0], l[1], l[2], l[3] = c[0], c[1], 0, 0
	binary.BigEndian.PutUint32(l[4:8], uint32(mtu))
	copy(l[8:], cause)
	dst := Addr(cause[8:24])
	binary.BigEndian.PutUint16(l[2:4], ^Fold(Sum(l, PseudoSum(from, &dst, ProtoICMPv6, length))))
	return EthernetLen + ipv6HeaderBytes + length
}

// TCPReset writes the RST that refuses the TCP packet p into buf, as a frame
// whose Ethernet addresses are left zero, and returns its length; 0 if p is a
// reset itself (RFC 9293 3.10.7.1).
func (b *Batch) TCPReset(buf []byte, p *Packet) int {
	if p.Class != Flow || p.Tuple.Proto != ProtoTCP || p.TCPFlags&TCPRst != 0 {
		return 0
	}
	t := p.Tuple.Reverse()
	in := b.Frame(p)[p.L4:]
	l, n := putTCP(buf, &t, TCPRst)
	if p.TCPFlags&TCPAck != 0 {
		copy(l[4:8], in[8:12]) // our sequence number is what they acknowledged
	} else {
		length := p.Len - uint32(p.L4) - uint32(in[12]>>4)*4
		if p.TCPFlags&TCPSyn != 0 {
			length++
		}
		if p.TCPFlags&TCPFin != 0 {
			length++
		}
		binary.BigEndian.PutUint32(l[8:12], binary.BigEndian.Uint32(in[4:8])+length)
		l[13] |= TCPAck
	}
	putTCPSum(l, &t)
	return n
}

// BareAck writes a TCP ACK without data into buf, as a frame whose Ethernet addresses
// are left zero, and returns its length. buf must have room for 74 bytes.
func BareAck(buf []byte, t *Tuple, seq, ack uint32) int {
	l, n := putTCP(buf, t, TCPAck)
	binary.BigEndian.PutUint32(l[4:8], seq)
	binary.BigEndian.PutUint32(l[8:12], ack)
	putTCPSum(l, t)
	return n
}

// putTCP writes the headers of a TCP segment without options and data, and
// returns its TCP header, without sequence numbers and checksum, and the length
// of the frame.
func putTCP(buf []byte, t *Tuple, flags uint8) (l []byte, n int) {
	if t.Src.Is4() {
		putEtherType(buf, EtherTypeIPv4)
		putIPv4(buf[EthernetLen:], ipv4HeaderBytes+20, ProtoTCP, &t.Src, t.Dst[12:])
		n = EthernetLen + ipv4HeaderBytes
	} else {
		putEtherType(buf, EtherTypeIPv6)
		putIPv6(buf[EthernetLen:], 20, ProtoTCP, &t.Src, t.Dst[:])
		n = EthernetLen + ipv6HeaderBytes
	}
	l = buf[n : n+20]
	clear(l)
	binary.BigEndian.PutUint16(l[0:2], t.SrcPort)
	binary.BigEndian.PutUint16(l[2:4], t.DstPort)
	l[12], l[13] = 5<<4, flags
	return l, n + 20
}

func putTCPSum(l []byte, t *Tuple) {
	binary.BigEndian.PutUint16(l[16:18], ^Fold(Sum(l, PseudoSum(&t.Src, &t.Dst, ProtoTCP, 20))))
}

// EchoReply turns an ICMP echo request into its reply in place: type,
// addresses and hop limit. It reports false, having changed nothing, for
// anything else. The Ethernet addresses are the caller's.
func (b *Batch) EchoReply(p *Packet) bool {
	if p.Class != Flow || !b.EchoRequest(p) {
		return false
	}
	frame := b.Frame(p)
	ip := frame[EthernetLen:]
	if p.Tuple.Is4() {
		swap(ip[12:16], ip[16:20])
		ip[8] = replyTTL
		putHeaderSum(ip)
	} else {
		swap(ip[8:24], ip[24:40])
		ip[7] = replyTTL
	}
	AnswerEcho(frame[p.L4:])
	p.Tuple.Src, p.Tuple.Dst = p.Tuple.Dst, p.Tuple.Src
	return true
}

// EchoRequest reports whether p is an ICMP echo request, or the first fragment
// of one.
func (b *Batch) EchoRequest(p *Packet) bool {
	l := b.Frame(p)[p.L4:]
	if p.Class != Flow && (p.Class != Fragment || !b.FirstFragment(p)) || len(l) < 8 {
		return false
	}
	if p.Tuple.Is4() {
		return p.Tuple.Proto == ProtoICMP && l[0] == icmpEcho
	}
	return p.Tuple.Proto == ProtoICMPv6 && l[0] == icmp6Echo
}

// AnswerEcho makes the ICMP message of an echo request that of its reply. The
// checksum is mended for the type; that of ICMPv6 stays right when the addresses
// are swapped.
func AnswerEcho(l []byte) {
	reply := byte(icmpEchoReply)
	if l[0] == icmp6Echo {
		reply = icmp6EchoReply
	}
	fixSum(l[2:4], uint16(l[0])<<8, uint16(reply)<<8)
	l[0] = reply
}

// DontFragment reports whether the IPv4 packet p must not be cut on its way.
func (b *Batch) DontFragment(p *Packet) bool { return b.Buf[p.Off+EthernetLen+6]&0x40 != 0 }

func putEtherType(buf []byte, t uint16) {
	clear(buf[:12])
	binary.BigEndian.PutUint16(buf[12:14], t)
}

// putIPv4 writes a header without options, and with DF, as all that the
// switch says fits everywhere.
func putIPv4(h []byte, total int, proto uint8, src *Addr, dst []byte) {
	h[0], h[1] = 0x45, 0
	binary.BigEndian.PutUint16(h[2:4], uint16(total))
	binary.BigEndian.PutUint32(h[4:8], 0x4000)
	h[8], h[9] = replyTTL, proto
	copy(h[12:16], src[12:])
	copy(h[16:20], dst)
	putHeaderSum(h)
}

func putIPv6(h []byte, length int, proto uint8, src *Addr, dst []byte) {
	binary.BigEndian.PutUint32(h[0:4], 6<<28)
	binary.BigEndian.PutUint16(h[4:6], uint16(length))
	h[6], h[7] = proto, replyTTL
	copy(h[8:24], src[:])
	copy(h[24:40], dst)
}

// fixSum updates a checksum for one 16-bit word that changed (RFC 1624 eq. 3).
func fixSum(sum []byte, from, to uint16) {
	s := uint32(^binary.BigEndian.Uint16(sum)) + uint32(^from) + uint32(to)
	binary.BigEndian.PutUint16(sum, ^Fold(s))
}

func swap(a, b []byte) {
	for i := range a {
		a[i], b[i] = b[i], a[i]
	}
}
