package port_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
	"vswitch/vswitch/port/porttest"
)

// superTCP appends a TCP superpacket of n bytes in segments of 1448 to b.
func superTCP(b *packet.Batch, n int) *packet.Packet {
	f := make([]byte, n)
	f[12] = 8
	copy(f, porttest.PeerMAC[:])
	copy(f[6:], porttest.PortMAC[:])
	ip := f[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], []byte{10, 99, 0, 2, 10, 99, 0, 1})
	ip[20+12], ip[20+13] = 8<<4, 0x10
	p := b.Append(f)
	p.GSO, p.GSOSize, p.HdrLen = packet.GSOTCPv4, 1448, 66
	p.Flags, p.CsumStart, p.CsumOffset = packet.NeedsCsum, 34, 16
	return p
}

// superTrain appends the same as a train.
func superTrain(b *packet.Batch, n int) *packet.Packet {
	p := superTCP(b, n)
	p.Stride = 1448 + 66 + 50
	b.Take(int(p.Off) + 66 + p.Segments()*int(p.Stride))
	return p
}

// frameOf appends a packet as the benchmarks name them.
func frameOf(b *packet.Batch, size string) *packet.Packet {
	switch size {
	case "64":
		return b.Append(testUDP(64))
	case "1500":
		return b.Append(testUDP(1514))
	case "64K":
		return superTCP(b, packet.MaxFrame)
	}
	return superTrain(b, 66+44*1448)
}

func TestTAPAllocs(t *testing.T) {
	p, peer := openTAP(t, 1500)
	tap, s := p.(*port.TAP), peer.(tapPeer)
	defer tap.Close()
	defer s.Close()
	in, out := packet.NewBatch(), packet.NewBatch()
	idx := []uint16{0, 1, 2, 3}
	for _, size := range []string{"64", "1500", "64K", "train"} {
		out.Reset()
		for range idx {
			frameOf(out, size)
		}
		if allocs := testing.AllocsPerRun(100, func() {
			if n, err := tap.Write(out, idx); n != len(idx) || err != nil {
				t.Fatal(n, err, tap.Stats())
			}
		}); allocs != 0 {
			t.Errorf("Write %s: %v allocations, want 0", size, allocs)
		}
	}
	raw := append(make([]byte, vnetLen), testUDP(1000)...)
	if allocs := testing.AllocsPerRun(100, func() {
		if err := s.raw(raw); err != nil {
			t.Fatal(err)
		}
		in.Reset()
		if n, err := tap.Read(in, 4); n < 1 || err != nil {
			t.Fatal(n, err)
		}
	}); allocs != 0 {
		t.Errorf("Read: %v allocations, want 0", allocs)
	}
}

// BenchmarkTAPWrite includes what the kernel does to receive a frame that is
// for another host.
func BenchmarkTAPWrite(b *testing.B) {
	for _, size := range []string{"64", "1500", "64K", "train"} {
		b.Run(size, func(b *testing.B) {
			tap := mustTAP(b, port.TAPConfig{Name: deviceName("tap"), MTU: 1500})
			setFlags(b, tap.Name(), unix.IFF_UP)
			batch := packet.NewBatch()
			idx := []uint16{0, 1, 2, 3}
			var p *packet.Packet
			for range idx {
				p = frameOf(batch, size)
			}
			b.SetBytes(int64(p.Len))
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += len(idx) {
				if n, err := tap.Write(batch, idx); n != len(idx) || err != nil {
					b.Fatal(n, err, tap.Stats())
				}
			}
		})
	}
}

// BenchmarkTAPRead reads frames that wait, as a busy port does.
func BenchmarkTAPRead(b *testing.B) {
	for _, size := range []string{"64", "1500", "64K"} {
		b.Run(size, func(b *testing.B) {
			tap := mustTAP(b, port.TAPConfig{Name: deviceName("tap"), MTU: 1500})
			s := newSocketPeer(b, tap.Name(), false, deviceCaps)
			defer s.Close()
			batch := packet.NewBatch()
			p := frameOf(batch, size)
			f := porttest.Frame{Data: bytes.Clone(batch.Frame(p)), Meta: *p}
			b.SetBytes(int64(len(f.Data)))
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; {
				b.StopTimer()
				n := min(500, b.N-done)
				for range n {
					if err := s.Send(f); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
				for got := 0; got < n; {
					batch.Reset()
					k, err := tap.Read(batch, packet.BatchSize)
					if k == 0 || err != nil {
						b.Fatalf("%d of %d frames, %v", got, n, err)
					}
					got += k
				}
				done += n
			}
		})
	}
}
