package stack

import (
	"context"
	"net"
	"net/netip"
	"strings"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// backlog is how many connections wait for Accept at most; Linux's default
// (net.core.somaxconn).
const backlog = 4096

// target is a parsed network and address.
type target struct {
	transport string // "tcp" or "udp"
	family    int    // 4, 6, or 0 for any
	addr      netip.AddrPort
	net       net.Addr
}

// resolve parses network and address. Hosts are IP addresses; a host may be
// missing only with wildcard.
func resolve(network, address string, wildcard bool) (t target, err error) {
	switch network {
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6":
		t.transport = network[:3]
		if len(network) > 3 {
			t.family = int(network[3] - '0')
		}
	default:
		return t, net.UnknownNetworkError(network)
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return t, err
	}
	number, err := net.LookupPort(network, service)
	if err != nil {
		return t, err
	}
	var ip netip.Addr
	switch {
	case host != "":
		if ip, err = netip.ParseAddr(host); err != nil || strings.Contains(host, "%") {
			return t, &net.AddrError{Err: "not an IP address", Addr: host}
		}
		ip = ip.Unmap()
	case !wildcard:
		return t, &net.AddrError{Err: "missing host", Addr: address}
	}
	if t.family == 4 && ip.Is6() || t.family == 6 && ip.Is4() {
		return t, &net.AddrError{Err: "address is not of the family of " + network, Addr: address}
	}
	t.addr = netip.AddrPortFrom(ip, uint16(number))
	if t.transport == "tcp" {
		t.net = &net.TCPAddr{IP: ip.AsSlice(), Port: number}
	} else {
		t.net = &net.UDPAddr{IP: ip.AsSlice(), Port: number}
	}
	return t, nil
}

// full returns the address in gVisor's form; wildcards have no address.
func (t *target) full() tcpip.FullAddress {
	f := tcpip.FullAddress{Port: t.addr.Port()}
	if a := t.addr.Addr(); a.IsValid() && !a.IsUnspecified() {
		f.Addr = addressOf(a)
	}
	return f
}

// endpoint returns a new socket of the family that serves the target: IPv4
// for an IPv4 address, else IPv6, which also takes IPv4 where any will do.
func (s *Stack) endpoint(t *target, wq *waiter.Queue) (tcpip.Endpoint, error) {
	proto := tcpip.NetworkProtocolNumber(ipv6.ProtocolNumber)
	if t.family == 4 || t.addr.Addr().Is4() {
		proto = protocolOf(netip.IPv4Unspecified())
	}
	transport := tcpip.TransportProtocolNumber(tcp.ProtocolNumber)
	if t.transport == "udp" {
		transport = udp.ProtocolNumber
	}
	ep, err := s.stack.NewEndpoint(transport, proto, wq)
	if err != nil {
		return nil, errnoOf(err)
	}
	ep.SocketOptions().SetV6Only(t.family == 6)
	return ep, nil
}

// open makes a socket and calls start, which registers it with the stack, in
// one step that Close cannot come between. When start fails, the socket is
// closed.
func (s *Stack) open(t *target, wq *waiter.Queue, start func(tcpip.Endpoint) tcpip.Error) (tcpip.Endpoint, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	ep, err := s.endpoint(t, wq)
	if err != nil {
		return nil, err
	}
	if err := start(ep); err != nil {
		ep.Close()
		return nil, errnoOf(err)
	}
	return ep, nil
}

// DialContext connects to an address, as [net.Dialer.DialContext] does. Networks
// are tcp, udp and both with 4 or 6; the host is an IP address. It returns a
// [TCPConn] or [UDPConn]. Its signature fits [net/http.Transport] and
// [net.Resolver].
func (s *Stack) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	t, err := resolve(network, address, false)
	if err != nil {
		return nil, opError("dial", network, nil, nil, err)
	}
	if ctx.Err() != nil {
		return nil, opError("dial", network, nil, t.net, context.Cause(ctx))
	}
	var c net.Conn
	if t.transport == "tcp" {
		c, err = s.dialTCP(ctx, &t)
	} else {
		c, err = s.dialUDP(&t)
	}
	if err != nil {
		return nil, opError("dial", network, nil, t.net, err)
	}
	return c, nil
}

func (s *Stack) dialTCP(ctx context.Context, t *target) (net.Conn, error) {
	var wq waiter.Queue
	entry, ready := waiter.NewChannelEntry(writable)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	ep, err := s.open(t, &wq, func(ep tcpip.Endpoint) tcpip.Error {
		err := ep.Connect(t.full())
		if _, ok := err.(*tcpip.ErrConnectStarted); ok {
			return nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	select {
	case <-ready:
	case <-s.done:
	case <-ctx.Done():
		ep.Close()
		return nil, context.Cause(ctx)
	}
	if s.isClosed() {
		ep.Close()
		return nil, net.ErrClosed
	}
	if err := ep.LastError(); err != nil {
		ep.Close()
		return nil, errnoOf(err)
	}
	return newTCPConn(s, ep, &wq), nil
}

func (s *Stack) dialUDP(t *target) (net.Conn, error) {
	var wq waiter.Queue
	ep, err := s.open(t, &wq, func(ep tcpip.Endpoint) tcpip.Error { return ep.Connect(t.full()) })
	if err != nil {
		return nil, err
	}
	return newUDPConn(s, ep, &wq), nil
}

// Listen listens for TCP connections, as [net.Listen] does. Networks are tcp,
// tcp4 and tcp6. Without a host, or with [::], it listens on all addresses of
// both families, with 0.0.0.0 on those of IPv4. The accepted connections are
// [TCPConn].
func (s *Stack) Listen(network, address string) (net.Listener, error) {
	t, err := resolve(network, address, true)
	if err == nil && t.transport != "tcp" {
		err = net.UnknownNetworkError(network)
	}
	if err != nil {
		return nil, opError("listen", network, nil, nil, err)
	}
	var wq waiter.Queue
	ep, err := s.open(&t, &wq, func(ep tcpip.Endpoint) tcpip.Error {
		// As package net does, so that a server can be started again while
		// connections of the former one time out.
		ep.SocketOptions().SetReuseAddress(true)
		if err := ep.Bind(t.full()); err != nil {
			return err
		}
		return ep.Listen(backlog)
	})
	if err != nil {
		return nil, opError("listen", network, nil, t.net, err)
	}
	l := new(listener)
	l.init(s, ep, &wq, "tcp")
	return l, nil
}

// ListenPacket opens a UDP socket, as [net.ListenPacket] does. Networks are udp,
// udp4 and udp6; hosts are as for Listen. It returns a [UDPConn].
func (s *Stack) ListenPacket(network, address string) (net.PacketConn, error) {
	t, err := resolve(network, address, true)
	if err == nil && t.transport != "udp" {
		err = net.UnknownNetworkError(network)
	}
	if err != nil {
		return nil, opError("listen", network, nil, nil, err)
	}
	var wq waiter.Queue
	ep, err := s.open(&t, &wq, func(ep tcpip.Endpoint) tcpip.Error { return ep.Bind(t.full()) })
	if err != nil {
		return nil, opError("listen", network, nil, t.net, err)
	}
	return newUDPConn(s, ep, &wq), nil
}
