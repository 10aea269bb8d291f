package stack

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

const (
	refused = syscall.ECONNREFUSED
	reset   = syscall.ECONNRESET
)

func TestUDPSizes(t *testing.T) {
	for _, mtu := range []int{1450, 65520} {
		for _, to := range []netip.Addr{addrs4[1], addrs6[1]} {
			t.Run(fmt.Sprintf("mtu_%d/%v", mtu, to), func(t *testing.T) {
				w := pair(t, mtu)
				srv, err := w.ends[1].ListenPacket("udp", ":53")
				if err != nil {
					t.Fatal(err)
				}
				c, err := w.ends[0].DialContext(limited(t), "udp", netip.AddrPortFrom(to, 53).String())
				if err != nil {
					t.Fatal(err)
				}
				largest := 65507
				if to.Is6() {
					largest = 65527
				}
				for _, n := range []int{0, 1, 2, 3, 100, 1390, 1422, 1423, 1450, 1500, 4000, 9000, 32768, 65000, 65480, 65493, largest} {
					echoUDP(t, c, srv.(*UDPConn), n)
				}
				if _, err := c.Write(make([]byte, largest+1)); !errors.Is(err, syscall.EMSGSIZE) {
					t.Errorf("%d bytes: %v", largest+1, err)
				}
			})
		}
	}
}

// echoUDP sends n random bytes to srv, which sends them back.
func echoUDP(t *testing.T, c net.Conn, srv *UDPConn, n int) {
	t.Helper()
	sent, got := make([]byte, n), make([]byte, 1<<16)
	rand.NewChaCha8([32]byte{byte(n)}).Read(sent)
	deadline := time.Now().Add(time.Minute)
	c.SetDeadline(deadline)
	srv.SetDeadline(deadline)
	if _, err := c.Write(sent); err != nil {
		t.Fatalf("%d bytes: %v", n, err)
	}
	m, from, err := srv.ReadFrom(got)
	if err != nil || !bytes.Equal(got[:m], sent) {
		t.Fatalf("%d bytes there: got %d, %v", n, m, err)
	}
	if from.String() != c.LocalAddr().String() {
		t.Errorf("from %v, want %v", from, c.LocalAddr())
	}
	if _, err := srv.WriteTo(got[:m], from); err != nil {
		t.Fatalf("%d bytes: %v", n, err)
	}
	if m, err = c.Read(got); err != nil || !bytes.Equal(got[:m], sent) {
		t.Fatalf("%d bytes back: got %d, %v", n, m, err)
	}
}

func TestUDPRefused(t *testing.T) {
	w := pair(t, 1450)
	for _, to := range []netip.Addr{addrs4[1], addrs6[1]} {
		c, err := w.ends[0].DialContext(limited(t), "udp", netip.AddrPortFrom(to, 9).String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(time.Minute))
		_, err = c.Read(make([]byte, 1))
		want := fmt.Sprintf("read udp %v->%v: read: connection refused", c.LocalAddr(), c.RemoteAddr())
		if !errors.Is(err, refused) || err.Error() != want {
			t.Errorf("read: %v, want %v", err, want)
		}
	}
}

func TestUDPFlood(t *testing.T) {
	w := pair(t, 1450)
	srv, err := w.ends[1].ListenPacket("udp4", "0.0.0.0:53")
	if err != nil {
		t.Fatal(err)
	}
	c, err := w.ends[0].ListenPacket("udp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(addrs4[1], 53))
	to.IP = to.IP.To16() // what net.ParseIP returns
	// A writer that is faster than the wire waits; it gets no error.
	for i := range 20000 {
		if _, err := c.WriteTo([]byte{1, 2, 3, byte(i)}, to); err != nil {
			t.Fatal(i, err)
		}
	}
	srv.SetReadDeadline(time.Now().Add(30 * time.Second))
	n := 0
	for buf := make([]byte, 10); ; n++ {
		if _, _, err := srv.ReadFrom(buf); err != nil {
			break
		}
		if n == 100 {
			break
		}
	}
	if n < 100 {
		t.Errorf("received %d datagrams", n)
	}
}

func TestUDPWriteTo(t *testing.T) {
	w := pair(t, 1450)
	c, err := w.ends[0].DialContext(limited(t), "udp", "10.244.0.2:53")
	if err != nil {
		t.Fatal(err)
	}
	u := c.(*UDPConn)
	if _, err := u.WriteTo([]byte("x"), u.RemoteAddr()); !errors.Is(err, net.ErrWriteToConnected) {
		t.Errorf("connected: %v", err)
	}
	p, err := w.ends[0].ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	var ae *net.AddrError
	for _, a := range []net.Addr{nil, (*net.UDPAddr)(nil), &net.TCPAddr{}, &net.UDPAddr{}, &net.UDPAddr{IP: []byte{1}}} {
		if _, err := p.WriteTo([]byte("x"), a); !errors.As(err, &ae) {
			t.Errorf("to %v: %v", a, err)
		}
	}
	if p.(*UDPConn).RemoteAddr() != nil {
		t.Error("an unconnected socket has a remote address")
	}
	if _, err := p.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}); err != nil {
		t.Errorf("by the gateway: %v", err)
	}
	p.Close()
	if _, _, err := p.ReadFrom(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
