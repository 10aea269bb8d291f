package fabric

import (
	"sync"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// wireQueue bounds the packets on their way to a node.
const wireQueue = 4096

// wire stands in for the overlay link of a node: what is written for a peer
// arrives at that peer's wire, with the sender as packet.In, superpackets and
// their metadata whole. What is larger than the MTU is lost.
type wire struct {
	id   uint16
	node *Node

	peersMu sync.RWMutex
	peers   map[uint16]*wire

	mu     sync.Mutex
	queue  []inFlight
	wake   func()
	closed bool
	// lost counts packets that found the queue full.
	lost uint64
}

// inFlight is a packet on a wire.
type inFlight struct {
	desc  packet.Packet
	frame []byte
}

func newWire(n *Node, id uint16) *wire {
	return &wire{id: id, node: n, peers: map[uint16]*wire{}, wake: func() {}}
}

// connect makes what is written for a peer arrive there.
func (w *wire) connect(peer *wire) {
	w.peersMu.Lock()
	defer w.peersMu.Unlock()
	w.peers[peer.id] = peer
}

// Write implements port.Port.
func (w *wire) Write(b *packet.Batch, idx []uint16) (int, error) {
	w.peersMu.RLock()
	defer w.peersMu.RUnlock()
	sent := 0
	for _, i := range idx {
		p := &b.Packets[i]
		peer := w.peers[p.Peer]
		if peer == nil || p.WireLen() > w.MTU() {
			continue
		}
		d := *p
		d.Stride = 0 // AppendTo gathers
		d.In = packet.PeerBase | w.id
		if peer.put(inFlight{d, b.AppendTo(nil, p)}) {
			sent++
		}
	}
	return sent, nil
}

func (w *wire) put(f inFlight) bool {
	w.mu.Lock()
	if w.closed || len(w.queue) >= wireQueue {
		w.lost++
		w.mu.Unlock()
		return false
	}
	w.queue = append(w.queue, f)
	wake := w.wake
	w.mu.Unlock()
	wake()
	return true
}

// Read implements port.Port.
func (w *wire) Read(b *packet.Batch, max int) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for ; n < max && n < len(w.queue) && !b.Full(); n++ {
		f := w.queue[n]
		p := b.Append(f.frame)
		off := p.Off
		*p = f.desc
		p.Off = off
	}
	w.queue = append(w.queue[:0], w.queue[n:]...)
	if w.closed {
		return n, port.ErrClosed
	}
	return n, nil
}

// Notify implements port.Notifier.
func (w *wire) Notify(wake func()) {
	w.mu.Lock()
	w.wake = wake
	waiting := len(w.queue) > 0
	w.mu.Unlock()
	if waiting {
		wake()
	}
}

// MTU implements port.Port.
func (w *wire) MTU() int { return w.node.fabric.overlayMTU() }

// Close implements port.Port.
func (w *wire) Close() error {
	w.mu.Lock()
	w.closed = true
	wake := w.wake
	w.mu.Unlock()
	wake()
	return nil
}
