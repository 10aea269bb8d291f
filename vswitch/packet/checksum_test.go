package packet

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// slowSum is RFC 1071 read aloud: big-endian words, an odd byte padded, every
// carry added back at once.
func slowSum(b []byte) uint16 {
	var s uint32
	for i := range b {
		w := uint32(b[i])
		if i%2 == 0 {
			w <<= 8
		}
		if s += w; s > 0xffff {
			s -= 0xffff
		}
	}
	return uint16(s)
}

// same compares two ones-complement sums, which have two forms of zero.
func same(a, b uint16) bool { return a%0xffff == b%0xffff }

func TestSumLengthsAndAlignments(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 2200)
	for i := range buf {
		buf[i] = byte(r.Uint32())
	}
	ones := make([]byte, len(buf))
	for i := range ones {
		ones[i] = 0xff
	}
	for off := range 34 {
		for n := 0; n+off < len(buf); n += 1 + n/300 {
			for _, b := range [][]byte{buf[off : off+n], ones[off : off+n], make([]byte, n)} {
				want := slowSum(b)
				if got := Fold(Sum(b, 0)); got != want {
					t.Fatalf("Sum of %d bytes at %d = %#04x, want %#04x", n, off, got, want)
				}
				if got := fold(sumGeneric(b)); !same(got>>8|got<<8, want) {
					t.Fatalf("sumGeneric of %d bytes at %d = %#04x, want %#04x", n, off, got, want)
				}
			}
		}
	}
}

func TestSumLarge(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{65535, 65536, 1 << 19, 1<<19 + 1, 1<<19 + 33, 3<<19 + 7} {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32()) | 0x80 // large words, to overflow what can
		}
		if got, want := Fold(Sum(b, 0)), slowSum(b); got != want {
			t.Errorf("Sum of %d bytes = %#04x, want %#04x", n, got, want)
		}
		for _, fill := range []byte{0, 0xff} {
			for i := range b {
				b[i] = fill
			}
			if got, want := Fold(Sum(b, 0)), slowSum(b); got != want {
				t.Errorf("Sum of %d bytes %#02x = %#04x, want %#04x", n, fill, got, want)
			}
		}
	}
}

func TestSumCombines(t *testing.T) {
	b := []byte("The quick brown fox jumps over the lazy dog, twice and again.")
	want := slowSum(b)
	for k := 0; k <= len(b); k += 2 {
		if got := Fold(Sum(b[k:], Sum(b[:k], 0))); got != want {
			t.Errorf("split at %d: %#04x, want %#04x", k, got, want)
		}
	}
}

func TestPseudoSum(t *testing.T) {
	v4a, v4b := mapped([4]byte{10, 1, 2, 3}), mapped([4]byte{192, 0, 2, 200})
	if got, want := Fold(PseudoSum(&v4a, &v4b, ProtoTCP, 1234)),
		slowSum([]byte{10, 1, 2, 3, 192, 0, 2, 200, 0, 6, 1234 >> 8, 1234 & 255}); got != want {
		t.Errorf("IPv4: %#04x, want %#04x", got, want)
	}
	v6a, v6b := Addr{0xfd, 15: 1}, Addr{0x20, 1, 0xd, 0xb8, 15: 0xee}
	length := 0x12345
	wire := append(append([]byte{}, v6a[:]...), v6b[:]...)
	wire = append(wire, 0, 1, 0x23, 0x45, 0, 0, 0, ProtoICMPv6)
	if got, want := Fold(PseudoSum(&v6a, &v6b, ProtoICMPv6, length)), slowSum(wire); got != want {
		t.Errorf("IPv6: %#04x, want %#04x", got, want)
	}
}

func FuzzSum(f *testing.F) {
	f.Add([]byte{}, uint8(0))
	f.Add([]byte{0xff}, uint8(1))
	f.Add(make([]byte, 257), uint8(3))
	f.Fuzz(func(t *testing.T, b []byte, off uint8) {
		b = b[min(int(off), len(b)):]
		if got, want := Fold(Sum(b, 0)), slowSum(b); got != want {
			t.Errorf("Sum = %#04x, want %#04x", got, want)
		}
		if got := fold(sumGeneric(b)); !same(got>>8|got<<8, slowSum(b)) {
			t.Errorf("sumGeneric = %#04x, want %#04x", got, slowSum(b))
		}
	})
}

var sink uint64

func BenchmarkSum(b *testing.B) {
	buf := make([]byte, 65536)
	for _, n := range []int{20, 64, 128, 256, 512, 1398, 1500, 65536} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				sink += sum(buf[:n])
			}
		})
		b.Run(fmt.Sprintf("generic/%d", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				sink += sumGeneric(buf[:n])
			}
		})
	}
}
