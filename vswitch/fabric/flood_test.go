package fabric

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/packet"
)

// crowd is what a flood is made of, and who must not notice it: a client outside
// that floods a service and a pod with SYNs from addresses that nobody has, the
// pods, which answer every SYN and every byte, and connections that are real.
type crowd struct {
	*world
	r     *rand.Rand
	syn   []byte // a SYN of the client's, whose source and destination are overwritten
	in    *packet.Batch
	out   *packet.Batch
	real  map[conn]*session
	order []conn
	sent  int // SYNs of the flood
}

// floodSeq is the sequence number of all SYNs of a flood.
const floodSeq = 0xf100d

// conn names a real connection as its client sees it.
type conn struct{ client, server netip.AddrPort }

// session is what its client knows of a real connection.
type session struct {
	from   string
	open   bool
	asked  int
	heard  int
	resets int
}

func newCrowd(w *world) *crowd {
	to, src := w.macs("client", w.ip("lb"))
	return &crowd{
		world: w, r: rand.New(rand.NewPCG(1, 2)),
		syn: seg{src: w.at("client", 1), dst: w.at("lb", 80), flags: "S"}.frame(w.T, to, src),
		in:  packet.NewBatch(), out: packet.NewBatch(), real: map[conn]*session{},
	}
}

// flood sends n SYNs, two of three to the service, the others to pod b.
func (c *crowd) flood(n int) {
	c.Helper()
	for n > 0 {
		c.out.Reset()
		var idx []uint16
		for ; n > 0 && !c.out.Full(); n-- {
			c.sent++
			dst := c.at("lb", 80)
			if c.sent%3 == 0 {
				dst = c.at("b", 8080)
			}
			p := c.out.Append(c.syn)
			c.spoof(c.out.Frame(p), dst)
			idx = append(idx, uint16(len(c.out.Packets)-1))
		}
		if sent, err := c.ends["client"].Write(c.out, idx); sent != len(idx) || err != nil {
			c.Fatalf("%d of %d SYNs went in: %v", sent, len(idx), err)
		}
		c.f.Settle()
	}
}

// spoof gives a SYN a random source, a client's outside, and a destination.
func (c *crowd) spoof(frame []byte, dst netip.AddrPort) {
	l4, size := 34, 4
	if c.v6 {
		l4, size = 54, 16
	}
	addrs := frame[l4-2*size : l4]
	binary.BigEndian.PutUint32(addrs[size-4:], c.r.Uint32())
	if !c.v6 {
		addrs[0], addrs[1] = 198, 18|addrs[1]&1
	}
	copy(addrs[size:], dst.Addr().AsSlice())
	h := frame[l4:]
	binary.BigEndian.PutUint16(h, uint16(c.r.Uint32()))
	binary.BigEndian.PutUint16(h[2:], dst.Port())
	binary.BigEndian.PutUint32(h[4:], floodSeq)
	c.sum(frame, l4)
}

// sum computes the checksums of a frame anew.
func (c *crowd) sum(frame []byte, l4 int) {
	if !c.v6 {
		h := frame[14:l4]
		clear(h[10:12])
		binary.BigEndian.PutUint16(h[10:], ^packet.Fold(packet.Sum(h, 0)))
	}
	size := (l4 - 14 - 20) / 2
	if size == 0 {
		size = 4
	} else {
		size = 16
	}
	src, _ := netip.AddrFromSlice(frame[l4-2*size : l4-size])
	dst, _ := netip.AddrFromSlice(frame[l4-size : l4])
	a, b := packet.AddrFrom(src), packet.AddrFrom(dst)
	clear(frame[l4+16 : l4+18])
	binary.BigEndian.PutUint16(frame[l4+16:], ^packet.Fold(packet.Sum(frame[l4:], packet.PseudoSum(&a, &b, packet.ProtoTCP, len(frame)-l4))))
}

