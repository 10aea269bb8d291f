package trace

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// sourcePort is what probes are sent from if they do not say: any port that no
// service has.
const sourcePort = 40000

var protocols = map[string]uint8{
	"": packet.ProtoTCP, "tcp": packet.ProtoTCP, "udp": packet.ProtoUDP, "sctp": packet.ProtoSCTP, "icmp": packet.ProtoICMP,
}

// InputError says what is wrong with a Probe.
type InputError struct {
	Message string
	// Field is the one of the Probe's that is at fault, as in JSON, where it is
	// a single one.
	Field string
}

func (e *InputError) Error() string { return e.Message }

func bad(format string, args ...any) error { return &InputError{Message: fmt.Sprintf(format, args...)} }

// in says of which field what is wrong.
func in(field string, err error) error {
	if e := (*InputError)(nil); errors.As(err, &e) && e.Field == "" {
		e.Field = field
	}
	return err
}

// Cluster is where packets are traced. It is safe for concurrent use if its
// Nodes are.
type Cluster struct {
	nodes  Nodes
	state  *cluster.State
	first  string                       // node by name
	pods   map[netip.Addr]*cluster.Pod  // by address
	owners map[netip.Addr]*cluster.Node // of nodes' own addresses, their gateways' included

	outside []netip.Addr // of the client that is called so
}

// New returns the cluster that state describes and nodes know. outside are the
// addresses of the client that FROM calls outside; none: there is no such client.
func New(state *cluster.State, nodes Nodes, outside ...netip.Addr) *Cluster {
	c := &Cluster{nodes: nodes, state: state, pods: map[netip.Addr]*cluster.Pod{}, owners: map[netip.Addr]*cluster.Node{}, outside: outside}
	for n := range state.Nodes.All() {
		if c.first == "" {
			c.first = n.Name
		}
		for _, r := range n.PodCIDRs {
			c.owners[r.Masked().Addr()], c.owners[agent.Gateway(r)] = n, n
		}
		for _, list := range [][]netip.Addr{n.Addresses, n.ExtraAddresses} {
			for _, a := range list {
				c.owners[a] = n
			}
		}
	}
	for p := range state.Pods.All() {
		if p.HostNetwork || p.Ended() {
			continue
		}
		for _, a := range p.IPs {
			c.pods[a] = p
		}
	}
	return c
}

// sender is who FROM is: on which node, and with which addresses.
type sender struct {
	node  string
	kind  agent.Sender
	name  string // of the pod
	addrs []netip.Addr
}

// resolve turns a Probe into what the sender's node is asked.
func (c *Cluster) resolve(p Probe) (node string, r agent.TraceRequest, err error) {
	proto, ok := protocols[p.Proto]
	if !ok {
		return "", r, in("proto", bad("protocol %q: use tcp, udp, sctp or icmp", p.Proto))
	}
	at := p.At
	if at == "" {
		at = c.entry(p.To, proto)
	}
	from, err := c.from(p.From, at)
	if err != nil {
		return "", r, in("from", err)
	}
	addrs, port, err := c.to(p.To, proto)
	if err != nil {
		return "", r, in("to", err)
	}
	if p.Size < 0 || p.Size > packet.MaxIP {
		return "", r, bad("size %d is outside 0..%d", p.Size, packet.MaxIP)
	}
	for _, src := range from.addrs {
		for _, dst := range addrs {
			if src.Is4() == dst.Is4() && (p.Family == "" || p.Family == familyOf(src)) {
				return from.node, agent.TraceRequest{
					Sender: from.kind, Name: from.name, Proto: proto, Size: p.Size,
					Source: netip.AddrPortFrom(src, cmp.Or(p.SourcePort, sourcePort)), Destination: netip.AddrPortFrom(dst, port),
				}, nil
			}
		}
	}
	if p.Family != "" {
		return "", r, bad("%s and %s do not both have an %s address", p.From, p.To, p.Family)
	}
	return "", r, bad("%s and %s have no address family in common", p.From, p.To)
}

