package dns_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"vswitch/vswitch/dns"
)

func TestForward(t *testing.T) {
	n := &internet{resolvers: map[string]func(string, *wire.Msg) []*wire.Msg{
		up1: func(network string, q *wire.Msg) []*wire.Msg {
			name := q.Question[0].Name
			switch strings.ToLower(name) {
			case "www.example.test.":
				return []*wire.Msg{reply(q, 0, "www.example.test. 10 A 198.51.100.7")}
			case "cut.example.test.":
				m := reply(q, 0, "cut.example.test. 10 A 198.51.100.8")
				if m.Truncated = network == "udp"; m.Truncated {
					m.Answer = nil
				}
				return []*wire.Msg{m}
			case "spoofed.example.test.":
				id, other := reply(q, 0, name+" 10 A 203.0.113.1"), reply(q, 0, name+" 10 A 203.0.113.2")
				id.Id++
				other.Question[0].Name = "else.example.test."
				kind := reply(q, 0, name+" 10 A 203.0.113.3")
				kind.Question[0].Qtype = wire.TypeAAAA
				echo := q.Copy()
				return []*wire.Msg{id, other, kind, echo, reply(q, 0, name+" 10 A 198.51.100.9")}
			case "old.example.test.", "old.cut.example.test.":
				if q.IsEdns0() != nil {
					return []*wire.Msg{reply(q, wire.RcodeFormatError, "")}
				}
				m := reply(q, 0, name+" 10 A 198.51.100.10")
				m.Truncated = network == "udp" && strings.Contains(name, "cut")
				return []*wire.Msg{m}
			case "broken.example.test.":
				return []*wire.Msg{reply(q, wire.RcodeServerFailure, "")}
			}
			return []*wire.Msg{reply(q, wire.RcodeNameError, "", "test. 900 SOA a. b. 1 2 3 4 600")}
		},
	}}
	forwarding(t, n, func(t *testing.T, ask func(string) *wire.Msg, _ *dns.Forwarder) {
		m := ask("WWW.example.test.")
		expect(t, "a name outside", text(m), "NOERROR; WWW.example.test. 10 IN A 198.51.100.7")
		if !m.RecursionAvailable || m.Authoritative || m.IsEdns0() != nil {
			t.Error(m)
		}
		expect(t, "asked", n.asks(), up1+" udp WWW.example.test.")
		time.Sleep(4 * time.Second)
		expect(t, "from the cache", text(ask("www.Example.test.")), "NOERROR; www.Example.test. 6 IN A 198.51.100.7")
		expect(t, "asked", n.asks(), "")
		m = ask("out.shop.svc.cluster.local.")
		expect(t, "a service that stands for it", text(m), "NOERROR; out.shop.svc.cluster.local. 5 IN CNAME www.example.test.; www.example.test. 6 IN A 198.51.100.7")
		time.Sleep(6 * time.Second)
		expect(t, "after its TTL", text(ask("www.example.test.")), "NOERROR; www.example.test. 10 IN A 198.51.100.7")
		expect(t, "asked", n.asks(), up1+" udp www.example.test.")

		expect(t, "cut over UDP", text(ask("cut.example.test.")), "NOERROR; cut.example.test. 10 IN A 198.51.100.8")
		expect(t, "asked", n.asks(), up1+" udp cut.example.test.; "+up1+" tcp cut.example.test.")
		expect(t, "answers that are not to the question", text(ask("spoofed.example.test.")), "NOERROR; spoofed.example.test. 10 IN A 198.51.100.9")
		expect(t, "no EDNS", text(ask("old.example.test.")), "NOERROR; old.example.test. 10 IN A 198.51.100.10")
		m = ask("old.cut.example.test.")
		expect(t, "no EDNS, and cut over UDP", text(m), "NOERROR; old.cut.example.test. 10 IN A 198.51.100.10")
		if m.Truncated {
			t.Error(m)
		}
		n.asks()

		m = ask("no.example.test.")
		expect(t, "not there", text(m), "NXDOMAIN")
		if len(m.Ns) != 1 {
			t.Error(m)
		}
		time.Sleep(29 * time.Second)
		if m = ask("no.example.test."); m.Rcode != wire.RcodeNameError || m.Ns[0].Header().Ttl != 871 {
			t.Error(m)
		}
		expect(t, "asked", n.asks(), up1+" udp no.example.test.")
		time.Sleep(time.Second) // no longer than half a minute
		ask("no.example.test.")
		expect(t, "asked", n.asks(), up1+" udp no.example.test.")

		expect(t, "an upstream that fails", text(ask("broken.example.test.")), "SERVFAIL")
		expect(t, "that is remembered for a second", text(ask("broken.example.test.")), "SERVFAIL")
		expect(t, "asked", n.asks(), up1+" udp broken.example.test.")
		expect(t, "a reverse name of others", text(ask("1.2.0.192.in-addr.arpa.")), "NXDOMAIN")
		expect(t, "asked", n.asks(), up1+" udp 1.2.0.192.in-addr.arpa.")
		for _, name := range []string{"web.shop.svc.cluster.local.", "no.svc.cluster.local.", "9.9.244.10.in-addr.arpa."} {
			ask(name)
		}
		expect(t, "asked for names of the zone", n.asks(), "")
	}, up1)
}

