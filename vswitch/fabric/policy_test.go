package fabric

import (
	"net/netip"
	"testing"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// TestPolicyFollows: a cluster in memory goes by the policies of its State, each
// node for its own pods, and by changes of them.
func TestPolicyFollows(t *testing.T) {
	addr := netip.MustParseAddr
	pod := func(name, node, app, ip string) *cluster.Pod {
		return &cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: name, Labels: map[string]string{"app": app}}, Node: node, IPs: []netip.Addr{addr(ip)},
			Containers: []cluster.Container{{Name: "c", Ports: []cluster.ContainerPort{{Name: "http", Port: 80, Protocol: packet.ProtoTCP}}}}}
	}
	app := func(name string) cluster.Selector {
		return cluster.Selector{Requirements: []cluster.Requirement{{Key: "app", Operator: cluster.SelectIn, Values: []string{name}}}}
	}
	friends := app("friend")
	np := &cluster.NetworkPolicy{Meta: cluster.Meta{Namespace: "x", Name: "web"}, Pods: app("web"), IsolatesIngress: true, IsolatesEgress: true,
		Ingress: []cluster.PolicyRule{{Action: cluster.ActionAccept, Peers: []cluster.PolicyPeer{{Pods: &friends}},
			Ports: []cluster.PolicyPort{{Name: "http", Protocol: packet.ProtoTCP}}}}}
	o := &cluster.Objects{
		Nodes: []*cluster.Node{
			{Meta: cluster.Meta{Name: "n1"}, Addresses: []netip.Addr{addr("172.29.0.1")}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}},
			{Meta: cluster.Meta{Name: "n2"}, Addresses: []netip.Addr{addr("172.29.0.2")}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24")}},
		},
		Pods: []*cluster.Pod{pod("web", "n1", "web", "10.244.1.2"), pod("friend1", "n1", "friend", "10.244.1.3"), pod("foe1", "n1", "foe", "10.244.1.4"),
			pod("friend2", "n2", "friend", "10.244.2.3"), pod("foe2", "n2", "foe", "10.244.2.4")},
		NetworkPolicies: []*cluster.NetworkPolicy{np},
	}
	state := o.State()
	f, err := FromState(state, Config{Inline: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// trace goes from node to node, as package trace does.
	trace := func(sender agent.Sender, name, src, dst string, port uint16) agent.TraceResult {
		t.Helper()
		node := map[bool]string{true: "n1", false: "n2"}[netip.MustParsePrefix("10.244.1.0/24").Contains(addr(src)) || src == "172.29.0.1"]
		r := agent.TraceRequest{Sender: sender, Name: name, Proto: packet.ProtoTCP, Source: netip.AddrPortFrom(addr(src), 40000), Destination: netip.AddrPortFrom(addr(dst), port)}
		for {
			res, err := f.Trace(t.Context(), node, r)
			if err != nil {
				t.Fatal(err)
			}
			if res.Reason != "" || res.NextNode == "" {
				return res
			}
			r = agent.TraceRequest{Sender: agent.SenderPeer, Name: node, Frame: res.Frame}
			node = res.NextNode
		}
	}
	type probe struct {
		sender   agent.Sender
		name     string
		src, dst string
		port     uint16
		reason   string
	}
	probes := []probe{
		{agent.SenderPod, "x/friend1", "10.244.1.3", "10.244.1.2", 80, ""},
		{agent.SenderPod, "x/friend2", "10.244.2.3", "10.244.1.2", 80, ""},
		{agent.SenderPod, "x/friend1", "10.244.1.3", "10.244.1.2", 81, "policy-ingress"},
		{agent.SenderPod, "x/foe1", "10.244.1.4", "10.244.1.2", 80, "policy-ingress"},
		{agent.SenderPod, "x/foe2", "10.244.2.4", "10.244.1.2", 80, "policy-ingress"},
		{agent.SenderPod, "", "10.244.2.99", "10.244.1.2", 80, "policy-ingress"}, // without labels
		{agent.SenderPod, "x/web", "10.244.1.2", "10.244.2.3", 80, "policy-egress"},
		{agent.SenderNode, "", "172.29.0.1", "10.244.1.2", 80, ""},
		{agent.SenderNode, "", "172.29.0.2", "10.244.1.2", 80, "policy-ingress"},
		{agent.SenderPod, "x/foe1", "10.244.1.4", "10.244.2.3", 80, ""},
	}
	check := func(when string, inForce bool) {
		t.Helper()
		for _, p := range probes {
			want := p.reason
			if !inForce {
				want = ""
			}
			if res := trace(p.sender, p.name, p.src, p.dst, p.port); res.Reason != want {
				t.Errorf("%s: %s%s to %s port %d: %q, want %q", when, p.name, p.src, p.dst, p.port, res.Reason, want)
			}
		}
	}
	check("at first", true)
	open := *state
	open.NetworkPolicies = open.NetworkPolicies.Without(np.Key())
	f.Follow(state.Diff(&open))
	check("without the policy", false)
	f.Follow(open.Diff(state))
	check("with it again", true)
}
