package packet

// Sizes of a batch.
const (
	// BatchSize is the largest number of packets in a batch.
	BatchSize = 64
	// FullSize bounds the bytes of a batch. Frames lie one behind the other,
	// so a batch of small packets touches a few pages only and a batch of
	// superpackets stays within the second level cache.
	FullSize = 768 << 10
	// ArenaSize is what a batch has room for: while it is not full, a port may
	// spread out what it reads at once, and leave most of that untouched.
	ArenaSize = FullSize + 4<<20
	// slot is what one read needs to have free: the largest frame and its headroom.
	slot = (Headroom + MaxFrame + 63) &^ 63
)

// Batch is a fixed buffer and the packets that were read into it. One worker
// owns it: ports append packets in Read, the switch rewrites them in place,
// ports send them in Write, and Reset forgets them all at once. That is the
// whole of buffer ownership: nothing is freed one by one and nothing is
// counted, because every write has copied the bytes before it returns.
type Batch struct {
	// Buf is the arena. Ports read frames straight into it.
	Buf []byte
	// Packets are the packets so far; its capacity is BatchSize and never grows.
	Packets []Packet

	next int
}

// NewBatch returns an empty batch. Its arena lives outside the Go heap where
// the system allows that: only Close gives it back.
func NewBatch() *Batch {
	return &Batch{Buf: arena(ArenaSize), Packets: make([]Packet, 0, BatchSize)}
}

// Close gives the arena back. Neither the batch nor any frame of it can be used
// after that.
func (b *Batch) Close() {
	release(b.Buf)
	*b = Batch{}
}

// Reset forgets all packets. The first buffers are used again first, while
// they are warm in the cache.
func (b *Batch) Reset() {
	b.Packets = b.Packets[:0]
	b.next = 0
}

// Full reports whether no further frame of any size can be read.
func (b *Batch) Full() bool {
	return len(b.Packets) == BatchSize || b.next > FullSize-slot
}

// Next returns the offset in Buf at which the next frame should start: its
// Ethernet header aligned so that the IP header lies on a 16-byte boundary,
// with Headroom before it. At least MaxFrame bytes follow while the batch is
// not Full.
func (b *Batch) Next() int { return b.next + Headroom + 2 }

// Add appends a packet for the frame of n bytes at Buf[off:off+n], which the
// caller has written at or behind Next. The descriptor is zero but for Off and
// Len, and is valid until Reset. It must not be called when Packets is full.
func (b *Batch) Add(off, n int) *Packet {
	b.Take(off + n)
	b.Packets = b.Packets[:len(b.Packets)+1]
	p := &b.Packets[len(b.Packets)-1]
	*p = Packet{Off: uint32(off), Len: uint32(n)}
	return p
}

// Take marks Buf[:end] as used, for a caller that reads several frames, or a
// train, with one system call.
func (b *Batch) Take(end int) {
	if end = (end + 63) &^ 63; end > b.next {
		b.next = end
	}
}

// Frame returns p's bytes from the Ethernet header on: the whole frame, or of
// a train its headers and the payload of its first segment. The slice's
// capacity ends with it.
func (b *Batch) Frame(p *Packet) []byte {
	n := p.Len
	if p.Stride != 0 {
		n = min(n, uint32(p.HdrLen)+uint32(p.GSOSize))
	}
	return b.Buf[p.Off : p.Off+n : p.Off+n]
}

// Append copies a frame into the batch as a packet of its own, for whoever
// makes packets rather than receives them. It returns nil when the batch is full
// or the frame is larger than MaxFrame.
func (b *Batch) Append(frame []byte) *Packet {
	if b.Full() || len(frame) > MaxFrame {
		return nil
	}
	off := b.Next()
	copy(b.Buf[off:], frame)
	return b.Add(off, len(frame))
}

// AppendTo appends a copy of p's whole frame to dst, a train's payload gathered
// behind its headers: the way to keep a packet longer than its batch.
func (b *Batch) AppendTo(dst []byte, p *Packet) []byte {
	if p.Stride == 0 {
		return append(dst, b.Frame(p)...)
	}
	dst = append(dst, b.Buf[p.Off:p.Off+uint32(p.HdrLen)]...)
	at := p.Off + uint32(p.HdrLen)
	for left := p.Len - uint32(p.HdrLen); left > 0; at += uint32(p.Stride) {
		n := min(left, uint32(p.GSOSize))
		dst = append(dst, b.Buf[at:at+n]...)
		left -= n
	}
	return dst
}
