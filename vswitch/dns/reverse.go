package dns

import (
	"math/rand/v2"
	"net/netip"
	"strings"

	wire "github.com/miekg/dns"
)

const (
	arpa4 = ".in-addr.arpa."
	arpa6 = ".ip6.arpa."
)

// zoneApex is the zone that a name is in.
type zoneApex struct {
	length  int // of its own name: so many of the last bytes
	reverse bool
}

// find returns the zone of a name.
func (c *zoneConfig) find(name string) (zoneApex, bool) {
	if len(name) >= len(c.domain) && strings.EqualFold(name[len(name)-len(c.domain):], c.domain) {
		at := len(name) - len(c.domain)
		// A dot may be of a label: a\.b.
		if at == 0 || name[at-1] == '.' && (at == 1 || name[at-2] != '\\' || wire.IsSubDomain(c.domain, name)) {
			return zoneApex{length: len(c.domain)}, true
		}
		return zoneApex{}, false
	}
	r, ok := parseReverse(strings.ToLower(name))
	if !ok {
		return zoneApex{}, false
	}
	for _, p := range c.reverse {
		if p.Addr().Is4() != r.prefix.Addr().Is4() {
			continue
		}
		// A range that ends within a label is several zones.
		labels := max(1, (p.Bits()+r.bits-1)/r.bits)
		if r.prefix.Bits() >= labels*r.bits && p.Overlaps(r.prefix) {
			return zoneApex{length: r.tail(name, labels), reverse: true}, true
		}
	}
	return zoneApex{}, false
}

// reverseName is a name below in-addr.arpa or ip6.arpa.
type reverseName struct {
	prefix netip.Prefix // the addresses of which it and all names below are
	bits   int          // a label stands for: 8 or 4
	below  bool         // it has labels that stand for nothing
}

// tail is the length of the last so many labels of an address, and what is behind
// them.
func (r *reverseName) tail(name string, labels int) int {
	suffix := arpa4
	if r.bits == 4 {
		suffix = arpa6
	}
	at := len(name) - len(suffix)
	for range labels {
		at = strings.LastIndexByte(name[:at], '.')
		if at < 0 {
			return len(name)
		}
	}
	return len(name) - at - 1
}

// parseReverse reads a name in lower case.
func parseReverse(name string) (r reverseName, ok bool) {
	labels, is4 := strings.CutSuffix(name, arpa4)
	if !is4 {
		if labels, ok = strings.CutSuffix(name, arpa6); !ok {
			return r, false
		}
	}
	if endsEscaped(labels) { // the dot behind them is of a label
		return r, false
	}
	var ip [16]byte
	n, count := 0, 32
	r.bits = 4
	if is4 {
		r.bits, count = 8, 4
	}
	for labels != "" && n < count {
		rest, label := cut(labels)
		v, ok := parseLabel(label, is4)
		if !ok || endsEscaped(rest) {
			break
		}
		if is4 {
			ip[n] = v
		} else {
			ip[n/2] |= v << (4 * (1 - n%2))
		}
		labels = rest
		n++
	}
	r.below = labels != ""
	a := netip.AddrFrom16(ip)
	if is4 {
		a = netip.AddrFrom4([4]byte(ip[:4]))
	}
	r.prefix = netip.PrefixFrom(a, n*r.bits)
	return r, true
}

// endsEscaped reports whether what comes behind s is escaped: whether it ends with
// an odd number of backslashes.
func endsEscaped(s string) bool { return (len(s)-len(strings.TrimRight(s, `\`)))%2 == 1 }

// parseLabel reads a byte in decimal or a nibble in hexadecimal, written as an
// address is, without more zeros than needed.
func parseLabel(s string, decimal bool) (v byte, ok bool) {
	const digits = "0123456789abcdef"
	if !decimal {
		if len(s) != 1 {
			return 0, false
		}
		i := strings.IndexByte(digits, s[0])
		return byte(i), i >= 0
	}
	if len(s) == 0 || len(s) > 3 || len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	n := 0
	for i := range len(s) {
		d := strings.IndexByte(digits[:10], s[i])
		if d < 0 {
			return 0, false
		}
		n = n*10 + d
	}
	return byte(n), n < 256
}

// reverse answers for an address: with the name of the service whose cluster IP it
// is, or those of endpoints.
func (q *lookup) reverse() bool {
	r, ok := parseReverse(q.name)
	if !ok || r.below {
		return false
	}
	if !r.prefix.IsSingleIP() {
		for range q.zone.names.Subnets(r.prefix) {
			return true
		}
		return false
	}
	owners, ok := q.zone.names.Get(r.prefix)
	if ok && q.wants(wire.TypePTR) {
		q.owners(r.prefix.Addr(), owners.list)
	}
	return ok
}

// owners answers with the names of those that have an address or, where there are
// more than can be returned, of some of them that follow each other, from a random one.
func (q *lookup) owners(a netip.Addr, owners []owner) {
	first, count := 0, len(owners)
	if count > q.max {
		q.a.More = true
		first, count = rand.IntN(count), q.max
	}
	known := make(map[string]bool, count)
	for i := range count {
		o := owners[(first+i)%len(owners)]
		name := q.zone.nameOf(o.service)
		if o.slice != "" {
			e := endpoint{a, o.host}
			name = e.label() + "." + name
		}
		if fits(name) && !known[name] {
			known[name] = true
			q.put(&wire.PTR{Hdr: q.header(q.owner, wire.TypePTR), Ptr: name})
		}
	}
}
