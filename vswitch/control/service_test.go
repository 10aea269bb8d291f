package control

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

const (
	tcp = packet.ProtoTCP
	udp = packet.ProtoUDP
)

func prefixes(list ...string) []netip.Prefix {
	out := []netip.Prefix{}
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// service makes a Service in namespace x with TCP port 80.
func service(name string, change ...func(*cluster.Service)) *cluster.Service {
	v := &cluster.Service{Meta: cluster.Meta{Namespace: "x", Name: name}, Type: cluster.ServiceClusterIP,
		Ports: []cluster.ServicePort{{Protocol: tcp, Port: 80, TargetPort: 8080}}}
	for _, c := range change {
		c(v)
	}
	return v
}

func objects(list ...*cluster.Service) *cluster.Objects { return &cluster.Objects{Services: list} }

func get(c *Controller, name string) *cluster.Service {
	return c.Store().State().Service(cluster.Key{Namespace: "x", Name: name})
}

// text is what is allocated to a service, in one line.
func text(v *cluster.Service) string {
	if v == nil {
		return "gone"
	}
	s := string(v.Type)
	if v.Headless {
		s += " None"
	}
	s += fmt.Sprint(" ", v.IPFamilyPolicy, v.IPFamilies, len(v.ClusterIPs))
	for _, g := range v.Ingress {
		s += " lb" + string(cluster.FamilyOf(g.IP))
	}
	for _, p := range v.Ports {
		if p.NodePort != 0 {
			s += " np"
		}
	}
	if v.HealthCheckPort != 0 {
		s += " hc"
	}
	for _, c := range v.Conditions {
		s += " " + c.Type + ":" + c.Reason
	}
	return s
}

// TestFamilies: what a service asks for, what it gets, and what each asks for
// then of what it has. Families and policies are those that the API server's
// own tests expect (pkg/registry/core/service/storage/storage_test.go).
func TestFamilies(t *testing.T) {
	policy := func(p cluster.IPFamilyPolicy) func(*cluster.Service) {
		return func(v *cluster.Service) { v.IPFamilyPolicy = p }
	}
	families := func(list ...cluster.IPFamily) func(*cluster.Service) {
		return func(v *cluster.Service) { v.IPFamilies = list }
	}
	ips := func(list ...string) func(*cluster.Service) {
		return func(v *cluster.Service) { v.ClusterIPs = addrs(list...) }
	}
	headless := func(v *cluster.Service) { v.Headless = true }
	selects := func(v *cluster.Service) { v.Selector = map[string]string{"a": "b"} }
	external := func(v *cluster.Service) { v.Type, v.ExternalName = cluster.ServiceExternalName, "example.org" }
	type change = []func(*cluster.Service)
	v4, v6, dual := prefixes("10.96.0.0/16"), prefixes("fd00:96::/112"), prefixes("10.96.0.0/16", "fd00:96::/112")
	six := prefixes("fd00:96::/112", "10.96.0.0/16")
	tests := []struct {
		name   string
		ranges []netip.Prefix
		steps  []change
		want   []string // after each step; an error begins with a field
	}{
		{"default", dual, []change{{}}, []string{"ClusterIP SingleStack[IPv4] 1"}},
		{"default is the first range's", six, []change{{}}, []string{"ClusterIP SingleStack[IPv6] 1"}},
		{"prefer", dual, []change{{policy(cluster.PreferDualStack)}}, []string{"ClusterIP PreferDualStack[IPv4 IPv6] 2"}},
		{"prefer, one range", v6, []change{{policy(cluster.PreferDualStack)}}, []string{"ClusterIP PreferDualStack[IPv6] 1"}},
		{"require", dual, []change{{policy(cluster.RequireDualStack)}}, []string{"ClusterIP RequireDualStack[IPv4 IPv6] 2"}},
		{"require, one range", v4, []change{{policy(cluster.RequireDualStack)}}, []string{"spec.ipFamilyPolicy"}},
		{"order", dual, []change{{policy(cluster.PreferDualStack), families(cluster.IPv6)}}, []string{"ClusterIP PreferDualStack[IPv6 IPv4] 2"}},
		{"unknown family", v4, []change{{families(cluster.IPv6)}}, []string{"spec.ipFamilies[0]"}},
		{"two families need a policy", dual, []change{{families(cluster.IPv4, cluster.IPv6)}}, []string{"spec.ipFamilyPolicy"}},
		{"two addresses need a policy", dual, []change{{ips("10.96.0.9", "fd00:96::9")}}, []string{"spec.ipFamilyPolicy"}},
		{"two of one family", dual, []change{{policy(cluster.RequireDualStack), ips("10.96.0.9", "10.96.0.8")}}, []string{"spec.clusterIPs"}},
		{"a family twice", dual, []change{{policy(cluster.RequireDualStack), families(cluster.IPv4, cluster.IPv4)}}, []string{"spec.ipFamilies"}},
		{"address decides", dual, []change{{ips("fd00:96::9")}}, []string{"ClusterIP SingleStack[IPv6] 1"}},
		{"address and policy", dual, []change{{ips("fd00:96::9"), policy(cluster.PreferDualStack)}}, []string{"ClusterIP PreferDualStack[IPv6 IPv4] 2"}},
		{"address against family", dual, []change{{ips("fd00:96::9"), families(cluster.IPv4)}}, []string{"spec.clusterIPs[0]"}},
		{"headless with selector", dual, []change{{headless, selects}}, []string{"ClusterIP None SingleStack[IPv4] 0"}},
		{"headless without selector", v4, []change{{headless}}, []string{"ClusterIP None RequireDualStack[IPv4 IPv6] 0"}},
		{"headless, single", v6, []change{{headless, policy(cluster.SingleStack)}}, []string{"ClusterIP None SingleStack[IPv6] 0"}},
		{"headless, a family that there is not", v4, []change{{headless, families(cluster.IPv6), policy(cluster.SingleStack)}}, []string{"ClusterIP None SingleStack[IPv6] 0"}},
		{"external", dual, []change{{external}}, []string{"ExternalName [] 0"}},
		{"second added and removed", dual,
			[]change{{}, {policy(cluster.PreferDualStack)}, {}, {policy(cluster.SingleStack)}, {policy(cluster.RequireDualStack)}},
			[]string{"ClusterIP SingleStack[IPv4] 1", "ClusterIP PreferDualStack[IPv4 IPv6] 2", "ClusterIP PreferDualStack[IPv4 IPv6] 2",
				"ClusterIP SingleStack[IPv4] 1", "ClusterIP RequireDualStack[IPv4 IPv6] 2"}},
		{"second asked for", dual, []change{{ips("10.96.0.9")}, {ips("10.96.0.9", "fd00:96::9"), policy(cluster.PreferDualStack)}, {ips("10.96.0.9"), policy(cluster.PreferDualStack)}},
			[]string{"ClusterIP SingleStack[IPv4] 1", "ClusterIP PreferDualStack[IPv4 IPv6] 2", "ClusterIP PreferDualStack[IPv4 IPv6] 2"}},
		{"removed with what names it", dual, []change{{policy(cluster.RequireDualStack), families(cluster.IPv4, cluster.IPv6)}, {policy(cluster.SingleStack), families(cluster.IPv4, cluster.IPv6)}},
			[]string{"ClusterIP RequireDualStack[IPv4 IPv6] 2", "ClusterIP SingleStack[IPv4] 1"}},
		{"first is fixed", dual, []change{{}, {families(cluster.IPv6)}}, []string{"ClusterIP SingleStack[IPv4] 1", "spec.clusterIPs[0]"}},
		{"address is fixed", dual, []change{{ips("10.96.0.9")}, {ips("10.96.0.8")}, {}}, []string{"ClusterIP SingleStack[IPv4] 1", "spec.clusterIP", "ClusterIP SingleStack[IPv4] 1"}},
		{"headless is fixed", dual, []change{{headless, selects}, {selects}, {ips("10.96.0.9")}}, []string{"ClusterIP None SingleStack[IPv4] 0", "ClusterIP None SingleStack[IPv4] 0", "spec.clusterIP"}},
		{"address cannot become headless", dual, []change{{}, {headless}}, []string{"ClusterIP SingleStack[IPv4] 1", "spec.clusterIP"}},
		{"through ExternalName", dual, []change{{}, {external}, {headless, selects}, {external}, {policy(cluster.PreferDualStack), families(cluster.IPv6)}},
			[]string{"ClusterIP SingleStack[IPv4] 1", "ExternalName [] 0", "ClusterIP None SingleStack[IPv4] 0", "ExternalName [] 0", "ClusterIP PreferDualStack[IPv6 IPv4] 2"}},
		{"no range at all", []netip.Prefix{}, []change{{}}, []string{"spec.ipFamilies"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newController(t, func(cfg *Config) { cfg.ServiceCIDRs = tt.ranges })
			for i, step := range tt.steps {
				before := get(c, "a")
				_, err := c.Apply(objects(service("a", step...)), ApplyOptions{})
				got := text(get(c, "a"))
				if err != nil {
					if get(c, "a") != before {
						t.Errorf("step %d: refused, and changed", i)
					}
					got = strings.TrimPrefix(err.Error(), "Service x/a: ")
					got, _, _ = strings.Cut(got, ": ")
				}
				if got != tt.want[i] {
					t.Errorf("step %d: %s (%v), want %s", i, got, err, tt.want[i])
				}
			}
		})
	}
}

// TestTypes: what changes of type release and keep.
func TestTypes(t *testing.T) {
	kind := func(k cluster.ServiceType) func(*cluster.Service) {
		return func(v *cluster.Service) { v.Type = k }
	}
	local := func(v *cluster.Service) { v.ExternalLocal = true }
	bare := func(v *cluster.Service) { v.NoNodePorts = true }
	class := func(v *cluster.Service) { v.LoadBalancerClass = "other/one" }
	lb, np, ip, name := kind(cluster.ServiceLoadBalancer), kind(cluster.ServiceNodePort), kind(cluster.ServiceClusterIP), kind(cluster.ServiceExternalName)
	c := newController(t, nil)
	var kept *cluster.Service
	for i, step := range []struct {
		change []func(*cluster.Service)
		want   string
	}{
		{[]func(*cluster.Service){lb, local}, "LoadBalancer SingleStack[IPv4] 1 lbIPv4 np hc"},
		{[]func(*cluster.Service){lb}, "LoadBalancer SingleStack[IPv4] 1 lbIPv4 np"},
		{[]func(*cluster.Service){np}, "NodePort SingleStack[IPv4] 1 np"},
		{[]func(*cluster.Service){ip}, "ClusterIP SingleStack[IPv4] 1"},
		{[]func(*cluster.Service){lb, bare}, "LoadBalancer SingleStack[IPv4] 1 lbIPv4"},
		{[]func(*cluster.Service){np}, "NodePort SingleStack[IPv4] 1 np"},
		{[]func(*cluster.Service){lb, class}, "LoadBalancer SingleStack[IPv4] 1 np LoadBalancer:OtherClass"},
		{[]func(*cluster.Service){lb}, "spec.loadBalancerClass"},
		{[]func(*cluster.Service){name}, "ExternalName [] 0"},
	} {
		before := get(c, "a")
		_, err := c.Apply(objects(service("a", step.change...)), ApplyOptions{})
		v := get(c, "a")
		got := text(v)
		if err != nil {
			got, _, _ = strings.Cut(strings.TrimPrefix(err.Error(), "Service x/a: "), ": ")
		}
		if got != step.want {
			t.Errorf("step %d: %s (%v), want %s", i, got, err, step.want)
		}
		if before != nil && len(v.ClusterIPs) > 0 && !slices.Equal(v.ClusterIPs, before.ClusterIPs) {
			t.Errorf("step %d: cluster IP %v became %v", i, before.ClusterIPs, v.ClusterIPs)
		}
		if before != nil && hasNodePorts(before) && hasNodePorts(v) && before.Ports[0].NodePort != 0 && v.Ports[0].NodePort != before.Ports[0].NodePort {
			t.Errorf("step %d: node port %d became %d", i, before.Ports[0].NodePort, v.Ports[0].NodePort)
		}
		kept = v
	}
	if n := len(c.index.claims.addresses) + len(c.index.claims.ports) + len(c.index.claims.balancers); n != 0 {
		t.Errorf("%d claims are left of %s", n, text(kept))
	}
}

// TestWishes: what is asked for is given, or refused with field and reason.
func TestWishes(t *testing.T) {
	c := newController(t, func(cfg *Config) { cfg.ServiceCIDRs = prefixes("10.96.0.0/24") })
	np := func(n uint16) func(*cluster.Service) {
		return func(v *cluster.Service) { v.Type, v.Ports[0].NodePort = cluster.ServiceNodePort, n }
	}
	apply(t, c, objects(service("a", func(v *cluster.Service) { v.ClusterIPs = addrs("10.96.0.7") }), service("b", np(30001))))
	for _, tt := range []struct {
		change func(*cluster.Service)
		want   string
	}{
		{func(v *cluster.Service) { v.ClusterIPs = addrs("10.96.0.7") }, "spec.clusterIP: 10.96.0.7 is the address of Service x/a"},
		{func(v *cluster.Service) { v.ClusterIPs = addrs("10.97.0.7") }, "spec.clusterIP: 10.97.0.7 is no address of the services' 10.96.0.0/24 (--service-cidr)"},
		{func(v *cluster.Service) { v.ClusterIPs = addrs("10.96.0.0") }, "spec.clusterIP: 10.96.0.0 is no address of the services' 10.96.0.0/24 (--service-cidr)"},
		{func(v *cluster.Service) { v.ClusterIPs = addrs("10.96.0.255") }, "spec.clusterIP: 10.96.0.255 is no address of the services' 10.96.0.0/24 (--service-cidr)"},
		{np(30001), "spec.ports[0].nodePort: 30001 is the node port of Service x/b"},
		{np(29999), "spec.ports[0].nodePort: 29999 is none of the node ports 30000-32767 (--node-port-range)"},
		{func(v *cluster.Service) { v.Ports[0].NodePort = 30002 }, "spec.ports[0].nodePort: type ClusterIP has no node ports"},
		{func(v *cluster.Service) { v.HealthCheckPort = 30002 }, "spec.healthCheckNodePort: only type LoadBalancer with externalTrafficPolicy Local has one"},
		{func(v *cluster.Service) {
			v.Type, v.Headless = cluster.ServiceLoadBalancer, true
		}, "spec.clusterIP: None does not go with type LoadBalancer"},
	} {
		_, err := c.Apply(objects(service("c", tt.change, func(v *cluster.Service) { v.Source = "f.yaml:3" })), ApplyOptions{})
		if err == nil || !errors.Is(err, ErrConflict) || err.Error() != "f.yaml:3: Service x/c: "+tt.want {
			t.Errorf("%v\nwant %s", err, tt.want)
		}
	}
	// One number for two protocols of one port, asked for or not.
	dns := func(n uint16) func(*cluster.Service) {
		return func(v *cluster.Service) {
			v.Type = cluster.ServiceNodePort
			v.Ports = []cluster.ServicePort{{Name: "udp", Protocol: udp, Port: 53}, {Name: "tcp", Protocol: tcp, Port: 53, NodePort: n}, {Name: "m", Protocol: tcp, Port: 9153}}
		}
	}
	for _, n := range []uint16{0, 30053} {
		name := fmt.Sprint("dns", n)
		apply(t, c, objects(service(name, dns(n))))
		p := get(c, name).Ports
		if p[0].NodePort != p[1].NodePort || p[0].NodePort == p[2].NodePort || n != 0 && p[1].NodePort != n {
			t.Errorf("%+v", p)
		}
	}
	// In one call, too, the later one is refused, and neither is there.
	both := objects(service("d", np(30100)), service("e", np(30100)))
	if _, err := c.Apply(both, ApplyOptions{}); err == nil || err.Error() != "Service x/e: spec.ports[0].nodePort: 30100 is the node port of Service x/d" || get(c, "d") != nil {
		t.Errorf("%v", err)
	}
	// Who asks comes before who does not, whatever the order.
	free := newController(t, nil)
	apply(t, free, objects(service("a")))
	got := get(free, "a").ClusterIPs
	other := newController(t, nil)
	apply(t, other, objects(service("a"), service("b", func(v *cluster.Service) { v.ClusterIPs = got })))
	if a, b := get(other, "a").ClusterIPs, get(other, "b").ClusterIPs; !slices.Equal(b, got) || slices.Equal(a, b) {
		t.Errorf("a has %v, b %v", a, b)
	}
}

func TestLoadBalancerIP(t *testing.T) {
	c := newController(t, nil)
	lb := func(ip string) func(*cluster.Service) {
		return func(v *cluster.Service) {
			v.Type, v.IPFamilyPolicy = cluster.ServiceLoadBalancer, cluster.PreferDualStack
			if ip != "" {
				v.LoadBalancerIP = netip.MustParseAddr(ip)
			}
		}
	}
	check := func(name, want string) {
		t.Helper()
		v := get(c, name)
		var got []string
		for _, g := range v.Ingress {
			if cluster.FamilyOf(g.IP) == cluster.IPv4 {
				got = append(got, g.IP.String())
			}
		}
		for _, c := range v.Conditions {
			got = append(got, c.Type, c.Reason, c.Message)
		}
		if g := strings.Join(got, " "); g != want {
			t.Errorf("%s: %q, want %q", name, g, want)
		}
		if len(v.Ingress) == 0 || cluster.FamilyOf(v.Ingress[len(v.Ingress)-1].IP) != cluster.IPv6 {
			t.Errorf("%s has no IPv6 address: %v", name, v.Ingress)
		}
	}
	apply(t, c, objects(service("a", lb("172.30.0.9")), service("b", lb("172.30.0.9")), service("c", lb("192.0.2.1"))))
	check("a", "172.30.0.9")
	check("b", "LoadBalancer Taken loadBalancerIP 172.30.0.9 is the address of Service x/a")
	check("c", "LoadBalancer OutsidePool loadBalancerIP 192.0.2.1 is no address of the load balancers' 172.30.0.0/24,fd00:10:30::/112 (--load-balancer-cidr)")
	apply(t, c, objects(service("a", lb("172.30.0.10"))))
	check("a", "172.30.0.10")
	check("b", "172.30.0.9") // it waited for it
	apply(t, c, objects(service("a", lb("172.30.0.9"))))
	check("a", "172.30.0.10 LoadBalancer Taken loadBalancerIP 172.30.0.9 is the address of Service x/b")
}

// small is a cluster whose pools are soon exhausted.
func small(cfg *Config) {
	cfg.ServiceCIDRs = prefixes("10.96.0.0/28", "fd00:96::/124")
	cfg.LoadBalancerCIDRs = prefixes("172.30.0.0/29")
	cfg.NodePorts = cluster.PortRange{First: 30000, Last: 30019}
}

// TestAllocatorsModel does random things to services, and after each compares
// all that is given out with what a careful reader would expect.
func TestAllocatorsModel(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 9))
		dir := t.TempDir()
		c := newController(t, func(cfg *Config) { small(cfg); cfg.Dir = dir })
		for step := range 400 {
			before := c.Store().State()
			name := fmt.Sprint("s", rng.IntN(24))
			if rng.IntN(4) == 0 {
				_, _ = c.Delete([]cluster.Ref{{Kind: cluster.KindService, Key: cluster.Key{Namespace: "x", Name: name}}})
			} else {
				_, _ = c.Apply(objects(service(name, randomService(rng))), ApplyOptions{})
			}
			checkAllocation(t, c, fmt.Sprintf("seed %d step %d", seed, step))
			for v := range before.Services.All() {
				if now := c.Store().State().Service(v.Key()); now != nil {
					checkKept(t, v, now, name)
				}
			}
			if step%40 == 0 {
				checkRestart(t, c, dir)
			}
		}
	}
}

