package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// patience is how long a test waits for a datagram on this machine.
const patience = 30 * time.Second

// bell waits for a Notifier.
func bell(n port.Notifier) func() bool {
	rung := make(chan struct{}, 1)
	n.Notify(func() {
		select {
		case rung <- struct{}{}:
		default:
		}
	})
	return func() bool {
		select {
		case <-rung:
			return true
		case <-time.After(patience):
			return false
		}
	}
}

// aLink is what Link and ConnLink have in common.
type aLink interface {
	port.Port
	AddPeer(Peer) (uint16, error)
	UpdatePeer(uint16, Peer) error
	RemovePeer(uint16)
	Peers() []PeerStatus
	PeerCounters(uint16) (PeerCounters, bool)
	LocalAddr() netip.AddrPort
	SourcePorts() []uint16
	Offload() bool
	Drops() map[Drop]uint64
}

// kinds are the ways to open a link.
var kinds = []struct {
	name   string
	listen func(Config) (aLink, error)
}{
	{"offload", func(c Config) (aLink, error) { c.Offload = true; return opened(Listen(c)) }},
	{"plain", func(c Config) (aLink, error) { return opened(Listen(c)) }},
	{"conn", func(c Config) (aLink, error) { return opened(ListenConn(c)) }},
}

func opened[L aLink](l L, err error) (aLink, error) {
	if err != nil {
		return nil, err
	}
	return l, nil
}

// end is one of two links that know each other.
type end struct {
	aLink
	peer uint16 // the other's id
	wait func() bool
	in   *packet.Batch
}

