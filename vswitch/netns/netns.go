// Package netns makes network namespaces and configures what is in them: the
// links, addresses, routes and settings of a pod. It is the only package that
// speaks rtnetlink.
//
// It knows neither pods nor the switch. Its functions need CAP_SYS_ADMIN and
// CAP_NET_ADMIN in the user namespace they run in, which root of a fresh user
// namespace has. Agents and labs call it when pods come and go, never on
// behalf of a packet. Outside Linux every function fails with
// errors.ErrUnsupported.
package netns

import (
	"cmp"
	"net/netip"
	"slices"
)

// Link is the wanted state of a pod's interface.
type Link struct {
	// Name of the interface, which must exist already.
	Name string
	// MAC address; the zero value leaves it as it is.
	MAC [6]byte
	// MTU in bytes; 0 leaves it as it is.
	MTU int
	// Addrs are the addresses of the interface with the length of the prefix
	// that is on the link. Other addresses of global scope are removed.
	Addrs []netip.Prefix
	// Gateways are the next hops of the default routes, at most one a family.
	// They need not lie in a prefix of Addrs.
	Gateways []netip.Addr
	// IPv6 switches IPv6 on for a link without an IPv6 address of its own; one
	// in Addrs does so, too.
	IPv6 bool
	// GSOMaxSegs and GSOMaxSize bound the superpackets that the pod's kernel
	// makes, in segments and in bytes; 0 leaves the kernel's bound.
	GSOMaxSegs, GSOMaxSize int
	// TxQueueLen is the length of the device's queue in packets; 0 leaves it.
	TxQueueLen int
}

// Route is a route of the host to some range.
type Route struct {
	// Dst is the range.
	Dst netip.Prefix
	// Via is the next hop; it may be of the other family. The zero value: the
	// range is on the link.
	Via netip.Addr
	// Dev is the link. It may be empty where there is a next hop.
	Dev string
	// Source is the address that the host prefers to speak with, one of its
	// own. The zero value leaves the choice to the kernel.
	Source netip.Addr
}

// Diversion is what a namespace says to its own addresses and yet is sent out:
// the kernel would deliver it at once, over lo. Whoever is behind the link
// answers it, or sends it back, as the addresses stay the namespace's own.
type Diversion struct {
	// Dev is the link that it leaves by.
	Dev string
	// Gateways are the next hops, at most one a family.
	Gateways []netip.Addr
	// To is what leaves. To all else, all is as it was.
	To []Destination
	// Keep leaves what was diverted before diverted, besides To.
	Keep bool
}

// Equal reports whether both are the same, in the same order.
func (d *Diversion) Equal(o *Diversion) bool {
	return d.Dev == o.Dev && d.Keep == o.Keep && slices.Equal(d.Gateways, o.Gateways) && slices.Equal(d.To, o.To)
}

// Destination is a range of ports at an address of the namespace's own.
type Destination struct {
	Addr netip.Addr
	// Proto is the number of a protocol that has ports: TCP, UDP or SCTP.
	Proto uint8
	// First and Last are the range of ports, both included.
	First, Last uint16
}

// compare orders destinations by address, protocol and first port.
func (d Destination) compare(o Destination) int {
	return cmp.Or(d.Addr.Compare(o.Addr), cmp.Compare(d.Proto, o.Proto), cmp.Compare(d.First, o.First))
}

func (r Route) String() string {
	s := r.Dst.String()
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	if r.Dev != "" {
		s += " dev " + r.Dev
	}
	return s
}