func randomService(rng *rand.Rand) func(*cluster.Service) {
	return func(v *cluster.Service) {
		v.Type = []cluster.ServiceType{cluster.ServiceClusterIP, cluster.ServiceNodePort, cluster.ServiceLoadBalancer, cluster.ServiceExternalName}[rng.IntN(4)]
		v.IPFamilyPolicy = []cluster.IPFamilyPolicy{"", cluster.SingleStack, cluster.PreferDualStack, cluster.RequireDualStack}[rng.IntN(4)]
		v.ExternalLocal = rng.IntN(2) == 0
		v.NoNodePorts = rng.IntN(4) == 0
		v.Headless = rng.IntN(10) == 0 && v.Type == cluster.ServiceClusterIP
		if rng.IntN(3) == 0 {
			v.Ports = append(v.Ports, cluster.ServicePort{Name: "u", Protocol: udp, Port: 80}, cluster.ServicePort{Name: "x", Protocol: tcp, Port: 81})
		}
		if rng.IntN(4) == 0 && !v.Headless {
			v.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(rng.IntN(18))})}
		}
		if rng.IntN(4) == 0 {
			v.Ports[0].NodePort = uint16(29999 + rng.IntN(22))
		}
		if rng.IntN(4) == 0 {
			v.LoadBalancerIP = netip.AddrFrom4([4]byte{172, 30, 0, byte(rng.IntN(9))})
		}
	}
}

