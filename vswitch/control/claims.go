package control

import (
	"net/netip"

	"vswitch/vswitch/cluster"
)

// claims says which service has which address and port. It follows the table
// of services, which is where they are written down; it never decides.
type claims struct {
	clusterIPs, balancerIPs map[cluster.IPFamily]*pool
	nodePorts               *pool
	lenient                 bool // what services have is left alone

	services  cluster.Table[cluster.Service] // that the maps stand for
	addresses map[netip.Addr]cluster.Key     // cluster IPs
	balancers map[netip.Addr]cluster.Key     // load balancers' addresses
	ports     map[uint16]cluster.Key         // of nodes
	used      map[*pool]uint64               // how many of a pool are taken
	freed     bool                           // something was given back since the last look
}

func newClaims(cfg *Config) *claims {
	return &claims{
		clusterIPs: pools(cfg.ServiceRanges(), true), balancerIPs: pools(cfg.LoadBalancerRanges(), false), nodePorts: portPool(cfg.NodePorts),
		addresses: map[netip.Addr]cluster.Key{}, balancers: map[netip.Addr]cluster.Key{}, ports: map[uint16]cluster.Key{},
		used: map[*pool]uint64{},
	}
}

// follow takes in what changed up to services.
func (c *claims) follow(services cluster.Table[cluster.Service]) {
	changes := c.services.Diff(services)
	c.services = services
	for _, v := range changes {
		if v.Old != nil {
			c.release(v.Old)
		}
	}
	for _, v := range changes {
		if v.New != nil {
			c.take(v.New)
		}
	}
	for _, v := range changes {
		c.freed = c.freed || v.Old != nil && c.gaveBack(v.Old)
	}
}

// gaveBack reports whether nobody has something that old had.
func (c *claims) gaveBack(old *cluster.Service) bool {
	for _, a := range old.ClusterIPs {
		if _, ok := c.addresses[a]; !ok {
			return true
		}
	}
	for _, g := range old.Ingress {
		if _, ok := c.balancers[g.IP]; !ok {
			return true
		}
	}
	for _, n := range nodePortsOf(old) {
		if _, ok := c.ports[n]; !ok {
			return true
		}
	}
	return false
}

func (c *claims) take(v *cluster.Service) {
	k := v.Key()
	for _, a := range v.ClusterIPs {
		claim(c, c.addresses, a, k, c.poolOf(c.clusterIPs, a))
	}
	for _, g := range v.Ingress {
		if g.IP.IsValid() {
			claim(c, c.balancers, g.IP, k, c.poolOf(c.balancerIPs, g.IP))
		}
	}
	for _, n := range nodePortsOf(v) {
		claim(c, c.ports, n, k, c.portPoolOf(n))
	}
}

func (c *claims) release(v *cluster.Service) {
	k := v.Key()
	for _, a := range v.ClusterIPs {
		disclaim(c, c.addresses, a, k, c.poolOf(c.clusterIPs, a))
	}
	for _, g := range v.Ingress {
		disclaim(c, c.balancers, g.IP, k, c.poolOf(c.balancerIPs, g.IP))
	}
	for _, n := range nodePortsOf(v) {
		disclaim(c, c.ports, n, k, c.portPoolOf(n))
	}
}

// free reports whether an address is one of a cluster IP, and nobody's.
func (c *claims) free(a netip.Addr) bool {
	_, taken := c.addresses[a]
	return !taken && c.poolOf(c.clusterIPs, a) != nil
}

func claim[A comparable](c *claims, owners map[A]cluster.Key, a A, k cluster.Key, l *pool) {
	if _, taken := owners[a]; taken {
		return
	}
	owners[a] = k
	if l != nil {
		c.used[l]++
	}
}

func disclaim[A comparable](c *claims, owners map[A]cluster.Key, a A, k cluster.Key, l *pool) {
	if owner, taken := owners[a]; !taken || owner != k {
		return
	}
	delete(owners, a)
	if l != nil {
		c.used[l]--
	}
}

func (c *claims) poolOf(pools map[cluster.IPFamily]*pool, a netip.Addr) *pool {
	if l := pools[cluster.FamilyOf(a)]; l != nil && l.holds(a) {
		return l
	}
	return nil
}

func (c *claims) portPoolOf(n uint16) *pool {
	if c.nodePorts.holdsPort(n) {
		return c.nodePorts
	}
	return nil
}

// full reports whether nothing of the pool is left, without a search.
func (c *claims) full(l *pool) bool { return c.used[l] >= l.size }

// nodePortsOf returns the ports of nodes that a service has. Several of its
// ports may share one.
func nodePortsOf(v *cluster.Service) (list []uint16) {
	for i := range v.Ports {
		if n := v.Ports[i].NodePort; n != 0 {
			list = append(list, n)
		}
	}
	if v.HealthCheckPort != 0 {
		list = append(list, v.HealthCheckPort)
	}
	return list
}
