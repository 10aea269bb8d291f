package stack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// serialize builds a frame with right lengths and checksums.
func serialize(t testing.TB, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func hw(mac [6]byte) net.HardwareAddr { return mac[:] }

// udpFrame builds a datagram from pod 1 to pod 0, port 53.
func udpFrame(t testing.TB, four bool, payload []byte) []byte {
	eth := &layers.Ethernet{SrcMAC: hw(macs[1]), DstMAC: hw(macs[0]), EthernetType: layers.EthernetTypeIPv4}
	udp := &layers.UDP{SrcPort: 1000, DstPort: 53}
	if four {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: addrs4[1].AsSlice(), DstIP: addrs4[0].AsSlice()}
		udp.SetNetworkLayerForChecksum(ip)
		return serialize(t, eth, ip, udp, gopacket.Payload(payload))
	}
	eth.EthernetType = layers.EthernetTypeIPv6
	ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: addrs6[1].AsSlice(), DstIP: addrs6[0].AsSlice()}
	udp.SetNetworkLayerForChecksum(ip)
	return serialize(t, eth, ip, udp, gopacket.Payload(payload))
}

// receiver returns pod 0 and its socket at port 53.
func receiver(t testing.TB) (*Stack, net.PacketConn) {
	t.Helper()
	s := pod(t, 0, 1450)
	c, err := s.ListenPacket("udp", ":53")
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

// receive returns the datagrams that c holds; writes are synchronous.
func receive(t testing.TB, c net.PacketConn) (all [][]byte) {
	t.Helper()
	for {
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		buf := make([]byte, 1<<16)
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			return all
		}
		all = append(all, buf[:n])
	}
}

func TestWrite(t *testing.T) {
	v4, v6 := udpFrame(t, true, []byte("hello")), udpFrame(t, false, []byte("hello"))
	change := func(f []byte, at int, v byte) []byte {
		f = bytes.Clone(f)
		f[at] = v
		return f
	}
	partial := func(f []byte, l4 int) []byte {
		f = bytes.Clone(f)
		f[l4+6], f[l4+7] = 0x12, 0x34 // nobody looks
		return f
	}
	for _, c := range []struct {
		name  string
		frame []byte
		flags uint8
		sent  int  // what Write counts
		heard bool // the socket got it
	}{
		{"v4", v4, 0, 1, true},
		{"v6", v6, 0, 1, true},
		{"v4_checksum", change(v4, 45, 'x'), 0, 1, false},
		{"v6_checksum", change(v6, 65, 'x'), 0, 1, false},
		{"v4_header_checksum", change(v4, 24, 1), 0, 0, false},
		{"v4_verified", partial(v4, 34), packet.Verified, 1, true},
		{"v6_verified", partial(v6, 54), packet.Verified, 1, true},
		{"v4_partial", partial(v4, 34), packet.NeedsCsum, 1, true},
		{"v6_partial", partial(v6, 54), packet.NeedsCsum, 1, true},
		{"v4_verified_header_checksum", change(v4, 24, 1), packet.Verified, 0, false},
		{"other_mac", change(v4, 5, 9), 0, 0, false},
		{"broadcast", append([]byte{255, 255, 255, 255, 255, 255}, v4[6:]...), 0, 1, true},
		{"short", v4[:13], 0, 0, false},
		{"ethernet_only", v4[:14], 0, 0, false},
		{"truncated", v4[:40], 0, 1, false},
		{"v6_truncated", v6[:53], 0, 1, false},
		{"ethertype", change(v4, 12, 0x42), 0, 1, false},
		{"too_big", udpFrame(t, true, make([]byte, 1423)), 0, 0, false},
		{"largest", append(bytes.Clone(v4), make([]byte, 1464-len(v4))...), 0, 1, true},
		{"padded", append(bytes.Clone(v4), 0, 0, 0), 0, 1, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, conn := receiver(t)
			b, release := borrow()
			defer release()
			p := b.Append(c.frame)
			p.Flags, p.CsumStart, p.CsumOffset = c.flags, 34, 6
			n, err := s.Write(b, []uint16{0})
			if err != nil || n != c.sent {
				t.Errorf("Write = %d, %v, want %d", n, err, c.sent)
			}
			if lost := s.Stats().TxLost(); lost != uint64(1-c.sent) {
				t.Errorf("%+v", s.Stats())
			}
			got := receive(t, conn)
			if (len(got) == 1) != c.heard || c.heard && string(got[0]) != "hello" {
				t.Errorf("received %q", got)
			}
		})
	}
}

