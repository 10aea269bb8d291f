package stack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

func TestConfig(t *testing.T) {
	good := func() Config {
		return Config{
			Name: "shop/web-1", MAC: macs[0], MTU: 1450,
			Addrs:    []netip.Prefix{netip.MustParsePrefix("10.244.0.1/24"), netip.MustParsePrefix("fd00::1/64")},
			Gateways: []netip.Addr{gate4, gate6},
		}
	}
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string // of the error; empty: none
	}{
		{"good", func(*Config) {}, ""},
		{"defaults", func(c *Config) { c.MTU, c.Queue, c.Gateways = 0, 0, nil }, ""},
		{"host_route", func(c *Config) {
			c.Addrs = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}
			c.Gateways = c.Gateways[:1]
		}, ""},
		{"small_v4", func(c *Config) { c.Addrs, c.Gateways, c.MTU = c.Addrs[:1], nil, 68 }, ""},
		{"no_mac", func(c *Config) { c.MAC = [6]byte{} }, "MAC 000000000000 is not a unicast address"},
		{"multicast_mac", func(c *Config) { c.MAC[0] = 1 }, "is not a unicast address"},
		{"no_address", func(c *Config) { c.Addrs, c.Gateways = nil, nil }, "no address"},
		{"invalid_address", func(c *Config) { c.Addrs[0] = netip.Prefix{} }, "is not a unicast address with a prefix"},
		{"multicast", func(c *Config) { c.Addrs[1] = netip.MustParsePrefix("ff02::1/64") }, "address ff02::1/64 is not"},
		{"unspecified", func(c *Config) { c.Addrs[0] = netip.MustParsePrefix("0.0.0.0/0") }, "address 0.0.0.0/0 is not"},
		{"twice", func(c *Config) { c.Addrs = append(c.Addrs, c.Addrs[0]) }, "10.244.0.1 is given twice"},
		{"small_mtu", func(c *Config) { c.MTU = 1279 }, "MTU 1279; it must be 1280 to 65535"},
		{"large_mtu", func(c *Config) { c.MTU = 65536 }, "MTU 65536"},
		{"queue", func(c *Config) { c.Queue = -1 }, "queue of -1 packets"},
		{"buffer", func(c *Config) { c.MaxBuffer = 4095 }, "buffers of at most 4095 bytes; give at least 4096"},
		{"gateway_family", func(c *Config) { c.Addrs = c.Addrs[:1] }, "gateway fd00:10:244::fe has no address of its family"},
		{"two_gateways", func(c *Config) { c.Gateways = append(c.Gateways, addrs4[1]) }, "gateway 10.244.0.2 is the second of its family"},
		{"invalid_gateway", func(c *Config) { c.Gateways[0] = netip.Addr{} }, "gateway invalid IP is not"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := good()
			c.change(&cfg)
			s, err := New(cfg)
			if err == nil {
				s.Close()
			}
			if (err == nil) != (c.want == "") {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			if err != nil && (!strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "stack shop/web-1: ")) {
				t.Errorf("error %q, want %q", err, c.want)
			}
		})
	}
}

