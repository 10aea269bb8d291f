package policy

import (
	"net/netip"
	"testing"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// TestElsewhere: a pod that nobody knows yet may be one that is denied, or one
// that is allowed, so who may not be asked about it waits. Addresses that no pod
// of another node has are nobody's as ever.
func TestElsewhere(t *testing.T) {
	prefix := netip.MustParsePrefix
	addr := func(s string) *packet.Addr { a := packet.AddrFrom(netip.MustParseAddr(s)); return &a }
	everywhere := cluster.Selector{}
	deny := &cluster.ClusterNetworkPolicy{Meta: cluster.Meta{Name: "deny"}, Tier: cluster.TierAdmin, Subject: cluster.PolicyPeer{Namespaces: &everywhere,
		Pods: &cluster.Selector{Requirements: []cluster.Requirement{{Key: "app", Operator: cluster.SelectIn, Values: []string{"web"}}}}}}
	deny.Ingress = []cluster.PolicyRule{{Action: cluster.ActionDeny, Peers: []cluster.PolicyPeer{{Namespaces: &everywhere,
		Pods: &cluster.Selector{Requirements: []cluster.Requirement{{Key: "app", Operator: cluster.SelectIn, Values: []string{"foe"}}}}}}}}
	pod := func(name, app, node, ip string) *cluster.Pod {
		return &cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: name, Labels: map[string]string{"app": app}}, Node: node, IPs: []netip.Addr{netip.MustParseAddr(ip)}}
	}
	o := &cluster.Objects{ClusterNetworkPolicies: []*cluster.ClusterNetworkPolicy{deny},
		Pods: []*cluster.Pod{pod("web", "web", "n1", "10.244.1.2"), pod("free", "free", "n1", "10.244.1.3"), pod("foe", "foe", "n2", "10.244.2.2"), pod("friend", "friend", "n2", "10.244.2.3")}}
	none := &cluster.State{}
	state := o.State()
	c := NewCompiler("n1")
	ch := none.Diff(state)
	c.Apply(&ch)
	if v := c.Set().Ingress(addr("10.244.2.9"), addr("10.244.1.2"), packet.ProtoTCP, 80); !v.Allowed {
		t.Errorf("without ranges, an unknown address: %+v, want it to be nobody's", v)
	}
	all, here := []netip.Prefix{prefix("10.244.0.0/16"), prefix("fd00::/56")}, []netip.Prefix{prefix("10.244.1.0/24")}
	if !c.SetRanges(all, here) || c.SetRanges(all, here) {
		t.Error("SetRanges does not tell a difference from none")
	}
	if v := c.Set().Ingress(addr("10.244.2.9"), addr("10.244.1.2"), packet.ProtoTCP, 80); !v.Pending {
		t.Errorf("after SetRanges: %+v, want a pending verdict", v)
	}
	// The ranges stay over changes.
	ch = state.Diff(none)
	c.Apply(&ch)
	ch = none.Diff(state)
	c.Apply(&ch)
	for _, tt := range []struct {
		from, to         string
		allowed, pending bool
	}{
		{"10.244.2.2", "10.244.1.2", false, false}, // the foe
		{"10.244.2.3", "10.244.1.2", true, false},  // somebody else
		{"10.244.2.9", "10.244.1.2", false, true},  // a pod of another node that nobody knows yet
		{"fd00::9", "10.244.1.2", false, true},     // of the other family
		{"10.244.1.9", "10.244.1.2", true, false},  // this node knows its own pods
		{"203.0.113.1", "10.244.1.2", true, false}, // no pod
		{"10.244.2.9", "10.244.1.3", true, false},  // no policy has a say
		{"10.244.2.9", "10.244.1.99", false, true}, // whoever that is
	} {
		if v := c.Set().Ingress(addr(tt.from), addr(tt.to), packet.ProtoTCP, 80); v.Allowed != tt.allowed || v.Pending != tt.pending || v.Policy() != "" && v.Pending {
			t.Errorf("%s to %s: %+v", tt.from, tt.to, v)
		}
	}
}

// TestElsewhereAnybody: nobody needs to know who it is where a NetworkPolicy lets
// in everybody, or a range.
func TestElsewhereAnybody(t *testing.T) {
	web := &cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: "web"}, Node: "n1", IPs: []netip.Addr{netip.MustParseAddr("10.244.1.2")}}
	p := &cluster.NetworkPolicy{Meta: cluster.Meta{Namespace: "x", Name: "p"}, IsolatesIngress: true, Ingress: []cluster.PolicyRule{
		{Action: cluster.ActionAccept, Ports: []cluster.PolicyPort{{Protocol: packet.ProtoTCP, First: 80, Last: 80}}},
		{Action: cluster.ActionAccept, Peers: []cluster.PolicyPeer{{Blocks: []cluster.IPBlock{{CIDR: netip.MustParsePrefix("10.244.2.0/24")}}}}},
	}}
	deny := &cluster.ClusterNetworkPolicy{Meta: cluster.Meta{Name: "d"}, Tier: cluster.TierAdmin, Subject: cluster.PolicyPeer{Namespaces: &cluster.Selector{}},
		Ingress: []cluster.PolicyRule{{Action: cluster.ActionDeny, Peers: []cluster.PolicyPeer{{Namespaces: &cluster.Selector{}, Pods: equals("app", "foe")}}}}}
	o := &cluster.Objects{Pods: []*cluster.Pod{web}, NetworkPolicies: []*cluster.NetworkPolicy{p}}
	for _, admin := range []bool{false, true} {
		if admin {
			o.ClusterNetworkPolicies = append(o.ClusterNetworkPolicies, deny)
		}
		c := NewCompiler("n1")
		ch := new(cluster.State).Diff(o.State())
		c.Apply(&ch)
		c.SetRanges([]netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")})
		for from, tt := range map[string]struct {
			port           uint16
			allowed, waits bool
		}{
			"10.244.3.9": {80, true, false},
			"10.244.2.9": {81, true, false},
			"10.244.3.8": {81, false, true},
		} {
			if admin { // it may be the foe
				tt.allowed, tt.waits = false, true
			}
			a, to := packet.AddrFrom(netip.MustParseAddr(from)), packet.AddrFrom(web.IPs[0])
			if v := c.Set().Ingress(&a, &to, packet.ProtoTCP, tt.port); v.Allowed != tt.allowed || v.Pending != tt.waits {
				t.Errorf("admin %v, %s, port %d: %+v", admin, from, tt.port, v)
			}
		}
	}
}