// checkAllocation: nothing has two owners, nothing is given out that is not to
// be, and who lacks something lacks it because there is none.
func checkAllocation(t *testing.T, c *Controller, when string) {
	t.Helper()
	owners := map[string]string{}
	own := func(what any, v *cluster.Service) {
		k := fmt.Sprint(what)
		if o, twice := owners[k]; twice {
			t.Fatalf("%s: %s is of %s and of %s", when, k, o, v.Name)
		}
		owners[k] = v.Name
	}
	count := map[string]int{}
	for v := range c.Store().State().Services.All() {
		for i, a := range v.ClusterIPs {
			own(a, v)
			count[string(v.IPFamilies[i])]++
			if last := a.AsSlice()[len(a.AsSlice())-1]; last < 1 || a.Is4() && last > 14 || a.Is6() && last > 15 || cluster.FamilyOf(a) != v.IPFamilies[i] {
				t.Fatalf("%s: %s has %v of %v", when, v.Name, v.ClusterIPs, v.IPFamilies)
			}
		}
		for _, g := range v.Ingress {
			own(g.IP, v)
			count["lb"]++
			if last := g.IP.As4()[3]; v.Type != cluster.ServiceLoadBalancer || last < 1 || last > 6 {
				t.Fatalf("%s: %s is load balanced by %s", when, v.Name, g.IP)
			}
		}
		mine := map[uint16]bool{v.HealthCheckPort: v.HealthCheckPort != 0}
		pairs := map[string]bool{}
		for _, p := range v.Ports {
			if p.NodePort == 0 {
				continue
			}
			mine[p.NodePort] = true
			if k := fmt.Sprint(p.Protocol, "/", p.NodePort); pairs[k] {
				t.Fatalf("%s: %s has %s twice", when, v.Name, k)
			} else {
				pairs[k] = true
			}
		}
		for n, is := range mine {
			if is {
				own(n, v)
				count["port"]++
				if n < 30000 || n > 30019 {
					t.Fatalf("%s: %s has node port %d", when, v.Name, n)
				}
			}
		}
	}
	full := map[string]int{"IPv4": 14, "IPv6": 15, "lb": 6, "port": 20}
	for v := range c.Store().State().Services.All() {
		var lacks []string
		if hasClusterIP(v) && !v.Headless {
			for _, f := range v.IPFamilies[len(v.ClusterIPs):][:min(1, len(v.IPFamilies)-len(v.ClusterIPs))] {
				lacks = append(lacks, string(f))
			}
		}
		for _, p := range v.Ports {
			if hasNodePorts(v) && p.NodePort == 0 && !(v.Type == cluster.ServiceLoadBalancer && v.NoNodePorts) {
				lacks = append(lacks, "port")
			}
		}
		if hasHealthCheck(v) && v.HealthCheckPort == 0 {
			lacks = append(lacks, "port")
		}
		if slices.ContainsFunc(v.Conditions, func(c cluster.Condition) bool { return c.Type == "Allocated" }) != (len(lacks) > 0) {
			t.Fatalf("%s: %s lacks %v, conditions %v", when, v.Name, lacks, v.Conditions)
		}
		if v.Type == cluster.ServiceLoadBalancer && v.IPFamilies[0] == cluster.IPv4 && len(v.Ingress) == 0 && !v.LoadBalancerIP.IsValid() {
			lacks = append(lacks, "lb")
		}
		for _, l := range lacks {
			if count[l] < full[l] {
				t.Fatalf("%s: %s lacks %s, and %d of %d are given out", when, v.Name, l, count[l], full[l])
			}
		}
	}
}