func TestDialFails(t *testing.T) {
	w := pair(t, 1450)
	lost := &wire{ends: [2]*Stack{pod(t, 0, 1450), pod(t, 1, 1450)}, send: func(int, *packet.Batch) {}}
	lost.run(t)
	alone, err := New(Config{MAC: macs[0], Addrs: []netip.Prefix{netip.MustParsePrefix("10.244.0.1/24")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { alone.Close() })
	soon, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	t.Cleanup(cancel)
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	for _, c := range []struct {
		name             string
		s                *Stack
		ctx              context.Context
		network, address string
		want             error
		text             string
	}{
		{"nobody_4", w.ends[0], limited(t), "tcp", "10.244.0.77:80", syscall.EHOSTUNREACH, "dial tcp 10.244.0.77:80: connect: no route to host"},
		{"nobody_6", w.ends[0], limited(t), "tcp6", "[fd00:10:244::77]:80", syscall.EHOSTUNREACH, "dial tcp6 [fd00:10:244::77]:80: connect: no route to host"},
		{"no_gateway", alone, limited(t), "tcp", "192.0.2.1:80", syscall.ENETUNREACH, ""},
		{"no_family", alone, limited(t), "tcp", "[2001:db8::1]:80", syscall.ENETUNREACH, ""},
		{"no_family_udp", alone, limited(t), "udp", "[2001:db8::1]:80", syscall.ENETUNREACH, ""},
		{"deadline", lost.ends[0], soon, "tcp", "10.244.0.2:80", context.DeadlineExceeded, ""},
		{"canceled", w.ends[0], canceled, "tcp", "10.244.0.2:80", context.Canceled, "dial tcp 10.244.0.2:80: context canceled"},
		{"canceled_udp", w.ends[0], canceled, "udp", "10.244.0.2:80", context.Canceled, ""},
		{"network", w.ends[0], limited(t), "sctp", "10.244.0.2:80", nil, "dial sctp: unknown network sctp"},
		{"name", w.ends[0], limited(t), "tcp", "web:80", nil, "dial tcp: address web: not an IP address"},
		{"zone", w.ends[0], limited(t), "tcp", "[fe80::1%eth0]:80", nil, "dial tcp: address fe80::1%eth0: not an IP address"},
		{"no_host", w.ends[0], limited(t), "tcp", ":80", nil, "dial tcp: address :80: missing host"},
		{"no_port", w.ends[0], limited(t), "tcp", "10.244.0.2", nil, "dial tcp: address 10.244.0.2: missing port in address"},
		{"port", w.ends[0], limited(t), "tcp", "10.244.0.2:65536", nil, "dial tcp: address 65536: invalid port"},
		{"family_4", w.ends[0], limited(t), "tcp4", "[fd00::1]:80", nil, "dial tcp4: address [fd00::1]:80: address is not of the family of tcp4"},
		{"family_6", w.ends[0], limited(t), "udp6", "10.244.0.2:80", nil, "dial udp6: address 10.244.0.2:80: address is not of the family of udp6"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			conn, err := c.s.DialContext(c.ctx, c.network, c.address)
			if err == nil {
				conn.Close()
				t.Fatal("no error")
			}
			if c.want != nil && !errors.Is(err, c.want) || c.text != "" && err.Error() != c.text {
				t.Errorf("error %q, want %v %q", err, c.want, c.text)
			}
			if n := net.Error(nil); !errors.As(err, &n) || n.Timeout() != (c.want == context.DeadlineExceeded) {
				t.Errorf("Timeout is wrong in %v", err)
			}
		})
	}
}

func TestListen(t *testing.T) {
	s := pod(t, 0, 1450)
	for _, c := range []struct{ network, address, want string }{
		{"tcp", ":80", ""},
		{"tcp", ":80", "listen tcp :80: bind: address already in use"},
		{"tcp4", "0.0.0.0:80", "listen tcp4 0.0.0.0:80: bind: address already in use"},
		{"tcp4", "10.244.0.1:81", ""},
		{"tcp6", "[::]:81", ""},
		{"tcp", "10.244.0.9:82", "listen tcp 10.244.0.9:82: bind: cannot assign requested address"},
		{"udp", ":80", "listen udp: unknown network udp"},
		{"tcp", "web:80", "listen tcp: address web: not an IP address"},
	} {
		l, err := s.Listen(c.network, c.address)
		if err == nil {
			defer l.Close()
		}
		if got := errorText(err); got != c.want {
			t.Errorf("listen %s %s: %q, want %q", c.network, c.address, got, c.want)
		}
	}
	for _, c := range []struct{ network, address, want string }{
		{"udp", ":53", ""},
		{"udp", ":53", "listen udp :53: bind: address already in use"},
		{"udp6", "[fd00:10:244::1]:54", ""},
		{"udp", "[fd00:10:244::9]:54", "listen udp [fd00:10:244::9]:54: bind: cannot assign requested address"},
		{"tcp", ":80", "listen tcp: unknown network tcp"},
	} {
		p, err := s.ListenPacket(c.network, c.address)
		if err == nil {
			defer p.Close()
		}
		if got := errorText(err); got != c.want {
			t.Errorf("listen %s %s: %q, want %q", c.network, c.address, got, c.want)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// goroutines waits until no more than n run, and returns how many do.
func goroutines(n int) int {
	for range 3000 {
		if runtime.NumGoroutine() <= n {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return runtime.NumGoroutine()
}

// TestClose closes stacks in the middle of everything: all calls return with
// net.ErrClosed, and nothing runs on.
func TestClose(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 5 {
		closeBusy(t)
	}
	if n := goroutines(before); n > before {
		buf := make([]byte, 1<<20)
		t.Errorf("%d goroutines, %d before:\n%s", n, before, buf[:runtime.Stack(buf, true)])
	}
}

func closeBusy(t *testing.T) {
	t.Run("busy", func(t *testing.T) {
		w := pair(t, 1450)
		a, b := connect(t, w, addrs4[1])
		c, d := connect(t, w, addrs6[1])
		var wg sync.WaitGroup
		started := make(chan struct{}, 32)
		call := func(name string, f func() error) {
			wg.Go(func() {
				started <- struct{}{}
				var err error
				for err == nil {
					err = f()
				}
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("%s: %v, want %v", name, err, net.ErrClosed)
				}
			})
		}
		s := w.ends[0]
		p, err := s.ListenPacket("udp", ":53")
		if err != nil {
			t.Fatal(err)
		}
		l, err := s.Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1<<16)
		call("write", func() error { _, err := a.Write(buf); return err })
		call("read", func() error { _, err := c.Read(make([]byte, 1<<16)); return err })
		call("readfrom", func() error { _, _, err := p.ReadFrom(make([]byte, 100)); return err })
		call("accept", func() error { _, err := l.Accept(); return err })
		call("dial", func() error { _, err := s.DialContext(limited(t), "tcp", "10.244.0.77:1"); return err })
		call("ping", func() error { _, err := s.Ping(limited(t), addrs4[1], 8); return err })
		call("listen", func() error {
			l, err := s.Listen("tcp", ":0")
			if err == nil {
				l.Close()
			}
			return err
		})
		for range 7 {
			<-started
		}
		go io.Copy(io.Discard, b)
		go io.Copy(d, zeros{})
		time.Sleep(20 * time.Millisecond) // let the transfers run
		s.Close()
		s.Close()
		wg.Wait()
		for err = error(nil); err == nil; {
			b, release := borrow()
			if n, e := s.Read(b, 64); n == 0 {
				err = e
			}
			release()
		}
		if !errors.Is(err, port.ErrClosed) {
			t.Errorf("read: %v", err)
		}
		if _, err := s.Write(&packet.Batch{}, nil); !errors.Is(err, port.ErrClosed) {
			t.Errorf("write: %v", err)
		}
		if _, err := s.ListenPacket("udp", ":0"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("listen: %v", err)
		}
		w.ends[1].Close()
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestCloseResets: the other side learns of Close.
func TestCloseResets(t *testing.T) {
	w := pair(t, 1450)
	_, b := connect(t, w, addrs4[1])
	_, d := connect(t, w, addrs6[1])
	w.ends[0].Close()
	for _, c := range []*TCPConn{b, d} {
		c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, reset) {
			t.Errorf("read: %v", err)
		}
	}
}
