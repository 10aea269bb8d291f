package policy

import (
	"github.com/gaissmai/bart"

	"vswitch/vswitch/packet"
)

// Direction is a direction as the pod sees it.
type Direction uint8

// Directions.
const (
	Egress Direction = iota
	Ingress
)

func (d Direction) String() string {
	if d == Egress {
		return "egress"
	}
	return "ingress"
}

// Set is what the data plane asks about policy: immutable, and shared in parts
// with the Sets before and after it. Nil is a switch without policy, which
// allows everything; the zero value knows no pod, and allows nothing.
type Set struct {
	endpoints  *bart.Table[*endpoint]
	directions []*direction // by endpoint.directions; 0 is no policy's
	drops      *ledger
	elsewhere  *elsewhere // nil: nobody waits
}

// endpoint is a pod or a node, by any of its addresses.
type endpoint struct {
	identity uint32
	node     uint32 // the number of its node's name, or of its own; 0: none
	isNode   bool
	local    bool // a pod whose policies are compiled here
	// directions are the pod's in Set.directions, by Direction.
	directions [2]uint32
	// drops are where the pod's drops are counted, by direction and
	// decision.counter.
	drops [2][]*counter
	name  string // "x/web", or the node's
	who   *who
}

// Egress tells whether the pod of this node that has the address from may send
// to that address, protocol and port; port is 0 for protocols without. An
// address that is no such pod's gets a Pending verdict.
func (s *Set) Egress(from, to *packet.Addr, proto uint8, port uint16) Verdict {
	if s == nil {
		return Verdict{Allowed: true}
	}
	return s.ask(Egress, from, to, proto, port)
}

// Ingress tells whether the pod of this node that has the address to may hear
// from that address, on that protocol and port of its own. An address that is
// no such pod's gets a Pending verdict.
func (s *Set) Ingress(from, to *packet.Addr, proto uint8, port uint16) Verdict {
	if s == nil {
		return Verdict{Allowed: true}
	}
	return s.ask(Ingress, to, from, proto, port)
}

// ask is Egress and Ingress, for the pod that has the address own.
func (s *Set) ask(dir Direction, own, other *packet.Addr, proto uint8, port uint16) Verdict {
	pod := s.endpoint(own)
	if pod == nil || !pod.local {
		return Verdict{Pending: true}
	}
	peer := s.endpoint(other)
	v := Verdict{dir: dir, proto: proto, port: port, pod: pod, peer: peer, addr: *other}
	index := pod.directions[dir]
	switch {
	case peer == pod:
		v.Allowed, v.by = true, &itself
	case peer != nil && peer.isNode && dir == Ingress && peer.node == pod.node:
		v.Allowed, v.by = true, &ownNode
	case index == 0:
		v.Allowed = true
	default:
		id := uint32(0)
		if peer != nil {
			id = peer.identity
		}
		d := s.directions[index]
		v.by, v.Allowed = d.decide(id, other, proto, port)
		if peer == nil {
			if is := s.elsewhere.of(other); is != nothing {
				return d.unknown(v, is)
			}
		}
	}
	return v
}

func (s *Set) endpoint(a *packet.Addr) *endpoint {
	if s.endpoints == nil {
		return nil
	}
	e, _ := s.endpoints.Lookup(a.Netip())
	return e
}
