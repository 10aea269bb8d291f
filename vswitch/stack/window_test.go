package stack

import (
	"bytes"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"vswitch/vswitch/packet"
)

// rawPeer is a TCP connection of pod 1 to a Stack, made by hand, so that it may
// send what a TCP would send only if packets were lost or overtook others. It
// uses neither SACK nor timestamps.
type rawPeer struct {
	t     *testing.T
	s     *Stack
	four  bool
	conn  *TCPConn // the Stack's end
	next  uint32   // sequence number of the next byte it sends
	ack   uint32   // number of the next byte that it expects
	held  uint32   // how much of what it has received it does not acknowledge
	ahead uint32   // how much it has sent beyond next, where there was no room
	wnd   uint16   // the window it offers, in bytes
	got   []byte   // in order
	acked uint32   // the largest number that the Stack acknowledged
	edge  uint32   // the largest edge of a window that the Stack advertised
	open  uint32   // the window that the Stack advertised last, in bytes
	scale uint8    // of the Stack's windows

	prompt bool // it acknowledges all data at once
}

const rawPort = 40000

// dialRaw connects a rawPeer to a new Stack.
func dialRaw(t *testing.T, four bool) *rawPeer {
	t.Helper()
	r := &rawPeer{t: t, s: pod(t, 0, 1450), four: four, next: 0xffff_f000, wnd: 1000}
	l, err := r.s.Listen("tcp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	if four {
		answerARP(t, r.s)
	}
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	r.send(&layers.TCP{SYN: true, Seq: r.next, Options: []layers.TCPOption{
		{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 80}},
		{OptionType: layers.TCPOptionKindWindowScale, OptionLength: 3, OptionData: []byte{0}},
	}}, nil)
	r.next++
	r.await("a SYN", func() bool { return r.ack != 0 })
	r.empty(r.next)
	c := <-accepted
	if c == nil {
		t.FailNow()
	}
	r.conn = c.(*TCPConn)
	t.Cleanup(func() { r.conn.Close() })
	return r
}

// send gives the Stack a segment. Ports, ACK and window are filled in.
func (r *rawPeer) send(h *layers.TCP, payload []byte) {
	r.t.Helper()
	h.SrcPort, h.DstPort, h.Window = rawPort, 7, r.wnd
	if !h.SYN {
		h.ACK, h.Ack = true, r.ack-r.held
	}
	b, release := borrow()
	defer release()
	b.Append(serialize(r.t, append(r.headers(h), h, gopacket.Payload(payload))...))
	if n, err := r.s.Write(b, []uint16{0}); n != 1 || err != nil {
		r.t.Fatal(n, err)
	}
}

// headers returns what goes before h.
func (r *rawPeer) headers(h *layers.TCP) []gopacket.SerializableLayer {
	eth := &layers.Ethernet{SrcMAC: hw(macs[1]), DstMAC: hw(macs[0]), EthernetType: layers.EthernetTypeIPv4}
	if r.four {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: addrs4[1].AsSlice(), DstIP: addrs4[0].AsSlice()}
		h.SetNetworkLayerForChecksum(ip)
		return []gopacket.SerializableLayer{eth, ip}
	}
	eth.EthernetType = layers.EthernetTypeIPv6
	ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: addrs6[1].AsSlice(), DstIP: addrs6[0].AsSlice()}
	h.SetNetworkLayerForChecksum(ip)
	return []gopacket.SerializableLayer{eth, ip}
}

// empty sends an ACK without data, numbered seq.
func (r *rawPeer) empty(seq uint32) {
	r.t.Helper()
	r.send(&layers.TCP{Seq: seq}, nil)
}

// await reads what the Stack sends until it has said what is awaited.
func (r *rawPeer) await(what string, done func() bool) {
	r.t.Helper()
	b, release := borrow()
	defer release()
	for end := time.Now().Add(time.Minute); !done(); {
		b.Reset()
		n, err := r.s.Read(b, packet.BatchSize)
		if err != nil {
			r.t.Fatal(err)
		}
		for i := range b.Packets {
			r.receive(b.AppendTo(nil, &b.Packets[i]))
		}
		if n == 0 {
			if time.Now().After(end) {
				r.t.Fatalf("the stack never sent %s; it has acknowledged up to %d, the window is %d bytes up to %d, %d bytes came",
					what, r.acked, r.open, r.edge, len(r.got))
			}
			time.Sleep(100 * time.Microsecond) // the stack has goroutines of its own
		}
	}
}

