package stack

import (
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// TestLoopback: a stack reaches itself without its port, whatever is sent and
// whichever address its servers are bound to.
func TestLoopback(t *testing.T) {
	for _, to := range []netip.Addr{addrs4[0], addrs6[0]} {
		for _, host := range []string{"", to.String()} {
			t.Run(fmt.Sprintf("%v/bound to %q", to, host), func(t *testing.T) {
				s := pod(t, 0, 1450)
				var wakes atomic.Int32
				s.Notify(func() { wakes.Add(1) })
				serveEcho(t, s, net.JoinHostPort(host, "7"))
				echoes(t, s, netip.AddrPortFrom(to, 7).String(), 32, 4<<20, time.Minute)
				loopbackUDP(t, s, to, net.JoinHostPort(host, "53"))
				if _, err := s.Ping(limited(t), to, 4000); err != nil {
					t.Error(err)
				}
				if n := wakes.Load(); n != 0 {
					t.Errorf("the port was woken %d times", n)
				}
			})
		}
	}
}

// loopbackUDP sends datagrams of all sizes to a server of the same stack.
func loopbackUDP(t *testing.T, s *Stack, to netip.Addr, bind string) {
	t.Helper()
	srv, err := s.ListenPacket("udp", bind)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.DialContext(limited(t), "udp", netip.AddrPortFrom(to, 53).String())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 1422, 1423, 9000, 65000, 65507} {
		echoUDP(t, c, srv.(*UDPConn), n)
	}
}
