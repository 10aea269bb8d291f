package vswitch

import (
	"hash/fnv"

	"vswitch/nat"
	"vswitch/policy"
	"vswitch/vswitch/fib"
	"vswitch/vswitch/packet"
)

// PortKind says who is behind a port, and so what its frames may claim.
type PortKind uint8

// Kinds of ports. The zero value forwards nothing.
const (
	// PortClosed drops all that comes in.
	PortClosed PortKind = iota
	// PortPod is a pod: it speaks as its own MAC and addresses only.
	PortPod
	// PortOverlay is the VXLAN link; packets carry the peer they came from.
	PortOverlay
	// PortUplink is an L3 device to this node's kernel, which routes to the
	// other nodes without encapsulation (mode direct). All it delivers is for
	// the switch; sources must lie in some peer's ranges, or be the host's.
	PortUplink
	// PortNode is the node itself: it speaks as the node's own addresses. One
	// that knows them (PortInfo.Addrs) is a neighbor, held to its MAC as a pod
	// is; one without speaks from whatever MAC, which traces do.
	PortNode
	// PortOutside is where clients from outside the cluster come in. They may
	// be anybody but a pod, a node or a service.
	PortOutside
)

// PortInfo is what the world says of a port. It is immutable.
type PortInfo struct {
	Kind PortKind
	// Name is the pod ("shop/web-1"), the node, or "overlay", "uplink" or "outside".
	Name string
	// MAC is the pod's, or the node's.
	MAC [6]byte
	// Addrs are the pod's addresses, or the node's own.
	Addrs []packet.Addr
	// MTU is the largest IP packet the port's other end takes, bytes.
	MTU uint16
	// Stranger: no such pod exists, but for a trace; no policy selects it.
	Stranger bool
}

// owns reports whether a is one of the port's addresses.
func (i *PortInfo) owns(a *packet.Addr) bool {
	for k := range i.Addrs {
		if i.Addrs[k] == *a {
			return true
		}
	}
	return false
}

// neighbor reports whether one machine with a MAC and addresses of its own is
// behind the port: it resolves addresses by ARP and ND, and is held to its own.
func (i *PortInfo) neighbor() bool {
	return i.Kind == PortPod || i.Kind == PortNode && len(i.Addrs) > 0
}

// PeerInfo is what the world says of another node. It is immutable.
type PeerInfo struct {
	Name string
	// ID stands for Name in connections, over restarts too.
	ID uint32
	// MAC is the peer's VTEP MAC, the Ethernet destination of what we send it.
	MAC [6]byte
	// Hop leads to the peer, whatever a packet's destination. Nil where packets
	// cannot say which node they come from (mode direct).
	Hop *fib.Hop
}

// Tables is the world as the data plane sees it: immutable, published as a
// whole, loaded once per batch. A change makes a new Tables that shares with
// the old one all that did not change.
type Tables struct {
	// Gen is the generation, given by Publish. It is never 0 in use.
	Gen uint32
	// Node is this node's name.
	Node string
	// GatewayMAC is the switch's own MAC on every pod port. VTEPMAC is the one
	// that peers send to.
	GatewayMAC, VTEPMAC [6]byte
	// Gateway4 and Gateway6 are the addresses the switch speaks with. Zero: the
	// family is not in use.
	Gateway4, Gateway6 packet.Addr
	// Ports and Peers are indexed by id; nil where there is none.
	Ports []*PortInfo
	Peers []*PeerInfo
	// Node4 and Node6 are the node's own addresses, which masqueraded packets
	// leave with. Zero: the gateways' are used.
	Node4, Node6 packet.Addr
	// Routes leads to pods, peers and the switch's own addresses.
	Routes fib.Table
	// Cluster holds the ranges of all pods and services. Where a hop leads does
	// not matter: nobody outside has an address in them.
	Cluster fib.Table
	// Services are who answers at service addresses.
	Services nat.Services
	// Starting: nobody has said yet what services there are. What could be for
	// one then dies in silence, so that its sender tries again.
	Starting bool
	// Meeting: there may be other nodes, and none has been met yet. Nobody can
	// say then that an address of the cluster is nobody's: packets to one that has
	// no route die in silence, too.
	Meeting bool
	// MasqueradeOutside hides clients outside from backends on other nodes
	// (policy Cluster), as kube-proxy does. Else the backend's node translates,
	// and answers go back through the node that let the client in.
	MasqueradeOutside bool
	// MasqueradeAll hides pods, too, from the backends of cluster IPs.
	MasqueradeAll bool
	// Policy says who may talk to whom. Nil: nobody has a say in that.
	Policy *policy.Set
	// KeepEstablished lets connections go on that policy would no longer allow.
	// Else their packets die, and TCP is reset.
	KeepEstablished bool
}

// Port returns what the tables say of a port, or nil.
func (t *Tables) Port(id uint16) *PortInfo {
	if int(id) < len(t.Ports) {
		return t.Ports[id]
	}
	return nil
}

// Peer returns what the tables say of the peer that a packet came in from
// (packet.Packet.In), or nil.
func (t *Tables) Peer(in uint16) *PeerInfo {
	if in < packet.PeerBase {
		return nil
	}
	if id := int(in - packet.PeerBase); id < len(t.Peers) {
		return t.Peers[id]
	}
	return nil
}

// peerByID returns the peer that a connection names, or nil.
func (t *Tables) peerByID(id uint32) *PeerInfo {
	for _, p := range t.Peers {
		if p != nil && p.ID == id {
			return p
		}
	}
	return nil
}

// PeerID returns what stands for a node's name in connections.
func PeerID(name string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(name))
	return h.Sum32()
}

// own returns the address that masqueraded packets of a's family leave with.
func (t *Tables) own(a *packet.Addr) packet.Addr {
	n := t.Node6
	if a.Is4() {
		n = t.Node4
	}
	if n == (packet.Addr{}) {
		return t.gateway(a)
	}
	return n
}

// gatewayMAC returns the MAC by which frames from a port of that kind reach the
// switch itself.
func (t *Tables) gatewayMAC(k PortKind) [6]byte {
	if k == PortOverlay || k == PortUplink {
		return t.VTEPMAC
	}
	return t.GatewayMAC
}

// gateway returns the address that the switch speaks with in the family of a.
func (t *Tables) gateway(a *packet.Addr) packet.Addr {
	if a.Is4() {
		return t.Gateway4
	}
	return t.Gateway6
}
