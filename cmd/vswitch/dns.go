package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/dns"
)

// defaultDNS is where the DNS server listens: anybody may, and mDNS, which has port
// 5353, does not.
const defaultDNS = "127.0.0.1:1053"

// defaultDomain is the domain of clusters that nobody says another one of.
const defaultDomain = "cluster.local"

func newDNS() *cobra.Command {
	var o dnsOptions
	c := &cobra.Command{
		Use:   "dns -f MANIFESTS",
		Short: "Serve the names of a cluster that manifests describe",
		Long: `Answers DNS questions, over UDP and TCP, as the cluster that the manifests describe would:
services, headless services and their endpoints, ports (SRV), ExternalName, addresses
(PTR) and pods, after the Kubernetes DNS specification 1.1.0. What the manifests leave out
(addresses of services and pods, endpoints) is filled in as 'vswitch up' does. They are
read once. Nothing else needs to run.

  SERVICE.NAMESPACE.svc.cluster.local            a service
  HOSTNAME.SERVICE.NAMESPACE.svc.cluster.local   one of its endpoints
  _PORT._PROTO.SERVICE.NAMESPACE.svc.cluster.local   SRV: a named port
  10-244-1-2.NAMESPACE.pod.cluster.local         a pod, if it has the address

Addresses of the cluster's and the services' ranges have names (dig -x); all other
questions are passed on to the upstreams:

  --upstream IP[:PORT]   asks these, in this order; repeatable
  --upstream none        refuses what is not in the cluster
  without it             asks the resolvers of /etc/resolv.conf, and follows it when it
                         changes

It listens on ` + defaultDNS + `, which needs no right. Resolvers that cannot be told a port need
--listen IP:53, and that the right to ports below 1024. With port 0 a free one is taken,
and printed.

Stops at Ctrl-C or SIGTERM. Exit codes: 0 it was stopped, 1 it failed (the port is taken),
2 bad input.`,
		Example: `  vswitch dns -f ./k8s
  dig @127.0.0.1 -p 1053 web.shop.svc.cluster.local
  dig @127.0.0.1 -p 1053 -x 10.96.0.10
  vswitch dns -f ./k8s --listen 127.0.0.1:0 --upstream none
  vswitch dns -f ./k8s --upstream 192.0.2.53 --upstream '[2001:db8::53]:5353' --log-queries
  kustomize build . | vswitch dns -f - --zone corp.example --service-cidr 10.32.0.0/16`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c) },
	}
	f := c.Flags()
	f.StringArrayVarP(&o.where.files, "filename", "f", nil, "manifests: a file, a directory, or - for standard input; repeatable")
	f.StringVar(&o.listen, "listen", defaultDNS, "address and port, IP:PORT; :PORT are all addresses of this machine")
	f.StringArrayVar(&o.upstreams, "upstream", nil, "resolver of names outside the cluster, IP or IP:PORT, or none; repeatable (default those of /etc/resolv.conf)")
	f.StringVar(&o.zone, "zone", defaultDomain, "domain of the cluster")
	f.StringArrayVar(&o.where.clusterCIDRs, "cluster-cidr", nil, "range of all pods, one per family (default 10.244.0.0/16 and fd00:10:244::/56)")
	f.StringArrayVar(&o.where.services.cidrs, "service-cidr", nil, "range of services, one per family (default 10.96.0.0/16 and fd00:10:96::/112)")
	f.BoolVar(&o.logQueries, "log-queries", false, "write a line for each question to standard error")
	_ = c.MarkFlagRequired("filename") // the flag exists
	return c
}

type dnsOptions struct {
	where        whereFlags
	listen, zone string
	upstreams    []string
	logQueries   bool
}

