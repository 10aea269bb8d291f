package vswitch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"vswitch/nat"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/fib"
	"vswitch/vswitch/kube/kubetest"
	"vswitch/vswitch/packet"
)

const vip, vip6 = "10.96.0.1", "fd00:96::1"

// serve makes a service at 10.96.0.1:80 and [fd00:96::1]:80, TCP, UDP and SCTP, with
// port 8080 of these addresses behind it.
func (r *rig) serve(affinity time.Duration, endpoints ...string) {
	svc := &cluster.Service{
		Meta: cluster.Meta{Namespace: "x", Name: "web"}, Affinity: affinity,
		ClusterIPs: []netip.Addr{netip.MustParseAddr(vip), netip.MustParseAddr(vip6)},
	}
	lists := map[cluster.IPFamily]*cluster.EndpointSlice{cluster.IPv4: {Family: cluster.IPv4}, cluster.IPv6: {Family: cluster.IPv6}}
	for name, proto := range map[string]uint8{"t": packet.ProtoTCP, "u": packet.ProtoUDP, "s": packet.ProtoSCTP} {
		svc.Ports = append(svc.Ports, cluster.ServicePort{Name: name, Protocol: proto, Port: 80})
		for _, sl := range lists {
			sl.Ports = append(sl.Ports, cluster.EndpointPort{Name: name, Protocol: proto, Port: 8080})
		}
	}
	for _, e := range endpoints {
		a := netip.MustParseAddr(e)
		sl := lists[cluster.FamilyOf(a)]
		sl.Endpoints = append(sl.Endpoints, cluster.Endpoint{Addresses: []netip.Addr{a}, Ready: true, Serving: true})
	}
	r.compile(svc, lists[cluster.IPv4], lists[cluster.IPv6])
}

// compile publishes a service.
func (r *rig) compile(svc *cluster.Service, list ...*cluster.EndpointSlice) {
	c := nat.NewCompiler(nat.Self{Name: "node1"})
	c.SetNodes([]netip.Addr{netip.MustParseAddr(nodeIP)}, nil)
	c.Set(svc, list)
	r.tables.Node4, r.tables.Services = addr(nodeIP), c.Services()
	r.publish()
}

const nodeIP = "172.29.0.1"

func udpPorts(src, dst uint16) *layers.UDP {
	return &layers.UDP{SrcPort: layers.UDPPort(src), DstPort: layers.UDPPort(dst)}
}

func tcpPorts(src, dst uint16, flags ...string) *layers.TCP {
	l := tcp(flags...)
	l.SrcPort, l.DstPort = layers.TCPPort(src), layers.TCPPort(dst)
	return l
}

// where returns who got the only packet that came out, of "b" and the overlay.
func (r *rig) where() string {
	r.t.Helper()
	found := ""
	for name := range r.ends {
		if out := r.got(name); len(out) > 0 {
			if found != "" || len(out) > 1 {
				r.t.Fatalf("packets came out at %s and %s", found, name)
			}
			found = name
			if dst := decode(r.t, out[0].frame).NetworkLayer().NetworkFlow().Dst(); name == "overlay" {
				found = dst.String()
			}
		}
	}
	return found
}

// TestB04ServiceSurvivesRestart: a switch that takes over the connections of another goes
// on with their backends, and knows who had which.
func TestB04ServiceSurvivesRestart(t *testing.T) {
	for name, affinity := range map[string]time.Duration{"connections": 0, "affinity": time.Hour} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "conns")
			const n = 32
			all := []string{podB, "10.244.2.2", "10.244.2.3", "10.244.2.4", "10.244.2.5"}
			var first [n]string
			for boot := range 2 {
				conns, err := nat.Open(nat.Config{Path: path, Max: 1000, BootID: "x"})
				if err != nil {
					t.Fatal(err)
				}
				r := newRigWith(t, Config{Conns: conns})
				r.serve(affinity, all...)
				for i := range n {
					src := uint16(1000 + i)
					if affinity != 0 {
						src = uint16(1000 + i + boot*n) // another connection of the same client
					}
					for range 2 {
						r.send("a", build(t, macGW, macA, podA, vip, udpPorts(src, 80), 10))
						got := r.where()
						if boot == 0 && first[i] == "" {
							first[i] = got
						}
						if got != first[i] {
							t.Fatalf("boot %d, client %d: went to %q, not to %q", boot, i, got, first[i])
						}
					}
				}
				r.sw.Close()
				conns.Close()
			}
		})
	}
}

