package packet

import (
	"bytes"
	"encoding/binary"
)

// TrainOptions says how AddTrain treats what it is given.
type TrainOptions struct {
	// Verify checks the transport checksum of every frame. One that is wrong
	// becomes a packet of its own with its wrong checksum, and its receiver
	// drops it. Without Verify, the caller vouches for the frames: all are
	// taken for right, which hides errors that happened before the sender
	// encapsulated them.
	Verify bool
}

// AddTrain turns datagrams that were received as one piece into packets.
// Buf[off:off+n] holds datagrams of stride bytes each, the last may be shorter;
// each has inner bytes of tunnel header and then an Ethernet frame. Neighbours
// that are segments of one TCP stream, or datagrams of one UDP flow, become one
// train; nothing is copied and the order is kept. Everything else becomes
// packets of its own. All frames of a train have the same tunnel header, so
// that it is enough to check the one before Packet.Off.
//
// It returns how many packets were added, and how many datagrams were dropped
// because the batch had no descriptor left or because they held no frame.
func (b *Batch) AddTrain(off, stride, n, inner int, o TrainOptions) (added, dropped int) {
	if n <= 0 || stride <= 0 {
		return 0, 0
	}
	b.Take(off + n)
	before := len(b.Packets)
	j := joiner{b: b, stride: stride, inner: inner}
	for at, end := off, off+n; at < end; at += stride {
		next := min(at+stride, end)
		if at+inner >= next {
			j.close()
			dropped++
			continue
		}
		var s segment
		s.parse(b.Buf[at+inner : next])
		good := !o.Verify || (s.kind != GSONone && transportOK(s.frame[EthernetLen:], s.l4-EthernetLen, s.proto()))
		if !good {
			s.kind = GSONone
		}
		if j.join(&s) {
			continue
		}
		j.close()
		if len(b.Packets) == BatchSize {
			dropped += (end - at + stride - 1) / stride
			break
		}
		p := b.Add(at+inner, next-at-inner)
		if good {
			p.Flags = Verified
		}
		j.open(p, &s)
	}
	j.close()
	return len(b.Packets) - before, dropped
}

// segment is a frame seen as a candidate for a train. Its kind is GSONone if it
// can be part of none.
type segment struct {
	frame   []byte
	kind    GSO
	l4      int // offset of the transport header
	hdr     int // length of all headers
	payload int
	seq     uint32
	flags   uint8 // of TCP
}

func (s *segment) proto() uint8 {
	if s.kind == GSOUDPL4 {
		return ProtoUDP
	}
	return ProtoTCP
}

// parse finds out whether the frame f may be in a train: TCP with payload and
// ACK, without SYN, RST or URG; UDP with payload and checksum; no IP options,
// extension headers, fragments or padding.
func (s *segment) parse(f []byte) {
	s.frame = f
	if len(f) < EthernetLen+20+8 {
		return
	}
	h := f[EthernetLen:]
	var proto byte
	switch binary.BigEndian.Uint16(f[12:14]) {
	case EtherTypeIPv4:
		frag := binary.BigEndian.Uint16(h[6:8])
		if h[0] != 0x45 || frag&^ipDF != 0 || int(binary.BigEndian.Uint16(h[2:4])) != len(h) || sumIPv4(h) != 0xffff {
			return
		}
		s.l4, proto = EthernetLen+20, h[9]
	case EtherTypeIPv6:
		if len(h) < 48 || h[0]>>4 != 6 || 40+int(binary.BigEndian.Uint16(h[4:6])) != len(h) {
			return
		}
		s.l4, proto = EthernetLen+40, h[6]
	default:
		return
	}
	l := f[s.l4:]
	switch proto {
	case ProtoTCP:
		s.parseTCP(l)
	case ProtoUDP:
		if int(binary.BigEndian.Uint16(l[4:6])) == len(l) && len(l) > 8 && l[6]|l[7] != 0 {
			s.hdr, s.payload, s.kind = s.l4+8, len(l)-8, GSOUDPL4
		}
	}
}

func (s *segment) parseTCP(l []byte) {
	if len(l) < 20 {
		return
	}
	n := int(l[12]>>4) * 4
	const allowed = TCPAck | TCPPsh | TCPFin | TCPEce | TCPCwr
	if n < 20 || len(l) <= n || l[13]&^allowed != 0 || l[13]&TCPAck == 0 {
		return
	}
	s.hdr, s.payload = s.l4+n, len(l)-n
	s.seq, s.flags = binary.BigEndian.Uint32(l[4:8]), l[13]
	s.kind = GSOTCPv6
	if s.l4 == EthernetLen+20 {
		s.kind = GSOTCPv4
	}
}

// sumIPv4 returns the folded sum of an IPv4 header without options; 0xffff if
// its checksum is right.
func sumIPv4(h []byte) uint16 {
	return fold(add(add(binary.LittleEndian.Uint64(h[0:8]), binary.LittleEndian.Uint64(h[8:16])),
		uint64(binary.LittleEndian.Uint32(h[16:20]))))
}

// joiner grows one train at a time.
type joiner struct {
	b             *Batch
	stride, inner int

	p     *Packet // the train; nil while there is none that could grow
	head  segment
	count int   // segments in it
	flags uint8 // of TCP: PSH and FIN of the last
	next  uint32
	id    uint16 // IPv4 identification of the last
}

