package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// bigCluster is a cluster of 10,000 pods, all of them with labels of their own,
// 250 on each of 40 nodes, in 100 namespaces, and of as many policies. They are
// spread over the namespaces so that up to 100 of them select a pod, by labels,
// so that few pods have the same ones.
func bigCluster(policies int) *world {
	const spaces, pods, nodes = 100, 10000, 40
	m := maker{rand.New(rand.NewPCG(1, 2))}
	w := &world{node: "node-0"}
	for i := range spaces {
		w.namespaces = append(w.namespaces, &cluster.Namespace{Meta: cluster.Meta{
			Name: fmt.Sprint("ns-", i), Labels: map[string]string{"team": fmt.Sprint("team-", i%10)}}})
	}
	for i := range nodes {
		w.nodes = append(w.nodes, &cluster.Node{Meta: cluster.Meta{Name: fmt.Sprint("node-", i)},
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{172, 29, 0, byte(i + 1)})}})
	}
	for i := range pods {
		n := i % nodes
		w.pods = append(w.pods, &cluster.Pod{
			Meta: cluster.Meta{Namespace: fmt.Sprint("ns-", i/nodes%spaces), Name: fmt.Sprint("pod-", i),
				Labels: map[string]string{"app": fmt.Sprint("app-", i/nodes%7), "half": fmt.Sprint(i / nodes / spaces % 2), "pod": fmt.Sprint(i)}},
			Node: fmt.Sprint("node-", n), IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, byte(n), byte(i/nodes + 2)})},
			Containers: []cluster.Container{{Ports: []cluster.ContainerPort{{Name: "http", Port: 8080, Protocol: packet.ProtoTCP}}}},
		})
	}
	// The first pods of a namespace are those the policies are for.
	inUse := max(1, policies/100)
	for i := range policies {
		w.policies = append(w.policies, bigPolicy(m, fmt.Sprint("ns-", i%inUse), i))
	}
	return w
}

func equals(key, value string) *cluster.Selector {
	return &cluster.Selector{Requirements: []cluster.Requirement{{Key: key, Operator: cluster.SelectIn, Values: []string{value}}}}
}

func bigPolicy(m maker, namespace string, i int) *cluster.NetworkPolicy {
	port := func(first, last int) []cluster.PolicyPort {
		return []cluster.PolicyPort{{Protocol: packet.ProtoTCP, First: uint16(first), Last: uint16(last)}}
	}
	rules := []cluster.PolicyRule{
		{Action: cluster.ActionAccept, Ports: port(80+i%40, 80+i%40), Peers: []cluster.PolicyPeer{
			{Pods: equals("app", fmt.Sprint("app-", m.IntN(7)))},
			{Namespaces: equals("team", fmt.Sprint("team-", m.IntN(10))), Pods: equals("app", fmt.Sprint("app-", m.IntN(7)))}}},
		{Action: cluster.ActionAccept, Ports: port(1000+i%50*10, 2000+i%70*10), Peers: []cluster.PolicyPeer{
			{Blocks: []cluster.IPBlock{{CIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, byte(i % 200), 0, 0}), 16),
				Except: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, byte(i % 200), byte(i % 50), 0}), 24)}}}}}},
	}
	p := &cluster.NetworkPolicy{Meta: cluster.Meta{Namespace: namespace, Name: fmt.Sprint("policy-", i)},
		IsolatesIngress: true, IsolatesEgress: true, Ingress: rules, Egress: rules}
	if i%3 == 0 {
		p.Egress = append([]cluster.PolicyRule{{Action: cluster.ActionAccept,
			Ports: []cluster.PolicyPort{{Protocol: packet.ProtoTCP, Name: "http"}}, Peers: []cluster.PolicyPeer{{Pods: &cluster.Selector{}}}}}, rules...)
	}
	return p
}

var sizes = []int{10, 1000, 10000}

// BenchmarkVerdict asks about the first packets of flows between all pods and
// one that 10 or 100 policies select, at several sizes of the cluster.
func BenchmarkVerdict(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w := bigCluster(n)
			c := NewCompiler(w.node)
			c.Apply(w.all())
			s := c.Set()
			own := packet.AddrFrom(w.pods[0].IPs[0])
			var others []packet.Addr
			for i := range 1024 {
				others = append(others, packet.AddrFrom(w.pods[i*9].IPs[0]))
			}
			allowed := 0
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				if s.Ingress(&others[i&1023], &own, packet.ProtoTCP, uint16(80+i%64)).Allowed {
					allowed++
				}
			}
			b.ReportMetric(float64(allowed)/float64(b.N), "allowed/op")
		})
	}
}

// BenchmarkCompile makes the Set of a node from nothing; the Set's memory is
// that of its directions and addresses, the compiler's of all there is.
func BenchmarkCompile(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w := bigCluster(n)
			all := w.all()
			var c *Compiler
			before := heap()
			b.ResetTimer()
			for b.Loop() {
				c = NewCompiler(w.node)
				c.Apply(all)
			}
			b.StopTimer()
			whole := heap() - before
			set := c.Set()
			c = nil
			b.ReportMetric((heap()-before)/1e6, "set-MB")
			b.ReportMetric(whole/1e6, "total-MB")
			runtime.KeepAlive(set)
			runtime.KeepAlive(all)
		})
	}
}

func heap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// BenchmarkLabelChange gives one pod other labels, and others again: one of
// this node, then one of another node.
func BenchmarkLabelChange(b *testing.B) {
	w := bigCluster(10000)
	for _, k := range []struct {
		name string
		pod  *cluster.Pod
	}{{"local", w.pods[0]}, {"remote", w.pods[1]}} {
		b.Run(k.name, func(b *testing.B) {
			c := NewCompiler(w.node)
			c.Apply(w.all())
			pod := k.pod
			for i := 0; b.Loop(); i++ {
				next := *pod
				next.Labels = map[string]string{"app": fmt.Sprint("app-", i%7), "half": "0", "pod": "changed"}
				c.Apply(&cluster.Changes{Pods: []cluster.Change[cluster.Pod]{{Old: pod, New: &next}}})
				pod = &next
			}
		})
	}
}

// BenchmarkPolicyChange adds a policy that selects all pods of a namespace, and
// removes it.
func BenchmarkPolicyChange(b *testing.B) {
	w := bigCluster(10000)
	c := NewCompiler(w.node)
	c.Apply(w.all())
	p := bigPolicy(maker{rand.New(rand.NewPCG(3, 4))}, "ns-0", 20000)
	for b.Loop() {
		c.Apply(&cluster.Changes{NetworkPolicies: []cluster.Change[cluster.NetworkPolicy]{{New: p}}})
		c.Apply(&cluster.Changes{NetworkPolicies: []cluster.Change[cluster.NetworkPolicy]{{Old: p}}})
	}
}

// BenchmarkReport reports on 10,000 policies with one subject: all pods of a
// namespace, of which there are 10,000, too.
func BenchmarkReport(b *testing.B) {
	w := bigCluster(0)
	w.node = "no-node" // nobody is compiled
	m := maker{rand.New(rand.NewPCG(5, 6))}
	for _, p := range w.pods {
		p.Namespace = "ns-0"
	}
	for i := range 10000 {
		w.policies = append(w.policies, bigPolicy(m, "ns-0", i))
	}
	c := NewCompiler(w.node)
	c.Apply(w.all())
	for b.Loop() {
		c.Report()
	}
}
