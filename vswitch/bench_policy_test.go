package vswitch

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"vswitch/policy"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// benchPolicies is how many policies select the pod that sends.
const benchPolicies = 100

// guard makes policies that select a pipeline's sender, and allow what it sends.
func (s *source) guard(w *worker) {
	var ps []*cluster.NetworkPolicy
	for i := range benchPolicies {
		p := egressOnly("a", rule("far", packet.ProtoUDP))
		p.Name = fmt.Sprint("out-", i)
		if i < benchPolicies-1 { // the last one only
			p.Egress = []cluster.PolicyRule{{Action: cluster.ActionAccept,
				Peers: []cluster.PolicyPeer{{Blocks: []cluster.IPBlock{{CIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, byte(i)}), 16)}}}},
				Ports: []cluster.PolicyPort{{Protocol: packet.ProtoTCP, First: uint16(80 + i), Last: uint16(80 + i)}}}}
		}
		ps = append(ps, p)
	}
	c := policy.NewCompiler("node1")
	changes := new(cluster.State).Diff(world(ps...))
	c.Apply(&changes)
	t := *w.sw.Tables()
	t.Policy = c.Set()
	w.sw.Publish(&t)
}

// BenchmarkKnownFlowPolicy: as BenchmarkKnownFlow, where policies select the
// sender, and the same without in between: x-without is the median of the ratios.
func BenchmarkKnownFlowPolicy(b *testing.B) {
	const round = 1 << 20
	for _, flows := range []int{1, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
			type lane struct {
				w   *worker
				a   *attached
				src *source
			}
			var lanes [2]lane
			for i := range lanes {
				w, a, src := pipeline(b, flows)
				if i == 1 {
					src.guard(w)
				}
				pump(w, a, src, 4*flows)
				lanes[i] = lane{w, a, src}
			}
			var ratios []float64
			var with time.Duration
			b.ResetTimer()
			for left := b.N; left > 0; left -= round {
				n := min(left, round)
				var took [2]time.Duration
				for i, l := range lanes {
					start := time.Now()
					pump(l.w, l.a, l.src, n)
					took[i] = time.Since(start)
				}
				with += took[1]
				ratios = append(ratios, float64(took[1])/float64(took[0]))
			}
			b.StopTimer()
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "x-without")
			b.ReportMetric(float64(with.Nanoseconds())/float64(b.N), "ns/op")
			for _, l := range lanes {
				if n := l.a.txDrops(); n > 0 {
					b.Errorf("%d packets died", n)
				}
			}
		})
	}
}

// BenchmarkFirstPacketPolicy: as BenchmarkFirstPacket, where a hundred policies
// select the sender.
func BenchmarkFirstPacketPolicy(b *testing.B) {
	w, a, src := pipeline(b, 1<<24)
	src.guard(w)
	b.ReportAllocs()
	b.ResetTimer()
	pump(w, a, src, b.N)
	b.StopTimer()
	if n := a.txDrops(); n > 0 {
		b.Errorf("%d packets died", n)
	}
}