// checkKept: who was not changed keeps everything, and who was keeps its
// addresses as long as it is of a type that has them.
func checkKept(t *testing.T, old, now *cluster.Service, changed string) {
	t.Helper()
	if old.UID != now.UID {
		return
	}
	if hasClusterIP(now) && len(old.ClusterIPs) > 0 && (len(now.ClusterIPs) == 0 || now.ClusterIPs[0] != old.ClusterIPs[0]) {
		t.Fatalf("%s: %v became %v", old.Name, old.ClusterIPs, now.ClusterIPs)
	}
	if old.Name == changed {
		return
	}
	for i := range old.Ports {
		if old.Ports[i].NodePort != 0 && old.Ports[i].NodePort != now.Ports[i].NodePort {
			t.Fatalf("%s: %v became %v", old.Name, old.Ports, now.Ports)
		}
	}
	for i := range old.ClusterIPs {
		if now.ClusterIPs[i] != old.ClusterIPs[i] {
			t.Fatalf("%s: %v became %v", old.Name, old.ClusterIPs, now.ClusterIPs)
		}
	}
	for i := range old.Ingress {
		if now.Ingress[i] != old.Ingress[i] && now.LoadBalancerIP != now.Ingress[i].IP {
			t.Fatalf("%s: %v became %v", old.Name, old.Ingress, now.Ingress)
		}
	}
}

