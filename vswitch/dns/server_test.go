package dns_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
	"vswitch/vswitch/dns"
)

const someServices = `apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.11, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: out, namespace: shop}
spec: {type: ExternalName, externalName: www.example.test}
---
apiVersion: v1
kind: Service
metadata: {name: many, namespace: shop}
spec: {clusterIP: None, ports: [{name: http, port: 80}]}
`

// someState has a service of 200 endpoints, many, beside others.
func someState(t testing.TB) (*cluster.State, control.Config) {
	var b bytes.Buffer
	b.WriteString(someServices)
	for slice := range 2 {
		b.WriteString("---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: many-" + string(rune('a'+slice)) +
			", namespace: shop, labels: {kubernetes.io/service-name: many}}\naddressType: IPv4\nports: [{name: http, port: 80}]\nendpoints:\n")
		for i := range 100 {
			b.WriteString("- {addresses: [" + netip.AddrFrom4([4]byte{10, 244, byte(slice), byte(i + 1)}).String() + "], nodeName: node1}\n")
		}
	}
	return static(t, b.String(), nil)
}

// someZone is the zone of someState.
func someZone(t testing.TB) *dns.Zone {
	state, cfg := someState(t)
	return zoneOf(t, state, cfg.ClusterCIDRs)
}

// serving answers on sockets of the loopback interface until the test ends.
func serving(t testing.TB, s *dns.Server) (address string) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.ServePacket(ctx, c); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		if err := s.ServeListener(ctx, l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return c.LocalAddr().String()
}