// TestForwardTruncates: TC says that something is missing of what was asked for. A
// part of the name servers beside an answer would be worse than none.
func TestForwardTruncates(t *testing.T) {
	const soa = "test. 900 SOA a. b. 1 2 3 4 600"
	many := func(format string) (list []string) {
		for i := range 20 {
			list = append(list, fmt.Sprintf(format, i))
		}
		return list
	}
	servers := many("test. 900 NS a-name-of-a-server-%d.test.")
	answers := map[string]struct {
		answer    string
		authority []string
	}{
		"answer.test.":   {"answer.test. 10 A 198.51.100.1", servers},
		"both.test.":     {"both.test. 10 A 198.51.100.1", append([]string{soa}, servers...)},
		"referral.test.": {"", servers},
		"none.test.":     {"", append([]string{soa}, servers...)},
		"fits.test.":     {"fits.test. 10 A 198.51.100.1", servers[:5]},
	}
	n := &internet{resolvers: map[string]func(string, *wire.Msg) []*wire.Msg{
		up1: func(_ string, q *wire.Msg) []*wire.Msg {
			a := answers[q.Question[0].Name]
			return []*wire.Msg{reply(q, 0, a.answer, a.authority...)}
		},
	}}
	forwarding(t, n, func(t *testing.T, ask func(string) *wire.Msg, _ *dns.Forwarder) {
		for _, k := range []struct {
			name            string
			answers, atMost int
			authority       int
			truncated       bool
		}{
			{"answer.test.", 1, 0, 0, false},
			{"both.test.", 1, 1, 1, false},
			{"referral.test.", 0, 19, 5, true},
			{"none.test.", 0, 20, 5, true},
			{"fits.test.", 1, 5, 5, false},
		} {
			m := ask(k.name)
			b, err := m.Pack()
			if err != nil || len(b) > 512 || len(m.Answer) != k.answers || len(m.Ns) < k.authority || len(m.Ns) > k.atMost || m.Truncated != k.truncated {
				t.Errorf("%s: %d bytes, %d answers, %d in authority, truncated %v, %v", k.name, len(b), len(m.Answer), len(m.Ns), m.Truncated, err)
			}
		}
	}, up1)
}

// TestForwardNoAnswerIsRemembered: for a second after nobody has answered, nobody is
// asked again, unless the upstreams are others.
func TestForwardNoAnswerIsRemembered(t *testing.T) {
	n := &internet{resolvers: map[string]func(string, *wire.Msg) []*wire.Msg{up1: silent, up2: answering("198.51.100.2")}}
	forwarding(t, n, func(t *testing.T, ask func(string) *wire.Msg, f *dns.Forwarder) {
		dead := func(want time.Duration, asked string) {
			t.Helper()
			began := time.Now()
			expect(t, "nobody answers", text(ask("dead.test.")), "SERVFAIL")
			if took := time.Since(began); took != want {
				t.Errorf("it took %v, want %v", took, want)
			}
			expect(t, "asked", n.asks(), asked)
		}
		both := up1 + " udp dead.test.; " + up1 + " udp dead.test."
		dead(4*time.Second, both)
		dead(0, "")
		time.Sleep(999 * time.Millisecond)
		dead(0, "")
		time.Sleep(time.Millisecond)
		dead(4*time.Second, both)
		f.SetUpstreams(addrPorts(up2))
		expect(t, "others", text(ask("dead.test.")), "NOERROR; dead.test. 10 IN A 198.51.100.2")
	}, up1)
}

// TestForwardLoop: a server that is its own upstream refuses at once, and does not
// wait for itself until it fails.
func TestForwardLoop(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	self := c.LocalAddr().(*net.UDPAddr).AddrPort()
	f := dns.NewForwarder(dns.ForwarderConfig{Upstreams: []netip.AddrPort{self}})
	defer f.Close()
	s := dns.NewServer(someZone(t), dns.ServerConfig{Forwarder: f})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.ServePacket(ctx, c) }()
	if r := ask(t, "udp", self.String(), question("a.test.", wire.TypeA)); r.Rcode != wire.RcodeRefused {
		t.Error(r)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestForwardOneHop: what signs an upstream's message is not passed on, and does not
// keep an answer from being cut.
func TestForwardOneHop(t *testing.T) {
	n := &internet{resolvers: map[string]func(string, *wire.Msg) []*wire.Msg{
		up1: func(_ string, q *wire.Msg) []*wire.Msg {
			m := reply(q, 0, "")
			for i := range 60 {
				m.Answer = append(m.Answer, &wire.A{Hdr: wire.RR_Header{Name: "a.test.", Rrtype: wire.TypeA, Class: wire.ClassINET, Ttl: 10}, A: net.IPv4(198, 51, 100, byte(i))})
			}
			m.SetEdns0(1232, false)
			m.Extra = append(m.Extra, &wire.TSIG{Hdr: wire.RR_Header{Name: "key.", Rrtype: wire.TypeTSIG, Class: wire.ClassANY}, Algorithm: wire.HmacSHA256})
			m.Compress = true
			return []*wire.Msg{m}
		},
	}}
	forwarding(t, n, func(t *testing.T, ask func(string) *wire.Msg, _ *dns.Forwarder) {
		m := ask("a.test.")
		if b, err := m.Pack(); err != nil || len(b) > 512 || !m.Truncated || len(m.Extra) != 0 {
			t.Errorf("%d bytes, %v, truncated %v, beside it %v", len(b), err, m.Truncated, m.Extra)
		}
	}, up1)
}