// checkRestart: what a second Controller reads from the directory is the same.
func checkRestart(t *testing.T, c *Controller, dir string) {
	t.Helper()
	copied := t.TempDir()
	data, err := os.ReadFile(filepath.Join(dir, journalName))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(copied, journalName), data, 0o600); err != nil {
		t.Fatal(err)
	}
	again := newController(t, func(cfg *Config) {
		*cfg = c.cfg
		cfg.Dir = copied
	})
	if d := cmp.Diff(desired(c.Store().State()), desired(again.Store().State()), comparers); d != "" {
		t.Fatalf("-before +after: %s", d)
	}
}

// TestRetry: who waits gets what another gives back.
func TestRetry(t *testing.T) {
	c := newController(t, small)
	o := &cluster.Objects{}
	for i := range 16 {
		o.Services = append(o.Services, service(fmt.Sprintf("s%02d", i)))
	}
	apply(t, c, o)
	var waiting []string
	for v := range c.Store().State().Services.All() {
		if len(v.ClusterIPs) == 0 {
			waiting = append(waiting, v.Name)
			if want := "no address is free in 10.96.0.0/28; delete services, or give the cluster a larger range (--service-cidr)"; len(v.Conditions) != 1 || v.Conditions[0].Message != want {
				t.Errorf("%+v", v.Conditions)
			}
		}
	}
	if len(waiting) != 2 {
		t.Fatalf("waiting: %v", waiting)
	}
	if _, err := c.Delete([]cluster.Ref{{Kind: cluster.KindService, Key: cluster.Key{Namespace: "x", Name: "s00"}}}); err != nil {
		t.Fatal(err)
	}
	if v := get(c, waiting[0]); len(v.ClusterIPs) != 1 || len(v.Conditions) != 0 {
		t.Errorf("%s", text(v))
	}
	if v := get(c, waiting[1]); len(v.ClusterIPs) != 0 || len(v.Conditions) != 1 {
		t.Errorf("%s", text(v))
	}
}

