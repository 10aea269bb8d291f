package bench

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"vswitch/overlay"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/netns"
	"vswitch/vswitch/netns/netnstest"
	"vswitch/vswitch/packet"
)

// serviceAt is where the service of these benchmarks is reached.
var serviceAt = netip.MustParseAddrPort("10.96.0.10:80")

// oneService is a service with one endpoint, the traffic server of a host.
func oneService(tb testing.TB, h host) *cluster.Changes {
	m := cluster.Meta{Namespace: "bench", Name: "web"}
	svc := &cluster.Service{Meta: m, Type: cluster.ServiceClusterIP, ClusterIPs: []netip.Addr{serviceAt.Addr()},
		IPFamilies: []cluster.IPFamily{cluster.IPv4}, Ports: []cluster.ServicePort{{Protocol: packet.ProtoTCP, Port: serviceAt.Port(), TargetPort: 5001}}}
	m.Labels = map[string]string{cluster.LabelServiceName: m.Name}
	slice := &cluster.EndpointSlice{Meta: m, Family: cluster.IPv4, Ports: []cluster.EndpointPort{{Protocol: packet.ProtoTCP, Port: 5001}},
		Endpoints: []cluster.Endpoint{{Addresses: []netip.Addr{h.addr}, Ready: true, Serving: true}}}
	store := cluster.NewStore()
	w := store.Watch()
	defer w.Close()
	must(tb, store.Update(cluster.Desired, func(tx *cluster.Txn) error {
		tx.Put(svc)
		tx.Put(slice)
		return nil
	}))
	c := w.Next()
	return &c
}

// ourService is ourVXLAN, and the pod on the other node is reached through a
// service.
func ourService(tb testing.TB) topology {
	t := ourCluster(tb, false, overlay.Config{Offload: true}, oneService(tb, host{addr: addrFar}))
	t.at = serviceAt
	return t
}

// kernelService is kernelVXLAN with what kube-proxy in mode nftables makes of a
// service with one endpoint: a DNAT rule in the client's node. It skips without
// the nft command.
func kernelService(tb testing.TB) topology {
	nft := findNFT(tb)
	t := kernelVXLAN(tb, false)
	t.at = serviceAt
	rules(tb, nft, t.nodes[0], fmt.Sprintf(`table ip bench {
	chain prerouting {
		type nat hook prerouting priority dstnat;
		ip daddr %s tcp dport %d dnat to %s:5001
	}
}
`, serviceAt.Addr(), serviceAt.Port(), t.b.addr))
	return t
}

// findNFT returns the nft command. Without it there is no comparison.
func findNFT(tb testing.TB) string {
	tb.Helper()
	nft, err := exec.LookPath("nft")
	if err != nil {
		tb.Skip("no nft: the kernel's side of the comparison needs that command (package nftables)")
	}
	return nft
}

// rules gives a namespace nftables rules.
func rules(tb testing.TB, nft, ns, text string) {
	tb.Helper()
	cmd := exec.Command(nft, "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := netns.Do(ns, cmd.Run); err != nil {
		tb.Fatalf("nft: %v: %s", err, &out)
	}
}

// BenchmarkServiceTCP: pods of two nodes, through a service, against the same
// two pods without.
func BenchmarkServiceTCP(b *testing.B) {
	netnstest.Need(b)
	service := ourService(b)
	direct := service
	direct.name, direct.at = "direct", netip.AddrPort{}
	service.name = "service"
	for _, streams := range []int{1, 4} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			measure(b, "Gb/s", []topology{direct, service}, tcp(b, streams))
		})
	}
}

// BenchmarkServiceConnections: connections through a service to a pod of another
// node that are made, used for one request and closed, a second.
func BenchmarkServiceConnections(b *testing.B) {
	netnstest.Need(b)
	connections(b, kernelService(b), ourService(b))
}

// connections measures how many connections a second are made, used and closed.
func connections(b *testing.B, contenders ...topology) {
	_, each := rounds()
	for _, clients := range []int{1, 8} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			measure(b, "conn/s", contenders, func(t topology) float64 {
				stop := t.b.serve(b, job{Role: "answer"})
				defer stop()
				r := t.run(b, job{Role: "connect", Streams: clients, For: each})
				return float64(r.Packets) / r.Took.Seconds()
			})
		})
	}
}
