package packet

import (
	"bytes"
	"encoding/binary"
)

// TrainOptions says how AddTrain treats what it is given.
type TrainOptions struct {
	// Verify checks the transport checksum of every frame that could be part
	// of a train. One that is wrong becomes a packet of its own with its wrong
	// checksum, and its receiver drops it. Without Verify, the caller vouches
	// for the frames: all are taken for right, which hides errors that happened
	// before the sender encapsulated them.
	Verify bool
	// Spacing is the distance between the starts of two datagrams, for those
	// that were received one by one into places of equal distance. 0: each
	// lies right behind the one before.
	Spacing int
}

// AddTrain turns datagrams that were received together into packets.
// Buf[off:off+n] holds datagrams of size bytes each, the last may be shorter;
// each has inner bytes of tunnel header and then an Ethernet frame. Neighbours
// that are segments of one TCP stream, or datagrams of one UDP flow, become one
// train; nothing is copied and the order is kept. Everything else becomes
// packets of its own. All frames of a train have the same tunnel header, so
// that it is enough to check the one before Packet.Off.
//
// It returns how many packets were added, and how many datagrams were dropped
// because the batch had no descriptor left or because they held no frame.
func (b *Batch) AddTrain(off, size, n, inner int, o TrainOptions) (added, dropped int) {
	stride := max(o.Spacing, size)
	if n <= 0 || size <= 0 {
		return 0, 0
	}
	b.Take(off + n)
	before := len(b.Packets)
	t := train{buf: b.Buf, stride: stride, inner: inner, verify: o.Verify}
	for at, end := off, off+n; at < end; at += stride {
		next := min(at+size, end)
		if t.p != nil && t.join(at, next) {
			continue
		}
		t.close()
		if at+inner >= next {
			dropped++
			continue
		}
		if len(b.Packets) == BatchSize {
			dropped += (end - at + stride - 1) / stride
			break
		}
		t.open(b.Add(at+inner, next-at-inner))
	}
	t.close()
	return len(b.Packets) - before, dropped
}

// train is the packet that AddTrain grows, and what its next segment must be like.
type train struct {
	buf           []byte // Batch.Buf
	stride, inner int
	verify        bool

	p       *Packet // nil while there is none that could grow
	head    []byte  // frame of the first segment
	kind    GSO
	l4      int    // offset of the transport header
	hdr     int    // length of all headers
	payload int    // of the first segment
	count   int    // segments so far
	seq     uint32 // of the next segment, TCP
	id      uint16 // IPv4 identification of the last
	flags   uint8  // of all segments, TCP
	pseudo  uint64 // folded le sum of the pseudo header without length
}

// open makes p the head of a train that may grow, if it is of a kind that can.
func (t *train) open(p *Packet) {
	f := t.buf[p.Off : p.Off+p.Len]
	if !t.verify {
		p.Flags = Verified
	}
	if !t.parse(f) {
		return
	}
	t.pseudo = uint64(fold(add(sum(addresses(f[EthernetLen:])), uint64(f[t.l4-t.protoBack()])<<8)))
	if t.verify && !t.right(f) {
		return
	}
	p.Flags = Verified
	if t.flags&(TCPPsh|TCPFin) != 0 {
		return // no more may follow
	}
	t.p, t.head, t.count = p, f, 1
}

// protoBack returns how far before the transport header the protocol stands.
func (t *train) protoBack() int {
	if t.v4() {
		return 11
	}
	return 34
}

func (t *train) v4() bool { return t.l4 == EthernetLen+20 }

// parse finds out whether the frame f may be in a train: TCP with payload and
// ACK, without SYN, RST or URG; UDP with payload and checksum; no IP options,
// extension headers, fragments or padding.
func (t *train) parse(f []byte) bool {
	if len(f) < EthernetLen+20+8 {
		return false
	}
	h := f[EthernetLen:]
	var proto byte
	switch binary.BigEndian.Uint16(f[12:14]) {
	case EtherTypeIPv4:
		if h[0] != 0x45 || binary.BigEndian.Uint16(h[6:8])&^ipDF != 0 || !rightIPv4(h) {
			return false
		}
		t.l4, proto = EthernetLen+20, h[9]
		t.id = binary.BigEndian.Uint16(h[4:6])
	case EtherTypeIPv6:
		if len(h) < 40+8 || h[0]>>4 != 6 || int(binary.BigEndian.Uint16(h[4:6])) != len(h)-40 {
			return false
		}
		t.l4, proto = EthernetLen+40, h[6]
	default:
		return false
	}
	l := f[t.l4:]
	switch proto {
	case ProtoTCP:
		return t.parseTCP(l)
	case ProtoUDP:
		t.kind, t.hdr, t.payload, t.flags = GSOUDPL4, t.l4+8, len(l)-8, 0
		return len(l) > 8 && rightUDP(l)
	}
	return false
}

func (t *train) parseTCP(l []byte) bool {
	if len(l) < 20 {
		return false
	}
	n := int(l[12]>>4) * 4
	const allowed = TCPAck | TCPPsh | TCPFin | TCPEce | TCPCwr
	if n < 20 || len(l) <= n || l[13]&^allowed != 0 || l[13]&TCPAck == 0 {
		return false
	}
	t.kind = GSOTCPv6
	if t.v4() {
		t.kind = GSOTCPv4
	}
	t.hdr, t.payload, t.flags = t.l4+n, len(l)-n, l[13]
	t.seq = binary.BigEndian.Uint32(l[4:8]) + uint32(t.payload)
	return true
}

