package nat

import (
	"unsafe"

	"vswitch/vswitch/packet"
)

// FlowSize is the size of a Flow in bytes: two cache lines.
const FlowSize = 128

// Flow is what the packets of one direction of a connection need: 128 bytes
// without pointers, aligned to its size. The first half is what a packet is
// checked against and where it goes, the second half what is done to it and
// counted. The zero value forwards nothing: no Tables have generation 0.
type Flow struct {
	// Key is the tuple that the packets come with, In and Flags included.
	Key packet.Tuple
	// Gen is the generation of the Tables that allowed the flow.
	Gen   uint32
	Flags FlowFlags
	// Out is the port that sends the packets, Peer the overlay's peer if it is
	// the overlay's. MTU is the largest IP packet on that way in bytes.
	Out, Peer, MTU uint16
	// DstMAC and SrcMAC are the Ethernet header that routed packets leave with.
	DstMAC, SrcMAC [6]byte

	// Translation is what becomes of addresses and ports, if Flags has Rewrites.
	packet.Translation
	// LastSeen is when the Table last heard of the flow, in seconds.
	LastSeen uint32
	// Packets and Bytes count since then.
	Packets uint32
	Bytes   uint64
	// Conn is the connection; its Table knows whether it still exists.
	Conn ID
}

// FlowFlags are properties of a Flow.
type FlowFlags uint16

const (
	// Rewrites: addresses or ports change.
	Rewrites FlowFlags = 1 << iota
	// answers: the packets are of the connection's reply direction.
	answers
)

// Dir is a direction of a connection.
type Dir uint8

// Directions.
const (
	// Original is the direction of the packet that began the connection.
	Original Dir = iota
	// Reply is the direction of the answers.
	Reply
)

func (d Dir) String() string {
	if d == Reply {
		return "reply"
	}
	return "original"
}

// Dir returns the direction of the connection that the flow is.
func (f *Flow) Dir() Dir {
	if f.Flags&answers != 0 {
		return Reply
	}
	return Original
}

// SetConn makes f a direction of a connection. LastSeen is set to a second
// before now, so that the Table hears of the flow's next packet at once: for
// TCP that packet completes the handshake.
func (f *Flow) SetConn(id ID, dir Dir, now uint32) {
	f.Conn = id
	f.LastSeen = now - 1
	f.Flags &^= answers
	if dir == Reply {
		f.Flags |= answers
	}
}

// Translate makes packets that come with the tuple from leave with the tuple
// to. Only addresses and ports count.
func (f *Flow) Translate(from, to *packet.Tuple) {
	f.Flags &^= Rewrites
	if from.Src != to.Src || from.Dst != to.Dst || from.SrcPort != to.SrcPort || from.DstPort != to.DstPort {
		f.Flags |= Rewrites
	}
	f.Translation = packet.Translate(from, to)
}

// Rewrite changes the addresses and ports of p as the flow says. It reports
// false, with p unchanged, if that cannot be done (packet.Batch.Rewrite).
func (f *Flow) Rewrite(b *packet.Batch, p *packet.Packet) bool {
	return b.Rewrite(p, &f.Translation)
}

// sameTuple compares all 40 bytes in five words, without a call.
func sameTuple(a, b *packet.Tuple) bool {
	x, y := (*[5]uint64)(unsafe.Pointer(a)), (*[5]uint64)(unsafe.Pointer(b))
	return (x[0]^y[0])|(x[1]^y[1])|(x[2]^y[2])|(x[3]^y[3])|(x[4]^y[4]) == 0
}
