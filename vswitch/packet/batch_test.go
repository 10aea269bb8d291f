package packet

import (
	"bytes"
	"testing"
)

func TestBatchAlignment(t *testing.T) {
	b := NewBatch()
	for i := range 40 {
		off := b.Next()
		if (off+EthernetLen)%16 != 0 || off < Headroom {
			t.Fatalf("frame %d at %d: the IP header is not on a 16-byte boundary", i, off)
		}
		if i > 0 {
			last := b.Packets[i-1]
			if off < int(last.Off+last.Len)+Headroom {
				t.Fatalf("frame %d at %d: no headroom behind the frame at %d", i, off, last.Off)
			}
		}
		b.Add(off, 60+i*37)
	}
}

// TestBatchFull checks that a frame of any size fits while the batch says so.
func TestBatchFull(t *testing.T) {
	for _, size := range []int{1, 60, 1514, 9014, MaxFrame} {
		b := NewBatch()
		n := 0
		for ; !b.Full(); n++ {
			if b.Next()+MaxFrame > len(b.Buf) {
				t.Fatalf("size %d: frame %d has no room for %d bytes", size, n, MaxFrame)
			}
			b.Add(b.Next(), size)
		}
		if n > BatchSize || n < 10 || size <= 1514 && n != BatchSize {
			t.Errorf("size %d: %d frames", size, n)
		}
		b.Reset()
		if b.Full() || len(b.Packets) != 0 || b.Next() != Headroom+2 {
			t.Errorf("size %d: Reset did not forget", size)
		}
	}
}

func TestBatchAppend(t *testing.T) {
	b := NewBatch()
	if b.Append(make([]byte, MaxFrame+1)) != nil {
		t.Error("a frame larger than MaxFrame was taken")
	}
	var frames [][]byte
	for i := range BatchSize {
		f := pattern(i * 20)
		frames = append(frames, f)
		if p := b.Append(f); p == nil || *p != (Packet{Off: p.Off, Len: uint32(len(f))}) {
			t.Fatalf("frame %d: %+v", i, p)
		}
	}
	if b.Append(nil) != nil {
		t.Error("a full batch took another frame")
	}
	for i := range b.Packets {
		f := b.Frame(&b.Packets[i])
		if !bytes.Equal(f, frames[i]) {
			t.Errorf("frame %d was overwritten", i)
		}
		if cap(f) != len(f) {
			t.Errorf("frame %d: an append would overwrite its neighbour", i)
		}
	}
}

func TestFrameAndAppendToOfTrain(t *testing.T) {
	b := NewBatch()
	s := tcp(true, pattern(5000))
	p := s.addGSO(t, b, 1400, 70)
	whole := s.partial(s.frame(t))
	if got := b.Frame(p); !bytes.Equal(got, whole[:int(p.HdrLen)+1400]) {
		t.Errorf("Frame: %s", difference(got, whole))
	}
	if got := b.AppendTo([]byte("xy"), p); !bytes.Equal(got[2:], whole) || string(got[:2]) != "xy" {
		t.Errorf("AppendTo: %s", difference(got[2:], whole))
	}
	b.Linearize(p)
	if got := b.AppendTo(nil, p); !bytes.Equal(got, whole) {
		t.Errorf("AppendTo of a contiguous packet: %s", difference(got, whole))
	}
}

func TestSegments(t *testing.T) {
	tests := []struct {
		p              Packet
		segments, wire int
	}{
		{Packet{Len: 1514}, 1, 1500},
		{Packet{Len: 60000, HdrLen: 66, GSOSize: 1448}, 1, 59986}, // leftovers of a packet that is none
		{Packet{Len: 66 + 1449, GSO: GSOTCPv4, HdrLen: 66, GSOSize: 1448}, 2, 1500},
		{Packet{Len: 66 + 2*1448, GSO: GSOTCPv6 | GSOECN, HdrLen: 66, GSOSize: 1448}, 2, 1500},
		{Packet{Len: 66 + 44*1398, GSO: GSOTCPv4, HdrLen: 66, GSOSize: 1398, Stride: 1472}, 44, 1450},
		{Packet{Len: 42 + 65000, GSO: GSOUDPL4, HdrLen: 42, GSOSize: 1}, 65000, 29},
	}
	for _, tt := range tests {
		if got := tt.p.Segments(); got != tt.segments {
			t.Errorf("%+v: %d segments, want %d", tt.p, got, tt.segments)
		}
		if got := tt.p.WireLen(); got != tt.wire {
			t.Errorf("%+v: %d bytes, want %d", tt.p, got, tt.wire)
		}
	}
}
