package porttest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// harness is one test of one port.
type harness struct {
	*testing.T
	port port.Port
	peer Peer
	caps Caps
	mtu  int
	b    *packet.Batch
}

// burstBytes is what is sent before the other side looks: less than the
// smallest socket buffer that a system has by default.
const burstBytes = 64 << 10

// bursts calls send with groups of frames of at most burstBytes, or one frame.
func bursts(frames []Frame, send func([]Frame)) {
	for len(frames) > 0 {
		n, size := 0, 0
		for n < len(frames) && n < 8 && (n == 0 || size+len(frames[n].Data) <= burstBytes) {
			size += len(frames[n].Data)
			n++
		}
		send(frames[:n])
		frames = frames[n:]
	}
}

// add puts a frame into the batch.
func add(b *packet.Batch, f Frame) {
	p := b.Append(f.Data)
	p.GSO, p.Flags = f.Meta.GSO, f.Meta.Flags
	p.HdrLen, p.GSOSize = f.Meta.HdrLen, f.Meta.GSOSize
	p.CsumStart, p.CsumOffset = f.Meta.CsumStart, f.Meta.CsumOffset
}

// indexes returns 0 to n-1.
func indexes(n int) []uint16 {
	idx := make([]uint16, n)
	for i := range idx {
		idx[i] = uint16(i)
	}
	return idx
}

// write sends frames through the port and expects it to take all.
func (h *harness) write(frames ...Frame) {
	h.Helper()
	h.b.Reset()
	for _, f := range frames {
		add(h.b, f)
	}
	n, err := h.port.Write(h.b, indexes(len(frames)))
	if err != nil || n != len(frames) {
		h.Fatalf("Write = %d, %v; want %d; %+v", n, err, len(frames), h.stats())
	}
}

// read returns the next frames of the test that the port gives, at least one.
func (h *harness) read(wait time.Duration) []Frame {
	h.Helper()
	return h.readMax(wait, packet.BatchSize)
}

func (h *harness) readMax(wait time.Duration, limit int) (frames []Frame) {
	h.Helper()
	for end := time.Now().Add(wait); ; {
		h.b.Reset()
		n, err := h.port.Read(h.b, limit)
		if err != nil {
			h.Fatalf("Read: %v", err)
		}
		if n != len(h.b.Packets) || n > limit {
			h.Fatalf("Read(%d) = %d, and %d packets", limit, n, len(h.b.Packets))
		}
		for i := range h.b.Packets {
			p := h.b.Packets[i]
			if f := h.b.Frame(&p); Ours(f) {
				frames = append(frames, Frame{Data: bytes.Clone(f), Meta: p})
			}
		}
		if len(frames) > 0 || !time.Now().Before(end) {
			return frames
		}
		if n == 0 {
			time.Sleep(100 * time.Microsecond)
		}
	}
}

// collect reads until n frames have come.
func (h *harness) collect(n int) []Frame {
	h.Helper()
	var got []Frame
	for len(got) < n {
		more := h.read(patience)
		if more == nil {
			h.Fatalf("port gave %d of %d frames; %+v", len(got), n, h.stats())
		}
		got = append(got, more...)
	}
	return got
}

func (h *harness) send(frames ...Frame) {
	h.Helper()
	for _, f := range frames {
		if err := h.peer.Send(f); err != nil {
			h.Fatalf("peer: send frame of %d bytes: %v", len(f.Data), err)
		}
	}
}

func (h *harness) stats() port.Stats {
	h.Helper()
	c, ok := h.port.(port.Counted)
	if !ok {
		h.Fatal("the port does not count: it has no method Stats")
	}
	return c.Stats()
}

// flatten returns what frames are on a wire.
func (h *harness) flatten(frames []Frame) [][]byte {
	h.Helper()
	var all [][]byte
	for i, f := range frames {
		w, err := Wire(f)
		if err != nil {
			h.Fatalf("frame %d of %d bytes: %v", i, len(f.Data), err)
		}
		all = append(all, w...)
	}
	return all
}

