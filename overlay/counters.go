package overlay

import "sync/atomic"

// PeerCounters is what passed between a peer and us. Packets are datagrams, a
// superpacket counts as its segments; bytes are of inner frames.
type PeerCounters struct {
	RxPackets, RxBytes uint64
	// RxSuper counts receives that brought several datagrams at once.
	RxSuper            uint64
	TxPackets, TxBytes uint64
	// TxSuper counts sends that took several datagrams at once.
	TxSuper uint64
	// TxErrors counts datagrams that the system refused to send.
	TxErrors uint64
}

// peerCounters is the living form. The reader and the writers touch lines of
// their own.
type peerCounters struct {
	rx traffic // written by the reader alone
	_  [40]byte
	tx traffic
	// errors is part of what the writers touch.
	errors atomic.Uint64
}

// traffic counts one direction.
type traffic struct{ packets, bytes, super atomic.Uint64 }

// tally collects traffic before it is added, once a batch or change of peer.
type tally struct{ packets, bytes, super uint64 }

// count adds what is known to nobody else: by the only writer of t.
func (t *traffic) count(n *tally) {
	t.packets.Store(t.packets.Load() + n.packets)
	t.bytes.Store(t.bytes.Load() + n.bytes)
	t.super.Store(t.super.Load() + n.super)
}

// add is count for one of several writers.
func (t *traffic) add(n *tally) {
	t.packets.Add(n.packets)
	t.bytes.Add(n.bytes)
	if n.super != 0 {
		t.super.Add(n.super)
	}
}

func (c *peerCounters) load() PeerCounters {
	return PeerCounters{
		RxPackets: c.rx.packets.Load(), RxBytes: c.rx.bytes.Load(), RxSuper: c.rx.super.Load(),
		TxPackets: c.tx.packets.Load(), TxBytes: c.tx.bytes.Load(), TxSuper: c.tx.super.Load(),
		TxErrors: c.errors.Load(),
	}
}

// Drop says why a link lost a datagram. The zero value is not a reason.
type Drop uint8

// Reasons for drops. The first ones are of received datagrams, those from
// DropNoPeer on of sent ones.
const (
	dropNone Drop = iota
	// DropUnknownPeer: the outer source is no peer.
	DropUnknownPeer
	// DropShort: no room for a VXLAN and an Ethernet header.
	DropShort
	// DropLong: larger than what can be received here.
	DropLong
	// DropHeader: the VXLAN header has no VNI, or reserved bits are set.
	DropHeader
	// DropVNI: of another network.
	DropVNI
	// DropECN: congestion was marked on the way, and the inner packet cannot
	// carry that (RFC 6040 section 4.2).
	DropECN
	// DropOverrun: the socket's receive buffer was full.
	DropOverrun
	// DropReceive: the system failed to receive.
	DropReceive

	// DropNoPeer: packet.Peer names no peer.
	DropNoPeer
	// DropTooBig: larger than the MTU.
	DropTooBig
	// DropMalformed: a superpacket whose headers contradict its descriptor.
	DropMalformed
	// DropFull: the send queue was full (EAGAIN, ENOBUFS).
	DropFull
	// DropMessageSize: larger than the underlay takes (EMSGSIZE).
	DropMessageSize
	// DropRefused: the peer does not listen (ECONNREFUSED).
	DropRefused
	// DropUnreachable: no route to the peer (ENETUNREACH, EHOSTUNREACH), or
	// the local address is gone.
	DropUnreachable
	// DropSend: the system refused to send for another reason, such as a
	// firewall (EPERM).
	DropSend

	numDrops
)

var dropNames = [numDrops]string{
	dropNone: "none", DropUnknownPeer: "unknown-peer", DropShort: "short", DropLong: "long",
	DropHeader: "bad-header", DropVNI: "wrong-vni", DropECN: "ecn", DropOverrun: "overrun",
	DropReceive: "receive-error", DropNoPeer: "no-peer", DropTooBig: "too-big",
	DropMalformed: "malformed", DropFull: "queue-full", DropMessageSize: "message-size",
	DropRefused: "refused", DropUnreachable: "unreachable", DropSend: "send-error",
}

func (d Drop) String() string {
	if d < numDrops {
		return dropNames[d]
	}
	return "drop-?"
}

// drop counts n lost datagrams.
func (e *endpoint) drop(d Drop, n int) {
	if n != 0 {
		e.drops[d].Add(uint64(n))
	}
}

// dropCounts returns the reasons that have occurred.
func (e *endpoint) dropCounts() map[Drop]uint64 {
	all := map[Drop]uint64{}
	for d := dropNone + 1; d < numDrops; d++ {
		if n := e.drops[d].Load(); n != 0 {
			all[d] = n
		}
	}
	return all
}
