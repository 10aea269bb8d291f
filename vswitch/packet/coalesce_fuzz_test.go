package packet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// FuzzAddTrain builds datagrams from choices that often fit together, damages
// bytes, and checks that the wire shows the same frames again.
func FuzzAddTrain(f *testing.F) {
	for seed := range uint64(12) {
		f.Add(seed, uint8(seed*7+1), uint8(seed), []byte{})
	}
	f.Add(uint64(1), uint8(10), uint8(0), []byte{0, 60, 0, 200, 1, 1})
	b := NewBatch()
	f.Fuzz(func(t *testing.T, seed uint64, count, kind uint8, damage []byte) {
		frames := randomTrain(t, seed, int(count%64)+1, kind)
		off, stride, n := layOut(t, b, frames)
		for ; len(damage) >= 3; damage = damage[3:] {
			at := int(binary.BigEndian.Uint16(damage)) % n
			if at%stride >= len(tunnel) {
				b.Buf[off+at] ^= damage[2]
			}
		}
		want := datagrams(b, off, stride, n)
		spacing := stride + int(seed%3)*57
		n = spread(b, off, stride, n, spacing)
		if added, dropped := b.AddTrain(off, stride, n, len(tunnel), TrainOptions{Verify: true, Spacing: spacing}); added != len(b.Packets) || dropped != 0 {
			t.Fatalf("added %d, dropped %d", added, dropped)
		}
		sameWire(t, b, want)
	})
}

// spread moves datagrams of one size apart, as if they had been received one by
// one, and returns how many bytes they span now.
func spread(b *Batch, off, size, n, spacing int) int {
	last := (n - 1) / size
	for i := last; i > 0; i-- {
		copy(b.Buf[off+i*spacing:], b.Buf[off+i*size:off+min((i+1)*size, n)])
	}
	return n + last*(spacing-size)
}

// datagrams copies the frames out of what UDP_GRO delivered.
func datagrams(b *Batch, off, stride, n int) (frames [][]byte) {
	for at := 0; at < n; at += stride {
		if f := b.Buf[off+at : off+min(at+stride, n)]; len(f) > len(tunnel) {
			frames = append(frames, bytes.Clone(f[len(tunnel):]))
		}
	}
	return frames
}

// sameWire checks that b's packets are the frames want on the wire.
func sameWire(t *testing.T, b *Batch, want [][]byte) {
	t.Helper()
	got := allWire(b)
	if len(got) != len(want) {
		t.Fatalf("%d frames, want %d", len(got), len(want))
	}
	for i := range got {
		x, y := normal(got[i]), normal(want[i])
		if len(x) == len(y) && !bytes.Equal(x, y) {
			for _, at := range []int{24, 50, 70} { // 0 and 0xffff are one checksum
				if at+2 <= len(x) && same(binary.BigEndian.Uint16(x[at:]), binary.BigEndian.Uint16(y[at:])) {
					copy(x[at:at+2], y[at:at+2])
				}
			}
		}
		if !bytes.Equal(x, y) {
			t.Fatalf("frame %d: %s", i, difference(x, y))
		}
	}
}

// randomTrain returns frames of equal length, the last perhaps shorter, of one
// or two flows that mostly continue.
func randomTrain(t testing.TB, seed uint64, count int, kind uint8) [][]byte {
	r := rand.New(rand.NewPCG(seed, uint64(kind)))
	s := tcp(kind&1 != 0, nil)
	if kind&2 != 0 {
		s = udp(kind&1 != 0, nil)
	}
	if kind&4 != 0 {
		s.ipFlags = 0
	}
	size := 20 + r.IntN(600)
	var frames [][]byte
	for i := range count {
		q := s
		if kind&8 != 0 && r.IntN(6) == 0 {
			q.sport++
		}
		switch r.IntN(30) {
		case 0:
			q.flags |= TCPPsh
		case 1:
			q.flags |= TCPFin
		case 2:
			q.flags |= TCPCwr
		case 3:
			q.tos = 3
		case 4:
			s.ack++
		case 5:
			s.seq++
		case 6:
			s.id++
		case 7:
			q.flags = uint8(r.Uint32())
		case 8:
			q.urgent = uint16(r.Uint32())
		}
		q.payload = make([]byte, size)
		if i == count-1 {
			q.payload = q.payload[:r.IntN(size+1)]
		}
		for k := range q.payload {
			q.payload[k] = byte(r.Uint32())
		}
		frames = append(frames, q.frame(t))
		s.seq += uint32(len(q.payload))
		s.id++
	}
	return frames
}

// FuzzAddTrainRaw takes any bytes for datagrams.
func FuzzAddTrainRaw(f *testing.F) {
	for kind := range uint8(4) {
		b := NewBatch()
		off, stride, n := layOut(f, b, randomTrain(f, uint64(kind), 3, kind))
		f.Add(bytes.Clone(b.Buf[off:off+n]), uint16(stride))
	}
	f.Add([]byte{1, 2, 3}, uint16(1))
	b := NewBatch()
	f.Fuzz(func(t *testing.T, data []byte, stride uint16) {
		if stride == 0 || len(data) == 0 || len(data) > 60000 || len(data)/int(stride) >= BatchSize {
			return
		}
		b.Reset()
		off := b.Next()
		n := copy(b.Buf[off:], data)
		want := datagrams(b, off, int(stride), n)
		added, dropped := b.AddTrain(off, int(stride), n, len(tunnel), TrainOptions{Verify: true})
		if added != len(b.Packets) || len(want)+dropped != (n+int(stride)-1)/int(stride) {
			t.Fatalf("added %d, dropped %d", added, dropped)
		}
		sameWire(t, b, want)
	})
}
