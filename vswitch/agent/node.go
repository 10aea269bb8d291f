// Package agent is one node: it reads the node's configuration, gives pods
// their interfaces and addresses, finds the other nodes, compiles all that into
// the switch's tables, and serves the node's API on a unix socket.
//
// It owns the node's state on disk and everything that the data plane is told.
// It does not run pods' processes and decides nothing about other nodes: that
// is the lab's or Kubernetes' part.
package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"vswitch/nat"
	"vswitch/overlay"
	"vswitch/overlay/gossip"
	"vswitch/vswitch"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
)

// Node is a running node.
type Node struct {
	cfg     Config
	log     *slog.Logger
	started time.Time

	sw     *vswitch.Switch
	conns  *nat.Table
	link   link
	gossip *gossip.Gossip
	uplink uint16         // port id of the link
	store  *cluster.Store // what is desired, and where policy finds it
	heard  chan struct{}  // has something after all of store was told anew
	// revisions of the desired state that the node knows, and goes by
	revisions *revisions
	dns       *NameServer    // nil: no pod of the node is a DNS server
	lost      chan struct{}  // receives when services have lost endpoints
	over      chan struct{}  // closed when the node ends
	prods     sync.WaitGroup // who sends prods

	mu           sync.Mutex // guards what follows
	compiler     Compiler
	services     *Services
	policies     *Policies
	watch        *cluster.Watcher // of store; nil: nobody tells what is desired
	hearsay      hearsay
	relabelled   bool // labels of the node's pods changed, and nobody knows yet
	health       *healthPorts
	pools        []*pool
	pods         map[string]*attachedPod // by namespace/name
	leases       map[string][]netip.Addr // of configured ports in the last run, by pod
	portProblems map[string]string       // by pod
	own          *ownPort                // the node port; nil: the switch has the node's addresses
	outside      *outsidePort            // nil: not attached
	peers        map[string]*peer        // by node name
	absent       []netip.Prefix          // addresses of nodes that are known, but not alive
	problems     []string
	feed         string            // why nothing new is heard of what is desired; empty if it is
	forwarding   bool              // packets pass: Run has waited for what it had to
	deaf         bool              // there are services and policies, but nobody has told yet which
	meeting      bool              // there may be other nodes, and none has been met
	strangers    []string          // problems with nodes that cannot be peers
	refused      map[string]string // why the link does not take a node as peer, by name
	refuse       string            // why pods cannot be attached; empty if they can
}

// Start brings a node up: its switch, overlay and gossip run when it returns.
// Run serves the API and waits.
func Start(cfg Config, log *slog.Logger) (_ *Node, err error) {
	if err := errors.Join(cfg.Validate(), cfg.CheckFiles()); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, log: log, started: time.Now(), pods: map[string]*attachedPod{}, peers: map[string]*peer{},
		leases: map[string][]netip.Addr{}, portProblems: map[string]string{}, refused: map[string]string{},
		store: cluster.NewStore(), heard: make(chan struct{}, 1), health: newHealthPorts(log), deaf: cfg.Control != "",
		revisions: newRevisions(), lost: make(chan struct{}, 1), over: make(chan struct{})}
	n.services = NewServices(cfg.Services, cfg.Name, cfg.Labels[cluster.LabelZone])
	n.services.checked = n.health.set
	n.policies, n.hearsay = NewPolicies(cfg.Policy, cfg.Name), newHearsay()
	if cfg.Control != "" {
		n.watch = n.store.Watch()
	}
	if cfg.DNS.Domain != "" {
		if n.dns, err = NewNameServer(&cfg, n.store, log); err != nil {
			return nil, fmt.Errorf("node %s: %w", cfg.Name, err)
		}
		if cfg.Control == "" {
			n.dns.Follow() // that is all there is
		}
	}
	n.compiler.SetStarting(n.deaf)
	n.meeting = len(cfg.Gossip.Join) > 0
	n.compiler.SetMeeting(n.meeting)
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	for _, dir := range []string{cfg.RuntimeDir, cfg.StateDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("node %s: %w", cfg.Name, err)
		}
	}
	if err := n.startSwitch(); err != nil {
		return nil, err
	}
	n.tellSelf()
	saved, problem, err := loadState(cfg.StateDir, cfg.Name)
	if err != nil {
		return nil, err
	}
	if problem != nil {
		n.problem(problem.Error())
	}
	if err := n.startGossip(saved); err != nil {
		return nil, err
	}
	n.setRanges(saved.PodCIDRs)
	n.restore(saved)
	n.moveHealth()
	n.sync(n.gossip.Snapshot())
	n.attachPorts()
	return n, nil
}

