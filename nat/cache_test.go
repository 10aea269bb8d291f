package nat

import (
	"encoding/binary"
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
	c := NewCache(1)
	defer c.Close()
	k := key(1)
	if p := uintptr(unsafe.Pointer(c.Insert(&k, 1))); p%FlowSize != 0 {
		t.Errorf("flow at %#x is not aligned to its size", p)
	}
}

// TestCacheSet: a flow is what was decided, in both families, also after it has
// moved, and counts from then on.
func TestCacheSet(t *testing.T) {
	c := NewCache(256)
	defer c.Close()
	decided := func(i int) (d Decision) {
		from, to := key(i), key(i+1000) // of one family
		d = Decision{Gen: uint32(i + 1), Exit: Exit{Out: uint16(i), Peer: 2, MTU: 1450, MAC: [6]byte{1, 2, 3, 4, 5, byte(i)}}}
		d.Translate(&from, &to)
		d.SetConn(makeID(3, uint32(i)), Dir(i&1))
		return d
	}
	const n = 100
	for range 2 { // anew, and again
		for i := range n {
			k, d := key(i), decided(i)
			f := c.Insert(&k, k.Hash(7))
			f.Count(1, 1)
			c.Set(f, &d, 0)
			if f.LastSeen != ^uint32(0) || f.Counted() {
				t.Errorf("flow %d: last seen %d, counted %t", i, f.LastSeen, f.Counted())
			}
			f.Count(3, 200)
			f.Count(45, 65000)
		}
	}
	gone := func(f *Flow) bool { return f.Out < n/2 }
	for c.Len() > n/2 {
		c.Sweep(n, func(f *Flow) bool { return !gone(f) })
	}
	for i := range n {
		k, d := key(i), decided(i)
		f := c.Lookup(&k, k.Hash(7))
		if (f == nil) != (i < n/2) {
			t.Fatalf("flow %d: %v", i, f)
		}
		if f == nil {
			continue
		}
		if exit := f.Exit; f.Gen != d.Gen || exit.Flags&^inWide != d.Flags || exit.Out != d.Out || exit.Peer != 2 || exit.MTU != 1450 || exit.MAC != d.MAC {
			t.Errorf("flow %d: generation %d, %+v, want %+v", i, f.Gen, exit, d)
		}
		if got := c.Translation(f); got != d.Translation {
			t.Errorf("flow %d: %+v, want %+v", i, got, d.Translation)
		}
		if f.Dir() != Dir(i&1) || c.Conn(f) != d.Conn {
			t.Errorf("flow %d: %v of %v, want %v of %v", i, f.Dir(), c.Conn(f), Dir(i&1), d.Conn)
		}
		if packets, bytes := f.Drain(); packets != 48 || bytes != 65200 || f.Counted() {
			t.Errorf("flow %d counted %d packets of %d bytes, want 48 of 65200", i, packets, bytes)
		}
	}
}

// TestCacheFamilies: tuples that differ in what IPv4 does not have are not one flow.
func TestCacheFamilies(t *testing.T) {
	c := NewCache(256)
	defer c.Close()
	four := v4(packet.ProtoTCP, [4]byte{10, 0, 0, 1}, 1, [4]byte{10, 0, 0, 2}, 2)
	tuples := []packet.Tuple{four}
	for _, change := range []func(*packet.Tuple){
		func(t *packet.Tuple) { t.Src[0], t.Dst[0] = 0xfd, 0xfd },
		func(t *packet.Tuple) { t.Src[0], t.Dst[0], t.Dst[9] = 0xfd, 0xfd, 1 },
		func(t *packet.Tuple) { t.Src[0], t.Dst[0], t.Src[11] = 0xfd, 0xfd, 1 },
		func(t *packet.Tuple) { t.Src[10], t.Dst[10] = 0, 0 },
		func(t *packet.Tuple) { t.Flags = packet.Routed },
		func(t *packet.Tuple) { t.In = packet.PeerBase },
		func(t *packet.Tuple) { t.Proto = packet.ProtoUDP },
	} {
		k := four
		change(&k)
		tuples = append(tuples, k)
	}
	for i := range tuples {
		c.Insert(&tuples[i], 1).Gen = uint32(i) // all with one hash
	}
	if c.Len() != len(tuples) {
		t.Errorf("%d flows, want %d", c.Len(), len(tuples))
	}
	for i := range tuples {
		if f := c.Lookup(&tuples[i], 1); f == nil || f.Gen != uint32(i) {
			t.Errorf("%v: %+v, want flow %d", tuples[i], f, i)
		}
	}
}

