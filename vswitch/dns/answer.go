package dns

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	wire "github.com/miekg/dns"

	"vswitch/vswitch/cluster"
)

// Question is one of class IN.
type Question struct {
	Name string // in presentation form, with the last dot, in any case
	Type uint16
	// Size is how many bytes the message with the answer may have. Of a large set
	// of records no more are returned than may find room there, and a few.
	Size int
}

// Answer is what a Zone says. Its records are the caller's.
type Answer struct {
	Rcode                    int
	Answer, Authority, Extra []wire.RR
	// Follow is the name outside of the zone that the last record, a CNAME, leads
	// to; empty: the answer is complete.
	Follow string
	// More is set if there are more records than were returned.
	More bool
}

const (
	// SchemaVersion is that of the specification that is followed; dns-version has it.
	SchemaVersion = "1.1.0"
	// maxChain is how many CNAMEs lead on.
	maxChain = 8
	// smallestRecord is an A record with a compressed name.
	smallestRecord = 16
)

// Answer answers a question. ours is false if its name is in none of the zones.
//
// A question of type ANY is answered with one set of records (RFC 8482 section 4.1).
func (z *Zone) Answer(in Question) (a Answer, ours bool) {
	apex, ok := z.cfg.find(in.Name)
	if !ok {
		return a, false
	}
	if !z.synced {
		a.Rcode = wire.RcodeServerFailure
		return a, true
	}
	q := lookup{zone: z, owner: in.Name, qtype: in.Type, max: in.Size/smallestRecord + 1, a: &a}
	for range maxChain {
		q.name, q.cname = strings.ToLower(q.owner), ""
		before := len(a.Answer)
		exists := q.find(apex)
		if q.cname == "" {
			q.negative(apex, exists, len(a.Answer) > before)
			return a, true
		}
		q.owner = q.cname
		if apex, ok = z.cfg.find(q.owner); !ok {
			a.Follow = q.owner
			return a, true
		}
	}
	return Answer{Rcode: wire.RcodeServerFailure}, true // services that stand for each other
}

// lookup is a question on its way.
type lookup struct {
	zone  *Zone
	owner string // the name as it was asked
	name  string // in lower case
	qtype uint16
	max   int // records to return
	a     *Answer
	cname string // where a CNAME leads on to
}

