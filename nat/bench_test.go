package nat

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"testing"

	"vswitch/vswitch/packet"
)

// set writes number i into a tuple in the cheapest way, so that benchmarks
// measure the tables.
func set(t *packet.Tuple, i uint32) {
	binary.LittleEndian.PutUint32(t.Src[12:], i)
}

func base() packet.Tuple {
	return v4(packet.ProtoTCP, [4]byte{}, 4000, [4]byte{10, 0, 0, 1}, 80)
}

// order returns the numbers below n in an order that no prefetcher guesses.
func order(n int) []uint32 {
	o := make([]uint32, n)
	x := uint32(1)
	for i := range o {
		o[i] = uint32(i)
	}
	for i := n - 1; i > 0; i-- {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		j := int(x % uint32(i+1))
		o[i], o[j] = o[j], o[i]
	}
	return o
}

type batchBench struct {
	c      *Cache
	ps     [packet.BatchSize]packet.Packet
	out    [packet.BatchSize]*Flow
	order  []uint32
	hashes []uint64
	at     int
}

func newBatchBench(flows int, miss bool) *batchBench {
	b := &batchBench{c: NewCache(max(flows, 1024)), order: order(flows)}
	b.hashes = make([]uint64, flows)
	t := base()
	for i := range flows {
		set(&t, uint32(i))
		b.c.Insert(&t, t.Hash(1)).Gen = 1
	}
	for i := range b.order {
		if miss {
			b.order[i] += uint32(flows)
		}
		set(&t, b.order[i])
		b.hashes[i] = t.Hash(1)
	}
	for i := range b.ps {
		b.ps[i].Tuple = t
	}
	return b
}

// fill is what a parser would have done: a new packet in each descriptor.
func (b *batchBench) fill(n int) {
	for i := range n {
		p := &b.ps[i]
		set(&p.Tuple, b.order[b.at])
		p.Hash = b.hashes[b.at]
		if b.at++; b.at == len(b.order) {
			b.at = 0
		}
	}
}

var flowCounts = []int{1, 1000, 100_000, 1_000_000}

// BenchmarkCacheBatch is a batch's lookup, by packet. "fill" is what the
// benchmark itself costs: subtract it.
func BenchmarkCacheBatch(b *testing.B) {
	for _, what := range []string{"fill", "hit", "miss"} {
		for _, n := range flowCounts {
			for _, size := range []int{32, 64} {
				b.Run(fmt.Sprintf("%s/%d/batch%d", what, n, size), func(b *testing.B) {
					bb := newBatchBench(n, what == "miss")
					defer bb.c.Close()
					b.ReportAllocs()
					b.ResetTimer()
					for i := 0; i < b.N; i += size {
						bb.fill(size)
						if what != "fill" {
							bb.c.LookupBatch(bb.ps[:size], bb.out[:])
							for _, f := range bb.out[:size] {
								if (f == nil) != (what == "miss") {
									b.Fatal("wrong answer")
								}
							}
						}
					}
				})
			}
		}
	}
}

func BenchmarkCacheSingle(b *testing.B) {
	for _, what := range []string{"hit", "miss"} {
		for _, n := range flowCounts {
			b.Run(fmt.Sprintf("%s/%d", what, n), func(b *testing.B) {
				bb := newBatchBench(n, what == "miss")
				defer bb.c.Close()
				p := &bb.ps[0]
				b.ReportAllocs()
				b.ResetTimer()
				for range b.N {
					bb.fill(1)
					if f := bb.c.Lookup(&p.Tuple, p.Hash); (f == nil) != (what == "miss") {
						b.Fatal("wrong answer")
					}
				}
			})
		}
	}
}

// BenchmarkCacheInsert fills a cache from nothing to n flows, growth included,
// or replaces flows of a full one.
func BenchmarkCacheInsert(b *testing.B) {
	for _, n := range []int{1000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("grow/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			t := base()
			var c *Cache
			for i := range b.N {
				if i%n == 0 {
					b.StopTimer()
					if c != nil {
						c.Close()
					}
					c = NewCache(n)
					b.StartTimer()
				}
				set(&t, uint32(i))
				c.Insert(&t, t.Hash(1)).Gen = 1
			}
			c.Close()
		})
		b.Run(fmt.Sprintf("evict/%d", n), func(b *testing.B) {
			bb := newBatchBench(n, false)
			defer bb.c.Close()
			t := base()
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				set(&t, uint32(n+i))
				bb.c.Insert(&t, t.Hash(1)).LastSeen = uint32(i)
			}
		})
	}
}

func BenchmarkCacheSweep(b *testing.B) {
	bb := newBatchBench(1_000_000, false)
	defer bb.c.Close()
	b.ResetTimer()
	bb.c.Sweep(b.N, func(f *Flow) bool { return f.Gen != 0 })
}

