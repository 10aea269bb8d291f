package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// testPod returns a pod with the label app, which is its name, and the port
// http.
func testPod(namespace, name, node string, ips ...string) *cluster.Pod {
	p := &cluster.Pod{Meta: cluster.Meta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}}, Node: node,
		Containers: []cluster.Container{{Ports: []cluster.ContainerPort{{Name: "http", Port: 8080, Protocol: packet.ProtoTCP}}}}}
	for _, ip := range ips {
		p.IPs = append(p.IPs, netip.MustParseAddr(ip))
	}
	return p
}

func testAddr(s string) *packet.Addr {
	a := packet.AddrFrom(netip.MustParseAddr(s))
	return &a
}

func denyAll(namespace, name string) *cluster.NetworkPolicy {
	return &cluster.NetworkPolicy{Meta: cluster.Meta{Namespace: namespace, Name: name}, IsolatesIngress: true, IsolatesEgress: true}
}

// TestZero: what nobody filled in denies; no Set at all is a switch without policy.
func TestZero(t *testing.T) {
	a, b := testAddr("10.0.0.1"), testAddr("10.0.0.2")
	if (Verdict{}).Allowed {
		t.Error("the zero verdict allows")
	}
	if v := (&Set{}).Ingress(a, b, packet.ProtoTCP, 80); v.Allowed || !v.Pending || v.Why() == "" {
		t.Errorf("the zero Set says %+v", v)
	}
	if v := NewCompiler("n1").Set().Egress(a, b, packet.ProtoTCP, 80); v.Allowed || !v.Pending {
		t.Errorf("the Set of a compiler that knows nobody says %+v", v)
	}
	if v := (*Set)(nil).Ingress(a, b, packet.ProtoTCP, 80); !v.Allowed || v.Pending || v.Policy() != "" {
		t.Errorf("no Set says %+v", v)
	}
	Verdict{}.Count()
}

