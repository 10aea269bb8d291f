package overlay

import (
	"sync"

	"vswitch/vswitch/packet"
)

// frameRing carries received frames from the goroutine that receives to the
// worker that reads. Its memory is fixed.
type frameRing struct {
	mu     sync.Mutex
	space  sync.Cond // on mu: a frame was taken, or the ring was closed
	buf    []byte    // slots of size bytes
	size   int
	meta   []frameMeta
	first  int
	count  int
	closed bool
	wake   func() // nil: nobody asked
}

type frameMeta struct {
	n    uint32
	peer uint16
}

// ringBytes bounds the memory of a ring, but at least ringMin frames fit.
const (
	ringBytes = 1 << 20
	ringMin   = 32
	ringMax   = 1024
)

// init makes r ready for frames of at most size bytes.
func (r *frameRing) init(size int) {
	slots := max(ringMin, min(ringMax, ringBytes/size))
	r.space.L = &r.mu
	r.size = size
	r.buf = make([]byte, slots*size)
	r.meta = make([]frameMeta, slots)
}

// put adds a copy of a frame. While the ring is full it waits, so that the
// kernel's buffer fills, too, and drops.
func (r *frameRing) put(frame []byte, peer uint16) {
	r.mu.Lock()
	for r.count == len(r.meta) && !r.closed {
		r.space.Wait()
	}
	if r.closed {
		r.mu.Unlock()
		return
	}
	i := (r.first + r.count) % len(r.meta)
	copy(r.buf[i*r.size:], frame)
	r.meta[i] = frameMeta{uint32(len(frame)), peer}
	r.count++
	var wake func()
	if r.count == 1 {
		wake = r.wake
	}
	r.mu.Unlock()
	if wake != nil {
		wake()
	}
}

// read moves frames to b, as port.Port.Read does.
func (r *frameRing) read(b *packet.Batch, limit int) (n int, closed bool) {
	r.mu.Lock()
	for ; n < limit && r.count > 0 && !b.Full(); n++ {
		m := r.meta[r.first]
		off := b.Next()
		copy(b.Buf[off:], r.buf[r.first*r.size:][:m.n])
		b.Add(off, int(m.n)).In = packet.PeerBase | m.peer
		r.first = (r.first + 1) % len(r.meta)
		r.count--
	}
	closed = r.closed && r.count == 0 && n == 0
	// put wakes only a reader that had emptied the ring.
	var wake func()
	if r.count > 0 {
		wake = r.wake
	}
	r.mu.Unlock()
	if n > 0 {
		r.space.Signal()
	}
	if wake != nil {
		wake()
	}
	return n, closed
}

func (r *frameRing) notify(wake func()) {
	r.mu.Lock()
	r.wake = wake
	now := r.count > 0 || r.closed
	r.mu.Unlock()
	if now && wake != nil {
		wake()
	}
}

// close lets put return; what waits is lost.
func (r *frameRing) close() {
	r.mu.Lock()
	r.closed, r.count = true, 0
	wake := r.wake
	r.mu.Unlock()
	r.space.Broadcast()
	if wake != nil {
		wake()
	}
}
