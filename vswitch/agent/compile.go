package agent

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"text/tabwriter"

	"vswitch/policy"
	"vswitch/vswitch"
	"vswitch/vswitch/fib"
	"vswitch/vswitch/packet"
)

// Compiler turns what a node knows into Tables, one change at a time. The next
// world shares with the last one what did not change. It is pure; publishing
// is the caller's. The zero value knows nothing.
type Compiler struct {
	next vswitch.Tables
	// shared tells that next's slices belong to a published world.
	shared bool
}

// LocalPod is a pod of this node as the compiler sees it.
type LocalPod struct {
	Port uint16 // id at the switch
	Name string // "namespace/name"
	MAC  [6]byte
	IPs  []netip.Addr
	MTU  int
}

// RemoteNode is another node as the compiler sees it.
type RemoteNode struct {
	Peer      uint16 // the overlay's id
	Port      uint16 // of the overlay, or of the uplink in direct mode
	Name      string
	MAC       [6]byte // VTEP
	MTU       int     // of the way there
	PodCIDRs  []netip.Prefix
	Addresses []netip.Addr // the node's own
}

// Self is this node as the compiler sees it.
type Self struct {
	Name                string
	GatewayMAC, VTEPMAC [6]byte
	PodCIDRs            []netip.Prefix
	Addresses           []netip.Addr
	// Uplink is the port behind which the host has Addresses, the uplink in mode
	// direct or the node port, UplinkMTU what the way there takes, and UplinkMAC
	// whom to send to there; 0: they are the switch's own.
	Uplink    uint16
	UplinkMTU int
	UplinkMAC [6]byte
	// ClusterRanges are those of all pods and of services: nobody outside has
	// an address in them.
	ClusterRanges []netip.Prefix
}

// Publish returns the world for Switch.Publish. It must not be changed; the
// compiler goes on with a copy.
func (c *Compiler) Publish() *vswitch.Tables {
	t := c.next
	c.shared = true
	return &t
}

// own makes next's slices safe to write.
func (c *Compiler) own() {
	if c.shared {
		c.next.Ports = slices.Clone(c.next.Ports)
		c.next.Peers = slices.Clone(c.next.Peers)
		c.shared = false
	}
}

// SetSelf sets the node's own ranges and addresses.
func (c *Compiler) SetSelf(s Self) {
	t := &c.next
	for prefix, hop := range t.Routes.All() {
		if hop.Kind == fib.Local || hop.Kind == fib.Unreachable || hop.Kind == fib.Host {
			t.Routes = t.Routes.Delete(prefix)
		}
	}
	t.Node, t.GatewayMAC, t.VTEPMAC = s.Name, s.GatewayMAC, s.VTEPMAC
	t.Gateway4, t.Gateway6 = packet.Addr{}, packet.Addr{}
	local := &fib.Hop{Kind: fib.Local, Name: s.Name, MAC: s.GatewayMAC}
	for _, cidr := range s.PodCIDRs {
		// The range is ours: what no pod has in it is unreachable, not the
		// default route's.
		t.Routes = t.Routes.Insert(cidr, &fib.Hop{Kind: fib.Unreachable, Name: s.Name})
		// The first address is what flannel's peers call the node.
		t.Routes = t.Routes.Insert(host(cidr.Addr()), local)
		gw := Gateway(cidr)
		t.Routes = t.Routes.Insert(host(gw), local)
		if gw.Is4() {
			t.Gateway4 = packet.AddrFrom(gw)
		} else {
			t.Gateway6 = packet.AddrFrom(gw)
		}
	}
	own := local
	if s.Uplink != 0 {
		own = &fib.Hop{Kind: fib.Host, Port: s.Uplink, MTU: uint16(s.UplinkMTU), MAC: s.UplinkMAC, Name: s.Name}
	}
	t.Node4, t.Node6 = packet.Addr{}, packet.Addr{}
	for _, a := range s.Addresses {
		t.Routes = t.Routes.Insert(host(a), own)
		// The first of a family is the primary one.
		if n := &t.Node6; a.Is6() && *n == (packet.Addr{}) {
			*n = packet.AddrFrom(a)
		} else if n := &t.Node4; a.Is4() && *n == (packet.Addr{}) {
			*n = packet.AddrFrom(a)
		}
	}
	t.Cluster = fib.Table{}
	for _, r := range s.ClusterRanges {
		t.Cluster = t.Cluster.Insert(r, &fib.Hop{Kind: fib.Unreachable})
	}
}

// SetStarting tells whether it is still unknown what services and policies there
// are. Until SetPolicies tells, policy knows no pod, and lets none begin anything.
func (c *Compiler) SetStarting(yes bool) {
	if c.next.Starting = yes; yes {
		c.next.Policy = &policy.Set{}
	}
}

// SetMeeting tells whether there may be other nodes, none of which has been met.
func (c *Compiler) SetMeeting(yes bool) { c.next.Meeting = yes }

