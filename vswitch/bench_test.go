package vswitch

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"vswitch/overlay"
	"vswitch/vswitch/fib"
	"vswitch/vswitch/packet"
)

// source is a port that delivers 64-byte UDP packets of a number of flows, in
// an order that caches cannot guess, made as cheaply as possible: what it costs is
// part of what is measured.
type source struct {
	frame [64]byte
	flows uint32
	next  uint32
	made  uint32
	left  int
	// targets are services to send to; none: flows differ by their ports only.
	targets targets
	// fresh: no flow comes again.
	fresh bool
}

func (s *source) Read(b *packet.Batch, limit int) (int, error) {
	n := min(limit, s.left, packet.BatchSize)
	for range n {
		off := b.Next()
		f := (*[64]byte)(b.Buf[off:])
		*f = s.frame
		// A generator of full period, whose high bits choose; a division would
		// take longer than a part of what is measured.
		s.next = s.next*1664525 + 1013904223
		flow := uint32(uint64(s.next) * uint64(s.flows) >> 32)
		if s.fresh {
			// An odd factor: every flow of a power of two once.
			s.made++
			flow = s.made * 0x9e3779b1 & (s.flows - 1)
		}
		if s.targets.n > 0 {
			s.put(f, flow)
		} else {
			binary.BigEndian.PutUint32(f[34:], flow<<16|(flow>>16+1))
		}
		b.Add(off, len(f))
	}
	s.left -= n
	return n, nil
}

func (s *source) Write(_ *packet.Batch, idx []uint16) (int, error) { return len(idx), nil }
func (s *source) MTU() int                                         { return 1450 }
func (s *source) Close() error                                     { return nil }
func (s *source) Notify(func())                                    {}

// sink is an overlay that encapsulates and then forgets.
type sink struct{ source }

func (s *sink) Write(b *packet.Batch, idx []uint16) (int, error) {
	for _, i := range idx {
		p := &b.Packets[i]
		overlay.PutHeader(b.Buf[p.Off-overlay.HeaderLen:], 1)
	}
	return len(idx), nil
}

// pipeline is a switch between a source and a sink.
func pipeline(b testing.TB, flows int) (*worker, *attached, *source) {
	sw, err := New(Config{Inline: true, MaxFlows: max(2*flows, 4096)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { sw.Close(); sw.Conns().Close() })
	src := &source{flows: uint32(flows), frame: [64]byte(build(b, macGW, macA, podA, remote, udp(), 22))}
	in, err := sw.Attach("a", src)
	if err != nil {
		b.Fatal(err)
	}
	out, err := sw.Attach("overlay", &sink{})
	if err != nil {
		b.Fatal(err)
	}
	t := &Tables{Node: "node1", GatewayMAC: macGW, VTEPMAC: macVTEP, Gateway4: addr(gw4), Ports: make([]*PortInfo, 4)}
	t.Ports[in] = &PortInfo{Kind: PortPod, Name: "a", MAC: macA, MTU: 1450, Addrs: []packet.Addr{addr(podA)}}
	t.Ports[out] = &PortInfo{Kind: PortOverlay, Name: "overlay", MTU: 1450}
	t.Routes = t.Routes.Insert(netip.MustParsePrefix("10.244.2.0/24"),
		&fib.Hop{Kind: fib.Peer, Port: out, Peer: 1, MTU: 1450, MAC: macPeer, Name: "node2"})
	sw.Publish(t)
	return sw.workers[0], sw.port(in), src
}

// pump takes n packets through the switch.
func pump(w *worker, a *attached, src *source, n int) {
	a.budget = packet.BatchSize
	for src.left = n; src.left > 0; {
		w.serve(a)
	}
}

// BenchmarkKnownFlow: parse, look up, rewrite, encapsulate 64-byte packets of
// flows that are known, a packet each.
func BenchmarkKnownFlow(b *testing.B) {
	for _, flows := range []int{1, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
			w, a, src := pipeline(b, flows)
			pump(w, a, src, 4*flows)
			b.ReportAllocs()
			b.ResetTimer()
			pump(w, a, src, b.N)
			b.StopTimer()
			if n := a.txDrops(); n > 0 {
				b.Errorf("%d packets died", n)
			}
		})
	}
}

func (a *attached) txDrops() (n uint64) {
	for r := range a.drops {
		n += a.drops[r].Load()
	}
	return n
}

// BenchmarkFirstPacket: decide and remember a new flow.
func BenchmarkFirstPacket(b *testing.B) {
	w, a, src := pipeline(b, 1<<24)
	now := time.Duration(0)
	w.sw.cfg.Clock = func() time.Duration { return now }
	b.ReportAllocs()
	b.ResetTimer()
	pump(w, a, src, b.N)
}

// TestNoAllocations: a known flow costs no memory.
func TestNoAllocations(t *testing.T) {
	w, a, src := pipeline(t, 100)
	pump(w, a, src, 1000)
	if n := testing.AllocsPerRun(100, func() { pump(w, a, src, 64) }); n != 0 {
		t.Errorf("%v allocations for 64 packets of known flows", n)
	}
	src.flows = 1 << 24
	if n := testing.AllocsPerRun(100, func() { pump(w, a, src, 64) }); n > 1 {
		t.Errorf("%v allocations for 64 new flows", n)
	}
}
