package control

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"vswitch/vswitch/cluster"
)

func (a *applying) completeService(v, cur *cluster.Service) *fault {
	v.Ports = slices.Clone(v.Ports)
	said := v.Ingress
	v.Ingress, v.Conditions = nil, nil
	if cur != nil {
		inherit(v, cur)
	}
	if f := prepare(v, cur); f != nil {
		return f
	}
	if f := (familyRules{have: familiesOf(&a.cfg)}).complete(v); f != nil {
		return f
	}
	if cur != nil && !system(cur) {
		if f := unchangeableService(v, cur); f != nil {
			return f
		}
	}
	a.index.claims.follow(a.tx.Own().Services)
	if f := a.index.claims.wishes(v, cur); f != nil {
		return f
	}
	if len(v.Ingress) == 0 {
		v.Ingress = a.index.claims.given(v, said, cur)
		if balanced(v) && len(v.Ingress) > 0 {
			a.said.ensure(v.Key())
		}
	}
	return nil
}

func hasClusterIP(v *cluster.Service) bool { return v.Type != cluster.ServiceExternalName }

func hasNodePorts(v *cluster.Service) bool {
	return v.Type == cluster.ServiceNodePort || v.Type == cluster.ServiceLoadBalancer
}

func hasHealthCheck(v *cluster.Service) bool {
	return v.Type == cluster.ServiceLoadBalancer && v.ExternalLocal
}

// balanced reports whether the service gets its load balancer here.
func balanced(v *cluster.Service) bool {
	return v.Type == cluster.ServiceLoadBalancer && (v.LoadBalancerClass == "" || v.LoadBalancerClass == LoadBalancerClass)
}

// inherit gives v what its predecessor has and v does not say: what was
// allocated stays (patchAllocatedValues in
// pkg/registry/core/service/storage/storage.go).
func inherit(v, cur *cluster.Service) {
	if hasClusterIP(v) && hasClusterIP(cur) {
		inheritFamilies(v, cur)
	}
	if hasNodePorts(v) && hasNodePorts(cur) {
		inheritNodePorts(v, cur)
	}
	if hasHealthCheck(v) && hasHealthCheck(cur) && v.HealthCheckPort == 0 {
		v.HealthCheckPort = cur.HealthCheckPort
	}
	if balanced(v) && balanced(cur) {
		v.Ingress = slices.DeleteFunc(slices.Clone(cur.Ingress), func(g cluster.LBIngress) bool {
			return g.IP.IsValid() && len(v.IPFamilies) > 0 && !slices.Contains(v.IPFamilies, cluster.FamilyOf(g.IP))
		})
		if len(v.Ingress) == 0 {
			v.Ingress = nil
		}
	}
	v.Conditions = cur.Conditions
}

func inheritFamilies(v, cur *cluster.Service) {
	if v.IPFamilyPolicy == "" {
		v.IPFamilyPolicy = cur.IPFamilyPolicy
	}
	most := 2
	if v.IPFamilyPolicy == cluster.SingleStack {
		most = 1
		// What is only left of a second family goes without saying.
		if len(v.IPFamilies) == 2 && slices.Equal(v.IPFamilies, cur.IPFamilies) {
			v.IPFamilies = slices.Clip(v.IPFamilies[:1])
		}
		if len(v.ClusterIPs) == 2 && slices.Equal(v.ClusterIPs, cur.ClusterIPs) {
			v.ClusterIPs = slices.Clip(v.ClusterIPs[:1])
		}
	}
	if len(v.IPFamilies) == 0 {
		v.IPFamilies = slices.Clip(cur.IPFamilies[:min(most, len(cur.IPFamilies))])
	}
	switch n := len(v.ClusterIPs); {
	case n == 0 && !v.Headless:
		v.Headless = cur.Headless
		v.ClusterIPs = slices.Clip(cur.ClusterIPs[:min(most, len(cur.ClusterIPs))])
	case n == 1 && len(cur.ClusterIPs) == 2 && most == 2 && v.ClusterIPs[0] == cur.ClusterIPs[0]:
		v.ClusterIPs = cur.ClusterIPs
	}
	if len(v.ClusterIPs) == 0 {
		v.ClusterIPs = nil
	}
}

func inheritNodePorts(v, cur *cluster.Service) {
	type number struct {
		protocol uint8
		port     uint16
	}
	byNumber, byName := map[number]uint16{}, map[string]uint16{}
	for _, p := range cur.Ports {
		byNumber[number{p.Protocol, p.Port}], byName[p.Name] = p.NodePort, p.NodePort
	}
	taken := map[number]bool{}
	for _, p := range v.Ports {
		taken[number{p.Protocol, p.NodePort}] = true
	}
	for i := range v.Ports {
		p := &v.Ports[i]
		for _, n := range []uint16{byNumber[number{p.Protocol, p.Port}], byName[p.Name]} {
			if p.NodePort == 0 && n != 0 && !taken[number{p.Protocol, n}] {
				p.NodePort = n
				taken[number{p.Protocol, n}] = true
			}
		}
	}
}

