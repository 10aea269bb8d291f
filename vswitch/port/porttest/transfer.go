package porttest

import (
	"sync"
	"time"

	"vswitch/vswitch/packet"
)

// sizes returns frames of the lengths where drivers go wrong, up to the MTU.
func (h *harness) sizes(d dir) []Frame {
	var frames []Frame
	limit := h.mtu + packet.EthernetLen
	seq := uint32(1)
	for _, n := range []int{
		60, 61, 63, 64, 65, 127, 128, 511, 512, 1023, 1499, 1500, 1501, 1513, 1514,
		2047, 2048, 4095, 4096, 4097, 9014, 16384, 32767, 32768, 65534, 65535, limit - 1, limit,
	} {
		if n <= limit {
			frames = append(frames, udp(d, seq, n))
			seq++
		}
	}
	// A burst of the smallest, to see that the order is kept.
	for range 200 {
		frames = append(frames, udp(d, seq, 60))
		seq++
	}
	return frames
}

func (h *harness) inSizes() {
	frames := h.sizes(in)
	var got []Frame
	bursts(frames, func(fs []Frame) {
		h.send(fs...)
		got = append(got, h.collect(len(fs))...)
	})
	h.same(h.flatten(got), h.flatten(frames))
	h.silent()
}

func (h *harness) outSizes() {
	frames := h.sizes(out)
	var got [][]byte
	bursts(frames, func(fs []Frame) {
		h.write(fs...)
		got = append(got, h.receive(len(fs))...)
	})
	h.same(got, h.flatten(frames))
	h.silent()
}

// inMax reads less than there is.
func (h *harness) inMax() {
	var frames []Frame
	for i := range 7 {
		frames = append(frames, udp(in, uint32(i), 100))
	}
	h.send(frames...)
	var got []Frame
	for len(got) < len(frames) {
		fs := h.readMax(patience, 3)
		if fs == nil {
			h.Fatalf("%d of %d frames", len(got), len(frames))
		}
		got = append(got, fs...)
	}
	h.same(h.flatten(got), h.flatten(frames))
}

// inBatchFull reads more bytes than a batch holds: the rest must wait.
func (h *harness) inBatchFull() {
	n := 2 * packet.FullSize / (h.mtu + packet.EthernetLen)
	if h.mtu < 9000 {
		n = 2 * packet.BatchSize
	}
	done := make(chan struct{})
	var frames []Frame
	for i := range n {
		frames = append(frames, udp(in, uint32(i), h.mtu+packet.EthernetLen))
	}
	go func() {
		defer close(done)
		for _, f := range frames {
			if err := h.peer.Send(f); err != nil {
				h.Errorf("peer: %v", err)
				return
			}
		}
	}()
	h.same(h.flatten(h.collect(n)), h.flatten(frames))
	<-done
}

func (h *harness) inOffload() {
	frames := []Frame{
		shape{dir: in, proto: 17, seq: 1, data: 500}.complete(),
		shape{dir: in, v6: true, proto: 6, seq: 2, flags: 0x18, data: 501}.complete(),
	}
	if h.caps.Offload {
		frames = append(frames,
			shape{dir: in, proto: 6, seq: 3, flags: 0x18, data: 700}.partial(),
			shape{dir: in, v6: true, proto: 17, seq: 4, data: 701}.partial(),
		)
		frames = append(frames, superpackets(in)...)
	}
	for i, f := range frames {
		want := h.flatten([]Frame{f})
		h.send(f)
		var got []Frame
		for len(h.flatten(got)) < len(want) {
			fs := h.read(patience)
			if fs == nil {
				h.Fatalf("frame %d: %d of %d segments; %+v", i, len(h.flatten(got)), len(want), h.stats())
			}
			got = append(got, fs...)
		}
		h.same(h.flatten(got), want)
		if h.caps.Whole && len(got) != 1 {
			h.Errorf("frame %d came in %d pieces", i, len(got))
		}
	}
	h.silent()
}

func (h *harness) outPartial() {
	var frames []Frame
	for i := range uint32(8) {
		s := shape{dir: out, v6: i&1 != 0, proto: 17, seq: i, data: 100 + int(i)}
		if i&2 != 0 {
			s.proto, s.flags = 6, 0x10
		}
		frames = append(frames, s.partial())
	}
	// A sum of zero, which UDP writes as all ones.
	zero := shape{dir: out, proto: 17, seq: 99, data: 100}
	f, l4 := zero.build()
	setTransportSum(f, l4)
	was := uint16(f[l4+6])<<8 | uint16(f[l4+7])
	z := zero.partial()
	was = ones([]byte{z.Data[l4+12], z.Data[l4+13]}, was) // move the sum into the payload
	z.Data[l4+12], z.Data[l4+13] = byte(was>>8), byte(was)
	frames = append(frames, z)
	if w := h.flatten([]Frame{z})[0]; w[l4+6] != 0xff || w[l4+7] != 0xff {
		h.Fatalf("the test's own frame sums up to %x", w[l4+6:l4+8])
	}
	want := h.flatten(frames)
	h.write(frames...)
	h.same(h.receive(len(want)), want)
	h.silent()
}