// open makes p, whose frame is s, the head of a train that may grow.
func (j *joiner) open(p *Packet, s *segment) {
	if s.kind == GSONone {
		return
	}
	j.p, j.head, j.count = p, *s, 1
	j.next, j.flags = s.seq+uint32(s.payload), s.flags
	j.id = binary.BigEndian.Uint16(s.frame[EthernetLen+4:])
	if s.flags&(TCPPsh|TCPFin) != 0 {
		j.close() // no more may follow
	}
}

// join appends s to the open train if it belongs there.
func (j *joiner) join(s *segment) bool {
	if j.p == nil || !j.follows(s) {
		return false
	}
	p := j.p
	p.Len += uint32(s.payload)
	j.count++
	j.next += uint32(s.payload)
	j.id = binary.BigEndian.Uint16(s.frame[EthernetLen+4:])
	j.flags |= s.flags
	if s.payload < j.head.payload || s.flags&(TCPPsh|TCPFin) != 0 {
		j.close()
	}
	return true
}

// follows reports whether s is what Cut would yield after the segments so far.
func (j *joiner) follows(s *segment) bool {
	h, le := &j.head, binary.LittleEndian
	if s.kind != h.kind || s.hdr != h.hdr || s.payload > h.payload ||
		int(j.p.Len)+s.payload > MaxFrame || j.tooLong(s.payload) {
		return false
	}
	a, c := h.frame[:h.hdr], s.frame[:s.hdr]
	// Ethernet, and of IP the version, header length, class or TOS.
	if le.Uint64(a[0:]) != le.Uint64(c[0:]) || le.Uint64(a[8:]) != le.Uint64(c[8:]) {
		return false
	}
	if s.l4 == EthernetLen+20 {
		// Flags, TTL and protocol; addresses. The identification of a packet
		// with DF means nothing (RFC 6864); else it must count.
		if le.Uint32(a[20:]) != le.Uint32(c[20:]) || le.Uint64(a[26:]) != le.Uint64(c[26:]) {
			return false
		}
		if c[20]&0x40 == 0 && binary.BigEndian.Uint16(c[18:]) != j.id+1 {
			return false
		}
	} else if le.Uint16(a[16:]) != le.Uint16(c[16:]) || le.Uint16(a[20:]) != le.Uint16(c[20:]) ||
		!bytes.Equal(a[22:54], c[22:54]) {
		return false
	}
	t, u := a[h.l4:], c[h.l4:]
	if le.Uint32(t) != le.Uint32(u) || !j.sameTunnel(s) {
		return false
	}
	if s.kind == GSOUDPL4 {
		return true
	}
	// Acknowledgement; data offset and flags but for PSH, FIN and the head's
	// CWR; window; urgent pointer; options.
	const last = TCPPsh | TCPFin
	return s.seq == j.next &&
		le.Uint32(t[8:]) == le.Uint32(u[8:]) && t[12] == u[12] &&
		(h.flags&^TCPCwr == s.flags&^last) &&
		le.Uint16(t[14:]) == le.Uint16(u[14:]) && le.Uint16(t[18:]) == le.Uint16(u[18:]) &&
		bytes.Equal(t[20:], u[20:])
}

// tooLong reports whether the train's IP packet cannot grow by n bytes: its
// length field has 16 bits, and that of IPv6 does not count the header.
func (j *joiner) tooLong(n int) bool { return int(j.p.Len)-EthernetLen+n > MaxIP }

// sameTunnel reports whether s has the tunnel header of the train's head.
func (j *joiner) sameTunnel(s *segment) bool {
	at := int(j.p.Off) - j.inner
	next := at + j.count*j.stride
	return bytes.Equal(j.b.Buf[at:at+j.inner], j.b.Buf[next:next+j.inner])
}

// close ends the open train, if any, and writes its header.
func (j *joiner) close() {
	p := j.p
	j.p = nil
	if p == nil || j.count < 2 {
		return
	}
	s := &j.head
	p.GSO, p.GSOSize, p.HdrLen, p.Stride = s.kind, uint16(s.payload), uint16(s.hdr), uint16(j.stride)
	p.Flags = NeedsCsum
	p.CsumStart, p.CsumOffset = uint16(s.l4), tcpCsum
	h, l := s.frame[EthernetLen:], s.frame[s.l4:]
	length := int(p.Len) - s.l4
	if s.kind == GSOUDPL4 {
		p.CsumOffset = udpCsum
		binary.BigEndian.PutUint16(l[4:6], uint16(length))
	} else {
		l[13] = j.flags
		if j.flags&TCPCwr != 0 {
			p.GSO |= GSOECN
		}
	}
	if s.l4 == EthernetLen+20 {
		binary.BigEndian.PutUint16(h[2:4], uint16(int(p.Len)-EthernetLen))
		putHeaderSum(h)
	} else {
		binary.BigEndian.PutUint16(h[4:6], uint16(length))
	}
	pseudo := add(sum(addresses(h)), uint64(s.proto())<<8)
	binary.LittleEndian.PutUint16(l[p.CsumOffset:], fold(add(pseudo, le16(length))))
}
