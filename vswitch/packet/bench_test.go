package packet

import (
	"fmt"
	"testing"
)

// trainOf lays n full segments of s out as UDP_GRO delivers them.
func trainOf(t testing.TB, b *Batch, s frameSpec, n, size int) (off, stride, length int) {
	return layOut(t, b, framesOf(t, stream(s, n, size)))
}

// TestNoAllocations covers all that is done to a packet on its way.
func TestNoAllocations(t *testing.T) {
	b := NewBatch()
	scratch := make([]byte, 4096)
	var hdr [MaxHeader]byte
	sent := 0
	for _, v6 := range []bool{false, true} {
		s := tcp(v6, pattern(61512))
		from, to := s.tuple(), targets(s)["all"].tuple()
		tr, back := Translate(&from, &to), Translate(&to, &from)
		b.Reset()
		super := s.addGSO(t, b, 1398, 0)
		small := udp(v6, pattern(100)).addPartial(t, b)
		syn := syn(v6, 9000, 1).add(t, b)
		echo := rewritten(v6)["echo/8"].add(t, b)
		sctp := rewritten(v6)["sctp"].add(t, b)
		fragmented := udp(false, pattern(4000))
		fragmented.ipFlags = 0
		big := fragmented.add(t, b)
		train := NewBatch()
		off, stride, n := trainOf(t, train, s, 44, 1398)
		cause := icmpErrorFrame(t, s.src, s.dst, s.frame(t), 100)
		reply := b.Append(cause)
		b.Parse(reply)
		check := func(name string, f func()) {
			t.Helper()
			if n := testing.AllocsPerRun(20, f); n != 0 {
				t.Errorf("v6=%v %s: %v allocations", v6, name, n)
			}
		}
		check("parse", func() {
			for i := range b.Packets {
				b.Parse(&b.Packets[i])
				sink += b.Packets[i].Tuple.Hash(1)
			}
		})
		check("rewrite", func() {
			for _, p := range []*Packet{super, small, echo, sctp} {
				b.Rewrite(p, &tr)
				b.Rewrite(p, &back)
			}
		})
		check("headers", func() {
			b.SetEthernet(super, &macA, &macB)
			b.DecrementTTL(super)
			b.ClampMSS(syn, 1400)
		})
		check("errors", func() {
			tuple, _ := b.ErrorTuple(reply)
			b.RewriteError(reply, &tuple.Src, &tuple.Dst, &tuple)
		})
		check("cut", func() {
			c := b.Cut(super, false)
			for {
				if _, _, ok := c.Next(hdr[:]); !ok {
					break
				}
				sent++
			}
		})
		check("each", func() { b.Each(super, scratch, func(f []byte) { sent += len(f) }) })
		check("complete", func() {
			small.Flags = NeedsCsum
			b.Complete(small)
			for _, p := range []*Packet{small, echo, sctp} {
				p.Flags = 0
				b.VerifyTransport(p)
			}
		})
		check("fragments", func() {
			it := b.Fragments(big, 1400)
			for {
				if _, ok := it.Next(scratch); !ok {
					break
				}
			}
		})
		check("coalesce", func() {
			train.Reset()
			train.AddTrain(off, stride, n, len(tunnel), TrainOptions{Verify: true})
			train.Linearize(&train.Packets[0])
		})
	}
}

func families(b *testing.B, f func(b *testing.B, v6 bool)) {
	for _, v6 := range []bool{false, true} {
		b.Run(map[bool]string{false: "v4", true: "v6"}[v6], func(b *testing.B) {
			b.ReportAllocs()
			f(b, v6)
		})
	}
}

func BenchmarkParse(b *testing.B) {
	families(b, func(b *testing.B, v6 bool) {
		batch := NewBatch()
		for range 32 {
			tcp(v6, pattern(64)).add(b, batch)
		}
		for b.Loop() {
			for i := range batch.Packets {
				batch.Parse(&batch.Packets[i])
			}
		}
		perItem(b, 32, "packet")
	})
}

func BenchmarkHash(b *testing.B) {
	t := tcp(false, nil).tuple()
	for b.Loop() {
		sink += t.Hash(sink)
	}
}