// receive takes notice of a frame of the Stack.
func (r *rawPeer) receive(f []byte) {
	p := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default)
	if ns, ok := p.Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation); ok {
		r.advertise(ns)
		return
	}
	h, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
	if !ok {
		return
	}
	r.acked = h.Ack
	if h.SYN {
		r.ack = h.Seq + 1
		for _, o := range h.Options {
			if o.OptionType == layers.TCPOptionKindWindowScale {
				r.scale = o.OptionData[0]
			}
		}
		r.open = uint32(h.Window)
		r.edge = h.Ack + r.open
		return
	}
	r.open = uint32(h.Window) << r.scale
	if e := h.Ack + r.open; int32(e-r.edge) > 0 {
		r.edge = e
	}
	if skip := r.ack - h.Seq; int(skip) < len(h.Payload) {
		r.got = append(r.got, h.Payload[skip:]...)
		r.ack += uint32(len(h.Payload)) - skip
	}
	if len(h.Payload) > 0 && r.prompt {
		r.empty(r.next + r.ahead)
	}
}

// advertise tells the Stack the MAC of pod 1.
func (r *rawPeer) advertise(ns *layers.ICMPv6NeighborSolicitation) {
	eth := &layers.Ethernet{SrcMAC: hw(macs[1]), DstMAC: hw(macs[0]), EthernetType: layers.EthernetTypeIPv6}
	ip := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: addrs6[1].AsSlice(), DstIP: addrs6[0].AsSlice()}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborAdvertisement, 0)}
	icmp.SetNetworkLayerForChecksum(ip)
	na := &layers.ICMPv6NeighborAdvertisement{Flags: 0x60, TargetAddress: ns.TargetAddress, Options: layers.ICMPv6Options{
		{Type: layers.ICMPv6OptTargetAddress, Data: macs[1][:]},
	}}
	b, release := borrow()
	defer release()
	b.Append(serialize(r.t, eth, ip, icmp, na))
	r.s.Write(b, []uint16{0})
}

// fill sends segments until every byte that was ever promised room is used, and
// returns what it sent. Nobody reads at the other end. Towards the end the
// segments are smaller than a unit of the window.
func (r *rawPeer) fill() (sent []byte) {
	r.t.Helper()
	for r.next != r.edge {
		room := int(r.edge - r.next)
		n := min(1001, room)
		if room < 3000 {
			n = min(100, room)
		}
		data := make([]byte, n)
		for i := range data {
			data[i] = byte((len(sent) + i) * 7)
		}
		r.send(&layers.TCP{Seq: r.next}, data)
		sent = append(sent, data...)
		r.next += uint32(n)
		// One at a time, so that queues inside of the stack do not count.
		r.await("an ACK of what it gave room for", func() bool { return r.acked == r.next })
	}
	return sent
}

// drain reads until the Stack has been silent for some milliseconds.
func (r *rawPeer) drain() {
	r.t.Helper()
	b, release := borrow()
	defer release()
	for silent := 0; silent < 10; time.Sleep(500 * time.Microsecond) {
		b.Reset()
		n, err := r.s.Read(b, packet.BatchSize)
		if err != nil {
			r.t.Fatal(err)
		}
		for i := range b.Packets {
			r.receive(b.AppendTo(nil, &b.Packets[i]))
		}
		if silent++; n > 0 {
			silent = 0
		}
	}
}

func eachFamily(t *testing.T, f func(t *testing.T, four bool)) {
	for _, four := range []bool{true, false} {
		t.Run(map[bool]string{true: "v4", false: "v6"}[four], func(t *testing.T) { f(t, four) })
	}
}

