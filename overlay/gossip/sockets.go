package gossip

import (
	"context"
	"log"
	"net"
	"time"

	"github.com/hashicorp/memberlist"
)

// sockets is memberlist's transport over UDP and TCP with two changes:
// dialling ends when the transport is shut down, and a stream that was dialled
// has a deadline from the first byte on (memberlist writes user messages
// without one, and a member that stopped reading would hold them for ever).
type sockets struct {
	*memberlist.NetTransport
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
	return &sockets{NetTransport: nt, stream: cfg.Timing.Stream, ctx: ctx, cancel: cancel}, nil
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
	d := net.Dialer{Timeout: timeout}
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

// Shutdown closes the sockets and ends dialling.
func (s *sockets) Shutdown() error {
	s.cancel()
	return s.NetTransport.Shutdown()
}
