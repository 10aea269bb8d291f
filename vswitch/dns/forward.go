package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	wire "github.com/miekg/dns"
)

// Limits of a Forwarder.
const (
	// resolveTimeout is how long a question may take in all: less than the five
	// seconds after which resolvers ask again.
	resolveTimeout = 4 * time.Second
	// maxFlights is how many different questions upstreams are asked at a time.
	maxFlights = 1024
	// maxWaiting is how many clients' questions may wait for them, which are more
	// than flights where many ask the same; maxWaitingEach are one address'.
	maxWaiting     = 16 * maxFlights
	maxWaitingEach = maxFlights / 4
	// maxCache is how many bytes of messages are remembered.
	maxCache = 4 << 20
)

// Errors of a Forwarder.
var (
	// ErrBusy: too many questions wait for upstreams, or too many of one client.
	ErrBusy = errors.New("too many questions wait for upstreams")
	// ErrLoop: the question was sent by the Forwarder itself.
	ErrLoop = errors.New("an upstream leads back here")
	// ErrNoAnswer: no upstream has answered.
	ErrNoAnswer = errors.New("no upstream answers")
)

// rcodeOf is what a client is told.
func rcodeOf(err error) int {
	if errors.Is(err, ErrLoop) {
		return wire.RcodeRefused
	}
	return wire.RcodeServerFailure
}

// ForwarderConfig says whom a Forwarder asks.
type ForwarderConfig struct {
	// Upstreams are resolvers, in order of preference.
	Upstreams []netip.AddrPort
	// Dial opens a socket to an upstream, "udp" or "tcp"; nil: one of the host.
	// Every question has a socket of its own, and thus a port that nobody can guess.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Log is told of upstreams that no longer answer, and of those that do again;
	// nil: nobody is.
	Log *slog.Logger
}

// Forwarder resolves names by asking others. All of its methods may be called at
// any time by anybody.
type Forwarder struct {
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
	log       *slog.Logger
	upstreams atomic.Pointer[[]*upstream]
	waiting   *shares
	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	running   sync.WaitGroup

	mu      sync.Mutex // guards what follows
	flights map[key]*flight
	flying  int // flights, with those that were forgotten and have not ended
	cache   cache
}

// forwarded is a question, who asks it, and how.
type forwarded struct {
	Name  string
	Type  uint16
	flags flags
	id    uint16         // of its message
	from  netip.AddrPort // zero if unknown
}

// flags are what an answer depends on beside the question.
type flags uint8

const (
	flagDO flags = 1 << iota
	flagCD
	flagAD
)

func flagsOf(m *wire.Msg, opt *wire.OPT) (f flags) {
	if opt != nil && opt.Do() {
		f |= flagDO
	}
	if m.CheckingDisabled {
		f |= flagCD
	}
	if m.AuthenticatedData {
		f |= flagAD
	}
	return f
}

// key is by what answers are remembered.
type key struct {
	name  string // in lower case
	qtype uint16
	flags flags
}

func (q *forwarded) key() key { return key{strings.ToLower(q.Name), q.Type, q.flags} }

// flight is a question that is being asked. All who ask the same wait for it.
type flight struct {
	done   chan struct{} // closed when result is there
	result *entry
	// sent is the id and the port of the query that is under way; a query that
	// comes in with them is that one.
	sent atomic.Uint32
}

// NewForwarder returns a Forwarder. Close it in the end.
func NewForwarder(cfg ForwarderConfig) *Forwarder {
	f := &Forwarder{dial: cfg.Dial, log: cfg.Log, waiting: newShares(maxWaiting, maxWaitingEach),
		flights: map[key]*flight{}, cache: newCache(maxCache)}
	if f.dial == nil {
		f.dial = new(net.Dialer).DialContext
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.upstreams.Store(&[]*upstream{})
	f.SetUpstreams(cfg.Upstreams)
	return f
}

// SetUpstreams makes the addresses the upstreams from now on. What was remembered
// is forgotten, because others may say something else (a VPN), unless nothing has
// changed.
func (f *Forwarder) SetUpstreams(addrs []netip.AddrPort) {
	if slices.Equal(f.Upstreams(), addrs) {
		return
	}
	list := make([]*upstream, len(addrs))
	for i, a := range addrs {
		list[i] = &upstream{addr: a}
	}
	f.upstreams.Store(&list)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cache = newCache(maxCache)
	clear(f.flights) // those under way end, and are remembered by nobody
}

// Upstreams returns the upstreams, in order of preference.
func (f *Forwarder) Upstreams() (addrs []netip.AddrPort) {
	for _, u := range *f.upstreams.Load() {
		addrs = append(addrs, u.addr)
	}
	return addrs
}

// Close ends what is under way. Nothing may be asked after that.
func (f *Forwarder) Close() {
	f.cancel()
	f.running.Wait()
}

// resolve returns what upstreams say, without an OPT record. The message is the
// caller's.
func (f *Forwarder) resolve(ctx context.Context, q forwarded) (*wire.Msg, error) {
	k := q.key()
	f.mu.Lock()
	if e := f.cache.get(k, time.Now()); e != nil {
		f.mu.Unlock()
		return e.message(time.Now())
	}
	fl := f.flights[k]
	switch {
	case fl != nil && fl.sentBy(&q):
		f.mu.Unlock()
		return nil, ErrLoop
	case fl == nil && f.flying == maxFlights, !f.waiting.take(q.from.Addr()):
		f.mu.Unlock()
		return nil, ErrBusy
	case fl == nil:
		fl = &flight{done: make(chan struct{})}
		f.flights[k] = fl
		f.flying++
		f.running.Go(func() { f.fly(fl, q) })
	}
	f.mu.Unlock()
	defer f.waiting.release(q.from.Addr())
	select {
	case <-fl.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return fl.result.message(time.Now())
}

// fly asks the upstreams, and keeps what they say, or that they say nothing.
func (f *Forwarder) fly(fl *flight, q forwarded) {
	ctx, cancel := context.WithTimeout(f.ctx, resolveTimeout)
	defer cancel()
	m, err := f.askAll(ctx, fl, &q)
	if err == nil {
		fl.result, err = newEntry(m, time.Now())
	}
	if err != nil {
		fl.result = failed(err, time.Now())
	}
	k := q.key()
	f.mu.Lock()
	f.flying--
	if f.flights[k] == fl { // else the upstreams are others now
		delete(f.flights, k)
		f.cache.put(k, fl.result)
	}
	f.mu.Unlock()
	close(fl.done)
}

// sentBy reports whether a question is the flight's own, come back.
func (fl *flight) sentBy(q *forwarded) bool {
	return q.from.IsValid() && fl.sent.Load() == mark(q.id, q.from.Port())
}

func mark(id, port uint16) uint32 { return uint32(id)<<16 | uint32(port) }
