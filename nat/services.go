package nat

import (
	"iter"
	"net/netip"
	"slices"
	"unsafe"

	"github.com/gaissmai/bart"

	"vswitch/vswitch/packet"
)

// Services is who answers at which service address. It is a value that never
// changes: what would change it returns another one, that shares with it all that
// is the same. The zero value has no services. It is asked for the first packet of a
// flow only.
type Services struct {
	fronts frontends
	addrs  *bart.Table[address]
	ranges []netip.Prefix // of cluster IPs
}

// address is what is known of an address, or of a range of cluster IPs.
type address struct {
	reserved   bool     // a range for services only: what none of them claims goes nowhere
	node       bool     // of this node: node ports are served there
	peer       bool     // of another node, that serves node ports there
	keys       []uint32 // of the frontends that are there, in order
	clusterIPs int      // how many of them make it a cluster IP, which goes nowhere else
}

func portKey(proto uint8, port uint16) uint32 { return uint32(proto)<<16 | uint32(port) }

// everyNode marks the keys of node ports, which are at the unspecified address of
// their family. No packet has such a key, so none to that address finds them.
const everyNode = 1 << 31

// unspecified are the addresses that node ports are at.
var unspecified = [...]packet.Addr{packet.AddrFrom(netip.IPv4Unspecified()), packet.AddrFrom(netip.IPv6Unspecified())}

// Match is how a destination is related to services.
type Match uint8

// Matches.
const (
	// NoService: no service has to do with it.
	NoService Match = iota
	// Matched: a frontend takes it.
	Matched
	// WrongPort: the cluster IP of a service that does not serve that port.
	WrongPort
	// Unallocated: an address of the service range that no service has for its
	// cluster IP, nor for anything else with that port.
	Unallocated
)

// Lookup finds the frontend of a packet to t.Dst. ingress tells that another
// node let the packet in from outside: then node ports of other nodes count.
func (s *Services) Lookup(t *packet.Tuple, ingress bool) (*Frontend, Match) {
	key := portKey(t.Proto, t.DstPort)
	if f := s.fronts.get(&t.Dst, key); f != nil {
		return f, Matched
	}
	if s.addrs == nil {
		return nil, NoService
	}
	a, ok := s.addrs.Lookup(t.Dst.Netip())
	switch {
	case !ok:
		return nil, NoService
	case a.node || a.peer && ingress:
		if f := s.fronts.get(&unspecified[family(t.Dst.Is4())], key|everyNode); f != nil {
			return f, Matched
		}
	}
	switch {
	case a.clusterIPs > 0 || a.reserved && len(a.keys) > 0:
		return nil, WrongPort
	case a.reserved || len(a.keys) > 0 && !a.node && !a.peer && s.inRange(t.Dst.Netip()):
		return nil, Unallocated
	}
	return nil, NoService
}