// TestB16NewOwner: what was meant for a pod behind a service does not reach the next
// owner of its address.
func TestB16NewOwner(t *testing.T) {
	for name, c := range map[string]struct {
		frame func(t *testing.T) []byte
		reset bool
	}{
		"udp": {func(t *testing.T) []byte { return build(t, macGW, macA, podA, vip, udpPorts(1000, 80), 10) }, false},
		"tcp": {func(t *testing.T) []byte { return build(t, macGW, macA, podA, vip, tcpPorts(1000, 80, "ack"), 10) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.serve(0, podB)
			r.send("a", build(t, macGW, macA, podA, vip, tcpPorts(1000, 80, "syn"), 0))
			r.only("b")
			r.send("a", c.frame(t))
			r.only("b")
			r.tables.Ports[r.ids["b"]] = nil
			r.attach("c", PortPod, macB, podB)
			r.serve(0, remote)
			r.sw.Conns().DeleteByAddr(addr(podB)) // as the agent does when a pod goes
			r.send("a", c.frame(t))
			if !c.reset {
				r.only("overlay")
				return
			}
			if l := decode(t, r.only("a").frame).TransportLayer().(*layers.TCP); !l.RST {
				t.Errorf("got %+v", l)
			}
		})
	}
}

// TestCasesConntrackCleanup: which connections end when endpoints change, as their
// next packets find out.
func TestCasesConntrackCleanup(t *testing.T) {
	var file struct {
		ConntrackCleanup struct {
			Service struct {
				Spec struct {
					Ports []struct {
						Name, Protocol string
						Port, NodePort uint16
					}
					ClusterIP   string
					ExternalIPs []string
				}
				Status struct {
					LoadBalancer struct{ Ingress []struct{ IP string } }
				}
			}
			EndpointSlice struct {
				Endpoints []struct {
					Addresses  []string
					Conditions struct{ Serving bool }
				}
				Ports []struct {
					Name, Protocol string
					Port           uint16
				}
			}
			Entries []struct {
				Deleted                   bool
				OrigDst, Proto, ReplySrc  string
				OrigDstPort, ReplySrcPort uint16
			}
		}
	}
	kubetest.Cases(t, "kubeproxy-flows.json", &file)
	c := &file.ConntrackCleanup
	protos := map[string]uint8{"TCP": packet.ProtoTCP, "UDP": packet.ProtoUDP, "SCTP": packet.ProtoSCTP}
	svc := &cluster.Service{Meta: cluster.Meta{Name: "x"}, ClusterIPs: []netip.Addr{netip.MustParseAddr(c.Service.Spec.ClusterIP)}}
	for _, a := range c.Service.Spec.ExternalIPs {
		svc.ExternalIPs = append(svc.ExternalIPs, netip.MustParseAddr(a))
	}
	for _, in := range c.Service.Status.LoadBalancer.Ingress {
		svc.Ingress = append(svc.Ingress, cluster.LBIngress{IP: netip.MustParseAddr(in.IP)})
	}
	for _, p := range c.Service.Spec.Ports {
		svc.Ports = append(svc.Ports, cluster.ServicePort{Name: p.Name, Protocol: protos[p.Protocol], Port: p.Port, NodePort: p.NodePort})
	}
	sl := &cluster.EndpointSlice{Family: cluster.IPv4}
	for _, p := range c.EndpointSlice.Ports {
		sl.Ports = append(sl.Ports, cluster.EndpointPort{Name: p.Name, Protocol: protos[p.Protocol], Port: p.Port})
	}
	for _, e := range c.EndpointSlice.Endpoints {
		sl.Endpoints = append(sl.Endpoints, cluster.Endpoint{
			Addresses: []netip.Addr{netip.MustParseAddr(e.Addresses[0])}, Ready: e.Conditions.Serving, Serving: e.Conditions.Serving,
		})
	}
	if len(c.Entries) == 0 {
		t.Fatal("no entries")
	}
	for i, e := range c.Entries {
		t.Run(fmt.Sprintf("%s %s:%d from %s:%d", e.Proto, e.OrigDst, e.OrigDstPort, e.ReplySrc, e.ReplySrcPort), func(t *testing.T) {
			r := newRig(t)
			r.tables.Routes = r.tables.Routes.Insert(prefix("10.240.0.0/16"), r.tables.Routes.Get(prefix("10.244.2.0/24")))
			r.compile(svc, sl)
			dst := e.OrigDst
			if dst == "" {
				dst = nodeIP
			}
			orig := packet.Tuple{Src: addr(podA), Dst: addr(dst), SrcPort: uint16(2000 + i), DstPort: e.OrigDstPort, Proto: protos[e.Proto]}
			m := nat.Mapping{Reply: orig.Reverse()}
			m.Reply.Src, m.Reply.SrcPort = addr(e.ReplySrc), e.ReplySrcPort
			id, err := r.sw.Conns().CreateMapped(&orig, &m, r.sw.Seconds())
			if err != nil {
				t.Fatal(err)
			}
			r.sw.Conns().Track(id, nat.Original, packet.TCPSyn, r.sw.Seconds())
			var frame []byte
			switch e.Proto {
			case "TCP":
				frame = build(t, macGW, macA, podA, dst, tcpPorts(orig.SrcPort, orig.DstPort, "ack"), 10)
			case "UDP":
				frame = build(t, macGW, macA, podA, dst, udpPorts(orig.SrcPort, orig.DstPort), 10)
			default:
				frame = build(t, macGW, macA, podA, dst, &layers.SCTP{SrcPort: layers.SCTPPort(orig.SrcPort), DstPort: layers.SCTPPort(orig.DstPort)}, 16)
			}
			r.send("a", frame)
			if ended := !r.sw.Conns().Valid(id); ended != e.Deleted {
				t.Errorf("ended: %v, want %v; drops %v", ended, e.Deleted, r.sw.Counters(r.ids["a"]).Drops)
			}
		})
	}
}

