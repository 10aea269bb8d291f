package nat

import (
	"math/rand/v2"
	"runtime"
	"testing"
	"unsafe"

	"vswitch/vswitch/packet"
)

func TestFlowLayout(t *testing.T) {
	var f Flow
	if s := unsafe.Sizeof(f); s != FlowSize {
		t.Errorf("a flow is %d bytes, want %d", s, FlowSize)
	}
	if o := unsafe.Offsetof(f.Translation); o != 64 {
		t.Errorf("the second cache line begins at %d, want 64", o)
	}
	c := NewCache(1)
	defer c.Close()
	k := key(1)
	if p := uintptr(unsafe.Pointer(c.Insert(&k, 1))); p%FlowSize != 0 {
		t.Errorf("flow at %#x is not aligned to its size", p)
	}
}

func TestSetConn(t *testing.T) {
	var f Flow
	f.SetConn(makeID(3, 9), Reply, 100)
	if f.Dir() != Reply || f.LastSeen != 99 || f.Conn.entry() != 9 || f.Conn.version() != 3 {
		t.Errorf("got %v %d %v", f.Dir(), f.LastSeen, f.Conn)
	}
	f.SetConn(makeID(3, 9), Original, 0)
	if f.Dir() != Original || f.LastSeen != ^uint32(0) {
		t.Errorf("got %v %d", f.Dir(), f.LastSeen)
	}
}

func TestTranslate(t *testing.T) {
	from := v4(packet.ProtoUDP, [4]byte{10, 0, 0, 1}, 1000, [4]byte{10, 96, 0, 10}, 53)
	to := v4(packet.ProtoUDP, [4]byte{10, 0, 0, 1}, 1000, [4]byte{10, 0, 0, 7}, 5353)
	var f Flow
	f.Translate(&from, &to)
	if f.Flags&Rewrites == 0 || f.Dst != to.Dst || f.DstPort != 5353 {
		t.Errorf("got %+v", f)
	}
	from.In, from.Flags = 7, packet.Routed
	same := from.Flow()
	f.Translate(&from, &same)
	if f.Flags&Rewrites != 0 {
		t.Error("no translation, but Rewrites")
	}
}

// cacheModel checks a cache against a map from keys to what was written into
// the flow.
type cacheModel struct {
	t    *testing.T
	c    *Cache
	m    map[packet.Tuple]uint32
	hash func(*packet.Tuple) uint64
}

func (m *cacheModel) forget(f *Flow) {
	if gen, ok := m.m[f.Key]; !ok || gen != f.Gen {
		m.t.Fatalf("flow %v with %d is given up; the model has %d, %v", f.Key, f.Gen, gen, ok)
	}
	delete(m.m, f.Key)
}

func (m *cacheModel) insert(k packet.Tuple, gen uint32) {
	had, ok := m.m[k]
	f := m.c.Insert(&k, m.hash(&k))
	if ok && f.Gen != had || !ok && *f != (Flow{Key: k}) {
		m.t.Fatalf("insert %v: got %+v, the model has %d, %v", k, *f, had, ok)
	}
	f.Gen, f.LastSeen = gen, gen
	m.m[k] = gen
}

func (m *cacheModel) lookup(ks []packet.Tuple) {
	ps := make([]packet.Packet, len(ks))
	for i, k := range ks {
		ps[i].Tuple, ps[i].Hash = k, m.hash(&k)
	}
	out := make([]*Flow, len(ks))
	m.c.LookupBatch(ps, out)
	for i, k := range ks {
		gen, ok := m.m[k]
		if ok != (out[i] != nil) || ok && (out[i].Key != k || out[i].Gen != gen) {
			m.t.Fatalf("lookup %v: got %+v, the model has %d, %v", k, out[i], gen, ok)
		}
		if f := m.c.Lookup(&k, ps[i].Hash); f != out[i] {
			m.t.Fatalf("Lookup and LookupBatch differ: %p and %p", f, out[i])
		}
	}
}