// find puts what is at the name into the answer, and reports whether the name
// exists: whether there is anything at it or below it (RFC 8020).
func (q *lookup) find(apex zoneApex) bool {
	switch {
	case strings.Contains(q.name, `\`): // a name of ours has no such bytes
		return false
	case len(q.name) == apex.length:
		q.apex(apex)
		if apex.reverse { // the whole address, where a range ends within its last label
			q.reverse()
		}
		return true
	case apex.reverse:
		return q.reverse()
	}
	return q.forward(q.name[:len(q.name)-apex.length-1])
}

// wants reports whether records of a type are asked for.
func (q *lookup) wants(t uint16) bool {
	return q.qtype == t || q.qtype == wire.TypeANY && len(q.a.Answer) == 0
}

// forward answers for the labels below the cluster's domain.
func (q *lookup) forward(labels string) bool {
	switch labels {
	case "svc", "pod", "dns":
		return true
	case "ns.dns":
		q.addresses(q.zone.nameServers())
		return true
	case "dns-version":
		if q.wants(wire.TypeTXT) {
			q.put(&wire.TXT{Hdr: q.header(q.owner, wire.TypeTXT), Txt: []string{SchemaVersion}})
		}
		return true
	}
	rest, last := cut(labels)
	rest, namespace := cut(rest)
	switch {
	case last != "svc" && last != "pod":
		return false
	case rest == "":
		return q.zone.hasNamespace(namespace, last)
	case last == "pod":
		return q.pod(namespace, rest)
	}
	rest, name := cut(rest)
	s := q.zone.services.Get(cluster.Key{Namespace: namespace, Name: name})
	switch {
	case !s.exists():
		return false
	case rest == "":
		q.service(s)
		return true
	case s.external():
		return false
	}
	rest, last = cut(rest)
	switch {
	case rest == "" && strings.HasPrefix(last, "_"):
		return s.serves(last)
	case rest == "":
		return q.endpoint(s, last)
	case strings.HasPrefix(rest, "_") && !strings.Contains(rest, "."):
		return q.port(s, rest[1:], last)
	}
	return false
}

// cut returns the labels before the last one, and that one.
func cut(labels string) (before, last string) {
	if i := strings.LastIndexByte(labels, '.'); i >= 0 {
		return labels[:i], labels[i+1:]
	}
	return "", labels
}

// hasNamespace reports whether there is a namespace, or something of it below svc or
// pod: there need not be an object of the namespace itself.
func (z *Zone) hasNamespace(name, below string) bool {
	if z.namespaces.Get(cluster.Key{Name: name}) != nil {
		return true
	}
	if below == "pod" {
		for p := range z.podObjects.In(name) {
			if len(podIPs(p)) > 0 {
				return true
			}
		}
		return false
	}
	for s := range z.services.In(name) {
		if s.exists() {
			return true
		}
	}
	return false
}

// pod answers for a pod's address, if a pod of the namespace has it: what CoreDNS
// calls verified.
func (q *lookup) pod(namespace, label string) bool {
	a, ok := undashed(label)
	if !ok {
		return false
	}
	pods, ok := q.zone.pods.Get(netip.PrefixFrom(a, a.BitLen()))
	if !ok || !slices.ContainsFunc(pods.list, func(k cluster.Key) bool { return k.Namespace == namespace }) {
		return false
	}
	q.addresses([]netip.Addr{a})
	return true
}

// service answers for a service's own name.
func (q *lookup) service(s *service) {
	switch {
	case s.external():
		q.put(&wire.CNAME{Hdr: q.header(q.owner, wire.TypeCNAME), Target: s.target()})
		if q.qtype != wire.TypeCNAME && q.qtype != wire.TypeANY {
			q.cname = s.target()
		}
		return
	case !s.headless():
		q.addresses(s.obj.ClusterIPs)
	default:
		for f, t := range []uint16{wire.TypeA, wire.TypeAAAA} {
			if q.wants(t) {
				q.endpoints(s, f)
			}
		}
	}
	q.ports(s, func(name string, _ uint8) bool { return name != "" })
}

// endpoints answers with the addresses of a headless service.
func (q *lookup) endpoints(s *service, family int) {
	list := make([]netip.Addr, 0, min(s.ready[family], q.max))
	q.some(s, func(p *part) bool { return p.family == family }, func(_ *part, e *endpoint) { list = append(list, e.addr) })
	q.shuffled(list)
}

// shuffled puts the addresses into the answer in random order, each once.
func (q *lookup) shuffled(list []netip.Addr) {
	if len(list) > 1 {
		slices.SortFunc(list, netip.Addr.Compare)
		list = slices.Compact(list)
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	}
	q.addresses(list)
}

// some calls each for the endpoints of those parts that are meant or, where there
// are more than can be returned, for some of them that follow each other, from a
// random one.
func (q *lookup) some(s *service, meant func(*part) bool, each func(*part, *endpoint)) {
	total := 0
	for _, p := range s.parts {
		if meant(p) {
			total += len(p.ready)
		}
	}
	skip, left := 0, total
	if total > q.max {
		q.a.More = true
		skip, left = rand.IntN(total), q.max
	}
	for left > 0 { // twice at most: from skip on, and from the beginning
		for _, p := range s.parts {
			if !meant(p) {
				continue
			}
			if skip >= len(p.ready) {
				skip -= len(p.ready)
				continue
			}
			for i := skip; i < len(p.ready) && left > 0; i++ {
				each(p, &p.ready[i])
				left--
			}
			skip = 0
		}
	}
}

// endpoint answers for an endpoint's name: its hostname, or its address.
func (q *lookup) endpoint(s *service, label string) bool {
	h := s.hosts.Get(cluster.Key{Name: label})
	one, ok := q.zone.unnamed(s, label)
	if h == nil && !ok {
		return false
	}
	for f, t := range []uint16{wire.TypeA, wire.TypeAAAA} {
		if !q.wants(t) {
			continue
		}
		var list []netip.Addr
		if ok && familyOf(one) == f {
			list = append(list, one)
		}
		if h != nil {
			list = q.someOf(h, f, list)
		}
		q.shuffled(list)
	}
	return true
}

// someOf appends the addresses of a hostname, or some of them where there are more
// than can be returned.
func (q *lookup) someOf(h *shared[place], family int, list []netip.Addr) []netip.Addr {
	first := rand.IntN(len(h.list))
	for i := range h.list {
		a := h.list[(first+i)%len(h.list)].addr
		if familyOf(a) != family {
			continue
		}
		if len(list) == q.max {
			q.a.More = true
			break
		}
		list = append(list, a)
	}
	return list
}

// unnamed returns the endpoint without hostname that a label is the address of.
func (z *Zone) unnamed(s *service, label string) (a netip.Addr, ok bool) {
	if a, ok = undashed(label); !ok {
		return a, false
	}
	owners, ok := z.names.Get(netip.PrefixFrom(a, a.BitLen()))
	return a, ok && slices.ContainsFunc(owners.list, func(o owner) bool { return o.service == s.key && o.slice != "" && o.host == "" })
}

// nameOf is the name of a service.
func (z *Zone) nameOf(k *cluster.Key) string {
	return k.Name + "." + k.Namespace + ".svc." + z.cfg.domain
}

// fits reports whether a name can be in a message: below a long domain, one of
// long labels cannot.
func fits(name string) bool { return len(name) <= 254 }
