package agent

import (
	"fmt"
	"log/slog"
	"testing"

	"vswitch/overlay/gossip"
	"vswitch/vswitch/cluster"
)

// newListener is a node that knows pods by gossip and by its feed, and does
// nothing else.
func newListener() *Node {
	cfg := Default()
	cfg.Name, cfg.Control = "node1", "feed"
	n := &Node{cfg: cfg, store: cluster.NewStore(), link: &pickyLink{}, hearsay: newHearsay(), pods: map[string]*attachedPod{}}
	n.setPools("10.244.1.0/24")
	return n
}

func (n *Node) setPools(cidrs ...string) {
	for _, c := range prefixes(cidrs...) {
		n.pools = append(n.pools, newPool(c))
	}
}

func saidPod(name, uid, ip, app string) gossip.Pod {
	return gossip.Pod{Namespace: "x", Name: name, UID: uid, IPs: addrs(ip), Labels: map[string]string{"app": app}}
}

func saidBy(name, cidr string, pods ...gossip.Pod) gossip.Node {
	return gossip.Node{Name: name, State: gossip.Alive, Synced: true, PodCIDRs: prefixes(cidr), Pods: pods}
}

// knows checks the address and the label app of a pod; "" is no such pod, or none.
func (n *Node) knows(t *testing.T, when, name, ip, app string) {
	t.Helper()
	p, gotIP, gotApp := n.store.State().Pod(cluster.Key{Namespace: "x", Name: name}), "", ""
	if p != nil {
		gotApp = p.Labels["app"]
		if len(p.IPs) > 0 {
			gotIP = p.IPs[0].String()
		}
	}
	if gotIP != ip || gotApp != app {
		t.Errorf("%s: pod %s has %q and app=%s, want %q and app=%s", when, name, gotIP, gotApp, ip, app)
	}
}

func (n *Node) hearing(nodes ...gossip.Node) { n.hearPods(&gossip.State{Nodes: nodes}) }

func (n *Node) feeding(change func(tx *cluster.Txn)) {
	before := n.store.State()
	n.tell(cluster.Desired, change)
	c := before.Diff(n.store.State())
	n.hearAgain(&c)
	n.vouchFor(&c)
}

// TestHearsay: pods of other nodes have the addresses that their nodes tell, and
// the labels that the feed tells if it does; they stay known while their node is
// away, until another one has its range.
func TestHearsay(t *testing.T) {
	n := newListener()
	a, b := saidPod("a", "u1", "10.244.2.2", "old"), saidPod("b", "u2", "10.244.2.3", "b")
	n.hearing(saidBy("node2", "10.244.2.0/24", a, b))
	n.knows(t, "gossip only", "a", "10.244.2.2", "old")
	n.feeding(func(tx *cluster.Txn) {
		tx.Put(&cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: "a", UID: "u1", Labels: map[string]string{"app": "new"}}, Node: "node2"})
		tx.Put(&cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: "b", UID: "u3", Labels: map[string]string{"app": "other"}}, Node: "node2"})
	})
	n.knows(t, "with the feed", "a", "10.244.2.2", "new")
	n.knows(t, "another pod of the name", "b", "", "other")

	revision := n.store.State().Revision
	n.hearing(saidBy("node2", "10.244.2.0/24", a, b))
	if got := n.store.State().Revision; got != revision {
		t.Errorf("hearing the same again makes revision %d of %d", got, revision)
	}
	away := saidBy("node2", "10.244.2.0/24")
	away.State, away.Synced, away.PodCIDRs = gossip.Failed, false, nil
	n.hearing(away)
	n.knows(t, "its node failed", "a", "10.244.2.2", "new")
	back := saidBy("node2", "10.244.2.0/24")
	back.Synced = false
	n.hearing(back)
	n.knows(t, "its node is back, but has not told yet", "a", "10.244.2.2", "new")
	n.hearing(saidBy("node2", "10.244.2.0/24", saidPod("a", "u1", "10.244.2.9", "old")))
	n.knows(t, "its node told", "a", "10.244.2.9", "new")
	n.hearing(away, saidBy("node3", "10.244.2.0/24", saidPod("c", "u4", "10.244.2.9", "c")))
	n.knows(t, "another node has the range", "a", "", "new")
	n.knows(t, "another node has the range", "c", "10.244.2.9", "c")
	n.hearing()
	n.knows(t, "nobody is left", "c", "", "")
	if len(n.hearsay.pods)+len(n.hearsay.nodes) > 0 {
		t.Errorf("%v and %v are left", n.hearsay.pods, n.hearsay.nodes)
	}
}

