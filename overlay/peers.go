package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"vswitch/vswitch/packet"
)

// Errors of AddPeer and UpdatePeer.
var (
	ErrPeerExists = errors.New("another peer has that address")
	ErrNoPeer     = errors.New("no such peer")
	ErrPeersFull  = errors.New("all peer ids are in use")
)

// Peer is a node that the link talks to.
type Peer struct {
	// Name is used in messages.
	Name string
	// Addr is the peer's VTEP: where datagrams for it are sent, and the
	// address that its datagrams come from.
	Addr netip.AddrPort
	// SourcePorts are the UDP ports the peer sends from. Empty: any, which is
	// what VXLAN peers do. Where several nodes share one address, a peer is
	// the address and the ports that it announces (Link.SourcePorts).
	SourcePorts []uint16
	// Verify makes the link look at the transport checksums in what this
	// peer sends, which kernel VXLAN devices call for: they may send without
	// an outer checksum, and leave the inner one unfinished if the way to us
	// is a virtual one. A segment found wrong is not merged but delivered as
	// it is. Without Verify, the outer UDP checksum, which the kernel has
	// checked, vouches for all: right for our own kind.
	Verify bool
}

// maxPeer is the largest id; PeerBase plus it still fits packet.In.
const maxPeer = packet.PeerBase - 1

// peer is a Peer in use. It is immutable but for its counters, which it shares
// with the values that UpdatePeer replaces it by, and alone.
type peer struct {
	Peer
	id      uint16
	sa      sockaddr
	sources []source // of its datagrams
	n       *peerCounters
	// alone: the system cannot send several datagrams at once to it.
	alone atomic.Bool
}

// peerTable is an immutable snapshot of all peers. The zero value has none.
type peerTable struct {
	byID  []*peer // by id; nil where there is none
	slots []slot  // open addressing, a power of two, at most half full
	ports bool    // some peer is known by its ports
}

// slot is an entry of the hash: a source that belongs to a peer.
type slot struct {
	source
	peer *peer // nil: free
}

// source is an outer source in a form that compares quickly. Port 0 is any.
type source struct {
	hi, lo uint64
	port   uint16
}

func sourceOf(a netip.Addr, port uint16) source {
	b := a.As16()
	return source{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:]), port}
}

func (s *source) hash() uint64 {
	h := (s.hi^0x9e3779b97f4a7c15)*0xff51afd7ed558ccd ^ s.lo ^ uint64(s.port)<<48
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>29
}

// get returns the peer with that id, or nil.
func (t *peerTable) get(id uint16) *peer {
	if int(id) < len(t.byID) {
		return t.byID[id]
	}
	return nil
}

// lookup returns the peer that sends from s, or nil.
func (t *peerTable) lookup(s source) *peer {
	if t.ports {
		if p := t.find(s); p != nil {
			return p
		}
	}
	s.port = 0
	return t.find(s)
}

func (t *peerTable) find(s source) *peer {
	if len(t.slots) == 0 {
		return nil
	}
	mask := uint64(len(t.slots) - 1)
	for i := s.hash() & mask; t.slots[i].peer != nil; i = (i + 1) & mask {
		if t.slots[i].source == s {
			return t.slots[i].peer
		}
	}
	return nil
}

// sources returns what a peer sends from.
func sources(p *Peer) []source {
	if len(p.SourcePorts) == 0 {
		return []source{sourceOf(p.Addr.Addr(), 0)}
	}
	var all []source
	for _, port := range p.SourcePorts {
		all = append(all, sourceOf(p.Addr.Addr(), port))
	}
	return all
}

// with returns a table in which p stands at its id, or nothing if p is nil.
func (t *peerTable) with(id uint16, p *peer) (*peerTable, error) {
	next := &peerTable{byID: make([]*peer, max(len(t.byID), int(id)+1))}
	copy(next.byID, t.byID)
	next.byID[id] = p
	n := 0
	for _, p := range next.byID {
		if p != nil {
			n += len(p.sources)
		}
	}
	size := 8
	for size < 2*n {
		size *= 2
	}
	next.slots = make([]slot, size)
	for _, p := range next.byID {
		if p == nil {
			continue
		}
		for _, s := range p.sources {
			if other := next.find(s); other != nil {
				return nil, fmt.Errorf("%w: %s", ErrPeerExists, other.Name)
			}
			i := s.hash() & uint64(size-1)
			for next.slots[i].peer != nil {
				i = (i + 1) & uint64(size-1)
			}
			next.slots[i] = slot{s, p}
			next.ports = next.ports || s.port != 0
		}
	}
	return next, nil
}

