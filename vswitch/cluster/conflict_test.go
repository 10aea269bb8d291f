package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

func TestConflicts(t *testing.T) {
	addr := func(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }
	node := func(name, address string, cidrs ...string) *Node {
		n := &Node{Meta: Meta{Name: name}, Addresses: addr(address)}
		for _, c := range cidrs {
			n.PodCIDRs = append(n.PodCIDRs, netip.MustParsePrefix(c))
		}
		return n
	}
	on := func(name, node, ip string) *Pod {
		return &Pod{Meta: Meta{Namespace: "x", Name: name}, Node: node, IPs: addr(ip)}
	}
	ended := on("ended", "n1", "10.1.1.2")
	ended.Phase = PodSucceeded
	host := on("host", "n1", "172.29.0.1")
	host.HostNetwork = true
	got := Conflicts(
		[]*Node{
			node("n1", "172.29.0.1", "10.1.1.0/24", "fd00:1::/64"),
			node("n2", "172.29.0.1", "10.2.0.0/24"),
			node("n3", "172.29.0.3", "10.1.0.0/16", "fd00:2::/64"),
			node("n4", "172.29.0.4", "10.1.2.0/24", "fd00:2::/80"),
			node("n5", "172.29.0.5"),
		},
		[]*Pod{
			on("a", "n1", "10.1.1.2"), on("b", "n1", "10.1.1.2"), on("c", "n2", "10.1.1.3"),
			on("d", "n5", "192.168.1.1"), on("e", "elsewhere", "192.168.1.2"), on("f", "n1", "172.29.0.3"), ended, host,
			on("g", "n2", "fd00:9::1"),
		})
	want := []string{
		"Node n2: status.addresses: 172.29.0.1 is also the address of Node n1",
		"Node n3: spec.podCIDRs[0]: 10.1.0.0/16 overlaps 10.1.1.0/24 of Node n1",
		"Node n4: spec.podCIDRs[0]: 10.1.2.0/24 overlaps 10.1.0.0/16 of Node n3",
		"Node n4: spec.podCIDRs[1]: fd00:2::/80 overlaps fd00:2::/64 of Node n3",
		"Pod x/b: status.podIPs[0].ip: 10.1.1.2 is also the address of Pod x/a",
		"Pod x/c: status.podIPs[0].ip: 10.1.1.3 lies outside the pod range 10.2.0.0/24 of its node n2",
		"Pod x/f: status.podIPs[0].ip: 172.29.0.3 is also the address of Node n3",
	}
	var lines []string
	for _, c := range got {
		lines = append(lines, fmt.Sprintf("%s: %s: %s", c.Ref, c.Field, c.Message))
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got %q\nwant %q", lines, want)
	}
}

func TestServiceConflicts(t *testing.T) {
	addr := func(s ...string) (out []netip.Addr) {
		for _, a := range s {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	service := func(name string, t ServiceType, ips []netip.Addr, ports ...ServicePort) *Service {
		return &Service{Meta: Meta{Namespace: "x", Name: name}, Type: t, ClusterIPs: ips, Ports: ports}
	}
	checked := service("g", ServiceLoadBalancer, nil, ServicePort{Protocol: 17, NodePort: 30005})
	checked.HealthCheckPort = 30005 // another protocol
	again := service("h", ServiceLoadBalancer, nil, ServicePort{Protocol: 6, NodePort: 30004})
	again.HealthCheckPort = 30005
	outside := service("i", ServiceClusterIP, nil)
	outside.ExternalIPs, outside.Ingress = addr("10.96.0.1"), []LBIngress{{IP: addr("10.96.0.2")[0]}}
	got := ServiceConflicts([]*Service{
		service("a", ServiceClusterIP, addr("10.96.0.1", "fd00::1")),
		service("b", ServiceClusterIP, addr("fd00::2", "10.96.0.1")),
		service("c", ServiceNodePort, addr("fd00::1"), ServicePort{Protocol: 6, NodePort: 30001}, ServicePort{Protocol: 6}),
		service("d", ServiceNodePort, nil, ServicePort{Protocol: 17, NodePort: 30001}, ServicePort{Protocol: 6}),
		service("e", ServiceLoadBalancer, nil, ServicePort{Protocol: 17, NodePort: 30002}, ServicePort{Protocol: 6, NodePort: 30001}),
		service("f", ServiceClusterIP, nil, ServicePort{Protocol: 6, NodePort: 30001}), // not in effect
		checked, again, outside,
		service("j", ServiceNodePort, nil, ServicePort{Protocol: 6, NodePort: 30009}, ServicePort{Protocol: 6, NodePort: 30009}),
	})
	want := []string{
		"Service x/b: spec.clusterIPs[1]: 10.96.0.1 is also the cluster IP of Service x/a",
		"Service x/c: spec.clusterIP: fd00::1 is also the cluster IP of Service x/a",
		"Service x/e: spec.ports[1].nodePort: 30001 is also a node port of Service x/c",
		"Service x/h: spec.healthCheckNodePort: 30005 is also a node port of Service x/g",
		"Service x/j: spec.ports[1].nodePort: 30009 is given twice",
	}
	var lines []string
	for _, c := range got {
		lines = append(lines, fmt.Sprintf("%s: %s: %s", c.Ref, c.Field, c.Message))
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got %q\nwant %q", lines, want)
	}
}

func TestParseKind(t *testing.T) {
	for name, want := range map[string]Kind{"po": KindPod, "Pods": KindPod, "deployment.apps": KindDeployment, "ns": KindNamespace, "no": KindNode} {
		if k, ok := ParseKind(name); !ok || k != want {
			t.Errorf("ParseKind(%q) = %q", name, k)
		}
	}
	if _, ok := ParseKind("unicorn"); ok {
		t.Error("a unicorn is a kind")
	}
}