// open begins a real connection.
func (c *crowd) open(from string, client, server netip.AddrPort) {
	c.Helper()
	k := conn{client, server}
	if c.real[k] == nil {
		c.real[k] = &session{from: from}
		c.order = append(c.order, k)
	}
	c.send(from, seg{src: client, dst: server, flags: "S"})
}

// ask says something on every real connection that is open.
func (c *crowd) ask() {
	c.Helper()
	for _, k := range c.order {
		if s := c.real[k]; s.open {
			s.asked++
			c.send(s.from, seg{src: k.client, dst: k.server, flags: "A", payload: []byte("are you there?")})
		}
	}
}

// settle lets servers answer and clients hear the answers, until nobody has
// anything more to say.
func (c *crowd) settle() {
	c.Helper()
	for c.answer("b")+c.answer("c")+c.hear("client")+c.hear("a") > 0 {
		c.f.Settle()
	}
}

// each takes what came out at an end, without looking at it closely.
func (c *crowd) each(at string, f func(p *packet.Packet, frame []byte)) (n int) {
	c.Helper()
	for {
		c.in.Reset()
		got, err := c.ends[at].Read(c.in, packet.BatchSize)
		must(c.T, err)
		if got == 0 {
			return n
		}
		n += got
		for i := range c.in.Packets {
			p := &c.in.Packets[i]
			c.in.Parse(p)
			f(p, c.in.Frame(p))
		}
	}
}

// answer makes a pod answer what it has got: a SYN with one, a byte with another.
// The flood hears every second time.
func (c *crowd) answer(pod string) int {
	c.Helper()
	c.out.Reset()
	var idx []uint16
	flush := func() {
		_, err := c.ends[pod].Write(c.out, idx)
		must(c.T, err)
		c.f.Settle()
		c.out.Reset()
		idx = idx[:0]
	}
	n := c.each(pod, func(p *packet.Packet, frame []byte) {
		if p.Class != packet.Flow || p.Tuple.Proto != packet.ProtoTCP || p.TCPFlags&packet.TCPRst != 0 {
			return
		}
		if c.out.Full() {
			flush()
		}
		l4 := int(p.L4)
		if p.TCPFlags == packet.TCPAck && len(frame) <= max(60, l4+20) {
			return // the end of a handshake; short frames are padded
		}
		if binary.BigEndian.Uint32(frame[l4+4:]) == floodSeq && c.r.Uint32()&1 == 0 {
			return
		}
		q := c.out.Append(frame)
		f := c.out.Frame(q)
		to, src := c.macs(pod, p.Tuple.Src.Netip())
		copy(f, to[:])
		copy(f[6:], src[:])
		src16, dst16 := p.Tuple.Src.Netip().AsSlice(), p.Tuple.Dst.Netip().AsSlice()
		copy(f[l4-2*len(src16):], dst16)
		copy(f[l4-len(src16):], src16)
		binary.BigEndian.PutUint16(f[l4:], p.Tuple.DstPort)
		binary.BigEndian.PutUint16(f[l4+2:], p.Tuple.SrcPort)
		f[l4+13] |= packet.TCPAck
		c.sum(f, l4)
		idx = append(idx, uint16(len(c.out.Packets)-1))
	})
	flush()
	return n
}

// hear makes clients take what came for them. Those of the flood do not exist.
func (c *crowd) hear(at string) int {
	c.Helper()
	var acks []conn
	n := c.each(at, func(p *packet.Packet, frame []byte) {
		t := &p.Tuple
		if p.Class != packet.Flow {
			return
		}
		k := conn{netip.AddrPortFrom(t.Dst.Netip(), t.DstPort), netip.AddrPortFrom(t.Src.Netip(), t.SrcPort)}
		s := c.real[k]
		switch {
		case s == nil:
		case p.TCPFlags&packet.TCPRst != 0:
			s.resets++
		case p.TCPFlags&packet.TCPSyn != 0:
			s.open = true
			acks = append(acks, k)
		default:
			s.heard++
		}
	})
	for _, k := range acks {
		c.send(at, seg{src: k.client, dst: k.server, flags: "A"})
	}
	return n
}