// TestHearsayTwice: of two nodes that say they have a pod, the one is believed
// that has the one that is desired, whoever is heard first.
func TestHearsayTwice(t *testing.T) {
	old, now := saidBy("node2", "10.244.2.0/24", saidPod("a", "old", "10.244.2.2", "old")), saidBy("node3", "10.244.3.0/24", saidPod("a", "new", "10.244.3.2", "new"))
	for i, order := range [][]int{{0, 1, 2}, {2, 0, 1}, {0, 2, 1}} {
		n := newListener()
		for _, step := range order {
			switch step {
			case 0:
				n.hearing(old)
			case 1:
				n.hearing(old, now)
			case 2:
				n.feeding(func(tx *cluster.Txn) {
					tx.Put(&cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: "a", UID: "new", Labels: map[string]string{"app": "fed"}}, Node: "node3"})
				})
			}
		}
		n.knows(t, fmt.Sprint("order ", i), "a", "10.244.3.2", "fed")
		n.hearing(old)
		n.knows(t, fmt.Sprint("order ", i, ", only the old one is left"), "a", "", "fed")
	}
}

// TestVouch: a pod of this node has its address when the feed has told about the
// very pod, and the labels that the feed tells; one of the configuration has its
// own, when the feed has told anything.
func TestVouch(t *testing.T) {
	n := newListener()
	n.deaf = true
	own := &attachedPod{PodStatus: PodStatus{Namespace: "x", Name: "a", UID: "u1", Node: "node1", IPs: addrs("10.244.1.2"), Labels: map[string]string{"app": "asked"}}}
	vm := &attachedPod{PodStatus: PodStatus{Namespace: "x", Name: "vm", Node: "node1", IPs: addrs("10.244.1.3"), Labels: map[string]string{"app": "vm"}, Configured: true}}
	n.pods["x/a"], n.pods["x/vm"] = own, vm
	fed := func(uid, app string) func(tx *cluster.Txn) {
		return func(tx *cluster.Txn) {
			tx.Put(&cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: "a", UID: uid, Labels: map[string]string{"app": app}}, Node: "node1"})
		}
	}
	n.vouchAll()
	n.knows(t, "nothing was heard", "a", "", "")
	n.knows(t, "nothing was heard", "vm", "", "")
	n.deaf = false
	n.vouchAll()
	n.knows(t, "nothing of it was heard", "a", "", "")
	n.knows(t, "nothing of it was heard", "vm", "10.244.1.3", "vm")
	n.feeding(fed("u0", "before"))
	n.knows(t, "another pod of its name", "a", "", "before")
	n.feeding(fed("u1", "fed"))
	n.knows(t, "told", "a", "10.244.1.2", "fed")
	if own.Labels["app"] != "fed" || !n.relabelled {
		t.Errorf("the node's own %v, to be announced: %v; want what the feed says", own.Labels, n.relabelled)
	}
	n.feeding(fed("u1", "now"))
	n.feeding(func(tx *cluster.Txn) { tx.Delete(cluster.KindPod.Ref(cluster.Key{Namespace: "x", Name: "a"})) })
	n.knows(t, "withdrawn before it is gone", "a", "10.244.1.2", "now")
	n.feeding(fed("u2", "next"))
	n.knows(t, "its successor is told before it is gone", "a", "", "next")
	n.disown(own)
	n.knows(t, "gone", "a", "", "next")
}

// TestHeardWithPods: the world in which a node that came back has heard of
// services and policies has its own pods in it, whoever took in before what the
// feed told.
func TestHeardWithPods(t *testing.T) {
	n := newListener()
	n.watch, n.deaf, n.health = n.store.Watch(), true, newHealthPorts(slog.New(slog.DiscardHandler))
	n.services, n.policies = NewServices(n.cfg.Services, n.cfg.Name, ""), NewPolicies(n.cfg.Policy, n.cfg.Name)
	n.pods["x/a"] = &attachedPod{PodStatus: PodStatus{Namespace: "x", Name: "a", UID: "1", IPs: addrs("10.244.1.2"), Labels: map[string]string{"app": "web"}}}
	n.tell(cluster.Desired, func(tx *cluster.Txn) {
		tx.Put(&cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: "a", UID: "1", Labels: map[string]string{"app": "web"}}, Node: "node1"})
	})
	n.refresh(false) // as for news of gossip
	n.knows(t, "before the feed's whole is known", "a", "", "web")
	if !n.refresh(true) {
		t.Error("that the feed's whole is known changes nothing")
	}
	n.knows(t, "when it is", "a", "10.244.1.2", "web")
	if c := n.watch.Next(); !c.Empty() {
		t.Errorf("the node is no longer deaf, and has not taken in %+v", c)
	}
}
