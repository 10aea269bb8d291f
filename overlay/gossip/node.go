package gossip

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Bounds of what is announced and accepted. They keep a message of a broken or
// hostile member from filling the memory of all others.
const (
	maxName        = 253 // bytes of a node's or pod's name (Kubernetes: DNS subdomain)
	maxText        = 512 // bytes of any other string
	maxLabels      = 256
	maxPodIPs      = 8
	maxPods        = 16384
	maxSourcePorts = 64
	maxClaims      = 8

	// MaxExtraAddresses is how many further addresses a node can announce.
	MaxExtraAddresses = 8
)

// NodeState is what is known about a node's life.
type NodeState uint8

// States of a node. Unknown is the zero value and never appears in a State.
const (
	Unknown NodeState = iota
	Alive
	Left   // it said goodbye
	Failed // it stopped answering
)

// String returns the state in lower case, as the node API shows it.
func (s NodeState) String() string {
	switch s {
	case Alive:
		return "alive"
	case Left:
		return "left"
	case Failed:
		return "failed"
	}
	return "unknown"
}

// Facts are what a node says about itself besides its pod ranges.
type Facts struct {
	// Addresses are the node's own (InternalIP), at most one per family, the
	// primary family first.
	Addresses []netip.Addr
	// ExtraAddresses are further addresses of the node, at most
	// MaxExtraAddresses.
	ExtraAddresses []netip.Addr
	// Underlay is where the node's overlay endpoint receives (VTEP address
	// and UDP port).
	Underlay netip.AddrPort
	// SourcePorts are the UDP ports that the node's overlay sends from, at
	// most 64. They tell nodes apart that share one underlay address. Empty:
	// any port.
	SourcePorts []uint16
	// VTEPMAC is the inner destination MAC that the node expects from the overlay.
	VTEPMAC [6]byte
	// Labels are the node's labels. They travel with the pods, not with the
	// other facts, and so may be a moment behind them.
	Labels map[string]string
}

// Node is a node as this one sees it. It is immutable.
type Node struct {
	Name  string
	State NodeState
	// Life is a number that each start of the node draws anew, never 0. That of
	// a node that is alive is this node's news of it: an older life is over.
	Life uint64
	// Gossip is the node's memberlist address.
	Gossip netip.AddrPort
	Facts
	// PodCIDRs are the ranges the node may use: its claims without those that
	// it lost to another node. Only a node that is alive has any.
	PodCIDRs []netip.Prefix
	// Claims are all the ranges the node announces.
	Claims []Claim
	// Pods of the node, sorted by namespace and name. Only a node that is
	// alive has any, and only inside its PodCIDRs or at its own addresses.
	Pods []Pod
	// Synced is set once the node's pods and labels are known; until then
	// both are empty.
	Synced bool
}

// Pod is what other nodes must know about a pod. It is immutable.
type Pod struct {
	Namespace, Name, UID string
	IPs                  []netip.Addr
	Labels               map[string]string
}

// State is one consistent view of the cluster, immutable.
type State struct {
	// Version grows by one with every change of this node's view.
	Version uint64
	Self    Node
	// Nodes are the others, sorted by name.
	Nodes []Node
	// Conflicts are claims on overlapping ranges, sorted.
	Conflicts []Conflict
	// Problems are sentences for the operator, sorted: conflicts, nodes that
	// share a name or address, and announcements that were ignored.
	Problems []string
}

// Alive returns the number of live nodes, this one included.
func (s *State) Alive() int {
	n := 1
	for i := range s.Nodes {
		if s.Nodes[i].State == Alive {
			n++
		}
	}
	return n
}

// Node returns the named node, or nil. The result must not be modified.
func (s *State) Node(name string) *Node {
	if s.Self.Name == name {
		return &s.Self
	}
	i, ok := slices.BinarySearchFunc(s.Nodes, name, func(n Node, name string) int { return cmp.Compare(n.Name, name) })
	if !ok {
		return nil
	}
	return &s.Nodes[i]
}

