package lab

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"slices"
	"time"

	"vswitch/vswitch/cluster"
)

// The addresses of a client outside of the cluster (RFC 5737, RFC 3849).
var outsideAddrs = []netip.Prefix{netip.MustParsePrefix("203.0.113.10/24"), netip.MustParsePrefix("2001:db8:113::10/64")}

// OutsideAddrs are the addresses of the client outside of the cluster, one per family.
func OutsideAddrs() (list []netip.Addr) {
	for _, p := range outsideAddrs {
		list = append(list, p.Addr())
	}
	return list
}

const (
	// flowIdle is how long the balancer knows a flow without packets; clouds'
	// balancers have about as much.
	flowIdle = 10 * time.Minute
	// maxFlows bounds how many flows it knows. What it does not know goes by
	// hash, which changes only with the nodes.
	maxFlows = 1 << 16
)

// flow is what all packets of a connection in one direction have in common.
// Ports are 0 where there are none, and of fragments: only the first one has
// them, and all must go the same way.
type flow struct {
	src, dst         netip.Addr
	proto            uint8
	srcPort, dstPort uint16
}

// flowOf returns the flow of an IP packet, and whether the packet begins a TCP
// connection, or an SCTP association. ok is false for what is no IP packet.
func flowOf(packet []byte) (f flow, begins, ok bool) {
	var l4 []byte
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		f.src, _ = netip.AddrFromSlice(packet[12:16])
		f.dst, _ = netip.AddrFromSlice(packet[16:20])
		f.proto = packet[9]
		if n := int(packet[0]&15) * 4; binary.BigEndian.Uint16(packet[6:])&0x3fff == 0 && n >= 20 && n <= len(packet) {
			l4 = packet[n:]
		}
	case len(packet) >= 40 && packet[0]>>4 == 6:
		f.src, _ = netip.AddrFromSlice(packet[8:24])
		f.dst, _ = netip.AddrFromSlice(packet[24:40])
		f.proto = packet[6]
		l4 = packet[40:]
	default:
		return f, false, false
	}
	if hasPorts(f.proto) && len(l4) >= 4 {
		f.srcPort, f.dstPort = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	}
	switch {
	case f.proto == protoTCP && len(l4) >= 14:
		begins = l4[13]&(tcpSYN|tcpACK) == tcpSYN
	case f.proto == protoSCTP && len(l4) >= 13:
		begins = l4[12] == sctpInit
	}
	return f, begins, true
}

const (
	protoTCP  = 6
	protoUDP  = 17
	protoSCTP = 132
	tcpSYN    = 0x02
	tcpACK    = 0x10
	sctpInit  = 1 // chunk type
)

func hasPorts(proto byte) bool { return proto == protoTCP || proto == protoUDP || proto == protoSCTP }

// balancer chooses nodes for what a client outside sends to services, as a
// cloud's L4 balancer does: by hash of the flow, or of the client where the service
// has session affinity, among the nodes that pass the service's health check if it
// has one, else among all. It knows neither networks nor time.
type balancer struct {
	seed maphash.Seed
	// fronts are the services at load balancers' addresses and external IPs.
	fronts map[netip.Addr][]front
	// passing are the nodes that pass, by health check node port.
	passing map[uint16]map[string]bool
	flows   map[flow]*chosen
	swept   time.Time
}

// front is a service's port at an address. check is the health check node port; 0:
// there is none. sticky: all that a client says goes to one node, as only that one
// remembers which endpoint the client has.
type front struct {
	proto       uint8
	sticky      bool
	port, check uint16
}

// chosen is the node that a flow goes to.
type chosen struct {
	node string
	seen time.Time
}

func newBalancer() *balancer {
	return &balancer{seed: maphash.MakeSeed(), flows: map[flow]*chosen{}}
}

// frontsOf returns the services at load balancers' addresses and at external IPs,
// and the health check node ports that are to be asked.
func frontsOf(s *cluster.State) (fronts map[netip.Addr][]front, checks []uint16) {
	fronts = map[netip.Addr][]front{}
	for svc := range s.Services.All() {
		check := svc.HealthCheckPort
		if !svc.ExternalLocal {
			check = 0
		}
		for _, in := range svc.Ingress {
			if in.Proxy || !in.IP.IsValid() {
				continue
			}
			for _, p := range svc.Ports {
				fronts[in.IP] = append(fronts[in.IP], front{p.Protocol, svc.Affinity != 0, p.Port, check})
			}
			if check != 0 && !slices.Contains(checks, check) {
				checks = append(checks, check)
			}
		}
		for _, ip := range svc.ExternalIPs {
			for _, p := range svc.Ports {
				fronts[ip] = append(fronts[ip], front{proto: p.Protocol, sticky: svc.Affinity != 0, port: p.Port})
			}
		}
	}
	return fronts, checks
}

// front returns where a flow goes to; the zero value: to no service. All fragments
// of a protocol to one address are taken for the same service's.
func (b *balancer) front(f *flow) front {
	for _, fr := range b.fronts[f.dst] {
		if fr.proto == f.proto && (fr.port == f.dstPort || f.dstPort == 0) {
			return fr
		}
	}
	return front{}
}

// choose returns the node for a packet of a flow, out of those that are ready;
// empty: none is. A flow stays with its node while that passes. A connection
// that has begun stays while its node is ready, so that what drains there ends
// well; its next one, and datagrams, move. If no node passes, any may be chosen,
// and its switch says what there is to say: a reset for a service without
// endpoints, silence for one that has them elsewhere.
func (b *balancer) choose(f flow, begins bool, ready []string, now time.Time) string {
	able, front := ready, b.front(&f)
	if front.check != 0 {
		pass := b.passing[front.check]
		able = slices.DeleteFunc(slices.Clone(ready), func(n string) bool { return !pass[n] })
		if len(able) == 0 {
			able = ready
		}
	}
	if c := b.flows[f]; c != nil && now.Sub(c.seen) < flowIdle {
		drains := f.proto != protoUDP && !begins && slices.Contains(ready, c.node)
		if drains || slices.Contains(able, c.node) {
			c.seen = now
			return c.node
		}
	}
	key := f
	if front.sticky {
		key = flow{src: f.src, dst: f.dst}
	}
	node := b.hash(&key, able)
	if node != "" {
		b.remember(f, node, now)
	}
	return node
}

// hash chooses by the highest of the nodes' hashes with the flow, so that another
// node more or less moves only flows to or from that node.
func (b *balancer) hash(f *flow, nodes []string) (best string) {
	var highest uint64
	for _, n := range nodes {
		h := maphash.Comparable(b.seed, struct {
			f    flow
			node string
		}{*f, n})
		if best == "" || h > highest {
			best, highest = n, h
		}
	}
	return best
}

// remember notes where a flow goes. Of too many, those that are idle go, looked
// for once a second at most.
func (b *balancer) remember(f flow, node string, now time.Time) {
	if b.flows[f] == nil && len(b.flows) >= maxFlows {
		if now.Sub(b.swept) >= time.Second {
			b.swept = now
			for k, c := range b.flows {
				if now.Sub(c.seen) >= flowIdle {
					delete(b.flows, k)
				}
			}
		}
		if len(b.flows) >= maxFlows {
			return
		}
	}
	b.flows[f] = &chosen{node, now}
}
