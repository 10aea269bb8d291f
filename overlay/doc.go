// Package overlay carries Ethernet frames between nodes as VXLAN over UDP
// (RFC 7348). It owns the wire format, the sockets of this node's tunnel
// endpoint (VTEP) and the table of peers: the nodes it talks to.
//
// A [Link] is a port.Port like any other. What it reads has packet.In set to
// packet.PeerBase plus the id of the peer that sent it; what it writes goes to
// the peer that packet.Peer names. It takes superpackets whole and gives back
// trains; in between, the kernel cuts and merges (UDP_SEGMENT, UDP_GRO), and
// where it cannot, plain datagrams are used.
//
// A datagram whose outer source is no peer is dropped, as is a frame for
// another VNI or a header that means something we do not know. The package does
// not learn addresses, floods nothing, knows no routes or policy and does not
// look at inner addresses: whether a peer may speak as some pod is decided by
// the switch. It neither encrypts nor authenticates; the network between nodes
// is trusted as far as outer addresses can be.
//
// One worker reads a Link and any number may write it. Peers may be added,
// changed and removed from any goroutine at any time.
package overlay
