package overlay

import (
	"encoding/binary"
	"errors"
)

// HeaderLen is the length of a VXLAN header in bytes.
const HeaderLen = 8

// Port is the UDP port of the kernel's VXLAN device and of flannel. IANA's is
// 4789.
const Port = 8472

// MaxVNI is the largest VXLAN network identifier.
const MaxVNI = 1<<24 - 1

// Errors of ParseHeader.
var (
	ErrShort  = errors.New("shorter than a VXLAN header")
	ErrHeader = errors.New("not a plain VXLAN header: the VNI flag is missing or reserved bits are set")
)

// A VXLAN header (RFC 7348 section 5) is one big-endian word:
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|R|R|R|R|I|R|R|R|            Reserved                           |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                VXLAN Network Identifier (VNI) |   Reserved    |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
const (
	flagVNI  = 1 << 59
	vniShift = 8
)

// header returns the header word of a network.
func header(vni uint32) uint64 { return flagVNI | uint64(vni&MaxVNI)<<vniShift }

// PutHeader writes the header for a network to b, which must have room for it.
// Only the low 24 bits of vni count.
func PutHeader(b []byte, vni uint32) { binary.BigEndian.PutUint64(b, header(vni)) }

// ParseHeader reads the header at the start of b.
//
// RFC 7348 wants reserved bits ignored. They are refused here, as Linux does
// (vxlan_rcv in drivers/net/vxlan/vxlan_core.c): the extensions that use them
// (GBP, GPE, remote checksum offload) change what follows or ask for something
// to be done, so a sender that sets them expects more than we would do.
func ParseHeader(b []byte) (vni uint32, err error) {
	if len(b) < HeaderLen {
		return 0, ErrShort
	}
	h := binary.BigEndian.Uint64(b)
	vni = uint32(h>>vniShift) & MaxVNI
	if h != header(vni) {
		return 0, ErrHeader
	}
	return vni, nil
}
