package nat

import (
	"iter"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"vswitch/vswitch/packet"
)

// Services is who answers at which service address. It is a value that never
// changes: With and Without return others that share with it all that is the
// same. The zero value has no services. It is asked for the first packet of a
// flow only.
type Services struct {
	addrs     *bart.Table[*address]
	nodePorts [2]ports // of IPv4 and IPv6
}

// address is what is known of an address, or of a range of cluster IPs.
type address struct {
	cluster bool // it is for services only: what no port claims goes nowhere
	node    bool // of this node: node ports are served there
	peer    bool // of another node, that serves node ports there
	ports   ports
	// few is where ports are if they are few: one cache line instead of two.
	few [2]portFrontend
}

// ports are frontends in order of their key.
type ports []portFrontend

type portFrontend struct {
	key uint32
	*Frontend
}

func portKey(proto uint8, port uint16) uint32 { return uint32(proto)<<16 | uint32(port) }

func (ps ports) search(key uint32) (int, bool) {
	return slices.BinarySearchFunc(ps, key, func(p portFrontend, key uint32) int { return int(p.key) - int(key) })
}

func (ps ports) get(key uint32) *Frontend {
	if i, ok := ps.search(key); ok {
		return ps[i].Frontend
	}
	return nil
}

// with returns a copy in which f, if not nil, has the key.
func (ps ports) with(key uint32, f *Frontend) ports {
	i, ok := ps.search(key)
	switch {
	case f == nil && !ok:
		return ps
	case f == nil:
		return slices.Concat(ps[:i], ps[i+1:])
	case ok:
		ps = slices.Clone(ps)
		ps[i].Frontend = f
		return ps
	}
	return slices.Concat(ps[:i], ports{{key, f}}, ps[i:])
}

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
	// Unallocated: an address of the service range that no service has.
	Unallocated
)

// Lookup finds the frontend of a packet to t.Dst. ingress tells that another
// node let the packet in from outside: then node ports of other nodes count.
func (s *Services) Lookup(t *packet.Tuple, ingress bool) (*Frontend, Match) {
	if s.addrs == nil {
		return nil, NoService
	}
	a, ok := s.addrs.Lookup(t.Dst.Netip())
	if !ok {
		return nil, NoService
	}
	key := portKey(t.Proto, t.DstPort)
	f := a.ports.get(key)
	if f == nil && (a.node || a.peer && ingress) {
		f = s.nodePorts[family(t.Dst.Is4())].get(key)
	}
	switch {
	case f != nil:
		return f, Matched
	case a.cluster && len(a.ports) > 0:
		return nil, WrongPort
	case a.cluster:
		return nil, Unallocated
	}
	return nil, NoService
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
		for _, p := range known.ports {
			if !yield(uint8(p.key>>16), uint16(p.key)) {
				return
			}
		}
	}
}

// edit returns Services in which change has been made to what is known of p.
// What is as if nothing were known is forgotten.
func (s Services) edit(p netip.Prefix, change func(*address)) Services {
	var a address
	if s.addrs == nil {
		s.addrs = new(bart.Table[*address])
	}
	if old, ok := s.addrs.Get(p); ok {
		a = *old
	}
	change(&a)
	if !a.cluster && !a.node && !a.peer && len(a.ports) == 0 {
		s.addrs = s.addrs.DeletePersist(p)
	} else {
		if n := len(a.ports); n <= len(a.few) {
			a.few = [len(a.few)]portFrontend{}
			copy(a.few[:], a.ports)
			a.ports = a.few[:n:n]
		}
		s.addrs = s.addrs.InsertPersist(p, &a)
	}
	return s
}

// withRange returns Services in which p is, or is no longer, for cluster IPs.
func (s Services) withRange(p netip.Prefix, yes bool) Services {
	return s.edit(p.Masked(), func(a *address) { a.cluster = yes })
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

// with returns Services in which f, if not nil, is at the spot.
func (s Services) with(at spot, f *Frontend) Services {
	if at.addr.IsUnspecified() {
		i := family(at.addr.Is4())
		s.nodePorts[i] = s.nodePorts[i].with(at.key, f)
		return s
	}
	return s.edit(netip.PrefixFrom(at.addr, at.addr.BitLen()), func(a *address) {
		a.ports = a.ports.with(at.key, f)
		// A cluster IP goes nowhere else, whatever other frontend it has, too.
		a.cluster = slices.ContainsFunc(a.ports, func(p portFrontend) bool { return p.Kind == ClusterIP })
	})
}

// Warm loads what Lookup and Choose will need for the packets of a batch that
// have no flow yet, step by step for all of them at once: where there are many
// services, each step of each packet waits for memory. ps is no longer than a
// batch. The result only has to be used for something.
func (s *Services) Warm(ps []packet.Packet, flows []*Flow) (touched uint64) {
	if s.addrs == nil {
		return 0
	}
	var addrs [packet.BatchSize]*address
	var fronts [packet.BatchSize]*Frontend
	for i := range ps {
		if flows[i] == nil && ps[i].Class == packet.Flow {
			addrs[i], _ = s.addrs.Lookup(ps[i].Tuple.Dst.Netip())
		}
	}
	for _, a := range addrs[:len(ps)] {
		if a != nil && a.cluster {
			touched++
		}
	}
	for i, a := range addrs[:len(ps)] {
		if a != nil {
			fronts[i] = a.ports.get(portKey(ps[i].Tuple.Proto, ps[i].Tuple.DstPort))
		}
	}
	for _, f := range fronts[:len(ps)] {
		if f != nil {
			touched += uint64(f.Kind)
		}
	}
	for i, f := range fronts[:len(ps)] {
		if f != nil && len(f.Service.Cluster) > 0 {
			touched += uint64(f.Service.ID) + uint64(draw(f.Service.Cluster, ps[i].Hash).ID)
		}
	}
	return touched
}
