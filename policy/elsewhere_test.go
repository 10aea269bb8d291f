package policy

import (
	"math/rand/v2"
	"net/netip"
	"slices"
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
	ranges := Ranges{Pods: []netip.Prefix{prefix("10.244.0.0/16"), prefix("fd00::/56")}, Here: []netip.Prefix{prefix("10.244.1.0/24")}}
	if !c.SetRanges(ranges) || c.SetRanges(ranges) {
		t.Error("SetRanges does not tell a difference from none")
	}
	if v := c.Set().Ingress(addr("10.244.2.9"), addr("10.244.1.2"), packet.ProtoTCP, 80); !v.Pending {
		t.Errorf("after SetRanges: %+v, want a pending verdict", v)
	} else if why := v.Why(); why != "nobody has said yet which pod has 10.244.2.9, and ClusterNetworkPolicy deny rule 0 may be about that one" {
		t.Errorf("Why() is %q", why)
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

// TestElsewhereTold: what nobody may is denied by name when there is nobody left
// to be told of, as it is when it makes no difference who it is; what nobody is
// denied, and some pod would be, waits all the same.
func TestElsewhereTold(t *testing.T) {
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	accept := func(port uint16, peers ...cluster.PolicyPeer) cluster.PolicyRule {
		return cluster.PolicyRule{Action: cluster.ActionAccept, Peers: peers, Ports: []cluster.PolicyPort{{Protocol: packet.ProtoTCP, First: port, Last: port}}}
	}
	block := cluster.PolicyPeer{Blocks: []cluster.IPBlock{{CIDR: netip.MustParsePrefix("10.244.2.0/24")}}}
	friends := cluster.PolicyPeer{Pods: equals("app", "friend")}
	web := &cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: "web"}, Node: "n1", IPs: []netip.Addr{netip.MustParseAddr("10.244.1.2")}}
	p := &cluster.NetworkPolicy{Meta: cluster.Meta{Namespace: "x", Name: "p"}, IsolatesEgress: true, Egress: []cluster.PolicyRule{
		accept(80), accept(81, block), accept(82, friends), accept(84, block), {Action: cluster.ActionAccept, Peers: []cluster.PolicyPeer{friends},
			Ports: []cluster.PolicyPort{{Protocol: packet.ProtoUDP, First: 82, Last: 82}}}}}
	deny := &cluster.ClusterNetworkPolicy{Meta: cluster.Meta{Name: "d"}, Tier: cluster.TierAdmin, Subject: cluster.PolicyPeer{Namespaces: &cluster.Selector{}}}
	deny.Egress = []cluster.PolicyRule{accept(84, cluster.PolicyPeer{Namespaces: &cluster.Selector{}, Pods: equals("app", "foe")}),
		accept(85, cluster.PolicyPeer{Nodes: &cluster.Selector{}})}
	deny.Egress[0].Action, deny.Egress[1].Action = cluster.ActionDeny, cluster.ActionDeny
	o := &cluster.Objects{Pods: []*cluster.Pod{web}, NetworkPolicies: []*cluster.NetworkPolicy{p}, ClusterNetworkPolicies: []*cluster.ClusterNetworkPolicy{deny}}
	c := NewCompiler("n1")
	ch := new(cluster.State).Diff(o.State())
	c.Apply(&ch)
	c.SetRanges(Ranges{Pods: prefixes("10.244.0.0/16"), Here: prefixes("10.244.1.0/24"), Told: prefixes("10.244.2.0/24", "10.244.4.0/24"), Awaited: prefixes("10.244.4.0/28")})
	own := packet.AddrFrom(web.IPs[0])
	for _, tt := range []struct {
		to      string
		port    uint16
		verdict string // allowed, waits, or who denies
	}{
		{"10.244.2.9", 80, "allowed"},
		{"10.244.3.9", 80, "allowed"},
		{"10.244.2.9", 81, "allowed"},
		{"10.244.3.9", 81, "NetworkPolicy x/p"}, // whoever it is
		{"10.244.3.9", 82, "waits"},             // it may be a friend
		{"10.244.2.9", 82, "NetworkPolicy x/p"}, // it is none: all are told of
		{"10.244.4.9", 82, "waits"},
		{"10.244.4.99", 82, "NetworkPolicy x/p"},
		{"10.244.3.9", 83, "NetworkPolicy x/p"},
		{"10.244.2.9", 84, "waits"},             // it may be a foe that has just started
		{"10.244.3.9", 85, "NetworkPolicy x/p"}, // it is no node
		{"10.244.1.9", 82, "NetworkPolicy x/p"},
	} {
		to := packet.AddrFrom(netip.MustParseAddr(tt.to))
		v := c.Set().Egress(&own, &to, packet.ProtoTCP, tt.port)
		got := v.Policy()
		switch {
		case v.Allowed && !v.Pending:
			got = "allowed"
		case v.Pending && !v.Allowed:
			got = "waits"
		}
		if got != tt.verdict {
			t.Errorf("to %s, port %d: %q (%s), want %q", tt.to, tt.port, got, v.Why(), tt.verdict)
		}
	}
}

