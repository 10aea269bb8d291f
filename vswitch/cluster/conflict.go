package cluster

import (
	"fmt"
	"net/netip"
	"slices"
)

// Conflict is a contradiction between an object and another one.
type Conflict struct {
	Ref Ref
	// Object is the later one of the two, which is to blame.
	Object Object
	// Field is its field, in Kubernetes' words: "spec.podCIDRs[0]".
	Field   string
	Message string
}

// Conflicts returns what contradicts itself in nodes and pods, in their order:
// pod ranges that overlap, node addresses given twice, pod addresses given
// twice or outside the ranges of the pod's node. Pods that ended hold no
// address. Pods of a node without ranges may have any.
func Conflicts(nodes []*Node, pods []*Pod) []Conflict {
	var out []Conflict
	addrs := map[netip.Addr]string{} // whose address it is
	byName := map[string]*Node{}
	for _, n := range nodes {
		byName[n.Name] = n
		for i, list := 0, slices.Concat(n.Addresses, n.ExtraAddresses); i < len(list); i++ {
			owner, taken := addrs[list[i]]
			if taken && owner != "Node "+n.Name {
				out = append(out, Conflict{RefOf(n), n, "status.addresses",
					fmt.Sprintf("%s is also the address of %s", list[i], owner)})
				continue
			}
			addrs[list[i]] = "Node " + n.Name
		}
	}
	out = append(out, overlaps(nodes)...)
	for _, p := range pods {
		if p.HostNetwork || p.Ended() {
			continue
		}
		for i, a := range p.IPs {
			bad := func(format string, args ...any) {
				out = append(out, Conflict{RefOf(p), p,
					fmt.Sprintf("status.podIPs[%d].ip", i), fmt.Sprintf(format, args...)})
			}
			if owner, taken := addrs[a]; taken {
				bad("%s is also the address of %s", a, owner)
				continue
			}
			addrs[a] = "Pod " + p.Key().String()
			if n := byName[p.Node]; n != nil {
				if r := rangeOf(n.PodCIDRs, a); r.IsValid() && !r.Contains(a) {
					bad("%s lies outside the pod range %s of its node %s", a, r, n.Name)
				}
			}
		}
	}
	return out
}

// rangeOf returns the range of a's family.
func rangeOf(ranges []netip.Prefix, a netip.Addr) netip.Prefix {
	for _, r := range ranges {
		if r.Addr().Is4() == a.Is4() {
			return r
		}
	}
	return netip.Prefix{}
}

// overlaps finds pod ranges of different nodes that overlap. Two prefixes
// overlap only if one holds the other, so in order of address and length it is
// enough to look at those that the present one may lie in.
func overlaps(nodes []*Node) []Conflict {
	type owned struct {
		prefix      netip.Prefix
		order, cidr int
	}
	var all []owned
	for i, n := range nodes {
		for j, p := range n.PodCIDRs {
			all = append(all, owned{p.Masked(), i, j})
		}
	}
	slices.SortStableFunc(all, func(a, b owned) int {
		if c := a.prefix.Addr().Compare(b.prefix.Addr()); c != 0 {
			return c
		}
		return a.prefix.Bits() - b.prefix.Bits()
	})
	type pair struct{ later, earlier owned }
	var found []pair
	var open []owned
	for _, o := range all {
		for len(open) > 0 && !open[len(open)-1].prefix.Overlaps(o.prefix) {
			open = open[:len(open)-1]
		}
		if len(open) > 0 {
			later, earlier := o, open[len(open)-1]
			if later.order < earlier.order {
				later, earlier = earlier, later
			}
			if later.order != earlier.order {
				found = append(found, pair{later, earlier})
			}
		}
		open = append(open, o)
	}
	slices.SortStableFunc(found, func(a, b pair) int {
		if a.later.order != b.later.order {
			return a.later.order - b.later.order
		}
		return a.later.cidr - b.later.cidr
	})
	var out []Conflict
	for _, f := range found {
		n, other := nodes[f.later.order], nodes[f.earlier.order]
		out = append(out, Conflict{RefOf(n), n, fmt.Sprintf("spec.podCIDRs[%d]", f.later.cidr),
			fmt.Sprintf("%s overlaps %s of Node %s", f.later.prefix, f.earlier.prefix, other.Name)})
	}
	return out
}

// ServiceConflicts returns what contradicts itself in services, in their order:
// cluster IPs given twice, and node ports given twice for one protocol, to
// which the health check's port belongs (TCP). A cluster IP that another
// service has as external or load balancer address is none: clients inside and
// outside may use one address for different things.
func ServiceConflicts(services []*Service) []Conflict {
	type nodePort struct {
		protocol uint8
		port     uint16
	}
	var out []Conflict
	ips, ports := map[netip.Addr]*Service{}, map[nodePort]*Service{}
	for _, v := range services {
		bad := func(field, format string, args ...any) {
			out = append(out, Conflict{RefOf(v), v, field, fmt.Sprintf(format, args...)})
		}
		claim := func(p nodePort, field string) {
			if p.port == 0 {
				return
			}
			if owner, taken := ports[p]; !taken {
				ports[p] = v
			} else if owner != v {
				bad(field, "%d is also a node port of Service %s", p.port, owner.Key())
			} else {
				bad(field, "%d is given twice", p.port)
			}
		}
		for i, a := range v.ClusterIPs {
			field := "spec.clusterIP"
			if i > 0 {
				field = fmt.Sprintf("spec.clusterIPs[%d]", i)
			}
			if owner, taken := ips[a]; taken {
				bad(field, "%s is also the cluster IP of Service %s", a, owner.Key())
				continue
			}
			ips[a] = v
		}
		if v.Type != ServiceNodePort && v.Type != ServiceLoadBalancer {
			continue
		}
		for i := range v.Ports {
			claim(nodePort{v.Ports[i].Protocol, v.Ports[i].NodePort}, fmt.Sprintf("spec.ports[%d].nodePort", i))
		}
		claim(nodePort{protocolTCP, v.HealthCheckPort}, "spec.healthCheckNodePort")
	}
	return out
}

// protocolTCP is packet.ProtoTCP.
const protocolTCP = 6
