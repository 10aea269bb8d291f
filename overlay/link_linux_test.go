package overlay

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/packet"
)

// offloaded returns two links with offloads on one of the underlays.
func offloaded(t testing.TB, cfg Config, local [2]netip.Addr) (a, b *end) {
	if cfg.MTU == 0 {
		cfg.MTU = 1450
	}
	ends := connect(t, cfg, [2]int{0, 0}, local)
	return ends[0], ends[1]
}

// TestSuperpacketStaysWhole: one superpacket is one send, one receive and one
// packet, up to the largest that fits, and one byte more is two.
func TestSuperpacketStaysWhole(t *testing.T) {
	for _, local := range underlays(t) {
		for _, f := range []frame{tcp4(0), tcp6(0), udp4(0), udp6(0)} {
			outer := 8 + f.headerLen()
			for _, c := range []struct{ segments, size, whole int }{
				{2, 1000, 1}, {44, 1398 - 42, 1}, {maxSegments, 400, 1}, {maxSegments + 1, 400, 2},
			} {
				t.Run(fmt.Sprintf("%s/%d_%s/%dx%d", local[0], f.proto, f.src, c.segments, c.size), func(t *testing.T) {
					a, b := offloaded(t, Config{}, local)
					f.payload = noise(c.segments * c.size)
					out := packet.NewBatch()
					f.append(out, c.size)
					a.send(t, out)
					wholes(t, a, b, c.whole)
				})
			}
			t.Run(fmt.Sprintf("%s/%d_%s/bytes", local[0], f.proto, f.src), func(t *testing.T) {
				a, b := offloaded(t, Config{MTU: 9000}, local)
				limit := a.aLink.(*Link).maxBytes
				const segments = 43
				size := (limit+segments-1)/segments - outer
				f.payload = noise(limit - segments*outer)
				out := packet.NewBatch()
				f.append(out, size)
				a.send(t, out)
				wholes(t, a, b, 1)
			})
		}
	}
}

// wholes checks that exactly n trains arrive, each in one piece.
func wholes(t *testing.T, a, b *end, n int) {
	t.Helper()
	got := 0
	for got < n {
		k, err := b.Read(b.in, packet.BatchSize)
		if err != nil {
			t.Fatal(err)
		}
		if got += k; k == 0 && !b.wait() {
			break
		}
	}
	for i := range b.in.Packets {
		if p := &b.in.Packets[i]; i < n-1 && p.GSO == packet.GSONone {
			t.Errorf("packet %d is no superpacket: %+v", i, p)
		}
	}
	tx, _ := a.PeerCounters(a.peer)
	rx, _ := b.PeerCounters(b.peer)
	if got != n || tx.TxPackets != rx.RxPackets || rx.RxSuper > uint64(n) || tx.TxSuper > uint64(n) {
		t.Errorf("%d packets, not %d; sent %+v, received %+v", got, n, tx, rx)
	}
	b.in.Reset()
}

