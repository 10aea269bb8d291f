package packet

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

var (
	testSrc4, testDst4 = net.IP{10, 244, 1, 2}, net.IP{10, 244, 2, 3}
	testSrc6, testDst6 = net.ParseIP("fd00:10:244:1::2"), net.ParseIP("fd00:10:244:2::3")
	testMAC            = net.HardwareAddr{0x0a, 0x58, 1, 2, 3, 4}
)

// frameOf serializes layers with right lengths and checksums, by gopacket.
func frameOf(t testing.TB, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func eth4(proto layers.IPProtocol) (*layers.Ethernet, *layers.IPv4) {
	return &layers.Ethernet{SrcMAC: testMAC, DstMAC: testMAC, EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: testSrc4, DstIP: testDst4}
}

func eth6(proto layers.IPProtocol) (*layers.Ethernet, *layers.IPv6) {
	return &layers.Ethernet{SrcMAC: testMAC, DstMAC: testMAC, EthernetType: layers.EthernetTypeIPv6},
		&layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: testSrc6, DstIP: testDst6}
}

// parsed puts a frame into a batch of its own.
func parsed(t testing.TB, frame []byte) (*Batch, *Packet) {
	t.Helper()
	b := NewBatch()
	p := b.Append(frame)
	b.Parse(p)
	return b, p
}

// sound decodes a frame with gopacket and fails unless all its checksums and
// lengths are right: serializing it again must give the same bytes.
func sound(t *testing.T, frame []byte) gopacket.Packet {
	t.Helper()
	got := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if e := got.ErrorLayer(); e != nil {
		t.Fatalf("the frame does not decode: %v", e.Error())
	}
	var ls []gopacket.SerializableLayer
	for _, l := range got.Layers() {
		s, ok := l.(gopacket.SerializableLayer)
		if !ok {
			break
		}
		if tr, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := tr.SetNetworkLayerForChecksum(got.NetworkLayer()); err != nil {
				t.Fatal(err)
			}
		}
		ls = append(ls, s)
		if l.LayerType() == layers.LayerTypeICMPv6 { // what follows is not wholly decoded
			ls = append(ls, gopacket.Payload(l.LayerPayload()))
			break
		}
	}
	if again := frameOf(t, ls...); string(again[:len(frame)]) != string(frame) { // without Ethernet padding
		t.Fatalf("the frame changes when lengths and checksums are set anew:\n got %x\nwant %x", frame, again)
	}
	return got
}

func TestICMPErrorIPv4(t *testing.T) {
	e, ip := eth4(layers.IPProtocolUDP)
	udp := &layers.UDP{SrcPort: 1000, DstPort: 53}
	_ = udp.SetNetworkLayerForChecksum(ip)
	cause := frameOf(t, e, ip, udp, gopacket.Payload(make([]byte, 1200)))
	from := AddrFrom(netip.MustParseAddr("10.244.1.1"))
	for _, c := range []struct {
		complaint Complaint
		mtu       int
		want      layers.ICMPv4TypeCode
	}{
		{HostUnreachable, 0, layers.CreateICMPv4TypeCode(3, 1)},
		{PortUnreachable, 0, layers.CreateICMPv4TypeCode(3, 3)},
		{Prohibited, 0, layers.CreateICMPv4TypeCode(3, 13)},
		{HopLimit, 0, layers.CreateICMPv4TypeCode(11, 0)},
		{PacketTooBig, 1400, layers.CreateICMPv4TypeCode(3, 4)},
	} {
		b, p := parsed(t, cause)
		buf := make([]byte, 1500)
		frame := buf[:b.ICMPError(buf, p, &from, c.complaint, c.mtu)]
		got := sound(t, frame)
		icmp := got.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
		if icmp.TypeCode != c.want {
			t.Errorf("type and code %v, want %v", icmp.TypeCode, c.want)
		}
		if c.mtu != 0 && int(icmp.Seq) != c.mtu {
			t.Errorf("next-hop MTU %d, want %d", icmp.Seq, c.mtu)
		}
		out := got.NetworkLayer().(*layers.IPv4)
		if !out.DstIP.Equal(testSrc4) || !out.SrcIP.Equal(net.IP{10, 244, 1, 1}) {
			t.Errorf("addresses %s -> %s", out.SrcIP, out.DstIP)
		}
		if int(out.Length) > 576 {
			t.Errorf("the error has %d bytes, more than 576", out.Length)
		}
		if q := icmp.LayerPayload(); string(q) != string(cause[14:14+len(q)]) || len(q) < 28 {
			t.Errorf("the quoted packet is not the cause: %d bytes", len(q))
		}
		// The error itself must be understood by the one who gets it.
		b2, p2 := parsed(t, frame)
		if inner, ok := b2.ErrorTuple(p2); !ok || inner != p.Tuple.Flow() {
			t.Errorf("ErrorTuple = %v, %v; want %v", inner, ok, p.Tuple)
		}
	}
}

