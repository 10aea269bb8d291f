package agent

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"vswitch/vswitch/cluster"
)

// freePort returns an address and port of this machine that were free a moment
// ago. On Linux others would have to choose the address, too, to take them since.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	host := "127.0.0.1"
	if runtime.GOOS == "linux" {
		host = fmt.Sprintf("127.9.%d.%d", os.Getpid()>>8&0xff, os.Getpid()&0xff)
	}
	l, err := net.Listen("tcp4", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

// TestHealthPorts: services with one port do not both have it, a port that is
// given up is free for another service at once, connections are bounded, and the
// end is the end of all of them.
func TestHealthPorts(t *testing.T) {
	h := newHealthPorts(slog.New(slog.DiscardHandler))
	defer h.close()
	a, b := cluster.Key{Namespace: "x", Name: "a"}, cluster.Key{Namespace: "x", Name: "b"}
	at := freePort(t)
	home := []netip.Addr{at.Addr()}
	dial := func() net.Conn {
		t.Helper()
		c, err := net.DialTimeout("tcp4", at.String(), 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	said := func(c net.Conn) string {
		t.Helper()
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: node\r\n\r\n"); err != nil {
			return ""
		}
		buf := make([]byte, 4096)
		n, _ := c.Read(buf) // nothing from one that was closed
		return string(buf[:n])
	}

	if len(h.problems()) != 0 {
		t.Errorf("nothing is wanted, and %q", h.problems())
	}
	h.set(a, at.Port(), 1)
	h.set(b, at.Port(), 2)
	h.tend()
	if p := h.problems(); len(p) != 1 || !strings.Contains(p[0], "(x/a and 1 more): the node port is not attached") {
		t.Errorf("with no place to listen: %q", p)
	}
	h.move("", home)
	if p := h.problems(); len(p) != 1 || !strings.HasPrefix(p[0], "service x/b: its health check node port ") {
		t.Errorf("two services with one port: %q", p)
	}
	if got := said(dial()); !strings.Contains(got, `"name":"a"`) || !strings.Contains(got, "200 OK") {
		t.Errorf("answer %q, want that of a", got)
	}
	h.set(a, 0, 0)
	h.tend()
	if got := said(dial()); !strings.Contains(got, `"name":"b"`) || len(h.problems()) != 0 {
		t.Errorf("answer %q, want that of b; problems %q", got, h.problems())
	}

	var idle []net.Conn
	for range maxHealthConns {
		idle = append(idle, dial())
	}
	if got := said(dial()); got != "" {
		t.Errorf("one connection more than %d is answered: %q", maxHealthConns, got)
	}
	h.close()
	for _, c := range idle {
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes from a connection that should have ended", n)
		}
	}
	if c, err := net.Dial("tcp4", at.String()); err == nil {
		c.Close()
		t.Error("the port is still served")
	}
}
