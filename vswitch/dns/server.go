package dns

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	wire "github.com/miekg/dns"
)

// Limits of a server.
const (
	// maxConnections is how many TCP connections a listener has at a time, and
	// maxConnectionsEach how many from one address. One more is closed at once.
	maxConnections     = 512
	maxConnectionsEach = maxConnections / 4
	// idleTimeout is how long a connection may be without a question, and
	// firstTimeout until the first one is there (RFC 7766 section 6.2.3).
	idleTimeout  = 10 * time.Second
	firstTimeout = 5 * time.Second
	// writeTimeout is how long a client may leave an answer in its socket.
	writeTimeout = 5 * time.Second
	// acceptPause follows a connection that could not be accepted: there may be
	// no descriptor left for it, and trying at once does not help.
	acceptPause = 10 * time.Millisecond
	// maxQuery is how many bytes of a datagram are read.
	maxQuery = 4096
	// shutdownTimeout is how long what is being answered may take in the end.
	shutdownTimeout = time.Second
)

// ServerConfig says how a Server works. The zero value is usable.
type ServerConfig struct {
	// Forwarder resolves what is not in the zone; nil: that is refused.
	Forwarder *Forwarder
	// Queries logs a line for each question; nil: none.
	Queries *slog.Logger
}

// Server answers questions from a Zone. All of its methods may be called at any
// time by anybody.
type Server struct {
	cfg  ServerConfig
	zone atomic.Pointer[Zone]
}

// NewServer returns a Server for a Zone, which may be one that knows nothing yet.
func NewServer(z *Zone, cfg ServerConfig) *Server {
	s := &Server{cfg: cfg}
	s.zone.Store(z)
	return s
}

// SetZone makes z what is answered from now on.
func (s *Server) SetZone(z *Zone) { s.zone.Store(z) }

// Zone returns the present Zone.
func (s *Server) Zone() *Zone { return s.zone.Load() }

// ServePacket answers the datagrams of a socket until ctx is done, and then
// returns nil. It closes the socket. Questions that are there by then have a second
// to be answered.
func (s *Server) ServePacket(ctx context.Context, c net.PacketConn) error {
	return s.serve(ctx, &wire.Server{PacketConn: c}, true, func() {})
}

// ServeListener answers the questions on a listener's connections, as many as
// each brings, until ctx is done, and then returns nil. It closes the listener and
// its connections. Questions that are there by then have a second to be answered.
func (s *Server) ServeListener(ctx context.Context, l net.Listener) error {
	connections := newLimited(l)
	return s.serve(ctx, &wire.Server{Listener: connections}, false, connections.closeAll)
}

// serve serves until ctx is done. Then it calls hangUp, when no more time is left
// for what is being answered, and returns when nothing is.
func (s *Server) serve(ctx context.Context, srv *wire.Server, datagrams bool, hangUp func()) error {
	answering, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	started := make(chan struct{})
	srv.NotifyStartedFunc = func() { close(started) }
	srv.UDPSize, srv.MaxTCPQueries = maxQuery, -1
	srv.ReadTimeout, srv.WriteTimeout = firstTimeout, writeTimeout
	srv.IdleTimeout = func() time.Duration { return idleTimeout }
	srv.MsgAcceptFunc = accept
	srv.Handler = wire.HandlerFunc(func(w wire.ResponseWriter, req *wire.Msg) { s.handle(answering, w, req, datagrams) })
	failed := make(chan error, 1)
	go func() { failed <- srv.ActivateAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-started:
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	end, cancelEnd := context.WithTimeout(answering, shutdownTimeout)
	defer cancelEnd()
	if err := srv.ShutdownContext(end); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	hangUp()
	cancel()
	return <-failed
}

// accept looks at the first twelve bytes of a message.
func accept(h wire.Header) wire.MsgAcceptAction {
	const response = 1 << 15
	switch opcode := h.Bits >> 11 & 0xf; {
	case h.Bits&response != 0:
		return wire.MsgIgnore // who answers an answer makes a loop
	case opcode != wire.OpcodeQuery:
		return wire.MsgRejectNotImplemented
	case h.Qdcount != 1, h.Ancount > 0, h.Nscount > 1, h.Arcount > 2: // a SOA (IXFR); OPT and TSIG
		return wire.MsgReject
	}
	return wire.MsgAccept
}

// handle answers one message.
func (s *Server) handle(ctx context.Context, w wire.ResponseWriter, req *wire.Msg, datagram bool) {
	var began time.Time
	if s.cfg.Queries != nil {
		began = time.Now()
	}
	from := addrPort(w.RemoteAddr())
	m := s.Reply(ctx, req, from, datagram)
	packed, err := m.Pack()
	if err != nil {
		m = failure(req, wire.RcodeServerFailure)
		packed, err = m.Pack()
	}
	if err == nil {
		_, err = w.Write(packed)
	}
	if s.cfg.Queries != nil {
		s.log(req, m, from, time.Since(began), err)
	}
}

func (s *Server) log(req, m *wire.Msg, from netip.AddrPort, took time.Duration, err error) {
	var question wire.Question
	if len(req.Question) > 0 {
		question = req.Question[0]
	}
	attrs := []any{"client", from, "name", question.Name, "type", wire.Type(question.Qtype).String(),
		"rcode", rcodeText(m.Rcode), "answers", len(m.Answer), "took", took.Round(time.Microsecond)}
	if m.Truncated {
		attrs = append(attrs, "truncated", true)
	}
	if err != nil {
		attrs = append(attrs, "err", err)
	}
	s.cfg.Queries.Info("query", attrs...)
}

func rcodeText(rcode int) string {
	if rcode == wire.RcodeBadVers {
		return "BADVERS" // the number is that of a TSIG error, too
	}
	return wire.RcodeToString[rcode]
}

func addrPort(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.UDPAddr:
		return unmapped(a.AddrPort())
	case *net.TCPAddr:
		return unmapped(a.AddrPort())
	}
	return netip.AddrPort{}
}

// unmapped writes an IPv4 address that a socket of both families has seen as one.
func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// limited is a Listener with so many connections at a time.
type limited struct {
	net.Listener
	room *shares

	mu   sync.Mutex
	open map[*counted]struct{}
}

func newLimited(l net.Listener) *limited {
	return &limited{Listener: l, room: newShares(maxConnections, maxConnectionsEach), open: map[*counted]struct{}{}}
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				time.Sleep(acceptPause)
			}
			return nil, err
		}
		from := addrPort(c.RemoteAddr()).Addr()
		if !l.room.take(from) {
			c.Close()
			continue
		}
		out := &counted{Conn: c, listener: l, from: from}
		l.mu.Lock()
		l.open[out] = struct{}{}
		l.mu.Unlock()
		return out, nil
	}
}

// forget makes room for another connection.
func (l *limited) forget(c *counted) {
	l.mu.Lock()
	_, open := l.open[c]
	delete(l.open, c)
	l.mu.Unlock()
	if open { // it may be closed more than once
		l.room.release(c.from)
	}
}

// closeAll closes the connections that are open.
func (l *limited) closeAll() {
	l.mu.Lock()
	open := slices.Collect(maps.Keys(l.open))
	l.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
}

// counted is a connection of a limited listener. A write ends when its client
// does not read, and ends the connection: nothing may follow a message of which
// only a part was sent.
type counted struct {
	net.Conn
	listener *limited
	from     netip.Addr
}

func (c *counted) Write(b []byte) (int, error) {
	err := c.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(b)
	if err != nil {
		c.Close()
	}
	return n, err
}

func (c *counted) Close() error {
	c.listener.forget(c)
	return c.Conn.Close()
}
