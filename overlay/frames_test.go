package overlay

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"vswitch/vswitch/packet"
)

// What follows builds frames byte by byte, with checksums by the book, and
// shares no code with package packet.

// frame describes an Ethernet frame with one IP packet.
type frame struct {
	src, dst     netip.Addr
	proto        uint8
	sport, dport uint16
	ecn          uint8
	id           uint16 // IPv4; DF is set
	df           bool
	seq          uint32
	flags        uint8 // TCP
	options      []byte
	payload      []byte
}

func tcp4(payload int) frame {
	return frame{src: netip.MustParseAddr("10.244.1.2"), dst: netip.MustParseAddr("10.244.2.3"), proto: 6,
		sport: 40000, dport: 80, id: 7, df: true, seq: 0xfffffff0, flags: packet.TCPAck,
		options: []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}, payload: noise(payload)}
}

func tcp6(payload int) frame {
	f := tcp4(payload)
	f.src, f.dst = netip.MustParseAddr("fd00:10:244:1::2"), netip.MustParseAddr("fd00:10:244:2::3")
	return f
}

func udp4(payload int) frame {
	f := tcp4(payload)
	f.proto, f.options = 17, nil
	return f
}

func udp6(payload int) frame {
	f := tcp6(payload)
	f.proto, f.options = 17, nil
	return f
}

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func naiveSum(parts ...[]byte) uint16 {
	s := uint32(0)
	for _, b := range parts {
		for i := 0; i < len(b); i += 2 {
			w := uint32(b[i]) << 8
			if i+1 < len(b) {
				w |= uint32(b[i+1])
			}
			s += w
			s = s>>16 + s&0xffff
		}
	}
	return uint16(s)
}

// bytes returns the frame. With partial, the transport checksum is that of the
// pseudo header, not inverted.
func (f *frame) bytes(partial bool) []byte {
	var l4 []byte
	switch f.proto {
	case 6:
		l4 = make([]byte, 20, 60)
		binary.BigEndian.PutUint32(l4[4:], f.seq)
		binary.BigEndian.PutUint32(l4[8:], 12345)
		l4[12], l4[13] = byte(20+len(f.options))/4<<4, f.flags
		binary.BigEndian.PutUint16(l4[14:], 512)
		l4 = append(l4, f.options...)
	case 17:
		l4 = make([]byte, 8)
		binary.BigEndian.PutUint16(l4[4:], uint16(8+len(f.payload)))
	}
	binary.BigEndian.PutUint16(l4[0:], f.sport)
	binary.BigEndian.PutUint16(l4[2:], f.dport)
	l4 = append(l4, f.payload...)
	pseudo := append(f.src.AsSlice(), f.dst.AsSlice()...)
	pseudo = append(pseudo, 0, f.proto, byte(len(l4)>>8), byte(len(l4)))
	c := naiveSum(pseudo)
	if !partial {
		if c = ^naiveSum(pseudo, l4); c == 0 && f.proto == 17 {
			c = 0xffff
		}
	}
	binary.BigEndian.PutUint16(l4[map[uint8]int{6: 16, 17: 6}[f.proto]:], c)

	b := []byte{0x0a, 0, 0, 0, 0, 2, 0x0a, 0, 0, 0, 0, 1}
	if f.src.Is6() {
		b = append(b, 0x86, 0xdd, 0x60, f.ecn<<4, 0, 0, byte(len(l4)>>8), byte(len(l4)), f.proto, 64)
		b = append(b, f.src.AsSlice()...)
		b = append(b, f.dst.AsSlice()...)
		return append(b, l4...)
	}
	frag := byte(0)
	if f.df {
		frag = 0x40
	}
	total := 20 + len(l4)
	h := []byte{0x45, f.ecn, byte(total >> 8), byte(total), byte(f.id >> 8), byte(f.id), frag, 0, 64, f.proto, 0, 0}
	h = append(h, f.src.AsSlice()...)
	h = append(h, f.dst.AsSlice()...)
	binary.BigEndian.PutUint16(h[10:], ^naiveSum(h))
	b = append(b, 8, 0)
	return append(append(b, h...), l4...)
}

