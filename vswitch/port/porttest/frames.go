package porttest

import (
	"encoding/binary"

	"vswitch/vswitch/packet"
)

// Addresses of test frames. The MACs belong to nobody, so that a kernel that
// sees the frames does nothing with them.
var (
	// PeerMAC is the source of frames from the peer, and of what an L3 driver
	// gives.
	PeerMAC = [6]byte{2, 0, 0, 0, 0x77, 1}
	// PortMAC is the source of frames from the switch.
	PortMAC = [6]byte{2, 0, 0, 0, 0x77, 2}
)

// dir is the direction of a test frame: it chooses the addresses.
type dir bool

const (
	in  dir = false // from the peer to the port
	out dir = true
)

// Ours reports whether a frame is one of the test's, by its IP source.
func Ours(f []byte) bool {
	if len(f) < 34 {
		return false
	}
	switch binary.BigEndian.Uint16(f[12:14]) {
	case 0x0800:
		return f[26] == 10 && f[27] == 99
	case 0x86dd:
		return len(f) >= 54 && f[22] == 0xfd && f[23] == 0x99
	}
	return false
}

// shape describes a test frame.
type shape struct {
	dir   dir
	v6    bool
	proto byte   // 6 or 17
	seq   uint32 // number of the frame; the TCP sequence number, too
	flags byte   // of TCP
	opts  int    // bytes of TCP options, a multiple of 4
	data  int    // payload bytes
}

// build returns the frame, without a transport checksum, and the offset of its
// transport header.
func (s shape) build() (f []byte, l4 int) {
	l4 = 34
	if s.v6 {
		l4 = 54
	}
	hdr := 8
	if s.proto == 6 {
		hdr = 20 + s.opts
	}
	f = make([]byte, l4+hdr+s.data)
	src, dst := PeerMAC, PortMAC
	host := byte(1)
	if s.dir == out {
		src, dst = dst, src
		host = 2
	}
	copy(f[0:], dst[:])
	copy(f[6:], src[:])
	if s.v6 {
		s.ip6(f, host)
	} else {
		s.ip4(f, host)
	}
	l := f[l4:]
	binary.BigEndian.PutUint16(l[0:], 4000)
	binary.BigEndian.PutUint16(l[2:], 5000)
	if s.proto == 6 {
		binary.BigEndian.PutUint32(l[4:], s.seq)
		binary.BigEndian.PutUint32(l[8:], 77)
		l[12] = byte(5+s.opts/4) << 4
		l[13] = s.flags
		binary.BigEndian.PutUint16(l[14:], 512)
		for i := 20; i < hdr; i++ {
			l[i] = 1 // no operation
		}
	} else {
		binary.BigEndian.PutUint16(l[4:], uint16(hdr+s.data))
	}
	fill(l[hdr:], s.seq)
	return f, l4
}

func (s shape) ip4(f []byte, host byte) {
	binary.BigEndian.PutUint16(f[12:], 0x0800)
	h := f[14:34]
	h[0] = 0x45
	binary.BigEndian.PutUint16(h[2:], uint16(len(f)-14))
	binary.BigEndian.PutUint16(h[4:], uint16(s.seq)) // the ID wraps in a superpacket now and then
	h[6] = 0x40
	h[8] = 64
	h[9] = s.proto
	copy(h[12:], []byte{10, 99, 0, host})
	copy(h[16:], []byte{10, 99, 0, 3 - host})
	binary.BigEndian.PutUint16(h[10:], ^ones(h, 0))
}

func (s shape) ip6(f []byte, host byte) {
	binary.BigEndian.PutUint16(f[12:], 0x86dd)
	h := f[14:54]
	h[0] = 0x60
	binary.BigEndian.PutUint16(h[4:], uint16(len(f)-54))
	h[6] = s.proto
	h[7] = 64
	h[8], h[9], h[23] = 0xfd, 0x99, host
	h[24], h[25], h[39] = 0xfd, 0x99, 3-host
}

// fill writes bytes that depend on seq and on the position, the first four of
// them seq itself.
func fill(b []byte, seq uint32) {
	x := seq*2654435761 + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	if len(b) >= 4 {
		binary.BigEndian.PutUint32(b, seq)
	}
}

// number returns the seq of a UDP frame that fill filled.
func number(f []byte) (uint32, bool) {
	l4 := 34
	if binary.BigEndian.Uint16(f[12:]) == 0x86dd {
		l4 = 54
	}
	if len(f) < l4+12 {
		return 0, false
	}
	return binary.BigEndian.Uint32(f[l4+8:]), true
}

// complete returns the frame with its checksum.
func (s shape) complete() Frame {
	f, l4 := s.build()
	setTransportSum(f, l4)
	return Frame{Data: f}
}

// partial returns the frame with the pseudo header's sum where the checksum goes.
func (s shape) partial() Frame {
	f, l4 := s.build()
	at := sumOffset(s.proto)
	binary.BigEndian.PutUint16(f[l4+at:], pseudo(f, len(f)-l4))
	return Frame{Data: f, Meta: packet.Packet{
		Len: uint32(len(f)), Flags: packet.NeedsCsum, CsumStart: uint16(l4), CsumOffset: uint16(at),
	}}
}

// super returns the frame as a superpacket of segments of size bytes.
func (s shape) super(size int) Frame {
	f := s.partial()
	switch {
	case s.proto == 17:
		f.Meta.GSO = packet.GSOUDPL4
	case s.v6:
		f.Meta.GSO = packet.GSOTCPv6
	default:
		f.Meta.GSO = packet.GSOTCPv4
	}
	if s.flags&0x80 != 0 {
		f.Meta.GSO |= packet.GSOECN
	}
	f.Meta.GSOSize = uint16(size)
	f.Meta.HdrLen = uint16(len(f.Data) - s.data)
	return f
}

// udp returns a UDP frame of n bytes, 60 at least, with number seq.
func udp(d dir, seq uint32, n int) Frame {
	return shape{dir: d, proto: 17, seq: seq, data: n - 42}.complete()
}

// superpackets returns one of each kind for an MTU of 1500.
func superpackets(d dir) []Frame {
	const ack, psh, fin, cwr, ece = 0x10, 0x08, 0x01, 0x80, 0x40
	return []Frame{
		shape{dir: d, proto: 6, seq: 1000, flags: ack | psh, data: 10000}.super(1460),
		shape{dir: d, proto: 6, seq: 0xfffff000, flags: ack | psh | fin, opts: 12, data: 64000}.super(1448),
		shape{dir: d, proto: 6, seq: 5000, flags: ack | cwr | ece, opts: 12, data: 4344}.super(1448),
		shape{dir: d, v6: true, proto: 6, seq: 7000, flags: ack | psh, opts: 12, data: 30001}.super(1428),
		shape{dir: d, v6: true, proto: 6, seq: 9000, flags: ack | cwr, data: 2881}.super(1440),
		shape{dir: d, proto: 17, seq: 0xfffe, data: 20000}.super(1400),
		shape{dir: d, v6: true, proto: 17, seq: 40000, data: 12001}.super(1200),
		shape{dir: d, proto: 17, seq: 50000, data: 1201}.super(400),
	}
}
