package dns_test

import (
	"fmt"
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