// connect opens two links at the addresses and makes them peers: by address if
// the addresses differ, else by their source ports.
func connect(t testing.TB, cfg Config, kind [2]int, local [2]netip.Addr) (ends [2]*end) {
	t.Helper()
	for i := range ends {
		c := cfg
		c.Local = netip.AddrPortFrom(local[i], 0)
		l, err := kinds[kind[i]].listen(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		ends[i] = &end{aLink: l, wait: waiter(t, l), in: packet.NewBatch()}
	}
	for i, e := range ends {
		other := ends[1-i]
		p := Peer{Name: fmt.Sprintf("n%d", 1-i), Addr: other.LocalAddr()}
		if local[0] == local[1] {
			p.SourcePorts = other.SourcePorts()
		}
		var err error
		if e.peer, err = e.AddPeer(p); err != nil {
			t.Fatal(err)
		}
	}
	return ends
}

// send writes all packets of b to the peer.
func (e *end) send(t testing.TB, b *packet.Batch) {
	t.Helper()
	var idx []uint16
	for i := range b.Packets {
		b.Packets[i].Peer = e.peer
		idx = append(idx, uint16(i))
	}
	if n, err := e.Write(b, idx); n != len(idx) || err != nil {
		t.Fatalf("sent %d of %d, %v; drops %v", n, len(idx), err, e.Drops())
	}
}

// receive returns the next n datagrams, as frames.
func (e *end) receive(t testing.TB, n int) (all [][]byte) {
	t.Helper()
	for len(all) < n {
		k, err := e.Read(e.in, packet.BatchSize)
		if err != nil {
			t.Fatal(err)
		}
		for i := range e.in.Packets {
			p := &e.in.Packets[i]
			if p.In != packet.PeerBase|e.peer {
				t.Fatalf("packet came in by %#x, not by peer %d", p.In, e.peer)
			}
			all = append(all, wire(e.in, p)...)
		}
		e.in.Reset()
		if k == 0 && len(all) < n && !e.wait() {
			t.Fatalf("%d of %d datagrams arrived; drops %v", len(all), n, e.Drops())
		}
	}
	return all
}

// underlays are pairs of addresses on this machine.
func underlays(t testing.TB) [][2]netip.Addr {
	a := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	all := [][2]netip.Addr{{a("127.0.0.1"), a("127.0.0.1")}}
	if runtime.GOOS == "linux" {
		all[0] = [2]netip.Addr{a("127.0.0.2"), a("127.0.0.3")}
	}
	if c, err := net.ListenPacket("udp6", "[::1]:0"); err == nil {
		c.Close()
		all = append(all, [2]netip.Addr{a("::1"), a("::1")})
	} else {
		t.Logf("no IPv6 underlay here: %v", err)
	}
	return all
}

// samples is what is sent in TestTransfer: frames and how they are cut.
func samples(mtu int) (all []struct {
	frame
	size int
}) {
	add := func(f frame, size int) {
		all = append(all, struct {
			frame
			size int
		}{f, size})
	}
	for _, f := range []frame{tcp4(0), tcp6(0), udp4(0), udp6(0)} {
		full := mtu + 14 - f.headerLen()
		for _, n := range []int{1, 22, 23, full - 1, full} {
			f.payload = noise(n)
			add(f, 0)
		}
		largest := packet.MaxFrame - f.headerLen()
		for _, n := range []int{full + 1, 2 * full, 3*full - 7, 44 * full, largest - 1, largest} {
			if n = min(n, largest); n <= full {
				continue
			}
			f.payload = noise(n)
			add(f, full)
			f.flags |= packet.TCPPsh
			add(f, min(536, full))
			f.flags |= packet.TCPFin | packet.TCPCwr
			f.ecn = ect0
			add(f, full-1)
			f.flags, f.ecn = packet.TCPAck, 0
		}
		f.payload = noise(5000)
		add(f, 20) // more segments than any send takes
	}
	return all
}

// TestTransfer sends packets of all kinds between links of all kinds. What
// arrives must be, byte for byte and in order, what was sent as it is on the wire.
func TestTransfer(t *testing.T) {
	for _, mtu := range []int{576, 1450, 8950} {
		for _, local := range underlays(t) {
			for i := range kinds {
				for j := range kinds {
					t.Run(fmt.Sprintf("%d/%s/%s_to_%s", mtu, local[0], kinds[i].name, kinds[j].name), func(t *testing.T) {
						ends := connect(t, Config{MTU: mtu, VNI: 0x123456}, [2]int{i, j}, local)
						testTransfer(t, ends[0], ends[1], mtu)
					})
				}
			}
		}
	}
}

func testTransfer(t *testing.T, a, b *end, mtu int) {
	out := packet.NewBatch()
	packets, size := 0, 0
	for _, f := range samples(mtu) {
		out.Reset()
		f.append(out, f.size)
		a.send(t, out)
		want := [][]byte{f.bytes(false)}
		if f.size > 0 {
			want = f.segments(f.size)
		}
		got := b.receive(t, len(want))
		compare(t, got, want)
		packets += len(want)
		for _, f := range want {
			size += len(f)
		}
	}
	tx, _ := a.PeerCounters(a.peer)
	rx, _ := b.PeerCounters(b.peer)
	if tx.TxPackets != uint64(packets) || rx.RxPackets != uint64(packets) ||
		tx.TxBytes != uint64(size) || rx.RxBytes != uint64(size) || tx.TxErrors != 0 {
		t.Errorf("counted %+v and %+v, not %d packets of %d bytes", tx, rx, packets, size)
	}
	if len(a.Drops())+len(b.Drops()) != 0 {
		t.Errorf("drops %v and %v", a.Drops(), b.Drops())
	}
	if (tx.TxSuper != 0) != a.Offload() {
		t.Errorf("%d sends took several datagrams", tx.TxSuper)
	}
}

func compare(t testing.TB, got, want [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d frames arrived, not %d", len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("frame %d of %d differs\n got %d bytes %x\nwant %d bytes %x",
				i, len(got), len(got[i]), got[i][:min(80, len(got[i]))], len(want[i]), want[i][:min(80, len(want[i]))])
		}
	}
}

