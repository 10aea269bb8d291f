package dns_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	wire "github.com/miekg/dns"

	"vswitch/vswitch/dns"
)

// TestServerConnection: questions come one behind the other on one connection, in
// pieces, and are answered in order.
func TestServerConnection(t *testing.T) {
	address := serving(t, dns.NewServer(someZone(t), dns.ServerConfig{}))
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	var sent bytes.Buffer
	var ids []uint16
	for range 300 {
		m := question("web.shop.svc.cluster.local.", wire.TypeA)
		b, _ := m.Pack()
		_ = binary.Write(&sent, binary.BigEndian, uint16(len(b)))
		sent.Write(b)
		ids = append(ids, m.Id)
	}
	go func() {
		for piece := range slices.Chunk(sent.Bytes(), 1001) {
			if _, err := c.Write(piece); err != nil {
				t.Error(err)
			}
		}
	}()
	conn := &wire.Conn{Conn: c}
	for i, id := range ids {
		r, err := conn.ReadMsg()
		if err != nil || r.Id != id || len(r.Answer) != 1 {
			t.Fatalf("answer %d: %v, %v", i, r, err)
		}
	}
}

// TestServerIdle: a connection without questions is closed, and so is one that
// never asks.
func TestServerIdle(t *testing.T) {
	zone := someZone(t)
	synctest.Test(t, func(t *testing.T) {
		for _, asks := range []bool{true, false} {
			ctx, cancel := context.WithCancel(t.Context())
			client, server := net.Pipe()
			done := make(chan error)
			go func() {
				done <- dns.NewServer(zone, dns.ServerConfig{}).ServeListener(ctx, newPipes(server))
			}()
			began := time.Now()
			want := 5 * time.Second
			if asks {
				time.Sleep(3 * time.Second)
				conn := &wire.Conn{Conn: client}
				_ = conn.WriteMsg(question("web.shop.svc.cluster.local.", wire.TypeA))
				if r, err := conn.ReadMsg(); err != nil || len(r.Answer) != 1 {
					t.Error(r, err)
				}
				want = 13 * time.Second
			}
			if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			if took := time.Since(began); took != want {
				t.Errorf("closed after %v, want %v", took, want)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestServerSlowReader: a client that leaves a part of an answer unread for five
// seconds loses its connection. What follows would be read as the rest of it.
func TestServerSlowReader(t *testing.T) {
	zone := someZone(t)
	notQuery := question("web.shop.svc.cluster.local.", wire.TypeA)
	notQuery.Opcode = wire.OpcodeStatus
	n := &internet{resolvers: map[string]func(string, *wire.Msg) []*wire.Msg{up1: answering("198.51.100.1")}}
	for what, m := range map[string]*wire.Msg{
		"an answer":            question("many.shop.svc.cluster.local.", wire.TypeA),
		"of an upstream":       question("a.test.", wire.TypeA),
		"the library's answer": notQuery,
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				client, server := net.Pipe()
				done := make(chan error)
				f := dns.NewForwarder(dns.ForwarderConfig{Dial: n.dial, Upstreams: addrPorts(up1)})
				go func() {
					done <- dns.NewServer(zone, dns.ServerConfig{Forwarder: f}).ServeListener(ctx, newPipes(server))
				}()
				go func() { // as many as are taken, until the connection is closed
					conn := &wire.Conn{Conn: client}
					for conn.WriteMsg(m) == nil {
					}
				}()
				if _, err := io.ReadFull(client, make([]byte, 10)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(6 * time.Second)
				began := time.Now()
				if b, err := io.ReadAll(client); len(b) != 0 || err != nil {
					t.Errorf("%d more bytes, %v", len(b), err)
				}
				if took := time.Since(began); took != 0 {
					t.Errorf("closed %v late", took)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				f.Close()
				n.wg.Wait()
			})
		})
	}
}

// TestServerPipelines: on one connection, an answer that is there does not wait for
// one that is not, and what was asked is answered though the client will ask no more.
func TestServerPipelines(t *testing.T) {
	zone := someZone(t)
	n := &internet{resolvers: map[string]func(string, *wire.Msg) []*wire.Msg{
		up1: func(network string, q *wire.Msg) []*wire.Msg {
			var seconds int
			_, _ = fmt.Sscanf(q.Question[0].Name, "%d.", &seconds)
			time.Sleep(time.Duration(seconds) * time.Second)
			return answering("198.51.100.1")(network, q)
		},
	}}
	synctest.Test(t, func(t *testing.T) {
		f := dns.NewForwarder(dns.ForwarderConfig{Dial: n.dial, Upstreams: addrPorts(up1)})
		ctx, cancel := context.WithCancel(t.Context())
		l := newPipes()
		done := make(chan error)
		go func() { done <- dns.NewServer(zone, dns.ServerConfig{Forwarder: f}).ServeListener(ctx, l) }()
		for _, k := range []struct {
			questions, want []string
		}{
			{[]string{"1.test.", "0.test.", "web.shop.svc.cluster.local."}, []string{"web.shop.svc.cluster.local. 0s", "0.test. 0s", "1.test. 1s"}},
			{slices.Repeat([]string{"1.slow.test."}, 100), slices.Repeat([]string{"1.slow.test. 1s"}, 100)}, // more than may wait
		} {
			client, server := net.Pipe()
			l.conns <- halfClosing{server}
			conn := &wire.Conn{Conn: client}
			began := time.Now()
			go func() {
				for _, name := range k.questions {
					if err := conn.WriteMsg(question(name, wire.TypeA)); err != nil {
						t.Error(err)
					}
				}
				_, _ = client.Write(endOfQuestions)
			}()
			var got []string
			for {
				r, err := conn.ReadMsg()
				if err != nil {
					break
				}
				if len(r.Answer) != 1 {
					t.Error(r)
				}
				got = append(got, fmt.Sprint(r.Question[0].Name, " ", time.Since(began)))
			}
			if k.questions[1] != k.questions[0] { // which of the two at 0s is the first is open
				slices.SortStableFunc(got[:min(2, len(got))], func(a, b string) int { return len(b) - len(a) })
			}
			if !slices.Equal(got, k.want) {
				t.Errorf("%q, want %q", got, k.want)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		f.Close()
		n.wg.Wait()
	})
}

// halfClosing is a connection whose client says that it asks no more with a length
// that is no message's.
type halfClosing struct{ net.Conn }

var endOfQuestions = []byte{0xff, 0xff}

func (c halfClosing) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n == 2 && bytes.Equal(b[:2], endOfQuestions) {
		return 0, io.EOF
	}
	return n, err
}

// TestServerEnds: a server that is to end lets what is under way have a second, and
// returns when there is nothing left: no question that is answered, no connection.
func TestServerEnds(t *testing.T) {
	zone := someZone(t)
	n := &internet{resolvers: map[string]func(string, *wire.Msg) []*wire.Msg{
		up1: func(network string, q *wire.Msg) []*wire.Msg {
			if q.Question[0].Name == "slow.test." {
				time.Sleep(900 * time.Millisecond)
				return answering("198.51.100.1")(network, q)
			}
			return nil
		},
	}}
	for _, k := range []struct {
		name string
		read bool // if the client does
		want time.Duration
	}{
		{"", true, 0}, // the connection is idle
		{"slow.test.", true, 900 * time.Millisecond},
		{"dead.test.", true, time.Second},
		{"web.shop.svc.cluster.local.", false, time.Second},
	} {
		t.Run(k.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := dns.NewForwarder(dns.ForwarderConfig{Dial: n.dial, Upstreams: addrPorts(up1)})
				ctx, cancel := context.WithCancel(t.Context())
				client, server := net.Pipe()
				done := make(chan error)
				go func() {
					done <- dns.NewServer(zone, dns.ServerConfig{Forwarder: f}).ServeListener(ctx, newPipes(server))
				}()
				conn := &wire.Conn{Conn: client}
				if k.name != "" {
					if err := conn.WriteMsg(question(k.name, wire.TypeA)); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				began := time.Now()
				cancel()
				if k.name == "slow.test." {
					if r, err := conn.ReadMsg(); err != nil || len(r.Answer) != 1 {
						t.Error(r, err)
					}
				}
				if k.read {
					if b, err := io.ReadAll(client); len(b) != 0 || err != nil {
						t.Errorf("%d bytes, %v", len(b), err)
					}
				}
				if err := <-done; err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took != k.want {
					t.Errorf("it took %v, want %v", took, k.want)
				}
				if b, err := io.ReadAll(client); len(b) != 0 || err != nil {
					t.Errorf("open in the end: %d bytes, %v", len(b), err)
				}
				f.Close()
				n.wg.Wait()
			})
		})
	}
}

// pipes is a listener whose connections a test makes.
type pipes struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func newPipes(conns ...net.Conn) *pipes {
	l := &pipes{conns: make(chan net.Conn, 1000), closed: make(chan struct{})}
	for _, c := range conns {
		l.conns <- c
	}
	return l
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// fromAddr is a connection from some address.
type fromAddr struct {
	net.Conn
	from net.TCPAddr
}

func (c fromAddr) RemoteAddr() net.Addr { return &c.from }

// TestServerConnections: a listener has so many connections at a time, and one address
// a quarter of them. Those that go make room, each for one.
func TestServerConnections(t *testing.T) {
	zone := someZone(t)
	for _, k := range []struct {
		name          string
		from          func(i int) string
		most          int
		another       string // one more address
		anotherServed bool
	}{
		{"of one address", func(int) string { return "192.0.2.1" }, 128, "192.0.2.2", true},
		{"of many", func(i int) string { return fmt.Sprintf("192.0.2.%d", i%4) }, 512, "192.0.2.9", false},
	} {
		t.Run(k.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				l := newPipes()
				done := make(chan error)
				go func() { done <- dns.NewServer(zone, dns.ServerConfig{}).ServeListener(ctx, l) }()
				served := func(from string) (net.Conn, bool) {
					client, server := net.Pipe()
					l.conns <- fromAddr{server, net.TCPAddr{IP: net.ParseIP(from), Port: 4000}}
					conn := &wire.Conn{Conn: client}
					_ = conn.WriteMsg(question("web.shop.svc.cluster.local.", wire.TypeA))
					_, err := conn.ReadMsg()
					return client, err == nil
				}
				var open []net.Conn
				for i := range k.most {
					c, ok := served(k.from(i))
					if !ok {
						t.Fatalf("connection %d is not served", i+1)
					}
					open = append(open, c)
				}
				if _, ok := served("::ffff:" + k.from(7)); ok {
					t.Errorf("connection %d is served", k.most+1)
				}
				another, ok := served(k.another)
				if ok != k.anotherServed {
					t.Errorf("that another address is served: %v", ok)
				}
				another.Close()
				open[7].Close()
				synctest.Wait()
				if _, ok := served(k.from(7)); !ok {
					t.Error("one that has gone does not make room")
				}
				if _, ok := served(k.from(7)); ok {
					t.Error("one that has gone makes room for two")
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}
