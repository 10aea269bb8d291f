package vswitch

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"vswitch/nat"
	"vswitch/vswitch/fib"
	"vswitch/vswitch/packet"
)

// families runs a test for IPv4 and IPv6 with the addresses of both.
func families(t *testing.T, f func(t *testing.T, a, b, far, gw string)) {
	t.Run("v4", func(t *testing.T) { f(t, podA, podB, remote, gw4) })
	t.Run("v6", func(t *testing.T) { f(t, podA6, podB6, remote6, gw6) })
}

func decode(t *testing.T, frame []byte) gopacket.Packet {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Fatal(e.Error())
	}
	return p
}

func hops(t *testing.T, frame []byte) uint8 {
	switch h := decode(t, frame).NetworkLayer().(type) {
	case *layers.IPv4:
		return h.TTL
	case *layers.IPv6:
		return h.HopLimit
	}
	t.Fatal("not IP")
	return 0
}

// TestBridge: between pods of a node frames pass unchanged, the first as the tenth.
func TestBridge(t *testing.T) {
	families(t, func(t *testing.T, a, b, _, _ string) {
		r := newRig(t)
		frame := build(t, macB, macA, a, b, udp(), 100)
		for range 10 {
			r.send("a", frame)
			if got := r.only("b"); !bytes.Equal(got.frame, frame) {
				t.Fatalf("a bridged frame changed:\n got %x\nwant %x", got.frame, frame)
			}
		}
		if n := r.sw.Conns().Len(); n != 1 {
			t.Errorf("%d connections for one flow", n)
		}
	})
}

// TestRoute: through the gateway a frame gets new MACs and loses one hop.
func TestRoute(t *testing.T) {
	families(t, func(t *testing.T, a, b, far, _ string) {
		r := newRig(t)
		for name, c := range map[string]struct {
			dst, out string
			mac, src [6]byte
		}{
			"local pod": {b, "b", macB, macGW},
			"peer":      {far, "overlay", macPeer, macVTEP},
		} {
			for i := range 3 {
				r.send("a", build(t, macGW, macA, a, c.dst, udp(), 100))
				got := r.only(c.out)
				if [6]byte(got.frame) != c.mac || [6]byte(got.frame[6:]) != c.src {
					t.Errorf("%s, packet %d: MACs %x", name, i, got.frame[:12])
				}
				if h := hops(t, got.frame); h != 63 {
					t.Errorf("%s, packet %d: TTL %d, want 63", name, i, h)
				}
				if c.out == "overlay" && got.Peer != testPeer {
					t.Errorf("%s, packet %d: for peer %d", name, i, got.Peer)
				}
			}
		}
	})
}

func TestFromPeer(t *testing.T) {
	families(t, func(t *testing.T, a, b, far, _ string) {
		r := newRig(t)
		for range 3 {
			r.send("overlay", build(t, macVTEP, macPeer, far, b, udp(), 100))
			got := r.only("b")
			if [6]byte(got.frame) != macB || [6]byte(got.frame[6:]) != macGW || hops(t, got.frame) != 63 {
				t.Errorf("got %s", describe(got.frame))
			}
		}
		// Its own pods only.
		r.send("overlay", build(t, macVTEP, macPeer, a, b, udp(), 100))
		r.none("overlay", Spoofed)
	})
}

func TestSpoofed(t *testing.T) {
	families(t, func(t *testing.T, a, b, far, _ string) {
		for name, frame := range map[string][]byte{
			"address of a neighbor": build(t, macGW, macA, b, far, udp(), 10),
			"address of a stranger": build(t, macGW, macA, far, b, udp(), 10),
			"MAC of a neighbor":     build(t, macGW, macB, a, b, udp(), 10),
		} {
			t.Run(name, func(t *testing.T) {
				r := newRig(t)
				r.send("a", frame)
				r.none("a", Spoofed)
			})
		}
		// Not even in a flow that is known.
		r := newRig(t)
		r.send("a", build(t, macB, macA, a, b, udp(), 10))
		r.only("b")
		r.send("a", build(t, macB, macGW, a, b, udp(), 10))
		r.none("a", Spoofed)
	})
}

// TestBridgedToOther: a frame whose MAC is not that of the owner of its
// destination is not delivered, also in a known flow.
func TestBridgedToOther(t *testing.T) {
	r := newRig(t)
	r.send("a", build(t, macB, macA, podA, podB, udp(), 10))
	r.only("b")
	r.send("a", build(t, [6]byte{2, 9, 9, 9, 9, 9}, macA, podA, podB, udp(), 10))
	r.none("a", UnknownMAC)
}