// TestSameNamesSameAddresses: neither order nor chance decides.
func TestSameNamesSameAddresses(t *testing.T) {
	list := func(reverse bool) *cluster.Objects {
		o := &cluster.Objects{}
		for i := range 200 {
			o.Services = append(o.Services, service(fmt.Sprint("s", i), func(v *cluster.Service) { v.Type = cluster.ServiceLoadBalancer }))
		}
		if reverse {
			slices.Reverse(o.Services)
		}
		return o
	}
	a, b := newController(t, nil), newController(t, nil)
	apply(t, a, list(false))
	apply(t, b, list(true))
	for v := range a.Store().State().Services.All() {
		w := b.Store().State().Service(v.Key())
		if !slices.Equal(v.ClusterIPs, w.ClusterIPs) || !slices.Equal(v.Ports, w.Ports) || !slices.Equal(v.Ingress, w.Ingress) {
			t.Fatalf("%s: %v %v %v, %v %v %v", v.Name, v.ClusterIPs, v.Ports, v.Ingress, w.ClusterIPs, w.Ports, w.Ingress)
		}
		// The lower part is for those who ask (KEP-3070, KEP-3668).
		if ip := v.ClusterIPs[0].As4(); ip[2] == 0 || v.Ports[0].NodePort < 30086 {
			t.Fatalf("%s: %v %v", v.Name, v.ClusterIPs, v.Ports)
		}
	}
}

