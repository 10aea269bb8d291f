// Package fib is the forwarding table: longest prefix match from an address to
// a next hop. A Table is a value that never changes; Insert and Delete return
// another one that shares all untouched nodes with it (gaissmai/bart's
// persistent operations), so that a new generation costs what its change costs.
//
// The table is asked once per flow, not once per packet; what it answered is
// remembered by the flow.
package fib

import (
	"iter"
	"net/netip"

	"github.com/gaissmai/bart"

	"vswitch/vswitch/packet"
)

// Kind says what a next hop is. The zero value forwards nothing.
type Kind uint8

// Kinds of next hops.
const (
	// Unreachable: packets are answered with ICMP unreachable.
	Unreachable Kind = iota
	// Pod is a pod of this node.
	Pod
	// Local is an address of the switch itself: a gateway or the node's own.
	Local
	// Peer is another node, behind the overlay or, in direct mode, the uplink.
	Peer
	// Blackhole drops silently.
	Blackhole
	// Host is this node itself: its namespace behind the node port or, in direct
	// mode, its kernel behind the uplink.
	Host
	// Outside is who is not of the cluster, behind the outside port.
	Outside
)

var kindNames = [...]string{"unreachable", "pod", "local", "peer", "blackhole", "host", "outside"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "kind-?"
}

// Hop is where packets of a prefix go. Hops are immutable once they are in a Table.
type Hop struct {
	Kind Kind
	// Port is the port of the switch that leads there.
	Port uint16
	// Peer is the overlay's id of the node, for Kind Peer.
	Peer uint16
	// MTU is the largest IP packet in bytes that the way there takes.
	MTU uint16
	// MAC is the Ethernet destination: the pod's, or the peer's VTEP.
	MAC [6]byte
	// Node: the prefix is the node's own address, not one of its pods'.
	Node bool
	// Name is the pod ("shop/web-1") or node, for people.
	Name string
}

// Table maps prefixes to hops. The zero value is empty.
type Table struct{ t *bart.Table[*Hop] }

// Insert returns a table in which p leads to hop. p must be valid; host bits are ignored.
func (t Table) Insert(p netip.Prefix, hop *Hop) Table {
	if t.t == nil {
		t.t = new(bart.Table[*Hop])
	}
	return Table{t.t.InsertPersist(p, hop)}
}

// Delete returns a table without exactly p.
func (t Table) Delete(p netip.Prefix) Table {
	if t.t == nil {
		return t
	}
	return Table{t.t.DeletePersist(p)}
}

// Lookup returns the hop of the longest prefix that holds a, or nil.
func (t Table) Lookup(a *packet.Addr) *Hop {
	if t.t == nil {
		return nil
	}
	hop, _ := t.t.Lookup(a.Netip())
	return hop
}

// Get returns the hop of exactly p, or nil.
func (t Table) Get(p netip.Prefix) *Hop {
	if t.t == nil {
		return nil
	}
	hop, _ := t.t.Get(p)
	return hop
}

// Len returns the number of prefixes.
func (t Table) Len() int {
	if t.t == nil {
		return 0
	}
	return t.t.Size()
}

// All iterates over prefixes and hops in order of family, address and length.
func (t Table) All() iter.Seq2[netip.Prefix, *Hop] {
	if t.t == nil {
		return func(func(netip.Prefix, *Hop) bool) {}
	}
	return t.t.AllSorted()
}
