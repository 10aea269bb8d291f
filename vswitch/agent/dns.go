package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/dns"
	"vswitch/vswitch/port"
	"vswitch/vswitch/stack"
)

// DNSConfig is the node's DNS server. It answers at the addresses of the pods of
// kind PortDNS, which live in the node's process.
type DNSConfig struct {
	// Domain is the cluster's, such as cluster.local. Empty: the node has no DNS
	// server.
	Domain string `json:"domain,omitempty"`
	// Upstreams are the resolvers of names outside the cluster, in order of
	// preference. Empty: those of this machine's /etc/resolv.conf, as it changes.
	Upstreams []netip.AddrPort `json:"upstreams,omitempty"`
	// ClusterOnly refuses names outside the cluster instead.
	ClusterOnly bool `json:"clusterOnly,omitempty"`
}

func (c *Config) validateDNS(bad func(field, format string, args ...any)) {
	if c.DNS.Domain == "" {
		if len(c.DNS.Upstreams) > 0 || c.DNS.ClusterOnly {
			bad("dns.domain", "is empty, and without it there is no DNS server; give one, such as cluster.local")
		}
		for i := range c.Ports {
			if c.Ports[i].Kind == PortDNS {
				bad(fmt.Sprintf("ports[%d]", i), "kind %s takes a DNS server; give dns.domain, such as cluster.local", PortDNS)
			}
		}
		return
	}
	if _, err := c.zone(); err != nil {
		bad("dns.domain", "%v", err)
	}
	if c.DNS.ClusterOnly && len(c.DNS.Upstreams) > 0 {
		bad("dns.upstreams", "are of no use with clusterOnly")
	}
	for i, a := range c.DNS.Upstreams {
		if !a.IsValid() || a.Port() == 0 {
			bad(fmt.Sprintf("dns.upstreams[%d]", i), "%s is no address and port, such as 192.0.2.53:53", a)
		}
	}
}

// zone returns what is known of the cluster's names without knowing the cluster.
func (c *Config) zone() (*dns.Zone, error) {
	return dns.NewZone(dns.ZoneConfig{Domain: c.DNS.Domain, TTL: dns.DefaultTTL, Reverse: slices.Concat(c.ClusterCIDRs, c.Services.CIDRs)})
}

// NameServer is a DNS server in this process that answers at the addresses of
// pods: what a Store has of a cluster, or what others say.
type NameServer struct {
	server    *dns.Server
	forwarder *dns.Forwarder   // nil: names outside the cluster are refused
	watch     *cluster.Watcher // of all that the zone is made of
	log       *slog.Logger

	ctx  context.Context // ends with the server
	stop context.CancelFunc
	wait sync.WaitGroup // for who serves, and who follows resolv.conf
}

// NewNameServer returns the server that a configuration describes, which must have
// a domain. It knows nothing of the cluster before Follow.
func NewNameServer(cfg *Config, store *cluster.Store, log *slog.Logger) (*NameServer, error) {
	z, err := cfg.zone()
	if err != nil {
		return nil, fmt.Errorf("dns.domain: %w", err)
	}
	s := &NameServer{watch: store.Watch(), log: log}
	s.ctx, s.stop = context.WithCancel(context.Background())
	if !cfg.DNS.ClusterOnly {
		s.forward(cfg.DNS.Upstreams)
	}
	s.server = dns.NewServer(z, dns.ServerConfig{Forwarder: s.forwarder})
	return s, nil
}

// forward makes upstreams those who are asked for other names; without any, those
// whom this machine asks.
func (s *NameServer) forward(upstreams []netip.AddrPort) {
	s.forwarder = dns.NewForwarder(dns.ForwarderConfig{Upstreams: upstreams, Log: s.log})
	if len(upstreams) > 0 {
		return
	}
	list, err := dns.ReadResolvConf(dns.ResolvConf)
	if err != nil {
		s.log.Warn("names outside the cluster are not resolved yet", "err", err)
	}
	s.forwarder.SetUpstreams(list)
	s.wait.Go(func() {
		dns.FollowResolvConf(s.ctx, dns.ResolvConf, s.forwarder, func(list []netip.AddrPort) []netip.AddrPort { return list })
	})
}

// News receives when Follow has something to take in.
func (s *NameServer) News() <-chan struct{} { return s.watch.C() }

// Follow takes in what is new in the Store. It must not be called before that has
// the whole of the cluster, nor by two at once.
func (s *NameServer) Follow() {
	z := s.server.Zone()
	if c := s.watch.Next(); !c.Empty() || !z.Synced() {
		s.server.SetZone(z.Follow(&c))
	}
}

// Close ends the server. The ports that it opened must be closed before.
func (s *NameServer) Close() {
	s.stop()
	s.wait.Wait()
	s.watch.Close()
	if s.forwarder != nil {
		s.forwarder.Close()
	}
}

// Open returns the port of a pod, at whose addresses the server answers already.
// Closing it ends that at once; what is being asked then has no answer.
func (s *NameServer) Open(cfg stack.Config) (port.Port, error) {
	cfg.MaxBuffer = dnsBuffer
	st, err := stack.New(cfg)
	if err != nil {
		return nil, err
	}
	p := &namePort{Stack: st}
	var ctx context.Context
	ctx, p.stop = context.WithCancel(s.ctx)
	for _, a := range cfg.Addrs {
		at := netip.AddrPortFrom(a.Addr(), dnsPort).String()
		packets, err1 := st.ListenPacket("udp", at)
		connections, err2 := st.Listen("tcp", at)
		if err := errors.Join(err1, err2); err != nil {
			p.Close() // with all of its sockets
			return nil, err
		}
		s.serve(ctx, func() error { return s.server.ServePacket(ctx, packets) })
		s.serve(ctx, func() error { return s.server.ServeListener(ctx, connections) })
	}
	return p, nil
}

// serve serves a socket until ctx is done, or in the worst case a second longer:
// an upstream may have been asked something.
func (s *NameServer) serve(ctx context.Context, run func() error) {
	s.wait.Go(func() {
		if err := run(); err != nil && ctx.Err() == nil {
			s.log.Error("the DNS server has lost a socket", "err", err)
		}
	})
}

// dnsBuffer bounds the buffers of a TCP socket, in bytes: clients that ask a lot and
// read nothing must not take the node's memory.
const dnsBuffer = 64 << 10

// dnsPort is where DNS servers are (RFC 1035 section 4.2).
const dnsPort = 53

// namePort is the port of a pod that a NameServer answers at.
type namePort struct {
	*stack.Stack
	stop context.CancelFunc // ends serving
}

// Close implements [port.Port].
func (p *namePort) Close() error {
	p.stop()
	return p.Stack.Close()
}

// openNames opens the port of a pod of kind PortDNS. Called with mu held.
func (n *Node) openNames(p *attachedPod) (port.Port, error) {
	if n.dns == nil {
		return nil, fmt.Errorf("kind %s: this node has no DNS server; give its configuration a dns.domain", PortDNS)
	}
	return n.dns.Open(stack.Config{Name: p.Namespace + "/" + p.Name, MAC: p.mac, Addrs: n.onLink(p.IPs), Gateways: p.Gateways, MTU: p.MTU})
}

// onLink returns a pod's addresses with the prefixes of the node's ranges. Called
// with mu held.
func (n *Node) onLink(ips []netip.Addr) (list []netip.Prefix) {
	for _, ip := range ips {
		for _, pool := range n.pools {
			if pool.cidr.Contains(ip) {
				list = append(list, netip.PrefixFrom(ip, pool.cidr.Bits()))
			}
		}
	}
	return list
}
