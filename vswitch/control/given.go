package control

import (
	"fmt"
	"slices"

	"vswitch/vswitch/cluster"
)

// given returns what v takes of the status that it comes with. The API server
// ignores a status that somebody applies, and a cloud's controller writes its
// own. Here, a service that was written down as it came back, by get -o yaml,
// has the addresses again that it had, as it has its cluster IP and node ports
// again: those that are of the pool and nobody's. A load balancer of somebody
// else's class is told of by its status only, which is taken as it is.
func (c *claims) given(v *cluster.Service, status []cluster.LBIngress, cur *cluster.Service) (list []cluster.LBIngress) {
	if v.Type != cluster.ServiceLoadBalancer {
		return nil
	}
	if !balanced(v) {
		if len(status) == 0 && cur != nil && !balanced(cur) {
			return cur.Ingress
		}
		return slices.Clone(status)
	}
	for _, f := range v.IPFamilies {
		if v.LoadBalancerIP.IsValid() && cluster.FamilyOf(v.LoadBalancerIP) == f {
			continue // asks for it in so many words
		}
		i := slices.IndexFunc(status, func(g cluster.LBIngress) bool {
			if !g.IP.IsValid() || cluster.FamilyOf(g.IP) != f || c.poolOf(c.balancerIPs, g.IP) == nil {
				return false
			}
			_, owned := c.balancers[g.IP]
			return !owned
		})
		if i >= 0 {
			list = append(list, cluster.LBIngress{IP: status[i].IP, Proxy: status[i].Proxy})
		}
	}
	return list
}

// outside tells of what was given out before the ranges were changed, and is of
// none of them now. It stays: others rely on it (the repair loops of the API
// server do the same, ClusterIPOutOfRange and PortOutOfRange in
// pkg/registry/core/service).
func (c *claims) outside(v *cluster.Service) *lack {
	if c.lenient {
		return nil
	}
	const kept = "it is kept, and another one comes with a new Service"
	for _, a := range v.ClusterIPs {
		if c.poolOf(c.clusterIPs, a) == nil {
			return &lack{"OutsideRange", fmt.Sprintf("cluster IP %s is no address of the services' %s (--service-cidr); %s", a, rangeText(c.clusterIPs), kept), eventForeignClusterIP}
		}
	}
	for _, n := range nodePortsOf(v) {
		if !c.nodePorts.holdsPort(n) {
			return &lack{"OutsideRange", fmt.Sprintf("%d is none of the node ports %d-%d (--node-port-range); %s",
				n, c.nodePorts.first, c.nodePorts.port(c.nodePorts.size), kept), eventForeignPort}
		}
	}
	return nil
}
