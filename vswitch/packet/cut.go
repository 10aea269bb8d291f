package packet

import (
	"encoding/binary"
	"math/bits"
)

// MaxHeader bounds the headers of a superpacket, from the Ethernet header to the
// end of the transport header: 134 bytes with all options of IPv4 and TCP, 114
// and the extension headers with IPv6. Parse refuses longer ones.
const MaxHeader = 192

// Cutter yields the segments of a superpacket, or the one that an ordinary
// packet is. The payload is never copied: a segment is a header that Next
// writes and a slice of the batch. Everything that is the same in all segments
// has been computed by Cut.
type Cutter struct {
	buf  []byte // Batch.Buf
	hdr  []byte // the superpacket's header; empty for an ordinary packet
	at   int    // of the next payload in buf
	left int    // payload bytes not yet yielded
	size int    // payload bytes of a segment
	step int    // from one payload to the next

	// Folded le sums of what is the same in all segments.
	pseudo uint64 // the pseudo header without length
	fixed  uint64 // that and the transport header
	ip     uint64 // the IPv4 header
	seq    uint32
	l4     int
	id     uint16
	first  bool
	kind   GSO
	v4     bool

	partial bool
}

// Cut returns the segments of p. With partial, the transport checksums are left
// as NeedsCsum has them, for a receiver that completes them; else they are
// complete. An ordinary packet comes as one segment without header; it is
// completed in place unless partial. The packet's bytes do not change otherwise.
// A superpacket whose header contradicts its descriptor has no segments.
//
// The result of Cut is a value; it is valid until the batch is reset.
func (b *Batch) Cut(p *Packet, partial bool) Cutter {
	c := Cutter{buf: b.Buf, at: int(p.Off), left: int(p.Len), size: int(p.Len), first: true, partial: partial}
	if p.GSO == GSONone {
		if !partial {
			b.Complete(p)
		}
		return c
	}
	c.left = 0
	f := b.Frame(p)
	off, proto, fragment, ok := transport(f[min(EthernetLen, len(f)):])
	if !ok || fragment || p.GSOSize == 0 || p.Len < uint32(p.HdrLen) {
		return c
	}
	c.kind, c.v4, c.l4 = p.GSO.Kind(), is4(f), EthernetLen+off
	c.size, c.step = int(p.GSOSize), int(p.GSOSize)
	if p.Stride != 0 {
		c.step = int(p.Stride)
	}
	need := c.l4 + 20
	switch {
	case c.kind == GSOUDPL4 && proto == ProtoUDP:
		need = c.l4 + 8
	case c.kind == GSOTCPv4 && proto == ProtoTCP && c.v4, c.kind == GSOTCPv6 && proto == ProtoTCP && !c.v4:
	default:
		return c
	}
	if int(p.HdrLen) < need || p.HdrLen > MaxHeader || len(f) < int(p.HdrLen) {
		return c
	}
	payload := int(p.Len) - int(p.HdrLen)
	at := int(p.Off) + int(p.HdrLen)
	last := max(payload-1, 0) / c.size
	if at+last*c.step+payload-last*c.size > len(b.Buf) {
		return c
	}
	c.hdr = f[:p.HdrLen]
	c.at, c.left = at, payload
	c.template(proto)
	return c
}

// template sums what all segments have in common.
func (c *Cutter) template(proto uint8) {
	h := c.hdr[EthernetLen:]
	c.pseudo = uint64(fold(add(sum(addresses(h)), uint64(proto)<<8)))
	if c.v4 {
		// All but total length, identification and checksum.
		c.id = binary.BigEndian.Uint16(h[4:6])
		c.ip = add(uint64(binary.LittleEndian.Uint16(h[0:2])), sum(h[6:10]))
		c.ip = uint64(fold(add(c.ip, sum(h[12:c.l4-EthernetLen]))))
	}
	l := c.hdr[c.l4:]
	if c.kind == GSOUDPL4 {
		// All but length and checksum.
		c.fixed = uint64(fold(add(c.pseudo, sum(l[0:4]))))
		return
	}
	// All but sequence number, flags and checksum.
	c.seq = binary.BigEndian.Uint32(l[4:8])
	c.fixed = add(add(c.pseudo, sum(l[0:4])), add(sum(l[8:12]), uint64(l[12])))
	c.fixed = uint64(fold(add(add(c.fixed, sum(l[14:16])), sum(l[18:]))))
}

