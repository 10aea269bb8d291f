package dns

import (
	"net"
	"net/netip"
	"slices"

	wire "github.com/miekg/dns"
)

// Priority and weight of SRV records, which are the same for all.
const (
	srvPriority = 0
	srvWeight   = 100
)

func (q *lookup) header(owner string, t uint16) wire.RR_Header {
	return wire.RR_Header{Name: owner, Rrtype: t, Class: wire.ClassINET, Ttl: q.zone.cfg.ttl}
}

func (q *lookup) put(r wire.RR) { q.a.Answer = append(q.a.Answer, r) }

// addresses answers with those addresses whose type is asked for.
func (q *lookup) addresses(list []netip.Addr) {
	for f, t := range []uint16{wire.TypeA, wire.TypeAAAA} {
		if !q.wants(t) {
			continue
		}
		if len(list) > 1 {
			q.a.Answer = slices.Grow(q.a.Answer, len(list))
		}
		for _, a := range list {
			if familyOf(a) == f {
				q.put(q.address(q.owner, a))
			}
		}
	}
}

// address returns the record of an address. Record and address are one piece of
// memory.
func (q *lookup) address(owner string, a netip.Addr) wire.RR {
	if a.Is4() {
		r := &struct {
			wire.A
			ip [4]byte
		}{ip: a.As4()}
		r.Hdr, r.A.A = q.header(owner, wire.TypeA), net.IP(r.ip[:])
		return &r.A
	}
	r := &struct {
		wire.AAAA
		ip [16]byte
	}{ip: a.As16()}
	r.Hdr, r.AAAA.AAAA = q.header(owner, wire.TypeAAAA), net.IP(r.ip[:])
	return &r.AAAA
}

func (q *lookup) srv(target string, port uint16) {
	if fits(target) {
		q.put(&wire.SRV{Hdr: q.header(q.owner, wire.TypeSRV), Priority: srvPriority, Weight: srvWeight, Port: port, Target: target})
	}
}

// apex answers for the first name of a zone.
func (q *lookup) apex(apex zoneApex) {
	switch {
	case q.wants(wire.TypeSOA):
		q.put(q.soa(q.owner))
	case q.qtype == wire.TypeNS:
		ns := q.nameServer()
		q.put(&wire.NS{Hdr: q.header(q.owner, wire.TypeNS), Ns: ns})
		for _, a := range q.zone.nameServers() {
			q.a.Extra = append(q.a.Extra, q.address(ns, a))
		}
	}
}

func (q *lookup) nameServer() string { return "ns.dns." + q.zone.cfg.domain }

// soa returns the SOA record of a zone. Nobody transfers the zone, so all but the
// last field, the TTL of what there is not, is for show; they are CoreDNS'.
func (q *lookup) soa(owner string) wire.RR {
	return &wire.SOA{
		Hdr: q.header(owner, wire.TypeSOA), Ns: q.nameServer(), Mbox: "hostmaster." + q.zone.cfg.domain, Serial: q.zone.serial,
		Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: q.zone.cfg.ttl,
	}
}

// negative completes an answer that has nothing at its last name: it says whether
// there is such a name, and has the SOA, by which others know for how long that
// is so (RFC 2308).
func (q *lookup) negative(apex zoneApex, exists, found bool) {
	if !exists {
		q.a.Rcode = wire.RcodeNameError
	}
	if !found {
		// A part of the name that was asked for, in its case.
		q.a.Authority = append(q.a.Authority, q.soa(q.owner[len(q.owner)-apex.length:]))
	}
}