func (o *dnsOptions) run(c *cobra.Command) error {
	listen, err := parseListen(o.listen)
	if err != nil {
		return bad(err)
	}
	upstreams, err := o.given(listen)
	if err != nil {
		return bad(err)
	}
	o.where.services.externalClient = agent.PreserveClient
	state, cfg, services, err := o.where.static(c)
	if err != nil {
		return err
	}
	zone := dns.ZoneConfig{Domain: o.zone, TTL: dns.DefaultTTL, Reverse: slices.Concat(cfg.ClusterCIDRs, services.CIDRs)}
	if !listen.Addr().IsUnspecified() {
		zone.NameServers = []netip.Addr{listen.Addr()}
	}
	z, err := dns.NewZone(zone)
	if err != nil {
		return bad(fmt.Errorf("--zone: %w", err))
	}
	all := (&cluster.State{}).Diff(state)
	z = z.Follow(&all)
	packets, connections, err := listenDNS(listen)
	if err != nil {
		return err
	}
	defer packets.Close()
	defer connections.Close()
	at := packets.LocalAddr().(*net.UDPAddr).AddrPort()
	forwarder := o.forwarder(c, upstreams, at)
	if forwarder != nil {
		defer forwarder.Close()
	}
	server := dns.ServerConfig{Forwarder: forwarder}
	if o.logQueries {
		server.Queries = slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
	}
	fmt.Fprintf(c.OutOrStdout(), "%s on %s, UDP and TCP: %d services, %d endpoints; %s\n",
		strings.TrimSuffix(z.Domain(), "."), at, z.Services(), z.Endpoints(), upstreamsText(forwarder))
	return serveDNS(c.Context(), dns.NewServer(z, server), packets, connections)
}

// serveDNS serves on both sockets until ctx is done, or one of them fails.
func serveDNS(ctx context.Context, s *dns.Server, packets net.PacketConn, connections net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 2)
	go func() { ended <- s.ServePacket(ctx, packets) }()
	go func() { ended <- s.ServeListener(ctx, connections) }()
	first := <-ended
	cancel()
	return errors.Join(first, <-ended)
}

// parseListen reads IP:PORT or :PORT.
func parseListen(text string) (netip.AddrPort, error) {
	if port, ok := strings.CutPrefix(text, ":"); ok {
		if n, err := strconv.ParseUint(port, 10, 16); err == nil {
			return netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(n)), nil
		}
	}
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		return a, fmt.Errorf("--listen %q: use IP:PORT, such as %s, [::1]:1053 or :53", text, defaultDNS)
	}
	return unmapped(a), nil
}

// unmapped writes ::ffff:a.b.c.d as the IPv4 address that it is.
func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// listenDNS opens both sockets, of one port. Those of an IPv4 address are of IPv4
// alone: 0.0.0.0 would else be all addresses of IPv6, too.
func listenDNS(at netip.AddrPort) (net.PacketConn, net.Listener, error) {
	const attempts = 20 // a port that is free for UDP may be taken for TCP
	udp, tcp := "udp", "tcp"
	ip := net.IP(at.Addr().AsSlice())
	switch {
	case at.Addr().Is4():
		udp, tcp = "udp4", "tcp4"
	case at.Addr() == netip.IPv6Unspecified():
		ip = nil // IPv4 alone, where the machine has nothing else
	}
	for i := 1; ; i++ {
		packets, err := net.ListenUDP(udp, &net.UDPAddr{IP: ip, Port: int(at.Port()), Zone: at.Addr().Zone()})
		if err != nil {
			return nil, nil, listenFault(at, err)
		}
		port := packets.LocalAddr().(*net.UDPAddr).Port
		connections, err := net.ListenTCP(tcp, &net.TCPAddr{IP: ip, Port: port, Zone: at.Addr().Zone()})
		if err == nil {
			return packets, connections, nil
		}
		packets.Close()
		if at.Port() != 0 || i == attempts {
			return nil, nil, listenFault(at, err)
		}
	}
}

// listenFault says why nobody can listen there, and what to do.
func listenFault(at netip.AddrPort, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listen on %s: another program has this port; stop it, or take another one with --listen (port 0 takes one that is free)", at)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("listen on %s: ports below 1024 need a right; use --listen %s, or give the program CAP_NET_BIND_SERVICE, or lower net.ipv4.ip_unprivileged_port_start", at, defaultDNS)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listen on %s: this machine does not have the address; use --listen %s, or :%d for all that it has", at, defaultDNS, at.Port())
	}
	return fmt.Errorf("listen on %s: %w", at, err)
}

// given returns the upstreams of the command line.
func (o *dnsOptions) given(self netip.AddrPort) ([]netip.AddrPort, error) {
	list, _, err := parseUpstreams(o.upstreams)
	for i, a := range list {
		if isSelf(a, self) {
			return nil, fmt.Errorf("--upstream %s is this server itself; name another one, or none", o.upstreams[i])
		}
	}
	return list, err
}