func (f *frame) headerLen() int {
	n := 14 + 20 + 8
	if f.src.Is6() {
		n += 20
	}
	if f.proto == 6 {
		n += 12 + len(f.options)
	}
	return n
}

// segments returns the frames that f is on the wire if it is cut every size
// bytes of payload.
func (f *frame) segments(size int) [][]byte {
	var all [][]byte
	for off := 0; off == 0 || off < len(f.payload); off += size {
		s := *f
		s.payload = f.payload[off:min(off+size, len(f.payload))]
		s.seq += uint32(off)
		s.id += uint16(off / size)
		if off+size < len(f.payload) {
			s.flags &^= packet.TCPPsh | packet.TCPFin
		}
		if off > 0 {
			s.flags &^= packet.TCPCwr
		}
		all = append(all, s.bytes(false))
	}
	return all
}

// append adds f to the batch, as a superpacket cut every size bytes if there is
// more payload than that.
func (f *frame) append(b *packet.Batch, size int) *packet.Packet {
	if size == 0 || len(f.payload) <= size {
		return b.Append(f.bytes(false))
	}
	p := b.Append(f.bytes(true))
	p.GSO, p.CsumOffset = packet.GSOTCPv4, 16
	p.CsumStart = uint16(f.headerLen() - 20 - len(f.options))
	if f.src.Is6() {
		p.GSO = packet.GSOTCPv6
	}
	if f.flags&packet.TCPCwr != 0 {
		p.GSO |= packet.GSOECN
	}
	if f.proto == 17 {
		p.GSO, p.CsumOffset, p.CsumStart = packet.GSOUDPL4, 6, uint16(f.headerLen()-8)
	}
	p.Flags, p.HdrLen, p.GSOSize = packet.NeedsCsum, uint16(f.headerLen()), uint16(size)
	return p
}

// wire returns the frames that a received packet is on the wire.
func wire(b *packet.Batch, p *packet.Packet) [][]byte {
	if p.GSO == packet.GSONone {
		return [][]byte{append([]byte(nil), b.Buf[p.Off:p.Off+p.Len]...)}
	}
	hdr := b.Buf[p.Off : p.Off+uint32(p.HdrLen)]
	v6 := hdr[12] == 0x86
	l4, f := 34, frame{}
	if v6 {
		l4 = 54
		f.src, f.dst = netip.AddrFrom16([16]byte(hdr[22:])), netip.AddrFrom16([16]byte(hdr[38:]))
		f.proto, f.ecn = hdr[20], hdr[15]>>4
	} else {
		f.src, f.dst = netip.AddrFrom4([4]byte(hdr[26:])), netip.AddrFrom4([4]byte(hdr[30:]))
		f.proto, f.ecn, f.id, f.df = hdr[23], hdr[15], binary.BigEndian.Uint16(hdr[18:]), hdr[20] == 0x40
	}
	f.sport, f.dport = binary.BigEndian.Uint16(hdr[l4:]), binary.BigEndian.Uint16(hdr[l4+2:])
	if f.proto == 6 {
		f.seq, f.flags, f.options = binary.BigEndian.Uint32(hdr[l4+4:]), hdr[l4+13], hdr[l4+20:]
	}
	stride := int(p.Stride)
	if stride == 0 {
		stride = int(p.GSOSize)
	}
	at, left := int(p.Off)+int(p.HdrLen), int(p.Len)-int(p.HdrLen)
	for left > 0 {
		n := min(left, int(p.GSOSize))
		f.payload = append(f.payload, b.Buf[at:at+n]...)
		at, left = at+stride, left-n
	}
	all := f.segments(int(p.GSOSize))
	for _, s := range all {
		copy(s, hdr[:12])
	}
	return all
}
