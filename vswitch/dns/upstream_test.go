package dns_test

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	wire "github.com/miekg/dns"

	"vswitch/vswitch/dns"
)

// silent takes questions and says nothing.
func silent(string, *wire.Msg) []*wire.Msg { return nil }

// TestForwardFailover: who does not answer for three names is asked last, until it
// is time to try again.
func TestForwardFailover(t *testing.T) {
	n := &internet{resolvers: map[string]func(string, *wire.Msg) []*wire.Msg{up1: silent, up2: answering("198.51.100.2")}}
	forwarding(t, n, func(t *testing.T, ask func(string) *wire.Msg, _ *dns.Forwarder) {
		took := func(name string) time.Duration {
			t.Helper()
			began := time.Now()
			expect(t, name, text(ask(name)), "NOERROR; "+name+" 10 IN A 198.51.100.2")
			return time.Since(began)
		}
		for _, name := range []string{"1.test.", "2.test.", "3.test."} {
			expect(t, "one of the first three", took(name).String(), "2s")
			expect(t, "asked", n.asks(), up1+" udp "+name+"; "+up2+" udp "+name)
		}
		expect(t, "then", took("b.test.").String(), "0s")
		expect(t, "asked", n.asks(), up2+" udp b.test.")
		time.Sleep(5 * time.Second)
		expect(t, "after five seconds", took("c.test.").String(), "2s")
		time.Sleep(5 * time.Second) // down for ten now
		expect(t, "after five more", took("d.test.").String(), "0s")
		n.asks()
		n.mu.Lock()
		n.resolvers[up1] = answering("198.51.100.1")
		n.mu.Unlock()
		time.Sleep(time.Minute)
		expect(t, "when it is back", text(ask("e.test.")), "NOERROR; e.test. 10 IN A 198.51.100.1")
		expect(t, "asked", n.asks(), up1+" udp e.test.")
	}, up1, up2)
}

// TestForwardDeadName: one name that an upstream does not answer, however often it
// is asked for, says nothing of others. A split horizon depends on the order.
func TestForwardDeadName(t *testing.T) {
	n := &internet{resolvers: map[string]func(string, *wire.Msg) []*wire.Msg{
		up1: func(network string, q *wire.Msg) []*wire.Msg {
			if strings.HasPrefix(strings.ToLower(q.Question[0].Name), "dead") {
				return nil
			}
			return answering("198.51.100.1")(network, q)
		},
		up2: answering("198.51.100.2"),
	}}
	forwarding(t, n, func(t *testing.T, ask func(string) *wire.Msg, _ *dns.Forwarder) {
		for _, name := range []string{"dead.test.", "DEAD.test.", "dead.Test.", "dead.test."} {
			expect(t, "a dead name", text(ask(name)), "NOERROR; "+name+" 10 IN A 198.51.100.2")
			time.Sleep(11 * time.Second)
		}
		for i := range 4 {
			good := fmt.Sprintf("good%d.test.", i)
			expect(t, "a good one", text(ask(good)), "NOERROR; "+good+" 10 IN A 198.51.100.1")
			dead := fmt.Sprintf("dead%d.test.", i)
			expect(t, "another dead one", text(ask(dead)), "NOERROR; "+dead+" 10 IN A 198.51.100.2")
		}
	}, up1, up2)
}

// TestForwardUnreachable: an upstream whose port is closed is down at once.
func TestForwardUnreachable(t *testing.T) {
	n := &internet{resolvers: map[string]func(string, *wire.Msg) []*wire.Msg{up2: answering("198.51.100.2")}}
	forwarding(t, n, func(t *testing.T, ask func(string) *wire.Msg, _ *dns.Forwarder) {
		ask("a.test.")
		n.mu.Lock()
		n.resolvers[up1] = answering("198.51.100.1")
		n.mu.Unlock()
		expect(t, "a moment later", text(ask("b.test.")), "NOERROR; b.test. 10 IN A 198.51.100.2")
		time.Sleep(5 * time.Second)
		expect(t, "after five seconds", text(ask("c.test.")), "NOERROR; c.test. 10 IN A 198.51.100.1")
	}, up1, up2)
}

