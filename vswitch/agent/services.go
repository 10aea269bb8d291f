package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"vswitch/nat"
	"vswitch/vswitch/cluster"
)

// ServiceConfig is how a node treats services. It must be the same on all nodes.
type ServiceConfig struct {
	// CIDRs are the ranges of cluster IPs, at most one per family.
	CIDRs []netip.Prefix `json:"cidrs,omitempty"`
	// ExternalClient says what policy Cluster does with clients outside:
	// "preserve" keeps their addresses, "masquerade" hides them.
	ExternalClient string `json:"externalClient,omitempty"`
	// MasqueradeAll hides pods, too, from the backends of cluster IPs.
	MasqueradeAll bool `json:"masqueradeAll,omitempty"`
	// NodePortAddresses are the ranges of those nodes' addresses that serve
	// node ports. Empty: each node's first one per family.
	NodePortAddresses []netip.Prefix `json:"nodePortAddresses,omitempty"`
	// NodePorts are the ports that services may have at nodes. What a node
	// sends to them at its own addresses goes by its switch.
	NodePorts cluster.PortRange `json:"nodePorts,omitzero"`
}

// Values of ServiceConfig.ExternalClient.
const (
	PreserveClient   = "preserve"
	MasqueradeClient = "masquerade"
)

func (c *Config) validateServices(bad func(field, format string, args ...any)) {
	families := map[bool]bool{}
	for i, p := range c.Services.CIDRs {
		field := fmt.Sprintf("services.cidrs[%d]", i)
		if p != p.Masked() {
			bad(field, "%s has bits set behind its prefix; did you mean %s?", p, p.Masked())
		}
		if families[p.Addr().Is4()] {
			bad(field, "%s is a second range of one family; give at most one per family", p)
		}
		families[p.Addr().Is4()] = true
		for _, pods := range slices.Concat(c.ClusterCIDRs, c.PodCIDRs) {
			if pods.Overlaps(p) {
				bad(field, "%s overlaps %s of pods", p, pods)
				break
			}
		}
	}
	if r := c.Services.NodePorts; r != (cluster.PortRange{}) && (r.First == 0 || r.First > r.Last) {
		bad("services.nodePorts", "%d to %d is not a range", r.First, r.Last)
	}
	if e := c.Services.ExternalClient; e != "" && e != PreserveClient && e != MasqueradeClient {
		bad("services.externalClient", "%q is unknown; use %s or %s", e, PreserveClient, MasqueradeClient)
	}
}

// nodePortAddresses returns those of a node's addresses that serve node ports.
func (c *ServiceConfig) nodePortAddresses(addrs []netip.Addr) (out []netip.Addr) {
	var families [2]bool
	for _, a := range addrs {
		f := &families[0]
		if a.Is6() {
			f = &families[1]
		}
		first := !*f
		*f = true
		in := slices.ContainsFunc(c.NodePortAddresses, func(p netip.Prefix) bool { return p.Contains(a) })
		if in || first && len(c.NodePortAddresses) == 0 {
			out = append(out, a)
		}
	}
	return out
}

// Services follows the services of a cluster, for one node. What changes in
// others' endpoints costs nothing here.
type Services struct {
	cfg      ServiceConfig
	compiler *nat.Compiler
	slices   map[cluster.Key]map[cluster.Key]*cluster.EndpointSlice // by service
	// checked is told the health check node port of each service that changed,
	// 0 for none, and how many ready endpoints this node has; it may be nil.
	checked func(key cluster.Key, port uint16, endpoints int)
}

// NewServices returns what the node of that name and zone knows of services:
// none yet.
func NewServices(cfg ServiceConfig, node, zone string) *Services {
	s := &Services{cfg: cfg, slices: map[cluster.Key]map[cluster.Key]*cluster.EndpointSlice{}}
	s.compiler = nat.NewCompiler(nat.Self{Name: node, Zone: zone})
	s.compiler.SetRanges(cfg.CIDRs)
	return s
}

// SetNodes tells the addresses of this node and of all others.
func (s *Services) SetNodes(own []netip.Addr, others [][]netip.Addr) {
	var peers []netip.Addr
	for _, o := range others {
		peers = append(peers, s.cfg.nodePortAddresses(o)...)
	}
	s.compiler.SetNodes(s.cfg.nodePortAddresses(own), peers)
}

// Apply takes in what changed, and reports whether that makes a difference to
// the data plane.
func (s *Services) Apply(c *cluster.Changes) bool {
	touched := map[cluster.Key]bool{}
	for _, ch := range c.EndpointSlices {
		if ch.Old != nil {
			s.without(ch.Old, touched)
		}
		if ch.New != nil {
			s.with(ch.New, touched)
		}
	}
	for _, ch := range c.Services {
		if ch.New == nil {
			s.compiler.Delete(ch.Old.Key())
			s.check(ch.Old.Key())
			continue
		}
		touched[ch.New.Key()] = true
	}
	for key := range touched {
		if svc := c.To.Service(key); svc != nil {
			s.compiler.Set(svc, s.slicesOf(key))
			s.check(key)
		}
	}
	return len(touched)+len(c.Services) > 0
}

