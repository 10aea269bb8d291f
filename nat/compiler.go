package nat

import (
	"cmp"
	"hash/fnv"
	"net/netip"
	"slices"
	"time"

	"vswitch/vswitch/cluster"
)

// AnnotationBalance on a Service with the value "maglev" makes all nodes choose
// backends alike, by a consistent hash, instead of at random.
const AnnotationBalance = "vswitch/balance"

// Compiler turns the services of a cluster into Services, as one node sees
// them, one service at a time. What it returned before stays as it was. It is
// not safe for concurrent use. Make one with NewCompiler.
type Compiler struct {
	self     Self
	services map[cluster.Key]*compiled
	claims   map[spot][]claim // who wants to be at a spot, whoever gets it first
	nodes    map[netip.Addr]bool
	ranges   []netip.Prefix
	next     Services
	changes  map[spot]*Frontend // that next has not yet
}

// compiled is what became of a service.
type compiled struct {
	spots []spot
	local int // ready endpoints on this node
	port  uint16
}

// claim is a frontend that a service wants to have.
type claim struct {
	frontend *Frontend
	created  time.Time
	owner    cluster.Key
}

// NewCompiler returns a Compiler for a node. Its name and zone decide which
// endpoints are local and near; when they change, make a new one.
func NewCompiler(self Self) *Compiler {
	return &Compiler{self: self, services: map[cluster.Key]*compiled{}, claims: map[spot][]claim{}, nodes: map[netip.Addr]bool{}, changes: map[spot]*Frontend{}}
}

// Services returns what has been compiled so far.
func (c *Compiler) Services() Services {
	c.next = c.next.with(c.changes)
	clear(c.changes)
	return c.next
}

// SetRanges tells the ranges of cluster IPs. Their addresses are for services
// only, given or not.
func (c *Compiler) SetRanges(ranges []netip.Prefix) {
	for _, p := range c.ranges {
		c.next = c.next.withRange(p, false)
	}
	c.ranges = slices.Clone(ranges)
	for _, p := range ranges {
		c.next = c.next.withRange(p, true)
	}
}

// SetNodes tells the addresses at which nodes serve node ports: this one's own,
// and those of the others.
func (c *Compiler) SetNodes(own, peers []netip.Addr) {
	want := map[netip.Addr]bool{} // address: is it ours
	for _, a := range peers {
		want[a] = false
	}
	for _, a := range own {
		want[a] = true
	}
	for a := range c.nodes {
		if _, still := want[a]; !still {
			c.next = c.next.withNode(a, false, false)
		}
	}
	for a, ours := range want {
		if was, ok := c.nodes[a]; !ok || was != ours {
			c.next = c.next.withNode(a, ours, !ours)
		}
	}
	c.nodes = want
}

// Set compiles a service and its slices anew.
func (c *Compiler) Set(svc *cluster.Service, list []*cluster.EndpointSlice) {
	key := svc.Key()
	old := c.services[key]
	now := &compiled{}
	if !has(svc.Labels, cluster.LabelServiceProxy) && !svc.Headless && svc.Type != cluster.ServiceExternalName {
		local := map[netip.Addr]bool{}
		for i := range svc.Ports {
			for _, fam := range familiesOf(svc) {
				c.port(svc, &svc.Ports[i], fam, list, now, local)
			}
		}
		now.local, now.port = podsOf(local), svc.HealthCheckPort
	}
	if old != nil {
		for _, at := range old.spots {
			if !slices.Contains(now.spots, at) {
				c.unclaim(at, key)
			}
		}
	}
	c.services[key] = now
}

// Delete forgets a service.
func (c *Compiler) Delete(key cluster.Key) {
	if old := c.services[key]; old != nil {
		for _, at := range old.spots {
			c.unclaim(at, key)
		}
		delete(c.services, key)
	}
}

// podsOf returns how many pods have these addresses: one with both families
// counts once.
func podsOf(addrs map[netip.Addr]bool) int {
	four := 0
	for a := range addrs {
		if a.Is4() {
			four++
		}
	}
	return max(four, len(addrs)-four)
}

