// Package packet holds a packet's bytes while the switch works on them: the
// batch that a port fills, the descriptor of one packet, its tuple, and the
// pure operations on bytes (parse, rewrite, checksum, segment, coalesce).
//
// It owns memory layout and wire formats and nothing else: it knows no ports,
// no routes and no flows, performs no I/O, and allocates only in constructors.
// Every other package of the data path stands on it; it imports none of them.
//
// Multi-byte fields of descriptors are in host order; bytes in the batch's
// buffer are in network order, exactly as on the wire.
package packet

// Sizes in bytes.
const (
	// EthernetLen is the length of an Ethernet header. A frame never carries
	// a VLAN tag inside the switch.
	EthernetLen = 14
	// Headroom is kept free in front of every frame, for a vnet header and
	// for encapsulation (RFC 7348 over IPv6 needs 70).
	Headroom = 128
	// MaxIP is the largest IP packet, superpackets included.
	MaxIP = 65535
	// MaxFrame is the largest frame a port may deliver.
	MaxFrame = EthernetLen + MaxIP
)

// GSO says what kind of superpacket a packet is: several segments of one flow
// that share one header and are cut at the edge of the node. The zero value is
// an ordinary packet. Values are those of virtio_net_hdr.gso_type.
type GSO uint8

// Kinds of superpackets (include/uapi/linux/virtio_net.h).
const (
	GSONone  GSO = 0
	GSOTCPv4 GSO = 1
	GSOTCPv6 GSO = 4
	// GSOUDPL4 is UDP whose segments are datagrams of their own (USO).
	GSOUDPL4 GSO = 5
	// GSOECN is or-ed to a TCP kind: CWR is set on the first segment only.
	GSOECN GSO = 0x80
)

// Kind returns the type without the ECN bit.
func (g GSO) Kind() GSO { return g &^ GSOECN }

// Flags of a packet. The zero value: the bytes carry a complete checksum that
// nobody has verified.
const (
	// NeedsCsum: the transport checksum field holds the folded, not inverted
	// pseudo header sum; whoever puts the packet on a wire completes it over
	// [CsumStart, end) and stores it at CsumStart+CsumOffset.
	NeedsCsum uint8 = 1 << iota
	// Verified: the complete checksum in the bytes was found correct (or the
	// outer checksum of the overlay vouches for it).
	Verified
	// Plain: Parse found it to be what most packets are, a whole one of TCP or UDP
	// to one receiver, behind a header of IPv4 without options, and no superpacket.
	Plain
)

// Packet describes one packet of a Batch. It holds no pointers: the bytes are
// Batch.Buf[Off:], and are valid until the batch is reset. Whoever wants to
// keep a packet clones its bytes.
//
// A packet may be a train: segments that were received one behind the other,
// every one still behind its own headers. Then Stride is not zero, the first
// HdrLen bytes at Off are the header of the whole, and the payload of segment
// i lies at Off + HdrLen + i*Stride, GSOSize bytes long (the last may be
// shorter). A train saves the copy: TAPs take it as one gathered write.
type Packet struct {
	Off uint32 // of the Ethernet header in Batch.Buf
	Len uint32 // of the frame: Ethernet header to the last payload byte; a train's headers count once

	// Offload metadata, as in virtio_net_hdr. Offsets count from the
	// Ethernet header.
	GSO        GSO
	Flags      uint8
	HdrLen     uint16 // Ethernet, IP and transport headers; valid if GSO != GSONone
	GSOSize    uint16 // payload bytes of a segment; valid if GSO != GSONone
	CsumStart  uint16 // valid with NeedsCsum
	CsumOffset uint16 // valid with NeedsCsum
	Stride     uint16 // 0: contiguous; else distance between a train's segments

	// In is where the packet came in: a port, or, from PeerBase on, a peer
	// of the overlay. The worker sets it for ports, the overlay link for peers.
	In uint16
	// Out is the port that sends it, Peer the overlay peer it is sent to.
	// Both are set when the packet is forwarded.
	Out  uint16
	Peer uint16

	// What Parse found.
	Class    Class
	TCPFlags uint8 // of a TCP packet
	// Chunk is the type of an SCTP packet's first chunk; 0, which is DATA, where
	// there is none.
	Chunk uint8
	// Control: it opens or closes a connection, by SYN, FIN, RST or such a chunk.
	Control bool
	L4      uint16 // offset of the transport header from the Ethernet header
	Tuple   Tuple
	Hash    uint64 // of Tuple
}

// Event returns what connection tracking goes by: TCP flags or the SCTP chunk.
func (p *Packet) Event() uint8 { return p.TCPFlags | p.Chunk }

// PeerBase is the first value of Packet.In that names a peer of the overlay
// instead of a port of the switch.
const PeerBase = 1 << 15

// Segments returns how many packets p is on the wire.
func (p *Packet) Segments() int {
	if p.GSO == GSONone || p.GSOSize == 0 {
		return 1
	}
	return (int(p.Len) - int(p.HdrLen) + int(p.GSOSize) - 1) / int(p.GSOSize)
}

// WireLen returns the length in bytes of the largest IP packet that p is on the
// wire: of a superpacket, that of a full segment.
func (p *Packet) WireLen() int {
	if p.GSO == GSONone {
		return int(p.Len) - EthernetLen
	}
	return int(p.HdrLen) - EthernetLen + int(p.GSOSize)
}
