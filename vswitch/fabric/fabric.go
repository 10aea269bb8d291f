// Package fabric is N nodes in memory: the real switch, tables compiled as the
// agent compiles them, and a wire between the nodes instead of UDP. It needs no
// root, no namespaces and no sockets, so any Go test can have a cluster.
//
// A Fabric made with Inline has no goroutines: packets move when Settle is
// called, and time is what the test says. It owns its nodes, ports and tables;
// it runs no pods' processes: a pod is a port, given by the caller, or the end
// of a pipe in a fabric that FromState made.
package fabric

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"vswitch/overlay"
	"vswitch/vswitch"
	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/port"
)

// Config says what cluster to make.
type Config struct {
	// Nodes is how many; they are named node1 to nodeN.
	Nodes int
	// ClusterCIDRs are cut into a /24 or /64 for every node. Empty: the agent's
	// defaults, both families.
	ClusterCIDRs []netip.Prefix
	// Services is how the nodes treat services.
	Services agent.ServiceConfig
	// Policy is how the nodes treat network policy.
	Policy agent.PolicyConfig
	// PodMTU of pods; 0 is what fits the overlay of a network of MTU 1500.
	PodMTU int
	// Inline: no goroutines; see Settle.
	Inline bool
	// Clock is passed to the switches; nil is the system's.
	Clock func() time.Duration
	// MaxFlows bounds each node's connection table; 0 is 65,536.
	MaxFlows int
}

// Fabric is a cluster in memory.
type Fabric struct {
	Nodes []*Node
	Pods  []*Pod // those of the State, in a fabric that FromState made
	cfg   Config
	used  map[netip.Addr]bool // by pods of the State
	world *cluster.State      // whose services and policies the nodes go by; nil: none
	ctx   context.Context     // of the running switches; nil before Start
	stop  context.CancelFunc
	wg    sync.WaitGroup
	rec   *recording // nil if nothing is recorded
}

// Node is one node of a Fabric.
type Node struct {
	Name     string
	Switch   *vswitch.Switch
	PodCIDRs []netip.Prefix
	Address  []netip.Addr // the node's own

	fabric   *Fabric
	wire     *wire
	wirePort uint16
	compiler agent.Compiler
	services *agent.Services // nil: it knows none
	policies *agent.Policies // as services
	next     []netip.Addr    // of each range
	strays   []netip.Prefix  // addresses of pods of this node, outside of its ranges
	vtep     [6]byte
}

// Pod is a pod of a Fabric.
type Pod struct {
	Node     *Node
	Name     string // "namespace/name"
	IPs      []netip.Prefix
	Gateways []netip.Addr
	MAC      [6]byte
	MTU      int
	ID       uint16 // of its port
	// End is the pod's own end of its port, in a fabric that FromState made.
	End *port.PipeEnd
}

// New makes a cluster in which every node knows every other.
func New(cfg Config) (*Fabric, error) {
	f := empty(cfg)
	for range cfg.Nodes {
		if _, err := f.AddNode(); err != nil {
			f.Close()
			return nil, err
		}
	}
	return f, nil
}

// empty makes a fabric without nodes.
func empty(cfg Config) *Fabric {
	def := agent.Default()
	if len(cfg.ClusterCIDRs) == 0 {
		cfg.ClusterCIDRs = def.ClusterCIDRs
	}
	if cfg.PodMTU == 0 {
		cfg.PodMTU = overlay.InnerMTU(netip.MustParseAddr("127.0.0.1"), def.Overlay.UnderlayMTU)
	}
	if cfg.MaxFlows == 0 {
		cfg.MaxFlows = 1 << 16
	}
	return &Fabric{cfg: cfg}
}

// AddNode adds one more node and makes it known to all.
func (f *Fabric) AddNode() (*Node, error) {
	i := len(f.Nodes) + 1
	n := &Node{Name: fmt.Sprintf("node%d", i)}
	for _, c := range f.cfg.ClusterCIDRs {
		r := nth(c, i)
		n.PodCIDRs = append(n.PodCIDRs, r)
		n.next = append(n.next, agent.Gateway(r).Next())
		if c.Addr().Is4() {
			n.Address = append(n.Address, netip.AddrFrom4([4]byte{172, 29, byte(i >> 8), byte(i)}))
		} else {
			n.Address = append(n.Address, netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x10, 0, 0x29, 14: byte(i >> 8), 15: byte(i)}))
		}
	}
	if err := f.join(n); err != nil {
		return nil, err
	}
	if f.world != nil { // it serves what the others do, and they know its address
		c := f.world.Diff(f.world)
		f.follow(&c)
	}
	f.publish()
	if f.ctx != nil {
		f.run(n)
	}
	return n, nil
}

