package gossip

import (
	"context"
	"log"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

// sockets is memberlist's transport over UDP and TCP with three changes:
// dialling ends when the transport is shut down; a stream that was dialled has
// a deadline from the first byte on (memberlist writes user messages without
// one, and a member that stopped reading would hold them for ever); and it comes
// from the address that the node listens on, as its packets do, so that others
// can tell whose it is.
type sockets struct {
	*memberlist.NetTransport
	listen netip.Addr
	stream time.Duration
	ctx    context.Context
	cancel context.CancelFunc
}

func newSockets(cfg *Config, l *log.Logger) (*sockets, error) {
	conf := &memberlist.NetTransportConfig{
		BindAddrs: []string{cfg.Listen.Addr().String()}, BindPort: int(cfg.Listen.Port()), Logger: l,
	}
	nt, err := memberlist.NewNetTransport(conf)
	// A port that is free for TCP need not be free for UDP: draw again.
	for i := 0; err != nil && conf.BindPort == 0 && i < 20; i++ {
		nt, err = memberlist.NewNetTransport(conf)
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &sockets{NetTransport: nt, listen: cfg.Listen.Addr(), stream: cfg.Timing.Stream, ctx: ctx, cancel: cancel}, nil
}

// FinalAdvertiseAddr fills in the port that was drawn where the configuration
// names an address alone.
func (s *sockets) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	if port == 0 {
		port = s.GetAutoBindPort()
	}
	return s.NetTransport.FinalAdvertiseAddr(ip, port)
}

// DialTimeout opens a stream.
func (s *sockets) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return s.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout opens a stream.
func (s *sockets) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout, LocalAddr: s.source(a.Addr)}
	c, err := d.DialContext(s.ctx, "tcp", a.Addr)
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(s.stream)); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// source returns the address to dial from, or nil where the system is to choose:
// if the node listens on all, or on one from which the other is not reached.
func (s *sockets) source(to string) net.Addr {
	dest, err := netip.ParseAddrPort(to)
	if err != nil || s.listen.IsUnspecified() || s.listen.Is4() != dest.Addr().Unmap().Is4() ||
		s.listen.IsLoopback() != dest.Addr().Unmap().IsLoopback() {
		return nil
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(s.listen, 0))
}

// Shutdown closes the sockets and ends dialling.
func (s *sockets) Shutdown() error {
	s.cancel()
	return s.NetTransport.Shutdown()
}