// fullTable has n connections.
func fullTable(b *testing.B, cfg Config, n int) *Table {
	tab := open(b, cfg)
	t := base()
	for i := range n {
		set(&t, uint32(i))
		if _, err := tab.Create(&t, 1); err != nil {
			b.Fatal(err)
		}
	}
	return tab
}

func BenchmarkTableLookup(b *testing.B) {
	for _, n := range []int{1000, 100_000, 1_000_000} {
		o := order(n)
		for _, what := range []string{"hit", "reply", "miss"} {
			b.Run(fmt.Sprintf("%s/%d", what, n), func(b *testing.B) {
				tab := fullTable(b, Config{Max: n}, n)
				t := base()
				if what == "miss" {
					t.SrcPort++
				}
				b.ReportAllocs()
				b.ResetTimer()
				for i := range b.N {
					set(&t, o[i%n])
					k := t
					if what == "reply" {
						k = t.Reverse()
					}
					if _, _, ok := tab.Lookup(&k); ok != (what != "miss") {
						b.Fatal("wrong answer")
					}
				}
			})
		}
	}
}

// BenchmarkTableCreate makes connections from an empty table to n of them.
func BenchmarkTableCreate(b *testing.B) {
	for _, where := range []string{"memory", "file"} {
		for _, n := range []int{1000, 100_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s/%d", where, n), func(b *testing.B) {
				b.ReportAllocs()
				t := base()
				var tab *Table
				dir := b.TempDir()
				for i := range b.N {
					if i%n == 0 {
						b.StopTimer()
						cfg := Config{Max: n}
						if where == "file" {
							cfg.Path = filepath.Join(dir, fmt.Sprint(i))
						}
						if tab != nil {
							tab.Close()
						}
						var err error
						if tab, err = Open(cfg); err != nil {
							b.Fatal(err)
						}
						b.StartTimer()
					}
					set(&t, uint32(i))
					if _, err := tab.Create(&t, 1); err != nil {
						b.Fatal(err)
					}
				}
				tab.Close()
			})
		}
	}
}

// BenchmarkTableChurn is a connection's whole life at a steady number of
// connections: made, tracked through its handshake and its end, and expired.
func BenchmarkTableChurn(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			tab := open(b, Config{Max: n + n/4})
			t := base()
			step := func(i int) {
				now := uint32(1 + i/(n/120)) // n of them end in TIME_WAIT
				set(&t, uint32(i))
				id, err := tab.Create(&t, now)
				if err != nil {
					b.Fatal(err)
				}
				tab.Track(id, Original, packet.TCPSyn, now)
				tab.Track(id, Reply, packet.TCPSyn|packet.TCPAck, now)
				tab.Touch(id, Original, now, 1, 60)
				tab.Track(id, Original, packet.TCPFin|packet.TCPAck, now)
				tab.Track(id, Reply, packet.TCPFin|packet.TCPAck, now)
			}
			for i := range n + n/10 {
				step(i)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				step(n + n/10 + i)
			}
			b.ReportMetric(float64(tab.Len()), "conns")
		})
	}
}

// BenchmarkTableFull makes connections in a full table of which none was answered.
func BenchmarkTableFull(b *testing.B) {
	const n = 1_000_000
	tab := fullTable(b, Config{Max: n}, n)
	t := base()
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		set(&t, uint32(n+i))
		if _, err := tab.Create(&t, 1); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTableTouch(b *testing.B) {
	for _, n := range []int{1000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			tab := open(b, Config{Max: n})
			t := base()
			ids := make([]ID, n)
			for i := range ids {
				set(&t, uint32(i))
				ids[i], _ = tab.Create(&t, 1)
				tab.Track(ids[i], Original, packet.TCPSyn, 1)
				tab.Track(ids[i], Reply, packet.TCPSyn|packet.TCPAck, 1)
				tab.Track(ids[i], Original, packet.TCPAck, 1)
			}
			o := order(n)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				tab.Touch(ids[o[i%n]], Original, uint32(2+i/n), 10, 10000)
			}
		})
	}
}

func BenchmarkTableExpireIdle(b *testing.B) {
	tab := fullTable(b, Config{Max: 1 << 20}, 1<<20)
	b.ResetTimer()
	for range b.N {
		tab.Expire(1)
	}
}

func BenchmarkTableDeleteByAddr(b *testing.B) {
	tab := fullTable(b, Config{Max: 1 << 20}, 1<<20)
	b.ResetTimer()
	for range b.N {
		tab.DeleteByAddr(packet.Addr{1})
	}
}

func BenchmarkTableOpen(b *testing.B) {
	cfg := Config{Path: filepath.Join(b.TempDir(), "conntrack"), Max: 1 << 20}
	tab := fullTable(b, cfg, 1<<20)
	tab.Close()
	b.ResetTimer()
	for range b.N {
		tab, err := Open(cfg)
		if err != nil || tab.Len() != 1<<20 {
			b.Fatal(err, tab.Len())
		}
		tab.Close()
	}
}