// join gives n, whose name, ranges and addresses are set, a switch, and makes
// it and the others know each other. Nothing is published yet.
func (f *Fabric) join(n *Node) (err error) {
	i := len(f.Nodes) + 1
	n.fabric, n.vtep = f, [6]byte{2, 0xfa, 0xb0, 0, byte(i >> 8), byte(i)}
	if n.Switch, err = vswitch.New(vswitch.Config{MaxFlows: f.cfg.MaxFlows, Clock: f.cfg.Clock, Inline: f.cfg.Inline}); err != nil {
		return err
	}
	if f.rec != nil {
		f.rec.watch(n)
	}
	n.wire = newWire(n, uint16(i))
	if n.wirePort, err = n.Switch.Attach("overlay", n.wire); err != nil {
		return err
	}
	n.compiler.SetOverlay(n.wirePort, vswitch.PortOverlay, f.overlayMTU())
	n.compiler.SetSelf(n.self())
	for _, o := range f.Nodes {
		o.know(n)
		n.know(o)
	}
	f.Nodes = append(f.Nodes, n)
	return nil
}

// self is the node as its own compiler sees it.
func (n *Node) self() agent.Self {
	s := agent.Self{
		Name: n.Name, VTEPMAC: n.vtep, PodCIDRs: n.PodCIDRs, Addresses: n.Address,
		ClusterRanges: slices.Concat(n.fabric.cfg.ClusterCIDRs, n.fabric.cfg.Services.CIDRs),
	}
	if len(n.PodCIDRs) > 0 {
		s.GatewayMAC = agent.MACOf(agent.Gateway(n.PodCIDRs[0]))
	}
	return s
}

// publish lets every switch see what its compiler knows.
func (f *Fabric) publish() {
	for _, n := range f.Nodes {
		n.Switch.Publish(n.compiler.Publish())
	}
}

func (f *Fabric) overlayMTU() int { return min(f.cfg.PodMTU, 1450) }

// know makes another node part of this one's tables.
func (n *Node) know(o *Node) {
	n.wire.connect(o.wire)
	n.compiler.SetNode(n.remote(o))
}

// remote is another node as this one's compiler sees it.
func (n *Node) remote(o *Node) agent.RemoteNode {
	return agent.RemoteNode{
		Peer: o.wire.id, Port: n.wirePort, Name: o.Name, MAC: o.vtep, MTU: n.fabric.overlayMTU(),
		PodCIDRs: slices.Concat(o.PodCIDRs, o.strays), Addresses: o.Address,
	}
}

// follow makes every node serve the services of a State, and enforce its policies,
// which changed so.
func (f *Fabric) follow(c *cluster.Changes) {
	f.world = c.To
	none := cluster.State{}
	all := none.Diff(c.To)
	for _, n := range f.Nodes {
		c := c
		if n.services == nil {
			zone := ""
			if o := c.To.Node(n.Name); o != nil {
				zone = o.Labels[cluster.LabelZone]
			}
			n.services = agent.NewServices(f.cfg.Services, n.Name, zone)
			n.policies = agent.NewPolicies(f.cfg.Policy, n.Name)
			c = &all
		}
		var others [][]netip.Addr
		for _, o := range f.Nodes {
			if o != n {
				others = append(others, o.Address)
			}
		}
		n.services.SetNodes(n.Address, others)
		n.services.Apply(c)
		n.compiler.SetServices(n.services)
		n.policies.Apply(c)
		n.compiler.SetPolicies(n.policies)
	}
}

// Follow makes every node serve the services of a State, and enforce its policies,
// which changed so. Policy knows pods by the State only, not by Pod.Attach: with a
// policy in use, one that is not in it can begin nothing and hear nobody.
func (f *Fabric) Follow(c cluster.Changes) {
	f.follow(&c)
	f.publish()
}

// Outside gives the node a port to clients outside of the cluster, in the given
// ranges and behind a router with that MAC, and returns the clients' end of it.
func (n *Node) Outside(mac [6]byte, mtu int, to ...netip.Prefix) (*port.PipeEnd, error) {
	near, far := port.Pipe(mtu)
	id, err := n.Switch.Attach("outside", near)
	if err != nil {
		return nil, err
	}
	n.compiler.SetOutside(agent.OutsidePort{Port: id, MAC: mac, Prefixes: to, MTU: mtu})
	n.Switch.Publish(n.compiler.Publish())
	return far, nil
}