func TestUnreachable(t *testing.T) {
	for name, c := range map[string]struct{ src, dst string }{
		"no pod has it":      {podA, "10.244.1.77"},
		"no route":           {podA, "192.0.2.1"},
		"no route, IPv6":     {podA6, "2001:db8::1"},
		"IPv6 of no node":    {podA6, "fd00:10:244:9::1"},
		"pod of a lost node": {podA, "10.244.3.3"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.send("a", build(t, macGW, macA, c.src, c.dst, tcp("syn"), 0))
			got := decode(t, r.only("a").frame)
			if icmp, ok := got.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok {
				if icmp.TypeCode != layers.CreateICMPv4TypeCode(3, 1) {
					t.Errorf("got %v", icmp.TypeCode)
				}
			} else if icmp, ok := got.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); !ok || icmp.TypeCode != layers.CreateICMPv6TypeCode(1, 3) {
				t.Errorf("got %v", got)
			}
			r.dropped("a", NoRoute)
		})
	}
}

// TestMeeting: before a node has met another one, it does not say that an
// address of the cluster is nobody's.
func TestMeeting(t *testing.T) {
	for _, c := range []struct {
		dst     string
		meeting bool
		want    Reason
	}{
		{"10.244.9.9", true, Starting},
		{"10.244.9.9", false, NoRoute},
		{"192.0.2.9", true, NoRoute}, // nobody's of the cluster
	} {
		r := newRig(t)
		r.tables.Cluster = r.tables.Cluster.Insert(netip.MustParsePrefix("10.244.0.0/16"), &fib.Hop{Kind: fib.Unreachable})
		r.tables.Meeting = c.meeting
		r.publish()
		r.send("a", build(t, macGW, macA, podA, c.dst, tcp("syn"), 0))
		if c.want == Starting {
			r.none("a", Starting)
			continue
		}
		r.only("a") // who asks is told
		r.dropped("a", c.want)
	}
}

// TestTraceroute: the hop limit ends at the gateway, for first packets and
// known flows.
func TestTraceroute(t *testing.T) {
	families(t, func(t *testing.T, a, _, far, gw string) {
		r := newRig(t)
		for _, first := range []bool{true, false} {
			if !first {
				r.send("a", build(t, macGW, macA, a, far, udp(), 10))
				r.only("overlay")
			}
			r.send("a", build(t, macGW, macA, a, far, udp(), 10, ttl(1)))
			got := decode(t, r.only("a").frame)
			if src := got.NetworkLayer().NetworkFlow().Src().String(); src != gw {
				t.Errorf("time exceeded from %s, want %s", src, gw)
			}
			icmp4, _ := got.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
			icmp6, _ := got.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
			if icmp4 != nil && icmp4.TypeCode.Type() != 11 || icmp6 != nil && icmp6.TypeCode.Type() != 3 || icmp4 == nil && icmp6 == nil {
				t.Errorf("got %v", got)
			}
		}
	})
}

func TestB12TooBig(t *testing.T) {
	r := newRig(t)
	r.send("a", build(t, macGW, macA, podA, remote, udp(), 1450, df))
	icmp := decode(t, r.only("a").frame).Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
	if icmp.TypeCode != layers.CreateICMPv4TypeCode(3, 4) || icmp.Seq != 1450 {
		t.Errorf("got %v, MTU %d", icmp.TypeCode, icmp.Seq)
	}
	r.dropped("a", TooBig)

	r = newRig(t)
	r.send("a", build(t, macGW, macA, podA6, remote6, udp(), 1450))
	icmp6 := decode(t, r.only("a").frame).Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
	if icmp6.TypeCode != layers.CreateICMPv6TypeCode(2, 0) {
		t.Errorf("got %v", icmp6.TypeCode)
	}

	// IPv4 that may be cut is cut.
	r = newRig(t)
	r.send("a", build(t, macGW, macA, podA, remote, udp(), 4000))
	total := 0
	for _, p := range r.got("overlay") {
		ip := decode(t, p.frame).NetworkLayer().(*layers.IPv4)
		if int(ip.Length) > 1450 || ip.TTL != 63 || p.Peer != testPeer {
			t.Errorf("a fragment of %d bytes, TTL %d, peer %d", ip.Length, ip.TTL, p.Peer)
		}
		total += len(ip.Payload)
	}
	if total != 4008 {
		t.Errorf("fragments hold %d bytes, want 4008", total)
	}
}

