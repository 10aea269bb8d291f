package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
	"vswitch/vswitch/netns"
	"vswitch/vswitch/netns/netnstest"
	"vswitch/vswitch/packet"
)

// newFed starts a lone node with addresses that follows the services of a store.
func newFed(t *testing.T) (*lone, *cluster.Store) {
	t.Helper()
	l, store := &lone{cfg: nodeConfig(t, 1), ns: netnstest.New(t)}, cluster.NewStore()
	netnstest.Do(t, l.ns, func() error { return netns.SetUp("lo") })
	l.cfg.Addresses = addrs("172.29.0.1", "fd00:10:29::1")
	l.cfg.Services.CIDRs = prefixes("10.96.0.0/16")
	l.cfg.Control = filepath.Join(t.TempDir(), "feed")
	return l, store
}

// feed serves the store to the node until stop is called, or the test ends.
func (l *lone) feed(t *testing.T, store *cluster.Store) (stop func()) {
	t.Helper()
	listener, err := net.Listen("unix", l.cfg.Control)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(control.FeedPath, control.Feed(store))
	ctx, cancel := context.WithCancel(context.Background())
	srv := &http.Server{Handler: mux, BaseContext: func(net.Listener) context.Context { return ctx }}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(listener) })
	stop = sync.OnceFunc(func() {
		cancel()
		_ = srv.Close()
		wg.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// putPod makes a pod of node1 a desired one.
func putPod(t *testing.T, store *cluster.Store, r PodRequest) {
	t.Helper()
	if err := store.Update(cluster.Desired, func(tx *cluster.Txn) error {
		tx.Put(&cluster.Pod{Meta: cluster.Meta{Namespace: r.Namespace, Name: r.Name, UID: r.UID, Labels: r.Labels}, Node: "node1"})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// dialIn connects from a namespace.
func dialIn(ns string, within time.Duration, to netip.AddrPort) (conn net.Conn, err error) {
	err = netns.Do(ns, func() (err error) {
		conn, err = net.DialTimeout("tcp", to.String(), within)
		return err
	})
	return conn, err
}

// ask makes a request from a namespace and returns status, weight and body.
func ask(ns string, to netip.AddrPort) (string, error) {
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return dialIn(ns, 30*time.Second, to)
		},
	}}
	res, err := client.Get("http://" + to.String() + "/healthz")
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return fmt.Sprintf("%d %s %s", res.StatusCode, res.Header.Get("X-Load-Balancing-Endpoint-Weight"), strings.TrimSpace(string(body))), err
}

// webService is x/web with a health check node port, and one endpoint on node1.
func webService(port uint16, e cluster.Endpoint) func(*cluster.Txn) error {
	return func(tx *cluster.Txn) error {
		e.Addresses, e.Node = addrs("10.244.1.9"), "node1"
		tx.Put(&cluster.Service{
			Meta: cluster.Meta{Namespace: "x", Name: "web"}, Type: cluster.ServiceLoadBalancer, ExternalLocal: true,
			HealthCheckPort: port, ClusterIPs: addrs("10.96.0.5"), Ports: []cluster.ServicePort{{Protocol: packet.ProtoTCP, Port: 80}},
		})
		tx.Put(&cluster.EndpointSlice{
			Meta:   cluster.Meta{Namespace: "x", Name: "web-1", Labels: map[string]string{cluster.LabelServiceName: "web"}},
			Family: cluster.IPv4, Ports: []cluster.EndpointPort{{Protocol: packet.ProtoTCP, Port: 8080}}, Endpoints: []cluster.Endpoint{e},
		})
		return nil
	}
}

// TestHealthCheckNodePort: a node answers balancers at its own addresses, where
// they are, as services come, change and go, and after a restart.
func TestHealthCheckNodePort(t *testing.T) {
	l, store := newFed(t)
	put := func(change func(*cluster.Txn) error) {
		t.Helper()
		if err := store.Update(cluster.Desired, change); err != nil {
			t.Fatal(err)
		}
	}
	ready := cluster.Endpoint{Ready: true, Serving: true}
	put(webService(30500, ready))
	l.feed(t, store)
	l.node = startNode(t, l.ns, l.cfg)
	l.node.ready(0)
	r := PodRequest{Namespace: "test", Name: "pod", PortSpec: PortSpec{NetNS: netnstest.New(t)}}
	putPod(t, store, r)
	pod := l.node.pod(r)
	problem := func(want string) {
		t.Helper()
		eventually(t, time.Minute, func() error {
			s, err := l.node.Status(context.Background())
			if err == nil && (want == "" && len(s.Problems) > 0 || !strings.Contains(strings.Join(s.Problems, "\n"), want)) {
				err = fmt.Errorf("problems %q, want %q", s.Problems, want)
			}
			return err
		})
	}
	answers := func(port uint16, want string) {
		t.Helper()
		for _, a := range l.cfg.Addresses {
			eventually(t, time.Minute, func() error {
				got, err := ask(pod.NetNS, netip.AddrPortFrom(a, port))
				if err == nil && got != want {
					err = fmt.Errorf("%s answers %s, want %s", a, got, want)
				}
				return err
			})
		}
	}
	refused := func(port uint16) {
		t.Helper()
		for _, a := range l.cfg.Addresses {
			eventually(t, time.Minute, func() error {
				if got, err := ask(pod.NetNS, netip.AddrPortFrom(a, port)); !errors.Is(err, syscall.ECONNREFUSED) {
					return fmt.Errorf("port %d of %s answers %s, error %v", port, a, got, err)
				}
				return nil
			})
		}
	}
	const one = `200 1 {"service":{"namespace":"x","name":"web"},"localEndpoints":1,"serviceProxyHealthy":true}`
	const none = `503 0 {"service":{"namespace":"x","name":"web"},"localEndpoints":0,"serviceProxyHealthy":true}`

	problem("no health check node port is answered (x/web)")
	own := PortRequest{NetNS: netnstest.New(t)}
	if _, err := l.node.AttachOwn(context.Background(), own); err != nil {
		t.Fatal(err)
	}
	answers(30500, one)
	problem("")
	put(webService(30500, cluster.Endpoint{Serving: true, Terminating: true}))
	answers(30500, none)
	put(webService(30500, ready))
	answers(30500, one)
	l.restart(t)
	answers(30500, one)

	// Somebody else has the port that is wanted.
	var squatter net.Listener
	netnstest.Do(t, own.NetNS, func() (err error) {
		squatter, err = net.Listen("tcp4", "0.0.0.0:30501")
		return err
	})
	put(webService(30501, ready))
	problem("service x/web: its health check node port 30501 is not answered at 172.29.0.1: it is in use; free it")
	refused(30500)
	squatter.Close()
	answers(30501, one)
	problem("")

	// The addresses move to another place, and the service goes.
	own.NetNS = netnstest.New(t)
	if _, err := l.node.AttachOwn(context.Background(), own); err != nil {
		t.Fatal(err)
	}
	answers(30501, one)
	put(func(tx *cluster.Txn) error {
		tx.Delete(cluster.KindService.Ref(cluster.Key{Namespace: "x", Name: "web"}))
		return nil
	})
	refused(30501)
	put(webService(30501, ready))
	answers(30501, one)
	if err := l.node.DetachOwn(context.Background()); err != nil {
		t.Fatal(err)
	}
	problem("no health check node port is answered (x/web)")
	refused(30501)
}

// TestSilentUntilFed: before a node has heard which services and policies there
// are, it refuses nothing that a pod begins, allows nothing, and is not ready.
func TestSilentUntilFed(t *testing.T) {
	l, store := newFed(t)
	r := PodRequest{Namespace: "test", Name: "pod", PortSpec: PortSpec{NetNS: netnstest.New(t)}}
	putPod(t, store, r)
	stop := l.feed(t, store)
	l.node = startNode(t, l.ns, l.cfg)
	l.node.ready(0)
	pod := l.node.pod(r)
	stop()
	l.node.stop(syscall.SIGKILL)
	l.node = startNode(t, l.ns, l.cfg)
	eventually(t, time.Minute, func() error {
		s, err := l.node.Status(context.Background())
		if err == nil && (s.Ready || !strings.Contains(strings.Join(s.Problems, "\n"), "until it tells what services and policies there are, the node is not ready")) {
			err = fmt.Errorf("ready %v, problems %q", s.Ready, s.Problems)
		}
		return err
	})
	own := PortRequest{NetNS: netnstest.New(t)}
	if _, err := l.node.AttachOwn(context.Background(), own); err != nil {
		t.Fatal(err)
	}
	const silence = 300 * time.Millisecond // to be it; an answer may take longer on a busy machine
	ports := func(within time.Duration, check func(to netip.AddrPort, err error)) {
		for _, to := range []string{"172.29.0.1:31000", "[fd00:10:29::1]:31000", "10.96.0.9:80", "192.0.2.1:80", "[2001:db8::1]:80"} {
			limit := within
			if strings.HasPrefix(to, "10.96.") {
				limit = silence
			}
			conn, err := dialIn(pod.NetNS, limit, netip.MustParseAddrPort(to))
			if err == nil {
				conn.Close()
			}
			check(netip.MustParseAddrPort(to), err)
		}
	}
	silent := func(to netip.AddrPort, err error) {
		if e := net.Error(nil); !errors.As(err, &e) || !e.Timeout() {
			t.Errorf("%s: %v, want silence", to, err)
		}
	}
	ports(silence, silent)
	l.feed(t, store)
	l.node.ready(0)
	talk(t, pod.NetNS, l.cfg.Addresses)
	ports(30*time.Second, func(to netip.AddrPort, err error) {
		if to.Addr() == netip.MustParseAddr("10.96.0.9") {
			silent(to, err)
		} else if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("%s: %v, want an answer", to, err)
		}
	})
	if s, err := l.node.Status(context.Background()); err != nil || len(s.Problems) > 0 {
		t.Errorf("problems %q, error %v", s.Problems, err)
	}
}