func TestICMPErrorIPv6(t *testing.T) {
	e, ip := eth6(layers.IPProtocolTCP)
	tcp := &layers.TCP{SrcPort: 1000, DstPort: 80, ACK: true, Window: 100}
	_ = tcp.SetNetworkLayerForChecksum(ip)
	cause := frameOf(t, e, ip, tcp, gopacket.Payload(make([]byte, 1400)))
	from := AddrFrom(netip.MustParseAddr("fd00:10:244:1::1"))
	for _, c := range []struct {
		complaint Complaint
		want      layers.ICMPv6TypeCode
	}{
		{HostUnreachable, layers.CreateICMPv6TypeCode(1, 3)},
		{PortUnreachable, layers.CreateICMPv6TypeCode(1, 4)},
		{HopLimit, layers.CreateICMPv6TypeCode(3, 0)},
		{PacketTooBig, layers.CreateICMPv6TypeCode(2, 0)},
	} {
		b, p := parsed(t, cause)
		buf := make([]byte, 1500)
		frame := buf[:b.ICMPError(buf, p, &from, c.complaint, 1380)]
		got := sound(t, frame)
		icmp := got.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
		if icmp.TypeCode != c.want {
			t.Errorf("type and code %v, want %v", icmp.TypeCode, c.want)
		}
		if n := len(frame) - 14; n > 1280 {
			t.Errorf("the error has %d bytes, more than 1280", n)
		}
		b2, p2 := parsed(t, frame)
		if inner, ok := b2.ErrorTuple(p2); !ok || inner != p.Tuple.Flow() {
			t.Errorf("ErrorTuple = %v, %v; want %v", inner, ok, p.Tuple)
		}
	}
}

func TestNoICMPError(t *testing.T) {
	from := AddrFrom(netip.MustParseAddr("10.244.1.1"))
	e, ip := eth4(layers.IPProtocolICMPv4)
	unreachable := frameOf(t, e, ip, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 1)}, gopacket.Payload(make([]byte, 28)))
	e, ip = eth4(layers.IPProtocolUDP)
	ip.FragOffset = 185
	fragment := frameOf(t, e, ip, gopacket.Payload(make([]byte, 100)))
	e, ip = eth4(layers.IPProtocolUDP)
	ip.SrcIP = net.IP{0, 0, 0, 0}
	udp := &layers.UDP{}
	_ = udp.SetNetworkLayerForChecksum(ip)
	nobody := frameOf(t, e, ip, udp)
	for name, frame := range map[string][]byte{"about an error": unreachable, "later fragment": fragment, "no source": nobody} {
		b, p := parsed(t, frame)
		if n := b.ICMPError(make([]byte, 1500), p, &from, HostUnreachable, 0); n != 0 {
			t.Errorf("%s: an ICMP error of %d bytes was made", name, n)
		}
	}
}

func TestTCPReset(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, c := range []struct {
			name     string
			tcp      layers.TCP
			payload  int
			seq, ack uint32
			ackSet   bool
		}{
			{"syn", layers.TCP{Seq: 1000, SYN: true}, 0, 0, 1001, true},
			{"data with ack", layers.TCP{Seq: 1000, Ack: 777, ACK: true}, 10, 777, 0, false},
			{"fin without ack", layers.TCP{Seq: 1000, FIN: true}, 10, 0, 1011, true},
		} {
			tcp := c.tcp
			tcp.SrcPort, tcp.DstPort = 1000, 80
			var frame []byte
			if v6 {
				e, ip := eth6(layers.IPProtocolTCP)
				_ = tcp.SetNetworkLayerForChecksum(ip)
				frame = frameOf(t, e, ip, &tcp, gopacket.Payload(make([]byte, c.payload)))
			} else {
				e, ip := eth4(layers.IPProtocolTCP)
				_ = tcp.SetNetworkLayerForChecksum(ip)
				frame = frameOf(t, e, ip, &tcp, gopacket.Payload(make([]byte, c.payload)))
			}
			b, p := parsed(t, frame)
			buf := make([]byte, 200)
			got := sound(t, buf[:b.TCPReset(buf, p)]).TransportLayer().(*layers.TCP)
			if !got.RST || got.Seq != c.seq || got.Ack != c.ack || got.ACK != c.ackSet || got.SrcPort != 80 || got.DstPort != 1000 {
				t.Errorf("%s, v6 %v: got seq %d ack %d ACK %v ports %d %d", c.name, v6, got.Seq, got.Ack, got.ACK, got.SrcPort, got.DstPort)
			}
		}
	}
	e, ip := eth4(layers.IPProtocolTCP)
	tcp := &layers.TCP{RST: true}
	_ = tcp.SetNetworkLayerForChecksum(ip)
	b, p := parsed(t, frameOf(t, e, ip, tcp))
	if n := b.TCPReset(make([]byte, 200), p); n != 0 {
		t.Error("a reset was answered with a reset")
	}
}

func TestEchoReply(t *testing.T) {
	e, ip := eth4(layers.IPProtocolICMPv4)
	b, p := parsed(t, frameOf(t, e, ip, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 7, Seq: 9}, gopacket.Payload("hello")))
	if !b.EchoReply(p) {
		t.Fatal("no reply to an IPv4 echo request")
	}
	got := sound(t, b.Frame(p))
	if icmp := got.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); icmp.TypeCode.Type() != 0 || icmp.Id != 7 || icmp.Seq != 9 {
		t.Errorf("got %v id %d seq %d", icmp.TypeCode, icmp.Id, icmp.Seq)
	}
	if n := got.NetworkLayer().(*layers.IPv4); !n.DstIP.Equal(testSrc4) || !n.SrcIP.Equal(testDst4) {
		t.Errorf("addresses %s -> %s", n.SrcIP, n.DstIP)
	}
	if b.EchoReply(p) {
		t.Error("an echo reply was answered")
	}

	e, ip6h := eth6(layers.IPProtocolICMPv6)
	icmp6 := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(128, 0)}
	_ = icmp6.SetNetworkLayerForChecksum(ip6h)
	b, p = parsed(t, frameOf(t, e, ip6h, icmp6, &layers.ICMPv6Echo{Identifier: 7, SeqNumber: 9}, gopacket.Payload("hello")))
	if !b.EchoReply(p) {
		t.Fatal("no reply to an IPv6 echo request")
	}
	got = sound(t, b.Frame(p))
	if icmp := got.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); icmp.TypeCode.Type() != 129 {
		t.Errorf("got %v", icmp.TypeCode)
	}
}