// TestMixed sends batches of many flows and sizes, and checks each flow's order.
func TestMixed(t *testing.T) {
	for i := range kinds {
		t.Run(kinds[i].name, func(t *testing.T) {
			ends := connect(t, Config{MTU: 1450, Sockets: 3}, [2]int{i, i}, underlays(t)[0])
			out := packet.NewBatch()
			want := map[uint16][][]byte{}
			sent := 0
			for k := 0; !out.Full(); k++ {
				f := []frame{tcp4(k * 7 % 1300), udp6(k * 13 % 900), udp4(26), tcp4(5000)}[k%4]
				f.sport = uint16(1000 + k%5)
				p := f.append(out, 1398)
				p.Hash = uint64(f.sport%5) << 61
				w := [][]byte{f.bytes(false)}
				if p.GSO != packet.GSONone {
					w = f.segments(1398)
				}
				want[f.sport] = append(want[f.sport], w...)
				sent += len(w)
			}
			ends[0].send(t, out)
			got := map[uint16][][]byte{}
			for _, f := range ends[1].receive(t, sent) {
				l4 := 34
				if f[12] == 0x86 {
					l4 = 54
				}
				port := uint16(f[l4])<<8 | uint16(f[l4+1])
				got[port] = append(got[port], f)
			}
			for port := range want {
				compare(t, got[port], want[port])
			}
		})
	}
}

