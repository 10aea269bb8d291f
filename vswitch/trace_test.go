package vswitch

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/gopacket"

	"vswitch/vswitch/fib"
	"vswitch/vswitch/packet"
)

const (
	node4, node6     = "172.29.0.1", "fd00:10:29::1"
	farNode          = "172.29.0.2"
	client4, client6 = "203.0.113.7", "2001:db8::7"
	services         = "10.96.0.0/16"
)

// newEdgeRig is a rig whose node has addresses, and ports for itself and for
// clients outside.
func newEdgeRig(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	r.attach("node", PortNode, [6]byte{})
	r.attach("outside", PortOutside, [6]byte{})
	local := &fib.Hop{Kind: fib.Local, MAC: macGW, Name: "node1"}
	peer := &fib.Hop{Kind: fib.Peer, Port: r.ids["overlay"], Peer: testPeer, MTU: 1450, MAC: macPeer, Name: "node2"}
	for p, hop := range map[string]*fib.Hop{
		node4 + "/32": local, node6 + "/128": local, farNode + "/32": peer,
	} {
		r.tables.Routes = r.tables.Routes.Insert(netip.MustParsePrefix(p), hop)
	}
	for _, p := range []string{"10.244.0.0/16", services} {
		r.tables.Cluster = r.tables.Cluster.Insert(netip.MustParsePrefix(p), &fib.Hop{})
	}
	r.publish()
	return r
}