func (f *Facts) validate() error {
	for i, a := range f.Addresses {
		if !validNodeAddr(a) {
			return fmt.Errorf("addresses[%d]: %s is no node address", i, a)
		}
		if slices.ContainsFunc(f.Addresses[:i], func(o netip.Addr) bool { return o.Is4() == a.Is4() }) {
			return fmt.Errorf("addresses[%d]: %s is a second address of its family", i, a)
		}
	}
	if n := len(f.ExtraAddresses); n > MaxExtraAddresses {
		return fmt.Errorf("extraAddresses: has %d addresses; at most %d can be announced", n, MaxExtraAddresses)
	}
	for i, a := range f.ExtraAddresses {
		if !validNodeAddr(a) {
			return fmt.Errorf("extraAddresses[%d]: %s is no node address", i, a)
		}
		if slices.Contains(f.ExtraAddresses[:i], a) || slices.Contains(f.Addresses, a) {
			return fmt.Errorf("extraAddresses[%d]: %s is there twice", i, a)
		}
	}
	if u := f.Underlay; u != (netip.AddrPort{}) && (!u.IsValid() || u.Addr() != u.Addr().Unmap() || u.Addr().Zone() != "") {
		return fmt.Errorf("underlay: %s is no address and port", u)
	}
	if len(f.SourcePorts) > maxSourcePorts {
		return fmt.Errorf("sourcePorts: has %d ports; at most %d can be announced", len(f.SourcePorts), maxSourcePorts)
	}
	return validLabels(f.Labels)
}

func (f *Facts) clone() Facts {
	c := *f
	c.Addresses = slices.Clone(f.Addresses)
	c.ExtraAddresses = slices.Clone(f.ExtraAddresses)
	c.SourcePorts = slices.Clone(f.SourcePorts)
	c.Labels = maps.Clone(f.Labels)
	return c
}

func (p *Pod) validate() error {
	switch {
	case p.Name == "" || len(p.Name) > maxName || len(p.Namespace) > maxName:
		return fmt.Errorf("name has %d bytes; 1 to %d are allowed", len(p.Name), maxName)
	case len(p.UID) > maxText:
		return fmt.Errorf("uid has %d bytes; at most %d are allowed", len(p.UID), maxText)
	case len(p.IPs) > maxPodIPs:
		return fmt.Errorf("has %d addresses; at most %d are allowed", len(p.IPs), maxPodIPs)
	}
	for _, ip := range p.IPs {
		if !validNodeAddr(ip) {
			return fmt.Errorf("%s is no pod address", ip)
		}
	}
	return validLabels(p.Labels)
}

func (p *Pod) equal(q *Pod) bool {
	return p.Namespace == q.Namespace && p.Name == q.Name && p.UID == q.UID &&
		slices.Equal(p.IPs, q.IPs) && maps.Equal(p.Labels, q.Labels)
}

func validLabels(l map[string]string) error {
	if len(l) > maxLabels {
		return fmt.Errorf("has %d labels; at most %d are allowed", len(l), maxLabels)
	}
	for k, v := range l {
		if k == "" || len(k) > maxText || len(v) > maxText {
			return fmt.Errorf("label %.40q: key or value is empty or longer than %d bytes", k, maxText)
		}
	}
	return nil
}

// validName tells whether s can be a node's name. Spaces and control
// characters are refused because names go into logs and tables.
func validName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] == 0x7f || s[i] == '/' {
			return false
		}
	}
	return true
}

// validNodeAddr tells whether a can be the address of one node or pod.
func validNodeAddr(a netip.Addr) bool {
	return a.IsValid() && a == a.Unmap() && a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback()
}

// validRange tells whether p is a range in its canonical form.
func validRange(p netip.Prefix) bool {
	return p.IsValid() && p == p.Masked() && p.Addr() == p.Addr().Unmap() && p.Bits() > 0 && !p.Addr().IsMulticast()
}

// inside tells whether p lies within one of ranges, or ranges is empty.
func inside(p netip.Prefix, ranges []netip.Prefix) bool {
	return len(ranges) == 0 || slices.ContainsFunc(ranges, func(r netip.Prefix) bool {
		return r.Bits() <= p.Bits() && r.Overlaps(p)
	})
}

func overlapsAny(p netip.Prefix, ranges []netip.Prefix) bool {
	return slices.ContainsFunc(ranges, p.Overlaps)
}

func containsAddr(ranges []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Contains(a) })
}