// TestFilledWindow: whoever fills the window to the last byte that it was ever
// promised has all of it accepted.
func TestFilledWindow(t *testing.T) {
	eachFamily(t, func(t *testing.T, four bool) {
		r := dialRaw(t, four)
		sent := r.fill()
		r.conn.SetReadDeadline(time.Now().Add(time.Minute))
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(r.conn, got); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("read other bytes, %v", err)
		}
		r.await("an open window", func() bool { return r.open >= 1000 })
	})
}

// TestShutWindow: an ACK counts, although its sender has sent more than there
// is room for.
func TestShutWindow(t *testing.T) {
	eachFamily(t, func(t *testing.T, four bool) {
		r := dialRaw(t, four)
		answer := bytes.Repeat([]byte("answer! "), 250)
		if _, err := r.conn.Write(answer); err != nil {
			t.Fatal(err)
		}
		r.await("what there is room for", func() bool { return len(r.got) == 1000 })
		r.held = 1000
		sent := r.fill()
		r.await("a shut window", func() bool { return r.open == 0 && r.acked == r.next })
		// Of two segments more the first is lost, so that neither fits into
		// what may be left of the window.
		more := bytes.Repeat([]byte{9}, 1000)
		r.send(&layers.TCP{Seq: r.next + 500}, more[500:])
		r.held, r.wnd, r.ahead, r.prompt = 0, 5000, 1000, true
		r.empty(r.next + r.ahead)
		r.await("the rest of its data", func() bool { return len(r.got) == len(answer) })
		if !bytes.Equal(r.got, answer) {
			t.Error("received other bytes")
		}
		r.conn.SetReadDeadline(time.Now().Add(time.Minute))
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(r.conn, got); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("read other bytes, %v", err)
		}
		r.await("an open window", func() bool { return r.open >= 1000 })
		r.send(&layers.TCP{Seq: r.next}, more)
		if _, err := io.ReadFull(r.conn, got[:1000]); err != nil || !bytes.Equal(got[:1000], more) {
			t.Errorf("after the window has opened: read other bytes, %v", err)
		}
	})
}

// TestCongestionWindow: however often segments are lost, and however many are
// acknowledged at once, a connection goes on sending. Once CUBIC's window was
// zero or less, nothing was sent any more, and with nothing on its way no timer
// ran that would have ended that.
func TestCongestionWindow(t *testing.T) {
	eachFamily(t, func(t *testing.T, four bool) {
		r := dialRaw(t, four)
		r.wnd = 0xffff
		r.empty(r.next)
		go io.Copy(struct{ io.Writer }{r.conn}, zeros{}) // the end of the test ends it
		seen := r.ack
		for range 20 {
			r.await("more data", func() bool { return r.ack != seen })
			r.drain()
			r.held = r.ack - seen
			for range 8 { // as if the first segment had been lost
				r.empty(r.next)
			}
			r.drain()
			r.held, seen = 0, r.ack
			r.empty(r.next)
		}
	})
}

// spec is a TCP segment between pod 0, the stack, and pod 1.
type spec struct {
	seq, ack uint32
	wnd      uint16
	flags    header.TCPFlags
	payload  int
	port     uint16 // of the stack; zero means 7
}

// frame builds the segment; out says that the stack sends it.
func (c spec) frame(t testing.TB, four, out bool) []byte {
	r := &rawPeer{t: t.(*testing.T), four: four}
	h := &layers.TCP{
		SrcPort: rawPort, DstPort: layers.TCPPort(max(c.port, 7)), Seq: c.seq, Ack: c.ack, Window: c.wnd,
		SYN: c.flags&header.TCPFlagSyn != 0, FIN: c.flags&header.TCPFlagFin != 0, RST: c.flags&header.TCPFlagRst != 0, ACK: true,
	}
	ls := r.headers(h)
	if out {
		h.SrcPort, h.DstPort = h.DstPort, h.SrcPort
		switch ip := ls[1].(type) {
		case *layers.IPv4:
			ip.SrcIP, ip.DstIP = ip.DstIP, ip.SrcIP
		case *layers.IPv6:
			ip.SrcIP, ip.DstIP = ip.DstIP, ip.SrcIP
		}
	}
	return serialize(t, append(ls, h, gopacket.Payload(make([]byte, c.payload)))...)
}

// l4 is where the TCP header of a frame begins.
func l4(four bool) int {
	if four {
		return 34
	}
	return 54
}

