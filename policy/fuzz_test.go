package policy

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// choices is a source of random numbers that a fuzzer can steer: the bytes of
// its input, four to a number, and then a fixed sequence.
type choices struct {
	data []byte
	rest *rand.PCG
}

func (c *choices) Uint64() uint64 {
	if len(c.data) < 4 {
		return c.rest.Uint64()
	}
	n := binary.LittleEndian.Uint32(c.data)
	c.data = c.data[4:]
	return uint64(n)<<32 | uint64(n)
}

// FuzzOracle lets a world change as the input says, and compares after each
// change the Set that followed, and at the end one made afresh, with the oracle.
func FuzzOracle(f *testing.F) {
	for seed := range uint64(8) {
		data := make([]byte, 2000)
		src := rand.NewPCG(seed, 3)
		for i := 0; i < len(data); i += 8 {
			binary.LittleEndian.PutUint64(data[i:], src.Uint64())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		source := &choices{data, rand.NewPCG(uint64(len(data)), 9)}
		m := maker{rand.New(source)}
		w := &world{node: m.pick("", "n1", "n2")}
		c := NewCompiler(w.node)
		for range 40 {
			ch := m.change(w)
			for range m.IntN(4) { // several at once, and also of one object
				join(ch, m.change(w))
			}
			c.Apply(ch)
			w.check(t, m, c.Set(), 15, "after changes")
			if len(source.data) == 0 {
				break
			}
		}
		fresh := NewCompiler(w.node)
		fresh.Apply(w.all())
		w.check(t, m, fresh.Set(), 60, "made afresh")
	})
}
