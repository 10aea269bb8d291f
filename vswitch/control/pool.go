package control

import (
	"net/netip"
	"slices"

	"vswitch/vswitch/cluster"
)

// pool is a range of addresses or ports, numbered from 1, that services get
// theirs from.
type pool struct {
	prefix netip.Prefix // of addresses; zero for ports
	first  uint16       // of ports
	size   uint64
	// band is how many at the beginning are kept for those who ask for them:
	// nobody else gets one as long as there are others (KEP-3070, KEP-3668).
	band uint64
}

// maxPool bounds the addresses of a pool that are given to those who ask for
// none in particular.
const maxPool = 1 << 32

// addressPool returns the addresses of p. Its first one is nobody's, nor is
// the broadcast address of IPv4.
func addressPool(p netip.Prefix, banded bool) *pool {
	count := uint64(maxPool)
	if host := p.Addr().BitLen() - p.Bits(); host < 32 {
		count = 1 << host
	}
	l := &pool{prefix: p, size: count - 1}
	if p.Addr().Is4() {
		l.size--
	}
	if banded && count >= 16 {
		l.band = min(max(16, count/16), 256)
		if l.band >= l.size {
			l.band = 0
		}
	}
	return l
}

// portPool returns the ports of r.
func portPool(r cluster.PortRange) *pool {
	l := &pool{first: r.First, size: uint64(r.Last-r.First) + 1}
	if l.size >= 32 {
		l.band = min(max(16, l.size/32), 128)
	}
	return l
}

// pools returns a pool for each range, by family.
func pools(cidrs []netip.Prefix, banded bool) map[cluster.IPFamily]*pool {
	m := map[cluster.IPFamily]*pool{}
	for _, p := range cidrs {
		m[cluster.FamilyOf(p.Addr())] = addressPool(p, banded)
	}
	return m
}

// addr is the n-th address.
func (l *pool) addr(n uint64) netip.Addr { return addrAt(l.prefix.Addr(), n, 0) }

// port is the n-th port.
func (l *pool) port(n uint64) uint16 { return l.first + uint16(n-1) }

// holds reports whether a may be given to somebody who asks for it.
func (l *pool) holds(a netip.Addr) bool {
	return l.prefix.Contains(a) && a != l.prefix.Addr() && (!a.Is4() || l.prefix.Contains(a.Next()))
}

// holdsPort reports whether n is one of the ports.
func (l *pool) holdsPort(n uint16) bool { return n >= l.first && uint64(n-l.first) < l.size }

// pick returns the number of one that is free, or 0. Where the search begins
// depends on seed alone, so that the same asker gets the same one wherever it
// can.
func (l *pool) pick(seed uint64, free func(n uint64) bool) uint64 {
	for _, part := range [][2]uint64{{l.band, l.size}, {0, l.band}} {
		count := part[1] - part[0]
		for i := range count {
			if n := part[0] + 1 + (seed%count+i)%count; free(n) {
				return n
			}
		}
	}
	return 0
}

// ServiceRanges are where services get their cluster IPs.
func (c *Config) ServiceRanges() []netip.Prefix {
	if c.ServiceCIDRs != nil {
		return c.ServiceCIDRs
	}
	return without(slices.Concat(c.ClusterCIDRs, c.NodeCIDRs), "10.96.0.0/16", "fd00:10:96::/112")
}

// LoadBalancerRanges are where load balancers get addresses.
func (c *Config) LoadBalancerRanges() []netip.Prefix {
	if c.LoadBalancerCIDRs != nil {
		return c.LoadBalancerCIDRs
	}
	return without(slices.Concat(c.ClusterCIDRs, c.NodeCIDRs, c.ServiceRanges()), "172.30.0.0/24", "fd00:10:30::/112")
}

// without returns the ranges that overlap none of others.
func without(others []netip.Prefix, ranges ...string) (list []netip.Prefix) {
	for _, r := range ranges {
		if p := netip.MustParsePrefix(r); !slices.ContainsFunc(others, p.Overlaps) {
			list = append(list, p)
		}
	}
	return list
}