// outgoing returns the segment as gVisor would hand it to a link.
func (c spec) outgoing(t testing.TB, four bool) *stack.PacketBuffer {
	f := c.frame(t, four, true)
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: l4(four) + 20, Payload: buffer.MakeWithData(f[l4(four)+20:]),
	})
	copy(pkt.TransportHeader().Push(20), f[l4(four):])
	copy(pkt.NetworkHeader().Push(l4(four)-14), f[14:])
	pkt.TransportProtocolNumber = header.TCPProtocolNumber
	pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
	if !four {
		pkt.NetworkProtocolNumber = header.IPv6ProtocolNumber
	}
	return pkt
}

func TestOffer(t *testing.T) {
	for _, c := range []struct {
		name    string
		segment spec
		partial bool // the checksum is
		wnd     uint16
		shut    bool // afterwards
	}{
		{"open", spec{wnd: 500}, false, 499, false},
		{"open, with data", spec{wnd: 500, payload: 11}, false, 499, false},
		{"largest", spec{wnd: 0xffff}, false, 0xfffe, false},
		{"smallest", spec{wnd: 2}, false, 1, false},
		{"one unit", spec{wnd: 1}, false, 0, true},
		{"shut", spec{wnd: 0}, false, 0, true},
		{"partial checksum", spec{wnd: 500, payload: 100}, true, 499, false},
		{"FIN", spec{wnd: 7, flags: header.TCPFlagFin}, false, 6, false},
		{"SYN", spec{wnd: 500, flags: header.TCPFlagSyn}, false, 500, false},
		{"RST", spec{wnd: 0, flags: header.TCPFlagRst}, false, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, four bool) {
				pkt := c.segment.outgoing(t, four)
				defer pkt.DecRef()
				if c.partial {
					pkt.GSOOptions.Type = stack.GSOTCPv4
				}
				want := c.segment
				want.wnd = c.wnd
				expected := want.frame(t, four, true)
				if c.partial { // the field stays what it was
					copy(expected[l4(four)+16:][:2], pkt.TransportHeader().Slice()[16:18])
				}
				var w windows
				w.offer(pkt)
				if got := pkt.TransportHeader().Slice(); !bytes.Equal(got, expected[l4(four):][:20]) {
					t.Errorf("header\n%x, want\n%x", got, expected[l4(four):][:20])
				}
				if w.any.Load() != c.shut || len(w.shut) > 0 != c.shut {
					t.Errorf("shut: %v %v, want %v", w.any.Load(), w.shut, c.shut)
				}
			})
		})
	}
}

// TestOfferNoTCP: packets without a TCP header of their own are not touched.
func TestOfferNoTCP(t *testing.T) {
	var w windows
	fragment := newPacket(make([]byte, 100))
	defer fragment.DecRef()
	fragment.TransportProtocolNumber = header.TCPProtocolNumber
	w.offer(fragment)
	datagram := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: 20})
	defer datagram.DecRef()
	clear(datagram.TransportHeader().Push(20))
	datagram.TransportProtocolNumber = header.UDPProtocolNumber
	w.offer(datagram)
	if w.any.Load() || !bytes.Equal(datagram.TransportHeader().Slice(), make([]byte, 20)) {
		t.Error("a packet that is no TCP was changed")
	}
}