// entry is where a client outside enters on the way to TO: at the node that has
// the address, for itself or for its pods, or else at the first by name.
func (c *Cluster) entry(to string, proto uint8) string {
	addrs, _, err := c.to(to, proto)
	if err != nil || len(addrs) == 0 {
		return c.first // what is wrong with TO is told later
	}
	a := addrs[0]
	if p := c.pods[a]; p != nil && c.state.Node(p.Node) != nil {
		return p.Node
	}
	if n := c.owners[a]; n != nil {
		return n.Name
	}
	if n := c.holder(a); n != nil {
		return n.Name
	}
	return c.first
}

// holder is the node that has an address in a range of its pods; nil: none.
func (c *Cluster) holder(a netip.Addr) *cluster.Node {
	for n := range c.state.Nodes.All() {
		if slices.ContainsFunc(n.PodCIDRs, func(r netip.Prefix) bool { return r.Contains(a) }) {
			return n
		}
	}
	return nil
}

// from finds the sender.
func (c *Cluster) from(s, at string) (sender, error) {
	entry := c.state.Node(at)
	if entry == nil {
		if c.first == "" {
			return sender{}, bad("the cluster has no node")
		}
		return sender{}, in("at", bad("there is no node %s to enter at", at))
	}
	if name, ok := strings.CutPrefix(s, "node/"); ok {
		n := c.state.Node(name)
		if n == nil {
			return sender{}, bad("there is no node %s", name)
		}
		return sender{node: n.Name, kind: agent.SenderNode, addrs: n.Addresses}, nil
	}
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return c.owner(a.Unmap(), entry)
	}
	if s == "outside" && len(c.outside) > 0 {
		return sender{node: entry.Name, kind: agent.SenderOutside, addrs: c.outside}, nil
	}
	p, err := c.pod(s, "FROM is NAMESPACE/POD, node/NAME, outside or an IP")
	if err != nil {
		return sender{}, err
	}
	return c.podSender(p)
}

func (c *Cluster) podSender(p *cluster.Pod) (sender, error) {
	if c.state.Node(p.Node) == nil {
		return sender{}, bad("pod %s is on no node that is known", p.Key())
	}
	if p.HostNetwork {
		return sender{node: p.Node, kind: agent.SenderNode, addrs: p.IPs}, nil
	}
	return sender{node: p.Node, kind: agent.SenderPod, name: p.Key().String(), addrs: p.IPs}, nil
}

// owner finds who has an address: a pod, a node, nobody in the range of a node's
// pods, or else somebody outside, who enters at a node.
func (c *Cluster) owner(a netip.Addr, entry *cluster.Node) (sender, error) {
	if a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
		return sender{}, bad("%s is no address that a packet can come from", a)
	}
	s := sender{addrs: []netip.Addr{a}}
	if p := c.pods[a]; p != nil {
		whole, err := c.podSender(p)
		s.node, s.kind, s.name = whole.node, whole.kind, whole.name
		return s, err
	}
	if n := c.owners[a]; n != nil {
		s.node, s.kind = n.Name, agent.SenderNode
		return s, nil
	}
	if n := c.holder(a); n != nil {
		s.node, s.kind = n.Name, agent.SenderPod
		return s, nil
	}
	s.node, s.kind = entry.Name, agent.SenderOutside
	if a.IsLoopback() {
		s.kind = agent.SenderNode
	}
	return s, nil
}

// toForms are the forms of TO.
const toForms = "TO is NAMESPACE/POD:PORT, svc/NAMESPACE/NAME:PORT, IP:PORT or [IP6]:PORT"

