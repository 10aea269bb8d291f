package dns_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	wire "github.com/miekg/dns"

	"vswitch/vswitch/dns"
)

// internet is where a Forwarder of a test asks: resolvers in memory, by address.
type internet struct {
	mu        sync.Mutex
	resolvers map[string]func(network string, q *wire.Msg) []*wire.Msg
	asked     []string // "address network name", in order
	ids       map[uint16]bool
	wg        sync.WaitGroup
}

// datagrams is a pipe that keeps the bounds of messages.
type datagrams struct {
	net.Conn
	local *net.UDPAddr
}

func (d datagrams) LocalAddr() net.Addr { return d.local }
func (d datagrams) ReadFrom(b []byte) (n int, a net.Addr, e error) {
	n, e = d.Read(b)
	return n, d.local, e
}
func (d datagrams) WriteTo(b []byte, _ net.Addr) (int, error) { return d.Write(b) }

func (n *internet) dial(_ context.Context, network, address string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.resolvers[address]
	if r == nil {
		return nil, errors.New("connection refused")
	}
	client, server := net.Pipe()
	n.wg.Go(func() { n.serve(server, network, address, r) })
	if network == "udp" {
		return datagrams{client, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 9), Port: 40000 + len(n.asked)}}, nil
	}
	return client, nil
}

func (n *internet) serve(c net.Conn, network, address string, r func(string, *wire.Msg) []*wire.Msg) {
	defer c.Close()
	conn := &wire.Conn{Conn: c}
	if network == "udp" {
		conn.Conn = datagrams{Conn: c}
		conn.UDPSize = 4096
	}
	for {
		q, err := conn.ReadMsg()
		if err != nil {
			return
		}
		n.mu.Lock()
		n.asked = append(n.asked, fmt.Sprintf("%s %s %s", address, network, q.Question[0].Name))
		if n.ids != nil {
			n.ids[q.Id] = true
		}
		n.mu.Unlock()
		for _, m := range r(network, q) {
			if b, err := m.Pack(); err == nil {
				_, _ = conn.Write(b)
			}
		}
	}
}

// asks returns what was asked since the last call.
func (n *internet) asks() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := strings.Join(n.asked, "; ")
	n.asked = nil
	return s
}

// reply answers with records in the form of a zone file.
func reply(q *wire.Msg, rcode int, answer string, authority ...string) *wire.Msg {
	m := new(wire.Msg).SetReply(q)
	m.Rcode, m.RecursionAvailable = rcode, true
	for i, text := range append([]string{answer}, authority...) {
		if text == "" {
			continue
		}
		r, err := wire.NewRR(text)
		if err != nil {
			panic(err)
		}
		if i == 0 {
			m.Answer = append(m.Answer, r)
		} else {
			m.Ns = append(m.Ns, r)
		}
	}
	return m
}

const (
	up1 = "192.0.2.1:53"
	up2 = "192.0.2.2:53"
)

// forwarding runs fn in virtual time with a server whose forwarder asks in n.
func forwarding(t *testing.T, n *internet, fn func(t *testing.T, ask func(name string) *wire.Msg, f *dns.Forwarder), upstreams ...string) {
	zone := someZone(t)
	synctest.Test(t, func(t *testing.T) {
		cfg := dns.ForwarderConfig{Dial: n.dial}
		for _, u := range upstreams {
			cfg.Upstreams = append(cfg.Upstreams, netip.MustParseAddrPort(u))
		}
		f := dns.NewForwarder(cfg)
		s := dns.NewServer(zone, dns.ServerConfig{Forwarder: f})
		fn(t, func(name string) *wire.Msg {
			return s.Reply(t.Context(), question(name, wire.TypeA), netip.AddrPort{}, true)
		}, f)
		f.Close()
		n.wg.Wait()
	})
}

// text is a message's code and answer.
func text(m *wire.Msg) string {
	s := wire.RcodeToString[m.Rcode]
	for _, r := range m.Answer {
		s += "; " + strings.Join(strings.Fields(r.String()), " ")
	}
	return s
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
}

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

