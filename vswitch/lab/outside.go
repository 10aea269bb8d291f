package lab

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
)

// The addresses of a client outside of the cluster (RFC 5737, RFC 3849).
var outsideAddrs = []netip.Prefix{netip.MustParsePrefix("203.0.113.10/24"), netip.MustParsePrefix("2001:db8:113::10/64")}

// destination returns where an IP packet goes, and a hash that all packets of
// its flow have. ok is false for what is no IP packet.
func destination(packet []byte) (to netip.Addr, hash uint32, ok bool) {
	h := fnv.New32a()
	var l4 []byte
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		to, _ = netip.AddrFromSlice(packet[16:20])
		h.Write(packet[12:20])
		h.Write(packet[9:10])
		// Of fragments, only the first has ports; all must go the same way.
		if n := int(packet[0]&15) * 4; binary.BigEndian.Uint16(packet[6:])&0x3fff == 0 && n <= len(packet) && hasPorts(packet[9]) {
			l4 = packet[n:]
		}
	case len(packet) >= 40 && packet[0]>>4 == 6:
		to, _ = netip.AddrFromSlice(packet[24:40])
		h.Write(packet[8:40])
		h.Write(packet[6:7])
		if hasPorts(packet[6]) {
			l4 = packet[40:]
		}
	default:
		return to, 0, false
	}
	if len(l4) >= 4 {
		h.Write(l4[:4])
	}
	return to, mix(h.Sum32()), true
}

// mix makes every bit of h depend on all others (the finalizer of MurmurHash3).
// The lowest bit of FNV is the parity of its input's lowest bits, and a client's
// ports, which grow by twos, would all choose the same one of two nodes.
func mix(h uint32) uint32 {
	h ^= h >> 16
	h *= 0x85ebca6b
	h ^= h >> 13
	h *= 0xc2b2ae35
	return h ^ h>>16
}

// hasPorts is true of TCP, UDP and SCTP.
func hasPorts(proto byte) bool { return proto == 6 || proto == 17 || proto == 132 }