// TestPool compares what a pool gives with an enumeration.
func TestPool(t *testing.T) {
	for _, tt := range []struct {
		prefix     string
		size, band uint64
	}{
		{"10.0.0.0/30", 2, 0}, {"10.0.0.0/28", 14, 0}, {"10.0.0.0/27", 30, 16}, {"10.0.0.0/24", 254, 16}, {"10.0.0.0/16", 65534, 256},
		{"fd00::/126", 3, 0}, {"fd00::/112", 65535, 256}, {"fd00::/64", 1<<32 - 1, 256},
	} {
		l := addressPool(netip.MustParsePrefix(tt.prefix), true)
		if l.size != tt.size || l.band != tt.band {
			t.Errorf("%s: %d addresses, %d apart; want %d, %d", tt.prefix, l.size, l.band, tt.size, tt.band)
		}
		if l.size > 1000 {
			continue
		}
		got := map[netip.Addr]bool{}
		for i := range l.size {
			n := l.pick(rand.Uint64(), func(n uint64) bool { return !got[l.addr(n)] })
			if n == 0 || !l.holds(l.addr(n)) || n <= l.band && i < l.size-l.band {
				t.Fatalf("%s: the %d-th is %d", tt.prefix, i, n)
			}
			got[l.addr(n)] = true
		}
		if n := l.pick(7, func(n uint64) bool { return !got[l.addr(n)] }); n != 0 {
			t.Errorf("%s gives more than it has", tt.prefix)
		}
	}
	if l := portPool(cluster.PortRange{First: 30000, Last: 32767}); l.size != 2768 || l.band != 86 {
		t.Errorf("node ports: %d, %d apart", l.size, l.band)
	}
}

