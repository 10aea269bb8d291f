package control

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"vswitch/vswitch/cluster"
)

// Conditions of a Service. One is there while it is not so, and gone when all
// is well.
const (
	// conditionAllocated: it has its cluster IPs and node ports.
	conditionAllocated = "Allocated"
	// conditionBalancer: it has its load balancer's addresses.
	conditionBalancer = "LoadBalancer"
	// conditionTargetPorts: its pods have the ports that it names.
	conditionTargetPorts = "TargetPorts"
	// conditionEndpoints: Endpoints of its name are used.
	conditionEndpoints = "Endpoints"
)

// lack is why a condition is not so. event is the reason of the event that tells
// of it; empty: reason.
type lack struct{ reason, message, event string }

// Reasons that pass when somebody gives something back.
const (
	exhausted = "Exhausted"
	taken     = "Taken"
)

// Reasons of events that Kubernetes' own controllers have, too
// (pkg/registry/core/service/ipallocator/controller and portallocator/controller;
// k8s.io/cloud-provider/controllers/service).
const (
	eventNoClusterIP      = "ClusterIPNotAllocated"
	eventNoneFree         = "ServiceCIDRFull"
	eventForeignClusterIP = "ClusterIPOutOfRange"
	eventNoPortFree       = "PortRangeFull"
	eventForeignPort      = "PortOutOfRange"
	eventNotBalanced      = "SyncLoadBalancerFailed"
	eventBalanced         = "EnsuredLoadBalancer"
	eventUnschedulable    = "FailedScheduling" // of pods (pkg/scheduler/schedule_one.go)
)

func (l *lack) passes() bool { return l != nil && (l.reason == exhausted || l.reason == taken) }

// assign gives a service what it lacks and can have: cluster IPs, node ports,
// load balancer addresses. It gives up what the service has no right to any
// more. What cannot be had becomes a condition, and is tried again when some
// service gives something back.
func (s *step) assign(k cluster.Key) {
	x := s.index
	again := x.retried[k]
	delete(x.wanting, k)
	delete(x.retried, k)
	own := s.tx.Own().Service(k)
	if own == nil {
		return
	}
	x.claims.follow(s.tx.Own().Services)
	v := *own
	v.Ports, v.ClusterIPs, v.Ingress = slices.Clone(own.Ports), slices.Clip(own.ClusterIPs), slices.Clone(own.Ingress)
	allocated := x.claims.assignIPs(&v)
	if l := x.claims.assignPorts(&v); allocated == nil {
		allocated = l
	}
	if allocated == nil {
		allocated = x.claims.outside(&v)
	}
	balancer := x.claims.assignBalancer(&v)
	if allocated.passes() || balancer.passes() {
		x.wanting[k] = true
	}
	s.setCondition(&v, conditionAllocated, allocated)
	s.setCondition(&v, conditionBalancer, balancer)
	if again {
		s.said.retried(k, conditionAllocated, allocated)
		s.said.retried(k, conditionBalancer, balancer)
	}
	if balancer == nil && balanced(&v) && !slices.Equal(v.Ingress, own.Ingress) {
		s.said.ensure(k)
	}
	if !same(&v, own) {
		s.put(&v)
	}
}

// assignIPs fills in v.ClusterIPs as far as it can.
func (c *claims) assignIPs(v *cluster.Service) *lack {
	if v.Headless || !hasClusterIP(v) {
		return nil
	}
	for i := len(v.ClusterIPs); i < len(v.IPFamilies); i++ {
		f := v.IPFamilies[i]
		l := c.clusterIPs[f]
		if l == nil {
			return &lack{"NoRange", fmt.Sprintf("there is no range of %s for services; give the cluster one (--service-cidr)", f), eventNoClusterIP}
		}
		n := uint64(0)
		if !c.full(l) {
			n = l.pick(hash("cluster-ip", v.Namespace, v.Name, f), func(n uint64) bool { _, owned := c.addresses[l.addr(n)]; return !owned })
		}
		if n == 0 {
			return &lack{exhausted, fmt.Sprintf("no address is free in %s; delete services, or give the cluster a larger range (--service-cidr)", l.prefix), eventNoneFree}
		}
		v.ClusterIPs = append(v.ClusterIPs, l.addr(n))
	}
	return nil
}

// assignPorts fills in the node ports of v. Ports of one number, but of
// different protocols, share one (initNodePorts in
// pkg/registry/core/service/storage/alloc.go).
func (c *claims) assignPorts(v *cluster.Service) (missing *lack) {
	mine := map[uint16]bool{}
	for _, n := range nodePortsOf(v) {
		mine[n] = true
	}
	get := func(what ...any) uint16 {
		n := uint64(0)
		if !c.full(c.nodePorts) {
			n = c.nodePorts.pick(hash(append([]any{"node-port", v.Namespace, v.Name}, what...)...), func(n uint64) bool {
				_, owned := c.ports[c.nodePorts.port(n)]
				return !owned && !mine[c.nodePorts.port(n)]
			})
		}
		if n == 0 {
			missing = &lack{exhausted, fmt.Sprintf("none of the node ports %d-%d is free; delete services, make some of type ClusterIP, or give the cluster more (--node-port-range)",
				c.nodePorts.first, c.nodePorts.port(c.nodePorts.size)), eventNoPortFree}
			return 0
		}
		mine[c.nodePorts.port(n)] = true
		return c.nodePorts.port(n)
	}
	if hasNodePorts(v) && !(v.Type == cluster.ServiceLoadBalancer && v.NoNodePorts) {
		for i := range v.Ports {
			if p := &v.Ports[i]; p.NodePort == 0 {
				if p.NodePort = shared(v, i); p.NodePort == 0 {
					p.NodePort = get(p.Port)
				}
			}
		}
	}
	if hasHealthCheck(v) && v.HealthCheckPort == 0 {
		v.HealthCheckPort = get("health")
	}
	return missing
}

