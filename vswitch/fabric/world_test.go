package fabric

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// world is three nodes with pods, clients outside, and services, in the hands of
// a test. Pods a and b are on n1, c and d on n2, e on n3; the client comes in at
// n1, although n2 knows a way to it, too. x is in addresses the family.
type world struct {
	*testing.T
	f     *Fabric
	now   time.Duration
	state *cluster.State
	v6    bool
	ends  map[string]*port.PipeEnd // by short name
	pods  map[string]*Pod
	batch *packet.Batch
}

var (
	macClient = [6]byte{2, 0xcc, 0, 0, 0, 1}
	macHost   = [6]byte{2, 0xcc, 0, 0, 0, 2}
)

// edge returns the node and the MAC of who is at a port that is no pod's: a client
// outside, or a node itself.
func (w *world) edge(name string) (*Node, [6]byte) {
	switch name {
	case "client":
		return w.f.Node("n1"), macClient
	case "elsewhere":
		return w.f.Node("n2"), macClient
	}
	return w.f.Node(name), macHost
}

// host makes a node somebody who can send and hear.
func (w *world) host(node string) {
	w.Helper()
	end, err := w.f.Node(node).Host(macHost)
	must(w.T, err)
	w.ends[node] = end
}

// inFamilies runs a test in worlds of both families.
func inFamilies(t *testing.T, cfg agent.ServiceConfig, f func(w *world)) {
	for name, v6 := range map[string]bool{"v4": false, "v6": true} {
		t.Run(name, func(t *testing.T) { f(newWorld(t, cfg, v6)) })
	}
}

func newWorld(t *testing.T, cfg agent.ServiceConfig, v6 bool) *world {
	return newWorldOf(t, Config{Services: cfg}, v6)
}

