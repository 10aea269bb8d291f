package stack

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"testing"

	"vswitch/vswitch"
	"vswitch/vswitch/fib"
	"vswitch/vswitch/packet"
)

// TestSwitch joins two stacks by the switch itself, which answers their ARP and
// ND: as neighbours on one link, and as pods that know the gateway only.
func TestSwitch(t *testing.T) {
	for _, c := range []struct {
		name   string
		b4, b6 int // prefix lengths of the pods' addresses
	}{{"bridged", 24, 64}, {"routed", 32, 128}} {
		t.Run(c.name, func(t *testing.T) {
			w := &wire{}
			sw, err := vswitch.New(vswitch.Config{})
			if err != nil {
				t.Fatal(err)
			}
			tables := &vswitch.Tables{
				Node: "test", GatewayMAC: [6]byte{2, 0, 0, 0, 0, 0xfe},
				Gateway4: packet.AddrFrom(gate4), Gateway6: packet.AddrFrom(gate6),
				Ports: make([]*vswitch.PortInfo, 8),
			}
			for _, g := range []netip.Addr{gate4, gate6} {
				tables.Routes = tables.Routes.Insert(netip.PrefixFrom(g, g.BitLen()), &fib.Hop{Kind: fib.Local, MTU: 1450, MAC: tables.GatewayMAC})
			}
			for i := range w.ends {
				s, err := New(Config{
					Name: "test/pod", MAC: macs[i], MTU: 1450,
					Addrs:    []netip.Prefix{netip.PrefixFrom(addrs4[i], c.b4), netip.PrefixFrom(addrs6[i], c.b6)},
					Gateways: []netip.Addr{gate4, gate6},
				})
				if err != nil {
					t.Fatal(err)
				}
				w.ends[i] = s
				id, err := sw.Attach("test/pod", s)
				if err != nil {
					t.Fatal(err)
				}
				tables.Ports[id] = &vswitch.PortInfo{
					Kind: vswitch.PortPod, Name: "test/pod", MAC: macs[i], MTU: 1450,
					Addrs: []packet.Addr{packet.AddrFrom(addrs4[i]), packet.AddrFrom(addrs6[i])},
				}
				for _, a := range []netip.Addr{addrs4[i], addrs6[i]} {
					tables.Routes = tables.Routes.Insert(netip.PrefixFrom(a, a.BitLen()), &fib.Hop{Kind: fib.Pod, Port: id, MTU: 1450, MAC: macs[i]})
				}
			}
			sw.Publish(tables)
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() { sw.Run(ctx); close(done) }()
			t.Cleanup(func() {
				cancel()
				<-done
				w.ends[0].Close()
				w.ends[1].Close()
			})
			throughSwitch(t, w)
		})
	}
}

func throughSwitch(t *testing.T, w *wire) {
	for _, to := range []netip.Addr{gate4, gate6, addrs4[1], addrs6[1]} {
		for _, n := range []int{0, 1000, 4000} {
			if to == gate4 || to == gate6 {
				n = min(n, 1000) // the gateway does not reassemble
			}
			if _, err := w.ends[0].Ping(limited(t), to, n); err != nil {
				t.Errorf("ping with %d bytes: %v", n, err)
			}
		}
	}
	for _, to := range []netip.Addr{addrs4[1], addrs6[1]} {
		a, b := connect(t, w, to)
		bulk(t, a, b, 8<<20)
	}
	for _, to := range []string{"10.244.0.2:9", "[fd00:10:244::2]:9", "10.244.0.254:9", "[fd00:10:244::fe]:9"} {
		if _, err := w.ends[0].DialContext(limited(t), "tcp", to); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial %s: %v", to, err)
		}
	}
	for _, to := range []string{"192.0.2.1:80", "[2001:db8::1]:80"} {
		if _, err := w.ends[0].DialContext(limited(t), "tcp", to); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("dial %s: %v", to, err)
		}
	}
}