// prepare clears what a service of v's type does not have, if it is left over
// from before a change of type, and refuses it otherwise.
func prepare(v, cur *cluster.Service) *fault {
	if v.Type == "" {
		v.Type = cluster.ServiceClusterIP
	}
	if !hasClusterIP(v) {
		v.Headless, v.ClusterIPs, v.IPFamilies, v.IPFamilyPolicy = false, nil, nil, ""
	}
	if v.Headless && len(v.ClusterIPs) > 0 {
		return faultf("spec.clusterIPs", "a headless service (None) has no addresses")
	}
	if v.Headless && hasNodePorts(v) {
		return faultf("spec.clusterIP", "None does not go with type %s", v.Type)
	}
	used := map[[2]uint16]bool{}
	for i := range v.Ports {
		p := &v.Ports[i]
		field := fmt.Sprintf("spec.ports[%d].nodePort", i)
		if p.NodePort == 0 {
			continue
		}
		if !hasNodePorts(v) {
			if cur == nil || !slices.Contains(nodePortsOf(cur), p.NodePort) {
				return faultf(field, "type %s has no node ports", v.Type)
			}
			p.NodePort = 0
			continue
		}
		if k := [2]uint16{uint16(p.Protocol), p.NodePort}; used[k] {
			return faultf(field, "%d is given twice for one protocol", p.NodePort)
		} else {
			used[k] = true
		}
	}
	if v.HealthCheckPort != 0 && !hasHealthCheck(v) {
		if cur == nil || v.HealthCheckPort != cur.HealthCheckPort {
			return faultf("spec.healthCheckNodePort", "only type LoadBalancer with externalTrafficPolicy Local has one")
		}
		v.HealthCheckPort = 0
	}
	return nil
}

// unchangeableService refuses changes that the API server refuses
// (ValidateServiceUpdate in pkg/apis/core/validation).
func unchangeableService(v, cur *cluster.Service) *fault {
	if hasClusterIP(v) && hasClusterIP(cur) {
		if v.Headless != cur.Headless && (cur.Headless || len(cur.ClusterIPs) > 0) {
			return faultf("spec.clusterIP", "cannot be changed from %s; delete the Service first", clusterIPText(cur))
		}
		for i := range min(len(v.ClusterIPs), len(cur.ClusterIPs)) {
			if v.ClusterIPs[i] != cur.ClusterIPs[i] {
				return faultf(ipField(v, i), "cannot be changed from %s; delete the Service first", cur.ClusterIPs[i])
			}
		}
		bare := v.Headless && len(v.Selector) == 0
		for i := range min(len(v.IPFamilies), len(cur.IPFamilies)) {
			if v.IPFamilies[i] != cur.IPFamilies[i] && !bare {
				return faultf(fmt.Sprintf("spec.ipFamilies[%d]", i), "cannot be changed from %s; delete the Service first", cur.IPFamilies[i])
			}
		}
	}
	if hasHealthCheck(v) && hasHealthCheck(cur) && cur.HealthCheckPort != 0 && v.HealthCheckPort != cur.HealthCheckPort {
		return faultf("spec.healthCheckNodePort", "cannot be changed from %d; delete the Service first", cur.HealthCheckPort)
	}
	if v.Type == cluster.ServiceLoadBalancer && cur.Type == cluster.ServiceLoadBalancer && v.LoadBalancerClass != cur.LoadBalancerClass {
		return faultf("spec.loadBalancerClass", "cannot be changed from %q; delete the Service first, or change its type in between", cur.LoadBalancerClass)
	}
	return nil
}

func clusterIPText(v *cluster.Service) string {
	if v.Headless {
		return "None"
	}
	return join(v.ClusterIPs)
}

// ipField names the field of the i-th cluster IP as people write it.
func ipField(v *cluster.Service, i int) string {
	if len(v.ClusterIPs) == 1 {
		return "spec.clusterIP"
	}
	return fmt.Sprintf("spec.clusterIPs[%d]", i)
}

// wishes refuses addresses and ports that are asked for and cannot be had.
// What cur has already is not looked at.
func (c *claims) wishes(v, cur *cluster.Service) *fault {
	for i, a := range v.ClusterIPs {
		if cur != nil && slices.Contains(cur.ClusterIPs, a) {
			continue
		}
		l := c.clusterIPs[cluster.FamilyOf(a)]
		if l == nil || !l.holds(a) {
			return faultf(ipField(v, i), "%s is no address of the services' %s (--service-cidr)", a, rangeText(c.clusterIPs))
		}
		if owner, taken := c.addresses[a]; taken {
			return faultf(ipField(v, i), "%s is the address of Service %s", a, owner)
		}
	}
	wish := func(field string, n uint16) *fault {
		if n == 0 || cur != nil && slices.Contains(nodePortsOf(cur), n) {
			return nil
		}
		if !c.nodePorts.holdsPort(n) {
			return faultf(field, "%d is none of the node ports %d-%d (--node-port-range)", n, c.nodePorts.first, c.nodePorts.port(c.nodePorts.size))
		}
		if owner, taken := c.ports[n]; taken {
			return faultf(field, "%d is the node port of Service %s", n, owner)
		}
		return nil
	}
	for i := range v.Ports {
		if f := wish(fmt.Sprintf("spec.ports[%d].nodePort", i), v.Ports[i].NodePort); f != nil {
			return f
		}
		if v.HealthCheckPort != 0 && v.Ports[i].NodePort == v.HealthCheckPort {
			return faultf("spec.healthCheckNodePort", "%d is the node port of spec.ports[%d]", v.HealthCheckPort, i)
		}
	}
	return wish("spec.healthCheckNodePort", v.HealthCheckPort)
}

func rangeText(pools map[cluster.IPFamily]*pool) string {
	var list []netip.Prefix
	for _, f := range slices.Sorted(maps.Keys(pools)) {
		list = append(list, pools[f].prefix)
	}
	return join(list)
}

// written takes the mark of a controller off what a user writes down. It is the
// user's now: the mark tells slices that are derived here from all others.
func written(labels map[string]string) map[string]string {
	if !controllers[labels[cluster.LabelManagedBy]] {
		return labels
	}
	labels = maps.Clone(labels)
	delete(labels, cluster.LabelManagedBy)
	return labels
}
