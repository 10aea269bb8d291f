package stack

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// TCPConn is a TCP connection of a Stack. It closes its halves apart, as
// [net.TCPConn] does.
type TCPConn struct {
	socket
	writeMu sync.Mutex // keeps the bytes of one Write together
}

var _ net.Conn = (*TCPConn)(nil)

// newTCPConn returns the connection of a connected endpoint.
func newTCPConn(s *Stack, ep tcpip.Endpoint, wq *waiter.Queue) *TCPConn {
	c := new(TCPConn)
	c.init(s, ep, wq, "tcp")
	return c
}

// Read implements [net.Conn].
func (c *TCPConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	var n int
	var end bool
	w := tcpip.SliceWriter(p)
	err := c.retry(readable, &c.reading, func() tcpip.Error {
		r, err := c.ep.Read(&w, tcpip.ReadOptions{})
		n = r.Count
		_, end = err.(*tcpip.ErrClosedForReceive)
		return err
	})
	switch {
	case err == nil:
		c.ep.ModerateRecvBuf(n)
		return n, nil
	case end && !errors.Is(err, net.ErrClosed):
		return 0, io.EOF
	}
	return 0, c.fail("read", c.remote, err)
}

// Write implements [net.Conn].
func (c *TCPConn) Write(p []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	n := 0
	var r bytes.Reader
	for n < len(p) {
		r.Reset(p[n:])
		err := c.retry(writable, &c.writing, func() tcpip.Error {
			m, err := c.ep.Write(&r, tcpip.WriteOptions{})
			n += int(m)
			return err
		})
		if err != nil {
			return n, c.fail("write", c.remote, err)
		}
	}
	return n, nil
}

// CloseRead ends the reading side.
func (c *TCPConn) CloseRead() error { return c.shutdown(tcpip.ShutdownRead) }

// CloseWrite ends the writing side: the other side reads to the end.
func (c *TCPConn) CloseWrite() error { return c.shutdown(tcpip.ShutdownWrite) }

func (c *TCPConn) shutdown(side tcpip.ShutdownFlags) error {
	err := c.ep.Shutdown(side)
	switch {
	case err == nil:
		return nil
	case c.ended():
		return c.fail("close", c.remote, net.ErrClosed)
	}
	return c.fail("close", c.remote, errnoOf(err))
}

// UDPConn is a UDP socket of a Stack, connected or not.
type UDPConn struct{ socket }

var (
	_ net.Conn       = (*UDPConn)(nil)
	_ net.PacketConn = (*UDPConn)(nil)
)

// newUDPConn returns the socket of a bound or connected endpoint.
func newUDPConn(s *Stack, ep tcpip.Endpoint, wq *waiter.Queue) *UDPConn {
	c := new(UDPConn)
	c.init(s, ep, wq, "udp")
	return c
}

// read receives a datagram; what does not fit into p is lost.
func (c *UDPConn) read(p []byte, o tcpip.ReadOptions) (r tcpip.ReadResult, err error) {
	w := tcpip.SliceWriter(p)
	err = c.retry(readable, &c.reading, func() (err tcpip.Error) {
		r, err = c.ep.Read(&w, o)
		return err
	})
	if err != nil {
		return tcpip.ReadResult{}, c.fail("read", c.remote, err)
	}
	return r, nil
}

// Read implements [net.Conn].
func (c *UDPConn) Read(p []byte) (int, error) {
	r, err := c.read(p, tcpip.ReadOptions{})
	return r.Count, err
}

// ReadFrom implements [net.PacketConn].
func (c *UDPConn) ReadFrom(p []byte) (int, net.Addr, error) {
	r, err := c.read(p, tcpip.ReadOptions{NeedRemoteAddr: true})
	if err != nil {
		return 0, nil, err
	}
	return r.Count, netAddr("udp", r.RemoteAddr), nil
}

// write sends a datagram, to the connected address if to is nil.
func (c *UDPConn) write(p []byte, to *tcpip.FullAddress, addr net.Addr) (int, error) {
	var r bytes.Reader
	err := c.retry(writable, &c.writing, func() tcpip.Error {
		r.Reset(p)
		_, err := c.ep.Write(&r, tcpip.WriteOptions{To: to})
		return err
	})
	if err != nil {
		return 0, c.fail("write", addr, err)
	}
	return len(p), nil
}

// Write implements [net.Conn].
func (c *UDPConn) Write(p []byte) (int, error) { return c.write(p, nil, c.remote) }

// WriteTo implements [net.PacketConn]. The address must be a [net.UDPAddr].
func (c *UDPConn) WriteTo(p []byte, addr net.Addr) (int, error) {
	if c.remote != nil {
		return 0, c.fail("write", addr, net.ErrWriteToConnected)
	}
	a, ok := addr.(*net.UDPAddr)
	if !ok || a == nil {
		return 0, c.fail("write", nil, &net.AddrError{Err: "not a UDP address", Addr: network(addr)})
	}
	ip, ok := netip.AddrFromSlice(a.IP)
	if !ok {
		return 0, c.fail("write", addr, &net.AddrError{Err: "not an IP address", Addr: a.String()})
	}
	return c.write(p, &tcpip.FullAddress{Addr: addressOf(ip.Unmap()), Port: uint16(a.Port)}, addr)
}

// network names the kind of an address that may be nil.
func network(a net.Addr) string {
	if a == nil {
		return "none"
	}
	return a.Network()
}

// listener is a TCP listener of a Stack.
type listener struct{ socket }

var _ net.Listener = (*listener)(nil)

// Accept implements [net.Listener]. Connections are [TCPConn].
func (l *listener) Accept() (net.Conn, error) {
	var ep tcpip.Endpoint
	var wq *waiter.Queue
	err := l.retry(readable, &l.reading, func() (err tcpip.Error) {
		ep, wq, err = l.ep.Accept(nil)
		return err
	})
	if err != nil {
		return nil, l.fail("accept", l.local, err)
	}
	return newTCPConn(l.s, ep, wq), nil
}

// Addr implements [net.Listener].
func (l *listener) Addr() net.Addr { return l.local }