// check looks at what no caller can see.
func (m *cacheModel) check() {
	m.t.Helper()
	c := m.c
	if c.Len() != len(m.m) || int(c.x.n) != len(m.m) {
		m.t.Fatalf("%d flows, %d in the index; the model has %d", c.Len(), c.x.n, len(m.m))
	}
	refs := map[uint32]int{}
	for _, slots := range [][]uint32{c.x.slots, c.x.old} {
		for _, s := range slots {
			if s != 0 && s != c.x.refs {
				refs[s&c.x.refs-1]++
			}
		}
	}
	holes := 0
	for i := range c.used {
		f := &c.flows[i]
		if f.Conn == hole {
			holes++
			if refs[i] != 0 {
				m.t.Fatalf("hole %d is in the index", i)
			}
			continue
		}
		if refs[i] != 1 {
			m.t.Fatalf("flow %d is in the index %d times", i, refs[i])
		}
		if c.x.tags[i] != uint32(m.hash(&f.Key)) {
			m.t.Fatalf("flow %d has a wrong tag", i)
		}
	}
	if holes != int(c.holes) {
		m.t.Fatalf("%d holes, counted %d", holes, c.holes)
	}
}

func TestCacheModel(t *testing.T) {
	good := func(k *packet.Tuple) uint64 { return k.Hash(42) }
	// Few homes and few bits to tell keys apart: long runs and false matches.
	poor := func(k *packet.Tuple) uint64 { h := k.Hash(42); return h&0x1f | h>>3&0x3000000000000000 }
	for _, tt := range []struct {
		name       string
		hash       func(*packet.Tuple) uint64
		size, keys int
		ops        int
	}{
		{"small", good, 256, 600, 20000},
		{"growing", good, 1 << 14, 12000, 60000},
		{"full", good, 5000, 12000, 60000},
		{"collisions", poor, 256, 600, 4000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, uint64(tt.size)))
			c := NewCache(tt.size)
			defer c.Close()
			m := &cacheModel{t, c, map[packet.Tuple]uint32{}, tt.hash}
			c.Evicted = m.forget
			for op := range tt.ops {
				k := key(r.IntN(tt.keys))
				switch n := r.IntN(100); {
				case n < 60:
					m.insert(k, uint32(op))
				case n < 85:
					ks := make([]packet.Tuple, 1+r.IntN(70))
					for i := range ks {
						ks[i] = key(r.IntN(tt.keys))
					}
					m.lookup(ks)
				case n < 97:
					if f := c.Lookup(&k, tt.hash(&k)); f != nil {
						m.forget(f)
						c.Delete(f)
						c.Delete(f) // does nothing
					}
				default:
					c.Sweep(r.IntN(400), func(f *Flow) bool {
						if f.Gen%7 == 0 {
							m.forget(f)
							return false
						}
						return true
					})
				}
				if op%500 == 0 {
					m.check()
				}
			}
			m.check()
			for k := range m.m {
				m.lookup([]packet.Tuple{k})
			}
		})
	}
}

// A full cache gives up flows that were not seen for long, and none that the
// batch at hand has looked up.
func TestCacheSparesBatch(t *testing.T) {
	const size = 1000
	c := NewCache(size)
	defer c.Close()
	for i := range size {
		k := key(i)
		f := c.Insert(&k, k.Hash(0))
		f.LastSeen = uint32(i)
	}
	var ps [packet.BatchSize]packet.Packet
	var out [packet.BatchSize]*Flow
	for i := range ps {
		ps[i].Tuple = key(i) // the oldest
		ps[i].Hash = ps[i].Tuple.Hash(0)
	}
	c.LookupBatch(ps[:], out[:])
	for i := range 10 * size {
		k := key(size + i)
		c.Insert(&k, k.Hash(0)).LastSeen = uint32(size + i)
	}
	for i, f := range out {
		if f == nil || f.Key != ps[i].Tuple {
			t.Fatalf("flow %d of the batch was given up", i)
		}
	}
	if c.Len() != size {
		t.Errorf("%d flows, want %d", c.Len(), size)
	}
	var none [1]packet.Packet
	c.LookupBatch(none[:], out[:])
	for i := range size {
		k := key(11*size + i)
		c.Insert(&k, k.Hash(0)).LastSeen = uint32(11*size + i)
	}
	left := 0
	for i := range ps {
		if c.Lookup(&ps[i].Tuple, ps[i].Hash) != nil {
			left++
		}
	}
	if left > 0 {
		t.Errorf("%d of the oldest flows outlived as many insertions as there are flows", left)
	}
}

