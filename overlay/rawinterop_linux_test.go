package overlay

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"vswitch/vswitch/packet"
)

// TestKernelVXLANFrames talks to a kernel VXLAN device with frames that the test
// makes itself, without a TAP: an echo server behind the device answers them.
func TestKernelVXLANFrames(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	for _, wire := range []string{"cable", "gro", "virtual"} {
		t.Run(wire, func(t *testing.T) {
			us, kernel := newNetns(t), newNetns(t)
			wireUp(t, us, kernel, "172.16.0.1/24", "172.16.0.2/24", wire)
			kernel.do(t, func() { flannel(t, "172.16.0.2", "172.16.0.1", 1450) })
			e := linkIn(t, us, "172.16.0.1", Config{VNI: 1, MTU: 1450, Offload: true})
			id, err := e.AddPeer(Peer{Name: "kernel", Addr: netip.MustParseAddrPort("172.16.0.2:8472"), Verify: true})
			if err != nil {
				t.Fatal(err)
			}
			e.peer = id
			for _, ip := range []string{kernel4, kernel6} {
				port := echoServer(t, kernel, ip)
				echoFrames(t, e, ip, port)
			}
			if bad := kernel.checksumErrors(t); len(bad) != 0 {
				t.Errorf("errors in the kernel: %v", bad)
			}
			if d := e.Drops(); len(d) != 0 {
				t.Errorf("drops %v", d)
			}
		})
	}
}

// linkIn opens a link in a namespace.
func linkIn(t *testing.T, n netns, local string, cfg Config) *end {
	cfg.Local = netip.AddrPortFrom(netip.MustParseAddr(local), Port)
	var l *Link
	n.do(t, func() {
		var err error
		l, err = Listen(cfg)
		check(t, "listen", err)
	})
	t.Cleanup(func() { l.Close() })
	return &end{aLink: l, wait: waiter(t, l), in: packet.NewBatch()}
}

func echoServer(t *testing.T, n netns, ip string) (port uint16) {
	var server *net.UDPConn
	n.do(t, func() {
		var err error
		server, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(ip)})
		check(t, "echo server", err)
	})
	t.Cleanup(func() { server.Close() })
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := server.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			server.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	return addrOf(server).Port()
}

// echoFrames sends datagrams of many sizes, single and as superpackets, and
// compares what comes back: swapped, and with a checksum that is right.
func echoFrames(t *testing.T, e *end, ip string, port uint16) {
	t.Helper()
	out := packet.NewBatch()
	for _, n := range []int{0, 1, 22, 1001, 1402, 30 * 1402, 30*1402 + 7} {
		f := udp4(n)
		if ip == kernel6 {
			f = udp6(n)
			f.src = netip.MustParseAddr(pod6)
		}
		f.dst, f.dport, f.id = netip.MustParseAddr(ip), port, 1000
		out.Reset()
		const size = 1402
		p := f.append(out, size)
		out.SetEthernet(p, (*[6]byte)(kernelMAC), (*[6]byte)(ourMAC))
		want := [][]byte{{}}
		if n > 0 {
			want = slices.Collect(slices.Chunk(f.payload, size))
		}
		e.send(t, out)
		got := e.receiveFinished(t, len(want))
		for i, b := range got {
			hdr := f.headerLen()
			if len(b) < hdr || !bytes.Equal(b[hdr:], want[i]) {
				t.Fatalf("%s: echo %d of %d bytes: %d bytes %x", ip, i, n, len(b), b[:min(80, len(b))])
			}
			if !bytes.Equal(b[:6], ourMAC) || !bytes.Equal(b[6:12], kernelMAC) {
				t.Errorf("MACs %x", b[:12])
			}
			h, l4 := b[14:], b[hdr-8:]
			pseudo := append([]byte{0, 17, l4[4], l4[5]}, h[8:hdr-14-8]...)
			if ip == kernel4 {
				pseudo = append([]byte{0, 17, l4[4], l4[5]}, h[12:20]...)
			}
			if naiveSum(pseudo, l4) != 0xffff {
				t.Errorf("%s: checksum of the echo of %d bytes", ip, n)
			}
		}
	}
}

// receiveFinished returns the next n frames, with their checksums completed.
func (e *end) receiveFinished(t *testing.T, n int) (all [][]byte) {
	t.Helper()
	for len(all) < n {
		k, err := e.Read(e.in, packet.BatchSize)
		if err != nil {
			t.Fatal(err)
		}
		for i := range e.in.Packets {
			p := &e.in.Packets[i]
			e.in.Parse(p)
			if p.Tuple.Proto != packet.ProtoUDP {
				continue // what the kernel says when an interface comes up
			}
			if p.GSO == packet.GSONone {
				e.in.Complete(p)
			}
			all = append(all, wire(e.in, p)...)
		}
		e.in.Reset()
		if k == 0 && !e.wait() {
			t.Fatalf("%d of %d frames came; drops %v", len(all), n, e.Drops())
		}
	}
	return all
}