// TestMerge: small packets to one peer leave with one send if they can.
func TestMerge(t *testing.T) {
	for _, c := range []struct {
		name  string
		build func(i int) (payload int, hash uint64, ecn uint8)
		sends uint64 // with several datagrams
	}{
		{"equal", func(i int) (int, uint64, uint8) { return 22, 0, 0 }, 1},
		{"last_shorter", func(i int) (int, uint64, uint8) { return 22 - i/29, 0, 0 }, 1},
		{"growing", func(i int) (int, uint64, uint8) { return i, 0, 0 }, 0},
		{"two_sizes", func(i int) (int, uint64, uint8) { return 100 - i%2, 0, 0 }, 15},
		{"two_flows", func(i int) (int, uint64, uint8) { return 22, uint64(i) << 63, 0 }, 2},
		{"two_marks", func(i int) (int, uint64, uint8) { return 22, 0, uint8(i/15) * 2 }, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := offloaded(t, Config{Sockets: 2}, underlays(t)[0])
			out := packet.NewBatch()
			var want [][]byte
			for i := range 30 {
				n, hash, ecn := c.build(i)
				f := udp4(n)
				f.ecn, f.sport, f.id = ecn, f.sport+uint16(hash>>63), uint16(i)
				if c.name == "two_flows" {
					f.id /= 2
				}
				f.append(out, 0).Hash = hash
				want = append(want, f.bytes(false))
			}
			a.send(t, out)
			got := b.receive(t, 30)
			// Only packets of one flow keep their order.
			byFlow := func(a, b []byte) int { return bytes.Compare(a[34:36], b[34:36]) }
			slices.SortStableFunc(got, byFlow)
			slices.SortStableFunc(want, byFlow)
			compare(t, got, want)
			if n, _ := a.PeerCounters(a.peer); n.TxSuper != c.sends || n.TxPackets != 30 {
				t.Errorf("%d sends with several datagrams, want %d; %+v", n.TxSuper, c.sends, n)
			}
		})
	}
}

// TestHeld reads a datagram that holds many packets, a few at a time. What waits
// keeps the descriptor readable, order and bytes stay.
func TestHeld(t *testing.T) {
	for _, limit := range []int{1, 3, 7, 64} {
		a, b := offloaded(t, Config{}, underlays(t)[0])
		out := packet.NewBatch()
		var want [][]byte
		send := func(f frame, size int) {
			out.Reset()
			f.append(out, size)
			a.send(t, out)
			want = append(want, f.segments(max(size, 1))...)
		}
		for range 3 {
			// One send of acknowledgements, which are no train.
			out.Reset()
			for i := range 60 {
				f := tcp4(0)
				f.id += uint16(i)
				f.append(out, 0)
				want = append(want, f.bytes(false))
			}
			a.send(t, out)
			send(tcp4(30*1000), 1000)
			send(udp4(30*1000), 1000)
		}
		var got [][]byte
		fd := b.aLink.(*Link).FD()
		for len(got) < len(want) {
			if !readable(t, fd, patience) {
				t.Fatalf("limit %d: not readable with %d of %d packets read", limit, len(got), len(want))
			}
			n, err := b.Read(b.in, limit)
			if err != nil || n > limit || n == 0 || n != len(b.in.Packets) {
				t.Fatalf("limit %d: read %d, %v", limit, n, err)
			}
			for i := range b.in.Packets {
				got = append(got, wire(b.in, &b.in.Packets[i])...)
			}
			b.in.Reset()
		}
		compare(t, got, want)
		if readable(t, fd, 0) {
			t.Errorf("limit %d: readable with nothing left", limit)
		}
		if n, err := b.Read(b.in, limit); n != 0 || err != nil {
			t.Errorf("limit %d: read %d, %v of nothing", limit, n, err)
		}
	}
}