// explained is a frame, the port it comes from, and what becomes of it: the
// port that it leaves by, or the reason for which it does not.
var explained = []struct {
	name, from string
	dst, src   [6]byte
	ips        [2]string
	l4         gopacket.SerializableLayer
	size       int
	change     func(any)
	out        string
	reason     Reason
	step       string // that the trace has
}{
	{"bridged", "a", macB, macA, [2]string{podA, podB}, udp(), 10, nil, "b", Forwarded, "bridge: 10.244.1.3 is b on this node"},
	{"routed", "a", macGW, macA, [2]string{podA6, podB6}, tcp("syn"), 0, nil, "b", Forwarded, "route: fd00:10:244:1::3 is b on this node"},
	{"to a peer", "a", macGW, macA, [2]string{podA, remote}, tcp("syn"), 0, nil, "overlay", Forwarded, "route: 10.244.2.2 is behind node2"},
	{"from a peer", "overlay", macVTEP, macPeer, [2]string{remote, podA}, udp(), 10, nil, "a", Forwarded, "source: node2 speaks for 10.244.2.2"},
	{"another's address", "a", macGW, macA, [2]string{podB, remote}, udp(), 0, nil, "", Spoofed, "source: a does not own 10.244.1.3"},
	{"another's MAC", "a", macGW, macB, [2]string{podA, remote}, udp(), 0, nil, "", Spoofed, ""},
	{"not the peer's", "overlay", macVTEP, macPeer, [2]string{client4, podA}, udp(), 0, nil, "", Spoofed, "source: node2 does not own 203.0.113.7"},
	{"nobody there", "a", macGW, macA, [2]string{podA, "10.244.1.99"}, udp(), 0, nil, "", NoRoute, "route: nobody has 10.244.1.99"},
	{"no route", "a", macGW, macA, [2]string{podA6, client6}, tcp("syn"), 0, nil, "", NoRoute, ""},
	{"too big", "a", macGW, macA, [2]string{podA, remote}, udp(), 1500, df, "", TooBig, "mtu: the packet is larger than the way to node2 takes"},
	{"hop limit", "a", macGW, macA, [2]string{podA6, remote6}, udp(), 0, ttl(1), "", TTLExpired, "ttl: the packet has passed too many routers"},
	{"wrong MAC", "a", macB, macA, [2]string{podA, remote}, udp(), 0, nil, "", UnknownMAC, ""},

	{"the node to a pod", "node", macGW, macPeer, [2]string{node4, podA}, tcp("syn"), 0, nil, "a", Forwarded, "source: node speaks as 172.29.0.1"},
	{"the node as its gateway", "node", macGW, macPeer, [2]string{gw6, podA6}, tcp("syn"), 0, nil, "a", Forwarded, ""},
	{"the node to a peer", "node", macGW, macPeer, [2]string{node4, farNode}, tcp("syn"), 0, nil, "overlay", Forwarded, ""},
	{"the node as a pod", "node", macGW, macPeer, [2]string{podA, podB}, tcp("syn"), 0, nil, "", Spoofed, "source: node does not own 10.244.1.2"},
	{"the node as another", "node", macGW, macPeer, [2]string{farNode, podB}, tcp("syn"), 0, nil, "", Spoofed, ""},
	{"the node as nobody", "node", macGW, macPeer, [2]string{client6, podB6}, tcp("syn"), 0, nil, "", Spoofed, ""},

	{"a client to a pod", "outside", macGW, macPeer, [2]string{client4, podA}, tcp("syn"), 0, nil, "a", Forwarded, "source: 203.0.113.7 is a client outside"},
	{"a client of IPv6", "outside", macGW, macPeer, [2]string{client6, podB6}, udp(), 9, nil, "b", Forwarded, ""},
	{"a client to nobody", "outside", macGW, macPeer, [2]string{client4, "10.96.0.1"}, tcp("syn"), 0, nil, "", NoRoute, ""},
	{"a client as a pod", "outside", macGW, macPeer, [2]string{podA, podB}, udp(), 0, nil, "", Spoofed, "source: 10.244.1.2 belongs to the cluster, and came from outside"},
	{"a client as a peer's pod", "outside", macGW, macPeer, [2]string{remote6, podB6}, udp(), 0, nil, "", Spoofed, ""},
	{"a client as the node", "outside", macGW, macPeer, [2]string{node6, podB6}, udp(), 0, nil, "", Spoofed, ""},
	{"a client as the gateway", "outside", macGW, macPeer, [2]string{gw4, podB}, udp(), 0, nil, "", Spoofed, ""},
	{"a client as a pod of no node", "outside", macGW, macPeer, [2]string{"10.244.99.1", podB}, udp(), 0, nil, "", Spoofed, ""},
	{"a client as a service", "outside", macGW, macPeer, [2]string{"10.96.0.1", podB}, udp(), 0, nil, "", Spoofed, ""},
	{"a client to a MAC", "outside", macB, macPeer, [2]string{client4, podB}, udp(), 0, nil, "", UnknownMAC, ""},
}

// TestTraceIsTheTruth: what Trace says of a frame is what becomes of it when it
// is sent, to the byte; and the sender hears of its end as Reason.Rejected says.
func TestTraceIsTheTruth(t *testing.T) {
	for _, c := range explained {
		t.Run(c.name, func(t *testing.T) {
			r := newEdgeRig(t)
			var change []func(any)
			if c.change != nil {
				change = append(change, c.change)
			}
			frame := build(t, c.dst, c.src, c.ips[0], c.ips[1], c.l4, c.size, change...)
			in := r.ids[c.from]
			if c.from == "overlay" {
				in = packet.PeerBase | testPeer
			}
			e := r.sw.Trace(in, frame)
			if e.Reason != c.reason {
				t.Errorf("the trace says %q, want %q: %v", e.Reason, c.reason, e.Steps)
			}
			if n := r.sw.Conns().Len(); n != 0 {
				t.Errorf("the trace left %d connections", n)
			}
			if !slices.ContainsFunc(e.Steps, func(s Step) bool { return strings.Contains(s.Stage+": "+s.Did, c.step) }) {
				t.Errorf("no step says %q: %v", c.step, e.Steps)
			}
			if info := r.tables.Ports[in%packet.PeerBase]; c.from != "overlay" {
				if from := r.sw.TraceFrom(info, frame); from.Reason != e.Reason || !bytes.Equal(from.Frame, e.Frame) {
					t.Errorf("without a port it is %q", from.Reason)
				}
			}
			r.send(c.from, frame)
			if c.reason == Forwarded {
				got := r.only(c.out)
				if !bytes.Equal(got.frame, e.Frame) {
					t.Errorf("what was sent differs:\n got %x\nwant %x", got.frame, e.Frame)
				}
				if e.Tuple.Src != addr(c.ips[0]) || e.Tuple.Dst != addr(c.ips[1]) || e.Hop == nil || e.Hop.Port != r.ids[c.out] {
					t.Errorf("%s goes to %+v", e.Tuple, e.Hop)
				}
				return
			}
			if e.Frame != nil {
				t.Error("the trace has a packet that went on")
			}
			r.dropped(c.from, c.reason)
			if told := len(r.got(c.from)) == 1; told != c.reason.Rejected() {
				t.Errorf("the sender was told: %v, but Rejected is %v", told, c.reason.Rejected())
			}
		})
	}
}

