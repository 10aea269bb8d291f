package sctp

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// dialKernel connects by the kernel's SCTP.
func dialKernel(t *testing.T, to netip.AddrPort) net.Conn {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "sctp")
	defer f.Close()
	if err := unix.Connect(fd, &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}); err != nil {
		t.Fatalf("%s: %v", to, err)
	}
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ask says something and returns what is said to it.
func ask(t *testing.T, c net.Conn, say string) string {
	t.Helper()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, say); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1000)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// TestListen needs a kernel with SCTP.
func TestListen(t *testing.T) {
	const port = 28365
	l, err := Listen(port)
	if !InKernel() {
		if err == nil {
			t.Fatal("a kernel without SCTP listens with it")
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if again, err := Listen(port); err == nil {
		again.Close()
		t.Error("a port that is taken is no error")
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 100)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					c.Write(append(bytes.ToUpper(buf[:n]), " to "+c.RemoteAddr().String()...))
				}
			}()
		}
	}()
	for _, a := range []string{"127.0.0.1", "::1"} {
		c := dialKernel(t, netip.AddrPortFrom(netip.MustParseAddr(a), port))
		for range 3 {
			if got, want := ask(t, c, "hi"), "HI to "+c.LocalAddr().String(); got != want {
				t.Errorf("%s: %q, want %q", a, got, want)
			}
		}
	}
}

// TestClaim: a port is one server's, until that one releases it.
func TestClaim(t *testing.T) {
	const port = 28366
	for range 2 {
		release, err := Claim(port)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Claim(port); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("a port that is taken: error %v", err)
		}
		if other, err := Claim(port + 1); err != nil {
			t.Error(err)
		} else {
			other()
		}
		release()
	}
}
