package port

import (
	"encoding/binary"
	"sync/atomic"

	"vswitch/vswitch/packet"
)

// pump makes a Port and Notifier of something that blocks. The driver runs one
// goroutine that receives and calls deliver, and one that calls next and sends.
// Packets are copied into a queue on either side, and leave as complete frames
// of at most the MTU, for an end that knows no offloads.
type pump struct {
	counters
	mtu     int
	in, out queue
	up      atomic.Bool // somebody is at the other end
	ipOnly  bool        // the other end has no Ethernet: nothing but IP is sent
	scratch []byte      // for cutting; guarded by out.mu
}

// init makes p ready; an MTU of 0 is Ethernet's. It is called once, before p is
// shared.
func (p *pump) init(mtu int) {
	if mtu == 0 {
		mtu = 1500
	}
	p.mtu = mtu
	p.in.init(queueBytes)
	p.out.init(queueBytes)
	p.scratch = make([]byte, packet.EthernetLen+mtu)
}

// MTU implements Port.
func (p *pump) MTU() int { return p.mtu }

// Notify implements Notifier.
func (p *pump) Notify(wake func()) { p.in.notify(wake) }

// Read implements Port.
func (p *pump) Read(b *packet.Batch, limit int) (int, error) { return p.in.read(b, limit) }

// Write implements Port.
func (p *pump) Write(b *packet.Batch, idx []uint16) (int, error) {
	sent := 0
	p.out.mu.Lock()
	defer p.out.flush()
	if p.out.closed {
		return 0, ErrClosed
	}
	up := p.up.Load()
	for _, i := range idx {
		pk := &b.Packets[i]
		switch {
		case !p.fits(pk, p.mtu):
		case !up:
			p.txDown.Add(1)
		case p.ipOnly && !isIP(b.Frame(pk)):
			p.txInvalid.Add(1)
		default:
			sent += p.cut(b, pk)
		}
	}
	return sent, nil
}

// cut queues the frames that pk is on the wire and returns 1 if all of them
// found room. The caller holds out.mu.
func (p *pump) cut(b *packet.Batch, pk *packet.Packet) int {
	frames, full := 0, false
	b.Each(pk, p.scratch, func(frame []byte) {
		var plain packet.Packet
		dst := p.out.put(len(frame), &plain)
		if dst == nil {
			full = true
			return
		}
		copy(dst, frame)
		frames++
	})
	switch {
	case full:
		p.txFull.Add(1)
		return 0
	case frames == 0:
		p.txInvalid.Add(1)
		return 0
	}
	return 1
}

// deliver gives one received frame to Read, and counts it if it is none. It
// waits while the queue is full, so that what sends to us waits, too, or drops.
// It reports false when the port was closed.
func (p *pump) deliver(frame []byte) bool {
	switch {
	case len(frame) < packet.EthernetLen:
		p.rxShort.Add(1)
		return true
	case len(frame) > packet.MaxFrame:
		p.rxLong.Add(1)
		return true
	}
	var plain packet.Packet
	p.in.mu.Lock()
	ok := p.in.waitSpace(len(frame))
	if ok {
		copy(p.in.put(len(frame), &plain), frame)
	}
	p.in.flush()
	return ok
}

// next waits for frames to send and gives them to each, in order, until it
// returns false; the frame it refused comes again. It reports false when the
// port was closed. The frames lie in the queue: each copies them, and is quick.
func (p *pump) next(each func(frame []byte) bool) bool {
	q := &p.out
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.count == 0 && !q.closed {
		q.changed.Wait()
	}
	if q.closed {
		return false
	}
	for q.count > 0 && each(q.bytes(q.at(0))) {
		q.drop()
	}
	return true
}

// disconnected says that nobody is at the other end any more. What was queued
// for it is lost.
func (p *pump) disconnected() {
	p.up.Store(false)
	p.txDown.Add(uint64(p.out.clear()))
}

// end closes the queues. What was received can still be read, unless discard.
func (p *pump) end(discard bool) {
	p.up.Store(false)
	p.in.close(discard)
	p.out.close(true)
}

// isIP reports whether the frame f is IPv4 or IPv6, and says so consistently.
func isIP(f []byte) bool {
	if len(f) <= packet.EthernetLen {
		return false
	}
	switch binary.BigEndian.Uint16(f[12:14]) {
	case packet.EtherTypeIPv4:
		return f[packet.EthernetLen]>>4 == 4
	case packet.EtherTypeIPv6:
		return f[packet.EthernetLen]>>4 == 6
	}
	return false
}

// burst is a copy of frames taken from the queue, for a driver that sends them
// one by one and may have to wait.
type burst struct {
	buf  []byte
	lens []int
}

func (f *burst) init() { f.buf = make([]byte, 0, streamBuf) }

// add copies a frame, and reports false if it has no room left.
func (f *burst) add(frame []byte) bool {
	if len(f.buf)+len(frame) > cap(f.buf) {
		return false
	}
	f.buf = append(f.buf, frame...)
	f.lens = append(f.lens, len(frame))
	return true
}

// take calls each with the frames, in order, until it returns false, and
// forgets all. It reports whether that was at the end.
func (f *burst) take(each func(frame []byte) bool) bool {
	at := 0
	for _, n := range f.lens {
		if !each(f.buf[at : at+n]) {
			return false
		}
		at += n
	}
	f.buf, f.lens = f.buf[:0], f.lens[:0]
	return true
}
