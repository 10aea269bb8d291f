package overlay

import (
	"net/netip"
	"testing"

	"vswitch/vswitch/packet"
)

// pair returns two links on loopback that know each other, and their ids.
func pair(t testing.TB, change func(*Config)) (a, b *Link, idB, idA uint16) {
	t.Helper()
	cfg := Config{Local: netip.MustParseAddrPort("127.0.0.1:0"), VNI: 1, MTU: 1450, Offload: true}
	if change != nil {
		change(&cfg)
	}
	var links [2]*Link
	for i := range links {
		l, err := Listen(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		links[i] = l
	}
	a, b = links[0], links[1]
	var err error
	if idB, err = a.AddPeer(Peer{Name: "b", Addr: b.LocalAddr(), SourcePorts: b.SourcePorts()}); err != nil {
		t.Fatal(err)
	}
	if idA, err = b.AddPeer(Peer{Name: "a", Addr: a.LocalAddr(), SourcePorts: a.SourcePorts()}); err != nil {
		t.Fatal(err)
	}
	return a, b, idB, idA
}

// BenchmarkTransfer sends n packets of one kind at a time and reads them at the
// other end, on one thread.
func BenchmarkTransfer(b *testing.B) {
	small := udp4(22)
	ack := tcp4(0)
	big := udp4(1400)
	super := tcp4(44 * 1398)
	super6 := tcp6(44 * 1378)
	for _, c := range []struct {
		name    string
		f       *frame
		size, n int
		spread  bool
		sizes   bool
	}{
		{"super", &super, 1398, 1, false, false},
		{"super6", &super6, 1378, 1, false, false},
		{"super_x4", &super, 1398, 4, false, false},
		{"small_x1", &small, 0, 1, false, false},
		{"small_x32", &small, 0, 32, false, false},
		{"small_x32_unequal", &small, 0, 32, false, true},
		{"small_x32_flows", &small, 0, 32, true, false},
		{"ack_x32", &ack, 0, 32, false, false},
		{"full_x32", &big, 0, 32, false, false},
	} {
		b.Run(c.name, func(b *testing.B) {
			tx, rx, id, _ := pair(b, nil)
			out, in := packet.NewBatch(), packet.NewBatch()
			var idx []uint16
			bytes := 0
			for i := range c.n {
				f := *c.f
				if c.sizes {
					f.payload = f.payload[:len(f.payload)-i%2]
				}
				p := f.append(out, c.size)
				p.Peer = id
				if c.spread {
					p.Hash = uint64(i) << 62
				}
				idx = append(idx, uint16(i))
				bytes += int(p.Len)
			}
			sizes := make([]int, c.n)
			_ = sizes
			want := 0
			for i := range out.Packets {
				want += out.Packets[i].Segments()
			}
			b.SetBytes(int64(bytes))
			b.ReportAllocs()
			for b.Loop() {
				if n, err := tx.Write(out, idx); n != len(idx) || err != nil {
					b.Fatal(n, err, tx.Drops())
				}
				got := 0
				for got < want {
					n, err := rx.Read(in, packet.BatchSize)
					if err != nil {
						b.Fatal(err)
					}
					for i := range in.Packets[:n] {
						got += in.Packets[i].Segments()
					}
					in.Reset()
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(c.n), "ns/packet")
		})
	}
}
