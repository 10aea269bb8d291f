package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// BenchmarkPolicyInForce: how long it takes from asking the cluster to apply or to
// delete a policy until the pods of all three nodes go by it. What the nodes'
// switches would do is asked all the time.
func BenchmarkPolicyInForce(b *testing.B) {
	text := ""
	for i := range 3 {
		text += fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: web%[1]d, namespace: shop}\nspec: {nodeName: node%[1]d, containers: [{name: c}]}\n", i+1)
	}
	c := clusterOf(b, 3, text)
	policy := manifests(b, "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny, namespace: shop}\nspec: {podSelector: {}}\n")
	var asks []func() bool
	for i := range 3 {
		node := fmt.Sprint("node", i+1)
		a, err := c.Agent(b.Context(), node)
		if err != nil {
			b.Fatal(err)
		}
		defer a.Close()
		to, from := getPod(b, c, fmt.Sprint("web", i+1)), getPod(b, c, fmt.Sprint("web", (i+1)%3+1))
		r := agent.TraceRequest{Sender: agent.SenderPeer, Name: from.Node, Frame: firstFrame(b, c, from, to)}
		asks = append(asks, func() bool {
			res, err := a.Trace(b.Context(), r)
			if err != nil {
				b.Fatal(err)
			}
			return res.Reason == ""
		})
	}
	var took []time.Duration
	b.ResetTimer()
	for i := range b.N {
		begun := time.Now()
		applied := make(chan error, 1)
		go func() {
			var err error
			if i%2 == 0 {
				_, err = c.Apply(b.Context(), policy)
			} else {
				err = c.Delete(b.Context(), []cluster.Ref{{Kind: cluster.KindNetworkPolicy, Key: policy.NetworkPolicies[0].Key()}})
			}
			applied <- err
		}()
		for _, passes := range asks {
			for passes() != (i%2 != 0) {
			}
		}
		took = append(took, time.Since(begun))
		if err := <-applied; err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// firstFrame is the first packet of a connection from a pod to one of another
// node, as it comes there.
func firstFrame(b *testing.B, c *Client, from, to *cluster.Pod) []byte {
	b.Helper()
	a, err := c.Agent(b.Context(), from.Node)
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	res, err := a.Trace(b.Context(), agent.TraceRequest{Sender: agent.SenderPod, Name: from.Key().String(), Proto: packet.ProtoTCP,
		Source: netip.AddrPortFrom(from.IPs[0], 40000), Destination: netip.AddrPortFrom(to.IPs[0], 80)})
	if err != nil || res.NextNode != to.Node {
		b.Fatalf("from %s to %s: %+v, %v", from.Name, to.Name, res, err)
	}
	return res.Frame
}