func ask(t testing.TB, network, address string, m *wire.Msg) *wire.Msg {
	t.Helper()
	c := &wire.Client{Net: network, UDPSize: 4096, Timeout: 20 * time.Second}
	r, _, err := c.Exchange(m, address)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func question(name string, qtype uint16) *wire.Msg {
	m := new(wire.Msg)
	m.SetQuestion(name, qtype)
	return m
}

func TestServer(t *testing.T) {
	address := serving(t, dns.NewServer(someZone(t), dns.ServerConfig{}))
	for _, k := range []struct {
		name   string
		change func(m *wire.Msg)
		rcode  int
	}{
		{"plain", func(*wire.Msg) {}, wire.RcodeSuccess},
		{"no recursion desired", func(m *wire.Msg) { m.RecursionDesired = false }, wire.RcodeSuccess},
		{"EDNS", func(m *wire.Msg) { m.SetEdns0(4096, true) }, wire.RcodeSuccess},
		{"a version of EDNS that there is not", func(m *wire.Msg) { m.SetEdns0(4096, false); m.IsEdns0().SetVersion(1) }, wire.RcodeBadVers},
		{"two OPT records", func(m *wire.Msg) { m.SetEdns0(4096, false); m.Extra = append(m.Extra, m.Extra[0]) }, wire.RcodeFormatError},
		{"an OPT record asked for", func(m *wire.Msg) { m.Question[0].Qtype = wire.TypeOPT }, wire.RcodeFormatError},
		{"class CHAOS", func(m *wire.Msg) {
			m.Question[0] = wire.Question{Name: "version.bind.", Qtype: wire.TypeTXT, Qclass: wire.ClassCHAOS}
		}, wire.RcodeRefused},
		{"class ANY", func(m *wire.Msg) { m.Question[0].Qclass = wire.ClassANY }, wire.RcodeRefused},
		{"a transfer", func(m *wire.Msg) {
			m.Question[0] = wire.Question{Name: "cluster.local.", Qtype: wire.TypeAXFR, Qclass: 1}
		}, wire.RcodeRefused},
		{"another zone", func(m *wire.Msg) { m.Question[0].Name = "example.com." }, wire.RcodeRefused},
		{"two questions", func(m *wire.Msg) { m.Question = append(m.Question, m.Question[0]) }, wire.RcodeFormatError},
		{"no question", func(m *wire.Msg) { m.Question = nil }, wire.RcodeFormatError},
		{"an answer in it", func(m *wire.Msg) { m.Answer = []wire.RR{&wire.A{Hdr: wire.RR_Header{Name: ".", Rrtype: 1, Class: 1}}} }, wire.RcodeFormatError},
		{"STATUS", func(m *wire.Msg) { m.Opcode = wire.OpcodeStatus }, wire.RcodeNotImplemented},
		{"UPDATE", func(m *wire.Msg) { m.Opcode = wire.OpcodeUpdate }, wire.RcodeNotImplemented},
		{"NOTIFY", func(m *wire.Msg) { m.Opcode = wire.OpcodeNotify }, wire.RcodeNotImplemented},
	} {
		for _, network := range []string{"udp", "tcp"} {
			m := question("web.shop.svc.cluster.local.", wire.TypeA)
			k.change(m)
			r := ask(t, network, address, m)
			if r.Rcode != k.rcode || r.RecursionAvailable || r.RecursionDesired != m.RecursionDesired {
				t.Errorf("%s over %s: %v", k.name, network, r)
			}
			if in, out := m.IsEdns0(), r.IsEdns0(); in != nil && k.name != "two OPT records" &&
				(out == nil || out.UDPSize() != 1232 || out.Version() != 0 || out.Do() != in.Do()) || in == nil && out != nil {
				t.Errorf("%s over %s: OPT %v", k.name, network, out)
			}
			if k.rcode == wire.RcodeSuccess && (len(r.Answer) != 1 || !r.Authoritative) {
				t.Errorf("%s over %s: %v", k.name, network, r)
			}
		}
	}
}

// TestServerTruncates: over UDP an answer has the size that the client takes, and
// says what is missing; over TCP all of it is there.
func TestServerTruncates(t *testing.T) {
	address := serving(t, dns.NewServer(someZone(t), dns.ServerConfig{}))
	for _, k := range []struct{ edns, size, atLeast int }{{0, 512, 29}, {100, 512, 25}, {900, 900, 50}, {1232, 1232, 70}, {65535, 1232, 70}} {
		m := question("many.shop.svc.cluster.local.", wire.TypeA)
		if k.edns > 0 {
			m.SetEdns0(uint16(k.edns), false)
		}
		first := map[string]bool{}
		for range 40 {
			r := ask(t, "udp", address, m)
			r.Compress = true
			if n := r.Len(); !r.Truncated || n > k.size || len(r.Answer) < k.atLeast {
				t.Fatalf("EDNS size %d: %d bytes with %d answers, truncated %v", k.edns, n, len(r.Answer), r.Truncated)
			}
			first[r.Answer[0].String()] = true
		}
		if len(first) < 15 { // of 200
			t.Errorf("EDNS size %d: only %d endpoints have been the first of 40 answers", k.edns, len(first))
		}
	}
	r := ask(t, "tcp", address, question("many.shop.svc.cluster.local.", wire.TypeA))
	seen := map[string]bool{}
	for _, rr := range r.Answer {
		seen[rr.String()] = true
	}
	if r.Truncated || len(seen) != 200 || len(r.Answer) != 200 {
		t.Errorf("over TCP: %d answers of which %d differ, truncated %v", len(r.Answer), len(seen), r.Truncated)
	}
	// What is only beside the answer goes without notice.
	r = ask(t, "tcp", address, question("_http._tcp.many.shop.svc.cluster.local.", wire.TypeSRV))
	if r.Truncated || len(r.Answer) != 200 || len(r.Extra) != 200 {
		t.Errorf("SRV over TCP: %d answers and %d beside, truncated %v", len(r.Answer), len(r.Extra), r.Truncated)
	}
}

// TestServerBeforeSync: as long as nothing is known, nothing is denied.
func TestServerBeforeSync(t *testing.T) {
	z, err := dns.NewZone(dns.ZoneConfig{Domain: "cluster.local.", TTL: 5})
	if err != nil {
		t.Fatal(err)
	}
	s := dns.NewServer(z, dns.ServerConfig{})
	address := serving(t, s)
	if r := ask(t, "udp", address, question("web.shop.svc.cluster.local.", wire.TypeA)); r.Rcode != wire.RcodeServerFailure || len(r.Ns) != 0 || r.Authoritative {
		t.Error(r)
	}
	s.SetZone(someZone(t))
	if r := ask(t, "udp", address, question("web.shop.svc.cluster.local.", wire.TypeA)); r.Rcode != wire.RcodeSuccess || len(r.Answer) != 1 {
		t.Error(r)
	}
}

// TestResolver asks as programs do, with Go's own resolver and a search path in the
// names.
func TestResolver(t *testing.T) {
	address := serving(t, dns.NewServer(someZone(t), dns.ServerConfig{}))
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if a, err := r.LookupHost(ctx, "web.shop.svc.cluster.local."); err != nil || !slices.Equal(a, []string{"10.96.0.11"}) {
		t.Error(a, err)
	}
	if a, err := r.LookupHost(ctx, "many.shop.svc.cluster.local."); err != nil || len(a) != 200 { // by TCP
		t.Error(len(a), err)
	}
	if _, s, err := r.LookupSRV(ctx, "http", "tcp", "web.shop.svc.cluster.local."); err != nil || len(s) != 1 || s[0].Port != 80 {
		t.Error(s, err)
	}
	if n, err := r.LookupAddr(ctx, "10.244.0.7"); err != nil || !slices.Equal(n, []string{"10-244-0-7.many.shop.svc.cluster.local."}) {
		t.Error(n, err)
	}
	if n, err := r.LookupTXT(ctx, "dns-version.cluster.local."); err != nil || !slices.Equal(n, []string{"1.1.0"}) {
		t.Error(n, err)
	}
	_, err := r.LookupHost(ctx, "no.shop.svc.cluster.local.")
	if e := (*net.DNSError)(nil); !errors.As(err, &e) || !e.IsNotFound {
		t.Error(err)
	}
}