// TestOutsideRoute: a client outside gets its answers by the way that leads to it,
// by which no peer's pods go out, and nothing that came in.
func TestOutsideRoute(t *testing.T) {
	r := newRig(t)
	r.attach("outside", PortOutside, [6]byte{})
	r.serve(0, podB)
	const client = "198.51.100.7"
	macC := [6]byte{2, 0, 0, 0, 0, 0xcc}
	r.tables.Routes = r.tables.Routes.Insert(prefix("198.51.100.0/24"), &fib.Hop{Kind: fib.Outside, Port: r.ids["outside"], MTU: 1450, MAC: macC, Name: "outside"})
	r.publish()
	r.send("outside", build(t, macGW, macC, client, vip, tcpPorts(1000, 80, "syn"), 0))
	if got := r.only("b"); [6]byte(got.frame) != macB {
		t.Errorf("MACs %x", got.frame[:12])
	}
	r.send("b", build(t, macGW, macB, podB, client, tcpPorts(8080, 1000, "syn", "ack"), 0))
	got := r.only("outside")
	if src := decode(t, got.frame).NetworkLayer().NetworkFlow().Src().String(); src != vip || [6]byte(got.frame) != macC {
		t.Errorf("the answer comes from %s, MACs %x", src, got.frame[:12])
	}
	// A peer's pod has a way out of its own.
	r.send("overlay", build(t, macVTEP, macPeer, remote, client, udp(), 10))
	if kind := decode(t, r.only("overlay").frame).Layer(layers.LayerTypeICMPv4); kind == nil {
		t.Error("a peer's pod is not told")
	}
	r.dropped("overlay", NoRoute)
	// And nothing goes back to where it came from.
	r.send("outside", build(t, macGW, macC, client, "198.51.100.8", udp(), 10))
	r.only("outside")
	if d := r.sw.Counters(r.ids["outside"]).Drops; d[NoRoute] != 1 {
		t.Errorf("drops %v", d)
	}
	// The frame must be for the node.
	r.send("outside", build(t, macB, macC, client, podB, udp(), 10))
	if d := r.sw.Counters(r.ids["outside"]).Drops; d[UnknownMAC] != 1 {
		t.Errorf("drops %v", d)
	}
}

// TestServiceDoesNotAllocate: neither the first packets of flows to a service nor the
// later ones allocate.
func TestServiceDoesNotAllocate(t *testing.T) {
	r := newRig(t)
	r.serve(0, podB, remote)
	frame := build(t, macGW, macA, podA, vip, udpPorts(1, 80), 10)
	frame[40], frame[41] = 0, 0 // no checksum, so that only ports change below
	w := r.sw.workers[0]
	w.tables, w.now, w.seconds = r.sw.Tables(), r.now, r.sw.Seconds()
	a := r.sw.port(r.ids["a"])
	port := uint16(0)
	pass := func() {
		for range 32 {
			port++
			binary.BigEndian.PutUint16(frame[34:], port)
			w.in.Append(frame)
		}
		w.forward(a)
		w.in.Reset()
	}
	for range 40 { // more than the pipes hold: what is written further on is dropped
		pass()
	}
	if n := testing.AllocsPerRun(20, pass); n != 0 {
		t.Errorf("%v allocations in 32 first packets", n)
	}
	port = 0
	if n := testing.AllocsPerRun(20, pass); n != 0 {
		t.Errorf("%v allocations in 32 packets of known flows", n)
	}
}

