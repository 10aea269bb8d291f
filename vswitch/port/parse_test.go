package port

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"vswitch/vswitch/packet"
)

// FuzzVnet: whatever the header says, what is accepted can be worked with.
func FuzzVnet(f *testing.F) {
	tcp := make([]byte, 14+20+20+3000)
	tcp[12], tcp[14], tcp[14+20+12] = 8, 0x45, 5<<4
	header := func(flags, gso byte, v ...uint16) []byte {
		h := []byte{flags, gso}
		for _, x := range v {
			h = binary.NativeEndian.AppendUint16(h, x)
		}
		return h
	}
	f.Add(header(1, 1, 54, 1448, 34, 16), tcp)
	f.Add(header(1, 0x81, 54, 1448, 34, 16), tcp)
	f.Add(header(1, 5, 42, 1000, 34, 6), tcp)
	f.Add(header(1, 0, 0, 0, 34, 16), tcp[:60])
	f.Add(header(2, 0, 0, 0, 0, 0), tcp[:60])
	f.Add(header(1, 1, 54, 1, 34, 16), tcp)
	f.Add(header(1, 4, 54, 1448, 0xffff, 0xffff), tcp)
	f.Add(header(0, 3, 54, 1448, 34, 16), tcp)
	f.Fuzz(func(t *testing.T, h, frame []byte) {
		if len(h) < vnetLen || len(frame) < packet.EthernetLen || len(frame) > packet.MaxFrame {
			return
		}
		p := packet.Packet{Len: uint32(len(frame))}
		if !decodeVnet((*[vnetLen]byte)(h), frame, &p) {
			return
		}
		if p.Flags&packet.NeedsCsum != 0 && int(p.CsumStart)+int(p.CsumOffset)+2 > len(frame) {
			t.Errorf("checksum at %d+%d of %d bytes", p.CsumStart, p.CsumOffset, len(frame))
		}
		if p.GSO != packet.GSONone {
			if p.Flags&packet.NeedsCsum == 0 || p.GSOSize == 0 || int(p.HdrLen) >= len(frame) || p.HdrLen <= p.CsumStart {
				t.Errorf("accepted %+v of %d bytes", p, len(frame))
			}
			if n := p.Segments(); n < 1 || n > maxSegments {
				t.Errorf("%d segments", n)
			}
		}
		// What was decoded is encoded again as it came.
		var back [vnetLen]byte
		encodeVnet(&back, &p)
		q := packet.Packet{Len: uint32(len(frame))}
		if !decodeVnet(&back, frame, &q) || p != q {
			t.Errorf("%+v became %+v", p, q)
		}
	})
}

// FuzzDeframe: frames come out as they were put in, however the stream is cut
// into reads, and what is no frame is refused.
func FuzzDeframe(f *testing.F) {
	two := append([]byte{0, 0, 0, 3, 1, 2, 3}, 0, 0, 0, 1, 9)
	f.Add(two, uint8(1))
	f.Add(append(two, 0, 1, 0x10, 0), uint8(3))
	f.Add([]byte{0, 1, 0x10, 1, 0, 0}, uint8(2))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, uint8(200))
	f.Add(append([]byte{0, 1, 0x10, 0}, make([]byte, qemuMax)...), uint8(255))
	f.Fuzz(func(t *testing.T, stream []byte, step uint8) {
		var want [][]byte
		bad := false
		for rest := stream; len(rest) >= 4; {
			n := uint64(binary.BigEndian.Uint32(rest))
			if bad = n > qemuMax; bad || uint64(len(rest)) < 4+n {
				break
			}
			want = append(want, rest[4:4+n])
			rest = rest[4+n:]
		}
		d := deframer{buf: make([]byte, streamBuf)}
		var err error
		got := 0
		for rest := stream; err == nil && len(rest) > 0; {
			// Steps of up to twice the buffer.
			n := copy(d.space(), rest[:min(len(rest), 1+int(step)<<10)])
			if n == 0 {
				t.Fatal("no space")
			}
			d.wrote(n)
			rest = rest[n:]
			for {
				var frame []byte
				var ok bool
				if frame, ok, err = d.next(); !ok {
					break
				}
				if got >= len(want) || !bytes.Equal(frame, want[got]) {
					t.Fatalf("frame %d is %d bytes", got, len(frame))
				}
				got++
			}
		}
		if got != len(want) || bad != errors.Is(err, errFraming) {
			t.Errorf("%d frames and %v, want %d and %v", got, err, len(want), bad)
		}
	})
}