// TestRefused sends what must not come in.
func TestRefused(t *testing.T) {
	good := udp4(30)
	vxlan := func(change func([]byte)) []byte {
		b := make([]byte, HeaderLen)
		PutHeader(b, 9)
		b = append(b, good.bytes(false)...)
		change(b)
		return b
	}
	for i := range kinds {
		t.Run(kinds[i].name, func(t *testing.T) {
			ends := connect(t, Config{MTU: 1450, VNI: 9}, [2]int{i, i}, [2]netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.1")})
			to := ends[0]
			known := dial(t, to)
			if _, err := to.AddPeer(Peer{Name: "raw", Addr: netip.MustParseAddrPort("127.0.0.1:9"), SourcePorts: []uint16{addrOf(known).Port()}}); err != nil {
				t.Fatal(err)
			}
			stranger := dial(t, to)
			want := map[Drop]uint64{}
			for _, c := range []struct {
				from *net.UDPConn
				d    []byte
				why  Drop
			}{
				{stranger, vxlan(func([]byte) {}), DropUnknownPeer},
				{stranger, nil, DropUnknownPeer},
				{known, nil, DropShort},
				{known, []byte{8}, DropShort},
				{known, vxlan(func([]byte) {})[:HeaderLen], DropShort},
				{known, vxlan(func([]byte) {})[:HeaderLen+13], DropShort},
				{known, vxlan(func(b []byte) { b[0] = 0 }), DropHeader},
				{known, vxlan(func(b []byte) { b[0] |= 0x80 }), DropHeader},
				{known, vxlan(func(b []byte) { b[1] = 1 }), DropHeader},
				{known, vxlan(func(b []byte) { b[3] = 1 }), DropHeader},
				{known, vxlan(func(b []byte) { b[7] = 1 }), DropHeader},
				{known, vxlan(func(b []byte) { b[6] = 8 }), DropVNI},
				{known, vxlan(func(b []byte) { b[4] = 1 }), DropVNI},
				{known, bytes.Repeat([]byte{0xff}, 3000), DropHeader},
				{known, vxlan(func([]byte) {})[:HeaderLen+14], dropNone},
				{known, vxlan(func([]byte) {}), dropNone},
			} {
				if _, err := c.from.Write(c.d); err != nil {
					t.Fatal(err)
				}
				if c.why != dropNone {
					want[c.why]++
				}
			}
			n := 0
			for n < 2 {
				k, err := to.Read(to.in, 8)
				if err != nil {
					t.Fatal(err)
				}
				if n += k; n < 2 && !to.wait() {
					t.Fatalf("%d of 2 good frames came; drops %v", n, to.Drops())
				}
			}
			if f := to.in.Frame(&to.in.Packets[1]); n != 2 || !bytes.Equal(f, good.bytes(false)) {
				t.Errorf("%d packets, the last %x", n, f)
			}
			if got := to.Drops(); !mapsEqual(got, want) {
				t.Errorf("drops %v, want %v", got, want)
			}
		})
	}
}

func mapsEqual(a, b map[Drop]uint64) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

// dial returns a socket that sends to the link.
func dial(t testing.TB, l aLink) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(l.LocalAddr()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestNotSent writes what cannot be sent.
func TestNotSent(t *testing.T) {
	for i := range kinds {
		t.Run(kinds[i].name, func(t *testing.T) {
			ends := connect(t, Config{MTU: 1450}, [2]int{i, i}, underlays(t)[0])
			out := packet.NewBatch()
			ok, big, super, bad := udp4(10), udp4(1450-28+1), tcp4(4000), tcp4(4000)
			add := func(f *frame, size int, peer uint16) *packet.Packet {
				p := f.append(out, size)
				p.Peer = peer
				return p
			}
			id := ends[0].peer
			add(&ok, 0, id)
			add(&ok, 0, 0)
			add(&ok, 0, id+1)
			add(&ok, 0, maxPeer)
			add(&big, 0, id)
			add(&super, 1399, id)
			add(&super, 1398, id+1)
			add(&bad, 1398, id).GSO = packet.GSOTCPv6
			add(&ok, 0, id).Len = 13
			add(&ok, 0, id)
			var idx []uint16
			for i := range out.Packets {
				idx = append(idx, uint16(i))
			}
			if n, err := ends[0].Write(out, idx); n != 2 || err != nil {
				t.Errorf("sent %d, %v", n, err)
			}
			ends[1].receive(t, 2)
			want := map[Drop]uint64{DropNoPeer: 3 + 3, DropTooBig: 1 + 3, DropMalformed: 3 + 1}
			if got := ends[0].Drops(); !mapsEqual(got, want) {
				t.Errorf("drops %v, want %v", got, want)
			}
		})
	}
}

// TestPeerChange moves a peer to another address and then takes it away, while
// the link is in use.
func TestPeerChange(t *testing.T) {
	for i := range kinds {
		t.Run(kinds[i].name, func(t *testing.T) {
			local := underlays(t)[0]
			ends := connect(t, Config{MTU: 1450}, [2]int{i, i}, local)
			other := connect(t, Config{MTU: 1450}, [2]int{i, i}, local)[1]
			a := ends[0]
			out := packet.NewBatch()
			f := udp4(100)
			f.append(out, 0)
			a.send(t, out)
			ends[1].receive(t, 1)
			moved := Peer{Name: "n1", Addr: other.LocalAddr()}
			if err := a.UpdatePeer(a.peer, moved); err != nil {
				t.Fatal(err)
			}
			if err := other.UpdatePeer(other.peer, Peer{Name: "a", Addr: a.LocalAddr(), SourcePorts: a.SourcePorts()}); err != nil {
				t.Fatal(err)
			}
			a.send(t, out)
			other.receive(t, 1)
			if c, _ := a.PeerCounters(a.peer); c.TxPackets != 2 {
				t.Errorf("counters did not survive: %+v", c)
			}
			a.RemovePeer(a.peer)
			if n, err := a.Write(out, []uint16{0}); n != 0 || err != nil {
				t.Errorf("sent %d, %v to a peer that is gone", n, err)
			}
			if _, ok := a.PeerCounters(a.peer); ok || len(a.Peers()) != 0 {
				t.Error("the peer is still there")
			}
			if err := a.UpdatePeer(a.peer, moved); !errors.Is(err, ErrNoPeer) {
				t.Errorf("update of a peer that is gone: %v", err)
			}
		})
	}
}

// TestClose closes a link under its users.
func TestClose(t *testing.T) {
	for i := range kinds {
		t.Run(kinds[i].name, func(t *testing.T) {
			ends := connect(t, Config{MTU: 1450}, [2]int{i, i}, underlays(t)[0])
			a := ends[0]
			var wg sync.WaitGroup
			for w := range 3 {
				wg.Go(func() {
					out := packet.NewBatch()
					f := tcp4(20000)
					f.append(out, 1398).Peer = a.peer
					out.Packets[0].Hash = uint64(w) << 62
					for {
						if _, err := a.Write(out, []uint16{0}); err != nil {
							if !errors.Is(err, port.ErrClosed) {
								t.Error(err)
							}
							return
						}
					}
				})
			}
			woken := make(chan bool, 1)
			wg.Go(func() {
				ok := true
				for {
					_, err := a.Read(a.in, 8)
					a.in.Reset()
					if err != nil {
						if !errors.Is(err, port.ErrClosed) {
							t.Error(err)
						}
						woken <- ok
						return
					}
					ok = a.wait()
				}
			})
			for range 100 {
				ends[1].Read(ends[1].in, 8)
				ends[1].in.Reset()
			}
			a.Close()
			a.Close()
			wg.Wait()
			if !<-woken {
				t.Error("Close did not wake the reader")
			}
			if got := a.Drops(); got[DropSend] != 0 {
				t.Errorf("drops %v", got)
			}
		})
	}
}

// TestListenErrors: each message names the field or address.
func TestListenErrors(t *testing.T) {
	taken, err := ListenConn(Config{Local: netip.MustParseAddrPort("127.0.0.1:0")})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	ok := netip.MustParseAddrPort("127.0.0.1:0")
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "no local address"},
		{Config{Local: ok, VNI: 1 << 24}, "VNI 16777216"},
		{Config{Local: ok, MTU: 67}, "MTU 67"},
		{Config{Local: ok, MTU: 65486}, "MTU 65486"},
		{Config{Local: ok, Sockets: 17}, "17 sockets"},
		{Config{Local: ok, RecvBuffer: -1}, "-1 bytes"},
		{Config{Local: netip.MustParseAddrPort("[fe80::1%lo]:1")}, "zone"},
		{Config{Local: netip.MustParseAddrPort("192.0.2.1:8472")}, "192.0.2.1:8472"},
		{Config{Local: taken.LocalAddr()}, "take another port"},
	} {
		for i := range kinds {
			if l, err := kinds[i].listen(c.cfg); err == nil {
				l.Close()
				t.Errorf("%s: %+v was accepted", kinds[i].name, c.cfg)
			} else if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %q does not say %q", kinds[i].name, err, c.want)
			}
		}
	}
}