func TestAdmit(t *testing.T) {
	const next = 0xffff_ff00 // before the numbers wrap
	shut := []spec{{ack: next, wnd: 0}}
	for _, c := range []struct {
		name string
		sent []spec // by the stack before
		in   spec
		want uint32 // sequence number afterwards
	}{
		{"expected", shut, spec{seq: next}, next},
		{"ahead", shut, spec{seq: next + 1}, next},
		{"ahead, wrapped", shut, spec{seq: 5000}, next},
		{"as far as any window", shut, spec{seq: (next + maxTCPBuffer) & 0xffff_ffff}, next},
		{"farther", shut, spec{seq: (next + maxTCPBuffer + 1) & 0xffff_ffff}, (next + maxTCPBuffer + 1) & 0xffff_ffff},
		{"behind", shut, spec{seq: next - 1}, next - 1},
		{"data", shut, spec{seq: 5000, payload: 1}, 5000},
		{"SYN", shut, spec{seq: 5000, flags: header.TCPFlagSyn}, 5000},
		{"FIN", shut, spec{seq: 5000, flags: header.TCPFlagFin}, 5000},
		{"RST", shut, spec{seq: 5000, flags: header.TCPFlagRst}, 5000},
		{"other connection", shut, spec{seq: 5000, port: 9}, 5000},
		{"open", []spec{{ack: next, wnd: 9}}, spec{seq: 5000}, 5000},
		{"opened", []spec{{ack: next}, {ack: next, wnd: 9}}, spec{seq: 5000}, 5000},
		{"shut again", []spec{{ack: next - 9}, {ack: next - 9, wnd: 9}, {ack: next}}, spec{seq: 5000}, next},
		{"other opened", []spec{{ack: next}, {ack: next, wnd: 9, port: 9}}, spec{seq: 5000}, next},
		{"both shut", []spec{{ack: next}, {ack: 77, port: 9}}, spec{seq: 5000}, next},
		{"one unit", []spec{{ack: next, wnd: 1}}, spec{seq: 5000}, next},
		{"a new connection", []spec{{ack: next}, {ack: next, wnd: 9, flags: header.TCPFlagSyn}}, spec{seq: 5000}, 5000},
		{"reset", []spec{{ack: next}, {ack: next, flags: header.TCPFlagRst}}, spec{seq: 5000}, next},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, four bool) {
				var w windows
				for _, s := range c.sent {
					pkt := s.outgoing(t, four)
					w.offer(pkt)
					pkt.DecRef()
				}
				want := c.in
				want.seq = c.want
				expected := want.frame(t, four, false)
				for _, pad := range []int{0, 6} { // as Ethernet does
					b, release := borrow()
					b.Append(append(c.in.frame(t, four, false), make([]byte, pad)...))
					w.admit(b, &b.Packets[0])
					if got := b.Frame(&b.Packets[0]); !bytes.Equal(got, append(slices.Clone(expected), make([]byte, pad)...)) {
						t.Errorf("frame\n%x, want\n%x", got, expected)
					}
					release()
				}
				b, release := borrow()
				defer release()
				b.Append(c.in.frame(t, four, false)).Flags = packet.Verified
				copy(expected[l4(four)+16:][:2], b.Frame(&b.Packets[0])[l4(four)+16:])
				w.admit(b, &b.Packets[0])
				if got := b.Frame(&b.Packets[0]); !bytes.Equal(got, expected) {
					t.Errorf("verified: frame\n%x, want\n%x", got, expected)
				}
			})
		})
	}
}

// TestWindowsBounded: connections that end with a shut window do not stay for
// ever.
func TestWindowsBounded(t *testing.T) {
	var w windows
	for i := range 3 * maxShut {
		pkt := spec{ack: 1, port: uint16(i%60000 + 1000)}.outgoing(t, i < 60000)
		w.offer(pkt)
		pkt.DecRef()
		if n := len(w.shut); n == 0 || n > maxShut {
			t.Fatalf("%d connections after %d", n, i+1)
		}
	}
}

// TestMend compares with sums from scratch; a wrong checksum stays wrong.
func TestMend(t *testing.T) {
	values := []uint32{0, 1, 0xff, 0xffff, 0x10000, 0x8000_0000, 0xffff_0000, 0xffff_ffff, 0x1234_5678}
	for _, from := range values {
		for _, to := range values {
			for _, wrong := range []uint16{0, 1, 0x100} {
				f := spec{seq: from}.frame(t, true, false)
				want := spec{seq: to}.frame(t, true, false)
				h, g := header.TCP(f[l4(true):]), header.TCP(want[l4(true):])
				h.SetChecksum(h.Checksum() ^ wrong)
				h.SetSequenceNumber(to)
				mend(h, from, to)
				if right := h.Checksum() == g.Checksum(); right != (wrong == 0) {
					t.Errorf("%#x to %#x: checksum %#x, want %#x, wrong by %#x before", from, to, h.Checksum(), g.Checksum(), wrong)
				}
			}
		}
	}
}
