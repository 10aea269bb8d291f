package stack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"vswitch/vswitch/packet"
)

func TestPing(t *testing.T) {
	for _, mtu := range []int{1450, 65520} {
		w := pair(t, mtu)
		for _, to := range []netip.Addr{addrs4[1], addrs6[1], netip.AddrFrom16(addrs4[1].As16())} {
			for _, size := range []int{0, 56, 1400, 1422, 1423, 9000, 65507} {
				rtt, err := w.ends[0].Ping(limited(t), to, size)
				if err != nil || rtt <= 0 || rtt > time.Minute {
					t.Errorf("MTU %d: ping %v with %d bytes: %v, %v", mtu, to, size, rtt, err)
				}
			}
		}
	}
}

func TestPingLinkLocal(t *testing.T) {
	w := pair(t, 1450)
	// RFC 4291 appendix A, from the MAC of pod 1.
	if _, err := w.ends[0].Ping(limited(t), netip.MustParseAddr("fe80::ff:fe00:2"), 8); err != nil {
		t.Error(err)
	}
}

func TestPingFails(t *testing.T) {
	w := pair(t, 1450)
	s := w.ends[0]
	expired, cancel := context.WithCancel(context.Background())
	cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		to   netip.Addr
		size int
		want error
		text string
	}{
		{"no_address", limited(t), netip.Addr{}, 0, nil, "ping ip4:icmp : not an IP address"},
		{"negative", limited(t), addrs4[1], -1, syscall.EMSGSIZE, ""},
		{"too_big_4", limited(t), addrs4[1], 65508, syscall.EMSGSIZE, ""},
		{"too_big_6", limited(t), addrs6[1], 65528, syscall.EMSGSIZE, ""},
		{"nobody_4", limited(t), netip.MustParseAddr("10.244.0.77"), 8, syscall.EHOSTUNREACH, "ping ip4:icmp 10.244.0.77: no route to host"},
		{"nobody_6", limited(t), netip.MustParseAddr("fd00:10:244::77"), 8, syscall.EHOSTUNREACH, "ping ip6:ipv6-icmp fd00:10:244::77: no route to host"},
		{"canceled", expired, netip.MustParseAddr("10.244.0.78"), 8, context.Canceled, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := s.Ping(c.ctx, c.to, c.size)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || c.text != "" && err.Error() != c.text {
				t.Errorf("error %v, want %v %q", err, c.want, c.text)
			}
			if n := net.Error(nil); !errors.As(err, &n) {
				t.Errorf("%T is no net.Error", err)
			}
		})
	}
}

// complain is a send of a wire whose router has lost the way: every packet of a
// flow from pod 0 is answered with an ICMP error from the gateway and dropped.
func (w *wire) complain(c packet.Complaint) func(int, *packet.Batch) {
	gateways := [2]packet.Addr{packet.AddrFrom(gate4), packet.AddrFrom(gate6)}
	return func(from int, b *packet.Batch) {
		pass, releasePass := borrow()
		defer releasePass()
		answer, release := borrow()
		defer release()
		for i := range b.Packets {
			p := &b.Packets[i]
			b.Parse(p)
			if from != 0 || p.Class != packet.Flow {
				clone(pass, b, p)
				continue
			}
			gateway := &gateways[0]
			if !p.Tuple.Is4() {
				gateway = &gateways[1]
			}
			buf := answer.Buf[answer.Next():]
			q := answer.Add(answer.Next(), b.ICMPError(buf, p, gateway, c, 0))
			answer.SetEthernet(q, &macs[0], &macs[1])
		}
		w.write(from, pass)
		w.write(1-from, answer)
	}
}

// TestICMPErrors: what a router says ends the wait of dial and ping at once.
func TestICMPErrors(t *testing.T) {
	for _, c := range []struct {
		name      string
		complaint packet.Complaint
		want      error
	}{
		{"host_unreachable", packet.HostUnreachable, syscall.EHOSTUNREACH},
		{"port_unreachable", packet.PortUnreachable, syscall.ECONNREFUSED},
		{"prohibited", packet.Prohibited, syscall.EHOSTUNREACH},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &wire{ends: [2]*Stack{pod(t, 0, 1450), pod(t, 1, 1450)}}
			w.send = w.complain(c.complaint)
			w.run(t)
			for _, to := range []netip.Addr{addrs4[1], addrs6[1]} {
				start := time.Now()
				if _, err := w.ends[0].DialContext(limited(t), "tcp", netip.AddrPortFrom(to, 80).String()); !errors.Is(err, c.want) {
					t.Errorf("dial %v: %v, want %v", to, err, c.want)
				}
				if _, err := w.ends[0].Ping(limited(t), to, 8); !errors.Is(err, c.want) {
					t.Errorf("ping %v: %v, want %v", to, err, c.want)
				}
				if d := time.Since(start); d > 20*time.Second {
					t.Errorf("%v: it took %v", to, d)
				}
			}
		})
	}
}

// TestPathMTU: a router on the way has a smaller MTU and says so; TCP sends
// smaller segments from then on (known bugs B11, B12).
func TestPathMTU(t *testing.T) {
	for _, to := range []netip.Addr{addrs4[1], addrs6[1]} {
		t.Run(to.String(), func(t *testing.T) {
			w := &wire{ends: [2]*Stack{pod(t, 0, 1450), pod(t, 1, 1450)}}
			gateway := packet.AddrFrom(gate4)
			if to.Is6() {
				gateway = packet.AddrFrom(gate6)
			}
			const mtu = 1300
			var refused atomic.Int64
			w.send = func(from int, b *packet.Batch) {
				pass, releasePass := borrow()
				defer releasePass()
				answer, release := borrow()
				defer release()
				for i := range b.Packets {
					p := &b.Packets[i]
					b.Parse(p)
					if p.WireLen() > mtu {
						buf := answer.Buf[answer.Next():]
						q := answer.Add(answer.Next(), b.ICMPError(buf, p, &gateway, packet.PacketTooBig, mtu))
						answer.SetEthernet(q, &macs[from], &macs[1-from])
						refused.Add(1)
						continue
					}
					if pass.Full() {
						w.write(from, pass)
						pass.Reset()
					}
					clone(pass, b, p)
				}
				w.write(from, pass)
				w.write(1-from, answer)
			}
			w.run(t)
			a, b := connect(t, w, to)
			if _, err := a.Write(make([]byte, 1<<20)); err != nil {
				t.Fatal(err)
			}
			a.CloseWrite()
			b.SetDeadline(time.Now().Add(time.Minute))
			if n, err := io.Copy(io.Discard, b); n != 1<<20 || err != nil {
				t.Errorf("received %d bytes, %v", n, err)
			}
			if refused.Load() == 0 {
				t.Error("no packet was too big")
			}
		})
	}
}