func answering(address string) func(string, *wire.Msg) []*wire.Msg {
	return func(_ string, q *wire.Msg) []*wire.Msg {
		return []*wire.Msg{reply(q, 0, q.Question[0].Name+" 10 A "+address)}
	}
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

// TestForwardShares: those who wait for one name leave room for others, and one
// address that asks for many leaves room for other addresses.
func TestForwardShares(t *testing.T) {
	zone := someZone(t)
	n := &internet{resolvers: map[string]func(string, *wire.Msg) []*wire.Msg{
		up1: func(network string, q *wire.Msg) []*wire.Msg {
			time.Sleep(time.Second)
			return answering("198.51.100.1")(network, q)
		},
	}}
	synctest.Test(t, func(t *testing.T) {
		f := dns.NewForwarder(dns.ForwarderConfig{Dial: n.dial, Upstreams: addrPorts(up1)})
		s := dns.NewServer(zone, dns.ServerConfig{Forwarder: f})
		rcode := func(name string, from netip.Addr) string {
			m := s.Reply(t.Context(), question(name, wire.TypeA), netip.AddrPortFrom(from, 4000), true)
			return wire.RcodeToString[m.Rcode]
		}
		var wg sync.WaitGroup
		many := func(name func(i int) string, from func(i int) netip.Addr, count int) {
			for i := range count {
				wg.Go(func() { expect(t, "one of many", rcode(name(i), from(i)), "NOERROR") })
			}
			synctest.Wait()
		}
		one, two := netip.MustParseAddr("192.0.2.101"), netip.MustParseAddr("192.0.2.102")
		// Two thousand addresses for one name.
		many(func(int) string { return "same.test." }, func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }, 2000)
		expect(t, "another name", rcode("other.test.", one), "NOERROR")
		wg.Wait()
		// One address for many names.
		many(func(i int) string { return fmt.Sprint(i, ".test.") }, func(int) netip.Addr { return one }, 256)
		began := time.Now()
		expect(t, "one more of the same address", rcode("more.test.", one), "SERVFAIL")
		expect(t, "one more that is asked already", rcode("0.test.", one), "SERVFAIL")
		if took := time.Since(began); took != 0 {
			t.Errorf("they had to wait for %v", took)
		}
		expect(t, "another address", rcode("more.test.", two), "NOERROR")
		wg.Wait()
		expect(t, "when there is room", rcode("less.test.", one), "NOERROR")
		f.Close()
		n.wg.Wait()
	})
}

// TestForwardFlights: equal questions are asked once, however many wait, and no
// more than 1,024 are asked at a time.
func TestForwardFlights(t *testing.T) {
	n := &internet{ids: map[uint16]bool{}, resolvers: map[string]func(string, *wire.Msg) []*wire.Msg{
		up1: func(_ string, q *wire.Msg) []*wire.Msg {
			time.Sleep(time.Second)
			return answering("198.51.100.1")("", q)
		},
	}}
	forwarding(t, n, func(t *testing.T, ask func(string) *wire.Msg, _ *dns.Forwarder) {
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				name := []string{"a.test.", "A.test."}[i%2]
				expect(t, "one of many", text(ask(name)), "NOERROR; "+name+" 10 IN A 198.51.100.1")
			})
		}
		wg.Wait()
		if got := n.asks(); !strings.EqualFold(got, up1+" udp a.test.") {
			t.Errorf("asked %s", got)
		}
		for i := range 1024 {
			wg.Go(func() { ask(fmt.Sprintf("%d.test.", i)) })
		}
		synctest.Wait()
		began := time.Now()
		expect(t, "one too many", text(ask("x.test.")), "SERVFAIL")
		if time.Since(began) != 0 {
			t.Error("it had to wait")
		}
		wg.Wait()
		expect(t, "when there is room", text(ask("x.test.")), "NOERROR; x.test. 10 IN A 198.51.100.1")
		if len(n.ids) < 950 { // of 1,026, at random from 65,536
			t.Errorf("only %d ids", len(n.ids))
		}
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

// TestForwardCacheIsBounded asks for more than is remembered, which is 4 MiB. The
// names are long, and a message has them once.
func TestForwardCacheIsBounded(t *testing.T) {
	long := "." + strings.Repeat(strings.Repeat("x", 60)+".", 3)
	n := &internet{resolvers: map[string]func(string, *wire.Msg) []*wire.Msg{
		up1: func(_ string, q *wire.Msg) []*wire.Msg {
			m := reply(q, 0, q.Question[0].Name+" 3600 A 198.51.100.1")
			for range 50 {
				m.Answer = append(m.Answer, m.Answer[0])
			}
			m.Compress = true
			return []*wire.Msg{m}
		},
	}}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	forwarding(t, n, func(t *testing.T, ask func(string) *wire.Msg, _ *dns.Forwarder) {
		const count = 5000
		before := heap()
		for i := range count { // more than 1,200 bytes each
			ask(fmt.Sprint(i, long))
		}
		n.asks()
		if took := heap() - before; took > 6<<20 {
			t.Errorf("they take %d KiB", took>>10)
		}
		again := 0
		for i := count - 1; i >= 0; i-- {
			ask(fmt.Sprint(i, long))
			if n.asks() != "" {
				again++
			}
		}
		if again < 1500 || again > 4000 {
			t.Errorf("%d of %d were forgotten", again, count)
		}
	}, up1)
}