// TestOneByOne: what no network card has merged is merged by Read, if the sender
// had it in one piece.
func TestOneByOne(t *testing.T) {
	for _, c := range []struct {
		name  string
		sizes []int // of the payload of a datagram each, or of several, if negative, sent as one
		ecn   func(i int) uint8
		want  []int // segments of the packets that are read
	}{
		{"equal", []int{1000, 1000, 1000, 1000, 1000}, nil, []int{5}},
		{"last_shorter", []int{1000, 1000, 1000, 7}, nil, []int{4}},
		{"shorter_between", []int{1000, 1000, 500, 1000, 1000}, nil, []int{3, 2}},
		{"growing", []int{1000, 1200, 1200}, nil, []int{1, 2}},
		{"two_marks", []int{1000, 1000, 1000, 1000}, func(i int) uint8 { return uint8(i / 2 * 2) }, []int{2, 2}},
		{"super_between", []int{1000, 1000, -5000, 1000, 1000}, nil, []int{2, 5, 2}},
		{"alone", []int{1000}, nil, []int{1}},
		{"a_batch", slices.Repeat([]int{1000}, 40), nil, []int{40}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := offloaded(t, Config{}, underlays(t)[0])
			out := packet.NewBatch()
			f := tcp4(0)
			var want [][]byte
			for i, n := range c.sizes {
				size := n
				if n < 0 {
					n, size = -n, 1000
				}
				f.payload = noise(n)
				if c.ecn != nil {
					f.ecn = c.ecn(i)
				}
				out.Reset()
				f.append(out, size)
				a.send(t, out)
				want = append(want, f.segments(size)...)
				f.seq += uint32(n)
				f.id += uint16(n / size)
			}
			if n, err := b.Read(b.in, packet.BatchSize); err != nil || n != len(b.in.Packets) {
				t.Fatal(n, err)
			}
			var segments []int
			var got [][]byte
			for i := range b.in.Packets {
				p := &b.in.Packets[i]
				segments = append(segments, p.Segments())
				got = append(got, wire(b.in, p)...)
			}
			if !slices.Equal(segments, c.want) {
				t.Errorf("packets of %v segments, want %v", segments, c.want)
			}
			compare(t, got, want)
		})
	}
}

// TestReadAppends: Read goes on behind what is in the batch, and stops when it
// is full.
func TestReadAppends(t *testing.T) {
	a, b := offloaded(t, Config{}, underlays(t)[0])
	out := packet.NewBatch()
	f := tcp4(40 * 1398)
	f.append(out, 1398)
	for range 30 {
		a.send(t, out)
	}
	for range 20 {
		small := udp4(1)
		b.in.Append(small.bytes(false))
	}
	total := 0
	for total < 30 {
		before := len(b.in.Packets)
		n, err := b.Read(b.in, packet.BatchSize)
		if err != nil || n != len(b.in.Packets)-before {
			t.Fatal(n, err)
		}
		total += n
		for i := before; i < len(b.in.Packets); i++ {
			compare(t, wire(b.in, &b.in.Packets[i]), f.segments(1398))
		}
		if n == 0 {
			if !b.in.Full() && !b.wait() {
				t.Fatalf("%d of 30 arrived; drops %v", total, b.Drops())
			}
			b.in.Reset()
		}
	}
}

// TestKernelRefuses: what the kernel does not take at once is sent in pieces,
// and the link learns from that only if the number of segments was the reason.
func TestKernelRefuses(t *testing.T) {
	a, b := offloaded(t, Config{}, underlays(t)[0])
	l := a.aLink.(*Link)
	f := udp4(250 * 20)
	out := packet.NewBatch()
	f.append(out, 20)

	// No kernel takes 200 segments.
	l.segments.Store(200)
	a.send(t, out)
	compare(t, b.receive(t, 250), f.segments(20))
	if n := l.segments.Load(); n != maxSegmentsOld {
		t.Errorf("the limit became %d", n)
	}

	// As if the route could not segment.
	p := l.peers.Load().get(a.peer)
	s := l.sender()
	q := &s.queues[0]
	l.fill(s, l.peers.Load(), p, out)
	q.prepare(0, p, 0, q.niov, q.runs[0].count)
	l.notSent(s, q, l.peers.Load(), l.send[0], 0, unix.EIO)
	n := q.runs[0].count
	q.n, q.niov, s.used, s.bytes = 0, 0, 0, 0
	s.mu.Unlock()
	compare(t, b.receive(t, n), f.segments(20)[:n])
	if !p.alone.Load() {
		t.Error("the peer is still sent several datagrams at once")
	}
	before, _ := a.PeerCounters(a.peer)
	a.send(t, out)
	compare(t, b.receive(t, 250), f.segments(20))
	if after, _ := a.PeerCounters(a.peer); after.TxSuper != before.TxSuper {
		t.Errorf("%d sends took several datagrams", after.TxSuper-before.TxSuper)
	}
	if err := a.UpdatePeer(a.peer, p.Peer); err != nil || l.peers.Load().get(a.peer).alone.Load() {
		t.Error("UpdatePeer does not try again", err)
	}

	// A loopback address cannot send to another machine: EINVAL, too.
	id, err := a.AddPeer(Peer{Name: "far", Addr: netip.MustParseAddrPort("192.0.2.1:8472")})
	if err != nil {
		t.Fatal(err)
	}
	out.Packets[0].Peer = id
	if n, err := a.Write(out, []uint16{0}); n != 0 || err != nil {
		t.Errorf("sent %d, %v", n, err)
	}
	c, _ := a.PeerCounters(id)
	drops := a.Drops()
	if c.TxErrors != 250 || c.TxPackets != 0 || drops[DropSend]+drops[DropUnreachable] != 250 {
		t.Errorf("%+v, drops %v", c, drops)
	}
	if l.segments.Load() != maxSegmentsOld || l.peers.Load().get(id).alone.Load() {
		t.Error("an unreachable peer ended offloading")
	}
}