// TestTraceOfOwnAddresses: packets to the switch's own addresses end there.
func TestTraceOfOwnAddresses(t *testing.T) {
	r := newEdgeRig(t)
	for _, dst := range []string{gw4, node4} {
		e := r.sw.Trace(r.ids["a"], build(t, macGW, macA, podA, dst, tcp("syn"), 0))
		if e.Reason != Answered || e.Hop == nil || e.Hop.Kind != fib.Local || e.Frame != nil {
			t.Errorf("%s: %q, %+v", dst, e.Reason, e.Hop)
		}
	}
	r.send("a", build(t, macGW, macA, podA, node4, tcp("syn"), 0))
	r.dropped("a", NoListener)
	if got := r.got("a"); len(got) != 1 || !NoListener.Rejected() {
		t.Errorf("%d answers from a port that nobody listens at", len(got))
	}
}

func TestTraceOfNonsense(t *testing.T) {
	r := newEdgeRig(t)
	for name, c := range map[string]struct {
		in    uint16
		frame []byte
		want  Reason
	}{
		"empty":          {r.ids["a"], nil, Malformed},
		"cut off":        {r.ids["a"], build(t, macGW, macA, podA, podB, udp(), 0)[:20], Malformed},
		"too large":      {r.ids["a"], make([]byte, packet.MaxFrame+1), Malformed},
		"no such port":   {7, build(t, macGW, macA, podA, podB, udp(), 0), NotAttached},
		"no such peer":   {packet.PeerBase | 99, build(t, macGW, macA, podA, podB, udp(), 0), NotAttached},
		"not for a flow": {r.ids["a"], build(t, [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, macA, podA, "255.255.255.255", udp(), 0), Malformed},
	} {
		if e := r.sw.Trace(c.in, c.frame); e.Reason != c.want {
			t.Errorf("%s: %q, want %q", name, e.Reason, c.want)
		}
	}
}

// TestTraceConcurrently: traces do not disturb each other, and all work in the
// same memory, which is never given back.
func TestTraceConcurrently(t *testing.T) {
	r := newEdgeRig(t)
	first := r.sw.Trace(r.ids["a"], build(t, macGW, macA, podA, remote, tcp("syn"), 0))
	batch := r.sw.tracing.batch
	var wg sync.WaitGroup
	for i := range 4 {
		size := 100 * (i + 1)
		frame := build(t, macGW, macA, podA, remote, udp(), size)
		wg.Go(func() {
			for range 100 {
				if e := r.sw.Trace(r.ids["a"], frame); e.Reason != Forwarded || len(e.Frame) != len(frame) || len(e.Steps) != len(first.Steps) {
					t.Errorf("%d bytes: %q, %d bytes went on", size, e.Reason, len(e.Frame))
				}
			}
		})
	}
	wg.Wait()
	if r.sw.tracing.batch != batch {
		t.Error("a trace made memory of its own")
	}
}
