package main

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"vswitch/vswitch/agent"
)

// pods listens on loopback and serves connection i with the i-th function, over
// and over.
func pods(t *testing.T, serve ...func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for i := 0; ; i++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve[i%len(serve)](c)
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

// named serves one connection as a pod of the demo does.
func named(name string) func(net.Conn) {
	return func(c net.Conn) {
		l := &once{c: make(chan net.Conn, 1)}
		l.c <- c
		close(l.c)
		answer(l, name)
	}
}

// once is a listener with one connection.
type once struct{ c chan net.Conn }

func (o *once) Accept() (net.Conn, error) {
	if c, ok := <-o.c; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (o *once) Close() error   { return nil }
func (o *once) Addr() net.Addr { return &net.TCPAddr{} }

func hangUp(c net.Conn) { c.Close() }

func TestAsk(t *testing.T) {
	var d net.Dialer
	to := pods(t, named("default/a"), hangUp, named("default/b"))
	got := ask(context.Background(), d.DialContext, to, 3, time.Minute)
	if len(got) != 3 || got[0].Pod != "default/a" || got[1].Error == "" || got[2].Pod != "default/b" {
		t.Fatalf("got %+v", got)
	}
	if r := got[0]; r.Error != "" || r.Seen != r.Local || !r.Seen.IsValid() {
		t.Errorf("without NAT, both ends see one client: %+v", r)
	}
}

// TestFloodCounts: requests that fail are counted, and why.
func TestFloodCounts(t *testing.T) {
	var d net.Dialer
	play := func(to netip.AddrPort) flooded {
		end := make(chan struct{})
		time.AfterFunc(200*time.Millisecond, func() { close(end) })
		return flood(d.DialContext, to, end)
	}
	sum := play(pods(t, named("default/a"), named("default/b")))
	if sum.Failed != 0 || sum.Error != "" || sum.Pods["default/a"]+sum.Pods["default/b"] != sum.Requests || sum.Requests < loadClients || sum.Longest <= 0 {
		t.Errorf("all is well: %+v", sum)
	}
	sum = play(pods(t, named("default/a"), hangUp))
	if sum.Failed == 0 || sum.Error == "" || sum.Failed+sum.Pods["default/a"] != sum.Requests {
		t.Errorf("every second one fails: %+v", sum)
	}
}

func TestShowTrip(t *testing.T) {
	var out bytes.Buffer
	d := &demo{out: &out}
	sight := func(at int, node, port string, out bool, flags, from, to string) agent.Sight {
		return agent.Sight{At: time.Duration(at), Node: node, Port: port, Out: out, TCPFlags: flags,
			Source: netip.MustParseAddrPort(from), Destination: netip.MustParseAddrPort(to)}
	}
	r := reply{Pod: "default/be", Local: netip.MustParseAddrPort("203.0.113.10:1000"), Seen: netip.MustParseAddrPort("172.29.0.1:2000")}
	seen := []agent.Sight{ // in no order, with others' packets between
		sight(6, "node2", "overlay", true, "S.", "10.244.2.2:80", "172.29.0.1:2000"),
		sight(5, "node2", "default/be", false, "S.", "10.244.2.2:80", "172.29.0.1:2000"),
		sight(7, "node1", "overlay", false, "S.", "10.244.2.2:80", "172.29.0.1:2000"),
		sight(8, "node1", "outside", true, "S.", "172.30.0.1:80", "203.0.113.10:1000"),
		sight(1, "node1", "outside", false, "S", "203.0.113.10:1000", "172.30.0.1:80"),
		sight(1, "node1", "outside", false, "S", "203.0.113.10:1001", "172.30.0.1:80"),
		sight(2, "node1", "overlay", true, "S", "172.29.0.1:2000", "10.244.2.2:80"),
		sight(4, "node2", "default/be", true, "S", "172.29.0.1:2000", "10.244.2.2:80"),
		sight(3, "node2", "overlay", false, "S", "172.29.0.1:2000", "10.244.2.2:80"),
		sight(9, "node1", "outside", false, ".", "203.0.113.10:1000", "172.30.0.1:80"),
	}
	trip := tripOf(r, seen)
	if err := trip.paths(outsideClient, "default/be", "node1", "node2"); err != nil {
		t.Error(err)
	}
	if trip.paths(outsideClient, "default/be", "node1", "node1") == nil || trip.entry() != "node1" {
		t.Error("the way over node2 passes for one within node1")
	}
	d.showTrip(trip)
	const want = `     there:
     node1  outside → switch 203.0.113.10:1000 > 172.30.0.1:80
     node1  overlay switch → 172.29.0.1:2000 > 10.244.2.2:80  DNAT, SNAT
     node2  overlay → switch 172.29.0.1:2000 > 10.244.2.2:80
     node2  be      switch → 172.29.0.1:2000 > 10.244.2.2:80
     and back:
     node2  be      → switch 10.244.2.2:80 > 172.29.0.1:2000
     node2  overlay switch → 10.244.2.2:80 > 172.29.0.1:2000
     node1  overlay → switch 10.244.2.2:80 > 172.29.0.1:2000
     node1  outside switch → 172.30.0.1:80 > 203.0.113.10:1000  both undone
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", &out, want)
	}
}
