package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	wire "github.com/miekg/dns"
)

// How upstreams are asked, and remembered for not answering.
const (
	// minAttempt is how long one of them has to answer at least.
	minAttempt = 500 * time.Millisecond
	// maxUnanswered is how many names, with no answer in between, an upstream
	// may leave unanswered before it is down. One name alone may time out
	// because of those who serve it.
	maxUnanswered = 3
	// An upstream that is down is asked after all others, for a time that
	// doubles whenever it does not answer again.
	minDown = 5 * time.Second
	maxDown = time.Minute
	// logEvery is how often it is said of an upstream that it is down, at most.
	logEvery = time.Minute
)

// upstream is a resolver.
type upstream struct {
	addr netip.AddrPort

	mu         sync.Mutex // guards what follows
	unanswered []string   // names since the last answer, while it is not down
	failed     int        // how often in a row it was found to be down
	until      time.Time  // when it is trusted again
	told       bool       // the log says that it is down
	toldAt     time.Time
}

// answered notes that u works.
func (f *Forwarder) answered(u *upstream) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.unanswered, u.failed, u.until = nil, 0, time.Time{}
	if u.told {
		u.told = false
		f.log.Info("upstream answers again", "upstream", u.addr)
	}
}

// silent notes that u has not answered. It is down if it could not be reached, or
// if that was so for several names.
func (f *Forwarder) silent(u *upstream, name string, err error) {
	now := time.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.failed == 0 && timedOut(err) {
		if name = strings.ToLower(name); !slices.Contains(u.unanswered, name) {
			u.unanswered = append(u.unanswered, name)
		}
		if len(u.unanswered) < maxUnanswered {
			return
		}
	}
	u.unanswered = nil
	u.failed++
	down := maxDown
	if u.failed < 8 {
		down = min(maxDown, minDown<<(u.failed-1))
	}
	u.until = now.Add(down)
	if f.log != nil && !u.told && (u.toldAt.IsZero() || now.Sub(u.toldAt) >= logEvery) {
		u.told, u.toldAt = true, now
		f.log.Warn("upstream does not answer", "upstream", u.addr, "err", err)
	}
}

// timedOut reports whether nothing came, as opposed to an error of the socket: a
// port that is closed, no route.
func timedOut(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}

// down is until when u is asked after the others; zero: it is not.
func (u *upstream) down(now time.Time) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.until.After(now) {
		return u.until
	}
	return time.Time{}
}

// inOrder returns the upstreams as they are to be asked: those that answer in
// order of preference, then those that are down, the ones first whose time is over
// first.
func (f *Forwarder) inOrder(now time.Time) []*upstream {
	list := slices.Clone(*f.upstreams.Load())
	down := make(map[*upstream]time.Time, len(list))
	for _, u := range list {
		down[u] = u.down(now)
	}
	slices.SortStableFunc(list, func(a, b *upstream) int { return down[a].Compare(down[b]) })
	return list
}

// askAll asks one upstream after the other until one of them knows. What one of
// them could not do (SERVFAIL, REFUSED) is the answer if no other can. A single
// one is asked twice.
func (f *Forwarder) askAll(ctx context.Context, fl *flight, q *forwarded) (*wire.Msg, error) {
	list := f.inOrder(time.Now())
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: there are none", ErrNoAnswer)
	}
	attempt := max(resolveTimeout/time.Duration(max(len(list), 2)), minAttempt)
	if len(list) == 1 {
		list = append(list, list[0])
	}
	var unable *wire.Msg
	var errs []error
	for i, u := range list {
		if i > 0 && u == list[i-1] && unable != nil {
			break // it has answered
		}
		m, err := f.ask(ctx, fl, u, q, attempt)
		switch {
		case f.ctx.Err() != nil:
			return nil, f.ctx.Err()
		case err != nil:
			f.silent(u, q.Name, err)
			errs = append(errs, fmt.Errorf("%s: %w", u.addr, err))
		case m.Rcode == wire.RcodeSuccess || m.Rcode == wire.RcodeNameError:
			f.answered(u)
			return m, nil
		default:
			f.answered(u)
			unable = m
		}
		if ctx.Err() != nil {
			break
		}
	}
	if unable != nil {
		return unable, nil
	}
	return nil, fmt.Errorf("%w: %w", ErrNoAnswer, errors.Join(errs...))
}

// ask asks an upstream: over UDP, again without EDNS if that is what it does not
// understand, and over TCP if the answer was cut.
func (f *Forwarder) ask(ctx context.Context, fl *flight, u *upstream, q *forwarded, timeout time.Duration) (*wire.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	edns := true
	m, err := f.exchange(ctx, fl, u, "udp", q.query(edns))
	if err == nil && (m.Rcode == wire.RcodeFormatError || m.Rcode == wire.RcodeNotImplemented || m.Rcode == wire.RcodeBadVers) {
		edns = false
		m, err = f.exchange(ctx, fl, u, "udp", q.query(edns))
	}
	if err == nil && m.Truncated {
		whole, err := f.exchange(ctx, fl, u, "tcp", q.query(edns))
		if err == nil {
			return whole, nil
		}
		// A piece of it, marked as one, is better than nothing where TCP is blocked.
	}
	return m, err
}

// query is the message that asks q, with an id that nobody can guess.
func (q *forwarded) query(edns bool) *wire.Msg {
	m := new(wire.Msg)
	m.Id = wire.Id()
	m.RecursionDesired = true
	m.CheckingDisabled = q.flags&flagCD != 0
	m.AuthenticatedData = q.flags&flagAD != 0
	m.Question = []wire.Question{{Name: q.Name, Qtype: q.Type, Qclass: wire.ClassINET}}
	if edns {
		m.SetEdns0(maxUDP, q.flags&flagDO != 0)
	}
	return m
}

// exchange sends a query and waits for its answer. Whatever else comes to the
// socket is not looked at.
func (f *Forwarder) exchange(ctx context.Context, fl *flight, u *upstream, network string, query *wire.Msg) (*wire.Msg, error) {
	c, err := f.dial(ctx, network, u.addr.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })() // and if ctx is cancelled
	fl.sent.Store(mark(query.Id, addrPort(c.LocalAddr()).Port()))
	conn := wire.Conn{Conn: c} // knows how long a message of a stream is
	if err := conn.WriteMsg(query); err != nil {
		return nil, err
	}
	size := maxQuery
	if network == "tcp" {
		size = wire.MaxMsgSize
	}
	for buf := make([]byte, size); ; {
		n, err := conn.Read(buf)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		m := new(wire.Msg)
		err = m.Unpack(buf[:n])
		if (err == nil || m.Truncated) && answers(m, query) { // some cut a record in two
			return m, nil
		}
		if network == "tcp" {
			return nil, errors.New("answers another question")
		}
	}
}

// answers reports whether m is an answer to the query.
func answers(m, query *wire.Msg) bool {
	if !m.Response || m.Id != query.Id || m.Opcode != wire.OpcodeQuery {
		return false
	}
	if len(m.Question) == 0 { // who fails may leave it out
		return m.Rcode != wire.RcodeSuccess && m.Rcode != wire.RcodeNameError
	}
	a, b := m.Question[0], query.Question[0]
	return len(m.Question) == 1 && a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}
