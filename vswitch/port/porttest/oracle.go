package porttest

import (
	"encoding/binary"
	"fmt"

	"vswitch/vswitch/packet"
)

// This file says what a packet is on a wire, in the simplest way there is:
// every field from its definition, every checksum over all bytes.

// ones returns the 16-bit one's complement sum of b (RFC 1071), onto start.
func ones(b []byte, start uint16) uint16 {
	sum := uint32(start)
	for i := 0; i < len(b); i += 2 {
		v := uint32(b[i]) << 8
		if i+1 < len(b) {
			v |= uint32(b[i+1])
		}
		sum += v
		if sum > 0xffff {
			sum -= 0xffff
		}
	}
	return uint16(sum)
}

// pseudo returns the sum of the pseudo header of the frame f, whose transport
// packet is n bytes long.
func pseudo(f []byte, n int) uint16 {
	if binary.BigEndian.Uint16(f[12:]) == 0x0800 {
		return ones(append(append([]byte{}, f[26:34]...), 0, f[23], byte(n>>8), byte(n)), 0)
	}
	return ones(append(append([]byte{}, f[22:54]...), 0, 0, byte(n>>8), byte(n), 0, 0, 0, f[20]), 0)
}

func sumOffset(proto byte) int {
	if proto == 6 {
		return 16
	}
	return 6
}

func protoOf(f []byte) byte {
	if binary.BigEndian.Uint16(f[12:]) == 0x0800 {
		return f[23]
	}
	return f[20]
}

// setTransportSum writes the checksum of the transport packet at l4.
func setTransportSum(f []byte, l4 int) {
	at := l4 + sumOffset(protoOf(f))
	f[at], f[at+1] = 0, 0
	s := ^ones(f[l4:], pseudo(f, len(f)-l4))
	if s == 0 && protoOf(f) == 17 {
		s = 0xffff
	}
	binary.BigEndian.PutUint16(f[at:], s)
}

// Verify returns what is wrong with a frame as it would be on a wire.
func Verify(f []byte) error {
	if len(f) < 34 {
		return fmt.Errorf("frame of %d bytes", len(f))
	}
	l4 := 34
	switch binary.BigEndian.Uint16(f[12:]) {
	case 0x0800:
		if s := ones(f[14:34], 0); s != 0xffff {
			return fmt.Errorf("IPv4 header sums up to %#x", s)
		}
		if n := int(binary.BigEndian.Uint16(f[16:])); n != len(f)-14 {
			return fmt.Errorf("IPv4 total length %d in %d bytes", n, len(f)-14)
		}
	case 0x86dd:
		l4 = 54
		if n := int(binary.BigEndian.Uint16(f[18:])); n != len(f)-54 {
			return fmt.Errorf("IPv6 payload length %d in %d bytes", n, len(f)-54)
		}
	default:
		return fmt.Errorf("EtherType %x", f[12:14])
	}
	if s := ones(f[l4:], pseudo(f, len(f)-l4)); s != 0xffff {
		return fmt.Errorf("transport packet sums up to %#x", s)
	}
	if n := int(binary.BigEndian.Uint16(f[l4+4:])); protoOf(f) == 17 && n != len(f)-l4 {
		return fmt.Errorf("UDP length %d in %d bytes", n, len(f)-l4)
	}
	return nil
}

// Wire returns the frames that f is on a wire. It fails if the metadata
// contradicts the frame.
func Wire(f Frame) ([][]byte, error) {
	m := &f.Meta
	if m.Flags&packet.NeedsCsum != 0 && int(m.CsumStart)+int(m.CsumOffset)+2 > len(f.Data) {
		return nil, fmt.Errorf("checksum at %d+%d of %d bytes", m.CsumStart, m.CsumOffset, len(f.Data))
	}
	if m.GSO != packet.GSONone {
		return segments(f)
	}
	d := append([]byte{}, f.Data...)
	if m.Flags&packet.NeedsCsum != 0 {
		s := ^ones(d[m.CsumStart:], 0)
		if s == 0 && m.CsumOffset == 6 {
			s = 0xffff
		}
		binary.BigEndian.PutUint16(d[m.CsumStart+m.CsumOffset:], s)
	}
	return [][]byte{d}, nil
}

// segments cuts a superpacket.
func segments(f Frame) ([][]byte, error) {
	v4 := binary.BigEndian.Uint16(f.Data[12:]) == 0x0800
	proto := protoOf(f.Data)
	l4, hdr := 34, 42
	if !v4 {
		l4, hdr = 54, 62
	}
	want := packet.GSOUDPL4
	if proto == 6 {
		hdr = l4 + int(f.Data[l4+12]>>4)*4
		want = packet.GSOTCPv6
		if v4 {
			want = packet.GSOTCPv4
		}
	}
	m := &f.Meta
	// ECN is a hint for hardware; the flags say what to do.
	if m.GSO.Kind() != want || int(m.HdrLen) != hdr || m.GSOSize == 0 {
		return nil, fmt.Errorf("kind %d, header %d, size %d: want kind %d, header %d", m.GSO, m.HdrLen, m.GSOSize, want, hdr)
	}
	if m.Flags&packet.NeedsCsum == 0 || int(m.CsumStart) != l4 || int(m.CsumOffset) != sumOffset(proto) {
		return nil, fmt.Errorf("flags %d, checksum at %d+%d of a superpacket", m.Flags, m.CsumStart, m.CsumOffset)
	}
	if p := pseudo(f.Data, len(f.Data)-l4); p != binary.BigEndian.Uint16(f.Data[l4+sumOffset(proto):]) {
		return nil, fmt.Errorf("pseudo header sum %x, want %x", f.Data[l4+sumOffset(proto):][:2], p)
	}
	var all [][]byte
	rest, first := f.Data[hdr:], true
	for len(rest) > 0 {
		n := min(len(rest), int(m.GSOSize))
		s := append(append([]byte{}, f.Data[:hdr]...), rest[:n]...)
		if v4 {
			id := binary.BigEndian.Uint16(s[18:]) + uint16(len(all))
			binary.BigEndian.PutUint16(s[16:], uint16(len(s)-14))
			binary.BigEndian.PutUint16(s[18:], id)
			s[24], s[25] = 0, 0
			binary.BigEndian.PutUint16(s[24:], ^ones(s[14:34], 0))
		} else {
			binary.BigEndian.PutUint16(s[18:], uint16(len(s)-54))
		}
		if proto == 17 {
			binary.BigEndian.PutUint16(s[l4+4:], uint16(len(s)-l4))
		} else {
			done := len(f.Data) - hdr - len(rest)
			binary.BigEndian.PutUint32(s[l4+4:], binary.BigEndian.Uint32(s[l4+4:])+uint32(done))
			if n < len(rest) {
				s[l4+13] &^= 0x09 // FIN and PSH only on the last
			}
			if !first {
				s[l4+13] &^= 0x80 // CWR only on the first
			}
		}
		setTransportSum(s, l4)
		all = append(all, s)
		rest, first = rest[n:], false
	}
	return all, nil
}