// inRange reports whether an address of which more is known is in a range of
// cluster IPs.
func (s *Services) inRange(a netip.Addr) bool {
	return slices.ContainsFunc(s.ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}

// At yields protocol and port of everything that is served at an address, but
// for node ports, in order. Its cost is that of what it yields, however many
// services there are.
func (s *Services) At(a netip.Addr) iter.Seq2[uint8, uint16] {
	return func(yield func(uint8, uint16) bool) {
		if s.addrs == nil {
			return
		}
		known, ok := s.addrs.Get(netip.PrefixFrom(a, a.BitLen()))
		if !ok {
			return
		}
		for _, key := range known.keys {
			if !yield(uint8(key>>16), uint16(key)) {
				return
			}
		}
	}
}

// edit returns Services in which change has been made to what is known of p.
// What is as if nothing were known is forgotten.
func (s Services) edit(p netip.Prefix, change func(*address)) Services {
	if s.addrs == nil {
		s.addrs = new(bart.Table[address])
	}
	a, _ := s.addrs.Get(p)
	if change(&a); !a.reserved && !a.node && !a.peer && len(a.keys) == 0 {
		s.addrs = s.addrs.DeletePersist(p)
	} else {
		s.addrs = s.addrs.InsertPersist(p, a)
	}
	return s
}

// withRange returns Services in which p is, or is no longer, for cluster IPs.
func (s Services) withRange(p netip.Prefix, yes bool) Services {
	s.ranges = slices.DeleteFunc(slices.Clone(s.ranges), func(q netip.Prefix) bool { return q == p.Masked() })
	if yes {
		s.ranges = append(s.ranges, p.Masked())
	}
	return s.edit(p.Masked(), func(a *address) { a.reserved = yes })
}

// withNode returns Services in which node ports are, or are not, served at an
// address of this node or of a peer.
func (s Services) withNode(addr netip.Addr, node, peer bool) Services {
	return s.edit(netip.PrefixFrom(addr, addr.BitLen()), func(a *address) { a.node, a.peer = node, peer })
}

// spot is where a frontend is: an address, protocol and port. The unspecified
// address of a family stands for every node's.
type spot struct {
	addr netip.Addr
	key  uint32
}

func family(is4 bool) int {
	if is4 {
		return 0
	}
	return 1
}

// with returns Services in which the frontends that are given, if not nil, are at
// their spots.
func (s Services) with(changes map[spot]*Frontend) Services {
	if len(changes) == 0 {
		return s
	}
	list := make([]placed, 0, len(changes))
	for at, f := range changes {
		addr, key := packet.AddrFrom(at.addr), at.key
		if at.addr.IsUnspecified() {
			key |= everyNode
		} else {
			s = s.serves(at, s.fronts.get(&addr, key), f)
		}
		list = append(list, placed{addr, key, f})
	}
	s.fronts = s.fronts.with(list...)
	return s
}

// serves returns Services that know of an address that it serves f instead of old
// at a spot; nil is nothing.
func (s Services) serves(at spot, old, f *Frontend) Services {
	if old == nil && f == nil || old != nil && f != nil && old.Kind == f.Kind {
		return s
	}
	return s.edit(netip.PrefixFrom(at.addr, at.addr.BitLen()), func(a *address) {
		i, _ := slices.BinarySearch(a.keys, at.key)
		switch {
		case f == nil:
			a.keys = slices.Concat(a.keys[:i], a.keys[i+1:])
		case old == nil:
			a.keys = slices.Concat(a.keys[:i], []uint32{at.key}, a.keys[i:])
		}
		if old != nil && old.Kind == ClusterIP {
			a.clusterIPs--
		}
		if f != nil && f.Kind == ClusterIP {
			a.clusterIPs++
		}
	})
}

// Prefetch begins to load what Lookup and Choose will need for the packets of a
// batch that have no flow yet, and what conns will need for the tuples of the
// answers. It goes step by step for all packets at once: where there are many
// services, each step of each packet waits for memory. ps is no longer than a
// batch, and flows no shorter than ps.
func (s *Services) Prefetch(ps []packet.Packet, flows []*Flow, conns *Table) {
	if s.fronts.root == nil {
		return
	}
	var hashes [packet.BatchSize]uint32
	var fronts [packet.BatchSize]*slot
	for i := range ps {
		if t := &ps[i].Tuple; flows[i] == nil && ps[i].Class == packet.Flow {
			hashes[i] = hashOf(&t.Dst, portKey(t.Proto, t.DstPort))
			if p := s.fronts.page(hashes[i]); len(p.index) > 0 {
				prefetch(uintptr(unsafe.Pointer(p.home(hashes[i]))))
			}
		}
	}
	for i := range ps {
		if flows[i] == nil && ps[i].Class == packet.Flow {
			p := s.fronts.page(hashes[i])
			if n, _ := p.find(hashes[i]); n != 0 {
				fronts[i] = &p.slots[n-1]
				prefetch(uintptr(unsafe.Pointer(fronts[i])))
			}
		}
	}
	for i, f := range fronts[:len(ps)] {
		if f == nil {
			continue
		}
		if t := &ps[i].Tuple; f.backends == 0 || !f.is(&t.Dst, portKey(t.Proto, t.DstPort)) {
			fronts[i] = nil
			continue
		}
		b := uintptr(unsafe.Pointer(Draw(f.cluster(), ps[i].Hash)))
		prefetch(b)
		if end := b + unsafe.Sizeof(Backend{}) - 1; end/64 != b/64 {
			prefetch(end)
		}
		if !f.Random {
			prefetch(uintptr(unsafe.Pointer(f.Service)))
		}
	}
	for i, f := range fronts[:len(ps)] {
		if f != nil {
			b := Draw(f.cluster(), ps[i].Hash)
			to := ps[i].Tuple.Flow()
			to.Dst, to.DstPort = b.Addr, b.Port
			to = to.Reverse()
			conns.Prefetch(&to)
		}
	}
}
