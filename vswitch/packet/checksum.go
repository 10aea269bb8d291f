package packet

import (
	"encoding/binary"
	"math/bits"
)

// Checksums are the ones-complement sums of RFC 1071. Inside this package a sum
// is kept in 64 bits and over little-endian words (le), which costs nothing on
// the machines that matter; its folded 16 bits are stored with little-endian
// byte order. What is exported counts in host values of big-endian words.

// Sum adds the big-endian 16-bit words of b to initial and returns the sum,
// not inverted. An odd last byte counts as the high byte of a word, so only the
// last of several parts may have an odd length. Sums of parts may be added; up
// to 65,000 parts fit.
func Sum(b []byte, initial uint32) uint32 {
	return initial + uint32(bits.ReverseBytes16(fold(sum(b))))
}

// Fold adds the carries of a sum to its low 16 bits. The checksum of the bytes
// is the inverse of that.
func Fold(sum uint32) uint16 {
	sum = sum>>16 + sum&0xffff
	return uint16(sum>>16 + sum)
}

// PseudoSum returns the sum of the pseudo header of a transport packet of
// length bytes, header included (RFC 9293 section 3.1, RFC 8200 section 8.1).
// One code serves both families: the prefix of a mapped IPv4 address adds
// 0xffff, which is zero in ones-complement.
func PseudoSum(src, dst *Addr, proto uint8, length int) uint32 {
	s := add(addrSum(src), addrSum(dst))
	return uint32(bits.ReverseBytes16(fold(s))) + uint32(proto) + uint32(length)>>16 + uint32(length)&0xffff
}

// addrSum returns the le sum of an address.
func addrSum(a *Addr) uint64 {
	return add(binary.LittleEndian.Uint64(a[:8]), binary.LittleEndian.Uint64(a[8:]))
}

// add returns the ones-complement sum of two sums.
func add(a, b uint64) uint64 {
	s, c := bits.Add64(a, b, 0)
	return s + c
}

// fold reduces a le sum to 16 bits. Only a sum of zeros gives zero.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s>>16 + s)
}

// le16 returns a host value as the word that a le sum counts.
func le16(v int) uint64 { return uint64(bits.ReverseBytes16(uint16(v))) }

// sumGeneric returns the le sum of b, with the processor's add with carry.
func sumGeneric(b []byte) uint64 {
	var s, c uint64
	for len(b) >= 64 {
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[0:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[8:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[16:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[24:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[32:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[40:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[48:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[56:]), c)
		b = b[64:]
	}
	for len(b) >= 8 {
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b), c)
		b = b[8:]
	}
	var tail uint64
	if len(b) >= 4 {
		tail = uint64(binary.LittleEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		tail += uint64(binary.LittleEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) != 0 {
		tail += uint64(b[0])
	}
	s, c = bits.Add64(s, tail, c)
	s, c = bits.Add64(s, 0, c)
	return s + c
}