// noUpstream is the upstream that is none, and may be said more than once.
const noUpstream = "none"

// parseUpstreams reads what --upstream says: resolvers, or that there are none.
func parseUpstreams(texts []string) (list []netip.AddrPort, none bool, err error) {
	if refused(texts) {
		return nil, true, nil
	}
	for _, text := range texts {
		if text == noUpstream {
			return nil, false, errors.New("--upstream none: nobody is asked, so it cannot go with others; leave it out, or the others")
		}
		a, err := parseUpstream(text)
		if err != nil {
			return nil, false, err
		}
		list = append(list, a)
	}
	return list, false, nil
}

// refused reports whether nobody is to be asked.
func refused(upstreams []string) bool {
	return len(upstreams) > 0 && !slices.ContainsFunc(upstreams, func(s string) bool { return s != noUpstream })
}

// forwarder returns who resolves what is not in the cluster, or nil for nobody. It
// asks those that were given, or else those of the system.
func (o *dnsOptions) forwarder(c *cobra.Command, given []netip.AddrPort, self netip.AddrPort) *dns.Forwarder {
	if refused(o.upstreams) {
		return nil
	}
	f := dns.NewForwarder(dns.ForwarderConfig{Upstreams: given, Log: slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))})
	if len(given) > 0 {
		return f
	}
	others := func(list []netip.AddrPort) []netip.AddrPort {
		return slices.DeleteFunc(list, func(a netip.AddrPort) bool { return isSelf(a, self) })
	}
	list, err := dns.ReadResolvConf(dns.ResolvConf)
	if err != nil {
		fmt.Fprintf(c.ErrOrStderr(), "warning: %v; names outside the cluster are not resolved until it is there, or with --upstream\n", err)
	}
	f.SetUpstreams(others(list))
	go dns.FollowResolvConf(c.Context(), dns.ResolvConf, f, func(list []netip.AddrPort) []netip.AddrPort {
		list = others(list)
		if !slices.Equal(list, f.Upstreams()) {
			writeUpstreams(c.OutOrStdout(), list)
		}
		return list
	})
	return f
}

func parseUpstream(text string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(a.Unmap(), 53), nil
	}
	a, err := netip.ParseAddrPort(text)
	if err == nil && a.Port() == 0 {
		return a, fmt.Errorf("--upstream %q: nobody listens at port 0; leave it out for port 53", text)
	}
	if err != nil {
		return a, fmt.Errorf("--upstream %q: use IP, IP:PORT or [IP6]:PORT; or none, and no other", text)
	}
	return unmapped(a), nil
}

// isSelf reports whether a is where this server listens.
func isSelf(a, self netip.AddrPort) bool {
	to, at := a.Addr().Unmap(), self.Addr()
	switch to { // what is sent to all addresses comes to this machine (Linux)
	case netip.IPv4Unspecified():
		to = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case netip.IPv6Unspecified():
		to = netip.IPv6Loopback()
	}
	switch {
	case a.Port() != self.Port():
		return false
	case !at.IsUnspecified():
		return to == at
	case at.Is4() && !to.Is4(): // listenDNS
		return false
	case to.IsLoopback():
		return true
	}
	own, _ := net.InterfaceAddrs() // without them, the loop is found when it happens
	return slices.ContainsFunc(own, func(n net.Addr) bool {
		p, err := netip.ParsePrefix(n.String())
		return err == nil && p.Addr() == to
	})
}

func upstreamsText(f *dns.Forwarder) string {
	if f == nil {
		return "no upstream"
	}
	return listText(f.Upstreams(), "no upstream yet")
}

// writeUpstreams says whom resolv.conf names now, besides this server.
func writeUpstreams(out io.Writer, list []netip.AddrPort) {
	fmt.Fprintf(out, "%s has changed: %s\n", dns.ResolvConf, listText(list, "no upstream any more; names outside the cluster are not resolved"))
}

// listText names upstreams, or says what there is without any.
func listText(list []netip.AddrPort, none string) string {
	if len(list) == 0 {
		return none
	}
	return "upstream " + joinAddrPorts(list)
}

func joinAddrPorts(list []netip.AddrPort) string {
	var s []string
	for _, a := range list {
		s = append(s, a.String())
	}
	return strings.Join(s, ", ")
}
