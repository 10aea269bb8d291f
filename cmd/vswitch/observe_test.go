package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"vswitch/vswitch/agent"
)

// TestObserveOutlivesANode: a node whose stream ends is asked again, until it is
// back.
func TestObserveOutlivesANode(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := asked.Add(1); n == 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
		} else if r.URL.Path == "/v1/events" && r.URL.Query().Get("verdict") == "dropped" {
			_, _ = w.Write([]byte(`{"node":"node1","verdict":"dropped"}` + "\n"))
		}
	})}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	o := &observeOptions{filter: agent.EventFilter{Verdicts: []agent.EventVerdict{agent.EventDropped}}}
	w := &watcher{observeOptions: o, events: make(chan agent.Event)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.keep(ctx, socket, func() {})
	}()
	for range 3 {
		select {
		case e := <-w.events:
			if e.Node != "node1" {
				t.Errorf("%+v", e)
			}
		case <-ctx.Done():
			t.Fatal("no more events came")
		}
	}
	if n := asked.Load(); n < 4 {
		t.Errorf("asked %d times", n)
	}
	cancel()
	<-ended
}

func TestPrintEvents(t *testing.T) {
	at := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	when := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.Local)
	events := []agent.Event{
		{Verdict: agent.EventForwarded, Proto: "tcp", Source: at("10.244.1.2:40000"), Destination: at("10.96.0.10:80"), Backend: at("10.244.2.2:8080"),
			From: "shop/front", To: "shop/web", Service: "shop/web:http", TCPFlags: "S"},
		{Verdict: agent.EventRejected, Reason: "no-endpoints", Proto: "udp", Source: at("203.0.113.7:5"), Destination: at("10.96.0.10:80"), Service: "shop/web:http"},
		{Verdict: agent.EventDropped, Reason: "policy-ingress", Proto: "icmp", Source: at("10.244.1.2:0"), Destination: at("[fd00::1]:0"),
			From: "shop/front", To: "shop/db-with-a-long-name-of-its-own", Policy: "NetworkPolicy shop/db", Why: "nothing lets it in", Suppressed: 1234567},
		{Verdict: agent.EventDropped, Reason: "policy-egress", Proto: "tcp", Source: at("10.244.1.2:40000"), Destination: at("172.29.0.1:30080"),
			From: "shop/front", To: "node1", Service: "shop/web:http"},
		{Verdict: agent.EventDropped, Reason: "spoofed", Proto: "udp", Source: at("192.0.2.1:53"), Destination: at("192.0.2.2:53"), From: "shop/front"},
		{Verdict: agent.EventDropped, Reason: "malformed", From: "shop/front"},
		{Verdict: agent.EventDropped, Reason: "policy-ingress", From: "shop/front", Policy: "NetworkPolicy shop/a, NetworkPolicy shop/b, 4 others", Why: "none lets it in"},
	}
	for _, c := range []struct{ format, want string }{
		{"table", `TIME          NODE   VERDICT    FROM                      TO                        PROTO  REASON          POLICY
03:04:05.006  node1  forwarded  shop/front:40000          shop/web:8080             tcp    -               -
03:04:05.006  node1  rejected   203.0.113.7:5             svc/shop/web:80           udp    no-endpoints    -
03:04:05.006  node1  dropped    shop/front                shop/db-with-a-long-name-of-its-own  icmp   policy-ingress  NetworkPolicy shop/db
03:04:05.006  node1  dropped    shop/front:40000          svc/shop/web:30080                   tcp    policy-egress   -
03:04:05.006  node1  dropped    shop/front as 192.0.2.1   192.0.2.2:53                         udp    spoofed         -
03:04:05.006  node1  dropped    shop/front                -                                    -      malformed       -
03:04:05.006  node1  dropped    shop/front                -                                    -      policy-ingress  NetworkPolicy shop/a +5
`},
		{"wide", `TIME          NODE   VERDICT    FROM                      TO                        PROTO  REASON          POLICY                        SERVICE         SOURCE                DESTINATION           FLAGS  WHY
03:04:05.006  node1  forwarded  shop/front:40000          shop/web:8080             tcp    -               -                             shop/web:http   10.244.1.2:40000      10.96.0.10:80         S      -
03:04:05.006  node1  rejected   203.0.113.7:5             svc/shop/web:80           udp    no-endpoints    -                             shop/web:http   203.0.113.7:5         10.96.0.10:80         -      -
03:04:05.006  node1  dropped    shop/front                shop/db-with-a-long-name-of-its-own  icmp   policy-ingress  NetworkPolicy shop/db         -               10.244.1.2            fd00::1               -      nothing lets it in
03:04:05.006  node1  dropped    shop/front:40000          svc/shop/web:30080                   tcp    policy-egress   -                             shop/web:http   10.244.1.2:40000      172.29.0.1:30080      -      -
03:04:05.006  node1  dropped    shop/front as 192.0.2.1   192.0.2.2:53                         udp    spoofed         -                             -               192.0.2.1:53          192.0.2.2:53          -      -
03:04:05.006  node1  dropped    shop/front                -                                    -      malformed       -                             -               -                     -                     -      -
03:04:05.006  node1  dropped    shop/front                -                                    -      policy-ingress  NetworkPolicy shop/a, NetworkPolicy shop/b, 4 others  -               -                     -                     -      none lets it in
`},
	} {
		var out, errOut bytes.Buffer
		p := newEventPrinter(&out, &errOut, c.format)
		p.head()
		for _, e := range events {
			e.Time, e.Node = when, "node1"
			p.suppressed(&e)
			if err := p.event(&e); err != nil {
				t.Fatal(err)
			}
		}
		if out.String() != c.want {
			t.Errorf("%s: got\n%swant\n%s", c.format, &out, c.want)
		}
		if errOut.String() != "1,234,567 events suppressed on node1\n" {
			t.Errorf("%s", &errOut)
		}
	}
}

func TestObserveWanted(t *testing.T) {
	e := agent.Event{Verdict: agent.EventDropped, From: "x/a", To: "y/b", Policy: "NetworkPolicy y/b rule 0"}
	for _, c := range []struct {
		o    observeOptions
		want bool
	}{
		{observeOptions{}, true},
		{observeOptions{pods: []string{"x/a"}}, true},
		{observeOptions{pods: []string{"x/c", "y/b"}}, true},
		{observeOptions{pods: []string{"x/b"}}, false},
		{observeOptions{namespace: "y"}, true},
		{observeOptions{namespace: "z"}, false},
		{observeOptions{policy: "y/b"}, true},
		{observeOptions{policy: "y/c"}, false},
	} {
		if got := c.o.wanted(&e); got != c.want {
			t.Errorf("%+v: %v", c.o, got)
		}
	}
	if (&observeOptions{}).wanted(&agent.Event{Suppressed: 1}) {
		t.Error("an event that says only what was suppressed is shown")
	}
}