// fill queues the first run of out's packet.
func (l *Link) fill(s *sender, t *peerTable, to *peer, out *packet.Batch) {
	c := out.Cut(&out.Packets[0], false)
	q := &s.queues[0]
	for range maxSegmentsOld {
		at := s.headers[s.used:]
		n, payload, _ := c.Next(at[HeaderLen:])
		PutHeader(at, l.cfg.VNI)
		s.used += HeaderLen + n
		q.run(l, to, 0, HeaderLen+n+len(payload), 0)
		q.add(unsafe.Pointer(&at[0]), HeaderLen+n)
		q.add(unsafe.Pointer(&payload[0]), len(payload))
	}
}

// TestOuterECN sends every mark and looks at the outer header, and receives
// with every outer mark and looks at the inner one (RFC 6040).
func TestOuterECN(t *testing.T) {
	for _, local := range underlays(t) {
		v6 := local[0].Is6()
		a, b := offloaded(t, Config{}, local)
		raw, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local[1], 0)))
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		rawPort := []uint16{addrOf(raw).Port()}
		out6, err := a.AddPeer(Peer{Name: "raw", Addr: addrOf(raw), SourcePorts: rawPort})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.AddPeer(Peer{Name: "raw", Addr: addrOf(raw), SourcePorts: rawPort}); err != nil {
			t.Fatal(err)
		}
		recvTOS(t, raw, v6)
		for ecn := range uint8(4) {
			for _, f := range []frame{tcp4(3000), tcp6(10), udp4(10), udp6(3000)} {
				f.ecn = ecn | 0x20 // the DSCP stays inside
				if f.src.Is6() {
					f.ecn = ecn
				}
				out := packet.NewBatch()
				f.append(out, 1378).Peer = out6
				a.Write(out, []uint16{0})
				if got := readTOS(t, raw); got != ecn {
					t.Errorf("%s: inner mark %d left as %#x", local[0], ecn, got)
				}
				for range len(f.payload) / 1379 {
					readTOS(t, raw)
				}
				inner := udp4(10)
				inner.ecn = ecn
				for outer := range uint8(4) {
					sendTOS(t, raw, b.LocalAddr(), inner.bytes(false), outer, v6)
					want, ok := rfc6040(ecn, outer)
					if !ok {
						drops := b.Drops()[DropECN]
						for b.Drops()[DropECN] == drops {
							if n, _ := b.Read(b.in, 1); n != 0 {
								t.Fatalf("outer %d and inner %d was not dropped", outer, ecn)
							}
						}
						continue
					}
					for {
						if n, _ := b.Read(b.in, 1); n == 1 {
							break
						} else if !b.wait() {
							t.Fatal("nothing came")
						}
					}
					inner := inner
					inner.ecn = want
					if got := b.in.Frame(&b.in.Packets[0]); !bytes.Equal(got, inner.bytes(false)) {
						t.Errorf("outer %d and inner %d became %#x, want %d", outer, ecn, got[15], want)
					}
					b.in.Reset()
				}
			}
		}
	}
}

