package overlay

import (
	"fmt"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/packet"
)

// held keeps packets that were received with others but for which the caller of
// Read had no room, until the next Read. That is rare: one datagram of the
// kernel must hold many packets that are no train, such as acknowledgements of
// many streams, while the caller wants few.
type held struct {
	packets []packet.Packet // Off counts in buf
	first   int             // the oldest one
	buf     []byte
	used    int
}

// Bounds of held: what one recvmmsg can bring at worst. The memory is not
// touched before it is needed.
const (
	maxHeld   = maxMessages * (maxSegments + 1)
	heldBytes = maxMessages*regionSize + maxHeld*64
)

func (h *held) init() (err error) {
	h.packets = make([]packet.Packet, 0, maxHeld)
	if h.buf, err = unix.Mmap(-1, 0, heldBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE); err != nil {
		return fmt.Errorf("map %d bytes: %w", heldBytes, err)
	}
	return nil
}

func (h *held) free() {
	if h.buf != nil {
		_ = unix.Munmap(h.buf)
		h.buf = nil
	}
}

// count returns how many packets wait.
func (h *held) count() int { return len(h.packets) - h.first }

// take moves the packets of b from index end on to h.
func (h *held) take(b *packet.Batch, end int) {
	if len(b.Packets) <= end {
		return
	}
	for i := end; i < len(b.Packets); i++ {
		p := b.Packets[i]
		n := span(&p)
		copy(h.buf[h.used:h.used+n], b.Buf[p.Off:])
		p.Off = uint32(h.used)
		h.used += (n + 63) &^ 63
		h.packets = append(h.packets, p)
	}
	b.Packets = b.Packets[:end]
}

// give moves waiting packets to b, until it has end of them.
func (h *held) give(b *packet.Batch, end int) {
	for h.first < len(h.packets) && len(b.Packets) < end && !b.Full() {
		p := h.packets[h.first]
		n := span(&p)
		off := b.Next()
		copy(b.Buf[off:], h.buf[p.Off:int(p.Off)+n])
		p.Off = uint32(off)
		*b.Add(off, n) = p
		h.first++
	}
	if h.first == len(h.packets) {
		h.packets, h.first, h.used = h.packets[:0], 0, 0
	}
}

// span returns how many bytes p takes in its batch, a train with all that lies
// between its segments.
func span(p *packet.Packet) int {
	if p.Stride == 0 {
		return int(p.Len)
	}
	n := p.Segments()
	last := int(p.Len) - int(p.HdrLen) - (n-1)*int(p.GSOSize)
	return int(p.HdrLen) + (n-1)*int(p.Stride) + last
}
