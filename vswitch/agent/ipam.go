package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// ErrNoAddress says that a range has no free address left.
var ErrNoAddress = errors.New("no free address")

// pool gives out the addresses of one range. The first is the node's, the
// second the gateway's, and of IPv4 the last is the broadcast address. An
// address that was given back rests for a while, and the one that rested
// longest comes first, so that nobody's late packets reach a stranger.
type pool struct {
	cidr     netip.Prefix
	used     map[netip.Addr]string // -> owner
	released []release             // oldest first
	next     netip.Addr            // never given out from here on
}

type release struct {
	Addr netip.Addr `json:"addr"`
	At   time.Time  `json:"at"`
}

func newPool(cidr netip.Prefix) *pool {
	cidr = cidr.Masked()
	return &pool{cidr: cidr, used: map[netip.Addr]string{}, next: Gateway(cidr).Next()}
}

// usable reports whether a may be given to a pod at all.
func (p *pool) usable(a netip.Addr) bool {
	return p.cidr.Contains(a) && a != p.cidr.Addr() && a != Gateway(p.cidr) &&
		!(a.Is4() && !p.cidr.Contains(a.Next()))
}

// take gives owner a particular address. The owner may take it again.
func (p *pool) take(a netip.Addr, owner string) error {
	if !p.cidr.Contains(a) {
		return fmt.Errorf("address %s is outside this node's range %s", a, p.cidr)
	}
	if !p.usable(a) {
		return fmt.Errorf("address %s of %s is reserved; pods can have %s and later ones", a, p.cidr, Gateway(p.cidr).Next())
	}
	if o, ok := p.used[a]; ok && o != owner {
		return fmt.Errorf("address %s is in use by %s", a, o)
	}
	p.released = slices.DeleteFunc(p.released, func(r release) bool { return r.Addr == a })
	p.used[a] = owner
	return nil
}

// get gives owner an address: a fresh one; or else the one released longest
// ago that has rested.
func (p *pool) get(owner string, now time.Time, rest time.Duration) (netip.Addr, error) {
	for p.usable(p.next) {
		a := p.next
		p.next = a.Next()
		if _, used := p.used[a]; !used && !slices.ContainsFunc(p.released, func(r release) bool { return r.Addr == a }) {
			p.used[a] = owner
			return a, nil
		}
	}
	if len(p.released) == 0 {
		return netip.Addr{}, fmt.Errorf("%w in %s: all %d are in use; give the node a larger range", ErrNoAddress, p.cidr, len(p.used))
	}
	r := p.released[0]
	if left := rest - now.Sub(r.At); left > 0 && now.After(r.At) {
		return netip.Addr{}, fmt.Errorf("%w in %s: %s is the next and rests for another %s; wait or give the node a larger range",
			ErrNoAddress, p.cidr, r.Addr, left.Round(time.Second))
	}
	p.released = p.released[1:]
	p.used[r.Addr] = owner
	return r.Addr, nil
}

// put takes an address back.
func (p *pool) put(a netip.Addr, now time.Time) {
	if _, ok := p.used[a]; !ok {
		return
	}
	delete(p.used, a)
	p.released = append(p.released, release{a, now})
}
