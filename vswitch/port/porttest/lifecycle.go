package porttest

import (
	"errors"
	"sync/atomic"
	"time"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// inFlood has the peer send more than any queue holds while nobody reads. What
// gets through is in order, and the port works afterwards.
func (h *harness) inFlood() {
	const frames = 20000
	done := make(chan error, 1)
	go func() {
		for i := range uint32(frames) {
			if err := h.peer.Send(udp(in, i, 1000)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	time.Sleep(quiet)
	next, sent := uint32(0), false
	for {
		wait := patience
		if sent {
			wait = quiet
		}
		fs := h.read(wait)
		if fs == nil && sent {
			break
		}
		for _, f := range fs {
			n := h.seqOf(f.Data)
			if n < next {
				h.Fatalf("frame %d came after frame %d", n, next-1)
			}
			if h.caps.Waits && n > next {
				h.Fatalf("frames %d to %d are lost", next, n-1)
			}
			next = n + 1
		}
		select {
		case err := <-done:
			if err != nil {
				h.Fatalf("peer: %v", err)
			}
			sent = true
		default:
		}
	}
	if next == 0 || h.caps.Waits && next != frames {
		h.Fatalf("the last frame that came through is number %d", int(next)-1)
	}
	h.works(1)
}

func (h *harness) inNonsense() {
	peer, ok := h.peer.(Noisy)
	if !ok {
		return // a peer that cannot speak wrongly
	}
	h.works(1)
	before := h.stats().RxLost()
	want := peer.Nonsense(h.T)
	for end := time.Now().Add(patience); h.stats().RxLost()-before < want; {
		if time.Now().After(end) {
			h.Fatalf("%+v, want %d frames counted as lost", h.stats(), want)
		}
		h.b.Reset()
		if _, err := h.port.Read(h.b, packet.BatchSize); err != nil {
			h.Fatalf("Read: %v", err)
		}
		time.Sleep(time.Millisecond)
	}
	h.works(2)
}

// outFull writes more than any queue holds to a peer that does not receive.
// Write never blocks, and the port works afterwards.
func (h *harness) outFull() {
	const rounds = 400
	h.b.Reset()
	for i := range packet.BatchSize {
		add(h.b, udp(out, uint32(i), 1500))
	}
	idx := indexes(packet.BatchSize)
	sent, slow := 0, 0
	for range rounds {
		start := time.Now()
		n, err := h.port.Write(h.b, idx)
		if err != nil {
			h.Fatalf("Write: %v", err)
		}
		if d := time.Since(start); d > time.Second {
			if slow++; slow > 3 || d > 10*time.Second { // a machine that stalls is not the port that blocks
				h.Fatalf("Write took %v, and others more than a second %d times before", d, slow-1)
			}
		}
		sent += n
	}
	s := h.stats()
	if lost := uint64(rounds*packet.BatchSize - sent); s.TxFull < lost || h.caps.Bounded && lost == 0 {
		h.Errorf("%d packets not sent, and %+v", lost, s)
	}
	for {
		if _, ok := h.peer.Recv(2 * quiet); !ok {
			break
		}
	}
	h.works(1)
}

// wake tests the promise of Notifier or Pollable.
func (h *harness) wake() {
	n, ok := h.port.(port.Notifier)
	if !ok {
		p, ok := h.port.(port.Pollable)
		if !ok {
			h.Fatal("the port can neither be polled nor does it notify")
		}
		h.poll(p)
		return
	}
	rung := make(chan struct{}, 1)
	ring := func() {
		select {
		case rung <- struct{}{}:
		default:
		}
	}
	wait := func(what string) {
		h.Helper()
		select {
		case <-rung:
		case <-time.After(patience):
			h.Fatalf("no call %s", what)
		}
	}
	drain := func(limit int) {
		h.Helper()
		for range limit {
			h.readMax(0, packet.BatchSize)
		}
		select {
		case <-rung:
		default:
		}
	}
	h.send(udp(in, 1, 100))
	time.Sleep(quiet)
	n.Notify(ring)
	wait("for a frame that was there before")
	drain(3)
	for i := range uint32(100) {
		h.send(udp(in, i, 100))
		wait("for a frame after the port was empty")
		for h.readMax(0, packet.BatchSize) == nil {
			// The call may come before the frame does, from a port that is unsure.
			wait("for a frame")
		}
		drain(1)
	}
	// Frames that a Read left behind are not forgotten.
	h.send(udp(in, 1, 100), udp(in, 2, 100), udp(in, 3, 100))
	for got := 0; got < 3; {
		wait("for the rest")
		got += len(h.readMax(0, 1))
	}
	drain(3)
	h.port.Close()
	wait("for Close")
}

// poll tests a port whose descriptor the kernel polls.
func (h *harness) poll(p port.Pollable) {
	for i := range uint32(20) {
		// Others in the kernel may speak, too: then it is readable with reason.
		for {
			h.b.Reset()
			if n, _ := h.port.Read(h.b, packet.BatchSize); n == 0 && !readable(p.FD(), 0) {
				break
			}
		}
		h.send(udp(in, i, 100))
		if !readable(p.FD(), patience) {
			h.Fatal("a frame waits, and the descriptor is not readable")
		}
		h.same(h.flatten(h.collect(1)), [][]byte{udp(in, i, 100).Data})
	}
}

func (h *harness) closeIdle() {
	h.works(1)
	for range 2 {
		if err := h.port.Close(); err != nil {
			h.Errorf("Close: %v", err)
		}
	}
	h.isClosed()
	h.stats()
}

// closeReading closes while another goroutine reads and frames come in.
func (h *harness) closeReading() {
	done := make(chan error, 1)
	var reads atomic.Int64
	go func() {
		b := packet.NewBatch()
		for {
			b.Reset()
			_, err := h.port.Read(b, packet.BatchSize)
			reads.Add(1)
			if err != nil {
				done <- err
				return
			}
			time.Sleep(10 * time.Microsecond)
		}
	}()
	h.closeUnder(done, &reads, func(i uint32) { _ = h.peer.Send(udp(in, i, 100)) })
}

// closeWriting closes while another goroutine writes.
func (h *harness) closeWriting() {
	done := make(chan error, 1)
	var writes atomic.Int64
	go func() {
		b := packet.NewBatch()
		for {
			b.Reset()
			add(b, udp(out, 1, 100))
			add(b, superpackets(out)[0])
			_, err := h.port.Write(b, indexes(2))
			writes.Add(1)
			if err != nil {
				done <- err
				return
			}
			time.Sleep(10 * time.Microsecond)
		}
	}()
	h.closeUnder(done, &writes, func(uint32) { h.peer.Recv(0) })
}

// closeUnder closes the port while the goroutine behind done is busy and the
// peer does something, too.
func (h *harness) closeUnder(done chan error, calls *atomic.Int64, peer func(i uint32)) {
	for i := uint32(0); calls.Load() < 50; i++ {
		peer(i)
		time.Sleep(50 * time.Microsecond)
	}
	if err := h.port.Close(); err != nil {
		h.Errorf("Close: %v", err)
	}
	select {
	case err := <-done:
		if !errors.Is(err, port.ErrClosed) {
			h.Errorf("%v, want %v", err, port.ErrClosed)
		}
	case <-time.After(patience):
		h.Fatal("the other goroutine goes on after Close")
	}
}

func (h *harness) closeByPeer() {
	if !h.caps.Ends {
		return
	}
	f := udp(in, 1, 100)
	h.send(f)
	time.Sleep(quiet)
	h.peer.Close()
	if !h.caps.Lossy {
		// What was sent before is still there.
		h.same(h.flatten(h.collect(1)), [][]byte{f.Data})
	}
	h.isClosed()
}
