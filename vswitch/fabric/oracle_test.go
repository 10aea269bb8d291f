package fabric

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"

	"vswitch/vswitch/packet"
)

// What is here makes and checks packets by the letter of the RFCs, and shares no
// code with the switch.

// dgram is an IP datagram with a transport header.
type dgram struct {
	src, dst netip.AddrPort // of ICMP echo, the source's port is the identifier
	proto    uint8
	flags    uint8 // of TCP; of SCTP the first chunk's type; of ICMP the type
	seq      uint32
	options  int // words of TCP options
	noSum    bool
	ttl      uint8
	id       uint16
	payload  []byte
}

// onesSum is the ones' complement sum of 16-bit words (RFC 1071).
func onesSum(parts ...[]byte) uint16 {
	all := bytes.Join(parts, nil)
	if len(all)%2 == 1 {
		all = append(all, 0)
	}
	sum := uint32(0)
	for i := 0; i < len(all); i += 2 {
		sum += uint32(all[i])<<8 | uint32(all[i+1])
		if sum > 0xffff {
			sum -= 0xffff
		}
	}
	return uint16(sum)
}

// pseudo is the pseudo header of RFC 9293 section 3.1 and of RFC 8200 section 8.1.
func pseudo(src, dst netip.Addr, proto uint8, n int) []byte {
	b := append(src.AsSlice(), dst.AsSlice()...)
	return append(b, 0, proto, byte(n>>8), byte(n))
}

// sumAt returns where the checksum of a protocol is, and whether it covers the
// pseudo header.
func sumAt(proto uint8) (at int, addrs bool) {
	switch proto {
	case packet.ProtoTCP:
		return 16, true
	case packet.ProtoUDP:
		return 6, true
	case packet.ProtoICMP:
		return 2, false
	}
	return 2, true // ICMPv6
}

// transport is the datagram without its IP header.
func (d *dgram) transport() []byte {
	var l []byte
	switch d.proto {
	case packet.ProtoTCP:
		l = make([]byte, 20+4*d.options)
		binary.BigEndian.PutUint32(l[4:], d.seq)
		l[12], l[13], l[14] = byte(5+d.options)<<4, d.flags, 2
		for i := 20; i < len(l); i++ {
			l[i] = 1
		}
	case packet.ProtoUDP:
		l = make([]byte, 8)
		binary.BigEndian.PutUint16(l[4:], uint16(8+len(d.payload)))
	case packet.ProtoSCTP:
		l = make([]byte, 16)
		binary.BigEndian.PutUint32(l[4:], d.seq)
		l[12] = d.flags
		binary.BigEndian.PutUint16(l[14:], uint16(4+len(d.payload)))
	default:
		l = make([]byte, 8)
		l[0] = d.flags
		binary.BigEndian.PutUint16(l[4:], d.src.Port())
		binary.BigEndian.PutUint16(l[6:], uint16(d.seq))
	}
	if d.proto != packet.ProtoICMP && d.proto != packet.ProtoICMPv6 {
		binary.BigEndian.PutUint16(l, d.src.Port())
		binary.BigEndian.PutUint16(l[2:], d.dst.Port())
	}
	l = append(l, d.payload...)
	if d.proto == packet.ProtoSCTP {
		binary.LittleEndian.PutUint32(l[8:], crc32.Checksum(l, crc32.MakeTable(crc32.Castagnoli)))
		return l
	}
	at, addrs := sumAt(d.proto)
	var ph []byte
	if addrs {
		ph = pseudo(d.src.Addr(), d.dst.Addr(), d.proto, len(l))
	}
	if !d.noSum {
		sum := ^onesSum(ph, l)
		if sum == 0 && d.proto == packet.ProtoUDP {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(l[at:], sum)
	}
	return l
}

// ip is the datagram from its IP header on.
func (d *dgram) ip() []byte {
	l := d.transport()
	if d.src.Addr().Is6() {
		h := make([]byte, 8, 40+len(l))
		h[0], h[6], h[7] = 0x60, d.proto, d.ttl
		binary.BigEndian.PutUint16(h[4:], uint16(len(l)))
		h = append(append(h, d.src.Addr().AsSlice()...), d.dst.Addr().AsSlice()...)
		return append(h, l...)
	}
	h := make([]byte, 12, 20+len(l))
	h[0], h[8], h[9] = 0x45, d.ttl, d.proto
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(l)))
	binary.BigEndian.PutUint16(h[4:], d.id)
	h = append(append(h, d.src.Addr().AsSlice()...), d.dst.Addr().AsSlice()...)
	binary.BigEndian.PutUint16(h[10:], ^onesSum(h))
	return append(h, l...)
}

