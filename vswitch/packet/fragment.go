package packet

import "encoding/binary"

const (
	ipDF = 0x4000
	ipMF = 0x2000
)

// Fragmenter yields the fragments of an IPv4 packet (RFC 791 section 3.2).
type Fragmenter struct {
	hdr     []byte // Ethernet and IPv4 header of the packet
	payload []byte // what is not yet yielded
	size    int    // payload bytes of a fragment that is not the last
	offset  int    // of payload in the whole datagram, bytes
	more    bool   // the packet is itself a fragment, and not the last
	first   bool
}

// Fragments returns p as IP packets of at most mtu bytes. A checksum that is
// still to be made is completed in place first, as it spans all fragments. What
// must not be fragmented has none: IPv6, a packet with DF set, a superpacket
// (cut it first), an mtu that leaves no room for payload. A packet that fits
// comes as it is.
//
// The result is a value; it is valid until the batch is reset.
func (b *Batch) Fragments(p *Packet, mtu int) Fragmenter {
	b.Complete(p)
	f := b.Frame(p)
	if p.GSO != GSONone || len(f) < EthernetLen+20 || !is4(f) {
		return Fragmenter{}
	}
	h := f[EthernetLen:]
	ihl := int(h[0]&15) * 4
	frag := binary.BigEndian.Uint16(h[6:8])
	size := (mtu - ihl) &^ 7
	if len(h) <= mtu {
		size = len(h)
	} else if frag&ipDF != 0 {
		return Fragmenter{}
	}
	if ihl < 20 || ihl >= len(h) || size < 8 {
		return Fragmenter{}
	}
	return Fragmenter{
		hdr: f[:EthernetLen+ihl], payload: h[ihl:], size: size,
		offset: int(frag&0x1fff) * 8, more: frag&ipMF != 0, first: true,
	}
}

// Next writes the next fragment as a frame to buf, which must have room for the
// MTU and an Ethernet header, and returns its length. It is not ok behind the
// last fragment.
func (g *Fragmenter) Next(buf []byte) (n int, ok bool) {
	if len(g.payload) == 0 {
		return 0, false
	}
	n = copy(buf, g.hdr)
	if !g.first {
		n = EthernetLen + copiedOptions(buf[EthernetLen:n])
	}
	h := buf[EthernetLen:n]
	part := g.payload[:min(g.size, len(g.payload))]
	g.payload = g.payload[len(part):]
	frag := binary.BigEndian.Uint16(h[6:8])&ipDF | uint16(g.offset/8)
	if len(g.payload) != 0 || g.more {
		frag |= ipMF
	}
	binary.BigEndian.PutUint16(h[2:4], uint16(len(h)+len(part)))
	binary.BigEndian.PutUint16(h[6:8], frag)
	putHeaderSum(h)
	g.offset += len(part)
	g.first = false
	return n + copy(buf[n:], part), true
}

// copiedOptions drops from the IPv4 header h the options that only the first
// fragment has, those without the copied bit, and returns the new length.
func copiedOptions(h []byte) int {
	to := 20
	for i := 20; i < len(h); {
		n := 1
		if h[i] == 0 {
			break
		}
		if h[i] != 1 {
			if i+1 >= len(h) || h[i+1] < 2 || i+int(h[i+1]) > len(h) {
				break
			}
			n = int(h[i+1])
			if h[i]&0x80 != 0 {
				to += copy(h[to:], h[i:i+n])
			}
		}
		i += n
	}
	for ; to&3 != 0; to++ {
		h[to] = 0
	}
	h[0] = 0x40 | byte(to/4)
	return to
}