func recvTOS(t *testing.T, c *net.UDPConn, v6 bool) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err2 := raw.Control(func(fd uintptr) {
		if v6 {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
		}
	})
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
}

func readTOS(t *testing.T, c *net.UDPConn) uint8 {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	buf, oob := make([]byte, 1<<16), make([]byte, 100)
	_, n, _, _, err := c.ReadMsgUDPAddrPort(buf, oob)
	if err != nil {
		t.Fatal(err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		t.Fatal(msgs, err)
	}
	return msgs[0].Data[0]
}

func sendTOS(t *testing.T, c *net.UDPConn, to netip.AddrPort, f []byte, tos uint8, v6 bool) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err2 := raw.Control(func(fd uintptr) {
		if v6 {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_TCLASS, int(tos))
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS, int(tos))
		}
	})
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	d := make([]byte, HeaderLen)
	PutHeader(d, 0)
	if _, err := c.WriteToUDPAddrPort(append(d, f...), to); err != nil {
		t.Fatal(err)
	}
}

// TestVerify: with Verify, a segment with a wrong checksum is not hidden in a
// train; without, the peer is believed.
func TestVerify(t *testing.T) {
	for _, verify := range []bool{false, true} {
		a, b := offloaded(t, Config{}, underlays(t)[0])
		if err := b.UpdatePeer(b.peer, Peer{Name: "a", Addr: a.LocalAddr(), Verify: verify}); err != nil {
			t.Fatal(err)
		}
		out := packet.NewBatch()
		whole := tcp4(10 * 1398)
		want := whole.segments(1398)
		want[4][1000] ^= 1
		for _, f := range want {
			out.Append(f)
		}
		a.send(t, out)
		var got [][]byte
		packets := 0
		for len(got) < 10 {
			n, _ := b.Read(b.in, packet.BatchSize)
			packets += n
			for i := range b.in.Packets {
				got = append(got, wire(b.in, &b.in.Packets[i])...)
			}
			b.in.Reset()
			if n == 0 && !b.wait() {
				t.Fatal("nothing came")
			}
		}
		if verify {
			compare(t, got, want)
			if packets != 3 {
				t.Errorf("%d packets, want two trains and the wrong one", packets)
			}
		} else if packets != 1 || bytes.Equal(got[4], want[4]) {
			t.Errorf("%d packets, want one train", packets)
		}
	}
}

// TestStockBuffers: without privilege and with the buffer of a stock system, a
// stream that is read in time loses nothing, and a burst that is not is counted.
func TestStockBuffers(t *testing.T) {
	const stock = 212992
	a, b := offloaded(t, Config{RecvBuffer: stock, SendBuffer: stock}, underlays(t)[0])
	if n := b.aLink.(*Link).RecvBuffer(); n != 2*stock {
		t.Errorf("the receive buffer has %d bytes, not %d", n, 2*stock)
	}
	f := tcp4(44 * 1398)
	out := packet.NewBatch()
	f.append(out, 1398)
	for range 100 {
		for range 4 {
			a.send(t, out)
		}
		b.receive(t, 4*44)
	}
	if d := b.Drops(); len(d) != 0 {
		t.Errorf("drops %v", d)
	}
	for range 100 {
		a.send(t, out)
	}
	got := uint64(0)
	for {
		n, _ := b.Read(b.in, packet.BatchSize)
		if n == 0 {
			break
		}
		got += uint64(n)
		b.in.Reset()
	}
	if lost := b.Drops()[DropOverrun]; lost == 0 || lost+got != 100 {
		t.Errorf("%d arrived, %d counted as lost, of 100", got, lost)
	}
}

