package dns_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

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
		"cluster.local..": false, "..": false, "-x": false, "x-": false, "a.-b": false, "a-.b": false, "a-b": true,
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

// TestTargets: what is no name cannot be stood for.
func TestTargets(t *testing.T) {
	for target, ok := range map[string]bool{"a": true, "a.test": true, "A.test.": true, "": false, ".": false, "a..": false, "a..b": false, "192.0.2.1": false, "::1": false} {
		var o cluster.Objects
		o.Add(&cluster.Service{Meta: cluster.Meta{Namespace: "n", Name: "s"}, Type: cluster.ServiceExternalName, ExternalName: target})
		want := "NXDOMAIN\n+ "
		if ok {
			want = "NOERROR\ns.n.svc.cluster.local. CNAME " + strings.ToLower(strings.TrimSuffix(target, ".")) + ".\n"
		}
		if got := dig(zoneOf(t, o.State(), nil), "s.n.svc.cluster.local.", "CNAME"); !strings.HasPrefix(got, want) {
			t.Errorf("%q: %q, want %q", target, got, want)
		}
	}
}

// TestAliasOfPorts: the CNAME is in front of the ports of what it leads to.
func TestAliasOfPorts(t *testing.T) {
	var o cluster.Objects
	o.Add(&cluster.Service{Meta: cluster.Meta{Namespace: "n", Name: "alias"}, Type: cluster.ServiceExternalName, ExternalName: "s.n.svc.cluster.local"})
	o.Add(&cluster.Service{Meta: cluster.Meta{Namespace: "n", Name: "s"}, Headless: true})
	v := &cluster.EndpointSlice{Family: cluster.IPv4, Ports: []cluster.EndpointPort{{Name: "http", Protocol: 6, Port: 80}}}
	v.Namespace, v.Name, v.Labels = "n", "s", map[string]string{cluster.LabelServiceName: "s"}
	for i := range 5 {
		v.Endpoints = append(v.Endpoints, cluster.Endpoint{Ready: true, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 0, byte(i)})}})
	}
	o.Add(v)
	z := zoneOf(t, o.State(), nil)
	for range 100 {
		a, _ := z.Answer(dns.Question{Name: "alias.n.svc.cluster.local.", Type: wire.TypeSRV, Size: 1232})
		if len(a.Answer) != 6 || a.Answer[0].Header().Rrtype != wire.TypeCNAME {
			t.Fatal(a.Answer)
		}
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
		// labels with escaped bytes
		{"10.96.0.0/16", `x\.y.1.0.96.10.in-addr.arpa.`, "96.10.in-addr.arpa."},
		{"10.96.0.0/16", `x\.y.96.10.in-addr.arpa.`, "96.10.in-addr.arpa."},
		{"10.96.0.0/16", `\000.96.10.in-addr.arpa.`, "96.10.in-addr.arpa."},
		{"10.96.0.0/16", `x\\.96.10.in-addr.arpa.`, "96.10.in-addr.arpa."},
		{"10.96.0.0/16", `x\.96.10.in-addr.arpa.`, ""},
		{"10.96.0.0/16", `96.10\.in-addr.arpa.`, ""},
		{"fd00::/8", `x\.y.d.f.ip6.arpa.`, "d.f.ip6.arpa."},
		{"fd00::/8", `x\.d.f.ip6.arpa.`, ""},
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

// TestReverseNarrow: where a range ends within the last label, each address is a
// zone of its own, and has its name as well.
func TestReverseNarrow(t *testing.T) {
	for _, k := range []struct {
		ranges, address string
		apex            bool   // the address is a zone
		next            string // what is said of the next address, which nobody has
	}{
		{"10.96.0.0/28", "10.96.0.5", true, "NOERROR\n+ "},
		{"10.96.0.5/32", "10.96.0.5", true, "not ours"},
		{"10.96.0.0/24", "10.96.0.5", false, "NXDOMAIN\n+ "},
		{"fd00:10:96::/125", "fd00:10:96::5", true, "NOERROR\n+ "},
		{"fd00:10:96::5/128", "fd00:10:96::5", true, "not ours"},
		{"fd00:10:96::/124", "fd00:10:96::5", false, "NXDOMAIN\n+ "},
	} {
		var o cluster.Objects
		o.Add(&cluster.Service{Meta: cluster.Meta{Namespace: "n", Name: "s"}, ClusterIPs: []netip.Addr{netip.MustParseAddr(k.address)}})
		z := zoneOf(t, o.State(), []netip.Prefix{netip.MustParsePrefix(k.ranges)})
		name, err := wire.ReverseAddr(k.address)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := dig(z, name, "PTR"), "NOERROR\n"+name+" PTR s.n.svc.cluster.local.\n"; got != want {
			t.Errorf("%s in %s: %q, want %q", k.address, k.ranges, got, want)
		}
		if got := dig(z, name, "A"); !strings.HasPrefix(got, "NOERROR\n+ ") {
			t.Errorf("%s in %s, A: %q", k.address, k.ranges, got)
		}
		for qtype, record := range map[string]string{"SOA": " SOA ns.dns.", "NS": " NS ns.dns."} {
			if got := dig(z, name, qtype); strings.Contains(got, "\n"+name+record) != k.apex {
				t.Errorf("%s in %s, %s: %q", k.address, k.ranges, qtype, got)
			}
		}
		next, _ := wire.ReverseAddr(netip.MustParseAddr(k.address).Next().String())
		if got := dig(z, next, "PTR"); !strings.HasPrefix(got, k.next) {
			t.Errorf("%s in %s: %q, want %q", next, k.ranges, got, k.next)
		}
	}
}

// TestManyEndpoints: of a service that does not fit any message, each answer has
// as much as fits, another part each time, and says so.
func TestManyEndpoints(t *testing.T) {
	const count = 20000
	var o cluster.Objects
	o.Add(&cluster.Service{Meta: cluster.Meta{Namespace: "n", Name: "s"}, Headless: true})
	o.Add(&cluster.Service{Meta: cluster.Meta{Namespace: "n", Name: "one"}, Headless: true})
	for i := range count / 100 {
		v := &cluster.EndpointSlice{Family: cluster.IPv4, Ports: []cluster.EndpointPort{{Name: "http", Protocol: 6, Port: 80}}}
		v.Namespace, v.Name, v.Labels = "n", fmt.Sprint("s-", i), map[string]string{cluster.LabelServiceName: "s"}
		for j := range 100 {
			n := i*100 + j
			e := cluster.Endpoint{Ready: true, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, byte(n >> 8), byte(n)})}}
			if n%2 == 0 && n < 10000 {
				e.Hostname = "twin"
			}
			if n >= 12000 { // another service, whose endpoints have one address
				v.Labels[cluster.LabelServiceName] = "one"
				e.Hostname, e.Addresses = fmt.Sprint("h-", n), []netip.Addr{netip.MustParseAddr("10.245.0.1")}
			}
			v.Endpoints = append(v.Endpoints, e)
		}
		o.Add(v)
	}
	s := dns.NewServer(zoneOf(t, o.State(), []netip.Prefix{netip.MustParsePrefix("10.245.0.0/16")}), dns.ServerConfig{})
	for _, k := range []struct {
		name     string
		qtype    uint16
		datagram bool
		atLeast  int
	}{
		{"s.n.svc.cluster.local.", wire.TypeA, true, 29},
		{"s.n.svc.cluster.local.", wire.TypeA, false, 4090},
		{"twin.s.n.svc.cluster.local.", wire.TypeA, true, 28},
		{"twin.s.n.svc.cluster.local.", wire.TypeA, false, 4090},
		{"_http._tcp.s.n.svc.cluster.local.", wire.TypeSRV, true, 6},
		{"_http._tcp.s.n.svc.cluster.local.", wire.TypeSRV, false, 1000},
		{"s.n.svc.cluster.local.", wire.TypeSRV, true, 6},
		{"s.n.svc.cluster.local.", wire.TypeSRV, false, 1000},
		{"1.0.245.10.in-addr.arpa.", wire.TypePTR, true, 15},
		{"1.0.245.10.in-addr.arpa.", wire.TypePTR, false, 2000},
	} {
		seen := map[string]bool{}
		most := 0
		for range 20 {
			r := s.Reply(t.Context(), question(k.name, k.qtype), netip.AddrPort{}, k.datagram)
			b, err := r.Pack()
			if limit := map[bool]int{true: 512, false: 65535}[k.datagram]; err != nil || len(b) > limit || !r.Truncated || len(r.Answer) < k.atLeast {
				t.Fatalf("%s %d: %d bytes, %d answers, truncated %v, %v", k.name, k.qtype, len(b), len(r.Answer), r.Truncated, err)
			}
			most = max(most, len(r.Answer))
			for _, rr := range r.Answer {
				seen[rr.String()] = true
			}
		}
		if len(seen) < min(3*most, 4500) {
			t.Errorf("%s: 20 answers have had %d endpoints, one has %d", k.name, len(seen), most)
		}
	}
}

// TestOneSocket: the two questions that a resolver asks at once from one socket are
// both answered.
func TestOneSocket(t *testing.T) {
	address := serving(t, dns.NewServer(someZone(t), dns.ServerConfig{}))
	c, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn := &wire.Conn{Conn: c}
	for range 50 {
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		a, aaaa := question("web.shop.svc.cluster.local.", wire.TypeA), question("web.shop.svc.cluster.local.", wire.TypeAAAA)
		for _, m := range []*wire.Msg{a, aaaa} {
			if err := conn.WriteMsg(m); err != nil {
				t.Fatal(err)
			}
		}
		got := map[uint16]int{}
		for range 2 {
			r, err := conn.ReadMsg()
			if err != nil {
				t.Fatal(err)
			}
			got[r.Id] = len(r.Answer)
		}
		if n, ok := got[aaaa.Id]; got[a.Id] != 1 || !ok || n != 0 {
			t.Fatal(got)
		}
	}
}