// TestSourcePorts: the pool is used, and the receiving port is not part of it.
func TestSourcePorts(t *testing.T) {
	for i := range kinds {
		local := underlays(t)[0]
		ends := connect(t, Config{MTU: 1450, Sockets: 5}, [2]int{i, i}, local)
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local[1], 0)))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		id, err := ends[0].AddPeer(Peer{Name: "raw", Addr: addrOf(c), SourcePorts: []uint16{1}})
		if err != nil {
			t.Fatal(err)
		}
		out := packet.NewBatch()
		var idx []uint16
		for k := range 50 {
			f := udp4(k)
			p := f.append(out, 0)
			p.Peer = id
			p.Hash = uint64(k) * 0x9e3779b97f4a7c15
			idx = append(idx, uint16(k))
		}
		if n, err := ends[0].Write(out, idx); n != 50 || err != nil {
			t.Fatal(n, err)
		}
		seen := map[uint16]bool{}
		buf := make([]byte, 2000)
		c.SetReadDeadline(time.Now().Add(patience))
		for range 50 {
			_, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				t.Fatal(err)
			}
			seen[from.Port()] = true
		}
		ports := ends[0].SourcePorts()
		if len(ports) != 5 || len(seen) != 5 {
			t.Errorf("%s: %d ports announced, %d seen", kinds[i].name, len(ports), len(seen))
		}
		for p := range seen {
			if !slices.Contains(ports, p) {
				t.Errorf("%s: source port %d was not announced", kinds[i].name, p)
			}
		}
		if slices.Contains(ports, ends[0].LocalAddr().Port()) {
			t.Errorf("%s: the receiving port is announced", kinds[i].name)
		}
	}
}