func BenchmarkRewrite(b *testing.B) {
	for _, proto := range []string{"tcp", "udp", "echo/8", "sctp/empty", "sctp"} {
		b.Run(proto, func(b *testing.B) {
			families(b, func(b *testing.B, v6 bool) {
				batch := NewBatch()
				s := rewritten(v6)[proto]
				p := s.add(b, batch)
				batch.Parse(p)
				from, to := s.tuple(), targets(s)["all"].tuple()
				tr, back := Translate(&from, &to), Translate(&to, &from)
				for b.Loop() {
					batch.Rewrite(p, &tr)
					batch.Rewrite(p, &back)
				}
				perItem(b, 2, "packet")
			})
		})
	}
}

// BenchmarkCut cuts a superpacket that fills one UDP_SEGMENT send.
func BenchmarkCut(b *testing.B) {
	for _, partial := range []bool{false, true} {
		b.Run(fmt.Sprintf("partial=%v", partial), func(b *testing.B) {
			families(b, func(b *testing.B, v6 bool) {
				batch := NewBatch()
				s := tcp(v6, pattern(44*1398))
				p := s.addGSO(b, batch, 1398, 0)
				var hdr [44][MaxHeader]byte
				b.SetBytes(int64(p.Len))
				for b.Loop() {
					c := batch.Cut(p, partial)
					for i := 0; ; i++ {
						if _, _, ok := c.Next(hdr[i%44][:]); !ok {
							break
						}
					}
				}
				perItem(b, 44, "segment")
			})
		})
	}
}

func BenchmarkEach(b *testing.B) {
	families(b, func(b *testing.B, v6 bool) {
		batch := NewBatch()
		p := tcp(v6, pattern(44*1398)).addGSO(b, batch, 1398, 0)
		scratch := make([]byte, 2048)
		b.SetBytes(int64(p.Len))
		for b.Loop() {
			batch.Each(p, scratch, func(f []byte) { sink += uint64(f[0]) })
		}
		perItem(b, 44, "segment")
	})
}

func BenchmarkAddTrain(b *testing.B) {
	for _, verify := range []bool{false, true} {
		b.Run(fmt.Sprintf("verify=%v", verify), func(b *testing.B) {
			families(b, func(b *testing.B, v6 bool) {
				batch := NewBatch()
				off, stride, n := trainOf(b, batch, tcp(v6, nil), 44, 1398)
				head := append([]byte(nil), batch.Buf[off:off+stride]...)
				b.SetBytes(int64(n))
				for b.Loop() {
					copy(batch.Buf[off:], head[:128]) // the last round rewrote it
					batch.Reset()
					batch.AddTrain(off, stride, n, len(tunnel), TrainOptions{Verify: verify})
				}
				if len(batch.Packets) != 1 {
					b.Fatalf("%d packets", len(batch.Packets))
				}
				perItem(b, 44, "segment")
			})
		})
	}
}

func BenchmarkLinearize(b *testing.B) {
	batch := NewBatch()
	p := tcp(false, pattern(44*1398)).addGSO(b, batch, 1398, 74)
	b.SetBytes(int64(p.Len))
	for b.Loop() {
		p.Stride = 1398 + 74
		batch.Linearize(p)
	}
}

func BenchmarkComplete(b *testing.B) {
	for _, n := range []int{0, 1400} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			batch := NewBatch()
			p := udp(false, pattern(n)).addPartial(b, batch)
			for b.Loop() {
				p.Flags = NeedsCsum
				batch.Complete(p)
			}
		})
	}
}

func BenchmarkHeaders(b *testing.B) {
	batch := NewBatch()
	p := syn(false, 1300, 1).add(b, batch)
	batch.Parse(p)
	b.Run("DecrementTTL", func(b *testing.B) {
		for b.Loop() {
			batch.Buf[p.Off+EthernetLen+8] = 64
			batch.DecrementTTL(p)
		}
	})
	b.Run("SetEthernet", func(b *testing.B) {
		for b.Loop() {
			batch.SetEthernet(p, &macA, &macB)
		}
	})
	b.Run("ClampMSS", func(b *testing.B) {
		for b.Loop() {
			batch.ClampMSS(p, 1400)
		}
	})
}

// perItem reports the time of one of the n items that an iteration handles.
func perItem(b *testing.B, n int, unit string) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/"+unit)
}
