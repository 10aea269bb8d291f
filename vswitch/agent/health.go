package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"vswitch/vswitch"
	"vswitch/vswitch/cluster"
)

const (
	// healthRetry is how often a port that could not be had is tried again.
	healthRetry = 2 * time.Second
	// maxHealthConns bounds the connections to one port of one address: whoever
	// reaches the node may open them, and they cost the node descriptors.
	maxHealthConns = 64
)

// healthPorts answers balancers at the health check node ports of services
// (spec.healthCheckNodePort): whether this node has ready endpoints, and how
// many, with kube-proxy's answer (pkg/proxy/healthcheck/service_health.go). It
// listens at the node's own addresses, where those are. Whoever uses it makes
// one call at a time.
type healthPorts struct {
	log    *slog.Logger
	netns  string       // where the addresses are; empty: where this process is
	addrs  []netip.Addr // none: there is no place to listen
	checks map[cluster.Key]*healthCheck
	wg     sync.WaitGroup // of all goroutines that serve
}

// healthCheck is the port of one service.
type healthCheck struct {
	key       cluster.Key
	port      uint16
	endpoints atomic.Int64 // ready ones on this node
	gone      bool         // the service has no such port any more
	servers   map[netip.Addr]*healthServer
	problems  map[netip.Addr]string // why there is no server at an address
}

// healthServer answers at one address.
type healthServer struct {
	port  uint16
	http  *http.Server
	ended chan struct{} // closed when it no longer listens
}

func newHealthPorts(log *slog.Logger) *healthPorts {
	return &healthPorts{log: log, checks: map[cluster.Key]*healthCheck{}}
}

// set says at which port a service's check is, 0 for none, and how many ready
// endpoints the node has. A port that is another than before is served when
// tend is called.
func (h *healthPorts) set(key cluster.Key, port uint16, endpoints int) {
	c := h.checks[key]
	if c == nil {
		if port == 0 {
			return
		}
		c = &healthCheck{key: key, servers: map[netip.Addr]*healthServer{}, problems: map[netip.Addr]string{}}
		h.checks[key] = c
	}
	c.port, c.gone = port, port == 0
	c.endpoints.Store(int64(endpoints))
}

// move says where the node's addresses are, and serves there.
func (h *healthPorts) move(netns string, addrs []netip.Addr) {
	if h.netns != netns || !slices.Equal(h.addrs, addrs) {
		for _, c := range h.checks {
			c.close()
		}
		h.netns, h.addrs = netns, slices.Clone(addrs)
	}
	h.tend()
}

// tend makes what is served what is wanted: ports that services gave up are free
// before others are taken.
func (h *healthPorts) tend() {
	for key, c := range h.checks {
		c.sweep()
		if c.gone {
			delete(h.checks, key)
		}
	}
	for _, key := range h.keys() {
		for _, a := range h.addrs {
			if c := h.checks[key]; c.servers[a] == nil {
				h.open(c, a)
			}
		}
	}
}

// keys returns whose checks there are, in order, so that of two services with
// one port it is always the same that has it.
func (h *healthPorts) keys() []cluster.Key {
	return slices.SortedFunc(maps.Keys(h.checks), func(a, b cluster.Key) int { return strings.Compare(a.String(), b.String()) })
}

// open serves a check at an address, or notes why it cannot.
func (h *healthPorts) open(c *healthCheck, a netip.Addr) {
	l, err := h.listen(netip.AddrPortFrom(a, c.port))
	if err != nil {
		why := err.Error()
		if op := (*net.OpError)(nil); errors.As(err, &op) {
			why = op.Err.Error() // without the address
		}
		if errors.Is(err, syscall.EADDRINUSE) {
			why = "it is in use; free it in the node's network, or make the service anew with another healthCheckNodePort"
		}
		if c.problems[a] != why {
			c.problems[a] = why
			h.log.Warn("a health check node port is not answered; it is tried again", "service", c.key.String(), "port", c.port, "ips", a, "err", err)
		}
		return
	}
	delete(c.problems, a)
	s := &healthServer{port: c.port, ended: make(chan struct{})}
	var conns atomic.Int64
	s.http = &http.Server{Handler: c, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: 30 * time.Second,
		MaxHeaderBytes: 8 << 10, ErrorLog: slog.NewLogLogger(h.log.Handler(), slog.LevelDebug),
		// Called with StateNew by Serve, before the connection's goroutine is
		// there, and with StateClosed when it ends.
		ConnState: func(conn net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				h.wg.Add(1)
				if conns.Add(1) > maxHealthConns {
					conn.Close()
				}
			case http.StateClosed:
				conns.Add(-1)
				h.wg.Done()
			}
		}}
	h.wg.Go(func() {
		defer close(s.ended)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			h.log.Warn("a health check node port is lost; it is opened again", "service", c.key.String(), "port", s.port, "err", err)
		}
	})
	c.servers[a] = s
}

