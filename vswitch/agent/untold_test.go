package agent

import (
	"fmt"
	"testing"

	"vswitch/overlay/gossip"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// TestRangesTold: all pods of a range are known if its node is there and has told
// the addresses of all that the feed says it should have.
func TestRangesTold(t *testing.T) {
	n := newListener()
	n.cfg.ClusterCIDRs = prefixes("10.244.0.0/16")
	watch := n.store.Watch()
	defer watch.Close()
	expect := func(when, want string) {
		t.Helper()
		for c := watch.Next(); !c.Empty(); c = watch.Next() {
			n.countUntold(&c)
		}
		told, awaited := n.toldRanges()
		if got := fmt.Sprint(told, awaited); got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	node := func(name string) func(*cluster.Txn) {
		return func(tx *cluster.Txn) { tx.Put(&cluster.Node{Meta: cluster.Meta{Name: name}}) }
	}
	fed := func(name, uid string, ended bool) func(*cluster.Txn) {
		p := &cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: name, UID: uid}, Node: "node2"}
		if ended {
			p.Phase = cluster.PodSucceeded
		}
		return func(tx *cluster.Txn) { tx.Put(p) }
	}
	a, b := saidPod("a", "u1", "10.244.2.2", "a"), saidPod("b", "u2", "10.244.2.3", "b")

	n.feeding(node("node1"))
	n.feeding(node("node2"))
	expect("nobody is there", "[] []")
	n.hearing(saidBy("node2", "10.244.2.0/24", a))
	expect("a node has told", "[10.244.0.0/16 10.244.2.0/24] []")
	n.feeding(fed("b", "u2", false))
	expect("it should have another pod", "[10.244.0.0/16] [10.244.2.0/24]")
	n.hearing(saidBy("node2", "10.244.2.0/24", a, saidPod("b", "before", "10.244.2.4", "b")))
	expect("it has another one of that name", "[10.244.0.0/16] [10.244.2.0/24]")
	n.hearing(saidBy("node2", "10.244.2.0/24", a, b))
	expect("it has it", "[10.244.0.0/16 10.244.2.0/24] []")
	n.feeding(fed("job", "u3", true))
	expect("one that has ended needs no address", "[10.244.0.0/16 10.244.2.0/24] []")
	n.feeding(fed("next", "u4", false))
	expect("one more", "[10.244.0.0/16] [10.244.2.0/24]")
	n.feeding(func(tx *cluster.Txn) { tx.Delete(cluster.KindPod.Ref(cluster.Key{Namespace: "x", Name: "next"})) })
	expect("which is not wanted any more", "[10.244.0.0/16 10.244.2.0/24] []")
	n.feeding(node("node3"))
	expect("a node that nobody has heard of", "[10.244.2.0/24] []")
	n.hearing(saidBy("node2", "10.244.2.0/24", a, b), saidBy("node3", "10.244.3.0/24"))
	expect("it is there", "[10.244.0.0/16 10.244.2.0/24 10.244.3.0/24] []")
	away := saidBy("node2", "10.244.2.0/24")
	away.State, away.Synced = gossip.Failed, false
	n.hearing(away, saidBy("node3", "10.244.3.0/24"))
	expect("a node is away", "[10.244.3.0/24] [10.244.2.0/24]")
}

// TestRangesSettled: what a node knows of ranges reaches its policies, but not
// while nothing new is heard from the feed.
func TestRangesSettled(t *testing.T) {
	n := newListener()
	n.cfg.ClusterCIDRs, n.policies = prefixes("10.244.0.0/16"), NewPolicies(PolicyConfig{}, n.cfg.Name)
	web := &cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: "web"}, Node: "node1", IPs: addrs("10.244.1.2")}
	friends := cluster.Selector{Requirements: []cluster.Requirement{{Key: "app", Operator: cluster.SelectIn, Values: []string{"friend"}}}}
	p := &cluster.NetworkPolicy{Meta: cluster.Meta{Namespace: "x", Name: "p"}, IsolatesEgress: true,
		Egress: []cluster.PolicyRule{{Action: cluster.ActionAccept, Peers: []cluster.PolicyPeer{{Pods: &friends}}}}}
	n.feeding(func(tx *cluster.Txn) {
		tx.Put(&cluster.Node{Meta: cluster.Meta{Name: "node2"}})
		tx.Put(web)
		tx.Put(p)
	})
	n.hearing(saidBy("node2", "10.244.2.0/24", saidPod("a", "u1", "10.244.2.2", "a")))
	changes := new(cluster.State).Diff(n.store.State())
	n.policies.Apply(&changes)
	for _, step := range []struct {
		when    string
		deaf    bool
		feed    string
		changes bool
		denied  string
	}{
		{"nothing was heard", true, "", false, ""},
		{"the feed is there", false, "", true, "NetworkPolicy x/p"},
		{"the same again", false, "", false, "NetworkPolicy x/p"},
		{"the feed is lost", false, "it is lost", true, ""},
	} {
		n.deaf, n.feed = step.deaf, step.feed
		changed := n.settleRanges()
		own, nobody := packet.AddrFrom(web.IPs[0]), packet.AddrFrom(addrs("10.244.2.9")[0])
		v := n.policies.compiler.Set().Egress(&own, &nobody, packet.ProtoTCP, 80)
		if changed != step.changes || v.Allowed || !v.Unknown || v.Pending != (step.denied == "") || v.Policy() != step.denied {
			t.Errorf("%s: changed %t, %+v by %q; want %t and %q", step.when, changed, v, v.Policy(), step.changes, step.denied)
		}
	}
}
