package bench

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"vswitch/overlay"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/netns/netnstest"
	"vswitch/vswitch/packet"
)

// policiesInUse is how many policies there are in BenchmarkPolicyConnections, all
// of which select the pod that answers.
const policiesInUse = 1000

// manyPolicies are policies of which the last one by name lets in pod a. Each of
// the others lets in what has a label that nobody has, and a range of addresses.
func manyPolicies(tb testing.TB) *cluster.Changes {
	pod := func(name, node string, ip netip.Addr) *cluster.Pod {
		return &cluster.Pod{Meta: cluster.Meta{Namespace: "bench", Name: name, Labels: map[string]string{"name": name}},
			Node: node, IPs: []netip.Addr{ip}}
	}
	labelled := func(value string) *cluster.Selector {
		return &cluster.Selector{Requirements: []cluster.Requirement{{Key: "name", Operator: cluster.SelectIn, Values: []string{value}}}}
	}
	port := []cluster.PolicyPort{{Protocol: packet.ProtoTCP, First: 5001, Last: 5001}}
	store := cluster.NewStore()
	w := store.Watch()
	defer w.Close()
	must(tb, store.Update(cluster.Desired, func(tx *cluster.Txn) error {
		tx.Put(&cluster.Namespace{Meta: cluster.Meta{Name: "bench"}})
		tx.Put(pod("a", "node1", addrA))
		tx.Put(pod("far", "node2", addrFar))
		for i := range policiesInUse {
			who := "nobody-" + fmt.Sprint(i)
			if i == policiesInUse-1 {
				who = "a"
			}
			tx.Put(&cluster.NetworkPolicy{
				Meta: cluster.Meta{Namespace: "bench", Name: fmt.Sprintf("p%04d", i)}, Pods: *labelled("far"), IsolatesIngress: true,
				Ingress: []cluster.PolicyRule{{Action: cluster.ActionAccept, Ports: port,
					Peers: []cluster.PolicyPeer{{Pods: labelled(who)}, {Blocks: []cluster.IPBlock{{CIDR: blockOf(i)}}}}}},
			})
		}
		return nil
	}))
	c := w.Next()
	return &c
}

// blockOf is the range of addresses that policy i lets in.
func blockOf(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, byte(i >> 8), byte(i)}), 24)
}

// kernelPolicies is kernelVXLAN with rules of the same meaning in the node of the
// pod that answers: a rule for each policy, behind one for connections that are
// known, as agents make them.
func kernelPolicies(tb testing.TB) topology {
	nft := findNFT(tb)
	t := kernelVXLAN(tb, false)
	var b strings.Builder
	b.WriteString("table ip bench {\n\tchain forward {\n\t\ttype filter hook forward priority filter;\n\t\tct state established,related accept\n")
	for i := range policiesInUse {
		from := blockOf(i).String()
		if i == policiesInUse-1 {
			from = fmt.Sprintf("{ %s, %s }", from, t.a.addr)
		}
		fmt.Fprintf(&b, "\t\tip daddr %s tcp dport 5001 ip saddr %s accept\n", t.b.addr, from)
	}
	fmt.Fprintf(&b, "\t\tip daddr %s drop\n\t}\n}\n", t.b.addr)
	rules(tb, nft, t.nodes[1], b.String())
	return t
}

// BenchmarkPolicyConnections: connections to a pod of another node that a
// thousand policies select, made, used for one request and closed, a second.
func BenchmarkPolicyConnections(b *testing.B) {
	netnstest.Need(b)
	connections(b, kernelPolicies(b), ourCluster(b, false, overlay.Config{Offload: true}, manyPolicies(b)))
}