// TestMSSClamp: a pod with a large MTU hears of a smaller way in the handshake.
func TestMSSClamp(t *testing.T) {
	r := newRig(t)
	*r.tables.Ports[r.ids["a"]] = PortInfo{Kind: PortPod, Name: "a", MAC: macA, MTU: 9000, Addrs: []packet.Addr{addr(podA), addr(podA6)}}
	r.publish()
	syn := tcp("syn")
	syn.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{0x23, 0x00}}}
	for dst, want := range map[string][2]byte{remote: {0x05, 0x82}, podB: {0x05, 0x82}} { // 1450 - 40
		r.send("a", build(t, macGW, macA, podA, dst, syn, 0))
		out := append(r.got("overlay"), r.got("b")...)
		if len(out) != 1 {
			t.Fatalf("%d packets", len(out))
		}
		opts := decode(t, out[0].frame).TransportLayer().(*layers.TCP).Options
		if [2]byte(opts[0].OptionData) != want {
			t.Errorf("to %s: MSS %x, want %x", dst, opts[0].OptionData, want)
		}
	}
}

func TestGatewayAnswers(t *testing.T) {
	r := newRig(t)
	echo := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 3, Seq: 4}
	r.send("a", build(t, macGW, macA, podA, gw4, echo, 56))
	got := r.only("a")
	if icmp := decode(t, got.frame).Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); icmp.TypeCode.Type() != 0 || icmp.Seq != 4 {
		t.Errorf("got %v", icmp)
	}
	if [6]byte(got.frame) != macA || [6]byte(got.frame[6:]) != macGW {
		t.Errorf("MACs %x", got.frame[:12])
	}
	// A peer's pod may ping it, too.
	r.send("overlay", build(t, macVTEP, macPeer, remote, gw4, echo, 56))
	if got := r.only("overlay"); got.Peer != testPeer || [6]byte(got.frame) != macPeer {
		t.Errorf("reply to peer %d, %x", got.Peer, got.frame[:12])
	}
	r.send("a", build(t, macGW, macA, podA, gw4, tcp("syn"), 0))
	if l := decode(t, r.only("a").frame).TransportLayer().(*layers.TCP); !l.RST || l.Ack != 6 {
		t.Errorf("a SYN to the gateway got %+v", l)
	}
	r.send("a", build(t, macGW, macA, podA, gw4, udp(), 10))
	if icmp := decode(t, r.only("a").frame).Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); icmp.TypeCode != layers.CreateICMPv4TypeCode(3, 3) {
		t.Errorf("UDP to the gateway got %v", icmp.TypeCode)
	}
}

// TestB15AddressReuse: when a pod's address moves, the next packet of a running
// flow goes to the new owner.
func TestB15AddressReuse(t *testing.T) {
	r := newRig(t)
	frame := build(t, macGW, macA, podA, podB, udp(), 10)
	for range 3 {
		r.send("a", frame)
		r.only("b")
	}
	r.attach("c", PortPod, macB, podB)
	r.tables.Ports[r.ids["b"]] = nil
	r.publish()
	r.send("a", frame)
	r.only("c")
	// And to another node.
	r.tables.Routes = r.tables.Routes.Insert(prefix(podB+"/32"), &fib.Hop{Kind: fib.Peer, Port: r.ids["overlay"], Peer: testPeer, MTU: 1450, MAC: macPeer})
	r.publish()
	r.send("a", frame)
	r.only("overlay")
}