// count returns how many of the real connections from a number on are open, and
// wants all that was asked on them to have been answered.
func (c *crowd) count(from int) (open int) {
	c.Helper()
	for _, k := range c.order[from:] {
		s := c.real[k]
		if s.open {
			open++
		}
		if s.heard != s.asked || s.resets != 0 {
			c.Errorf("%v to %v: asked %d times, got %d answers and %d resets", k.client, k.server, s.asked, s.heard, s.resets)
		}
	}
	return open
}

// dropped returns how many packets a node has dropped for a reason.
func (w *world) dropped(node, reason string) (n uint64) {
	for _, d := range strings.Split(w.drops(), ", ") {
		f := strings.Fields(d)
		if len(f) == 3 && f[0] == node && f[1] == reason {
			k, _ := strconv.ParseUint(f[2], 10, 64)
			n += k
		}
	}
	return n
}

// TestB19SYNFlood: 100,000 SYNs a second from addresses that do not exist, through
// a service on two nodes and to a pod, which answers half of them. Memory is
// bounded, connections that are there do not notice, new ones come through, and
// afterwards all is as before.
func TestB19SYNFlood(t *testing.T) {
	for mode, cfg := range map[string]agent.ServiceConfig{"preserve": {}, "masquerade": {ExternalClient: agent.MasqueradeClient}} {
		t.Run(mode, func(t *testing.T) {
			for name, v6 := range map[string]bool{"v4": false, "v6": true} {
				t.Run(name, func(t *testing.T) { synFlood(newWorldOf(t, Config{Services: cfg, MaxFlows: 1 << 14}, v6)) })
			}
		})
	}
}

func synFlood(w *world) {
	const max = 1 << 14
	w.serve("b c")
	c := newCrowd(w)
	servers := []netip.AddrPort{w.at("lb", 80), w.at("vip", 80), w.at("c", 8080), w.at("b", 8080)}
	const before = 80
	for i := range before {
		from := []string{"client", "a"}[i/4%2]
		if from == "client" && servers[i%4] == w.at("c", 8080) {
			from = "a" // nobody outside reaches a pod of another node
		}
		c.open(from, w.at(from, uint16(1000+i)), servers[i%4])
		c.settle()
	}
	if open := c.count(0); open != before {
		w.Fatalf("%d of %d connections opened before the flood; drops %s", open, before, w.drops())
	}
	millis := 2000
	if raceEnabled {
		millis = 200
	}
	heap := liveHeap()
	for ms := range millis {
		w.now += time.Millisecond
		c.flood(100)
		// Servers are 10 ms away.
		if ms%10 == 9 {
			c.settle()
		}
		if ms%20 == 0 {
			i := ms / 20
			from := []string{"client", "a"}[i%2]
			c.open(from, w.at(from, uint16(2000+i)), servers[i/2%2])
		}
		if ms%100 == 50 {
			c.ask()
		}
		for _, n := range []string{"n1", "n2"} {
			if w.conns(n) > max {
				w.Fatalf("%d connections at %s, more than %d", w.conns(n), n, max)
			}
		}
	}
	c.settle()
	if grown := int64(liveHeap()) - int64(heap); grown > 8<<20 {
		w.Errorf("the flood has cost %d KiB of heap", grown>>10)
	}
	if w.conns("n1") != max {
		w.Errorf("%d connections: the flood has not filled the table", w.conns("n1"))
	}
	if open, want := c.count(0)-before, len(c.order)-before; open*100 < want*98 {
		w.Errorf("%d of %d new connections came through", open, want)
	}
	w.Logf("%d SYNs; %+v at n1, %+v at n2", c.sent, w.f.Node("n1").Switch.Conns().Stats(), w.f.Node("n2").Switch.Conns().Stats())
	// The flood is over, and so is its memory of it.
	w.now += 70 * time.Second
	for range 200 {
		w.now += time.Second
		c.ask()
		c.settle()
	}
	for _, n := range []string{"n1", "n2", "n3"} {
		if got := w.conns(n); got > len(c.order) {
			w.Errorf("%d connections are left at %s, want %d at most", got, n, len(c.order))
		}
	}
	c.open("client", w.at("client", 9000), w.at("lb", 80))
	c.settle()
	c.ask()
	c.settle()
	if open := c.count(len(c.order) - 1); open != 1 {
		w.Error("no connection can be opened after the flood")
	}
	c.count(0)
}

