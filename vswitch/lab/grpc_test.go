package lab

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestAskGRPC: what a gRPC server may answer a probe, and what is none.
func TestAskGRPC(t *testing.T) {
	handlers := map[string]http.HandlerFunc{
		"serving": func(w http.ResponseWriter, r *http.Request) { reply(w, "\x00\x00\x00\x00\x02\x08\x01", "0", "") },
		"unknown fields": func(w http.ResponseWriter, r *http.Request) {
			reply(w, "\x00\x00\x00\x00\x0c\x12\x03abc\x08\x01\x1d1234", "0", "")
		},
		"not":       func(w http.ResponseWriter, r *http.Request) { reply(w, "\x00\x00\x00\x00\x02\x08\x02", "0", "") },
		"default":   func(w http.ResponseWriter, r *http.Request) { reply(w, "\x00\x00\x00\x00\x00", "0", "") },
		"empty":     func(w http.ResponseWriter, r *http.Request) { reply(w, "", "0", "") },
		"short":     func(w http.ResponseWriter, r *http.Request) { reply(w, "\x00\x00\x00\x00\x02\x08", "0", "") },
		"not found": func(w http.ResponseWriter, r *http.Request) { reply(w, "", "5", "unknown service") },
		"no health": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", "12")
		},
		"no gRPC": func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") },
		"slow":    func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	}
	for _, c := range []struct{ name, service, why string }{
		{"serving", "", ""}, {"serving", "shop.Cart", ""},
		{"unknown fields", "", ""},
		{"not", "", "says NOT_SERVING"}, {"default", "", "says UNKNOWN"},
		{"empty", "", "no HealthCheckResponse"}, {"short", "", "no HealthCheckResponse"},
		{"not found", "x", "says gRPC status 5: unknown service"},
		{"no health", "", "gRPC status 12: it has no health service"},
		{"no gRPC", "", "speaks no gRPC"}, {"slow", "", "deadline"},
	} {
		t.Run(c.name+c.service, func(t *testing.T) {
			asked := make(chan string, 1)
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				asked <- r.Proto + " " + r.Method + " " + r.URL.Path + " " + string(body)
				handlers[c.name](w, r)
			}))
			s.Config.Protocols = new(http.Protocols)
			s.Config.Protocols.SetUnencryptedHTTP2(true)
			s.Start()
			defer s.Close()
			limit := time.Minute
			if c.name == "slow" {
				limit = 3 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			f := askGRPC(ctx, dialHere, c.service, s.Listener.Addr().String())
			if (f.outcome == healthy) != (c.why == "") || !strings.Contains(f.why, c.why) {
				t.Errorf("got %+v, want %q", f, c.why)
			}
			want := "HTTP/2.0 POST /grpc.health.v1.Health/Check \x00\x00\x00\x00\x00"
			if c.service != "" {
				n := len(c.service)
				want = want[:len(want)-1] + string(rune(n+2)) + "\n" + string(rune(n)) + c.service
			}
			if got := <-asked; got != want {
				t.Errorf("asked %q, want %q", got, want)
			}
		})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if f := askGRPC(t.Context(), dialHere, "", l.Addr().String()); f.outcome != sick || !strings.Contains(f.why, "refused") {
		t.Errorf("nobody listens: %+v", f)
	}
}

// reply is what a gRPC server answers: a body and trailers.
func reply(w http.ResponseWriter, body, status, message string) {
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
	io.WriteString(w, body)
	w.Header().Set("Grpc-Status", status)
	w.Header().Set("Grpc-Message", message)
}

// FuzzHealthStatus: no answer makes a probe panic.
func FuzzHealthStatus(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x02\x08\x01"))
	f.Add([]byte("\x00\x00\x00\x00\x0c\x12\x03abc\x08\x01\x1d1234"))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = healthStatus(b) })
}
