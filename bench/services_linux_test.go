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
		tx.PutService(svc)
		tx.PutEndpointSlice(slice)
		return nil
	}))
	c := w.Next()
	return &c
}

// ourService is ourVXLAN, and the pod on the other node is reached through a
// service.
func ourService(tb testing.TB) topology {
	t := ourServices(tb, false, overlay.Config{Offload: true}, oneService(tb, host{addr: addrFar}))
	t.at = serviceAt
	return t
}

// kernelService is kernelVXLAN with what kube-proxy in mode nftables makes of a
// service with one endpoint: a DNAT rule in the client's node. It skips without
// the nft command.
func kernelService(tb testing.TB) topology {
	nft, err := exec.LookPath("nft")
	if err != nil {
		tb.Skip("no nft: the kernel's side of the comparison needs that command (package nftables)")
	}
	t := kernelVXLAN(tb, false)
	t.at = serviceAt
	cmd := exec.Command(nft, "-f", "-")
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`table ip bench {
	chain prerouting {
		type nat hook prerouting priority dstnat;
		ip daddr %s tcp dport %d dnat to %s:5001
	}
}
`, serviceAt.Addr(), serviceAt.Port(), t.b.addr))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := netns.Do(t.node, cmd.Run); err != nil {
		tb.Fatalf("nft: %v: %s", err, &out)
	}
	return t
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
	_, each := rounds()
	contenders := []topology{kernelService(b), ourService(b)}
	for _, streams := range []int{1, 8} {
		b.Run(fmt.Sprintf("clients=%d", streams), func(b *testing.B) {
			measure(b, "conn/s", contenders, func(t topology) float64 {
				stop := t.b.serve(b, job{Role: "answer"})
				defer stop()
				r := t.run(b, job{Role: "connect", Streams: streams, For: each})
				return float64(r.Packets) / r.Took.Seconds()
			})
		})
	}
}
