package dns_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

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

func answering(address string) func(string, *wire.Msg) []*wire.Msg {
	return func(_ string, q *wire.Msg) []*wire.Msg {
		return []*wire.Msg{reply(q, 0, q.Question[0].Name+" 10 A "+address)}
	}
}