// TestSmallUnderlay: an underlay whose MTU is smaller than configured costs
// fragments, not packets, and does not end offloading. One that is gone is
// counted.
func TestSmallUnderlay(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	for _, cidr := range []string{"172.16.0.%d/24", "fd00:16::%d/64"} {
		us, them := newNetns(t), newNetns(t)
		local, remote := fmt.Sprintf(cidr, 1), fmt.Sprintf(cidr, 2)
		wireUp(t, us, them, local, remote, "virtual")
		us.do(t, func() { check(t, "MTU", setMTU("u0", 1300)) })
		ip := func(cidr string) string { return netip.MustParsePrefix(cidr).Addr().String() }
		cfg := Config{MTU: 1450, Offload: true}
		a, b := linkIn(t, us, ip(local), cfg), linkIn(t, them, ip(remote), cfg)
		a.peer, b.peer = 1, 1
		_, err := a.AddPeer(Peer{Name: "b", Addr: b.LocalAddr()})
		_, err2 := b.AddPeer(Peer{Name: "a", Addr: a.LocalAddr()})
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		out := packet.NewBatch()
		f := tcp4(20 * 1398)
		f.append(out, 1398)
		a.send(t, out)
		compare(t, b.receive(t, 20), f.segments(1398))
		out.Reset()
		f = tcp4(20 * 500)
		f.append(out, 500)
		a.send(t, out)
		compare(t, b.receive(t, 20), f.segments(500))
		if c, _ := a.PeerCounters(1); c.TxSuper != 1 || c.TxPackets != 40 || c.TxErrors != 0 || len(a.Drops()) != 0 {
			t.Errorf("%+v, drops %v", c, a.Drops())
		}
		us.do(t, func() { check(t, "down", setDown("u0")) })
		if n, err := a.Write(out, []uint16{0}); n != 0 || err != nil {
			t.Errorf("sent %d, %v on an interface that is down", n, err)
		}
		if c, _ := a.PeerCounters(1); c.TxErrors != 20 || a.Drops()[DropUnreachable]+a.Drops()[DropSend] != 20 {
			t.Errorf("%+v, drops %v", c, a.Drops())
		}
	}
}

// TestFinish: what a virtual wire leaves unfinished gets the metadata it had.
func TestFinish(t *testing.T) {
	for _, make := range []func(int) frame{tcp4, tcp6, udp4, udp6} {
		for _, n := range []int{1, 100, 1000, 60000} {
			f := make(n)
			b := packet.NewBatch()
			p := b.Append(f.bytes(true))
			finish(b, p, 1450)
			if p.Flags != packet.NeedsCsum {
				t.Fatalf("proto %d, %d bytes: flags %d", f.proto, n, p.Flags)
			}
			if p.GSO == packet.GSONone {
				if b.Complete(p); !bytes.Equal(b.Frame(p), f.bytes(false)) {
					t.Errorf("proto %d, %d bytes: wrong checksum", f.proto, n)
				}
			}
			if super := f.proto == 6 && n > 1450; super != (p.GSO != packet.GSONone) {
				t.Errorf("proto %d, %d bytes: GSO %d", f.proto, n, p.GSO)
			} else if super {
				if p.WireLen() != 1450 {
					t.Errorf("segments of %d bytes", p.WireLen())
				}
				compare(t, wire(b, p), f.segments(int(p.GSOSize)))
			}
			// A complete one is left alone, unless its checksum happens to be
			// the other; then completing it gives it again.
			same := 0
			for id := range 3000 {
				f.sport = uint16(id)
				whole := f.bytes(false)
				b.Reset()
				p = b.Append(whole)
				finish(b, p, packet.MaxIP)
				if p.Flags&packet.NeedsCsum != 0 {
					same++
					b.Complete(p)
				}
				if n > 1000 {
					break
				}
				if !bytes.Equal(b.Frame(p), whole) {
					t.Fatalf("proto %d, %d bytes: a complete frame changed", f.proto, n)
				}
			}
			if same > 5 {
				t.Errorf("%d of 3000 complete frames were taken for unfinished ones", same)
			}
		}
	}
	b := packet.NewBatch()
	f := tcp4(100)
	for n := range len(f.bytes(true)) {
		finish(b, b.Append(slices.Clone(f.bytes(true)[:n])), 1450)
		b.Reset()
	}
}