// TestWhy pins the sentences that people read.
func TestWhy(t *testing.T) {
	rule := func(p cluster.PolicyPeer, ports ...cluster.PolicyPort) cluster.PolicyRule {
		return cluster.PolicyRule{Action: cluster.ActionAccept, Peers: []cluster.PolicyPeer{p}, Ports: ports}
	}
	web := denyAll("x", "web")
	web.Pods = *equals("app", "web")
	web.Ingress = []cluster.PolicyRule{
		rule(cluster.PolicyPeer{Pods: equals("app", "db"), Namespaces: equals("team", "a")}, cluster.PolicyPort{Protocol: 6, Name: "http"}),
		rule(cluster.PolicyPeer{Blocks: []cluster.IPBlock{{CIDR: netip.MustParsePrefix("192.0.2.0/24"), Except: []netip.Prefix{netip.MustParsePrefix("192.0.2.8/29")}}}}),
	}
	web.Egress = []cluster.PolicyRule{rule(cluster.PolicyPeer{Namespaces: &cluster.Selector{}}), {Action: cluster.ActionAccept, Ports: []cluster.PolicyPort{{Protocol: 17, First: 53, Last: 53}}}}
	broken := denyAll("y", "broken")
	broken.Invalid = "spec: what is this"
	w := &world{
		namespaces: []*cluster.Namespace{
			{Meta: cluster.Meta{Name: "y", Labels: map[string]string{"team": "a"}}},
			{Meta: cluster.Meta{Name: "old"}, IsolatesIngress: true}},
		nodes: []*cluster.Node{{Meta: cluster.Meta{Name: "n1"}, Addresses: []netip.Addr{netip.MustParseAddr("172.29.0.1")}},
			{Meta: cluster.Meta{Name: "n2"}, Addresses: []netip.Addr{netip.MustParseAddr("172.29.0.2")}}},
		pods: []*cluster.Pod{testPod("x", "web", "n1", "10.0.0.1", "fd00::1"), testPod("y", "db", "n2", "10.0.0.2"), testPod("z", "free", "n1", "10.0.0.3"),
			testPod("old", "pod", "n1", "10.0.0.4"), testPod("y", "two", "n1", "10.0.0.5")},
		policies: []*cluster.NetworkPolicy{web, denyAll("x", "all"), denyAll("x", "more"), broken},
		clusterPolicies: []*cluster.ClusterNetworkPolicy{
			{Meta: cluster.Meta{Name: "no-ssh"}, Tier: cluster.TierAdmin, Subject: cluster.PolicyPeer{Namespaces: &cluster.Selector{}},
				Egress: []cluster.PolicyRule{{Name: "ssh to nodes", Action: cluster.ActionDeny, Peers: []cluster.PolicyPeer{{Nodes: &cluster.Selector{}}}, Ports: []cluster.PolicyPort{{Protocol: 6, First: 22, Last: 22}}}}},
			{Meta: cluster.Meta{Name: "odd"}, Tier: cluster.TierBaseline, Subject: cluster.PolicyPeer{Namespaces: equals("kubernetes.io/metadata.name", "z")}, Invalid: "priority is missing"},
		},
	}
	c := NewCompiler("n1")
	c.Apply(w.all())
	for _, k := range []struct {
		dir         Direction
		from, to    string
		proto       uint8
		port        uint16
		allowed     bool
		policy, why string
	}{
		{Ingress, "10.0.0.2", "10.0.0.1", 6, 8080, true, "NetworkPolicy x/web rule 0",
			"NetworkPolicy x/web rule 0 lets in pods with app=db of namespaces with team=a on TCP 8080"},
		{Ingress, "10.0.0.2", "10.0.0.1", 6, 81, false, "NetworkPolicy x/all, NetworkPolicy x/more, NetworkPolicy x/web",
			"no rule of NetworkPolicy x/all or x/more or x/web lets in 10.0.0.2 (pod y/db) on TCP 81"},
		{Ingress, "192.0.2.1", "10.0.0.1", 1, 0, true, "NetworkPolicy x/web rule 1",
			"NetworkPolicy x/web rule 1 lets in addresses in 192.0.2.0/24 except 192.0.2.8/29"},
		{Ingress, "192.0.2.9", "10.0.0.1", 1, 0, false, "NetworkPolicy x/all, NetworkPolicy x/more, NetworkPolicy x/web",
			"no rule of NetworkPolicy x/all or x/more or x/web lets in 192.0.2.9 by ICMP"},
		{Ingress, "172.29.0.1", "10.0.0.1", 6, 80, true, "", "a pod always hears its own node n1"},
		{Ingress, "172.29.0.2", "10.0.0.1", 6, 80, false, "NetworkPolicy x/all, NetworkPolicy x/more, NetworkPolicy x/web",
			"no rule of NetworkPolicy x/all or x/more or x/web lets in 172.29.0.2 (node n2) on TCP 80"},
		{Ingress, "fd00::1", "10.0.0.1", 6, 80, true, "", "a pod may always talk to itself"},
		{Egress, "10.0.0.1", "10.0.0.3", 6, 80, true, "NetworkPolicy x/web rule 0",
			"NetworkPolicy x/web rule 0 lets out to all pods of all namespaces"},
		{Egress, "10.0.0.1", "8.8.8.8", 17, 53, true, "NetworkPolicy x/web rule 1", "NetworkPolicy x/web rule 1 lets out to everybody on UDP 53"},
		{Egress, "10.0.0.1", "172.29.0.2", 6, 22, false, "ClusterNetworkPolicy no-ssh rule 0",
			"ClusterNetworkPolicy no-ssh rule 0 (ssh to nodes) keeps from all nodes on TCP 22"},
		{Egress, "10.0.0.4", "10.0.0.1", 6, 22, true, "", "no policy speaks about egress of old/pod with 10.0.0.1 (pod x/web)"},
		{Ingress, "10.0.0.3", "10.0.0.4", 6, 80, false, "Namespace old DefaultDeny",
			"Namespace old DefaultDeny isolates old/pod, and no NetworkPolicy lets in 10.0.0.3 (pod z/free) on TCP 80"},
		{Ingress, "10.0.0.4", "10.0.0.3", 6, 80, false, "ClusterNetworkPolicy odd",
			"ClusterNetworkPolicy odd is invalid, and so denies everything: priority is missing"},
		{Egress, "10.0.0.5", "10.0.0.3", 6, 80, false, "NetworkPolicy y/broken",
			"no rule of NetworkPolicy y/broken lets out to 10.0.0.3 (pod z/free) on TCP 80; NetworkPolicy y/broken is invalid, and so allows nothing: spec: what is this"},
	} {
		ask := c.Set().Egress
		if k.dir == Ingress {
			ask = c.Set().Ingress
		}
		v := ask(testAddr(k.from), testAddr(k.to), k.proto, k.port)
		if v.Allowed != k.allowed || v.Policy() != k.policy || v.Why() != k.why {
			t.Errorf("%s %s -> %s:\ngot  %v %q %q\nwant %v %q %q", k.dir, k.from, k.to, v.Allowed, v.Policy(), v.Why(), k.allowed, k.policy, k.why)
		}
	}
}