// same compares frames as they are on a wire.
func (h *harness) same(got, want [][]byte) {
	h.Helper()
	if h.caps.Joins {
		got, want = byFlow(got), byFlow(want)
	}
	for i := range min(len(got), len(want)) {
		if err := Verify(got[i]); err != nil {
			h.Errorf("frame %d: %v", i, err)
		}
		if !bytes.Equal(got[i], want[i]) {
			h.Fatalf("frame %d of %d differs at byte %d:\n got %d bytes %x\nwant %d bytes %x", i, len(want),
				differ(got[i], want[i]), len(got[i]), head(got[i]), len(want[i]), head(want[i]))
		}
	}
	if len(got) != len(want) {
		h.Fatalf("%d frames, want %d; %+v", len(got), len(want), h.stats())
	}
}

// byFlow returns the frames of one kind behind those of another, in order, and
// without IPv4 identifications.
func byFlow(frames [][]byte) [][]byte {
	kind := func(f []byte) int { return int(f[12])<<8 | int(protoOf(f)) }
	frames = slices.Clone(frames)
	slices.SortStableFunc(frames, func(a, b []byte) int { return kind(a) - kind(b) })
	for i, f := range frames {
		if Verify(f) == nil && f[12] == 8 { // what is wrong stays as it is
			f = bytes.Clone(f)
			f[18], f[19], f[24], f[25] = 0, 0, 0, 0
			binary.BigEndian.PutUint16(f[24:], ^ones(f[14:34], 0))
			frames[i] = f
		}
	}
	return frames
}

func differ(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func head(f []byte) []byte { return f[:min(len(f), 80)] }

// receive returns what the peer gets, cut to wire frames, until there are n of
// them.
func (h *harness) receive(n int) [][]byte {
	h.Helper()
	var got [][]byte
	for len(got) < n {
		f, ok := h.peer.Recv(patience)
		if !ok {
			h.Errorf("peer got %d of %d frames; %+v", len(got), n, h.stats())
			return got
		}
		got = append(got, h.flatten([]Frame{f})...)
	}
	return got
}

// silent expects that nothing more comes on either side.
func (h *harness) silent() {
	h.Helper()
	if f, ok := h.peer.Recv(quiet); ok {
		h.Errorf("peer got one more frame, of %d bytes: %x", len(f.Data), head(f.Data))
	}
	if f := h.read(quiet); f != nil {
		h.Errorf("port gave %d more frames; one has %d bytes: %x", len(f), len(f[0].Data), head(f[0].Data))
	}
}

// works sends one frame each way.
func (h *harness) works(seq uint32) {
	h.Helper()
	back, there := udp(in, seq, 100), udp(out, seq, 100)
	h.send(back)
	h.same(h.flatten(h.collect(1)), [][]byte{back.Data})
	h.write(there)
	h.same(h.receive(1), [][]byte{there.Data})
}

// isClosed reads and writes until both say that the port is closed.
func (h *harness) isClosed() {
	h.Helper()
	end := time.Now().Add(patience)
	for {
		h.b.Reset()
		_, rerr := h.port.Read(h.b, 1)
		h.b.Reset()
		add(h.b, udp(out, 1, 100))
		_, werr := h.port.Write(h.b, indexes(1))
		if errors.Is(rerr, port.ErrClosed) && errors.Is(werr, port.ErrClosed) {
			return
		}
		if time.Now().After(end) {
			h.Fatalf("Read: %v, Write: %v; want %v", rerr, werr, port.ErrClosed)
		}
		time.Sleep(time.Millisecond)
	}
}

// seqOf returns the number of a UDP test frame.
func (h *harness) seqOf(f []byte) uint32 {
	h.Helper()
	n, ok := number(f)
	if !ok || binary.BigEndian.Uint16(f[12:]) != 0x0800 || f[23] != 17 {
		h.Fatalf("not a numbered frame: %x", head(f))
	}
	return n
}