// startSwitch opens the connection table, the switch and its link.
func (n *Node) startSwitch() error {
	conns, warning, err := openConns(n.cfg, n.log)
	if err != nil {
		return err
	}
	if warning != nil {
		n.problem(warning.Error())
	}
	n.conns = conns
	if n.sw, err = vswitch.New(vswitch.Config{
		Workers: n.cfg.Workers, MaxFlows: n.cfg.MaxFlows, Conns: conns, Log: n.log,
	}); err != nil {
		return err
	}
	return n.startLink()
}

func (n *Node) startGossip(saved state) error {
	cfg := gossip.Default()
	cfg.Name, cfg.Cluster = n.cfg.Name, n.cfg.Cluster
	cfg.Listen, cfg.Join, cfg.KeyFile = n.cfg.Gossip.Listen, n.cfg.Gossip.Join, n.cfg.Gossip.KeyFile
	cfg.ClusterCIDRs, cfg.NodeMask4, cfg.NodeMask6 = n.cfg.ClusterCIDRs, n.cfg.NodeMask4, n.cfg.NodeMask6
	cfg.PodCIDRs, cfg.LastClaims = n.cfg.PodCIDRs, saved.Claims
	cfg.Logger = n.log
	if n.cfg.Gossip.Listen.Addr().IsLoopback() {
		cfg.Timing = gossip.Local()
	}
	extra, untold := n.cfg.announced()
	cfg.Self = gossip.Facts{
		Labels: n.cfg.Labels, Addresses: n.cfg.Addresses, ExtraAddresses: extra, Underlay: n.link.underlay(), VTEPMAC: n.mac("vtep"),
	}
	if untold > 0 {
		n.problem(fmt.Sprintf("extraAddresses: other nodes are told of the first %d only, and do not reach the other %d", len(extra), untold))
	}
	var err error
	if n.gossip, err = gossip.Start(cfg); err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	return nil
}

// Switch returns the node's data plane.
func (n *Node) Switch() *vswitch.Switch { return n.sw }

// Run forwards packets and serves the API until ctx ends, then leaves the
// cluster. Pods keep their interfaces: the next start finds them again.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	if n.cfg.Control != "" {
		wg.Go(func() { control.Follow(ctx, n.cfg.Control, n.store, n.revisions.hear, n.feedLost) })
		wg.Go(func() { n.follow(ctx) })
		wg.Go(func() { n.reviewConnections(ctx) })
	}
	wg.Go(func() {
		again := time.NewTicker(tendEvery)
		defer again.Stop()
		for ctx.Err() == nil {
			changed := n.gossip.Changes() // before the snapshot, so that nothing is missed
			n.sync(n.gossip.Snapshot())
			n.attachPorts()
			select {
			case <-ctx.Done():
			case <-changed:
			case <-again.C:
				n.tend()
			}
		}
	})
	wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-time.After(meetWithin):
			n.metNobody()
		}
	})
	wg.Go(func() {
		n.settle(ctx)
		n.mu.Lock()
		n.forwarding = true
		n.mu.Unlock()
		_ = n.sw.Run(ctx)
	})
	err := n.serve(ctx)
	cancel()
	leave, done := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer done()
	if lerr := n.gossip.Leave(leave); lerr != nil {
		n.log.Warn("could not tell the others that this node leaves", "err", lerr)
	}
	wg.Wait()
	n.close()
	return err
}

// settleWithin bounds how long a node that starts does not forward.
const settleWithin = 500 * time.Millisecond

// settle waits, for a while, until the node knows its peers and the services.
// Packets wait meanwhile at the ports, where one that came back and knew nobody
// would refuse them.
func (n *Node) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		n.mu.Lock()
		settled := !n.deaf && !n.meeting
		n.mu.Unlock()
		if settled {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}

func (n *Node) close() {
	close(n.over)
	n.prods.Wait()
	if n.gossip != nil {
		n.gossip.Close()
	}
	if n.sw != nil {
		n.sw.Close()
	}
	n.mu.Lock()
	n.health.close()
	for _, p := range n.pods {
		p.port.Close()
	}
	if n.own != nil {
		n.own.port.Close()
	}
	if n.outside != nil {
		n.outside.port.Close()
	}
	n.mu.Unlock()
	if n.dns != nil {
		n.dns.Close()
	}
	if n.link != nil {
		n.link.Close()
	}
	if n.conns != nil {
		n.conns.Close()
	}
}

// problem notes something that a user must know and can mend.
func (n *Node) problem(text string) {
	n.log.Warn(text)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Contains(n.problems, text) {
		n.problems = append(n.problems, text)
	}
}

// innerMTU is the largest IP packet that fits the overlay.
func innerMTU(c *Config) int {
	return overlay.InnerMTU(c.Overlay.Listen.Addr(), c.Overlay.UnderlayMTU)
}