// TestFlowsAreCounted: what a flow counted is known soon after it paused, for a
// flow of one packet, too.
func TestFlowsAreCounted(t *testing.T) {
	for name, c := range map[string]struct {
		frame []byte
		n     uint64
	}{
		"one packet": {build(t, macB, macA, podA, podB, udp(), 100), 1},
		"ten":        {build(t, macB, macA, podA, podB, udp(), 100), 10},
		"a SYN":      {build(t, macB, macA, podA, podB, tcp("syn"), 100), 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			for range c.n {
				r.send("a", c.frame)
			}
			r.now += 2 * time.Second
			r.sw.Step()
			r.sw.Conns().All(func(i nat.Info) bool {
				if i.Packets != [2]uint64{c.n} || i.Bytes != [2]uint64{c.n * uint64(len(c.frame))} {
					t.Errorf("counted %d packets and %d bytes, want %d of %d", i.Packets, i.Bytes, c.n, len(c.frame))
				}
				return true
			})
			if n := r.sw.Conns().Len(); n != 1 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// TestGivenUpFlowsAreCounted: a flow that another one takes the place of has not
// counted for nothing.
func TestGivenUpFlowsAreCounted(t *testing.T) {
	const conns = 250 // of two flows each, more than there is room for
	r := newRigWith(t, Config{MaxFlows: 256})
	var sent uint64
	for i := range conns {
		there, back := udp(), udp()
		there.SrcPort, there.DstPort = layers.UDPPort(1000+i), 53
		back.SrcPort, back.DstPort = there.DstPort, there.SrcPort
		frame := build(t, macB, macA, podA, podB, there, 100)
		sent = uint64(len(frame))
		r.send("a", frame)
		r.send("a", frame)
		r.send("b", build(t, macA, macB, podB, podA, back, 100))
	}
	r.now += 2 * time.Second
	r.sw.Step()
	n := 0
	r.sw.Conns().All(func(i nat.Info) bool {
		if n++; i.Packets != [2]uint64{2, 1} || i.Bytes != [2]uint64{2 * sent, sent} {
			t.Errorf("%v: %d packets of %d bytes, want 2 and 1 of %d", i.Orig, i.Packets, i.Bytes, sent)
		}
		return true
	})
	if n != conns {
		t.Errorf("%d connections, want %d", n, conns)
	}
}

// TestNothingBeforeTables: a port that the tables do not know forwards nothing.
func TestNothingBeforeTables(t *testing.T) {
	r := newRig(t)
	r.tables.Ports[r.ids["a"]] = nil
	r.publish()
	r.send("a", build(t, macB, macA, podA, podB, udp(), 10))
	r.none("a", NotAttached)
}

func TestMalformed(t *testing.T) {
	good := build(t, macB, macA, podA, podB, udp(), 100)
	for name, frame := range map[string][]byte{
		"truncated header": good[:30],
		"truncated packet": good[:60],
		"nonsense":         bytes.Repeat([]byte{0x45}, 64),
		"short":            good[:15],
	} {
		r := newRig(t)
		r.send("a", frame)
		for _, p := range []string{"a", "b", "overlay"} {
			if out := r.got(p); len(out) > 0 {
				t.Errorf("%s: came out at %s", name, p)
			}
		}
		d := r.sw.Counters(r.ids["a"]).Drops
		if d[Malformed]+d[UnknownEtherType] != 1 {
			t.Errorf("%s: drops %v", name, d)
		}
	}
}

// TestPanicIsContained: a packet whose descriptor makes packet code panic dies;
// those around it do not.
func TestPanicIsContained(t *testing.T) {
	r := newRig(t)
	good := build(t, macB, macA, podA, podB, udp(), 100)
	r.batch.Reset()
	for range 3 {
		r.batch.Append(good)
	}
	if n, err := r.ends["a"].Write(r.batch, []uint16{0, 1, 2}); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	// The worker's own batch is used, with the middle packet pointing nowhere.
	w := r.sw.workers[0]
	a := r.sw.port(r.ids["a"])
	if n, err := a.port.Read(w.in, 3); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	w.now, w.seconds, w.tables = r.now, uint32(r.now/time.Second), r.sw.Tables()
	w.in.Packets[1].Off = 1 << 30
	w.forward(a)
	w.in.Reset()
	if out := r.got("b"); len(out) != 2 {
		t.Errorf("%d packets came out, want 2", len(out))
	}
}

func TestMulticast(t *testing.T) {
	r := newRig(t)
	r.attach("c", PortPod, [6]byte{2, 0, 0, 0, 0, 9}, "10.244.1.4")
	r.publish()
	frame := build(t, [6]byte{0x01, 0, 0x5e, 0, 0, 0xfb}, macA, podA, "224.0.0.251", udp(), 50)
	r.send("a", frame)
	for _, name := range []string{"b", "c"} {
		if out := r.got(name); len(out) != 1 || !bytes.Equal(out[0].frame, frame) {
			t.Errorf("%d packets at %s", len(out), name)
		}
	}
	if len(r.got("a")) != 0 || len(r.got("overlay")) != 0 {
		t.Error("multicast went back, or to another node")
	}
	for range 3000 {
		r.send("a", frame)
	}
	if d := r.sw.Counters(r.ids["a"]).Drops[MulticastLimit]; d < 2000 {
		t.Errorf("%d of 3000 packets were over the limit", d)
	}
}

func TestICMPErrorRelated(t *testing.T) {
	r := newRig(t)
	flow := build(t, macGW, macA, podA, remote, udp(), 100)
	r.send("a", flow)
	r.only("overlay")
	icmp := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4), Seq: 1300}
	quote := func(inner []byte) []byte {
		f := build(t, macVTEP, macPeer, remote, podA, icmp, 0)
		eth, ip := f[:14], f[14:34]
		buf := gopacket.NewSerializeBuffer()
		h := &layers.IPv4{Version: 4, TTL: 64, Protocol: 1, SrcIP: ip[12:16], DstIP: ip[16:20]}
		if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
			h, icmp, gopacket.Payload(inner[14:60])); err != nil {
			t.Fatal(err)
		}
		return append(bytes.Clone(eth), buf.Bytes()...)
	}
	r.send("overlay", quote(flow))
	r.only("a")
	// About a flow that nobody had: dropped.
	r.send("overlay", quote(build(t, macGW, macA, podA, remote, &layers.UDP{SrcPort: 1, DstPort: 2}, 100)))
	r.none("overlay", UnrelatedICMP)
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