// TestForwardDead: when nobody answers, the client is told before it asks again.
func TestForwardDead(t *testing.T) {
	n := &internet{resolvers: map[string]func(string, *wire.Msg) []*wire.Msg{up1: silent}}
	for _, upstreams := range [][]string{{up1}, {up1, up2}, {}} {
		forwarding(t, n, func(t *testing.T, ask func(string) *wire.Msg, _ *dns.Forwarder) {
			began := time.Now()
			expect(t, "nobody answers", text(ask("a.test.")), "SERVFAIL")
			if took := time.Since(began); took >= 5*time.Second {
				t.Errorf("it took %v", took)
			}
			expect(t, "a service that stands for it", text(ask("out.shop.svc.cluster.local.")), "SERVFAIL; out.shop.svc.cluster.local. 5 IN CNAME www.example.test.")
		}, upstreams...)
	}
}

// TestForwardWithoutTCP: where a network lets only UDP pass, a piece of an answer
// comes, and says that it is one.
func TestForwardWithoutTCP(t *testing.T) {
	n := &internet{resolvers: map[string]func(string, *wire.Msg) []*wire.Msg{
		up1: func(network string, q *wire.Msg) []*wire.Msg {
			if network == "tcp" {
				return nil
			}
			m := reply(q, 0, q.Question[0].Name+" 10 A 198.51.100.1")
			m.Truncated = true
			return []*wire.Msg{m}
		},
	}}
	forwarding(t, n, func(t *testing.T, ask func(string) *wire.Msg, _ *dns.Forwarder) {
		for range 2 {
			m := ask("a.test.")
			expect(t, "a piece", text(m), "NOERROR; a.test. 10 IN A 198.51.100.1")
			if !m.Truncated {
				t.Error("it does not say that it is a piece")
			}
			expect(t, "asked, as pieces are not remembered", n.asks(), up1+" udp a.test.; "+up1+" tcp a.test.")
		}
	}, up1)
}

// TestForwardLogs: an upstream that goes, and comes back, is news once a minute at
// most.
func TestForwardLogs(t *testing.T) {
	n := &internet{resolvers: map[string]func(string, *wire.Msg) []*wire.Msg{up1: silent}}
	zone := someZone(t)
	synctest.Test(t, func(t *testing.T) {
		var b strings.Builder
		f := dns.NewForwarder(dns.ForwarderConfig{Dial: n.dial, Upstreams: addrPorts(up1), Log: slog.New(slog.NewTextHandler(&b, nil))})
		s := dns.NewServer(zone, dns.ServerConfig{Forwarder: f})
		want := func(what string, lines ...string) {
			t.Helper()
			got := slices.Collect(strings.Lines(b.String()))
			b.Reset()
			if !slices.EqualFunc(got, lines, strings.Contains) {
				t.Errorf("%s: %q, want %q", what, got, lines)
			}
		}
		names := 0
		turn := func(r func(string, *wire.Msg) []*wire.Msg) {
			n.mu.Lock()
			n.resolvers[up1] = r
			n.mu.Unlock()
			for range 3 { // four seconds each, if it is silent
				names++
				s.Reply(t.Context(), question(fmt.Sprint(names, ".test."), wire.TypeA), netip.AddrPort{}, true)
			}
		}
		turn(silent)
		want("it goes", "does not answer")
		turn(silent)
		want("it is still away")
		turn(answering("198.51.100.1"))
		want("it is back", "answers again")
		for range 2 {
			turn(silent)
			turn(answering("198.51.100.1"))
		}
		want("it comes and goes")
		turn(silent)
		want("it goes again")
		time.Sleep(time.Minute)
		turn(silent)
		want("it stays away", "does not answer")
		turn(answering("198.51.100.1"))
		want("it is back again", "answers again")
		f.Close()
		n.wg.Wait()
	})
}

// TestForwardRefusing: what one upstream cannot do another one may.
func TestForwardRefusing(t *testing.T) {
	n := &internet{resolvers: map[string]func(string, *wire.Msg) []*wire.Msg{
		up1: func(_ string, q *wire.Msg) []*wire.Msg { return []*wire.Msg{reply(q, wire.RcodeRefused, "")} },
		up2: answering("198.51.100.2"),
	}}
	forwarding(t, n, func(t *testing.T, ask func(string) *wire.Msg, f *dns.Forwarder) {
		expect(t, "the second one", text(ask("a.test.")), "NOERROR; a.test. 10 IN A 198.51.100.2")
		f.SetUpstreams([]netip.AddrPort{netip.MustParseAddrPort(up1)})
		expect(t, "nobody else; what the other one said is forgotten", text(ask("a.test.")), "REFUSED")
	}, up1, up2)
}
