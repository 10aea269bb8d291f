package vswitch

import (
	"testing"

	"github.com/google/gopacket/layers"

	"vswitch/nat"
	"vswitch/vswitch/fib"
	"vswitch/vswitch/packet"
)

// established lets a make a connection to dst:80 that the only backend or peer at
// out answers from its own address and port.
func (r *rig) established(t *testing.T, dst, out, answers string, port uint16) {
	t.Helper()
	r.send("a", build(t, macGW, macA, podA, dst, tcpPorts(1000, 80, "syn"), 0))
	r.only(out)
	to, from := macGW, macB
	if out == "overlay" {
		to, from = macVTEP, macPeer
	}
	r.send(out, build(t, to, from, answers, podA, tcpPorts(port, 1000, "syn", "ack"), 0))
	r.only("a")
	r.send("a", build(t, macGW, macA, podA, dst, tcpPorts(1000, 80, "ack"), 0))
	r.only(out)
}

// tcpOf returns the TCP header of a frame for a that seems to come from an
// address.
func tcpOf(t *testing.T, r *rig, from string) *layers.TCP {
	t.Helper()
	p := decode(t, r.only("a").frame)
	if src := p.NetworkLayer().NetworkFlow().Src().String(); src != from {
		t.Errorf("the packet is from %s, want %s", src, from)
	}
	l := p.TransportLayer().(*layers.TCP)
	if l.SrcPort != 80 || l.DstPort != 1000 {
		t.Errorf("the packet is from port %d to %d", l.SrcPort, l.DstPort)
	}
	return l
}

// TestProd: the client of a connection whose backend is gone gets an ACK from the
// address that it knows, and for its own ACK an RST with that number.
func TestProd(t *testing.T) {
	for name, c := range map[string]struct{ dst, out, answers string }{
		"service, pod of this node":  {vip, "b", podB},
		"service, node that is gone": {vip, "overlay", remote},
		"pod of this node":           {podB, "b", podB},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.tables.Routes = r.tables.Routes.Insert(prefix("10.244.1.0/24"), &fib.Hop{Kind: fib.Unreachable})
			r.serve(0, c.answers)
			port := uint16(8080)
			if c.dst != vip {
				port = 80
			}
			r.established(t, c.dst, c.out, c.answers, port)
			if n := r.sw.Conns().Len(); n != 1 {
				t.Fatalf("%d connections", n)
			}
			var info nat.Info
			for info = range r.sw.Conns().All {
			}
			if c.out == "b" {
				r.tables.Ports[r.ids["b"]] = nil
				r.tables.Routes = r.tables.Routes.Delete(prefix(podB + "/32"))
				r.sw.Conns().DeleteByAddr(addr(podB))
			} else { // a node that is there would find out itself
				r.tables.Routes = r.tables.Routes.Delete(prefix("10.244.2.0/24"))
			}
			r.serve(0)
			r.sw.Prod([]Prod{ProdClient(&info)})
			if l := tcpOf(t, r, c.dst); !l.ACK || l.SYN || l.RST || l.FIN || len(l.Payload) > 0 {
				t.Errorf("the client is prodded with %+v", l)
			}
			answer := tcpPorts(1000, 80, "ack")
			answer.Seq, answer.Ack = 4711, 815
			r.send("a", build(t, macGW, macA, podA, c.dst, answer, 0))
			if l := tcpOf(t, r, c.dst); !l.RST || l.Seq != 815 {
				t.Errorf("the client's answer is answered with %+v, want a reset with number 815", l)
			}
		})
	}
	t.Run("server", func(t *testing.T) {
		r := newRig(t)
		r.established(t, remote, "overlay", remote, 80)
		for c := range r.sw.Conns().All {
			r.sw.Prod([]Prod{ProdServer(&c)})
		}
		got := r.only("overlay")
		if l := decode(t, got.frame).TransportLayer().(*layers.TCP); !l.ACK || l.SrcPort != 1000 || got.Peer != testPeer {
			t.Errorf("the server is prodded with %+v", l)
		}
	})
	t.Run("nowhere", func(t *testing.T) {
		r := newRig(t)
		r.sw.Prod([]Prod{{As: packet.Tuple{Proto: packet.ProtoTCP, Src: addr(podA), Dst: addr("192.0.2.1")}}})
		r.sw.Prod([]Prod{{As: packet.Tuple{Proto: packet.ProtoTCP, Src: addr(podA), Dst: addr(podB)}, Via: 99}})
		for name := range r.ends {
			if out := r.got(name); len(out) > 0 {
				t.Errorf("%s got %s", name, describe(out[0].frame))
			}
		}
	})
}

// TestNoPodReset: TCP to an address of this node that no pod has is reset, but
// for a SYN, which gets an ICMP error as all else does; a reset gets nothing.
func TestNoPodReset(t *testing.T) {
	for flags, want := range map[string]string{"ack": "reset", "syn": "ICMP", "rst": "nothing"} {
		t.Run(flags, func(t *testing.T) {
			r := newRig(t)
			r.tables.Routes = r.tables.Routes.Insert(prefix("10.244.1.0/24"), &fib.Hop{Kind: fib.Unreachable})
			r.publish()
			r.send("a", build(t, macGW, macA, podA, "10.244.1.77", tcpPorts(1000, 80, flags), 0))
			out, got := r.got("a"), "nothing"
			if len(out) > 0 {
				got = "ICMP"
				if l, ok := decode(t, out[0].frame).TransportLayer().(*layers.TCP); ok && l.RST {
					got = "reset"
				}
			}
			if got != want {
				t.Errorf("the sender gets %s, want %s", got, want)
			}
		})
	}
}