// TestStaticServices: what is given wins, but not against itself.
func TestStaticServices(t *testing.T) {
	a, b := service("a", func(v *cluster.Service) { v.ClusterIPs = addrs("192.0.2.1") }), service("b", func(v *cluster.Service) { v.ClusterIPs = addrs("192.0.2.1") })
	if _, err := Static(Default(), objects(a, b)); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "192.0.2.1 is also the cluster IP of Service x/a") {
		t.Errorf("%v", err)
	}
	six := service("six", func(v *cluster.Service) { v.ClusterIPs = addrs("fd00:7::1", "192.0.2.9") })
	shared := func(v *cluster.Service) {
		v.Type, v.IPFamilyPolicy = cluster.ServiceLoadBalancer, cluster.PreferDualStack
		v.Ingress = []cluster.LBIngress{{IP: netip.MustParseAddr("192.0.2.5")}}
	}
	cfg := Default()
	cfg.ServiceCIDRs = prefixes("10.96.0.0/16")
	s, err := Static(cfg, objects(a, six, service("c", shared), service("d", shared)))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"a": "ClusterIP SingleStack[IPv4] 1", "six": "ClusterIP RequireDualStack[IPv6 IPv4] 2",
		"c": "LoadBalancer PreferDualStack[IPv4] 1 lbIPv4 np", "d": "LoadBalancer PreferDualStack[IPv4] 1 lbIPv4 np",
	} {
		if got := text(s.Service(cluster.Key{Namespace: "x", Name: name})); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	again, err := Static(cfg, objects(a, six, service("c", shared), service("d", shared)))
	if err != nil || cmp.Diff(desired(s), desired(again), comparers) != "" {
		t.Errorf("it differs from time to time (%v)", err)
	}
}
