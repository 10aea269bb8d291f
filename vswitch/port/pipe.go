package port

import "vswitch/vswitch/packet"

// PipeEnd is one end of a pipe. It is a Port and a Notifier.
type PipeEnd struct {
	counters
	mtu int
	rx  *queue // what the other end wrote
	tx  *queue
}

// Pipe returns two ports in memory: what is written to one is read from the
// other, with its offload metadata, superpackets whole. Trains arrive
// contiguous. Each direction holds 1024 packets or 4 MiB; more are dropped. The
// MTU is that of both ends, in bytes.
//
// Closing one end closes both; the other end may still read what was sent
// before. A pipe starts no goroutine, uses no descriptor and no clock, and so
// may live in a testing/synctest bubble.
func Pipe(mtu int) (a, b *PipeEnd) {
	ab, ba := new(queue), new(queue)
	ab.init(queueBytes)
	ba.init(queueBytes)
	return &PipeEnd{mtu: mtu, rx: ba, tx: ab}, &PipeEnd{mtu: mtu, rx: ab, tx: ba}
}

// Read implements Port.
func (e *PipeEnd) Read(b *packet.Batch, limit int) (int, error) { return e.rx.read(b, limit) }

// Write implements Port.
func (e *PipeEnd) Write(b *packet.Batch, idx []uint16) (int, error) {
	sent := 0
	e.tx.mu.Lock()
	defer e.tx.flush()
	if e.tx.closed {
		return 0, ErrClosed
	}
	for _, i := range idx {
		p := &b.Packets[i]
		if !e.fits(p, e.mtu) {
			continue
		}
		dst := e.tx.put(int(p.Len), p)
		if dst == nil {
			e.txFull.Add(1)
			continue
		}
		b.AppendTo(dst[:0], p)
		sent++
	}
	return sent, nil
}

// MTU implements Port.
func (e *PipeEnd) MTU() int { return e.mtu }

// Notify implements Notifier.
func (e *PipeEnd) Notify(wake func()) { e.rx.notify(wake) }

// Close closes both ends.
func (e *PipeEnd) Close() error {
	e.rx.close(true)
	e.tx.close(false)
	return nil
}