// shared returns the node port of another of v's ports that the i-th may have,
// too, or 0.
func shared(v *cluster.Service, i int) uint16 {
	p := &v.Ports[i]
	for j := range v.Ports {
		other := &v.Ports[j]
		if other.Port != p.Port || other.Protocol == p.Protocol || other.NodePort == 0 {
			continue
		}
		if !slices.ContainsFunc(v.Ports, func(q cluster.ServicePort) bool { return q.Protocol == p.Protocol && q.NodePort == other.NodePort }) {
			return other.NodePort
		}
	}
	return 0
}

// assignBalancer fills in v.Ingress, one address for each family.
func (c *claims) assignBalancer(v *cluster.Service) *lack {
	if v.Type != cluster.ServiceLoadBalancer {
		v.Ingress = nil
		return nil
	}
	if c.lenient && len(v.Ingress) > 0 {
		return nil
	}
	if !balanced(v) {
		if len(v.Ingress) > 0 { // somebody else gave it
			return nil
		}
		return &lack{"OtherClass", fmt.Sprintf("loadBalancerClass %q is nobody's here; leave it out, or use %q", v.LoadBalancerClass, LoadBalancerClass), eventNotBalanced}
	}
	var missing []string
	reason := ""
	for _, f := range v.IPFamilies {
		if why, text := c.balancerIP(v, f); why != "" {
			if reason != exhausted && reason != taken {
				reason = why
			}
			missing = append(missing, text)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return &lack{reason, strings.Join(missing, "; "), eventNotBalanced}
}

// balancerIP gives v an address of a family, or says why it has none, or not
// the one that it asks for.
func (c *claims) balancerIP(v *cluster.Service, f cluster.IPFamily) (reason, message string) {
	at := slices.IndexFunc(v.Ingress, func(g cluster.LBIngress) bool { return g.IP.IsValid() && cluster.FamilyOf(g.IP) == f })
	put := func(a netip.Addr) {
		switch {
		case at >= 0:
			v.Ingress[at].IP = a
		case f == v.IPFamilies[0]:
			v.Ingress = slices.Insert(v.Ingress, 0, cluster.LBIngress{IP: a})
		default:
			v.Ingress = append(v.Ingress, cluster.LBIngress{IP: a})
		}
	}
	l := c.balancerIPs[f]
	if wish := v.LoadBalancerIP; wish.IsValid() && cluster.FamilyOf(wish) == f {
		if at >= 0 && v.Ingress[at].IP == wish {
			return "", ""
		}
		if l == nil || !l.holds(wish) {
			return "OutsidePool", fmt.Sprintf("loadBalancerIP %s is no address of the load balancers' %s (--load-balancer-cidr)", wish, rangeText(c.balancerIPs))
		}
		if owner, owned := c.balancers[wish]; owned {
			return taken, fmt.Sprintf("loadBalancerIP %s is the address of Service %s", wish, owner)
		}
		put(wish)
		return "", ""
	}
	if at >= 0 && (c.lenient || l != nil && l.holds(v.Ingress[at].IP)) {
		return "", ""
	}
	if at >= 0 {
		return "OutsidePool", fmt.Sprintf("%s is no address of the load balancers' %s (--load-balancer-cidr); it is kept, and another one comes with a new Service", v.Ingress[at].IP, rangeText(c.balancerIPs))
	}
	if l == nil {
		return "NoRange", fmt.Sprintf("there is no range of %s for load balancers; give the cluster one (--load-balancer-cidr)", f)
	}
	n := uint64(0)
	if !c.full(l) {
		n = l.pick(hash("load-balancer", v.Namespace, v.Name, f), func(n uint64) bool { _, owned := c.balancers[l.addr(n)]; return !owned })
	}
	if n == 0 {
		return exhausted, fmt.Sprintf("no address is free in %s; delete load balancers, or give the cluster a larger range (--load-balancer-cidr)", l.prefix)
	}
	put(l.addr(n))
	return "", ""
}

// setCondition says that a condition is not so, or with a nil lack, drops it. An
// event tells of it unless one did.
func (s *step) setCondition(v *cluster.Service, kind string, l *lack) {
	if l != nil {
		s.said.lacks(v.Key(), kind, l)
	}
	at := slices.IndexFunc(v.Conditions, func(c cluster.Condition) bool { return c.Type == kind })
	switch {
	case l == nil && at < 0:
	case l == nil:
		v.Conditions = slices.Delete(slices.Clone(v.Conditions), at, at+1)
		if len(v.Conditions) == 0 {
			v.Conditions = nil
		}
	case at < 0:
		v.Conditions = append(slices.Clone(v.Conditions), cluster.Condition{Type: kind, Reason: l.reason, Message: l.message, Since: s.now})
	case v.Conditions[at].Reason != l.reason || v.Conditions[at].Message != l.message:
		v.Conditions = slices.Clone(v.Conditions)
		v.Conditions[at].Reason, v.Conditions[at].Message = l.reason, l.message
	}
}