// to finds the addresses of TO, in the order of preference, and the port. With
// ICMP the port may be left out, and means nothing.
func (c *Cluster) to(s string, proto uint8) (addrs []netip.Addr, port uint16, err error) {
	host, number := s, ""
	if a, err := netip.ParseAddr(s); err == nil && a.Is6() {
		if proto != packet.ProtoICMP { // its last part may have been meant as the port
			return nil, 0, bad("%q has no port: write an IPv6 address as [IP6]:PORT", s)
		}
	} else if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		host, number = s[:i], s[i+1:]
	}
	if name, ok := strings.CutPrefix(host, "svc/"); ok {
		return c.service(name, number, proto)
	}
	if n, err := strconv.ParseUint(number, 10, 16); err == nil && n > 0 {
		port = uint16(n)
	} else if number != "" {
		return nil, 0, bad("%q: port %q is not a number from 1 to 65535", s, number)
	} else if proto != packet.ProtoICMP {
		return nil, 0, bad("%q has no port: %s", s, toForms)
	}
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		if a.Zone() != "" {
			return nil, 0, bad("%s has a zone; a packet to it never leaves its link", a)
		}
		return []netip.Addr{a.Unmap()}, port, nil
	}
	p, err := c.pod(host, toForms)
	if err != nil {
		return nil, 0, err
	}
	return p.IPs, port, nil
}

// pod finds a pod that has an address. Without a namespace it is in the default
// one, as everywhere.
func (c *Cluster) pod(s, forms string) (*cluster.Pod, error) {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok {
		namespace, name = "default", s
	}
	if namespace == "" || name == "" || strings.Contains(name, "/") {
		return nil, bad("%q is not understood: %s", s, forms)
	}
	p := c.state.Pod(cluster.Key{Namespace: namespace, Name: name})
	switch {
	case p == nil && ok:
		return nil, bad("there is no pod %s", s)
	case p == nil:
		return nil, bad("there is no pod default/%s: %s", s, forms)
	case p.Ended():
		return nil, bad("pod %s has ended, and has no address any more", p.Key())
	case len(p.IPs) == 0 && p.Reason != "":
		return nil, bad("pod %s has no address: %s", p.Key(), p.Reason)
	case len(p.IPs) == 0:
		return nil, bad("pod %s has no address yet", p.Key())
	}
	return p, nil
}

// service finds the cluster IPs of a service, and the port by number or name.
// Without a namespace it is in the default one.
func (c *Cluster) service(s, port string, proto uint8) (addrs []netip.Addr, number uint16, err error) {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok {
		namespace, name = "default", s
	}
	svc := c.state.Service(cluster.Key{Namespace: namespace, Name: name})
	switch {
	case svc == nil:
		return nil, 0, bad("there is no service %s/%s", namespace, name)
	case svc.Type == cluster.ServiceExternalName:
		return nil, 0, bad("service %s is another name for %s, and has no address", svc.Key(), svc.ExternalName)
	case svc.Headless:
		return nil, 0, bad("service %s is headless: its pods are reached at their own addresses", svc.Key())
	case len(svc.ClusterIPs) == 0:
		return nil, 0, bad("service %s has no address yet", svc.Key())
	}
	if n, err := strconv.ParseUint(port, 10, 16); err == nil && n > 0 {
		return svc.ClusterIPs, uint16(n), nil
	}
	var known []string
	for _, p := range svc.Ports {
		if p.Name == port && port != "" {
			return svc.ClusterIPs, p.Port, nil
		}
		known = append(known, strings.TrimPrefix(fmt.Sprintf("%s/%d", p.Name, p.Port), "/"))
	}
	if port == "" && (proto == packet.ProtoICMP || len(svc.Ports) == 1) {
		if len(svc.Ports) == 1 {
			number = svc.Ports[0].Port
		}
		return svc.ClusterIPs, number, nil
	}
	if port == "" {
		return nil, 0, bad("service %s has several ports; add one of %s", svc.Key(), strings.Join(known, ", "))
	}
	return nil, 0, bad("service %s has no port %q; it has %s", svc.Key(), port, strings.Join(known, ", "))
}