func (n *Node) podMTU() int {
	if n.cfg.PodMTU != 0 {
		return n.cfg.PodMTU
	}
	return n.cfg.linkMTU()
}

// mac derives one of the node's own addresses from the names, so that it is the
// same after a restart, and with a lost state directory.
func (n *Node) mac(of string) (mac [6]byte) {
	sum := sha256.Sum256([]byte(of + "/" + n.cfg.Cluster + "/" + n.cfg.Name))
	copy(mac[:], sum[:])
	mac[0] = mac[0]&^1 | 2 // unicast, locally administered
	return mac
}

// MACOf derives a pod's MAC from its first address, so that a new owner of an
// address has the MAC that its neighbors know (as the CNI bridge plugin has it
// for IPv4: 0a:58 and the address).
func MACOf(a netip.Addr) (mac [6]byte) {
	mac[0], mac[1] = 0x0a, 0x58
	if a.Is4() {
		b := a.As4()
		copy(mac[2:], b[:])
		return mac
	}
	b := a.As16()
	sum := sha256.Sum256(b[:])
	mac[1] = 0x59
	copy(mac[2:], sum[:])
	return mac
}

// setRanges makes cidrs the ranges that this node's pods have their addresses
// from. Called with mu held, or from Start.
func (n *Node) setRanges(cidrs []netip.Prefix) {
	n.pools = nil
	for _, c := range cidrs {
		n.pools = append(n.pools, newPool(c))
	}
	n.setSelf()
	n.link.follow(cidrs, n.peers)
	n.tendOwn()
}

// setSelf compiles and publishes what this node is. Called with mu held, or
// from Start.
func (n *Node) setSelf() {
	s := Self{Name: n.cfg.Name, VTEPMAC: n.mac("vtep"), PodCIDRs: n.ranges(), Addresses: n.cfg.allAddresses(),
		ClusterRanges: slices.Concat(n.cfg.ClusterCIDRs, n.cfg.Services.CIDRs, n.cfg.NodeCIDRs, n.absent)}
	if n.link.kind() == vswitch.PortUplink {
		s.Addresses, s.Uplink, s.UplinkMTU = n.cfg.hostAddresses(), n.uplink, n.link.MTU()
	}
	s.GatewayMAC = n.gatewayMAC()
	n.own.be(&s)
	n.compiler.SetSelf(s)
	n.serviceNodes()
	if n.cfg.Control != "" {
		n.settleRanges()
		if !n.deaf {
			n.compiler.SetPolicies(n.policies)
		}
	}
	n.sw.Publish(n.compiler.Publish())
}

// gatewayMAC is the switch's own address towards pods; zero without ranges.
func (n *Node) gatewayMAC() (mac [6]byte) {
	if len(n.pools) > 0 {
		mac = MACOf(Gateway(n.pools[0].cidr))
	}
	return mac
}

func (n *Node) ranges() (cidrs []netip.Prefix) {
	for _, p := range n.pools {
		cidrs = append(cidrs, p.cidr)
	}
	return cidrs
}

// save writes the state; called with mu held.
func (n *Node) save() error {
	s := state{Version: stateVersion, Node: n.cfg.Name, PodCIDRs: n.ranges(), Claims: n.gossip.Snapshot().Self.Claims}
	for _, p := range n.pods {
		s.Pods = append(s.Pods, p.PodStatus)
	}
	slices.SortFunc(s.Pods, func(a, b PodStatus) int { return a.IPs[0].Compare(b.IPs[0]) })
	if n.own != nil {
		s.Own = &n.own.PortStatus
	}
	for _, p := range n.pools {
		s.Released = append(s.Released, p.released...)
	}
	return saveState(n.cfg.StateDir, s)
}

// announce tells the other nodes about this one's pods; called with mu held.
func (n *Node) announce() {
	var pods []gossip.Pod
	for _, p := range n.pods {
		pods = append(pods, gossip.Pod{Namespace: p.Namespace, Name: p.Name, UID: p.UID, IPs: p.IPs, Labels: p.Labels})
	}
	if err := n.gossip.SetPods(pods); err != nil {
		n.log.Error("this node's pods could not be announced", "err", err)
	}
}

// openConns opens the connection table in the runtime directory.
func openConns(cfg Config, log *slog.Logger) (t *nat.Table, warning error, err error) {
	timeouts, err := cfg.timeouts()
	if err != nil {
		return nil, nil, err
	}
	t, err = nat.Open(nat.Config{Path: filepath.Join(cfg.RuntimeDir, "conntrack"), Max: cfg.MaxFlows, Timeouts: timeouts})
	if err != nil {
		return nil, nil, err
	}
	found, warning := t.Recovered()
	if found > 0 {
		log.Info("connections of the last run are known", "count", found)
	}
	return t, warning, nil
}
