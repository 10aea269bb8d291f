package vswitch

import (
	"bytes"

	"vswitch/vswitch/packet"
)

// Only what is for the switch itself is put together again: echo requests that
// came in fragments. All else is forwarded piece by piece.

// maxWholes bounds the datagrams that a worker puts together at a time, each of
// 64 KiB at most. One more takes the place of the one that waits longest.
const maxWholes = 8

// whole is a datagram while it is put together. RFC 5722 and RFC 8200 section
// 4.5 want one dropped whose fragments overlap; a fragment that comes twice, byte
// by byte the same, is none of that and is dropped alone.
type whole struct {
	of        *datagram // nil: free
	number    uint64    // in the order of their beginning
	fragments int
	came      int                                // bytes
	end       int                                // of the fragment furthest behind
	size      int                                // bytes in all; 0 until the last fragment came
	have      [(packet.MaxIP/8 + 64) / 64]uint64 // a bit for every eight bytes
	buf       [packet.MaxIP]byte
}

// placement is what whole.add finds.
type placement uint8

const (
	overlaps placement = iota // or contradicts others
	repeated
	placed
	completed
)

// add puts a fragment in its place. Its offset is a multiple of 8, and its
// length too if there is more behind it.
func (h *whole) add(offset int, part []byte, more bool) placement {
	end := offset + len(part)
	switch {
	case end > len(h.buf), !more && h.end > end, !more && h.size > 0 && h.size != end, more && h.size > 0 && end >= h.size:
		return overlaps
	}
	first, last, there := offset/8, (end-1)/8, 0
	for u := first; u <= last; u++ {
		there += int(h.have[u/64] >> (u % 64) & 1)
	}
	if there > 0 {
		if there == last-first+1 && bytes.Equal(h.buf[offset:end], part) && (more || h.size == end) {
			return repeated
		}
		return overlaps
	}
	for u := first; u <= last; u++ {
		h.have[u/64] |= 1 << (u % 64)
	}
	h.fragments++
	h.came += copy(h.buf[offset:], part)
	h.end = max(h.end, end)
	if !more {
		h.size = end
	}
	if h.size > 0 && h.came == h.size {
		return completed
	}
	return placed
}

// whole returns an empty place for a datagram.
func (fs *fragments) whole(d *datagram) *whole {
	var oldest *whole
	for _, h := range fs.wholes {
		if h.of == nil {
			oldest = h
			break
		}
		if oldest == nil || h.number < oldest.number {
			oldest = h
		}
	}
	switch {
	case oldest == nil, oldest.of != nil && len(fs.wholes) < maxWholes:
		oldest = new(whole)
		fs.wholes = append(fs.wholes, oldest)
	case oldest.of != nil:
		fs.forget(oldest.of)
	}
	h := oldest
	fs.begun++
	h.of, h.number = d, fs.begun
	h.fragments, h.came, h.end, h.size = 0, 0, 0, 0
	clear(h.have[:])
	return h
}

// assemble begins to put together the echo request that p is the first fragment
// of, with what came before it.
func (w *worker) assemble(p *packet.Packet, d *datagram, info *PortInfo, more bool) Reason {
	d.to.Gen = w.tables.Gen
	d.whole = w.frags.whole(d)
	d.whole.add(0, w.in.Frame(p)[p.L4:], more)
	early := w.frags.waiters(d)
	for i, f := range early {
		switch d.whole.add(f.offset, f.frame[f.l4:], f.more) {
		case overlaps:
			w.fragmentsLost(d.from, len(early)-i)
			w.refuse(d)
			return Answered // p is one of those that refuse has counted
		case repeated:
			w.fragmentsLost(d.from, 1)
		case completed:
			w.fragmentsLost(d.from, len(early)-i-1)
			return w.answer(p, d, info)
		}
	}
	return Answered
}

// collect adds a fragment to a datagram that was begun.
func (w *worker) collect(p *packet.Packet, d *datagram, info *PortInfo, off int, more bool) Reason {
	if d.to.Gen != w.tables.Gen {
		w.refuse(d)
		return FragmentLost // the world changed in the middle of a datagram
	}
	switch d.whole.add(off, w.in.Frame(p)[p.L4:], more) {
	case placed:
		return Answered
	case completed:
		return w.answer(p, d, info)
	case repeated:
		return FragmentLost
	}
	return w.refuse(d)
}

// refuse drops a datagram, and with it all that is still to come of it.
func (w *worker) refuse(d *datagram) Reason {
	w.frags.lose(d)
	d.denied = true
	return Malformed
}

// answer replies to an echo request that is whole, in fragments that fit the
// way back. The request's identification is no other's between the two, so
// that it can be the reply's.
func (w *worker) answer(p *packet.Packet, d *datagram, info *PortInfo) Reason {
	h := d.whole
	packet.AnswerEcho(h.buf[:h.size])
	reply := packet.Datagram{
		Src: p.Tuple.Dst, Dst: p.Tuple.Src, Proto: p.Tuple.Proto, ID: d.key.id, Payload: h.buf[:h.size],
	}
	mtu := info.MTU
	if hop := w.tables.Routes.Lookup(&p.Tuple.Src); hop != nil && hop.MTU != 0 {
		mtu = hop.MTU
	}
	for {
		buf := w.room()
		n, ok := reply.Next(buf, int(mtu))
		if !ok {
			break
		}
		w.send(p, buf[:n])
	}
	w.frags.release(d)
	w.frags.forget(d)
	return Answered
}
