package vswitch

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"vswitch/vswitch/fib"
	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// rig is a switch without goroutines, with two pods and one peer, and the far
// ends of their ports in the test's hands.
type rig struct {
	t      *testing.T
	sw     *Switch
	tables Tables
	now    time.Duration
	batch  *packet.Batch
	ends   map[string]*port.PipeEnd
	ids    map[string]uint16
	link   *link
}

// link makes a pipe an overlay: what is read comes from the known peer, and
// what is written is noted with the peer it is for.
type link struct {
	*port.PipeEnd
	peers []uint16
}

func (l *link) Read(b *packet.Batch, limit int) (int, error) {
	n, err := l.PipeEnd.Read(b, limit)
	for i := range n {
		b.Packets[len(b.Packets)-1-i].In = packet.PeerBase | testPeer
	}
	return n, err
}

func (l *link) Write(b *packet.Batch, idx []uint16) (int, error) {
	for _, i := range idx {
		l.peers = append(l.peers, b.Packets[i].Peer)
	}
	return l.PipeEnd.Write(b, idx)
}

const (
	gw4, gw6   = "10.244.1.1", "fd00:10:244:1::1"
	podA, podB = "10.244.1.2", "10.244.1.3"
	podA6      = "fd00:10:244:1::2"
	podB6      = "fd00:10:244:1::3"
	remote     = "10.244.2.2"
	remote6    = "fd00:10:244:2::2"
)

var (
	macGW   = [6]byte{0x0a, 0x58, 10, 244, 1, 1}
	macA    = [6]byte{0x0a, 0x58, 10, 244, 1, 2}
	macB    = [6]byte{0x0a, 0x58, 10, 244, 1, 3}
	macVTEP = [6]byte{2, 0, 0, 0, 0, 1}
	macPeer = [6]byte{2, 0, 0, 0, 0, 2}
)

const testPeer = 7

func newRig(t *testing.T) *rig { return newRigWith(t, Config{}) }

// newRigWith is newRig with some of the switch's configuration given.
func newRigWith(t *testing.T, cfg Config) *rig {
	t.Helper()
	r := &rig{t: t, now: time.Hour, batch: packet.NewBatch(), ends: map[string]*port.PipeEnd{}, ids: map[string]uint16{}}
	var err error
	if cfg.MaxFlows == 0 {
		cfg.MaxFlows = 4096
	}
	cfg.Inline, cfg.Clock = true, func() time.Duration { return r.now }
	if r.sw, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.sw.Close)
	r.tables = Tables{
		Node: "node1", GatewayMAC: macGW, VTEPMAC: macVTEP,
		Gateway4: addr(gw4), Gateway6: addr(gw6), Ports: make([]*PortInfo, 8), Peers: make([]*PeerInfo, testPeer+1),
	}
	r.tables.Peers[testPeer] = &PeerInfo{Name: "node2", MAC: macPeer}
	r.attach("a", PortPod, macA, podA, podA6)
	r.attach("b", PortPod, macB, podB, podB6)
	r.attach("overlay", PortOverlay, [6]byte{})
	local := &fib.Hop{Kind: fib.Local, MAC: macGW}
	peer := &fib.Hop{Kind: fib.Peer, Port: r.ids["overlay"], Peer: testPeer, MTU: 1450, MAC: macPeer, Name: "node2"}
	for p, hop := range map[string]*fib.Hop{
		gw4 + "/32": local, gw6 + "/128": local,
		"10.244.2.0/24": peer, "fd00:10:244:2::/64": peer,
		"10.244.1.0/24": {Kind: fib.Unreachable},
	} {
		r.tables.Routes = r.tables.Routes.Insert(netip.MustParsePrefix(p), hop)
	}
	r.publish()
	return r
}

func addr(s string) packet.Addr { return packet.AddrFrom(netip.MustParseAddr(s)) }

func (r *rig) publish() {
	t := r.tables
	r.sw.Publish(&t)
}

func (r *rig) attach(name string, kind PortKind, mac [6]byte, addrs ...string) {
	r.t.Helper()
	near, far := port.Pipe(65521)
	var p port.Port = near
	if kind == PortOverlay {
		r.link = &link{PipeEnd: near}
		p = r.link
	}
	id, err := r.sw.Attach(name, p)
	if err != nil {
		r.t.Fatal(err)
	}
	r.ends[name], r.ids[name] = far, id
	info := &PortInfo{Kind: kind, Name: name, MAC: mac, MTU: 1450}
	for _, a := range addrs {
		info.Addrs = append(info.Addrs, addr(a))
		ip := netip.MustParseAddr(a)
		r.tables.Routes = r.tables.Routes.Insert(netip.PrefixFrom(ip, ip.BitLen()),
			&fib.Hop{Kind: fib.Pod, Port: id, MTU: 1450, MAC: mac, Name: name})
	}
	r.tables.Ports[id] = info
}

