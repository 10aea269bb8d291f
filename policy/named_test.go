package policy

import (
	"net/netip"
	"testing"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// TestNamedPortOfBlocks: a rule for a named port of addresses is about the pods
// that have these at the time, though no selector sees them come and go; and the
// rule's counter is there before the first pod that has the port.
func TestNamedPortOfBlocks(t *testing.T) {
	c := NewCompiler("n1")
	pod := func(old, new *cluster.Pod) {
		c.Apply(&cluster.Changes{Pods: []cluster.Change[cluster.Pod]{{Old: old, New: new}}})
	}
	ask := func(what string, to string, want bool) {
		t.Helper()
		v := c.Set().Egress(testAddr("10.0.0.1"), testAddr(to), packet.ProtoTCP, 8080)
		if v.Count(); v.Allowed != want {
			t.Errorf("%s: %v, want %v (%s)", what, v.Allowed, want, v.Why())
		}
	}
	web := testPod("x", "web", "n1", "10.0.0.1")
	web.Containers = nil
	pod(nil, web)
	everywhere := cluster.PolicyPeer{Namespaces: &cluster.Selector{}}
	c.Apply(&cluster.Changes{ClusterNetworkPolicies: added([]*cluster.ClusterNetworkPolicy{{
		Meta: cluster.Meta{Name: "no-http"}, Tier: cluster.TierAdmin, Subject: everywhere,
		Egress: []cluster.PolicyRule{{Action: cluster.ActionDeny, Ports: []cluster.PolicyPort{{Name: "http"}},
			Peers: []cluster.PolicyPeer{{Blocks: []cluster.IPBlock{{CIDR: netip.MustParsePrefix("10.0.0.0/8")}}}}}},
	}})})
	ask("nobody has the port", "10.0.0.2", true)
	first := testPod("y", "first", "n2", "10.0.0.2")
	pod(nil, first)
	ask("the first that has it", "10.0.0.2", false)
	second := testPod("y", "second", "n2", "10.0.0.3")
	pod(nil, second)
	ask("another one", "10.0.0.3", false)
	pod(second, nil)
	ask("is gone", "10.0.0.3", true)
	bare := testPod("y", "third", "n2", "10.0.0.3") // takes over the number of its identity
	bare.Containers = nil
	pod(nil, bare)
	ask("one without the port has its address", "10.0.0.3", true)
	pod(first, nil)
	ask("nobody has the port any more", "10.0.0.2", true)
	if d := c.Set().Drops(); len(d) != 1 || d[0].Packets != 2 || d[0].Policy != "ClusterNetworkPolicy no-http" {
		t.Errorf("drops: %+v", d)
	}
}