// Next writes the header of the next segment, from the Ethernet header to the
// end of the transport header, to hdr, which must be at least as long as that
// (Packet.HdrLen, at most MaxHeader), and returns the header's length and the segment's payload in
// the batch. It is not ok behind the last segment.
func (c *Cutter) Next(hdr []byte) (hdrLen int, payload []byte, ok bool) {
	if c.left == 0 && (!c.first || len(c.hdr) == 0) {
		return 0, nil, false
	}
	n := min(c.size, c.left)
	payload = c.buf[c.at : c.at+n : c.at+n]
	c.at += c.step
	c.left -= n
	if len(c.hdr) == 0 {
		return 0, payload, true
	}
	hdr = hdr[:len(c.hdr)]
	copy(hdr, c.hdr)
	l := hdr[c.l4:]
	length := len(l) + n // of the transport packet
	if c.v4 {
		h := hdr[EthernetLen : EthernetLen+20]
		total := c.l4 - EthernetLen + length
		binary.BigEndian.PutUint16(h[2:4], uint16(total))
		binary.BigEndian.PutUint16(h[4:6], c.id)
		binary.LittleEndian.PutUint16(h[10:12], ^fold(c.ip+le16(total)+le16(int(c.id))))
		c.id++
	} else {
		binary.BigEndian.PutUint16(hdr[EthernetLen+4:], uint16(c.l4-EthernetLen-40+length))
	}
	if c.kind == GSOUDPL4 {
		c.udp(l, length, payload)
	} else {
		c.tcp(l, length, payload)
	}
	c.first = false
	return len(hdr), payload, true
}

func (c *Cutter) tcp(l []byte, length int, payload []byte) {
	_ = l[19]
	binary.BigEndian.PutUint32(l[4:8], c.seq)
	flags := l[13]
	if c.left != 0 {
		flags &^= TCPFin | TCPPsh
	}
	if !c.first {
		flags &^= TCPCwr
	}
	l[13] = flags
	if c.partial {
		binary.LittleEndian.PutUint16(l[tcpCsum:], fold(c.pseudo+le16(length)))
	} else {
		s := le16(length) + uint64(bits.ReverseBytes32(c.seq)) + uint64(flags)<<8
		binary.LittleEndian.PutUint16(l[tcpCsum:], ^fold(add(c.fixed+s, sum(payload))))
	}
	c.seq += uint32(len(payload))
}

func (c *Cutter) udp(l []byte, length int, payload []byte) {
	_ = l[7]
	binary.BigEndian.PutUint16(l[4:6], uint16(length))
	if c.partial {
		binary.LittleEndian.PutUint16(l[udpCsum:], fold(c.pseudo+le16(length)))
		return
	}
	s := ^fold(add(c.fixed+2*le16(length), sum(payload)))
	if s == 0 {
		s = 0xffff
	}
	binary.LittleEndian.PutUint16(l[udpCsum:], s)
}

// Each calls send with every frame that p is on the wire, complete and
// contiguous. Segments are assembled in scratch, which should hold the largest
// of them (Packet.HdrLen + Packet.GSOSize) or it allocates, and must hold
// MaxHeader bytes; an ordinary packet is completed in place and sent from the
// batch. The frame is send's until it returns.
func (b *Batch) Each(p *Packet, scratch []byte, send func(frame []byte)) {
	if p.GSO == GSONone {
		b.Complete(p)
		send(b.Frame(p))
		return
	}
	c := b.Cut(p, false)
	for {
		n, payload, ok := c.Next(scratch)
		if !ok {
			return
		}
		send(append(scratch[:n], payload...))
	}
}