// FuzzServiceNAT sends a packet through a service and its answer back, and compares
// both with what gopacket makes from scratch with the other addresses and ports.
func FuzzServiceNAT(f *testing.F) {
	f.Add([]byte("hello"), uint16(1000), uint32(5), false, false, false, uint8(0))
	f.Add([]byte{}, uint16(1), uint32(0xffffffff), true, true, false, uint8(3))
	f.Add(bytes.Repeat([]byte{0xff}, 301), uint16(65535), uint32(0), false, true, true, uint8(1))
	f.Add(bytes.Repeat([]byte{0xff, 0}, 700), uint16(8080), uint32(1<<31), true, false, true, uint8(7))
	f.Fuzz(func(t *testing.T, payload []byte, sport uint16, seq uint32, v6, isUDP, hairpin bool, options uint8) {
		if len(payload) > 1300 || sport == 0 {
			return
		}
		client, front, backend, node := podA, vip, podB, nodeIP
		mac, out := macB, "b"
		if v6 {
			client, front, backend, node = podA6, vip6, podB6, gw6
		}
		if hairpin {
			backend, mac, out = client, macA, "a"
		}
		r := newRig(t)
		r.serve(0, backend)
		layer := func(src, dst uint16) gopacket.SerializableLayer {
			if isUDP {
				return udpPorts(src, dst)
			}
			l := tcpPorts(src, dst, "syn")
			l.Seq, l.Urgent = seq, uint16(seq)
			for range options % 8 {
				l.Options = append(l.Options, layers.TCPOption{OptionType: layers.TCPOptionKindNop})
			}
			return l
		}
		frame := func(dstMAC, srcMAC [6]byte, src, dst string, sp, dp uint16, hop uint8) []byte {
			return buildBody(t, dstMAC, srcMAC, src, dst, layer(sp, dp), payload, ttl(hop))
		}
		sameFrame := func(what string, got, want, sent []byte) {
			t.Helper()
			got, want = bytes.Clone(got), bytes.Clone(want)
			if want = want[:min(len(want), len(got))]; isUDP {
				at := 40
				if v6 {
					at = 60
				}
				was, should := sent[at:at+2], want[at:at+2]
				switch {
				case was[0]|was[1] == 0 && !v6: // there was none
					copy(should, "\x00\x00")
				case should[0]|should[1] == 0: // what comes out as zero is written as its other form
					copy(should, "\xff\xff")
				}
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s:\n got %x\nwant %x", what, got, want)
			}
		}
		seen := client
		if hairpin {
			seen = node
		}
		sent := frame(macGW, macA, client, front, sport, 80, 64)
		r.send("a", sent)
		got := r.only(out)
		sameFrame("question", got.frame, frame(mac, macGW, seen, backend, sport, 8080, 63), sent)
		back := macA // bridged
		hop := uint8(64)
		if hairpin {
			back, hop = macGW, 63
		}
		sent = frame(back, mac, backend, seen, 8080, sport, 64)
		r.send(out, sent)
		got = r.only("a")
		sameFrame("answer", got.frame, frame(macA, macGW, front, client, 80, sport, hop), sent)
	})
}

// TestServiceOfTheNodeItself: behind a service may be the node whose own packets, or those
// that leave with its address, go there. It hears them from the gateway, because no kernel
// takes its own address for somebody else's, and the answers come back translated.
func TestServiceOfTheNodeItself(t *testing.T) {
	r := newEdgeRig(t)
	r.tables.Routes = r.tables.Routes.Insert(netip.MustParsePrefix(node4+"/32"), &fib.Hop{Kind: fib.Host, Port: r.ids["node"], MTU: 1500, Name: "node1"})
	r.serve(0, node4)
	r.send("node", build(t, macGW, [6]byte{}, node4, vip, udpPorts(1000, 80), 10))
	to := decode(t, r.only("node").frame)
	if got := to.NetworkLayer().NetworkFlow().String(); got != gw4+"->"+node4 {
		t.Fatalf("the node hears %s", got)
	}
	l := to.TransportLayer().(*layers.UDP)
	r.send("node", build(t, macGW, [6]byte{}, node4, gw4, udpPorts(uint16(l.DstPort), uint16(l.SrcPort)), 10))
	back := decode(t, r.only("node").frame)
	if got := back.NetworkLayer().NetworkFlow().String() + " " + back.TransportLayer().TransportFlow().String(); got != vip+"->"+node4+" 80->1000" {
		t.Errorf("the answer is %s", got)
	}
}