// check returns p in canonical form, or what is wrong with it.
func (e *endpoint) check(p Peer) (Peer, error) {
	a := netip.AddrPortFrom(p.Addr.Addr().Unmap(), p.Addr.Port())
	switch {
	case !a.IsValid() || a.Addr().IsUnspecified() || a.Addr().IsMulticast():
		return p, fmt.Errorf("%s is no address of a VTEP", p.Addr)
	case a.Port() == 0:
		return p, fmt.Errorf("%s has no port; VXLAN's is usually %d", a.Addr(), Port)
	case a.Addr().Zone() != "":
		return p, fmt.Errorf("%s is an address with a zone; use a global or unique local one", a.Addr())
	case a.Addr().Is4() != e.local.Addr().Is4():
		return p, fmt.Errorf("%s is of another family than this link's %s", a.Addr(), e.local.Addr())
	case slices.Contains(p.SourcePorts, 0):
		return p, errors.New("0 is no source port")
	}
	p.Addr = a
	p.SourcePorts = slices.Clone(p.SourcePorts)
	slices.Sort(p.SourcePorts)
	p.SourcePorts = slices.Compact(p.SourcePorts)
	return p, nil
}

// AddPeer adds a peer and returns its id, which is never 0. An id is not used
// again before all others have been, so that packets in flight to a peer that
// is gone do not reach another.
func (e *endpoint) AddPeer(p Peer) (uint16, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.peers.Load()
	id := e.lastID
	for range maxPeer {
		if id++; id > maxPeer {
			id = 1
		}
		if t.get(id) == nil {
			if err := e.set(t, id, p, new(peerCounters)); err != nil {
				return 0, err
			}
			e.lastID = id
			return id, nil
		}
	}
	return 0, fmt.Errorf("peer %s: %w", p.Name, ErrPeersFull)
}

// UpdatePeer replaces what is known of a peer. It keeps its id and counters.
func (e *endpoint) UpdatePeer(id uint16, p Peer) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.peers.Load()
	old := t.get(id)
	if old == nil {
		return fmt.Errorf("peer %s: id %d: %w", p.Name, id, ErrNoPeer)
	}
	return e.set(t, id, p, old.n)
}

// set publishes a table with p at id. The caller holds mu.
func (e *endpoint) set(t *peerTable, id uint16, p Peer, n *peerCounters) error {
	p, err := e.check(p)
	if err != nil {
		return fmt.Errorf("peer %s: %w", p.Name, err)
	}
	next, err := t.with(id, &peer{Peer: p, id: id, sa: newSockaddr(p.Addr), sources: sources(&p), n: n})
	if err != nil {
		return fmt.Errorf("peer %s at %s: %w", p.Name, p.Addr, err)
	}
	e.peers.Store(next)
	return nil
}

// RemovePeer forgets a peer. What it sends is dropped from then on. An id that
// is not in use is ignored.
func (e *endpoint) RemovePeer(id uint16) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.peers.Load()
	if t.get(id) == nil {
		return
	}
	// Taking one away makes no conflict.
	if next, err := t.with(id, nil); err == nil {
		e.peers.Store(next)
	}
}

// PeerStatus is a peer, its id and what it carried.
type PeerStatus struct {
	ID uint16
	Peer
	PeerCounters
}

// Peers returns all peers, sorted by name.
func (e *endpoint) Peers() []PeerStatus {
	var all []PeerStatus
	for id, p := range e.peers.Load().byID {
		if p != nil {
			all = append(all, PeerStatus{uint16(id), p.Peer, p.n.load()})
		}
	}
	slices.SortFunc(all, func(a, b PeerStatus) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// PeerCounters returns what a peer carried; ok is false if there is none.
func (e *endpoint) PeerCounters(id uint16) (c PeerCounters, ok bool) {
	p := e.peers.Load().get(id)
	if p == nil {
		return c, false
	}
	return p.n.load(), true
}