// rightIPv4 reports whether total length and checksum of an IPv4 header without
// options are right for the packet h.
func rightIPv4(h []byte) bool {
	le := binary.LittleEndian
	s := add(le.Uint64(h[0:8]), le.Uint64(h[8:16]))
	return int(binary.BigEndian.Uint16(h[2:4])) == len(h) && fold(add(s, uint64(le.Uint32(h[16:20])))) == 0xffff
}

// rightUDP reports whether the UDP datagram l has the length that it says, and
// a checksum.
func rightUDP(l []byte) bool {
	return int(binary.BigEndian.Uint16(l[4:6])) == len(l) && l[6]|l[7] != 0
}

// right reports whether the transport checksum of f, a segment of the train, is
// right.
func (t *train) right(f []byte) bool {
	l := f[t.l4:]
	return fold(add(t.pseudo+le16(len(l)), sum(l))) == 0xffff
}

// join appends the datagram at buf[at:end] to the train if it is what Cut would
// yield after the segments so far.
func (t *train) join(at, end int) bool {
	n := end - at - t.inner - t.hdr
	if n <= 0 || n > t.payload || int(t.p.Len)+n > MaxFrame {
		return false
	}
	f := t.buf[at+t.inner : end]
	if !t.sameNetwork(f) || !t.sameTransport(f) || !t.sameTunnel(at) || t.verify && !t.right(f) {
		return false
	}
	t.p.Len += uint32(n)
	t.count++
	if t.kind != GSOUDPL4 {
		t.seq += uint32(n)
		t.flags |= f[t.l4+13]
	}
	if n < t.payload || t.flags&(TCPPsh|TCPFin) != 0 {
		t.close()
	}
	return true
}

// sameNetwork compares the Ethernet and IP headers of f with the first
// segment's: all but length, identification and checksum must be equal, and
// those right. The identification of a packet with DF means nothing (RFC 6864);
// any other must count up.
func (t *train) sameNetwork(f []byte) bool {
	le := binary.LittleEndian
	if t.v4() {
		a, c := t.head[:34], f[:34]
		id := binary.BigEndian.Uint16(c[18:20])
		ok := le.Uint64(a[0:]) == le.Uint64(c[0:]) && le.Uint64(a[8:]) == le.Uint64(c[8:]) &&
			le.Uint32(a[20:]) == le.Uint32(c[20:]) && le.Uint64(a[26:]) == le.Uint64(c[26:]) &&
			rightIPv4(f[EthernetLen:]) && (c[20]&0x40 != 0 || id == t.id+1)
		t.id = id
		return ok
	}
	a, c := t.head[:54], f[:54]
	return le.Uint64(a[0:]) == le.Uint64(c[0:]) && le.Uint64(a[8:]) == le.Uint64(c[8:]) &&
		le.Uint16(a[16:]) == le.Uint16(c[16:]) && le.Uint16(a[20:]) == le.Uint16(c[20:]) &&
		le.Uint64(a[22:]) == le.Uint64(c[22:]) && le.Uint64(a[30:]) == le.Uint64(c[30:]) &&
		le.Uint64(a[38:]) == le.Uint64(c[38:]) && le.Uint64(a[46:]) == le.Uint64(c[46:]) &&
		int(binary.BigEndian.Uint16(c[18:])) == len(f)-EthernetLen-40
}

// sameTransport does so with the transport headers: of UDP all but length and
// checksum; of TCP all but sequence number, which must be the next, checksum,
// PSH, FIN, and the first segment's CWR.
func (t *train) sameTransport(f []byte) bool {
	le := binary.LittleEndian
	a, c := t.head[t.l4:t.hdr], f[t.l4:t.hdr]
	if le.Uint32(a) != le.Uint32(c) {
		return false
	}
	if t.kind == GSOUDPL4 {
		return rightUDP(f[t.l4:])
	}
	return binary.BigEndian.Uint32(c[4:]) == t.seq && le.Uint32(a[8:]) == le.Uint32(c[8:]) && a[12] == c[12] &&
		a[13]&^TCPCwr == c[13]&^(TCPPsh|TCPFin) && le.Uint16(a[14:]) == le.Uint16(c[14:]) &&
		le.Uint16(a[18:]) == le.Uint16(c[18:]) && bytes.Equal(a[20:], c[20:])
}

// sameTunnel compares the tunnel header at buf[at:] with the first segment's.
func (t *train) sameTunnel(at int) bool {
	first := int(t.p.Off) - t.inner
	return bytes.Equal(t.buf[first:first+t.inner], t.buf[at:at+t.inner])
}

// close ends the train, if there is one, and writes the header of the whole.
func (t *train) close() {
	p := t.p
	t.p = nil
	if p == nil || t.count < 2 {
		return
	}
	p.GSO, p.GSOSize, p.HdrLen, p.Stride = t.kind, uint16(t.payload), uint16(t.hdr), uint16(t.stride)
	p.Flags, p.CsumStart, p.CsumOffset = NeedsCsum, uint16(t.l4), tcpCsum
	h, l := t.head[EthernetLen:], t.head[t.l4:]
	length := int(p.Len) - t.l4
	if t.kind == GSOUDPL4 {
		p.CsumOffset = udpCsum
		binary.BigEndian.PutUint16(l[4:6], uint16(length))
	} else {
		l[13] = t.flags
		if t.flags&TCPCwr != 0 {
			p.GSO |= GSOECN
		}
	}
	if t.v4() {
		binary.BigEndian.PutUint16(h[2:4], uint16(int(p.Len)-EthernetLen))
		putHeaderSum(h)
	} else {
		binary.BigEndian.PutUint16(h[4:6], uint16(length))
	}
	binary.LittleEndian.PutUint16(l[p.CsumOffset:], fold(t.pseudo+le16(length)))
}
