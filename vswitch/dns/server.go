package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	wire "github.com/miekg/dns"
)

// Limits of a server.
const (
	// idleTimeout is how long a connection may be without a question, and
	// firstTimeout until the first one is there (RFC 7766 section 6.2.3).
	idleTimeout  = 10 * time.Second
	firstTimeout = 5 * time.Second
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

// handle answers one message. On a connection, one that upstreams are asked for does
// not hold up those behind it.
func (s *Server) handle(ctx context.Context, w wire.ResponseWriter, req *wire.Msg, datagram bool) {
	var began time.Time
	if s.cfg.Queries != nil {
		began = time.Now()
	}
	remote := w.RemoteAddr()
	from := addrPort(remote)
	u := s.begin(req, from, datagram)
	finish := func(write func([]byte) error) {
		m, err := send(write, req, s.finish(ctx, &u))
		if s.cfg.Queries != nil {
			s.log(req, m, from, time.Since(began), err)
		}
	}
	if p, ok := remote.(peer); ok && u.ask {
		p.conn.later(func() { finish(p.conn.writeMessage) }) // w is for this goroutine alone
		return
	}
	finish(func(b []byte) error {
		_, err := w.Write(b)
		return err
	})
}

// send packs and writes an answer, or that it cannot be packed. It returns which of
// the two it was.
func send(write func([]byte) error, req, m *wire.Msg) (*wire.Msg, error) {
	packed, err := m.Pack()
	if err != nil {
		m = new(wire.Msg).SetRcode(req, wire.RcodeServerFailure)
		packed, err = m.Pack()
	}
	if err != nil {
		return m, err
	}
	return m, write(packed)
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
	case peer:
		return addrPort(a.Addr)
	}
	return netip.AddrPort{}
}

// unmapped writes an IPv4 address that a socket of both families has seen as one.
func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