// TestNodeAlone: what the node may be saying to itself on a connection that began
// beside the switch goes back to it, though a service is at the address and port.
// What begins, and what others say, is the service's.
func TestNodeAlone(t *testing.T) {
	macN := [6]byte{0x0a, 0x58, 172, 29, 0, 1}
	node := func(t *testing.T, l4 gopacket.SerializableLayer) []byte {
		return build(t, macGW, macN, nodeIP, nodeIP, l4, 0)
	}
	for _, tt := range []struct {
		name, from string
		frame      func(t *testing.T) []byte
		to         string // port
		reset      bool
	}{
		{"a beginning", "node", func(t *testing.T) []byte { return node(t, tcpPorts(1000, 80, "syn")) }, "b", false},
		{"a datagram", "node", func(t *testing.T) []byte { return node(t, udpPorts(1000, 80)) }, "b", false},
		{"the middle", "node", func(t *testing.T) []byte { return node(t, tcpPorts(1000, 80, "ack")) }, "node", false},
		{"an answer", "node", func(t *testing.T) []byte { return node(t, tcpPorts(8080, 80, "syn", "ack")) }, "node", false},
		{"an association", "node", func(t *testing.T) []byte {
			l, body := chunks(packet.ChunkInit)
			return buildBody(t, macGW, macN, nodeIP, nodeIP, l, body)
		}, "b", false},
		{"the middle of one", "node", func(t *testing.T) []byte {
			l, body := chunks(0)
			return buildBody(t, macGW, macN, nodeIP, nodeIP, l, body)
		}, "node", false},
		{"a refusal", "node", func(t *testing.T) []byte { return node(t, tcpPorts(8080, 80, "rst", "ack")) }, "node", false},
		{"at a port of no service", "node", func(t *testing.T) []byte { return node(t, tcpPorts(1000, 81, "syn")) }, "node", false},
		{"the middle, of a pod", "a", func(t *testing.T) []byte {
			return build(t, macGW, macA, podA, nodeIP, tcpPorts(1000, 80, "ack"), 0)
		}, "a", true},
		{"the middle, at a cluster IP", "node", func(t *testing.T) []byte {
			return build(t, macGW, macN, nodeIP, vip, tcpPorts(1000, 80, "ack"), 0)
		}, "node", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.attach("node", PortNode, macN, nodeIP)
			r.tables.Routes = r.tables.Routes.Insert(prefix(nodeIP+"/32"), &fib.Hop{Kind: fib.Host, Port: r.ids["node"], MTU: 1450, MAC: macN, Name: "node1"})
			svc := &cluster.Service{
				Meta: cluster.Meta{Namespace: "x", Name: "web"}, ClusterIPs: []netip.Addr{netip.MustParseAddr(vip)}, ExternalIPs: []netip.Addr{netip.MustParseAddr(nodeIP)},
				Ports: []cluster.ServicePort{{Name: "t", Protocol: packet.ProtoTCP, Port: 80}, {Name: "u", Protocol: packet.ProtoUDP, Port: 80}, {Name: "s", Protocol: packet.ProtoSCTP, Port: 80}},
			}
			r.compile(svc, &cluster.EndpointSlice{Family: cluster.IPv4,
				Ports:     []cluster.EndpointPort{{Name: "t", Protocol: packet.ProtoTCP, Port: 8080}, {Name: "u", Protocol: packet.ProtoUDP, Port: 8080}, {Name: "s", Protocol: packet.ProtoSCTP, Port: 8080}},
				Endpoints: []cluster.Endpoint{{Addresses: []netip.Addr{netip.MustParseAddr(podB)}, Ready: true, Serving: true}}})
			sent := tt.frame(t)
			for range 2 { // the second time by the flow, where there is one
				r.send(tt.from, sent)
				got := decode(t, r.only(tt.to).frame).TransportLayer()
				if l, ok := got.(*layers.TCP); tt.reset != (ok && l.RST && l.DstPort == 1000) {
					t.Errorf("reset %v, want %v: %+v", !tt.reset, tt.reset, got)
				}
				if want := decode(t, sent).TransportLayer(); tt.to == "node" && !tt.reset && !bytes.Equal(got.LayerContents(), want.LayerContents()) {
					t.Errorf("%+v came back as %+v", want, got)
				}
			}
		})
	}
}
