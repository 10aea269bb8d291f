package nat

import (
	"encoding/binary"

	"vswitch/vswitch/packet"
)

// FlowSize is the size of a Flow in bytes: a cache line.
const FlowSize = 64

// Flow is what the packets of one direction of a connection need: 64 bytes
// without pointers, aligned to their size. What is longer in IPv6, and the
// connection, which is asked for once a second, its Cache keeps aside. The zero
// value forwards nothing: no Tables have generation 0.
type Flow struct {
	key shortKey
	// Gen is the generation of the Tables that allowed the flow.
	Gen uint32
	// LastSeen is when the Table last heard of the flow, in seconds.
	LastSeen uint32
	// counted since then: packets in the upper 28 bits, bytes below. It is drained
	// every second, in which nobody can have copied 64 GiB.
	counted uint64
	Exit
	// To is what becomes of addresses and ports, if Flags has Rewrites. Of IPv6 it
	// is not all (Cache.Translation).
	To packet.Translation4
}

// Exit is where packets of a flow leave, and how.
type Exit struct {
	Flags FlowFlags
	// Out is the port that sends the packets, Peer the overlay's peer if it is
	// the overlay's. MTU is the largest IP packet on that way in bytes.
	Out, Peer, MTU uint16
	// MAC is the Ethernet destination that routed packets leave with.
	MAC [6]byte
}

// FlowFlags are properties of a Flow.
type FlowFlags uint16

const (
	// Rewrites: addresses or ports change.
	Rewrites FlowFlags = 1 << iota
	// FromVTEP: routed packets leave with the MAC of the node's end of the overlay,
	// not with the gateway's.
	FromVTEP
	// answers: the packets are of the connection's reply direction.
	answers
	// inWide: the Cache has the addresses.
	inWide
	// hole: not a flow, but a place for one.
	hole
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
func (e *Exit) Dir() Dir {
	if e.Flags&answers != 0 {
		return Reply
	}
	return Original
}

const countedBytes = 1<<36 - 1

// Count counts packets, and their bytes.
func (f *Flow) Count(packets int, bytes uint32) {
	f.counted += uint64(packets)<<36 + uint64(bytes)
}

// Counted reports whether anything was counted since Drain.
func (f *Flow) Counted() bool { return f.counted != 0 }

// Drain returns what was counted since the last time.
func (f *Flow) Drain() (packets uint32, bytes uint64) {
	packets, bytes = uint32(f.counted>>36), f.counted&countedBytes
	f.counted = 0
	return packets, bytes
}

// Decision is what was decided about one direction of a connection, before a
// Cache has it as a Flow.
type Decision struct {
	// Gen is the generation of the Tables that it was decided by.
	Gen uint32
	Exit
	// Translation is what becomes of addresses and ports, if Flags has Rewrites.
	packet.Translation
	// Conn is the connection; its Table knows whether it still exists.
	Conn ID
}

// SetConn makes d about a direction of a connection.
func (d *Decision) SetConn(id ID, dir Dir) {
	d.Conn = id
	d.Flags &^= answers
	if dir == Reply {
		d.Flags |= answers
	}
}

// Translate makes packets that come with the tuple from leave with the tuple
// to. Only addresses and ports count.
func (d *Decision) Translate(from, to *packet.Tuple) {
	d.Flags &^= Rewrites
	if from.Src != to.Src || from.Dst != to.Dst || from.SrcPort != to.SrcPort || from.DstPort != to.DstPort {
		d.Flags |= Rewrites
	}
	d.Translation = packet.Translate(from, to)
}

// shortKey is a tuple, of addresses the last four bytes only: those of IPv4. Both
// addresses of a tuple are of one family (packet.Batch.Parse refuses all else).
type shortKey struct{ addrs, rest uint64 }

func shorten(t *packet.Tuple) shortKey {
	return shortKey{
		addrs: uint64(binary.NativeEndian.Uint32(t.Src[12:]))<<32 | uint64(binary.NativeEndian.Uint32(t.Dst[12:])),
		rest:  t.Rest(),
	}
}

// wide is what a Flow has no room for if it is of IPv6.
type wide struct {
	src, dst     packet.Addr // of the packets as they come
	toSrc, toDst packet.Addr // and as they leave
}