// TestManyWriters writes from more goroutines than there is memory for at once.
func TestManyWriters(t *testing.T) {
	a, b := offloaded(t, Config{}, underlays(t)[0])
	const writers, rounds = maxSenders + 4, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			out := packet.NewBatch()
			f := udp4(100)
			f.sport = uint16(w)
			for range 10 {
				p := f.append(out, 0)
				p.Peer, p.Hash = a.peer, uint64(w)<<60
			}
			idx := []uint16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
			for range rounds {
				if n, err := a.Write(out, idx); n != 10 || err != nil {
					t.Error(n, err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	want := map[uint16]int{}
	for _, f := range b.receive(t, writers*rounds*10) {
		want[uint16(f[34])<<8|uint16(f[35])]++
	}
	<-done
	for w := range uint16(writers) {
		if want[w] != rounds*10 {
			t.Errorf("%d packets of writer %d", want[w], w)
		}
	}
}

// TestPeersWhileRunning changes peers under a reader and a writer.
func TestPeersWhileRunning(t *testing.T) {
	a, b := offloaded(t, Config{}, underlays(t)[0])
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, e := range []*end{a, b} {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id, err := e.AddPeer(Peer{Name: "x", Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), 1)})
				if err != nil {
					t.Error(err)
					return
				}
				e.Peers()
				e.RemovePeer(id)
			}
		})
	}
	f := tcp4(20 * 1398)
	out := packet.NewBatch()
	f.append(out, 1398)
	for range 300 {
		a.send(t, out)
		compare(t, b.receive(t, 20), f.segments(1398))
	}
	close(stop)
	wg.Wait()
}