// HealthCheck returns the port at which the node must tell how many ready
// endpoints of the service it has, and that number; 0, 0 for none.
func (c *Compiler) HealthCheck(key cluster.Key) (port uint16, endpoints int) {
	if s := c.services[key]; s != nil && s.port != 0 {
		return s.port, s.local
	}
	return 0, 0
}

// familiesOf returns the families in which a service has frontends. One whose
// families nobody decided has those of its addresses.
func familiesOf(svc *cluster.Service) []cluster.IPFamily {
	if len(svc.IPFamilies) > 0 {
		return svc.IPFamilies
	}
	var out []cluster.IPFamily
	for _, a := range svc.ClusterIPs {
		if f := cluster.FamilyOf(a); !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out
}

// port compiles one port of a service in one family.
func (c *Compiler) port(svc *cluster.Service, sp *cluster.ServicePort, fam cluster.IPFamily, list []*cluster.EndpointSlice, into *compiled, local map[netip.Addr]bool) {
	s := &Service{Name: svc.Key().String(), Affinity: uint32(svc.Affinity / time.Second), sources: prefixesOf(svc.SourceRanges, fam)}
	if sp.Name != "" {
		s.Name += ":" + sp.Name
	}
	h := fnv.New32a()
	h.Write([]byte(s.Name))
	s.ID = h.Sum32()
	endpoints := endpointsOf(sp, fam, list, &c.self)
	s.assign(endpoints, &c.self)
	for i := range endpoints {
		if e := &endpoints[i]; e.Local && e.ready {
			local[e.Addr.Netip()] = true
		}
	}
	if svc.Annotations[AnnotationBalance] == "maglev" {
		s.maglev = newMaglev(s.Cluster)
	}
	add := func(addr netip.Addr, port uint16, kind FrontendKind, local bool) {
		at := spot{addr, portKey(sp.Protocol, port)}
		// An address may be given twice, as external IP and by the load balancer.
		if addr.IsValid() && cluster.FamilyOf(addr) == fam && port != 0 && !slices.Contains(into.spots, at) {
			into.spots = append(into.spots, at)
			c.claim(at, claim{frontendOf(s, kind, local), svc.Created, svc.Key()})
		}
	}
	for _, a := range svc.ClusterIPs {
		add(a, sp.Port, ClusterIP, svc.InternalLocal)
	}
	for _, in := range svc.Ingress { // before external IPs, which nobody is kept from
		if !in.Proxy {
			add(in.IP, sp.Port, LoadBalancer, svc.ExternalLocal)
		}
	}
	for _, a := range svc.ExternalIPs {
		add(a, sp.Port, ExternalIP, svc.ExternalLocal)
	}
	any := netip.IPv4Unspecified()
	if fam == cluster.IPv6 {
		any = netip.IPv6Unspecified()
	}
	add(any, sp.NodePort, NodePort, svc.ExternalLocal)
}

// claim asks for a spot, instead of what its owner had there. If two services
// want the same, the older one has it.
func (c *Compiler) claim(at spot, cl claim) {
	list := slices.DeleteFunc(slices.Clone(c.claims[at]), func(o claim) bool { return o.owner == cl.owner })
	list = append(list, cl)
	slices.SortFunc(list, func(a, b claim) int {
		return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.owner.Namespace, b.owner.Namespace), cmp.Compare(a.owner.Name, b.owner.Name))
	})
	c.claims[at] = list
	c.changes[at] = list[0].frontend
}

func (c *Compiler) unclaim(at spot, owner cluster.Key) {
	list := slices.DeleteFunc(slices.Clone(c.claims[at]), func(o claim) bool { return o.owner == owner })
	if len(list) == 0 {
		delete(c.claims, at)
		c.changes[at] = nil
		return
	}
	c.claims[at] = list
	c.changes[at] = list[0].frontend
}
