package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"vswitch/vswitch/cluster"
)

func dialHere(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// TestAskHTTP: what a server may answer, and what becomes of that.
func TestAskHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		var code int
		fmt.Sscan(r.PathValue("code"), &code)
		if code >= 300 && code < 400 && code != 304 {
			w.Header().Set("Location", "http://elsewhere.example/")
		}
		w.WriteHeader(code)
		if code >= 400 {
			io.WriteString(w, "\nthis is why\nand more")
		}
	})
	mux.HandleFunc("/near", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/status/503", 302) })
	mux.HandleFunc("/round", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/round", 302) })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/hangs", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/query", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "a=b&c" || r.URL.Path != "/query" {
			w.WriteHeader(400)
		}
	})
	mux.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(400)
		fmt.Fprint(w, r.Host, " ", r.Header["X-A"], r.Header["User-Agent"], r.Header["Accept"], r.Header["Accept-Encoding"])
	})
	plain, secure := httptest.NewServer(mux), httptest.NewUnstartedServer(mux)
	secure.Config.ErrorLog = nil
	secure.StartTLS()
	defer plain.Close()
	defer secure.Close()
	for _, c := range []struct {
		get  cluster.HTTPGet
		want string // outcome and why, HOST being the server
	}{
		{cluster.HTTPGet{Path: "/status/200"}, "1 "},
		{cluster.HTTPGet{Path: "status/204"}, "1 "},
		{cluster.HTTPGet{Path: "/status/399"}, "1 http://HOST/status/399 leads to another host, which is not asked: http://elsewhere.example/"},
		{cluster.HTTPGet{Path: "/status/302"}, "1 http://HOST/status/302 leads to another host, which is not asked: http://elsewhere.example/"},
		{cluster.HTTPGet{Path: "/status/400"}, "2 http://HOST/status/400 says 400 Bad Request: this is why"},
		{cluster.HTTPGet{Path: "/status/500"}, "2 http://HOST/status/500 says 500 Internal Server Error: this is why"},
		{cluster.HTTPGet{Path: "/near"}, "2 http://HOST/near says 503 Service Unavailable: this is why"},
		{cluster.HTTPGet{Path: "/round"}, "2 /round: more than 10 redirects"},
		{cluster.HTTPGet{Path: "/endless"}, "1 "},
		{cluster.HTTPGet{Path: "/query?a=b&c"}, "1 "},
		{cluster.HTTPGet{Path: "/hangs"}, "2 http://HOST/hangs: context deadline exceeded"},
		{cluster.HTTPGet{Path: "/%zz"}, `0 path "/%zz": invalid URL escape "%zz"`},
		{cluster.HTTPGet{Path: "/headers"}, "2 http://HOST/headers says 400 Bad Request: HOST [] [vswitch-probe/devel] [*/*] []"},
		{cluster.HTTPGet{Path: "/headers", Headers: [][2]string{{"host", "a.example"}, {"x-a", "1"}, {"X-A", "2"}, {"user-agent", "me"}}},
			"2 http://HOST/headers says 400 Bad Request: a.example [1 2] [me] [*/*] []"},
		{cluster.HTTPGet{Path: "/status/200", HTTPS: true}, "1 "},
		{cluster.HTTPGet{Path: "/status/500", HTTPS: true}, "2 https://HOST/status/500 says 500 Internal Server Error: this is why"},
	} {
		server := plain
		if c.get.HTTPS {
			server = secure
		}
		addr := netip.MustParseAddrPort(server.Listener.Addr().String())
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if c.get.Path == "/hangs" {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), 2*time.Second)
		}
		f := askHTTP(ctx, dialHere, &c.get, addr.Addr().String(), addr.Port())
		cancel()
		if got := fmt.Sprintf("%d %s", f.outcome, f.why); got != strings.ReplaceAll(c.want, "HOST", addr.String()) {
			t.Errorf("%+v: got %q, want %q", c.get, got, c.want)
		}
	}
	plain.Close()
	addr := netip.MustParseAddrPort(plain.Listener.Addr().String())
	if f := askHTTP(t.Context(), dialHere, &cluster.HTTPGet{}, addr.Addr().String(), addr.Port()); f.outcome != sick || !strings.HasSuffix(f.why, "connection refused") {
		t.Errorf("nobody listens: %+v", f)
	}
}

func TestAskTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if f := askTCP(t.Context(), dialHere, l.Addr().String()); f.outcome != healthy || f.why != "" {
		t.Errorf("somebody listens: %+v", f)
	}
	l.Close()
	if f := askTCP(t.Context(), dialHere, l.Addr().String()); f.outcome != sick || !strings.HasSuffix(f.why, "connection refused") {
		t.Errorf("nobody listens: %+v", f)
	}
}

func TestPortNumber(t *testing.T) {
	c := &cluster.Container{Name: "c", Ports: []cluster.ContainerPort{{Port: 80}, {Name: "web", Port: 8080}}}
	for _, x := range []struct {
		number uint16
		name   string
		want   string
	}{{81, "", "81 <nil>"}, {0, "web", "8080 <nil>"}, {0, "dns", "0 no port of container c is called dns"}} {
		n, err := portNumber(c, x.number, x.name)
		if got := fmt.Sprint(n, " ", err); got != x.want {
			t.Errorf("%d %q: %s, want %s", x.number, x.name, got, x.want)
		}
	}
}

// TestAskHTTPKeeps: who asks again and again keeps the connection, and a probe has
// one of its own.
func TestAskHTTPKeeps(t *testing.T) {
	var conns atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "well") }))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	addr := netip.MustParseAddrPort(srv.Listener.Addr().String())
	c := newHTTPClient(dialHere)
	defer c.CloseIdleConnections()
	for range 3 {
		if f := askHTTPBy(t.Context(), c, &cluster.HTTPGet{}, addr.Addr().String(), addr.Port()); f.outcome != healthy {
			t.Fatal(f)
		}
	}
	if n := conns.Swap(0); n != 1 {
		t.Errorf("%d connections", n)
	}
	for range 3 {
		if f := askHTTP(t.Context(), dialHere, &cluster.HTTPGet{}, addr.Addr().String(), addr.Port()); f.outcome != healthy {
			t.Fatal(f)
		}
	}
	if n := conns.Load(); n != 3 {
		t.Errorf("%d connections for three probes", n)
	}
}