// TestWriteOrder: idx names the packets and their order.
func TestWriteOrder(t *testing.T) {
	s, conn := receiver(t)
	b, release := borrow()
	defer release()
	for i := range 4 {
		b.Append(udpFrame(t, true, []byte{byte(i)}))
	}
	if n, err := s.Write(b, []uint16{3, 0, 2}); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	b.Reset()
	clear(b.Buf) // the bytes have been copied
	got := receive(t, conn)
	if len(got) != 3 || got[0][0] != 3 || got[1][0] != 0 || got[2][0] != 2 {
		t.Errorf("received %v", got)
	}
}

// TestUDPSuperpacket: each segment is a message of its own, in one piece of
// memory or apart.
func TestUDPSuperpacket(t *testing.T) {
	for _, four := range []bool{true, false} {
		for _, train := range []bool{false, true} {
			s, conn := receiver(t)
			payload := make([]byte, 250)
			for i := range payload {
				payload[i] = byte(i)
			}
			frame := udpFrame(t, four, payload)
			hdr := len(frame) - len(payload)
			b, release := borrow()
			defer release()
			stride := 0
			if train {
				stride = 200
				spread := make([]byte, 0, 800)
				for i := 0; i < 250; i += 100 {
					spread = append(spread, frame[:hdr]...)
					spread = append(spread, payload[i:min(i+100, 250)]...)
					spread = append(spread, make([]byte, (200-len(spread)%200)%200)...)
				}
				frame = spread
			}
			p := b.Append(frame)
			p.Len, p.Stride = uint32(hdr+250), uint16(stride)
			p.GSO, p.Flags, p.HdrLen, p.GSOSize = packet.GSOUDPL4, packet.NeedsCsum, uint16(hdr), 100
			p.CsumStart, p.CsumOffset = uint16(hdr-8), 6
			if n, err := s.Write(b, []uint16{0}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			got := receive(t, conn)
			if len(got) != 3 || !bytes.Equal(got[0], payload[:100]) || !bytes.Equal(got[1], payload[100:200]) || !bytes.Equal(got[2], payload[200:]) {
				t.Errorf("v4 %v, train %v: received %d datagrams %v", four, train, len(got), got)
			}
		}
	}
}

// TestFragments: a datagram in fragments is verified as a whole, even if the
// fragments claim to be verified.
func TestFragments(t *testing.T) {
	for _, four := range []bool{true, false} {
		for _, broken := range []bool{false, true} {
			s, conn := receiver(t)
			payload := bytes.Repeat([]byte{7}, 3000)
			whole, releaseWhole := borrow()
			defer releaseWhole()
			b, release := borrow()
			defer release()
			p := whole.Append(udpFrame(t, true, payload))
			if four {
				whole.Parse(p)
				for g := whole.Fragments(p, 1450); ; {
					off := b.Next()
					n, ok := g.Next(b.Buf[off:])
					if !ok {
						break
					}
					b.Add(off, n)
				}
			} else {
				fragments6(b, udpFrame(t, false, payload))
			}
			if broken {
				b.Buf[b.Packets[1].Off+200] ^= 1
			}
			var idx []uint16
			for i := range b.Packets {
				b.Packets[i].Flags = packet.Verified
				idx = append(idx, uint16(i))
			}
			if n, err := s.Write(b, idx); n != len(idx) || err != nil || n < 3 {
				t.Fatal(n, err)
			}
			got := receive(t, conn)
			if broken && len(got) != 0 || !broken && (len(got) != 1 || !bytes.Equal(got[0], payload)) {
				t.Errorf("v4 %v, broken %v: received %d datagrams", four, broken, len(got))
			}
		}
	}
}

// fragments6 cuts an IPv6 frame into fragments of 1,000 bytes (RFC 8200 4.5).
func fragments6(b *packet.Batch, f []byte) {
	data := f[54:]
	for at := 0; at < len(data); at += 1000 {
		part := data[at:min(at+1000, len(data))]
		g := append(bytes.Clone(f[:54]), f[20], 0, 0, 0, 0, 0, 0, 99)
		binary.BigEndian.PutUint16(g[56:], uint16(at))
		if at+len(part) < len(data) {
			g[57] |= 1
		}
		g[20] = 44
		g = append(g, part...)
		binary.BigEndian.PutUint16(g[18:], uint16(len(g)-54))
		b.Append(g)
	}
}

// TestNotify: the waker is called for every end of silence, and for the end.
func TestNotify(t *testing.T) {
	s := pod(t, 0, 1450)
	var calls atomic.Int32
	wake := func() { calls.Add(1) }
	called := func(what string, want int32) {
		t.Helper()
		if n := calls.Swap(0); n < want || want == 0 && n != 0 {
			t.Errorf("%s: %d calls, want %d", what, n, want)
		}
	}
	b, release := borrow()
	defer release()
	read := func(max, want int) {
		t.Helper()
		b.Reset()
		if n, err := s.Read(b, max); n != want || err != nil || len(b.Packets) != want {
			t.Fatalf("Read = %d, %v, %d packets; want %d", n, err, len(b.Packets), want)
		}
	}
	read(64, 0)
	s.Notify(wake)
	called("empty", 0)
	frame := udpFrame(t, true, []byte("x"))
	send := func() { // a datagram to a closed port is answered at once
		in, releasein := borrow()
		defer releasein()
		in.Append(frame)
		s.Write(in, []uint16{0})
	}
	answerARP(t, s)
	s.Read(b, 64)
	b.Reset()
	calls.Store(0)
	send()
	called("first", 1)
	send()
	called("second, unread", 0)
	read(1, 1)
	called("read one of two", 1)
	read(1, 1)
	send()
	called("read exactly all", 1)
	read(64, 1)
	read(64, 0)
	send()
	called("after silence", 1)
	s.Notify(wake)
	called("notify with frames", 1)
	s.Close()
	called("close", 1)
	s.Notify(wake)
	called("notify of a closed port", 1)
	read(64, 1) // what was sent before
	if _, err := s.Read(b, 1); !errors.Is(err, port.ErrClosed) {
		t.Errorf("Read: %v", err)
	}
}

// answerARP makes pod 1's MAC known to s.
func answerARP(t testing.TB, s *Stack) {
	t.Helper()
	b, release := borrow()
	defer release()
	b.Append(serialize(t,
		&layers.Ethernet{SrcMAC: hw(macs[1]), DstMAC: hw(macs[0]), EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: layers.ARPRequest, SourceHwAddress: macs[1][:], SourceProtAddress: addrs4[1].AsSlice(),
			DstHwAddress: make([]byte, 6), DstProtAddress: addrs4[0].AsSlice(),
		}))
	if n, err := s.Write(b, []uint16{0}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
}

// TestQueue: what does not fit is dropped, and a batch that fills up before max
// says that there is more.
func TestQueue(t *testing.T) {
	s, err := New(Config{MAC: macs[0], Addrs: []netip.Prefix{netip.PrefixFrom(addrs4[0], 24)}, MTU: 65520, Queue: 50})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	answerARP(t, s)
	b, release := borrow()
	defer release()
	if n, _ := s.Read(b, 64); n != 1 {
		t.Fatalf("%d answers to one ARP request", n)
	}
	for range 30 { // more sockets than one, because each has its own limit
		c, err := s.DialContext(limited(t), "udp", "10.244.0.2:53")
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := c.Write(make([]byte, 65000)); err != nil {
				t.Fatal(err)
			}
		}
	}
	calls := 0
	s.Notify(func() { calls++ })
	total := 0
	for {
		b.Reset()
		calls = 0
		n, err := s.Read(b, packet.BatchSize)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		total += n
		if total < 50 && (calls == 0 || !b.Full()) {
			t.Errorf("read %d in all, %d calls, full %v", total, calls, b.Full())
		}
	}
	if total != 50 || s.Stats().RxErrors != 10 {
		t.Errorf("%d packets waited, want 50 of 60; %+v", total, s.Stats())
	}
}