// TestPending: a remote pod's policies are never compiled, nor a node's.
func TestPending(t *testing.T) {
	w := &world{pods: []*cluster.Pod{testPod("x", "a", "n1", "10.0.0.1"), testPod("x", "b", "n2", "10.0.0.2")},
		nodes: []*cluster.Node{{Meta: cluster.Meta{Name: "n1"}, Addresses: []netip.Addr{netip.MustParseAddr("172.29.0.1")}}}}
	c := NewCompiler("n1")
	c.Apply(w.all())
	for own, pending := range map[string]bool{"10.0.0.1": false, "10.0.0.2": true, "10.0.0.9": true, "172.29.0.1": true} {
		v := c.Set().Egress(testAddr(own), testAddr("192.0.2.1"), packet.ProtoTCP, 80)
		if v.Pending != pending || v.Allowed == pending {
			t.Errorf("%s: %+v", own, v)
		}
	}
}

// TestDrops counts drops over changes of other policies, until the policy or
// the pod goes.
func TestDrops(t *testing.T) {
	pod, deny := testPod("x", "a", "n1", "10.0.0.1"), denyAll("x", "deny")
	w := &world{pods: []*cluster.Pod{pod}, policies: []*cluster.NetworkPolicy{deny}}
	c := NewCompiler("n1")
	c.Apply(w.all())
	drop := func() {
		c.Set().Ingress(testAddr("10.9.9.9"), testAddr("10.0.0.1"), packet.ProtoTCP, 80).Count()
	}
	expect := func(what string, want ...Drop) {
		t.Helper()
		if got := c.Set().Drops(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
	}
	expect("at first")
	drop()
	drop()
	one := Drop{"NetworkPolicy x/deny", pod.Key(), Ingress, 2, 0}
	expect("after two", one)
	later := denyAll("x", "later")
	c.Apply(&cluster.Changes{NetworkPolicies: added([]*cluster.NetworkPolicy{later})})
	old := c.Set()
	relabelled := *pod
	relabelled.Labels = map[string]string{"app": "other"}
	c.Apply(&cluster.Changes{Pods: []cluster.Change[cluster.Pod]{{Old: pod, New: &relabelled}}})
	drop()
	old.Ingress(testAddr("10.9.9.9"), testAddr("10.0.0.1"), packet.ProtoTCP, 80).Count() // by a worker that has the Set before
	other := Drop{"NetworkPolicy x/later", pod.Key(), Ingress, 2, 2}
	one.Packets, one.Shared = 4, 2
	expect("by two policies", one, other)
	earlier := denyAll("x", "an-earlier-name")
	c.Apply(&cluster.Changes{NetworkPolicies: added([]*cluster.NetworkPolicy{earlier})})
	drop()
	one.Packets, one.Shared, other.Packets, other.Shared = 5, 3, 3, 3
	expect("by three policies", Drop{"NetworkPolicy x/an-earlier-name", pod.Key(), Ingress, 1, 1}, one, other)
	c.Apply(&cluster.Changes{NetworkPolicies: []cluster.Change[cluster.NetworkPolicy]{{Old: earlier}}})
	expect("without one of them", one, other)
	c.Apply(&cluster.Changes{NetworkPolicies: []cluster.Change[cluster.NetworkPolicy]{{Old: later}}})
	drop()
	one.Packets++
	expect("without two of them", one)
	// What is not in use any more is not kept for ever.
	for i := range 20 {
		more := denyAll("x", fmt.Sprint("more-", i))
		c.Apply(&cluster.Changes{NetworkPolicies: added([]*cluster.NetworkPolicy{more})})
		drop()
		one.Packets++
		one.Shared++
		c.Apply(&cluster.Changes{NetworkPolicies: []cluster.Change[cluster.NetworkPolicy]{{Old: more}}})
		drop()
		one.Packets++
	}
	expect("after many changes", one)
	if n := len(c.drops.counters) + len(c.drops.past) + len(c.drops.retired); n > 6 {
		t.Errorf("%d entries are left of policies that are gone", n)
	}
	c.Apply(&cluster.Changes{Pods: []cluster.Change[cluster.Pod]{{Old: &relabelled}}})
	expect("without the pod")
	if n := len(c.drops.counters) + len(c.drops.past); n > 0 {
		t.Errorf("%d entries are left of a pod that is gone", n)
	}
}

// TestManyDeniers: of many policies that isolate a pod some are named, and the
// others counted.
func TestManyDeniers(t *testing.T) {
	w := &world{pods: []*cluster.Pod{testPod("x", "a", "n1", "10.0.0.1")}}
	for i := range 12 {
		w.policies = append(w.policies, denyAll("x", fmt.Sprintf("p%02d", i)))
	}
	c := NewCompiler("n1")
	c.Apply(w.all())
	v := c.Set().Ingress(testAddr("10.9.9.9"), testAddr("10.0.0.1"), packet.ProtoTCP, 80)
	v.Count()
	if got, want := v.Policy(), "NetworkPolicy x/p00, NetworkPolicy x/p01, NetworkPolicy x/p02, NetworkPolicy x/p03, NetworkPolicy x/p04, "+
		"NetworkPolicy x/p05, NetworkPolicy x/p06, NetworkPolicy x/p07, 4 others"; got != want {
		t.Errorf("Policy() is %q, want %q", got, want)
	}
	if got, want := v.Why(), "no rule of NetworkPolicy x/p00 or x/p01 or x/p02 or x/p03 or x/p04 or x/p05 or x/p06 or x/p07 or 4 others lets in 10.9.9.9 on TCP 80"; got != want {
		t.Errorf("Why() is %q, want %q", got, want)
	}
	if got := len(c.Set().Drops()); got != 12 {
		t.Errorf("counted for %d policies, want all 12", got)
	}
}

// TestVerdictAllocatesNothing asks about packets that every part of a direction
// has a say in.
func TestVerdictAllocatesNothing(t *testing.T) {
	m := maker{rand.New(rand.NewPCG(7, 7))}
	w := &world{}
	for range 200 {
		m.change(w)
	}
	c := NewCompiler("")
	c.Apply(w.all())
	s := c.Set()
	var questions []question
	for range 500 {
		questions = append(questions, m.question())
	}
	if n := testing.AllocsPerRun(10, func() {
		for _, q := range questions {
			from, to := packet.AddrFrom(q.from), packet.AddrFrom(q.to)
			s.Ingress(&from, &to, q.proto, q.port).Count()
			s.Egress(&from, &to, q.proto, q.port).Count()
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestReadersDuringApply lets readers ask while the world changes: each Set
// must answer as the oracle did for the world it was made of. Run with -race.
func TestReadersDuringApply(t *testing.T) {
	m := maker{rand.New(rand.NewPCG(5, 5))}
	type moment struct {
		set       *Set
		questions []question
		answers   []answer
	}
	var now atomic.Pointer[moment]
	w := &world{}
	c := NewCompiler("")
	step := func() {
		c.Apply(m.change(w))
		n := &moment{set: c.Set()}
		for range 20 {
			q := m.question()
			n.questions, n.answers = append(n.questions, q), append(n.answers, w.oracle(q))
		}
		now.Store(n)
	}
	step()
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				n := now.Load()
				for i, q := range n.questions {
					if a, v := n.set.answer(q); a != n.answers[i] {
						t.Errorf("%+v: got %+v, want %+v", q, a, n.answers[i])
						return
					} else if !v.Allowed {
						v.Count()
					}
				}
				n.set.Drops()
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for range 1500 {
		step()
	}
	close(done)
	readers.Wait()
}
