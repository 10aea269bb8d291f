package dns

import (
	"context"
	"net/netip"
	"strings"

	wire "github.com/miekg/dns"
)

// maxUDP is the largest datagram that is sent: one that no path with IPv6's
// smallest MTU fragments (DNS Flag Day 2020).
const maxUDP = 1232

// Reply answers a query that was accepted. from is its sender, if that is known,
// and datagram says that it came over UDP, so that the answer must be as short as
// its sender wants it. It blocks while the Forwarder is asked, and at no other time.
func (s *Server) Reply(ctx context.Context, req *wire.Msg, from netip.AddrPort, datagram bool) *wire.Msg {
	u := s.begin(req, from, datagram)
	return s.finish(ctx, &u)
}

// unfinished is an answer as far as it is there without asking others.
type unfinished struct {
	m    *wire.Msg
	size int // bytes that its client takes
	ask  bool
	q    forwarded // what the Forwarder is to be asked, if ask
}

// begin makes what can be made of an answer at once.
func (s *Server) begin(req *wire.Msg, from netip.AddrPort, datagram bool) unfinished {
	m := new(wire.Msg).SetReply(req)
	m.RecursionAvailable = s.cfg.Forwarder != nil
	opt, n := options(req)
	if opt != nil {
		answered := &wire.OPT{Hdr: wire.RR_Header{Name: ".", Rrtype: wire.TypeOPT}}
		answered.SetUDPSize(maxUDP)
		if opt.Do() {
			answered.SetDo() // it is copied (RFC 3225 section 3), though nothing is signed
		}
		m.Extra = append(m.Extra, answered)
	}
	size := wire.MaxMsgSize
	if datagram {
		size = wire.MinMsgSize
		if opt != nil {
			size = min(max(int(opt.UDPSize()), size), maxUDP)
		}
	}
	u := unfinished{m: m, size: size}
	if len(req.Question) != 1 { // the header has promised one
		m.Rcode = wire.RcodeFormatError
		return u
	}
	question := req.Question[0]
	switch {
	case n > 1:
		m.Rcode = wire.RcodeFormatError // RFC 6891 section 6.1.1
	case opt != nil && opt.Version() != 0:
		m.Rcode = wire.RcodeBadVers
	case question.Qclass != wire.ClassINET, question.Qtype == wire.TypeAXFR, question.Qtype == wire.TypeIXFR:
		m.Rcode = wire.RcodeRefused
	case question.Qtype == wire.TypeOPT:
		m.Rcode = wire.RcodeFormatError
	default:
		u.q = forwarded{Name: question.Name, Type: question.Qtype, flags: flagsOf(req, opt), id: req.Id, from: from}
		s.fromZone(&u)
	}
	return u
}

// finish makes the rest of it.
func (s *Server) finish(ctx context.Context, u *unfinished) *wire.Msg {
	if u.ask {
		s.ask(ctx, u.m, u.q)
	}
	truncate(u.m, u.size)
	return u.m
}

// options returns the message's OPT record, and how many it has.
func options(m *wire.Msg) (opt *wire.OPT, n int) {
	for _, r := range m.Extra {
		if o, ok := r.(*wire.OPT); ok {
			opt = o
			n++
		}
	}
	return opt, n
}

// fromZone fills in what the zone says, and whether the forwarder is to be asked, for
// all of it or for the rest.
func (s *Server) fromZone(u *unfinished) {
	m := u.m
	a, ours := s.zone.Load().Answer(Question{Name: u.q.Name, Type: u.q.Type, Size: u.size})
	if !ours {
		if u.ask = s.cfg.Forwarder != nil; !u.ask {
			m.Rcode = wire.RcodeRefused
		}
		return
	}
	m.Authoritative = a.Rcode != wire.RcodeServerFailure
	m.Rcode, m.Answer, m.Ns, m.Truncated = a.Rcode, a.Answer, a.Authority, a.More
	m.Extra = append(a.Extra, m.Extra...)
	if a.Follow != "" && s.cfg.Forwarder != nil {
		u.ask, u.q.Name = true, a.Follow
	}
}

// ask adds what the forwarder says.
func (s *Server) ask(ctx context.Context, m *wire.Msg, q forwarded) {
	r, err := s.cfg.Forwarder.resolve(ctx, q)
	if err != nil {
		m.Rcode = rcodeOf(err)
		return
	}
	m.Rcode, m.Truncated = r.Rcode, m.Truncated || r.Truncated
	m.AuthenticatedData = r.AuthenticatedData && len(m.Answer) == 0
	for _, rr := range r.Answer {
		if h := rr.Header(); strings.EqualFold(h.Name, q.Name) {
			h.Name = q.Name // as it was asked, not as somebody else asked first
		}
	}
	m.Answer = append(m.Answer, r.Answer...)
	m.Ns = append(m.Ns, r.Ns...)
	m.Extra = append(r.Extra, m.Extra...)
}

// truncate cuts a message to a size, and says so if a part of what was asked for is
// missing: of the answer or, where there is none, of the authority. What is beside
// an answer goes without notice, and of the authority whole sets, as nobody would
// know that one is not all of it (RFC 2181 section 9).
func truncate(m *wire.Msg, size int) {
	answers, authority, cut := len(m.Answer), m.Ns, m.Truncated
	m.Truncate(size)
	less := len(m.Ns) < len(authority)
	m.Truncated = cut || len(m.Answer) < answers || answers == 0 && less
	if !less || m.Truncated {
		return
	}
	missing := authority[len(m.Ns)].Header()
	for n := len(m.Ns); n > 0; n-- { // records of a set are neighbours
		h := m.Ns[n-1].Header()
		if h.Rrtype != missing.Rrtype || !strings.EqualFold(h.Name, missing.Name) {
			break
		}
		m.Ns = m.Ns[:n-1]
	}
}
