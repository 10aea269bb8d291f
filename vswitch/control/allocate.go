package control

import (
	"encoding/binary"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"vswitch/vswitch/cluster"
)

// allocateNodes gives every node that has none its pod ranges and addresses.
// What a node has, given or allocated, it keeps. A node whose name ends in a
// number gets the range and the address of that number if they are free, so
// that they do not depend on the order in which nodes came.
func (s *step) allocateNodes() error {
	return s.allocate(newAllocator(&s.cfg, s.tx.Own(), nil), slices.Collect(s.tx.Own().Nodes.All()))
}

// allocate fills in nodes in their order, but those with a number first, lest
// another gets what the number stands for.
func (s *step) allocate(a *allocator, nodes []*cluster.Node) error {
	for _, numbered := range []bool{true, false} {
		for _, n := range nodes {
			if len(n.PodCIDRs) > 0 && len(n.Addresses) > 0 || numbered != (numberOf(n.Name) > 0) {
				continue
			}
			m := *n
			if err := a.node(&m); err != nil {
				return err
			}
			s.put(&m)
		}
	}
	return nil
}

// allocator knows what is taken.
type allocator struct {
	cfg       *Config
	ranges    []netip.Prefix
	addresses map[netip.Addr]bool
	// pods are the addresses that pods have already, by node: a range that is
	// allocated must hold those of its node, and none of another's.
	pods map[string][]netip.Addr
	// optional lets a node go without a range that cannot be had.
	optional bool
}

func newAllocator(cfg *Config, state *cluster.State, pods map[string][]netip.Addr) *allocator {
	a := &allocator{cfg: cfg, addresses: map[netip.Addr]bool{}, pods: pods}
	for n := range state.Nodes.All() {
		a.ranges = append(a.ranges, n.PodCIDRs...)
		for _, ip := range n.Addresses {
			a.addresses[ip] = true
		}
		for _, ip := range n.ExtraAddresses {
			a.addresses[ip] = true
		}
	}
	for _, ips := range pods {
		for _, ip := range ips {
			a.addresses[ip] = true
		}
	}
	return a
}

// node fills in n, which the caller may change.
func (a *allocator) node(n *cluster.Node) error {
	number := numberOf(n.Name)
	if len(n.PodCIDRs) == 0 {
		for _, c := range a.cfg.ClusterCIDRs {
			p, err := a.block(n.Name, c, a.cfg.nodeMask(c), number)
			if err != nil && a.optional {
				continue
			}
			if err != nil {
				return err
			}
			n.PodCIDRs = append(n.PodCIDRs, p)
			a.ranges = append(a.ranges, p)
		}
	}
	if len(n.Addresses) == 0 {
		for _, c := range a.cfg.NodeCIDRs {
			ip, err := a.address(n.Name, c, number)
			if err != nil {
				return err
			}
			n.Addresses = append(n.Addresses, ip)
			a.addresses[ip] = true
		}
	}
	return nil
}

// numberOf returns the number that a name ends in, or 0.
func numberOf(name string) uint64 {
	digits := name[len(strings.TrimRight(name, "0123456789")):]
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return 0
	}
	return n
}

// maxSearch bounds the search for something free, in blocks or addresses.
const maxSearch = 1 << 20

// block returns a free block of c: the one that holds the addresses of the
// node's pods, else the one of its number, else the first. Block 0 comes last,
// because 10.244.1.0/24 reads better on node1.
func (a *allocator) block(node string, c netip.Prefix, bits int, number uint64) (netip.Prefix, error) {
	count := uint64(1) << min(bits-c.Bits(), 40)
	for _, ip := range a.pods[node] {
		if c.Contains(ip) {
			if p, err := ip.Prefix(bits); err == nil && a.free(p, node) {
				return p, nil
			}
		}
	}
	if number > 0 && number < count {
		if p := blockAt(c, bits, number); a.free(p, node) {
			return p, nil
		}
	}
	for i := uint64(1); i <= min(count, maxSearch); i++ {
		if p := blockAt(c, bits, i%count); a.free(p, node) {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("Node %s: %w: no /%d is free in %s; give the cluster a larger range (--cluster-cidr), or nodes a longer mask",
		node, ErrExhausted, bits, c)
}

// free reports whether nobody has any of p.
func (a *allocator) free(p netip.Prefix, node string) bool {
	for _, r := range a.ranges {
		if r.Overlaps(p) {
			return false
		}
	}
	for other, ips := range a.pods {
		for _, ip := range ips {
			if other != node && p.Contains(ip) {
				return false
			}
		}
	}
	return true
}

// address returns a free address of c: the one of the node's number, else the
// first. The network's own address and the broadcast address are nobody's.
func (a *allocator) address(node string, c netip.Prefix, number uint64) (netip.Addr, error) {
	ok := func(ip netip.Addr) bool {
		return c.Contains(ip) && !a.addresses[ip] && (!ip.Is4() || c.Contains(ip.Next()))
	}
	if number > 0 {
		if ip := addrAt(c.Addr(), number, 0); ok(ip) {
			return ip, nil
		}
	}
	for i := uint64(1); i <= maxSearch; i++ {
		ip := addrAt(c.Addr(), i, 0)
		if !c.Contains(ip) {
			break
		}
		if ok(ip) {
			return ip, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("Node %s: %w: no address is free in %s; give nodes a larger range (--node-cidr)", node, ErrExhausted, c)
}

// blockAt returns the i-th block of c of a length.
func blockAt(c netip.Prefix, bits int, i uint64) netip.Prefix {
	return netip.PrefixFrom(addrAt(c.Addr(), i, c.Addr().BitLen()-bits), bits)
}

// addrAt returns base + i<<shift, or the zero Addr if that is no address.
func addrAt(base netip.Addr, i uint64, shift int) netip.Addr {
	if base.Is4() {
		b := base.As4()
		n := uint64(binary.BigEndian.Uint32(b[:])) + i<<shift
		if shift > 32 || n>>32 != 0 {
			return netip.Addr{}
		}
		binary.BigEndian.PutUint32(b[:], uint32(n))
		return netip.AddrFrom4(b)
	}
	b := base.As16()
	n := new(big.Int).SetBytes(b[:])
	n.Add(n, new(big.Int).Lsh(new(big.Int).SetUint64(i), uint(shift)))
	if n.BitLen() > 128 {
		return netip.Addr{}
	}
	n.FillBytes(b[:])
	return netip.AddrFrom16(b)
}