// Host gives the node's own addresses to somebody behind a port of their own, as
// the agent does for a namespace that stands for the node, and returns his end
// of it. He speaks with that MAC.
func (n *Node) Host(mac [6]byte) (*port.PipeEnd, error) {
	mtu := n.fabric.cfg.PodMTU
	near, far := port.Pipe(mtu)
	id, err := n.Switch.Attach(n.Name, near)
	if err != nil {
		return nil, err
	}
	n.compiler.SetOwn(agent.OwnPort{Port: id, Node: n.Name, MAC: mac, Addresses: n.Address, MTU: mtu})
	self := n.self()
	self.Uplink, self.UplinkMTU, self.UplinkMAC = id, mtu, mac
	n.compiler.SetSelf(self)
	n.Switch.Publish(n.compiler.Publish())
	return far, nil
}

// Fail makes a node vanish from the others' tables, as when it has crashed.
func (f *Fabric) Fail(name string) {
	failed := f.Node(name)
	for _, o := range f.Nodes {
		if o != failed {
			o.compiler.DeleteNode(o.remote(failed))
			o.Switch.Publish(o.compiler.Publish())
		}
	}
}

// Return makes a node known to the others again.
func (f *Fabric) Return(name string) {
	n := f.Node(name)
	for _, o := range f.Nodes {
		if o != n {
			o.know(n)
			o.Switch.Publish(o.compiler.Publish())
		}
	}
}

// Node returns the node of that name, or nil.
func (f *Fabric) Node(name string) *Node {
	for _, n := range f.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Plan reserves the next addresses of the node for a pod, so that its port can
// be made with them; Attach makes it part of the cluster.
func (n *Node) Plan(name string) *Pod {
	p := &Pod{Node: n, Name: name, MTU: n.fabric.cfg.PodMTU}
	for i, c := range n.PodCIDRs {
		for n.fabric.used[n.next[i]] {
			n.next[i] = n.next[i].Next()
		}
		p.IPs = append(p.IPs, netip.PrefixFrom(n.next[i], c.Bits()))
		n.next[i] = n.next[i].Next()
		p.Gateways = append(p.Gateways, agent.Gateway(c))
	}
	p.MAC = agent.MACOf(p.IPs[0].Addr())
	return p
}

// Attach makes a planned pod part of the cluster. The caller keeps the port.
func (p *Pod) Attach(pt port.Port) (err error) {
	if p.ID, err = p.Node.Switch.Attach(p.Name, pt); err != nil {
		return err
	}
	p.Node.compiler.SetPod(p.local())
	p.Node.Switch.Publish(p.Node.compiler.Publish())
	return nil
}

// Detach takes the pod out of the cluster again.
func (p *Pod) Detach() {
	p.Node.compiler.DeletePod(p.local())
	p.Node.Switch.Publish(p.Node.compiler.Publish())
	p.Node.Switch.Detach(p.ID)
}

func (p *Pod) local() agent.LocalPod {
	l := agent.LocalPod{Port: p.ID, Name: p.Name, MAC: p.MAC, MTU: p.MTU}
	for _, ip := range p.IPs {
		l.IPs = append(l.IPs, ip.Addr())
	}
	return l
}

// Settle forwards packets of an Inline fabric until nothing moves any more, and
// returns how many it was.
func (f *Fabric) Settle() int {
	total := 0
	for {
		n := 0
		for _, node := range f.Nodes {
			n += node.Switch.Step()
		}
		if n == 0 {
			return total
		}
		total += n
	}
}

// Start runs the switches of a fabric that is not Inline.
func (f *Fabric) Start() {
	f.ctx, f.stop = context.WithCancel(context.Background())
	for _, n := range f.Nodes {
		f.run(n)
	}
}

func (f *Fabric) run(n *Node) {
	f.wg.Go(func() { _ = n.Switch.Run(f.ctx) }) // ends with the context
}

// Close stops all switches. Pods' ports stay open.
func (f *Fabric) Close() {
	if f.stop != nil {
		f.stop()
	}
	f.wg.Wait()
	for _, n := range f.Nodes {
		n.Switch.Close()
		n.Switch.Conns().Close()
	}
}

// nth returns the i-th range of a node in a cluster's range: a /24 or a /64.
func nth(c netip.Prefix, i int) netip.Prefix {
	if c.Addr().Is4() {
		a := c.Addr().As4()
		a[1] += byte(i >> 8)
		a[2] += byte(i)
		return netip.PrefixFrom(netip.AddrFrom4(a), 24)
	}
	a := c.Addr().As16()
	a[6] += byte(i >> 8)
	a[7] += byte(i)
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}
