package dns

import (
	"container/list"
	"errors"
	"slices"
	"time"

	wire "github.com/miekg/dns"
)

// How long messages are remembered at most, whatever their TTL says. It is
// short because the upstreams have caches themselves, and because a machine
// moves from one network to the next.
const (
	maxPositive = 30 * time.Second
	maxNegative = 30 * time.Second
	// failureTTL of what upstreams could not or did not answer (RFC 9520 sections
	// 2 and 3.2).
	failureTTL = time.Second
)

// entryOverhead is about what an entry takes beside its message and name, bytes.
const entryOverhead = 300

// entry is a message that was received, or an error in its place, and does not
// change.
type entry struct {
	packed []byte
	err    error // then there is no message
	stored time.Time
	keep   time.Duration
}

// ofOneHop are the types of records that are of who sent the message, and not for
// the client.
var ofOneHop = []uint16{wire.TypeOPT, wire.TypeTSIG, wire.TypeSIG}

// newEntry keeps a message, without what is not for the client.
func newEntry(m *wire.Msg, now time.Time) (*entry, error) {
	m.Extra = slices.DeleteFunc(m.Extra, func(r wire.RR) bool { return slices.Contains(ofOneHop, r.Header().Rrtype) })
	if m.Rcode > 0xf { // the rest of it was in there
		m.Rcode = wire.RcodeServerFailure
	}
	m.Compress = true
	packed, err := m.Pack()
	if err != nil {
		return nil, err
	}
	packed = slices.Clone(packed) // its memory is what it takes without compression
	return &entry{packed: packed, stored: now, keep: lifetime(m)}, nil
}

// failed keeps that there was no answer, and of any other error nothing.
func failed(err error, now time.Time) *entry {
	e := &entry{err: err, stored: now}
	if errors.Is(err, ErrNoAnswer) {
		e.keep = failureTTL
	}
	return e
}

// lifetime is how long a message may be remembered (RFC 2181 section 5.2, RFC 2308
// section 5).
func lifetime(m *wire.Msg) time.Duration {
	switch {
	case m.Truncated:
		return 0
	case m.Rcode != wire.RcodeSuccess && m.Rcode != wire.RcodeNameError:
		return failureTTL
	}
	least := maxPositive
	for _, r := range m.Answer {
		least = min(least, seconds(r.Header().Ttl))
	}
	if answered(m) {
		return least
	}
	for _, r := range m.Ns {
		if soa, ok := r.(*wire.SOA); ok {
			return min(least, maxNegative, seconds(soa.Hdr.Ttl), seconds(soa.Minttl))
		}
	}
	return 0 // nobody says how long it is so
}

// seconds is a TTL as a duration. One with its highest bit set is zero (RFC 2181
// section 8).
func seconds(ttl uint32) time.Duration {
	if ttl > 1<<31-1 {
		return 0
	}
	return time.Duration(ttl) * time.Second
}

// answered reports whether there is something of the type that was asked for.
func answered(m *wire.Msg) bool {
	if m.Rcode != wire.RcodeSuccess || len(m.Question) != 1 {
		return false
	}
	t := m.Question[0].Qtype
	return slices.ContainsFunc(m.Answer, func(r wire.RR) bool { return t == wire.TypeANY || r.Header().Rrtype == t })
}

// message returns the message, with TTLs as they are by now.
func (e *entry) message(now time.Time) (*wire.Msg, error) {
	if e.err != nil {
		return nil, e.err
	}
	m := new(wire.Msg)
	if err := m.Unpack(e.packed); err != nil {
		return nil, err
	}
	age := uint32(max(0, now.Sub(e.stored)) / time.Second)
	for _, section := range [][]wire.RR{m.Answer, m.Ns, m.Extra} {
		for _, r := range section {
			h := r.Header()
			h.Ttl -= min(h.Ttl, age)
		}
	}
	return m, nil
}

// cache remembers messages, and forgets those that were not asked for the longest
// time when they are too many.
type cache struct {
	entries map[key]*list.Element
	recent  *list.List // of *cached, the last one asked for first
	size    int        // bytes
	max     int
}

type cached struct {
	key   key
	entry *entry
}

func (c *cached) size() int { return len(c.entry.packed) + len(c.key.name) + entryOverhead }

func newCache(size int) cache {
	return cache{entries: map[key]*list.Element{}, recent: list.New(), max: size}
}

// get returns what is remembered, or nil.
func (c *cache) get(k key, now time.Time) *entry {
	el := c.entries[k]
	if el == nil {
		return nil
	}
	e := el.Value.(*cached).entry
	if now.Sub(e.stored) >= e.keep {
		c.remove(el)
		return nil
	}
	c.recent.MoveToFront(el)
	return e
}

func (c *cache) put(k key, e *entry) {
	if el := c.entries[k]; el != nil {
		c.remove(el)
	}
	if e.keep <= 0 {
		return
	}
	v := &cached{k, e}
	c.entries[k] = c.recent.PushFront(v)
	for c.size += v.size(); c.size > c.max; {
		c.remove(c.recent.Back())
	}
}

func (c *cache) remove(el *list.Element) {
	v := c.recent.Remove(el).(*cached)
	delete(c.entries, v.key)
	c.size -= v.size()
}
