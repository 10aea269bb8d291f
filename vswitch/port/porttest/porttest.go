// Package porttest is the test that every driver of package port passes: order,
// sizes, offload metadata in both directions, full queues, closing under way,
// wake-ups, and nonsense from the other end.
//
// A driver's test brings a function that opens a port and the Peer at its other
// end, and calls Run. What a superpacket must become on a wire is computed by an
// oracle that shares no code with package packet. For drivers that need a network
// namespace, Main runs the whole test binary in one of its own.
//
// It is imported by tests only.
package porttest

import (
	"testing"
	"time"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// Frame is a packet as the other end of a port sees it.
type Frame struct {
	// Data is a whole Ethernet frame; an L3 peer adds the header.
	Data []byte
	// Meta holds the offload fields, as packet.Packet has them; the rest is
	// not used. It is zero for a peer without offloads.
	Meta packet.Packet
}

// Peer is the other end of a port: the machine, kernel or pipe that the driver
// talks to.
type Peer interface {
	// Send sends a frame to the port. It may block while the port's queue is full.
	Send(Frame) error
	// Recv returns the next frame that the port sent, or false if none comes
	// within that time. Frames of others (a kernel that looks for routers) are
	// left out.
	Recv(wait time.Duration) (Frame, bool)
	// Close ends it. The test also calls it at the end.
	Close() error
	// Caps says what to expect. It does not change.
	Caps() Caps
}

// Caps are properties of a driver and its peer that are not the same for all.
type Caps struct {
	// Offload: superpackets and partial checksums pass in both directions.
	Offload bool
	// Whole: they pass uncut.
	Whole bool
	// Joins: on the way out, packets of one flow may be joined, so that flows
	// overtake each other and IPv4 identifications become consecutive.
	Joins bool
	// Ends: the port dies when the peer is closed.
	Ends bool
	// Bounded: while the peer does not receive, Write drops after a while.
	Bounded bool
	// Waits: Send waits while the port's queue is full, so that nothing is lost
	// on the way in.
	Waits bool
	// Lossy: the peer's system may drop frames of a burst that is not received
	// at once.
	Lossy bool
	// MaxMTU is the largest MTU of the driver in bytes.
	MaxMTU int
}

// Noisy is a Peer that can send what no driver should accept.
type Noisy interface {
	// Nonsense sends malformed things and returns how many must be counted as
	// lost. The port must carry frames afterwards, when the peer has
	// reconnected if that is what it does.
	Nonsense(t *testing.T) (lost uint64)
}

// Make opens a port of that MTU in bytes and the peer at its other end.
type Make func(t *testing.T, mtu int) (port.Port, Peer)

// Run tests a driver.
func Run(t *testing.T, open Make) {
	tests := []struct {
		name string
		run  func(*harness)
		mtu  int // 0: the largest
	}{
		{"in/sizes", (*harness).inSizes, 1500},
		{"in/sizes_jumbo", (*harness).inSizes, 0},
		{"in/max", (*harness).inMax, 1500},
		{"in/batch_full", (*harness).inBatchFull, 0},
		{"in/offload", (*harness).inOffload, 1500},
		{"in/flood", (*harness).inFlood, 1500},
		{"in/nonsense", (*harness).inNonsense, 1500},
		{"out/sizes", (*harness).outSizes, 1500},
		{"out/sizes_jumbo", (*harness).outSizes, 0},
		{"out/partial_checksum", (*harness).outPartial, 1500},
		{"out/superpackets", (*harness).outSuperpackets, 1500},
		{"out/trains", (*harness).outTrains, 1500},
		{"out/too_big", (*harness).outTooBig, 1500},
		{"out/full", (*harness).outFull, 1500},
		{"out/two_writers", (*harness).outTwoWriters, 1500},
		{"wake", (*harness).wake, 1500},
		{"close/idle", (*harness).closeIdle, 1500},
		{"close/while_reading", (*harness).closeReading, 1500},
		{"close/while_writing", (*harness).closeWriting, 1500},
		{"close/by_peer", (*harness).closeByPeer, 1500},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := &harness{T: t, b: packet.NewBatch(), mtu: tt.mtu}
			if h.mtu == 0 {
				h.mtu = maxMTU(t, open)
			}
			h.port, h.peer = open(t, h.mtu)
			h.caps = h.peer.Caps()
			t.Cleanup(func() {
				h.port.Close()
				h.peer.Close()
			})
			if got := h.port.MTU(); got != h.mtu {
				t.Fatalf("MTU() = %d, want %d", got, h.mtu)
			}
			tt.run(h)
		})
	}
}

// maxMTU asks a peer for the largest MTU of its driver.
func maxMTU(t *testing.T, open Make) int {
	p, peer := open(t, 1500)
	defer p.Close()
	defer peer.Close()
	return peer.Caps().MaxMTU
}

// patience is how long a frame may take before it counts as lost.
const patience = 5 * time.Second

// quiet is how long nothing must come where nothing should.
const quiet = 50 * time.Millisecond