// newWorldOf makes a world whose nodes have tables of that size.
func newWorldOf(t *testing.T, cfg Config, v6 bool) *world {
	t.Helper()
	w := &world{T: t, v6: v6, now: time.Hour, ends: map[string]*port.PipeEnd{}, pods: map[string]*Pod{}, batch: packet.NewBatch()}
	cfg.Services.CIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/112")}
	addr := netip.MustParseAddr
	var o cluster.Objects
	pods := []string{"", "a b", "c d", "e"}
	for i := 1; i <= 3; i++ {
		n := &cluster.Node{
			Meta:      cluster.Meta{Name: fmt.Sprintf("n%d", i)},
			Addresses: []netip.Addr{addr(fmt.Sprintf("172.29.0.%d", i)), addr(fmt.Sprintf("fd00:10:29::%d", i))},
			PodCIDRs:  []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%d::/64", i))},
		}
		o.Nodes = append(o.Nodes, n)
		for k, name := range strings.Fields(pods[i]) {
			o.Pods = append(o.Pods, &cluster.Pod{
				Meta: cluster.Meta{Namespace: "x", Name: name}, Node: n.Name, Phase: cluster.PodRunning, Ready: true,
				IPs: []netip.Addr{addr(fmt.Sprintf("10.244.%d.%d", i, k+2)), addr(fmt.Sprintf("fd00:10:244:%d::%d", i, k+2))},
			})
		}
	}
	w.state = o.State()
	var err error
	cfg.Inline, cfg.Clock = true, func() time.Duration { return w.now }
	w.f, err = FromState(w.state, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.f.Close)
	for _, p := range w.f.Pods {
		name := strings.TrimPrefix(p.Name, "x/")
		w.pods[name], w.ends[name] = p, p.End
	}
	for name, node := range map[string]string{"client": "n1", "elsewhere": "n2"} {
		w.ends[name], err = w.f.Node(node).Outside(macClient, 1500, netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("2001:db8:1::/48"))
		if err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// ip returns the address of a pod, the client, a node or a name of service.
func (w *world) ip(name string) netip.Addr {
	known := map[string][2]string{
		"client": {"198.51.100.7", "2001:db8:1::7"}, "stranger": {"203.0.113.77", "2001:db8:77::1"},
		"n1": {"172.29.0.1", "fd00:10:29::1"}, "n2": {"172.29.0.2", "fd00:10:29::2"}, "n3": {"172.29.0.3", "fd00:10:29::3"},
		"vip": {"10.96.0.1", "fd00:96::1"}, "free": {"10.96.0.99", "fd00:96::99"}, "lb": {"203.0.113.5", "2001:db8:5::5"},
	}
	i := 0
	if w.v6 {
		i = 1
	}
	if p := w.pods[name]; p != nil {
		return p.IPs[i].Addr()
	}
	return netip.MustParseAddr(known[name][i])
}

// at is ip with a port.
func (w *world) at(name string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(w.ip(name), port)
}

// serve makes "x/web" a service at vip:80, lb:80 and node port 30080, TCP and UDP,
// with these pods' port 8080 behind it: "c" is ready, "-c" terminating and serving,
// "!c" terminating and not serving.
func (w *world) serve(endpoints string, change ...func(*cluster.Service)) {
	w.Helper()
	svc := &cluster.Service{
		Meta: cluster.Meta{Namespace: "x", Name: "web"}, Type: cluster.ServiceLoadBalancer,
		ClusterIPs: []netip.Addr{w.ip("vip")}, Ingress: []cluster.LBIngress{{IP: w.ip("lb")}},
		Ports: []cluster.ServicePort{
			{Name: "t", Protocol: packet.ProtoTCP, Port: 80, NodePort: 30080}, {Name: "u", Protocol: packet.ProtoUDP, Port: 80, NodePort: 30080},
		},
	}
	for _, f := range change {
		f(svc)
	}
	sl := &cluster.EndpointSlice{
		Meta:   cluster.Meta{Namespace: "x", Name: "web-1", Labels: map[string]string{cluster.LabelServiceName: "web"}},
		Family: cluster.FamilyOf(w.ip("vip")),
		Ports:  []cluster.EndpointPort{{Name: "t", Protocol: packet.ProtoTCP, Port: 8080}, {Name: "u", Protocol: packet.ProtoUDP, Port: 8080}, {Name: "s", Protocol: packet.ProtoSCTP, Port: 8080}},
	}
	for _, s := range strings.Fields(endpoints) {
		name := strings.TrimLeft(s, "-!")
		sl.Endpoints = append(sl.Endpoints, cluster.Endpoint{
			Addresses: []netip.Addr{w.ip(name)}, Node: w.pods[name].Node.Name,
			Ready: s == name, Serving: s[0] != '!', Terminating: s != name,
		})
	}
	next := *w.state
	next.Services = next.Services.With(svc.Key(), svc)
	next.EndpointSlices = next.EndpointSlices.With(sl.Key(), sl)
	w.f.Follow(w.state.Diff(&next))
	w.state = &next
}

func local(s *cluster.Service) { s.ExternalLocal = true }

// seg is a packet as a test means it.
type seg struct {
	src, dst netip.AddrPort
	udp      bool
	flags    string // of TCP: S, A, F, R
	payload  []byte
	ttl      uint8 // 0: 64
	df       bool
}

func (s seg) reverse(flags string) seg {
	s.src, s.dst, s.flags, s.ttl = s.dst, s.src, flags, 0
	return s
}

// frame serializes the packet.
func (s seg) frame(t *testing.T, dst, src [6]byte) []byte {
	t.Helper()
	eth := &layers.Ethernet{DstMAC: dst[:], SrcMAC: src[:], EthernetType: layers.EthernetTypeIPv4}
	if s.ttl == 0 {
		s.ttl = 64
	}
	proto := layers.IPProtocolTCP
	if s.udp {
		proto = layers.IPProtocolUDP
	}
	var ip gopacket.SerializableLayer
	var nl gopacket.NetworkLayer
	if s.src.Addr().Is4() {
		h := &layers.IPv4{Version: 4, TTL: s.ttl, Id: 7, Protocol: proto, SrcIP: s.src.Addr().AsSlice(), DstIP: s.dst.Addr().AsSlice()}
		if s.df {
			h.Flags = layers.IPv4DontFragment
		}
		ip, nl = h, h
	} else {
		h := &layers.IPv6{Version: 6, HopLimit: s.ttl, NextHeader: proto, SrcIP: s.src.Addr().AsSlice(), DstIP: s.dst.Addr().AsSlice()}
		ip, nl, eth.EthernetType = h, h, layers.EthernetTypeIPv6
	}
	var l4 gopacket.SerializableLayer
	if s.udp {
		l := &layers.UDP{SrcPort: layers.UDPPort(s.src.Port()), DstPort: layers.UDPPort(s.dst.Port())}
		must(t, l.SetNetworkLayerForChecksum(nl))
		l4 = l
	} else {
		l := &layers.TCP{SrcPort: layers.TCPPort(s.src.Port()), DstPort: layers.TCPPort(s.dst.Port()), Seq: 1000, Window: 500}
		l.SYN, l.ACK = strings.Contains(s.flags, "S"), strings.Contains(s.flags, "A")
		l.FIN, l.RST = strings.Contains(s.flags, "F"), strings.Contains(s.flags, "R")
		if l.ACK {
			l.Ack = 2000
		}
		must(t, l.SetNetworkLayerForChecksum(nl))
		l4 = l
	}
	return serialize(t, eth, ip, l4, gopacket.Payload(s.payload))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func serialize(t *testing.T, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	must(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...))
	return buf.Bytes()
}

// macs returns the Ethernet header of what somebody sends: a pod reaches others
// in its range by their MACs, and all else by the gateway.
func (w *world) macs(from string, dst netip.Addr) (to, src [6]byte) {
	p := w.pods[from]
	if p == nil {
		node, mac := w.edge(from)
		return node.Switch.Tables().GatewayMAC, mac
	}
	for _, o := range w.pods {
		if o.Node == p.Node && slices.ContainsFunc(o.IPs, func(r netip.Prefix) bool { return r.Addr() == dst }) && o != p {
			return o.MAC, p.MAC
		}
	}
	return p.Node.Switch.Tables().GatewayMAC, p.MAC
}

// send sends a packet as somebody, and returns its frame.
func (w *world) send(from string, s seg) []byte {
	w.Helper()
	to, src := w.macs(from, s.dst.Addr())
	frame := s.frame(w.T, to, src)
	w.raw(from, frame, nil)
	return frame
}

// raw sends a frame, whose descriptor offload may change.
func (w *world) raw(from string, frame []byte, offload func(*packet.Packet)) {
	w.Helper()
	w.batch.Reset()
	p := w.batch.Append(frame)
	if offload != nil {
		offload(p)
	}
	if n, err := w.ends[from].Write(w.batch, []uint16{0}); n != 1 || err != nil {
		w.Fatalf("write to %s: %d, %v", from, n, err)
	}
	w.f.Settle()
}

// arrival is a packet that came out somewhere.
type arrival struct {
	seg
	frame  []byte
	packet gopacket.Packet
	desc   packet.Packet
}

// all returns what came out, by whom it came to, in order.
func (w *world) all() map[string][]arrival {
	w.Helper()
	out := map[string][]arrival{}
	for name, end := range w.ends {
		for {
			w.batch.Reset()
			n, err := end.Read(w.batch, packet.BatchSize)
			must(w.T, err)
			if n == 0 {
				break
			}
			for i := range w.batch.Packets {
				p := &w.batch.Packets[i]
				desc := *p
				w.batch.Each(p, make([]byte, 4096), func(frame []byte) {
					out[name] = append(out[name], w.read(name, bytes.Clone(frame), desc))
				})
			}
		}
	}
	return out
}

// read decodes a frame, and checks its MACs and all its checksums.
func (w *world) read(at string, frame []byte, desc packet.Packet) arrival {
	w.Helper()
	a := arrival{frame: frame, packet: decodeSound(w.T, frame), desc: desc}
	var mac, gateway [6]byte
	if p := w.pods[at]; p != nil {
		mac, gateway = p.MAC, p.Node.Switch.Tables().GatewayMAC
	} else {
		var node *Node
		node, mac = w.edge(at)
		gateway = node.Switch.Tables().GatewayMAC
	}
	if [6]byte(frame) != mac {
		w.Errorf("%s got a frame to %x", at, frame[:6])
	}
	if src := [6]byte(frame[6:]); src != gateway && !slices.ContainsFunc(w.f.Pods, func(p *Pod) bool { return p.MAC == src }) {
		w.Errorf("%s got a frame from %x", at, src)
	}
	switch h := a.packet.NetworkLayer().(type) {
	case *layers.IPv4:
		a.ttl = h.TTL
	case *layers.IPv6:
		a.ttl = h.HopLimit
	}
	src, _ := netip.AddrFromSlice(a.packet.NetworkLayer().NetworkFlow().Src().Raw())
	dst, _ := netip.AddrFromSlice(a.packet.NetworkLayer().NetworkFlow().Dst().Raw())
	a.src, a.dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
	switch l := a.packet.TransportLayer().(type) {
	case *layers.TCP:
		a.src, a.dst = netip.AddrPortFrom(src, uint16(l.SrcPort)), netip.AddrPortFrom(dst, uint16(l.DstPort))
		for _, f := range []struct {
			on   bool
			name string
		}{{l.SYN, "S"}, {l.FIN, "F"}, {l.RST, "R"}, {l.ACK, "A"}} {
			if f.on {
				a.flags += f.name
			}
		}
		a.payload = l.Payload
	case *layers.UDP:
		a.src, a.dst, a.udp = netip.AddrPortFrom(src, uint16(l.SrcPort)), netip.AddrPortFrom(dst, uint16(l.DstPort)), true
		a.payload = l.Payload
	}
	return a
}

// decodeSound decodes a frame and makes it anew from its layers, with all
// checksums and lengths computed: it must be the same.
func decodeSound(t *testing.T, frame []byte) gopacket.Packet {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	var ls []gopacket.SerializableLayer
	var nl gopacket.NetworkLayer
	for _, l := range p.Layers() {
		switch l := l.(type) {
		case *layers.IPv4:
			nl = l
			if l.Flags&layers.IPv4MoreFragments != 0 || l.FragOffset != 0 {
				// The transport checksum spans more than this.
				ls = append(ls, l, gopacket.Payload(l.Payload))
				goto make
			}
			ls = append(ls, l)
		case *layers.IPv6:
			nl = l
			if l.NextHeader == layers.IPProtocolIPv6Fragment {
				ls = append(ls, l, gopacket.Payload(l.Payload))
				goto make
			}
			ls = append(ls, l)
		case *layers.TCP:
			must(t, l.SetNetworkLayerForChecksum(nl))
			ls = append(ls, l, gopacket.Payload(l.Payload))
			goto make
		case *layers.UDP:
			must(t, l.SetNetworkLayerForChecksum(nl))
			ls = append(ls, l, gopacket.Payload(l.Payload))
			goto make
		case *layers.ICMPv4:
			ls = append(ls, l, gopacket.Payload(l.Payload))
			goto make
		case *layers.ICMPv6:
			must(t, l.SetNetworkLayerForChecksum(nl))
			ls = append(ls, l, gopacket.Payload(l.Payload))
			goto make
		case gopacket.SerializableLayer:
			ls = append(ls, l)
		}
	}
make:
	frame = bytes.Clone(frame) // the layers' own fields are written to
	// It pads to the shortest frame of a wire.
	if got := serialize(t, ls...); len(got) > max(60, len(frame)) || !bytes.Equal(got[:min(len(got), len(frame))], frame) {
		t.Errorf("a frame with wrong checksums or lengths:\n got %x\nwant %x", frame, got)
	}
	return p
}

// one returns the one packet that came out, which is at somebody of the names.
func (w *world) one(names ...string) (string, arrival) {
	w.Helper()
	out := w.all()
	if len(out) == 1 {
		for name, list := range out {
			if len(list) == 1 && slices.Contains(names, name) {
				return name, list[0]
			}
		}
	}
	w.Fatalf("packets came out at %v, want one at %v; drops: %v", describeArrivals(out), names, w.drops())
	return "", arrival{}
}

// none wants nothing to come out, and the last packet to be dropped at a node for a reason.
func (w *world) none(node, reason string) {
	w.Helper()
	if out := w.all(); len(out) != 0 {
		w.Errorf("packets came out at %v, want none", describeArrivals(out))
	}
	if !strings.Contains(w.drops(), node+" "+reason+" ") {
		w.Errorf("drops are %s; want %s at %s", w.drops(), reason, node)
	}
}

func describeArrivals(out map[string][]arrival) string {
	var b strings.Builder
	for name, list := range out {
		for _, a := range list {
			fmt.Fprintf(&b, "%s: %v -> %v %s ttl %d; ", name, a.src, a.dst, a.flags, a.ttl)
		}
	}
	return b.String()
}

// drops lists what was dropped so far, as "node reason count, ".
func (w *world) drops() string {
	var b strings.Builder
	for _, n := range w.f.Nodes {
		for id := range n.Switch.Tables().Ports {
			for reason, count := range n.Switch.Counters(uint16(id)).Drops {
				fmt.Fprintf(&b, "%s %s %d, ", n.Name, reason, count)
			}
		}
	}
	return b.String()
}

// conns returns how many connections a node has.
func (w *world) conns(node string) int { return w.f.Node(node).Switch.Conns().Len() }

// icmpError makes the error that somebody sends about a packet that he got.
func icmpError(t *testing.T, about arrival, from netip.Addr, kind string, mtu int, macs func(netip.Addr) (to, src [6]byte)) []byte {
	t.Helper()
	to, src := macs(about.src.Addr())
	eth := &layers.Ethernet{DstMAC: to[:], SrcMAC: src[:], EthernetType: layers.EthernetTypeIPv4}
	quoted := about.frame[14:]
	if from.Is4() {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: from.AsSlice(), DstIP: about.src.Addr().AsSlice()}
		tc := map[string]layers.ICMPv4TypeCode{"port": layers.CreateICMPv4TypeCode(3, 3), "big": layers.CreateICMPv4TypeCode(3, 4), "time": layers.CreateICMPv4TypeCode(11, 0)}[kind]
		return serialize(t, eth, ip, &layers.ICMPv4{TypeCode: tc, Seq: uint16(mtu)}, gopacket.Payload(quoted[:min(len(quoted), 500)]))
	}
	eth.EthernetType = layers.EthernetTypeIPv6
	ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolICMPv6, SrcIP: from.AsSlice(), DstIP: about.src.Addr().AsSlice()}
	tc := map[string]layers.ICMPv6TypeCode{"port": layers.CreateICMPv6TypeCode(1, 4), "big": layers.CreateICMPv6TypeCode(2, 0), "time": layers.CreateICMPv6TypeCode(3, 0)}[kind]
	icmp := &layers.ICMPv6{TypeCode: tc}
	must(t, icmp.SetNetworkLayerForChecksum(ip))
	body := append([]byte{0, 0, byte(mtu >> 8), byte(mtu)}, quoted[:min(len(quoted), 1200)]...)
	return serialize(t, eth, ip, icmp, gopacket.Payload(body))
}