// split is an IP packet taken apart.
type split struct {
	src, dst netip.Addr
	proto    uint8
	ttl      uint8
	id       uint32
	off      int
	more     bool
	body     []byte
}

// parseIP takes a packet apart and checks its IP header.
func parseIP(ip []byte) (s split, err error) {
	if len(ip) < 20 {
		return s, errors.New("shorter than a header")
	}
	if ip[0]>>4 == 4 {
		n := int(binary.BigEndian.Uint16(ip[2:]))
		if n < 20 || n > len(ip) || onesSum(ip[:20]) != 0xffff {
			return s, fmt.Errorf("bad IPv4 header %x", ip[:20])
		}
		s.src, _ = netip.AddrFromSlice(ip[12:16])
		s.dst, _ = netip.AddrFromSlice(ip[16:20])
		s.proto, s.ttl, s.id = ip[9], ip[8], uint32(binary.BigEndian.Uint16(ip[4:]))
		frag := binary.BigEndian.Uint16(ip[6:])
		s.off, s.more, s.body = int(frag&0x1fff)*8, frag&0x2000 != 0, ip[20:n]
		return s, nil
	}
	if len(ip) < 40 {
		return s, errors.New("shorter than a header")
	}
	n := 40 + int(binary.BigEndian.Uint16(ip[4:]))
	if n > len(ip) {
		return s, fmt.Errorf("bad IPv6 header %x", ip[:40])
	}
	s.src, _ = netip.AddrFromSlice(ip[8:24])
	s.dst, _ = netip.AddrFromSlice(ip[24:40])
	s.proto, s.ttl, s.body = ip[6], ip[7], ip[40:n]
	if s.proto == 44 {
		f := s.body
		frag := binary.BigEndian.Uint16(f[2:])
		s.proto, s.off, s.more, s.id, s.body = f[0], int(frag&^7), frag&1 != 0, binary.BigEndian.Uint32(f[4:]), f[8:]
	}
	return s, nil
}

// soundTransport checks the checksum of a whole datagram's transport header.
func (s *split) soundTransport() error {
	if s.proto == packet.ProtoSCTP {
		l := bytes.Clone(s.body)
		got := binary.LittleEndian.Uint32(l[8:])
		clear(l[8:12])
		if want := crc32.Checksum(l, crc32.MakeTable(crc32.Castagnoli)); got != want {
			return fmt.Errorf("CRC %08x, want %08x", got, want)
		}
		return nil
	}
	at, addrs := sumAt(s.proto)
	if s.proto == packet.ProtoUDP && s.body[at]|s.body[at+1] == 0 {
		if s.src.Is6() {
			return errors.New("UDP over IPv6 without a checksum")
		}
		return nil
	}
	var ph []byte
	if addrs {
		ph = pseudo(s.src, s.dst, s.proto, len(s.body))
	}
	if sum := onesSum(ph, s.body); sum != 0xffff {
		return fmt.Errorf("checksum %x: the sum is %04x", s.body[at:at+2], sum)
	}
	return nil
}

// join makes the datagram that packets are the fragments of, and checks it. One
// packet that is no fragment is itself.
func join(list [][]byte) (whole split, err error) {
	if len(list) == 0 {
		return whole, errors.New("nothing came")
	}
	size, have := -1, 0
	var body []byte
	for i, ip := range list {
		s, err := parseIP(ip)
		if err != nil {
			return whole, err
		}
		if i > 0 && (s.src != whole.src || s.dst != whole.dst || s.id != whole.id || s.proto != whole.proto || s.ttl != whole.ttl) {
			return whole, fmt.Errorf("fragments of two datagrams: %+v and %+v", whole, s)
		}
		whole = s
		if need := s.off + len(s.body); len(body) < need {
			body = append(body, make([]byte, need-len(body))...)
		}
		have += copy(body[s.off:], s.body)
		if !s.more {
			size = s.off + len(s.body)
		}
	}
	if size != have || size != len(body) {
		return whole, fmt.Errorf("%d packets with %d bytes of %d", len(list), have, size)
	}
	whole.off, whole.more, whole.body = 0, false, body
	return whole, whole.soundTransport()
}