// liveHeap returns how many bytes of the heap are in use.
func liveHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestB18TableFull: a table in which every connection is in use takes no other, and
// says so; those in it go on, other nodes do not notice, and it recovers
// when some end, by closing or by their time.
func TestB18TableFull(t *testing.T) {
	for name, v6 := range map[string]bool{"v4": false, "v6": true} {
		t.Run(name, func(t *testing.T) { tableFull(newWorldOf(t, Config{MaxFlows: 256}, v6)) })
	}
}

func tableFull(w *world) {
	const max = 256
	w.serve("b")
	c := newCrowd(w)
	for i := range max {
		from := []string{"client", "a"}[i%2]
		c.open(from, w.at(from, uint16(1000+i)), w.at("vip", 80))
		c.settle()
	}
	w.now += time.Second
	c.ask()
	c.settle()
	if open := c.count(0); open != max || w.conns("n1") != max {
		w.Fatalf("%d connections opened, %d are known", open, w.conns("n1"))
	}
	// Neither from outside nor from a pod, neither through a service nor without,
	// by no protocol.
	want := uint64(0)
	for _, from := range []string{"client", "a"} {
		for _, s := range []seg{
			{src: w.at(from, 5000), dst: w.at("vip", 80), flags: "S"}, {src: w.at(from, 5000), dst: w.at("vip", 80), udp: true},
			{src: w.at(from, 5000), dst: w.at("b", 8080), flags: "S"}, {src: w.at(from, 5000), dst: w.at("b", 8080), udp: true},
		} {
			w.send(from, s)
			w.none("n1", "table-full")
			if want++; w.dropped("n1", "table-full") != want {
				w.Errorf("%d packets are counted, want %d", w.dropped("n1", "table-full"), want)
			}
		}
	}
	if got := w.f.Node("n1").Switch.Conns().Stats().Refused; got != want {
		w.Errorf("%d connections were refused, want %d", got, want)
	}
	// Those that are there go on, and so do other nodes.
	c.ask()
	c.settle()
	w.talk("d", w.at("d", 1000), w.at("c", 8080), false, "c")
	// One that closes makes room for one.
	k := c.order[0]
	w.send("client", seg{src: k.client, dst: k.server, flags: "FA"})
	w.one("b")
	w.send("b", seg{src: w.at("b", 8080), dst: k.client, flags: "FA"})
	w.one("client")
	c.real[k].open = false
	c.open("a", w.at("a", 6000), w.at("vip", 80))
	c.settle()
	w.send("a", seg{src: w.at("a", 6001), dst: w.at("vip", 80), flags: "S"})
	c.settle()
	w.now += time.Second
	c.ask()
	c.settle()
	// And when their time is over, all is as it was at first.
	w.now += 25 * time.Hour
	for range 10 {
		w.now += time.Second
		w.f.Settle()
	}
	c.order = c.order[:0]
	for i := range max {
		c.open("client", w.at("client", uint16(10000+i)), w.at("vip", 80))
		c.settle()
	}
	if open := c.count(0); open != max {
		w.Errorf("%d of %d connections opened when the others' time was over; drops %s", open, max, w.drops())
	}
}

