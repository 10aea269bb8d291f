package packet

import (
	"math/bits"

	"golang.org/x/sys/cpu"
)

// avx2Min is the length from which vectors win over add with carry: measured
// with BenchmarkSum.
const avx2Min = 192

// avx2Max bounds one call: 32-bit lanes can add up twice as much without overflow.
const avx2Max = 512 << 10

// sum returns the le sum of b.
func sum(b []byte) uint64 {
	if len(b) < avx2Min || !cpu.X86.HasAVX2 {
		return sumGeneric(b)
	}
	return sumVector(b)
}

func sumVector(b []byte) uint64 {
	var s uint64
	for len(b) > avx2Max+avx2Min {
		s = add(s, sumAVX2(&b[0], avx2Max))
		b = b[avx2Max:]
	}
	n := len(b) &^ 1
	s = add(s, sumAVX2(&b[0], n))
	if n != len(b) {
		s, _ = bits.Add64(s, uint64(b[n]), 0)
	}
	return s
}

// sumAVX2 returns a le sum of n bytes at b. n is even, at least 32, and not much
// more than avx2Max. The result is below 1<<48.
//
//go:noescape
func sumAVX2(b *byte, n int) uint64