// SetOverlay tells which port is the overlay's or uplink's.
func (c *Compiler) SetOverlay(port uint16, kind vswitch.PortKind, mtu int) {
	c.setPort(port, &vswitch.PortInfo{Kind: kind, Name: linkName(kind), MTU: uint16(mtu)})
}

func (c *Compiler) setPort(id uint16, info *vswitch.PortInfo) {
	c.own()
	for int(id) >= len(c.next.Ports) {
		c.next.Ports = append(c.next.Ports, nil)
	}
	c.next.Ports[id] = info
}

// SetPod adds a pod of this node.
func (c *Compiler) SetPod(p LocalPod) {
	hop := &fib.Hop{Kind: fib.Pod, Port: p.Port, MTU: uint16(p.MTU), MAC: p.MAC, Name: p.Name}
	for _, ip := range p.IPs {
		c.next.Routes = c.next.Routes.Insert(host(ip), hop)
	}
	c.setPort(p.Port, p.info())
}

// info is what the tables say of the pod's port.
func (p *LocalPod) info() *vswitch.PortInfo {
	info := &vswitch.PortInfo{Kind: vswitch.PortPod, Name: p.Name, MAC: p.MAC, MTU: uint16(p.MTU)}
	for _, ip := range p.IPs {
		info.Addrs = append(info.Addrs, packet.AddrFrom(ip))
	}
	return info
}

// DeletePod removes a pod of this node.
func (c *Compiler) DeletePod(p LocalPod) {
	for _, ip := range p.IPs {
		if hop := c.next.Routes.Get(host(ip)); hop != nil && hop.Kind == fib.Pod && hop.Port == p.Port {
			c.next.Routes = c.next.Routes.Delete(host(ip))
		}
	}
	c.setPort(p.Port, nil)
}

// SetNode adds another node.
func (c *Compiler) SetNode(n RemoteNode) {
	c.own()
	for int(n.Peer) >= len(c.next.Peers) {
		c.next.Peers = append(c.next.Peers, nil)
	}
	hop := &fib.Hop{Kind: fib.Peer, Port: n.Port, Peer: n.Peer, MTU: uint16(n.MTU), MAC: n.MAC, Name: n.Name}
	peer := &vswitch.PeerInfo{Name: n.Name, ID: vswitch.PeerID(n.Name), MAC: n.MAC}
	if int(n.Port) < len(c.next.Ports) && c.next.Ports[n.Port] != nil && c.next.Ports[n.Port].Kind == vswitch.PortOverlay {
		peer.Hop = hop // the overlay says which peer a packet is from
	}
	c.next.Peers[n.Peer] = peer
	for _, p := range n.PodCIDRs {
		c.next.Routes = c.next.Routes.Insert(p, hop)
	}
	node := *hop
	node.Node = true
	for _, a := range n.Addresses {
		c.next.Routes = c.next.Routes.Insert(host(a), &node)
	}
}

// DeleteNode removes another node. Its ranges stay as unreachable, so that
// packets to its pods are answered instead of lost.
func (c *Compiler) DeleteNode(n RemoteNode) {
	c.own()
	if int(n.Peer) < len(c.next.Peers) {
		c.next.Peers[n.Peer] = nil
	}
	for _, p := range n.prefixes() {
		if hop := c.next.Routes.Get(p); hop != nil && hop.Kind == fib.Peer && hop.Peer == n.Peer {
			c.next.Routes = c.next.Routes.Delete(p)
		}
	}
}

func (n *RemoteNode) prefixes() []netip.Prefix {
	ps := slices.Clone(n.PodCIDRs)
	for _, a := range n.Addresses {
		ps = append(ps, host(a))
	}
	return ps
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// Gateway returns the address of a range that the switch has on it: the
// second one, as the CNI bridge plugin and its successors have it.
func Gateway(cidr netip.Prefix) netip.Addr { return cidr.Masked().Addr().Next() }

// dump prints tables for golden tests: one row a port, peer and route.
func dump(t *vswitch.Tables) string {
	var buf bytes.Buffer
	w := tabwriter.NewWriter(&buf, 0, 8, 2, ' ', 0)
	for id, p := range t.Ports {
		if p != nil {
			fmt.Fprintf(w, "port %d\t%s\t%s\tmtu %d\t%v\n", id, p.Name, macString(p.MAC), p.MTU, p.Addrs)
		}
	}
	for id, p := range t.Peers {
		if p != nil {
			fmt.Fprintf(w, "peer %d\t%s\t%s\n", id, p.Name, macString(p.MAC))
		}
	}
	for prefix, hop := range t.Routes.All() {
		fmt.Fprintf(w, "%s\t%s\t%s\tport %d\tpeer %d\n", prefix, hop.Kind, hop.Name, hop.Port, hop.Peer)
	}
	for prefix := range t.Cluster.All() {
		fmt.Fprintf(w, "cluster\t%s\n", prefix)
	}
	w.Flush()
	return buf.String()
}

func macString(m [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}