// keyOf returns the tuple of a flow.
func (c *Cache) keyOf(f *Flow) (t packet.Tuple) {
	*(*uint64)(unsafe.Pointer(&t.SrcPort)) = f.key.rest
	if f.Flags&inWide != 0 {
		w := c.wides[c.entry(f)]
		t.Src, t.Dst = w.src, w.dst
		return t
	}
	var src, dst [4]byte
	binary.NativeEndian.PutUint32(src[:], uint32(f.key.addrs>>32))
	binary.NativeEndian.PutUint32(dst[:], uint32(f.key.addrs))
	t.Src, t.Dst = addr4(src), addr4(dst)
	return t
}

// isNew reports whether a flow is as Insert makes it.
func (c *Cache) isNew(f *Flow, key *packet.Tuple) bool {
	old := Flow{key: f.key}
	if !key.Is4() {
		old.Flags = inWide
	}
	return *f == old && c.keyOf(f) == *key && c.Conn(f) == 0
}

func TestTranslate(t *testing.T) {
	from := v4(packet.ProtoUDP, [4]byte{10, 0, 0, 1}, 1000, [4]byte{10, 96, 0, 10}, 53)
	to := v4(packet.ProtoUDP, [4]byte{10, 0, 0, 1}, 1000, [4]byte{10, 0, 0, 7}, 5353)
	var f Decision
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
	k := m.c.keyOf(f)
	if gen, ok := m.m[k]; !ok || gen != f.Gen {
		m.t.Fatalf("flow %v with %d is given up; the model has %d, %v", k, f.Gen, gen, ok)
	}
	delete(m.m, k)
}

func (m *cacheModel) insert(k packet.Tuple, gen uint32) {
	had, ok := m.m[k]
	f := m.c.Insert(&k, m.hash(&k))
	if ok && f.Gen != had || !ok && !m.c.isNew(f, &k) {
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
		if ok != (out[i] != nil) || ok && (m.c.keyOf(out[i]) != k || out[i].Gen != gen) {
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
	six := 0
	for k := range m.m {
		if !k.Is4() {
			six++
		}
	}
	if int(c.six) != six {
		m.t.Fatalf("%d flows of IPv6, want %d", c.six, six)
	}
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
		if f.Flags&hole != 0 {
			holes++
			if refs[i] != 0 {
				m.t.Fatalf("hole %d is in the index", i)
			}
			continue
		}
		if refs[i] != 1 {
			m.t.Fatalf("flow %d is in the index %d times", i, refs[i])
		}
		if k := c.keyOf(f); c.x.tags[i] != uint32(m.hash(&k)) {
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
		if f == nil || c.keyOf(f) != ps[i].Tuple {
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
	f.Count(5, 0)
	if g := c.Insert(&k, 7); g != f || !g.Counted() || c.Len() != 1 {
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
	const n = 600_000 // 37 MiB
	c := NewCache(n)
	defer c.Close()
	for range 2 {
		for i := range n {
			k := key(i)
			f := c.Insert(&k, k.Hash(0))
			if !c.isNew(f, &k) {
				t.Fatalf("new flow is not zero: %+v", *f)
			}
			f.Gen = 1
		}
		full := []int{c.mem.done, c.connMem.done, c.wideMem.done}
		for c.Len() > 1000 {
			c.Sweep(50_000, func(f *Flow) bool { k := c.keyOf(f); return k.SrcPort < 100 && k.Src[15] == 0 && k.Src[14] == 0 })
		}
		for range 20 {
			c.Sweep(0, nil)
		}
		for i, r := range []*region{c.mem, c.connMem, c.wideMem} {
			if runtime.GOOS == "linux" && r.raw != nil && r.done > full[i]/4 && r.done > 3*hugePage {
				t.Errorf("region %d: %d bytes of %d are still held for %d flows", i, r.done, full[i], c.Len())
			}
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
		c.Sweep(8, func(f *Flow) bool { return c.keyOf(f).Proto == packet.ProtoTCP })
		n += 3
	})
	// Growing maps a new table, a dozen times in the life of a cache.
	if got > 0 {
		t.Errorf("%v allocations a batch", got)
	}
}
