package policy

import (
	"net/netip"
	"slices"

	"vswitch/vswitch/packet"
)

// elsewhere are the addresses that pods of other nodes have. It is immutable.
type elsewhere struct{ pods, here []netip.Prefix }

// has reports whether a pod of another node may have the address.
func (e *elsewhere) has(a *packet.Addr) bool {
	if e == nil {
		return false
	}
	ip := a.Netip()
	for _, p := range e.here {
		if p.Contains(ip) {
			return false
		}
	}
	for _, p := range e.pods {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// SetRanges tells the ranges of all pods, and those of them that this node has.
// From then on an address of another node's, of whose pod nothing is known yet,
// gets a Pending verdict where a policy has a say: it may be whom a policy denies,
// or whom one allows. Without, such an address is nobody's. It reports whether
// that makes a difference to Set.
func (c *Compiler) SetRanges(pods, here []netip.Prefix) bool {
	if e := c.set.elsewhere; e != nil && slices.Equal(e.pods, pods) && slices.Equal(e.here, here) {
		return false
	}
	set := *c.set
	set.elsewhere = &elsewhere{slices.Clone(pods), slices.Clone(here)}
	c.set = &set
	return true
}