func TestAllocs(t *testing.T) {
	super, small, other := tcp4(44*1398), udp4(22), tcp6(10)
	a, b := offloaded(t, Config{}, underlays(t)[0])
	out := packet.NewBatch()
	var idx []uint16
	for i := range 20 {
		f := []*frame{&small, &other, &small}[i%3]
		f.append(out, 0)
	}
	super.append(out, 1398)
	for i := range out.Packets {
		out.Packets[i].Peer = a.peer
		idx = append(idx, uint16(i))
	}
	unknown, err := Listen(Config{Local: netip.MustParseAddrPort("127.0.0.9:0"), Offload: true, MTU: 1450})
	if err != nil {
		t.Fatal(err)
	}
	defer unknown.Close()
	id, err := unknown.AddPeer(Peer{Name: "b", Addr: b.LocalAddr()})
	if err != nil || id != a.peer {
		t.Fatal(id, err)
	}
	allocs := testing.AllocsPerRun(200, func() {
		a.Write(out, idx)
		unknown.Write(out, idx)
		for got := 0; got < len(out.Packets); {
			n, err := b.Read(b.in, 3)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 && !b.wait() {
				t.Fatal("nothing came")
			}
			got += n
			b.in.Reset()
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations for %d packets", allocs, len(out.Packets))
	}
	if d := b.Drops(); d[DropUnknownPeer] == 0 {
		t.Errorf("drops %v", d)
	}
}

// FuzzReceive gives the receiver datagrams of any content, merged in any way.
// Whatever comes out must lie in the batch, survive the switch's parser and the
// way out again, and account for every datagram.
func FuzzReceive(f *testing.F) {
	seed := func(stride int, frames ...[]byte) {
		var d []byte
		for _, fr := range frames {
			h := make([]byte, HeaderLen)
			PutHeader(h, 0)
			d = append(append(d, h...), fr...)
		}
		f.Add(d, uint16(stride), uint8(0), uint8(8))
		f.Add(d, uint16(stride), uint8(3), uint8(1))
	}
	t4, t6, u4 := tcp4(300), tcp6(300), udp4(300)
	t4.ecn = ect0
	for _, fr := range []*frame{&t4, &t6, &u4} {
		all := fr.segments(100)
		seed(len(all[0])+HeaderLen, all...)
		seed(0, fr.bytes(false))
	}
	ack := tcp4(0)
	seed(len(ack.bytes(false))+HeaderLen, slices.Repeat([][]byte{ack.bytes(false)}, 100)...)
	f.Add([]byte{}, uint16(0), uint8(0), uint8(1))
	f.Add(bytes.Repeat([]byte{8, 0, 0, 0, 0, 0, 0, 0}, 8000), uint16(23), uint8(1), uint8(60))

	in, out := packet.NewBatch(), packet.NewBatch()
	l, err := Listen(Config{Local: netip.MustParseAddrPort("127.0.0.1:0"), Offload: true, MTU: maxMTU})
	if err != nil {
		f.Fatal(err)
	}
	defer l.Close()
	id, err := l.AddPeer(Peer{Name: "self", Addr: netip.MustParseAddrPort("127.0.0.1:9")})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, d []byte, stride uint16, tos, limit uint8) {
		if len(d) > maxMessage || (stride > 0 && len(d)/int(stride) > maxSegments) {
			return
		}
		in.Reset()
		r := &l.rx
		r.start(l.peers.Load())
		at := in.Next() - HeaderLen
		copy(in.Buf[at:], d)
		r.names[0] = newSockaddr(netip.MustParseAddrPort("127.0.0.1:7"))
		r.msgs[0].len, r.msgs[0].flags = uint32(len(d)), 0
		r.ctls[0].put(0, unix.IPPROTO_IP, unix.IP_TOS, 1)[0] = tos
		*(*int32)(unsafe.Pointer(r.ctls[0].put(1, unix.SOL_UDP, unix.UDP_GRO, 4))) = int32(stride)
		r.msgs[0].controlLen = 2 * cmsgSpace
		before, _ := l.PeerCounters(id)
		lost := dropped(l)
		l.received(in, 0, 1, at, min(int(limit), packet.BatchSize-spare))
		r.settle()

		n := uint64(0)
		for {
			for i := range in.Packets {
				p := &in.Packets[i]
				if p.In != packet.PeerBase|id || int(p.Off)+span(p) > len(in.Buf) || p.Len < packet.EthernetLen {
					t.Fatalf("packet %d: %+v", i, p)
				}
				n += uint64(p.Segments())
				in.Parse(p)
				if p.Class == packet.Malformed && p.GSO != packet.GSONone {
					t.Fatalf("a malformed train: %+v", p)
				}
				frames := wireOrNil(in, p)
				if p.GSO != packet.GSONone {
					c := in.Cut(p, false)
					var hdr [200]byte
					for k := 0; ; k++ {
						h, payload, ok := c.Next(hdr[:])
						if !ok {
							break
						}
						if got := append(hdr[:h:h], payload...); !bytes.Equal(got, frames[k]) {
							t.Fatalf("segment %d\n got %x\nwant %x", k, got, frames[k])
						}
					}
				}
			}
			in.Reset()
			if r.held.give(in, packet.BatchSize); len(in.Packets) == 0 {
				break
			}
		}
		out.Reset()
		after, _ := l.PeerCounters(id)
		if got := after.RxPackets - before.RxPackets; got != n {
			t.Fatalf("%d datagrams counted, %d came out", got, n)
		}
		total := uint64(1)
		if s := min(int(stride), len(d)); s > 0 {
			total = uint64((len(d) + s - 1) / s)
		}
		if n+dropped(l)-lost != total {
			t.Fatalf("%d came out and %d were dropped of %d", n, dropped(l)-lost, total)
		}
	})
}

func dropped(l *Link) (n uint64) {
	for _, k := range l.Drops() {
		n += k
	}
	return n
}

func wireOrNil(b *packet.Batch, p *packet.Packet) [][]byte {
	if p.GSO == packet.GSONone {
		return nil
	}
	return wire(b, p)
}