// quote returns the kind of an ICMP error, its MTU, and the packet in it.
func (a *arrival) quote(t *testing.T) (kind string, mtu int, ip []byte) {
	t.Helper()
	if l, ok := a.packet.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok {
		kinds := map[layers.ICMPv4TypeCode]string{layers.CreateICMPv4TypeCode(3, 3): "port", layers.CreateICMPv4TypeCode(3, 4): "big", layers.CreateICMPv4TypeCode(11, 0): "time", layers.CreateICMPv4TypeCode(3, 1): "host"}
		return kinds[l.TypeCode], int(l.Seq), l.Payload
	}
	l, ok := a.packet.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
	if !ok {
		t.Fatalf("no ICMP error: %v", a.packet)
	}
	kinds := map[layers.ICMPv6TypeCode]string{layers.CreateICMPv6TypeCode(1, 4): "port", layers.CreateICMPv6TypeCode(2, 0): "big", layers.CreateICMPv6TypeCode(3, 0): "time", layers.CreateICMPv6TypeCode(1, 3): "host"}
	return kinds[l.TypeCode], int(l.Payload[2])<<8 | int(l.Payload[3]), l.Payload[4:]
}

// quotes wants an ICMP error of that kind about what was sent in a frame: its
// sender must know the packet again, but for the hop limit.
func (a *arrival) quotes(t *testing.T, kind string, mtu int, sent []byte) {
	t.Helper()
	k, m, ip := a.quote(t)
	if k != kind || m != mtu {
		t.Errorf("got %s with MTU %d, want %s with %d", k, m, kind, mtu)
	}
	ip, want := bytes.Clone(ip), bytes.Clone(sent[14:])
	if ip[0]>>4 == 4 {
		if packet.Fold(packet.Sum(ip[:20], 0)) != 0xffff {
			t.Errorf("the quoted header has a wrong checksum: %x", ip[:20])
		}
		for _, h := range [][]byte{ip, want} {
			h[8], h[10], h[11] = 0, 0, 0
		}
	} else {
		ip[7], want[7] = 0, 0
	}
	if n := len(ip); n < 48 || !bytes.Equal(ip, want[:min(n, len(want))]) {
		t.Errorf("the quoted packet:\n got %x\nwant %x", ip, want)
	}
}