func (h *harness) outSuperpackets() {
	for _, f := range superpackets(out) {
		want := h.flatten([]Frame{f})
		h.write(f)
		got := h.receive(1)
		if h.caps.Whole && len(got) != len(want) {
			h.Errorf("the first frame has %d segments, want all %d", len(got), len(want))
		}
		h.same(append(got, h.receive(len(want)-len(got))...), want)
	}
	// Next to each other and to small ones, in one batch.
	frames := append(superpackets(out)[2:6:6], udp(out, 1, 60))
	frames = append(frames, shape{dir: out, proto: 6, seq: 3, flags: 0x10}.partial())
	frames = append(frames, superpackets(out)[6:]...)
	want := h.flatten(frames)
	h.write(frames...)
	h.same(h.receive(len(want)), want)
	h.silent()
}

// outTrains sends superpackets as trains: every payload behind a header of its
// own, as the overlay receives them. What lies before and between must survive,
// because it may belong to other packets.
func (h *harness) outTrains() {
	for _, f := range superpackets(out) {
		want := h.flatten([]Frame{f})
		h.b.Reset()
		addTrain(h.b, f)
		p := h.b.Packets[0]
		before := append([]byte{}, h.b.Buf[:p.Off]...)
		n, err := h.port.Write(h.b, indexes(1))
		if n != 1 || err != nil {
			h.Fatalf("Write = %d, %v; %+v", n, err, h.stats())
		}
		if i := differ(before, h.b.Buf[:p.Off]); i != len(before) {
			h.Errorf("Write left byte %d before the frame changed", i-len(before))
		}
		h.same(h.receive(len(want)), want)
	}
	h.silent()
}

// addTrain puts f into b as a train.
func addTrain(b *packet.Batch, f Frame) {
	const gap = 58
	off := b.Next()
	hdr, size := int(f.Meta.HdrLen), int(f.Meta.GSOSize)
	for i := range b.Buf[:off] {
		b.Buf[i] = 0xa5
	}
	at := off + copy(b.Buf[off:], f.Data[:hdr])
	end := at
	for rest := f.Data[hdr:]; len(rest) > 0; at += size + gap {
		n := min(size, len(rest))
		end = at + copy(b.Buf[at:], rest[:n])
		rest = rest[n:]
	}
	p := b.Add(off, len(f.Data))
	b.Take(end)
	m := f.Meta
	m.Off, m.Len, m.Stride = p.Off, p.Len, uint16(size+gap)
	*p = m
}

func (h *harness) outTooBig() {
	h.b.Reset()
	add(h.b, udp(out, 1, h.mtu+packet.EthernetLen))
	add(h.b, udp(out, 2, h.mtu+packet.EthernetLen+1))
	add(h.b, shape{dir: out, proto: 6, seq: 3, flags: 0x10, data: 9000}.super(h.mtu))
	add(h.b, udp(out, 4, 100))
	n, err := h.port.Write(h.b, indexes(4))
	if n != 2 || err != nil {
		h.Errorf("Write = %d, %v; want 2 of 4 sent", n, err)
	}
	if s := h.stats(); s.TxTooBig != 2 || s.TxLost() != 2 {
		h.Errorf("%+v, want TxTooBig 2", s)
	}
	h.same(h.receive(2), [][]byte{udp(out, 1, h.mtu+packet.EthernetLen).Data, udp(out, 4, 100).Data})
	h.silent()
}

// outTwoWriters has two workers write at once. Each one's order must be kept.
func (h *harness) outTwoWriters() {
	const frames = 2000
	var wg sync.WaitGroup
	for w := range uint32(2) {
		wg.Go(func() {
			b := packet.NewBatch()
			for i := uint32(0); i < frames; {
				b.Reset()
				for range 8 {
					add(b, udp(out, w<<24|i, 60))
					i++
				}
				if _, err := h.port.Write(b, indexes(8)); err != nil {
					h.Errorf("Write: %v", err)
					return
				}
				time.Sleep(100 * time.Microsecond) // let the peer keep up
			}
		})
	}
	next := [2]uint32{}
	got := 0
	for {
		wait := patience
		if got > frames && h.caps.Lossy { // what is missing may be lost
			wait = 10 * quiet
		}
		f, ok := h.peer.Recv(wait)
		if !ok {
			break
		}
		for _, w := range h.flatten([]Frame{f}) {
			n := h.seqOf(w)
			who, i := n>>24, n&0xffffff
			if who > 1 || i < next[who] {
				h.Fatalf("frame %d of writer %d came after frame %d", i, who, next[who])
			}
			next[who] = i + 1
			got++
		}
		if got == 2*frames {
			break
		}
	}
	wg.Wait()
	if lost := 2*frames - got; lost > 0 && !h.caps.Lossy || got < frames {
		h.Errorf("%d of %d frames lost; %+v", lost, 2*frames, h.stats())
	}
}
