package l2

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"vswitch/vswitch/packet"
)

var (
	alice = [6]byte{2, 0, 0, 0, 0, 0xa}
	bob   = [6]byte{2, 0, 0, 0, 0, 0xb}
)

func addr(s string) packet.Addr { return packet.AddrFrom(netip.MustParseAddr(s)) }

// serialize builds a frame with gopacket, lengths and checksums as given by o.
func serialize(t testing.TB, o gopacket.SerializeOptions, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, o, ls...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(buf.Bytes())
}

// arpFrame builds an ARP frame with gopacket, without the padding that it adds.
func arpFrame(t testing.TB, op uint16, sha [6]byte, spa string, tha [6]byte, tpa string) []byte {
	return serialize(t, gopacket.SerializeOptions{},
		&layers.Ethernet{SrcMAC: sha[:], DstMAC: broadcast[:], EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: op,
			SourceHwAddress: sha[:], SourceProtAddress: netip.MustParseAddr(spa).AsSlice(),
			DstHwAddress: tha[:], DstProtAddress: netip.MustParseAddr(tpa).AsSlice(),
		})[:ARPLen]
}

func TestParseARP(t *testing.T) {
	none := [6]byte{}
	good := arpFrame(t, 1, alice, "10.0.0.1", none, "10.0.0.2")
	change := func(at int, v ...byte) []byte {
		f := bytes.Clone(good)
		copy(f[at:], v)
		return f
	}
	for _, c := range []struct {
		name  string
		frame []byte
		want  *ARP
	}{
		{"request", good, &ARP{Op: 1, SenderMAC: alice, SenderIP: addr("10.0.0.1"), TargetIP: addr("10.0.0.2")}},
		{"reply", arpFrame(t, 2, alice, "10.0.0.1", bob, "10.0.0.2"), &ARP{Op: 2, SenderMAC: alice, SenderIP: addr("10.0.0.1"), TargetMAC: bob, TargetIP: addr("10.0.0.2")}},
		{"probe", arpFrame(t, 1, alice, "0.0.0.0", none, "10.0.0.2"), &ARP{Op: 1, SenderMAC: alice, SenderIP: addr("0.0.0.0"), TargetIP: addr("10.0.0.2")}},
		{"reply_to_probe", arpFrame(t, 2, alice, "10.0.0.1", bob, "0.0.0.0"), &ARP{Op: 2, SenderMAC: alice, SenderIP: addr("10.0.0.1"), TargetMAC: bob, TargetIP: addr("0.0.0.0")}},
		{"padded", append(bytes.Clone(good), make([]byte, 18)...), &ARP{Op: 1, SenderMAC: alice, SenderIP: addr("10.0.0.1"), TargetIP: addr("10.0.0.2")}},
		{"reserved", arpFrame(t, 1, alice, "240.0.0.1", none, "240.0.0.2"), &ARP{Op: 1, SenderMAC: alice, SenderIP: addr("240.0.0.1"), TargetIP: addr("240.0.0.2")}},
		{"empty", nil, nil},
		{"short", good[:41], nil},
		{"ethertype", change(12, 0x08, 0x00), nil},
		{"hardware", change(14, 0, 6), nil},
		{"protocol", change(16, 0x86, 0xdd), nil},
		{"hardware_length", change(18, 8), nil},
		{"protocol_length", change(19, 16), nil},
		{"operation_0", change(20, 0, 0), nil},
		{"rarp", change(20, 0, 3), nil},
		{"operation_high", change(20, 1, 1), nil},
		{"sender_group", change(22, 1), nil},
		{"sender_zero_mac", change(22, 0, 0, 0, 0, 0, 0), nil},
		{"sender_multicast", arpFrame(t, 1, alice, "224.0.0.1", none, "10.0.0.2"), nil},
		{"sender_broadcast", arpFrame(t, 1, alice, "255.255.255.255", none, "10.0.0.2"), nil},
		{"reply_unspecified", arpFrame(t, 2, alice, "0.0.0.0", bob, "10.0.0.2"), nil},
		{"target_unspecified", arpFrame(t, 1, alice, "10.0.0.1", none, "0.0.0.0"), nil},
		{"target_multicast", arpFrame(t, 1, alice, "10.0.0.1", none, "239.1.1.1"), nil},
		{"target_broadcast", arpFrame(t, 1, alice, "10.0.0.1", none, "255.255.255.255"), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := ParseARP(c.frame)
			if ok != (c.want != nil) {
				t.Fatalf("ok %v: %+v", ok, got)
			}
			if c.want == nil {
				c.want = new(ARP)
			}
			if d := cmp.Diff(*c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestARPKinds(t *testing.T) {
	for _, c := range []struct {
		op                         uint16
		spa, tpa                   string
		request, probe, announcing bool
	}{
		{1, "10.0.0.1", "10.0.0.2", true, false, false},
		{2, "10.0.0.1", "10.0.0.2", false, false, false},
		{1, "0.0.0.0", "10.0.0.2", true, true, false},
		{1, "10.0.0.1", "10.0.0.1", true, false, true},
		{2, "10.0.0.1", "10.0.0.1", false, false, true},
	} {
		a, ok := ParseARP(arpFrame(t, c.op, alice, c.spa, [6]byte{}, c.tpa))
		if !ok || a.Request() != c.request || a.SenderUnspecified() != c.probe || a.Announcement() != c.announcing {
			t.Errorf("%+v: %v %v %v %v, want %+v", a, ok, a.Request(), a.SenderUnspecified(), a.Announcement(), c)
		}
	}
}

// decodeARP reads a frame with gopacket.
func decodeARP(t testing.TB, f []byte) (*layers.Ethernet, *layers.ARP) {
	t.Helper()
	p := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Fatal(e.Error())
	}
	return p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet), p.Layer(layers.LayerTypeARP).(*layers.ARP)
}

func TestARPReply(t *testing.T) {
	for _, sender := range []string{"10.0.0.1", "0.0.0.0"} {
		q, ok := ParseARP(arpFrame(t, 1, alice, sender, [6]byte{}, "10.0.0.2"))
		if !ok {
			t.Fatal("request refused")
		}
		buf := bytes.Repeat([]byte{0xee}, 100) // what is left from before must not shine through
		f := q.Reply(buf, bob)
		want := arpFrame(t, 2, bob, "10.0.0.2", alice, sender)
		copy(want, alice[:])
		if !bytes.Equal(f, want) {
			t.Errorf("got %x\nwant %x", f, want)
		}
		eth, arp := decodeARP(t, f)
		if !bytes.Equal(eth.DstMAC, alice[:]) || arp.Operation != layers.ARPReply || !bytes.Equal(arp.SourceHwAddress, bob[:]) {
			t.Errorf("%+v %+v", eth, arp)
		}
		if len(f) != ARPLen || buf[ARPLen] != 0xee {
			t.Error("wrote behind the frame")
		}
	}
}

func TestGratuitousARP(t *testing.T) {
	f := GratuitousARP(bytes.Repeat([]byte{0xee}, ARPLen), bob, addr("10.0.0.2"))
	if want := arpFrame(t, 1, bob, "10.0.0.2", [6]byte{}, "10.0.0.2"); !bytes.Equal(f, want) {
		t.Errorf("got %x\nwant %x", f, want)
	}
	if a, ok := ParseARP(f); !ok || !a.Announcement() {
		t.Errorf("%+v %v", a, ok)
	}
}

func TestARPAllocates(t *testing.T) {
	frame := arpFrame(t, 1, alice, "10.0.0.1", [6]byte{}, "10.0.0.2")
	buf := make([]byte, 128)
	ip := addr("10.0.0.2")
	if n := testing.AllocsPerRun(100, func() {
		a, _ := ParseARP(frame)
		a.Reply(buf, bob)
		GratuitousARP(buf, bob, ip)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
