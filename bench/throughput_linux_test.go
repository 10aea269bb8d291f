package bench

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"vswitch/overlay"
	"vswitch/vswitch/netns/netnstest"
)

// rounds is how often each contender is measured; -short measures once, briefly.
func rounds() (n int, each time.Duration) {
	if testing.Short() {
		return 1, 100 * time.Millisecond
	}
	return 9, time.Second
}

// measure runs one figure for every contender, in turn, round by round, and
// reports the median of each, and of the ratios of the last contender to the
// others round by round: noise that lasts longer than a round cancels out.
func measure(b *testing.B, unit string, contenders []topology, figure func(t topology) float64) {
	b.Helper()
	for _, t := range contenders {
		t.settle(b)
	}
	n, _ := rounds()
	got := make([][]float64, len(contenders))
	for range n {
		for i, t := range contenders {
			got[i] = append(got[i], figure(t))
		}
	}
	ours := len(contenders) - 1
	for i, t := range contenders {
		b.ReportMetric(median(got[i]), unit+"-"+t.name)
		if i == ours {
			continue
		}
		var ratios []float64
		for k := range got[i] {
			ratios = append(ratios, got[ours][k]/got[i][k])
		}
		b.ReportMetric(median(ratios), "x-"+t.name)
	}
	b.ReportMetric(0, "ns/op") // the time of the whole run says nothing
}

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

// tcp measures the Gb/s of a number of streams.
func tcp(b *testing.B, streams int) func(t topology) float64 {
	_, each := rounds()
	return func(t topology) float64 {
		stop := t.b.serve(b, job{Role: "sink"})
		defer stop()
		r := t.run(b, job{Role: "send", Streams: streams, For: each})
		return float64(r.Bytes) * 8 / float64(r.Took)
	}
}

// BenchmarkSameNodeTCP: two pods of a node, at the MTU that flannel gives pods.
func BenchmarkSameNodeTCP(b *testing.B) {
	netnstest.Need(b)
	contenders := []topology{kernelBridge(b, 1450), tapFloor(b, 1450), ourNode(b, 1450)}
	for _, streams := range []int{1, 4} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			measure(b, "Gb/s", contenders, tcp(b, streams))
		})
	}
}

// BenchmarkSameNodeTCPLargeMTU: TAPs with a large MTU, against the kernel
// at the MTU that flannel gives.
func BenchmarkSameNodeTCPLargeMTU(b *testing.B) {
	netnstest.Need(b)
	contenders := []topology{kernelBridge(b, 1450), tapFloor(b, 65520), ourNode(b, 65520)}
	for _, streams := range []int{1, 4} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			measure(b, "Gb/s", contenders, tcp(b, streams))
		})
	}
}

// BenchmarkVXLANTCP: pods of two nodes; with the socket buffers that a stock
// system allows (net.core.rmem_max 212992); and where the link between the nodes
// takes no superpackets, as no wire does.
func BenchmarkVXLANTCP(b *testing.B) {
	netnstest.Need(b)
	for _, c := range []struct {
		name string
		wire bool
		cfg  overlay.Config
	}{
		{"default", false, overlay.Config{Offload: true}},
		{"stock-rmem", false, overlay.Config{Offload: true, RecvBuffer: 212992, SendBuffer: 212992}},
		{"wire", true, overlay.Config{Offload: true}},
	} {
		contenders := []topology{kernelVXLAN(b, c.wire), ourVXLAN(b, c.wire, c.cfg)}
		for _, streams := range []int{1, 4} {
			b.Run(fmt.Sprintf("%s/streams=%d", c.name, streams), func(b *testing.B) {
				measure(b, "Gb/s", contenders, tcp(b, streams))
			})
		}
	}
}

// BenchmarkUDPReceived: 64-byte datagrams that arrive a second, two pods of a node.
func BenchmarkUDPReceived(b *testing.B) {
	netnstest.Need(b)
	_, each := rounds()
	contenders := []topology{kernelBridge(b, 1450), tapFloor(b, 1450), ourNode(b, 1450)}
	measure(b, "kpps", contenders, func(t topology) float64 {
		stop := t.b.serve(b, job{Role: "udp-sink"})
		t.run(b, job{Role: "udp-send", Size: 64 - 42, For: each})
		r := stop()
		return float64(r.Packets) / r.Took.Seconds() / 1000
	})
}

// BenchmarkLatency: the median time of a 64-byte request and its response over TCP.
func BenchmarkLatency(b *testing.B) {
	netnstest.Need(b)
	_, each := rounds()
	contenders := []topology{kernelBridge(b, 1450), tapFloor(b, 1450), ourNode(b, 1450)}
	measure(b, "µs", contenders, func(t topology) float64 {
		stop := t.b.serve(b, job{Role: "echo"})
		defer stop()
		return float64(t.run(b, job{Role: "ping", For: each}).P50) / 1000
	})
}

// TestTopologies checks that each of them carries traffic.
func TestTopologies(t *testing.T) {
	netnstest.Need(t)
	for name, make := range map[string]func(testing.TB) topology{
		"kernel bridge":   func(t testing.TB) topology { return kernelBridge(t, 1450) },
		"TAP floor":       func(t testing.TB) topology { return tapFloor(t, 1450) },
		"our node":        func(t testing.TB) topology { return ourNode(t, 1450) },
		"kernel VXLAN":    func(t testing.TB) topology { return kernelVXLAN(t, false) },
		"our VXLAN":       func(t testing.TB) topology { return ourVXLAN(t, false, overlay.Config{Offload: true}) },
		"kernel service":  func(t testing.TB) topology { return kernelService(t) },
		"our service":     func(t testing.TB) topology { return ourService(t) },
		"our VXLAN, wire": func(t testing.TB) topology { return ourVXLAN(t, true, overlay.Config{Offload: true}) },
	} {
		t.Run(name, func(t *testing.T) { make(t).settle(t) })
	}
}