func (s *Services) check(key cluster.Key) {
	if s.checked != nil {
		port, endpoints := s.compiler.HealthCheck(key)
		s.checked(key, port, endpoints)
	}
}

func (s *Services) without(sl *cluster.EndpointSlice, touched map[cluster.Key]bool) {
	key := sl.Service()
	if delete(s.slices[key], sl.Key()); len(s.slices[key]) == 0 {
		delete(s.slices, key)
	}
	touched[key] = true
}

func (s *Services) with(sl *cluster.EndpointSlice, touched map[cluster.Key]bool) {
	key := sl.Service()
	if key.Name == "" {
		return
	}
	if s.slices[key] == nil {
		s.slices[key] = map[cluster.Key]*cluster.EndpointSlice{}
	}
	s.slices[key][sl.Key()] = sl
	touched[key] = true
}

func (s *Services) slicesOf(key cluster.Key) (list []*cluster.EndpointSlice) {
	for _, sl := range s.slices[key] {
		list = append(list, sl)
	}
	// In order, so that all nodes make the same of an endpoint that is in two.
	slices.SortFunc(list, func(a, b *cluster.EndpointSlice) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// SetServices makes the next world's services those that s knows.
func (c *Compiler) SetServices(s *Services) {
	c.next.Services = s.compiler.Services()
	c.next.MasqueradeOutside = s.cfg.ExternalClient == MasqueradeClient
	c.next.MasqueradeAll = s.cfg.MasqueradeAll
}

// serviceNodes tells the services where node ports are served. Called with mu
// held, or from Start.
func (n *Node) serviceNodes() {
	var others [][]netip.Addr
	for _, p := range n.peers {
		others = append(others, slices.Concat(p.Addresses, p.extra))
	}
	n.services.SetNodes(n.cfg.allAddresses(), others)
	n.compiler.SetServices(n.services)
}

// follow makes the tables follow the services and policies that are desired, and
// the pods that policies select, until ctx ends.
func (n *Node) follow(ctx context.Context) {
	again := time.NewTicker(healthRetry)
	defer again.Stop()
	var names <-chan struct{} // what is new of names: also what the node itself says of its pods
	if n.dns != nil {
		names = n.dns.News()
	}
	for {
		heard := false
		select {
		case <-ctx.Done():
			return
		case <-again.C:
			n.mu.Lock()
			n.health.tend()
			n.mu.Unlock()
			continue
		case <-n.heard:
			heard = true
		case <-n.watch.C():
		case <-names:
		case <-n.revisions.news:
		}
		revision := n.revisions.heard.Load() // before the changes, which are at least those
		n.mu.Lock()
		if n.refresh(heard) {
			n.sw.Publish(n.compiler.Publish())
		}
		deaf := n.deaf
		n.mu.Unlock()
		if n.dns != nil && !deaf {
			n.dns.Follow()
		}
		n.revisions.enforce(revision)
	}
}

// refresh takes in what is new in the store, and reports whether that makes the
// next world another one. heard tells that the feed's whole is known now. Called
// with mu held.
func (n *Node) refresh(heard bool) (changed bool) {
	if n.watch == nil {
		return false // there is no feed
	}
	c := n.watch.Next()
	if heard && n.deaf {
		n.deaf, changed = false, true
		n.vouchAll()
		if c.Empty() {
			// The feed's whole was taken in before; what the node has to say of
			// its own pods is new, and belongs to the same world.
			c = n.watch.Next()
		}
	}
	// What is new of pods may make something of theirs known that the node has to
	// say itself, which then is new.
	for ; !c.Empty(); c = n.watch.Next() {
		n.vouchFor(&c)
		n.hearAgain(&c)
		n.countUntold(&c)
		changed = n.services.Apply(&c) || changed
		changed = n.policies.Apply(&c) || changed
		if lostEndpoints(&c) {
			select {
			case n.lost <- struct{}{}:
			default: // it has been told already
			}
		}
	}
	if n.relabelled {
		n.relabelled = false
		n.announce()
		if err := n.save(); err != nil {
			n.log.Error("the state could not be saved", "err", err)
		}
	}
	changed = n.settleRanges() || changed
	if changed {
		n.compiler.SetServices(n.services)
		n.compiler.SetStarting(n.deaf)
		if !n.deaf {
			n.compiler.SetPolicies(n.policies)
		}
		n.health.tend()
		n.divertOwn()
	}
	return changed
}

// feedLost notes that the node hears nothing new of what is desired, or does again.
func (n *Node) feedLost(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.feed = ""
	if err == nil {
		select {
		case n.heard <- struct{}{}:
		default: // it will look at what is known now
		}
		return
	}
	defer func() {
		if n.settleRanges() {
			n.sw.Publish(n.compiler.Publish())
		}
	}()
	n.feed = err.Error() + "; what it told last stays in use"
	if n.deaf {
		n.feed = err.Error() + "; until it tells what services and policies there are, the node is not ready, and silent at its own addresses and at unknown ones, and new connections of its pods wait"
	}
	n.log.Warn(n.feed)
}
