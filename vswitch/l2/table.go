// Package l2 is what neighbors on Ethernet say to each other, and who they are:
// the frames of ARP for IPv4 and of neighbor discovery for IPv6, and the table
// from which the switch answers both.
//
// Parsers and builders are pure functions on bytes; they keep nothing and
// allocate nothing. They refuse what the RFCs do not allow, and leave to the
// caller whether a sender may say what it says. A Table is a value that never
// changes, and is shared by all who read it. Nothing is learned from the wire:
// whoever knows the pods writes the table.
package l2

import (
	"iter"
	"net/netip"

	"github.com/gaissmai/bart"

	"vswitch/vswitch/packet"
)

// Neighbor is an interface on the link.
type Neighbor struct {
	// MAC is what the switch answers who asks for the address.
	MAC [6]byte
	// Port is the port of the switch that leads there.
	Port uint16
	// Name is an index into the names of whoever made the table.
	Name uint32
}

// Table maps addresses of both families to neighbors. Insert and Delete return
// another table that shares with this one all that did not change (a persistent
// trie, gaissmai/bart), so that a change costs the same in a table of ten and of
// a hundred thousand. The zero value is empty. Tables may be read by any number
// of goroutines.
type Table struct{ t *bart.Table[Neighbor] }

// key returns a as the prefix of one address.
func key(a packet.Addr) netip.Prefix {
	ip := a.Netip()
	return netip.PrefixFrom(ip, ip.BitLen())
}

// Insert returns a table in which a is at n, whatever was there before.
func (t Table) Insert(a packet.Addr, n Neighbor) Table {
	if t.t == nil {
		t.t = new(bart.Table[Neighbor])
	}
	return Table{t.t.InsertPersist(key(a), n)}
}

// Delete returns a table without a.
func (t Table) Delete(a packet.Addr) Table {
	if t.t == nil {
		return t
	}
	return Table{t.t.DeletePersist(key(a))}
}

// Lookup returns the neighbor that has address a. It does not allocate.
func (t Table) Lookup(a *packet.Addr) (n Neighbor, ok bool) {
	if t.t == nil {
		return n, false
	}
	return t.t.Lookup(a.Netip())
}

// Len returns the number of addresses.
func (t Table) Len() int {
	if t.t == nil {
		return 0
	}
	return t.t.Size()
}

// All iterates over addresses and neighbors, IPv4 first, in order of address.
func (t Table) All() iter.Seq2[packet.Addr, Neighbor] {
	return func(yield func(packet.Addr, Neighbor) bool) {
		if t.t == nil {
			return
		}
		for p, n := range t.t.AllSorted() {
			if !yield(packet.AddrFrom(p.Addr()), n) {
				return
			}
		}
	}
}
