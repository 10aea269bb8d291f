package policy_test

import (
	"net/netip"
	"testing"

	"vswitch/policy"
	"vswitch/policy/policytest"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/kube"
	"vswitch/vswitch/packet"
)

// TestTables runs the truth tables, with one Compiler for each node as in a
// cluster, and with one for all.
func TestTables(t *testing.T) {
	for _, table := range policytest.Read(t, "testdata") {
		t.Run(table.Name, func(t *testing.T) {
			w := load(t, &table)
			for _, m := range table.Matrices {
				for i, from := range m.From {
					for j, to := range m.To {
						a, b := w.addr(t, from, m.IPv6), w.addr(t, to, m.IPv6)
						w.expect(t, m.Name, a, b, m.Proto, m.Port, m.Allowed[i][j])
					}
				}
			}
		})
	}
}

// setup is a cluster with the Sets of its nodes.
type setup struct {
	*kube.Objects
	sets map[string]*policy.Set // by node; empty: all pods
}

// load reads a table's manifests. Policies that are not valid are replaced by
// what stands for them, as when they are applied.
func load(t *testing.T, table *policytest.Table) *setup {
	t.Helper()
	o, _, err := kube.Parse(table.File, table.Manifests)
	if err != nil {
		t.Fatal(err)
	}
	if table.Invalid != nil {
		_, _, err := kube.Parse(table.File, table.Invalid)
		in := kube.StandIns(err)
		if len(in.NetworkPolicies)+len(in.ClusterNetworkPolicies) == 0 {
			t.Fatalf("%s: nothing in invalid.yaml is refused: %v", table.File, err)
		}
		o.NetworkPolicies = append(o.NetworkPolicies, in.NetworkPolicies...)
		o.ClusterNetworkPolicies = append(o.ClusterNetworkPolicies, in.ClusterNetworkPolicies...)
	}
	w := &setup{o, map[string]*policy.Set{}}
	nodes := []string{""}
	for _, n := range o.Nodes {
		nodes = append(nodes, n.Name)
	}
	for _, n := range nodes {
		c := policy.NewCompiler(n)
		c.Apply(&cluster.Changes{Namespaces: added(o.Namespaces), Nodes: added(o.Nodes), Pods: added(o.Pods),
			NetworkPolicies: added(o.NetworkPolicies), ClusterNetworkPolicies: added(o.ClusterNetworkPolicies)})
		w.sets[n] = c.Set()
	}
	return w
}

func added[T any](list []*T) []cluster.Change[T] {
	var out []cluster.Change[T]
	for _, o := range list {
		out = append(out, cluster.Change[T]{New: o})
	}
	return out
}

// addr returns the address of a pod, node/NAME or an address.
func (w *setup) addr(t *testing.T, name string, ipv6 bool) netip.Addr {
	t.Helper()
	if a, err := netip.ParseAddr(name); err == nil {
		return a
	}
	first := func(list []netip.Addr) netip.Addr {
		for _, a := range list {
			if a.Is6() || !ipv6 {
				return a
			}
		}
		t.Fatalf("%s has no address", name)
		return netip.Addr{}
	}
	for _, p := range w.Pods {
		if p.Key().String() == name {
			return first(p.IPs)
		}
	}
	for _, n := range w.Nodes {
		if "node/"+n.Name == name {
			return first(n.Addresses)
		}
	}
	t.Fatalf("nobody is called %s", name)
	return netip.Addr{}
}

// expect asks the sender's node, then the receiver's.
func (w *setup) expect(t *testing.T, what string, from, to netip.Addr, proto uint8, port uint16, want bool) {
	t.Helper()
	a, b := packet.AddrFrom(from), packet.AddrFrom(to)
	for _, whole := range []bool{true, false} {
		allowed, why := true, ""
		for _, p := range w.Pods {
			set := w.sets[p.Node]
			if whole {
				set = w.sets[""]
			}
			for _, ip := range p.IPs {
				v, asked := policy.Verdict{}, false
				if !p.HostNetwork && ip == from {
					v, asked = set.Egress(&a, &b, proto, port), true
				}
				if asked && !v.Allowed {
					allowed, why = false, v.Why()
				}
				if asked = !p.HostNetwork && ip == to; asked {
					v = set.Ingress(&a, &b, proto, port)
				}
				if asked && !v.Allowed {
					allowed, why = false, v.Why()
				}
			}
		}
		if allowed != want {
			t.Errorf("%s from %s to %s: allowed %v (%s), want %v", what, from, to, allowed, why, want)
		}
	}
}