// TestElsewhereAgainstOracle puts pods of all kinds where nobody is known to be:
// what is allowed must be allowed to all of them, and what is denied, though not
// all have been told of, to none.
func TestElsewhereAgainstOracle(t *testing.T) {
	allowed, denied, named, waits := 0, 0, 0, 0
	for seed := range uint64(150) {
		m := maker{rand.New(rand.NewPCG(seed, 7))}
		w := &world{node: "n1"}
		for len(w.pods)+len(w.policies)+len(w.clusterPolicies) < 14 {
			m.change(w)
		}
		c := NewCompiler("n1")
		c.Apply(w.all())
		r := Ranges{Pods: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:244::/32")}}
		all := m.oneIn(2)
		if all {
			r.Told = r.Pods
		}
		c.SetRanges(r)
		for range 200 {
			q := m.question()
			other := m.podAddr(q.from.Is4())
			own, who := &q.from, &q.to
			if q.dir == Ingress {
				own, who = who, own
			}
			*who = other
			if pods := slices.DeleteFunc(slices.Clone(w.pods), func(p *cluster.Pod) bool { return p.Node != "n1" || p.HostNetwork }); len(pods) > 0 {
				*own = pods[m.IntN(len(pods))].IPs[0]
			}
			if pod, node := w.whose(other); pod != nil || node != nil || own.Is4() != who.Is4() {
				continue
			}
			nobody := w.oracle(q)
			if nobody.pending {
				continue
			}
			got, v := c.Set().answer(q)
			switch {
			case v.Pending:
				waits++
				if all && !nobody.allowed || got.policy != "" || !v.Unknown {
					t.Fatalf("seed %d, all told %t: %+v waits for who it is (%s); nobody gets %+v", seed, all, q, v.Why(), nobody)
				}
				continue
			case got != nobody:
				t.Fatalf("seed %d: %+v: %+v (%s), nobody gets %+v", seed, q, got, v.Why(), nobody)
			case v.Allowed:
				allowed++
			case v.Unknown:
				named++
				continue
			default:
				denied++
			}
			for range 25 {
				some := *w
				p := m.pod()
				p.Name, p.Node, p.IPs, p.HostNetwork, p.Phase = "newcomer", "n2", []netip.Addr{other}, false, ""
				some.pods = append(slices.Clone(w.pods), p)
				if then := some.oracle(q); then.allowed != got.allowed {
					t.Fatalf("seed %d: %+v: %+v whoever it is (%s), but as %s with %v it is %+v", seed, q, got, v.Why(), p.Key(), p.Labels, then)
				}
			}
		}
	}
	if allowed < 100 || denied < 100 || named < 50 || waits < 100 {
		t.Errorf("%d allowed, %d denied, %d of them by name, %d wait: the worlds are too tame", allowed, denied, named, waits)
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
		c.SetRanges(Ranges{Pods: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, Here: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}})
		for from, tt := range map[string]struct {
			port           uint16
			allowed, waits bool
		}{
			"10.244.3.9": {80, true, false},
			"10.244.2.9": {81, true, false},
			"10.244.3.8": {81, false, false},
		} {
			if admin { // it may be the foe
				tt.waits, tt.allowed = tt.allowed, false
			}
			a, to := packet.AddrFrom(netip.MustParseAddr(from)), packet.AddrFrom(web.IPs[0])
			if v := c.Set().Ingress(&a, &to, packet.ProtoTCP, tt.port); v.Allowed != tt.allowed || v.Pending != tt.waits {
				t.Errorf("admin %v, %s, port %d: %+v", admin, from, tt.port, v)
			}
		}
	}
}
