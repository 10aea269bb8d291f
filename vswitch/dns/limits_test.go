package dns_test

import (
	"net/netip"
	"strings"
	"testing"

	wire "github.com/miekg/dns"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/dns"
)

// TestNamesTooLong: below a long domain, what cannot be named is left out, and
// every answer can be sent.
func TestNamesTooLong(t *testing.T) {
	label := strings.Repeat("x", 63)
	domain := strings.Repeat(label+".", 2) + strings.Repeat("y", 30)
	z, err := dns.NewZone(dns.ZoneConfig{Domain: domain, TTL: 5, Reverse: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}})
	if err != nil {
		t.Fatal(err)
	}
	var o cluster.Objects
	o.Add(&cluster.Service{Meta: cluster.Meta{Namespace: "n", Name: label}, Headless: true})
	v := &cluster.EndpointSlice{Family: cluster.IPv4, Ports: []cluster.EndpointPort{{Name: "http", Protocol: 6, Port: 80}}, Endpoints: []cluster.Endpoint{
		{Ready: true, Hostname: label, Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.1")}},
		{Ready: true, Hostname: "h", Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.2")}}}}
	v.Namespace, v.Name, v.Labels = "n", "s", map[string]string{cluster.LabelServiceName: label}
	o.Add(v)
	all := (&cluster.State{}).Diff(o.State())
	z = z.Follow(&all)
	service := label + ".n.svc." + domain + "."
	s := dns.NewServer(z, dns.ServerConfig{})
	for _, k := range []struct {
		name          string
		qtype         uint16
		answer, extra int
	}{
		{service, wire.TypeA, 2, 0},
		{"_http._tcp." + service, wire.TypeSRV, 1, 1},
		{"1.1.244.10.in-addr.arpa.", wire.TypePTR, 0, 0},
		{"2.1.244.10.in-addr.arpa.", wire.TypePTR, 1, 0},
	} {
		r := s.Reply(t.Context(), question(k.name, k.qtype), netip.AddrPort{}, false)
		if _, err := r.Pack(); err != nil || len(r.Answer) != k.answer || len(r.Extra) != k.extra || r.Rcode != wire.RcodeSuccess {
			t.Errorf("%s: %v, %v", k.name, r, err)
		}
	}
}

func TestZoneConfig(t *testing.T) {
	for domain, ok := range map[string]bool{
		"cluster.local": true, "Cluster.Local.": true, "x": true, "_x.y-z.0": true,
		"": false, ".": false, "a..b": false, ".a": false, "a b": false, `a\.b`: false, "ü.de": false,
		strings.Repeat("x", 64): false, strings.Repeat("x.", 130): false,
	} {
		z, err := dns.NewZone(dns.ZoneConfig{Domain: domain})
		if (err == nil) != ok {
			t.Errorf("%q: %v", domain, err)
		}
		if ok && z.Domain() != strings.ToLower(strings.TrimSuffix(domain, "."))+"." {
			t.Errorf("%q has become %q", domain, z.Domain())
		}
	}
	if _, err := dns.NewZone(dns.ZoneConfig{Domain: "x", Reverse: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}}); err == nil {
		t.Error("a range with bits of a host is taken")
	}
}

// TestReverseRanges: a zone has the names of its ranges, wherever they end, and of
// no others.
func TestReverseRanges(t *testing.T) {
	for _, k := range []struct {
		ranges, name, soa string // empty: not ours
	}{
		{"10.96.0.0/12", "1.0.96.10.in-addr.arpa.", "96.10.in-addr.arpa."},
		{"10.96.0.0/12", "1.0.111.10.in-addr.arpa.", "111.10.in-addr.arpa."},
		{"10.96.0.0/12", "111.10.in-addr.arpa.", "111.10.in-addr.arpa."},
		{"10.96.0.0/12", "1.0.112.10.in-addr.arpa.", ""},
		{"10.96.0.0/12", "10.in-addr.arpa.", ""},
		{"10.0.0.0/8", "10.in-addr.arpa.", "10.in-addr.arpa."},
		{"10.0.0.0/8", "x.10.in-addr.arpa.", "10.in-addr.arpa."},
		{"0.0.0.0/0", "1.in-addr.arpa.", "1.in-addr.arpa."},
		{"0.0.0.0/0", "in-addr.arpa.", ""},
		{"10.244.5.0/26", "63.5.244.10.in-addr.arpa.", "63.5.244.10.in-addr.arpa."},
		{"10.244.5.0/26", "64.5.244.10.in-addr.arpa.", ""},
		{"10.244.5.0/26", "5.244.10.in-addr.arpa.", ""},
		{"fd00:10:96::/112", "f.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa.", "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa."},
		{"fd00:10:96::/113", "f.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa.", "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa."},
		{"fd00::/8", "D.F.ip6.ARPA.", "D.F.ip6.ARPA."},
		{"fd00::/8", "f.ip6.arpa.", ""},
		{"fd00::/8", "1.0.0.127.in-addr.arpa.", ""},
	} {
		z, err := dns.NewZone(dns.ZoneConfig{Domain: "cluster.local", TTL: 5, Reverse: []netip.Prefix{netip.MustParsePrefix(k.ranges)}})
		if err != nil {
			t.Fatal(err)
		}
		c := (&cluster.State{}).Diff(&cluster.State{})
		a, ours := z.Follow(&c).Answer(dns.Question{Name: k.name, Type: wire.TypePTR, Size: 512})
		got := ""
		if ours {
			got = a.Authority[0].Header().Name
		}
		if got != k.soa {
			t.Errorf("%s with %s: SOA of %q, want %q", k.name, k.ranges, got, k.soa)
		}
	}
}
