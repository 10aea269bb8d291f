package vswitch

import (
	"sync"
	"sync/atomic"
	"time"

	"vswitch/vswitch/packet"
)

// Sight is a frame as it was seen at a port.
type Sight struct {
	At   time.Duration // of the switch's clock
	Port string
	// Out is set for a frame that leaves by the port; else it came in.
	Out bool
	// Frame is a copy of the frame, whole or as far as was asked for. A
	// superpacket is one frame, and its checksum may be partial.
	Frame []byte
	// Len is the frame's full length.
	Len int
}

// Capture delivers copies of frames. It costs nothing while there is none.
type Capture struct {
	// C delivers what is seen. When it is full, sights are lost and counted.
	C    <-chan Sight
	Lost atomic.Uint64

	c    chan Sight
	see  func(Sight) // instead of c
	port string
	snap int
	taps *taps
}

// taps are the captures that run.
type taps struct {
	mu     sync.Mutex
	active atomic.Pointer[captures] // nil when there are none
}

type captures []*Capture

// Capture starts to copy the frames of the port of that name, or of all ports
// if it is empty, up to snap bytes each. Close ends it.
func (s *Switch) Capture(port string, snap int) *Capture {
	c := &Capture{c: make(chan Sight, 4096), port: port, snap: snap, taps: &s.taps}
	c.C = c.c
	c.taps.change(func(cs captures) captures { return append(cs, c) })
	return c
}

// CaptureFunc calls see with the frames that Capture would deliver, in their
// order and without loss, from the goroutine that forwards them: from several
// at a time if the switch has several workers. The frame is see's until it
// returns. The capture has no C. After Close, a call may still be under way.
func (s *Switch) CaptureFunc(port string, snap int, see func(Sight)) *Capture {
	c := &Capture{see: see, port: port, snap: snap, taps: &s.taps}
	c.taps.change(func(cs captures) captures { return append(cs, c) })
	return c
}

// Close ends the capture. C is not closed; nothing comes any more.
func (c *Capture) Close() {
	c.taps.change(func(cs captures) captures {
		var rest captures
		for _, o := range cs {
			if o != c {
				rest = append(rest, o)
			}
		}
		return rest
	})
}

func (t *taps) change(f func(captures) captures) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var old captures
	if p := t.active.Load(); p != nil {
		old = append(old, *p...)
	}
	if next := f(old); len(next) > 0 {
		t.active.Store(&next)
	} else {
		t.active.Store(nil)
	}
}

// see copies a batch that came in by a port.
func (cs captures) see(b *packet.Batch, a *attached, now time.Duration) {
	for _, c := range cs {
		if c.port != "" && c.port != a.name {
			continue
		}
		for i := range b.Packets {
			c.copy(b, &b.Packets[i], a.name, false, now)
		}
	}
}

// seeOut copies packets that are about to leave by a port.
func (cs captures) seeOut(b *packet.Batch, idx []uint16, a *attached, now time.Duration) {
	for _, c := range cs {
		if c.port != "" && c.port != a.name {
			continue
		}
		for _, i := range idx {
			c.copy(b, &b.Packets[i], a.name, true, now)
		}
	}
}

func (c *Capture) copy(b *packet.Batch, p *packet.Packet, port string, out bool, now time.Duration) {
	if c.see != nil && p.Stride == 0 { // spare the copy
		frame := b.Frame(p)
		c.see(Sight{At: now, Port: port, Out: out, Frame: frame[:min(len(frame), c.snap)], Len: int(p.Len)})
		return
	}
	frame := b.AppendTo(nil, p)
	if len(frame) > c.snap {
		frame = frame[:c.snap:c.snap]
	}
	if c.see != nil {
		c.see(Sight{At: now, Port: port, Out: out, Frame: frame, Len: int(p.Len)})
		return
	}
	select {
	case c.c <- Sight{At: now, Port: port, Out: out, Frame: frame, Len: int(p.Len)}:
	default:
		c.Lost.Add(1)
	}
}
