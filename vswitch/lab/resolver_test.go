package lab

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vswitch/vswitch/cluster"
)

// TestResolver: what pods find in /etc/resolv.conf, by dnsPolicy and dnsConfig.
func TestResolver(t *testing.T) {
	machine := parseResolver("# a comment\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver nobody\nsearch old.example\nsearch a.example b.example\noptions edns0 timeout:1\nsortlist 10.0.0.0\nnameserver\n")
	const clusterFirst = "search shop.svc.cluster.local svc.cluster.local cluster.local a.example b.example\n" +
		"nameserver 10.96.0.10\nnameserver fd00:10:96::a\noptions ndots:5\n"
	const theMachines = "search a.example b.example\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\noptions edns0 timeout:1\n"
	own := &cluster.DNSConfig{Servers: addrs("192.0.2.9", "10.96.0.10", "192.0.2.10"), Search: []string{"b.example", "c.example"}, Options: []string{"ndots:1", "edns0"}}
	var many []string
	for i := range 40 {
		many = append(many, strings.Repeat("x", i+1))
	}
	long := []string{strings.Repeat("y", 1000), strings.Repeat("z", 1000), "a.example", strings.Repeat("u", 60), "b.example"}
	for _, k := range []struct {
		name string
		pod  cluster.Pod
		want string // empty: the machine's own file
	}{
		{"nothing said", cluster.Pod{}, clusterFirst},
		{"ClusterFirst", cluster.Pod{DNSPolicy: cluster.DNSClusterFirst}, clusterFirst},
		{"host network", cluster.Pod{HostNetwork: true}, ""},
		{"ClusterFirst, host network", cluster.Pod{HostNetwork: true, DNSPolicy: cluster.DNSClusterFirst}, ""},
		{"ClusterFirstWithHostNet", cluster.Pod{HostNetwork: true, DNSPolicy: cluster.DNSClusterFirstWithHostNet}, clusterFirst},
		{"Default", cluster.Pod{DNSPolicy: cluster.DNSDefault}, theMachines},
		{"host network, with more", cluster.Pod{HostNetwork: true, DNSConfig: &cluster.DNSConfig{Search: []string{"c.example"}}},
			strings.Replace(theMachines, "b.example", "b.example c.example", 1)},
		{"ClusterFirst, with more", cluster.Pod{DNSConfig: own},
			"search shop.svc.cluster.local svc.cluster.local cluster.local a.example b.example c.example\n" +
				"nameserver 10.96.0.10\nnameserver fd00:10:96::a\nnameserver 192.0.2.9\noptions ndots:1 edns0\n"},
		{"None", cluster.Pod{DNSPolicy: cluster.DNSNone, DNSConfig: own},
			"search b.example c.example\nnameserver 192.0.2.9\nnameserver 10.96.0.10\nnameserver 192.0.2.10\noptions ndots:1 edns0\n"},
		{"None, and no more", cluster.Pod{DNSPolicy: cluster.DNSNone, DNSConfig: &cluster.DNSConfig{Servers: addrs("192.0.2.9")}}, "nameserver 192.0.2.9\n"},
		{"too much", cluster.Pod{DNSPolicy: cluster.DNSNone, DNSConfig: &cluster.DNSConfig{Search: many}}, "search " + strings.Join(many[:maxSearch], " ") + "\n"},
		{"too long", cluster.Pod{DNSPolicy: cluster.DNSNone, DNSConfig: &cluster.DNSConfig{Search: long}}, "search " + strings.Join(long[:3], " ") + "\n"},
	} {
		k.pod.Namespace = "shop"
		r, ok := resolverOf(&k.pod, "cluster.local", addrs("10.96.0.10", "fd00:10:96::a"), machine)
		if got := r.String(); got != k.want || ok != (k.want != "") {
			t.Errorf("%s: %v, -want +got:\n%s", k.name, ok, cmp.Diff(k.want, got))
		}
	}
	if !slices.Equal(machine.options, []string{"edns0", "timeout:1"}) || !slices.Equal(machine.search, []string{"a.example", "b.example"}) {
		t.Errorf("the machine's is %+v now", machine)
	}
}