// listen opens a socket where the node's addresses are.
func (h *healthPorts) listen(at netip.AddrPort) (l net.Listener, err error) {
	network := "tcp4"
	if at.Addr().Is6() {
		network = "tcp6"
	}
	// The socket is made by the goroutine that asks, and stays in its namespace.
	open := func() error {
		tcp, err := net.ListenTCP(network, net.TCPAddrFromAddrPort(at))
		if err == nil {
			l = tcp
		}
		return err
	}
	if h.netns == "" {
		err = open()
	} else {
		err = inNamespace(h.netns, open)
	}
	return l, err
}

// problems are sentences about what is not answered.
func (h *healthPorts) problems() (list []string) {
	if len(h.checks) == 0 {
		return nil
	}
	if len(h.addrs) == 0 {
		keys := h.keys()
		names := keys[0].String()
		if more := len(keys) - 1; more > 0 {
			names += fmt.Sprintf(" and %d more", more)
		}
		return []string{fmt.Sprintf("no health check node port is answered (%s): the node port is not attached; give the node addresses, and attach it", names)}
	}
	for _, key := range h.keys() {
		c := h.checks[key]
		at := map[string][]string{} // addresses by what is wrong there
		for _, a := range h.addrs {
			if why := c.problems[a]; why != "" {
				at[why] = append(at[why], a.String())
			}
		}
		for _, why := range slices.Sorted(maps.Keys(at)) {
			list = append(list, fmt.Sprintf("service %s: its health check node port %d is not answered at %s: %s", key, c.port, strings.Join(at[why], " and "), why))
		}
	}
	return list
}

// close ends all, and returns when nothing of it runs any more.
func (h *healthPorts) close() {
	for _, c := range h.checks {
		c.close()
	}
	clear(h.checks)
	h.wg.Wait()
}

// sweep closes servers of another port than is wanted, and forgets those that
// have ended.
func (c *healthCheck) sweep() {
	for a, s := range c.servers {
		select {
		case <-s.ended:
		default:
			if s.port == c.port && !c.gone {
				continue
			}
		}
		s.close()
		delete(c.servers, a)
	}
}

func (c *healthCheck) close() {
	for _, s := range c.servers {
		s.close()
	}
	clear(c.servers)
	clear(c.problems)
}

// close returns when the port is free.
func (s *healthServer) close() {
	_ = s.http.Close() // of the listener and connections, which are done with
	<-s.ended
}

// healthAnswer is the body of an answer, in the order that kube-proxy writes it.
type healthAnswer struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int64 `json:"localEndpoints"`
	ServiceProxyHealthy bool  `json:"serviceProxyHealthy"`
}

// ServeHTTP answers any request, whatever its path.
func (c *healthCheck) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	n := c.endpoints.Load()
	answer := healthAnswer{LocalEndpoints: n, ServiceProxyHealthy: true}
	answer.Service.Namespace, answer.Service.Name = c.key.Namespace, c.key.Name
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(n, 10))
	if n == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(answer) // the balancer hung up
}

// moveHealth serves health checks where the node's addresses are: at the node
// port, or in mode direct on the host. Called with mu held, or from Start.
func (n *Node) moveHealth() {
	switch {
	case n.own != nil:
		n.health.move(n.own.NetNS, n.own.Addresses)
	case n.link.kind() == vswitch.PortUplink:
		n.health.move("", n.cfg.hostAddresses())
	default:
		n.health.move("", nil)
	}
}