// TestB18UnansweredGoFirst: a table full of what nobody answers always has room.
func TestB18UnansweredGoFirst(t *testing.T) {
	for name, v6 := range map[string]bool{"v4": false, "v6": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorldOf(t, Config{MaxFlows: 256}, v6)
			w.serve("b")
			c := newCrowd(w)
			for i := range 100 {
				c.open("a", w.at("a", uint16(1000+i)), w.at("vip", 80))
				c.settle()
			}
			w.now += time.Second
			c.ask()
			c.settle()
			for i := range 2000 {
				w.send("a", seg{src: w.at("a", uint16(3000+i)), dst: w.at("vip", 80), udp: true})
				if i%100 == 0 {
					w.now += time.Second
					c.ask()
				}
				c.settle()
			}
			if open := c.count(0); open != 100 {
				t.Errorf("%d of 100 connections are left", open)
			}
			if n := w.dropped("n1", "table-full"); n != 0 {
				t.Errorf("%d packets found no room", n)
			}
		})
	}
}

// TestB09PortsExhausted: when all of a node's ports towards a backend are in use,
// the next connection fails at once and is counted; other backends, and connections
// that are not masqueraded, are not affected; it gets one when some have ended.
func TestB09PortsExhausted(t *testing.T) {
	for name, v6 := range map[string]bool{"v4": false, "v6": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorldOf(t, Config{MaxFlows: 1 << 17}, v6)
			c := newCrowd(w)
			w.serve("c")
			fill := seg{src: w.at("a", 1), dst: w.at("lb", 80), udp: true}
			to, src := w.macs("a", fill.dst.Addr())
			frame, at := fill.frame(t, to, src), 34
			if v6 {
				at = 54
			}
			b, port := packet.NewBatch(), 1
			for port < 1<<16 {
				b.Reset()
				var idx []uint16
				for ; port < 1<<16 && !b.Full(); port++ {
					p := b.Append(frame)
					h := b.Frame(p)[at:]
					binary.BigEndian.PutUint16(h, uint16(port))
					s, d := packet.AddrFrom(fill.src.Addr()), packet.AddrFrom(fill.dst.Addr())
					clear(h[6:8])
					sum := ^packet.Fold(packet.Sum(h[:8], packet.PseudoSum(&s, &d, packet.ProtoUDP, 8)))
					if sum == 0 {
						sum = 0xffff
					}
					binary.BigEndian.PutUint16(h[6:], sum)
					idx = append(idx, uint16(len(b.Packets)-1))
				}
				_, err := w.ends["a"].Write(b, idx)
				must(t, err)
				w.f.Settle()
				if got := c.each("c", func(*packet.Packet, []byte) {}); got != len(idx) {
					t.Fatalf("up to port %d: %d of %d packets arrived; drops %s", port, got, len(idx), w.drops())
				}
			}
			for i := range 50 {
				w.send("b", seg{src: w.at("b", uint16(2000+i)), dst: w.at("lb", 80), udp: true})
				w.none("n1", "no-snat-port")
			}
			if n := w.dropped("n1", "no-snat-port"); n != 50 {
				t.Errorf("%d packets are counted, want 50", n)
			}
			if n := w.f.Node("n1").Switch.Conns().Stats().NoPort; n != 50 {
				t.Errorf("%d connections are counted, want 50", n)
			}
			// The backend still answers those that are there, and who needs no port is served.
			w.talk("a", w.at("a", 2000), w.at("lb", 80), true, "c")
			w.talk("b", w.at("b", 2000), w.at("vip", 80), true, "c")
			w.talk("b", w.at("b", 2000), w.at("lb", 80), false, "c")
			// Another backend is another destination.
			w.serve("e")
			w.talk("b", w.at("b", 2500), w.at("lb", 80), true, "e")
			w.serve("c")
			w.now += 31 * time.Second
			for range 40 {
				w.now += time.Second
				w.f.Settle()
			}
			w.talk("b", w.at("b", 2600), w.at("lb", 80), true, "c")
		})
	}
}