// The two packets of a new flow in one batch share one flow.
func TestCacheInsertTwice(t *testing.T) {
	c := NewCache(256)
	defer c.Close()
	k := key(1)
	f := c.Insert(&k, 7)
	f.Packets = 5
	if g := c.Insert(&k, 7); g != f || g.Packets != 5 || c.Len() != 1 {
		t.Errorf("got %p %+v, want %p with 5 packets", g, *g, f)
	}
}

// Growing takes a bounded step at each insertion and loses nothing meanwhile.
func TestCacheGrowsInSteps(t *testing.T) {
	c := NewCache(1 << 16)
	defer c.Close()
	growths := 0
	for i := range 1 << 16 {
		old, moved := c.x.old, c.x.moved
		k := key(i)
		c.Insert(&k, k.Hash(0))
		switch {
		case old == nil && c.x.old != nil:
			growths++
			if c.x.moved != 0 {
				t.Fatal("the insertion that begins to grow moves slots, too")
			}
		case old != nil && c.x.old != nil && c.x.moved-moved > movesPerInsert:
			t.Fatalf("one insertion moved %d slots", c.x.moved-moved)
		}
		if j := i / 2; c.Lookup(new(key(j)), new(key(j)).Hash(0)) == nil {
			t.Fatalf("flow %d is lost after %d insertions", j, i)
		}
	}
	if growths != 6 {
		t.Errorf("the index grew %d times, want 6 from %d to %d flows", growths, firstFlows, 1<<16)
	}
}

// What a flood has filled goes back to the system, and can be used again.
func TestCacheGivesMemoryBack(t *testing.T) {
	const n = 300_000 // 37 MiB
	c := NewCache(n)
	defer c.Close()
	for range 2 {
		for i := range n {
			k := key(i)
			f := c.Insert(&k, k.Hash(0))
			if *f != (Flow{Key: k}) {
				t.Fatalf("new flow is not zero: %+v", *f)
			}
			f.Gen, f.Conn = 1, 1
		}
		full := c.mem.done
		for c.Len() > 1000 {
			c.Sweep(50_000, func(f *Flow) bool { return f.Key.SrcPort < 100 && f.Key.Src[15] == 0 && f.Key.Src[14] == 0 })
		}
		for range 20 {
			c.Sweep(0, nil)
		}
		if runtime.GOOS == "linux" && c.mem.raw != nil && c.mem.done > full/4 {
			t.Errorf("%d bytes of %d are still held for %d flows", c.mem.done, full, c.Len())
		}
		for c.Len() > 0 {
			c.Sweep(50_000, func(*Flow) bool { return false })
		}
	}
}

func TestCacheAllocatesNothing(t *testing.T) {
	c := NewCache(1 << 12)
	defer c.Close()
	var ps [packet.BatchSize]packet.Packet
	var out [packet.BatchSize]*Flow
	n := 0
	got := testing.AllocsPerRun(2000, func() {
		for i := range ps {
			ps[i].Tuple = key(n + i)
			ps[i].Hash = ps[i].Tuple.Hash(0)
		}
		c.LookupBatch(ps[:], out[:])
		f := c.Insert(&ps[0].Tuple, ps[0].Hash)
		c.Insert(&ps[1].Tuple, ps[1].Hash)
		c.Insert(&ps[2].Tuple, ps[2].Hash)
		c.Delete(f)
		c.Sweep(8, func(f *Flow) bool { return f.Key.Proto == packet.ProtoTCP })
		n += 3
	})
	// Growing maps a new table, a dozen times in the life of a cache.
	if got > 0 {
		t.Errorf("%v allocations a batch", got)
	}
}