// send gives a frame to the switch as if it came from the far end of a port;
// from the overlay it comes from the known peer.
func (r *rig) send(name string, frame []byte) {
	r.t.Helper()
	r.batch.Reset()
	r.batch.Append(frame)
	if n, err := r.ends[name].Write(r.batch, []uint16{0}); n != 1 || err != nil {
		r.t.Fatalf("write to %s: %d, %v", name, n, err)
	}
	for r.sw.Step() > 0 {
	}
}

// got returns what came out at the far end of a port since the last call.
func (r *rig) got(name string) (out []received) {
	r.t.Helper()
	for {
		r.batch.Reset()
		n, err := r.ends[name].Read(r.batch, packet.BatchSize)
		if err != nil {
			r.t.Fatal(err)
		}
		if n == 0 {
			return out
		}
		for i := range r.batch.Packets {
			p := r.batch.Packets[i]
			if name == "overlay" {
				p.Peer, r.link.peers = r.link.peers[0], r.link.peers[1:]
			}
			out = append(out, received{p, r.batch.AppendTo(nil, &p)})
		}
	}
}

type received struct {
	packet.Packet
	frame []byte
}

// only returns the one packet that came out at a port, and fails if any came
// out elsewhere.
func (r *rig) only(name string) received {
	r.t.Helper()
	for other := range r.ends {
		if other == name {
			continue
		}
		if out := r.got(other); len(out) > 0 {
			r.t.Fatalf("%d packets came out at %s: %s", len(out), other, describe(out[0].frame))
		}
	}
	out := r.got(name)
	if len(out) != 1 {
		r.t.Fatalf("%d packets came out at %s, want 1; drops: %v", len(out), name, r.sw.Drops())
	}
	return out[0]
}

// none fails if any packet came out anywhere, or if the drop was not counted
// for that reason at that port.
func (r *rig) none(from string, want Reason) {
	r.t.Helper()
	for name := range r.ends {
		if out := r.got(name); len(out) > 0 {
			r.t.Fatalf("%d packets came out at %s: %s", len(out), name, describe(out[0].frame))
		}
	}
	r.dropped(from, want)
}

func (r *rig) dropped(from string, want Reason) {
	r.t.Helper()
	if d := r.sw.Counters(r.ids[from]).Drops; d[want] != 1 || len(d) != 1 {
		r.t.Fatalf("drops of %s are %v, want one %s", from, d, want)
	}
}

func describe(frame []byte) string {
	return gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default).String()
}

// build serializes a packet from src to dst with right lengths and checksums.
func build(t testing.TB, ethDst, ethSrc [6]byte, src, dst string, l4 gopacket.SerializableLayer, payload int, change ...func(any)) []byte {
	t.Helper()
	body := make([]byte, payload)
	for i := range body {
		body[i] = byte(i)
	}
	return buildBody(t, ethDst, ethSrc, src, dst, l4, body, change...)
}

// buildBody is build with a payload.
func buildBody(t testing.TB, ethDst, ethSrc [6]byte, src, dst string, l4 gopacket.SerializableLayer, body []byte, change ...func(any)) []byte {
	t.Helper()
	eth := &layers.Ethernet{DstMAC: ethDst[:], SrcMAC: ethSrc[:]}
	proto := map[string]layers.IPProtocol{
		"*layers.TCP": 6, "*layers.UDP": 17, "*layers.ICMPv4": 1, "*layers.ICMPv6": 58, "*layers.SCTP": 132,
	}[fmt.Sprintf("%T", l4)]
	var ip gopacket.SerializableLayer
	var nl gopacket.NetworkLayer
	if net.ParseIP(src).To4() != nil {
		h := &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: net.ParseIP(src).To4(), DstIP: net.ParseIP(dst).To4()}
		eth.EthernetType, ip, nl = layers.EthernetTypeIPv4, h, h
	} else {
		h := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst)}
		eth.EthernetType, ip, nl = layers.EthernetTypeIPv6, h, h
	}
	for _, f := range change {
		f(ip)
	}
	if c, ok := l4.(interface {
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	}); ok {
		if err := c.SetNetworkLayerForChecksum(nl); err != nil {
			t.Fatal(err)
		}
	}
	ls := []gopacket.SerializableLayer{eth, ip}
	if l4 != nil {
		ls = append(ls, l4)
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		append(ls, gopacket.Payload(body))...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func ttl(n uint8) func(any) {
	return func(ip any) {
		switch h := ip.(type) {
		case *layers.IPv4:
			h.TTL = n
		case *layers.IPv6:
			h.HopLimit = n
		}
	}
}

func df(ip any) {
	if h, ok := ip.(*layers.IPv4); ok {
		h.Flags = layers.IPv4DontFragment
	}
}

func udp() *layers.UDP { return &layers.UDP{SrcPort: 1000, DstPort: 2000} }

func tcp(flags ...string) *layers.TCP {
	l := &layers.TCP{SrcPort: 1000, DstPort: 2000, Seq: 5, Window: 1000}
	for _, f := range flags {
		switch f {
		case "syn":
			l.SYN = true
		case "ack":
			l.ACK = true
		case "rst":
			l.RST = true
		}
	}
	return l
}
