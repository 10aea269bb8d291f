package control

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// flat is an endpoint with all that its slice says of it, as a line.
func flat(service string, f cluster.IPFamily, ports []cluster.EndpointPort, e *cluster.Endpoint) string {
	var p []string
	for _, port := range ports {
		p = append(p, fmt.Sprintf("%s:%d/%d", port.Name, port.Protocol, port.Port))
	}
	return fmt.Sprintf("%s %s %v %s ready=%v serving=%v terminating=%v node=%s zone=%s host=%s pod=%s uid=%s zones=%v nodes=%v",
		service, f, p, e.Addresses, e.Ready, e.Serving, e.Terminating, e.Node, e.Zone, e.Hostname, e.Pod, e.PodUID, e.ForZones, e.ForNodes)
}

// expected derives the endpoints of all services from nothing but the State,
// one by one.
func expected(s *cluster.State) (lines []string) {
	for v := range s.Services.All() {
		if v.Type == cluster.ServiceExternalName || len(v.Selector) == 0 {
			continue
		}
		found := map[cluster.IPFamily]bool{}
	pods:
		for p := range s.Pods.In(v.Namespace) {
			for k, want := range v.Selector {
				if p.Labels[k] != want {
					continue pods
				}
			}
			if p.Phase == cluster.PodSucceeded || p.Phase == cluster.PodFailed {
				continue
			}
			var ports []cluster.EndpointPort
			for _, sp := range v.Ports {
				number := sp.TargetPort
				if sp.TargetName != "" {
					number = 0
					for _, c := range p.Containers {
						for _, cp := range c.Ports {
							if cp.Name == sp.TargetName && cp.Protocol == sp.Protocol && number == 0 {
								number = cp.Port
							}
						}
					}
					if number == 0 {
						continue
					}
				}
				ports = append(ports, cluster.EndpointPort{Name: sp.Name, Protocol: sp.Protocol, Port: number})
			}
			for _, ip := range p.IPs {
				if !slices.Contains(v.IPFamilies, cluster.FamilyOf(ip)) {
					continue
				}
				e := &cluster.Endpoint{Addresses: []netip.Addr{ip}, Node: p.Node, Pod: p.Key(), PodUID: p.UID, Serving: p.Ready, Terminating: !p.Deleted.IsZero()}
				e.Ready = p.Ready && p.Deleted.IsZero() || v.PublishNotReady
				if n := s.Node(p.Node); n != nil {
					e.Zone = n.Labels["topology.kubernetes.io/zone"]
				}
				if p.Subdomain == v.Name {
					e.Hostname = p.Hostname
				}
				if e.Ready && v.Distribution != "" && e.Zone != "" {
					e.ForZones = []string{e.Zone}
				}
				if e.Ready && v.Distribution == cluster.PreferSameNode {
					e.ForNodes = []string{e.Node}
				}
				found[cluster.FamilyOf(ip)] = true
				lines = append(lines, flat(v.Name, cluster.FamilyOf(ip), ports, e))
			}
		}
		for _, f := range v.IPFamilies {
			if !found[f] {
				lines = append(lines, placeholder(v.Name, f))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

func actual(t *testing.T, s *cluster.State) (lines []string) {
	t.Helper()
	for v := range s.EndpointSlices.All() {
		if len(v.Endpoints) > maxEndpoints || len(v.Endpoints) == 0 && len(v.Ports) > 0 {
			t.Fatalf("%s has %d endpoints", v.Name, len(v.Endpoints))
		}
		svc := s.Service(v.Service())
		if svc == nil || v.Labels["endpointslice.kubernetes.io/managed-by"] != "endpointslice-controller.k8s.io" || !strings.HasPrefix(v.Name, svc.Name+"-") {
			t.Fatalf("%s: labels %v", v.Name, v.Labels)
		}
		if _, headless := v.Labels["service.kubernetes.io/headless"]; headless != svc.Headless {
			t.Fatalf("%s: labels %v", v.Name, v.Labels)
		}
		for k, want := range svc.Labels {
			if v.Labels[k] != want {
				t.Fatalf("%s: labels %v, service's %v", v.Name, v.Labels, svc.Labels)
			}
		}
		if len(v.Endpoints) == 0 {
			lines = append(lines, placeholder(svc.Name, v.Family))
		}
		for i := range v.Endpoints {
			lines = append(lines, flat(svc.Name, v.Family, v.Ports, &v.Endpoints[i]))
		}
	}
	slices.Sort(lines)
	return lines
}

// placeholder is the line of a slice that says that there are no endpoints.
func placeholder(service string, f cluster.IPFamily) string {
	return fmt.Sprint(service, " has no endpoints of ", f)
}

// TestSlicesModel changes pods, nodes and services at random, and compares all
// slices with what a fresh look at everything gives.
func TestSlicesModel(t *testing.T) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 77))
		now := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
		c := newController(t, func(cfg *Config) { cfg.Clock = func() time.Time { return now } })
		apply(t, c, &cluster.Objects{})
		ready(t, c, "node1", "node2", "node3")
		for step := range 600 {
			now = now.Add(time.Second)
			before := c.Store().State()
			what := randomChange(t, c, rng, now)
			after := c.Store().State()
			if d := cmp.Diff(expected(after), actual(t, after)); d != "" {
				t.Fatalf("seed %d step %d, %s (-want +got):\n%s", seed, step, what, d)
			}
			checkStable(t, before, after, fmt.Sprintf("seed %d step %d, %s", seed, step, what))
		}
	}
}

// randomChange does one thing and returns what.
func randomChange(t *testing.T, c *Controller, rng *rand.Rand, now time.Time) string {
	t.Helper()
	name := fmt.Sprint("p", rng.IntN(30))
	key := cluster.Key{Namespace: "x", Name: name}
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	switch rng.IntN(10) {
	case 0:
		v := service("s"+fmt.Sprint(rng.IntN(5)), func(v *cluster.Service) {
			v.Selector = map[string]string{"app": pick("a", "b")}
			if rng.IntN(2) == 0 {
				v.Selector["tier"] = pick("1", "2")
			}
			v.Labels = map[string]string{"l": pick("1", "2")}
			v.IPFamilyPolicy = cluster.PreferDualStack
			v.PublishNotReady = rng.IntN(4) == 0
			v.Distribution = []cluster.Distribution{"", cluster.PreferClose, cluster.PreferSameZone, cluster.PreferSameNode}[rng.IntN(4)]
			v.Ports = []cluster.ServicePort{{Name: "n", Protocol: tcp, Port: 80, TargetName: pick("http", "web")}, {Name: "k", Protocol: udp, Port: 81, TargetPort: 9000}}
		})
		_, err := c.Apply(objects(v), ApplyOptions{})
		return fmt.Sprintf("apply %s: %v", v.Name, err)
	case 1:
		_, err := c.Delete([]cluster.Ref{{Kind: cluster.KindService, Key: cluster.Key{Namespace: "x", Name: "s" + fmt.Sprint(rng.IntN(5))}}})
		return fmt.Sprint("delete service: ", err)
	case 2, 3, 4:
		p := &cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: name, Labels: map[string]string{"app": pick("a", "b", "c"), "tier": pick("1", "2")}},
			Hostname: pick("", "h"), Subdomain: pick("", "s1"),
			Containers: []cluster.Container{{Name: "c", Ports: []cluster.ContainerPort{{Name: pick("http", "web", "x"), Protocol: tcp, Port: uint16(8000 + rng.IntN(2))}}}}}
		_, err := c.Apply(&cluster.Objects{Pods: []*cluster.Pod{p}}, ApplyOptions{Replace: true})
		return fmt.Sprintf("apply %s: %v", name, err)
	case 5:
		_, err := c.Delete([]cluster.Ref{{Kind: cluster.KindPod, Key: key}})
		return fmt.Sprintf("delete %s: %v", name, err)
	case 6:
		for p := range c.Store().State().Pods.All() {
			if !p.Deleted.IsZero() && rng.IntN(2) == 0 {
				see(t, c, func(tx *cluster.Txn) { tx.Delete(cluster.RefOf(p)) })
				if err := c.PodGone(p.Key(), p.UID); err != nil {
					t.Fatal(err)
				}
			}
		}
		return "pods are gone"
	case 7:
		if rng.IntN(4) > 0 {
			return "nothing"
		}
		n := *c.Store().State().Node("node1")
		n.Labels = map[string]string{"topology.kubernetes.io/zone": pick("z1", "z2")}
		apply(t, c, &cluster.Objects{Nodes: []*cluster.Node{{Meta: cluster.Meta{Name: "node1", Labels: n.Labels}}}})
		return "node1 moves"
	}
	p := c.Store().State().Pod(key)
	if p == nil || p.Node == "" {
		return "nothing"
	}
	if rng.IntN(30) == 0 { // with a report that nobody has looked at yet
		see(t, c, func(tx *cluster.Txn) { tx.Put(running(p, now)) })
		_, err := c.Delete([]cluster.Ref{{Kind: cluster.KindNamespace, Key: cluster.Key{Name: "x"}}})
		return fmt.Sprint("delete namespace: ", err)
	}
	seen := running(p, now)
	h := hash(p.UID, rng.IntN(2))
	v6 := netip.MustParseAddr("fd00::1").As16()
	v6[14], v6[13] = byte(h), byte(h>>8)
	seen.IPs = append(seen.IPs, netip.AddrFrom16(v6))
	if rng.IntN(5) == 0 {
		seen.IPs = seen.IPs[:1]
	}
	seen.Ready = rng.IntN(3) > 0
	if rng.IntN(10) == 0 {
		seen.Phase, seen.Ready = cluster.PodFailed, false
	}
	see(t, c, func(tx *cluster.Txn) { tx.Put(seen) })
	if err := c.Reconcile(); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("report %s: %s %v", name, seen.Phase, seen.Ready)
}

// checkStable: an endpoint that can stay in its slice does, and a slice that
// need not change is the same object.
func checkStable(t *testing.T, before, after *cluster.State, what string) {
	t.Helper()
	for v := range before.EndpointSlices.All() {
		now := after.EndpointSlices.Get(v.Key())
		var left, whole []string
		for i := range v.Endpoints {
			whole = append(whole, flat("", v.Family, v.Ports, &v.Endpoints[i]))
		}
		if now != nil {
			for i := range now.Endpoints {
				left = append(left, flat("", now.Family, now.Ports, &now.Endpoints[i]))
			}
			if now != v && slices.Equal(left, whole) && maps.Equal(v.Labels, now.Labels) {
				t.Fatalf("%s: %s was written without a change", what, v.Name)
			}
		}
		for other := range after.EndpointSlices.All() {
			if other.Name == v.Name || other.Service() != v.Service() || other.Family != v.Family || !slices.Equal(other.Ports, v.Ports) {
				continue
			}
			for i := range v.Endpoints {
				if slices.ContainsFunc(other.Endpoints, func(e cluster.Endpoint) bool {
					return e.Pod == v.Endpoints[i].Pod && e.PodUID == v.Endpoints[i].PodUID
				}) {
					t.Fatalf("%s: %s wandered from %s to %s", what, v.Endpoints[i].Pod, v.Name, other.Name)
				}
			}
		}
	}
}

// farm is a Controller with services that have some pods each, all running.
func farm(t testing.TB, services, pods int) *Controller {
	c := newController(t, func(cfg *Config) {
		cfg.Nodes = 50
		cfg.ServiceCIDRs = prefixes("172.16.0.0/14")
		cfg.ClusterCIDRs = prefixes("10.0.0.0/8")
		cfg.NodeMask4 = 16
	})
	o := &cluster.Objects{}
	for i := range services {
		labels := map[string]string{"app": fmt.Sprint("a", i), "team": "one"}
		o.Services = append(o.Services, service(fmt.Sprint("s", i), func(v *cluster.Service) { v.Selector = labels }))
		for j := range pods {
			o.Pods = append(o.Pods, &cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: fmt.Sprint("p", i, "-", j), Labels: labels}, Node: fmt.Sprint("node", 1+j%50)})
		}
	}
	apply(t, c, o)
	at := time.Unix(0, 0)
	see(t, c, func(tx *cluster.Txn) {
		n := uint32(0)
		for p := range c.Store().State().Pods.All() {
			seen := running(p, at)
			n++
			seen.IPs = []netip.Addr{netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})}
			tx.Put(seen)
		}
	})
	if err := c.Reconcile(); err != nil {
		t.Fatal(err)
	}
	return c
}

func flip(t testing.TB, c *Controller, k cluster.Key, i int) {
	p := c.Store().State().Pod(k)
	seen := running(p, time.Unix(int64(i), 0))
	seen.IPs, seen.Ready = p.IPs, i%2 == 0
	see(t, c, func(tx *cluster.Txn) { tx.Put(seen) })
	if err := c.Reconcile(); err != nil {
		t.Fatal(err)
	}
}

// TestFewSlices: many endpoints fill their slices, and one pod's readiness
// changes one slice.
func TestFewSlices(t *testing.T) {
	c := farm(t, 1, 1050)
	before := c.Store().State()
	if n := before.EndpointSlices.Len(); n != 11 {
		t.Fatalf("%d slices for 1050 endpoints", n)
	}
	flip(t, c, cluster.Key{Namespace: "x", Name: "p0-7"}, 1)
	if d := before.Diff(c.Store().State()); len(d.EndpointSlices) != 1 || len(d.Services) != 0 {
		t.Errorf("one pod's readiness changed %d slices, %d services", len(d.EndpointSlices), len(d.Services))
	}
}

// TestEndpointCostsTheChange compares what one pod's readiness allocates among
// few services and among many.
func TestEndpointCostsTheChange(t *testing.T) {
	cost := func(services, pods int) float64 {
		c := farm(t, services, pods)
		i := 0
		return testing.AllocsPerRun(50, func() {
			i++
			flip(t, c, cluster.Key{Namespace: "x", Name: "p0-0"}, i)
		})
	}
	small, large := cost(10, 10), cost(1000, 10)
	t.Logf("%.0f allocations among 10 services, %.0f among 1000", small, large)
	if large > 4*small {
		t.Errorf("one change costs %.0f allocations among 1000 services, %.0f among 10", large, small)
	}
}

// BenchmarkEndpointChange is one pod's readiness among 10,000 services and
// 100,000 endpoints.
func BenchmarkEndpointChange(b *testing.B) {
	c := farm(b, 10000, 10)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		flip(b, c, cluster.Key{Namespace: "x", Name: "p77-3"}, i)
	}
}

// BenchmarkEndpointChangeOneService is the same where all are of one service.
func BenchmarkEndpointChangeOneService(b *testing.B) {
	c := farm(b, 1, 10000)
	i := 0
	for b.Loop() {
		i++
		flip(b, c, cluster.Key{Namespace: "x", Name: "p0-77"}, i)
	}
}

// TestUnknownTargetPort: the service says which pods lack the port.
func TestUnknownTargetPort(t *testing.T) {
	c := newController(t, nil)
	labels := map[string]string{"app": "web"}
	pod := func(name, port string) *cluster.Pod {
		return &cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: name, Labels: labels}, Containers: []cluster.Container{
			{Name: "c", Ports: []cluster.ContainerPort{{Name: port, Protocol: tcp, Port: 8080}}}}}
	}
	web := service("web", func(v *cluster.Service) {
		v.Selector = labels
		v.Ports[0].TargetPort, v.Ports[0].TargetName = 0, "http"
	})
	condition := func() string {
		for _, c := range get(c, "web").Conditions {
			if c.Type == "TargetPorts" && !c.True {
				return c.Reason + ": " + c.Message
			}
		}
		return ""
	}
	o := objects(web)
	for i := range 5 {
		o.Pods = append(o.Pods, pod(fmt.Sprint("p", i), "htp"))
	}
	o.Pods = append(o.Pods, pod("q", "http"))
	apply(t, c, o)
	if got, want := condition(), `UnknownPort: targetPort "http" is no TCP container port of x/p0, x/p1, x/p2 and 2 more`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	var refs []cluster.Ref
	for i := range 4 {
		refs = append(refs, cluster.Ref{Kind: cluster.KindPod, Key: cluster.Key{Namespace: "x", Name: fmt.Sprint("p", i)}})
	}
	gone := func(refs []cluster.Ref) {
		t.Helper()
		if _, err := c.Delete(refs); err != nil {
			t.Fatal(err)
		}
		for _, r := range refs {
			if p := c.Store().State().Pod(r.Key); p != nil {
				if err := c.PodGone(r.Key, p.UID); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	gone(refs)
	if got, want := condition(), `UnknownPort: targetPort "http" is no TCP container port of x/p4`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	// Another protocol's port of that name is another port; two ports of the service
	// to one that a pod lacks are one that it lacks.
	apply(t, c, objects(service("web", func(v *cluster.Service) {
		v.Selector = labels
		v.Ports = []cluster.ServicePort{{Name: "u", Protocol: packet.ProtoUDP, Port: 80, TargetName: "http"},
			{Name: "a", Protocol: tcp, Port: 80, TargetName: "http"}, {Name: "b", Protocol: tcp, Port: 81, TargetName: "http"}}
	})))
	if got, want := condition(), `UnknownPort: targetPort "http" is no TCP container port of x/p4; targetPort "http" is no UDP container port of x/p4, x/q`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	apply(t, c, objects(web))
	gone([]cluster.Ref{{Kind: cluster.KindPod, Key: cluster.Key{Namespace: "x", Name: "p4"}}})
	if got := condition(); got != "" {
		t.Errorf("%q is left", got)
	}
}

// TestWrittenSlicesWin: what somebody writes replaces what is derived, as long
// as it is there.
func TestWrittenSlicesWin(t *testing.T) {
	c := farm(t, 1, 3)
	names := func() (list []string) {
		for v := range c.Store().State().EndpointSlices.All() {
			list = append(list, fmt.Sprint(v.Name, len(v.Endpoints)))
		}
		return list
	}
	had := names()
	if len(had) != 1 {
		t.Fatalf("%v", had)
	}
	name := strings.TrimSuffix(had[0], "3")
	mine := &cluster.EndpointSlice{Meta: cluster.Meta{Namespace: "x", Name: "mine", Labels: map[string]string{cluster.LabelServiceName: "s0", cluster.LabelManagedBy: sliceController}},
		Family: cluster.IPv4, Endpoints: []cluster.Endpoint{{Addresses: addrs("10.1.1.1"), Ready: true}}}
	slice := &cluster.Objects{EndpointSlices: []*cluster.EndpointSlice{mine}}
	ref := []cluster.Ref{{Kind: cluster.KindEndpointSlice, Key: cluster.Key{Namespace: "x", Name: "mine"}}}
	for range 2 { // one that was exported from a cluster is no less written
		apply(t, c, slice)
		if got := names(); !slices.Equal(got, []string{"mine1"}) {
			t.Errorf("%v", got)
		}
	}
	if _, err := c.Delete(ref); err != nil {
		t.Fatal(err)
	}
	if got := names(); !slices.Equal(got, had) {
		t.Errorf("%v, want %v", got, had)
	}
	// A derived one that is deleted comes back.
	if _, err := c.Delete([]cluster.Ref{{Kind: cluster.KindEndpointSlice, Key: cluster.Key{Namespace: "x", Name: name}}}); err != nil {
		t.Fatal(err)
	}
	if got := names(); !slices.Equal(got, had) {
		t.Errorf("%v, want %v", got, had)
	}
	// Somebody takes the name for another service.
	mine.Name, mine.Labels = name, map[string]string{cluster.LabelServiceName: "other"}
	apply(t, c, slice)
	if got := names(); len(got) != 2 || !slices.Contains(got, name+"1") {
		t.Errorf("%v", got)
	}
	if n := len(slices.Collect(endpointsOfService(c.Store().State(), cluster.Key{Namespace: "x", Name: "s0"}))); n != 3 {
		t.Errorf("%d endpoints", n)
	}
}

// TestMirror: Endpoints that somebody writes for a service without selector.
func TestMirror(t *testing.T) {
	c := newController(t, nil)
	ep := &cluster.Endpoints{Meta: cluster.Meta{Namespace: "x", Name: "db", Labels: map[string]string{"k": "v"}}, Subsets: []cluster.EndpointSubset{{
		Ready:    []cluster.Endpoint{{Addresses: addrs("192.0.2.2")}, {Addresses: addrs("192.0.2.1"), Node: "node1"}, {Addresses: addrs("2001:db8::1")}},
		NotReady: []cluster.Endpoint{{Addresses: addrs("192.0.2.3")}},
		Ports:    []cluster.EndpointPort{{Name: "pg", Protocol: tcp, Port: 5432}},
	}}}
	show := func() string {
		var list []string
		for v := range c.Store().State().EndpointSlices.All() {
			line := fmt.Sprint(v.Labels[cluster.LabelManagedBy], " ", v.Labels["k"], " ", v.Service(), " ", v.Family)
			if len(v.Ports) > 0 {
				line += fmt.Sprint(" ", v.Ports[0].Port)
			}
			for _, e := range v.Endpoints {
				line += fmt.Sprint(" ", e.Addresses[0], e.Ready)
			}
			list = append(list, line)
		}
		slices.Sort(list)
		return strings.Join(list, "\n")
	}
	apply(t, c, &cluster.Objects{Endpoints: []*cluster.Endpoints{ep}})
	if got := show(); got != "" {
		t.Errorf("without a service: %s", got)
	}
	apply(t, c, objects(service("db")))
	want := "endpointslicemirroring-controller.k8s.io v x/db IPv4 5432 192.0.2.1 true 192.0.2.2 true 192.0.2.3 false\n" +
		"endpointslicemirroring-controller.k8s.io v x/db IPv6 5432 2001:db8::1 true"
	if got := show(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	before := c.Store().State()
	apply(t, c, &cluster.Objects{Endpoints: []*cluster.Endpoints{ep}})
	if d := before.Diff(c.Store().State()); !d.Empty() {
		t.Errorf("nothing was to change: %+v", d.EndpointSlices)
	}
	if e := EndpointsOf(c.Store().State(), ep.Key()); e == nil || len(e.Subsets[0].Ready) != 3 {
		t.Errorf("they read back as %+v", e)
	}
	skip := *ep
	skip.Labels = map[string]string{labelSkipMirror: "true"}
	apply(t, c, &cluster.Objects{Endpoints: []*cluster.Endpoints{&skip}})
	if got := show(); got != "" {
		t.Errorf("skip-mirror: %s", got)
	}
	apply(t, c, &cluster.Objects{Endpoints: []*cluster.Endpoints{ep}, Services: []*cluster.Service{service("db", func(v *cluster.Service) { v.Selector = map[string]string{"app": "db"} })}})
	if got, want := show(), "endpointslice-controller.k8s.io  x/db IPv4"; got != want { // with nobody in it
		t.Errorf("with a selector: got  %s\nwant %s", got, want)
	}
	conditions := func() string { return fmt.Sprint(c.Store().State().Service(ep.Key()).Conditions) }
	if got := conditions(); !strings.Contains(got, "Endpoints x/db have no effect: the service has a selector, ") {
		t.Errorf("with a selector: conditions %s", got)
	}
	apply(t, c, objects(service("db")))
	if got := show(); got != want || conditions() != "[]" {
		t.Errorf("got  %s, conditions %s\nwant %s", got, conditions(), want)
	}
	if _, err := c.Delete([]cluster.Ref{{Kind: cluster.KindService, Key: ep.Key()}}); err != nil || show() != "" {
		t.Errorf("%v %s", err, show())
	}
}

// TestEndpointsOf: subsets are by ports, in order, of the first family.
func TestEndpointsOf(t *testing.T) {
	v := service("web", func(v *cluster.Service) {
		v.Selector = map[string]string{"app": "web"}
		v.IPFamilies = []cluster.IPFamily{cluster.IPv4, cluster.IPv6}
		v.Labels, v.UID = map[string]string{"l": "1"}, "f2b57152-cdaa-4bcf-843b-d1f64d5c9eae"
	})
	slice := func(name string, f cluster.IPFamily, ports []cluster.EndpointPort, list ...cluster.Endpoint) *cluster.EndpointSlice {
		return &cluster.EndpointSlice{Meta: cluster.Meta{Namespace: "x", Name: name, ResourceVersion: 7, Labels: map[string]string{cluster.LabelServiceName: "web", cluster.LabelManagedBy: sliceController}},
			Family: f, Ports: ports, Endpoints: list}
	}
	e := func(ip string, ready, terminating bool) cluster.Endpoint {
		return cluster.Endpoint{Addresses: addrs(ip), Ready: ready, Serving: true, Terminating: terminating}
	}
	a, b := cluster.EndpointPort{Name: "a", Protocol: tcp, Port: 80}, cluster.EndpointPort{Name: "b", Protocol: tcp, Port: 443}
	o := &cluster.Objects{Services: []*cluster.Service{v}, EndpointSlices: []*cluster.EndpointSlice{
		slice("1", cluster.IPv4, []cluster.EndpointPort{b, a}, e("10.0.0.10", true, false), e("10.0.0.9", true, false), e("10.0.0.1", false, false)),
		slice("2", cluster.IPv4, []cluster.EndpointPort{a}, e("10.0.0.3", true, false), e("10.0.0.4", false, true)),
		slice("3", cluster.IPv6, []cluster.EndpointPort{a}, e("fd00::1", true, false)),
		slice("4", cluster.IPv4, nil, e("10.0.0.5", true, false)),
	}}
	got := EndpointsOf(o.State(), v.Key())
	want := []cluster.EndpointSubset{
		{Ready: []cluster.Endpoint{e("10.0.0.3", true, false)}, Ports: []cluster.EndpointPort{a}},
		{Ready: []cluster.Endpoint{e("10.0.0.9", true, false), e("10.0.0.10", true, false)}, NotReady: []cluster.Endpoint{e("10.0.0.1", false, false)}, Ports: []cluster.EndpointPort{a, b}},
	}
	if d := cmp.Diff(want, got.Subsets, comparers); d != "" {
		t.Errorf("-want +got: %s", d)
	}
	if got.ResourceVersion != 7 || got.Labels["l"] != "1" || got.Labels[labelEndpoints] != endpointsController {
		t.Errorf("%+v", got.Meta)
	}
	if ok, _ := regexp.MatchString("^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$", got.UID); !ok || got.UID == v.UID {
		t.Errorf("the UID is %s, and the service's is %s", got.UID, v.UID)
	}
	if all := AllEndpoints(o.State()); len(all) != 1 || cmp.Diff(all[0], got, comparers) != "" {
		t.Errorf("%v", all)
	}
	if EndpointsOf(o.State(), cluster.Key{Namespace: "x", Name: "other"}) != nil {
		t.Error("a service that is not there has endpoints")
	}
}

// TestSlicesAfterFailedWrite: what was derived and not kept is derived again.
func TestSlicesAfterFailedWrite(t *testing.T) {
	c := newController(t, func(cfg *Config) { cfg.Dir = t.TempDir() })
	labels := map[string]string{"app": "web"}
	apply(t, c, &cluster.Objects{Pods: []*cluster.Pod{{Meta: cluster.Meta{Namespace: "x", Name: "p", Labels: labels}, Node: "node1"}}})
	see(t, c, func(tx *cluster.Txn) {
		tx.Put(running(c.Store().State().Pod(cluster.Key{Namespace: "x", Name: "p"}), time.Unix(0, 0)))
	})
	web := objects(service("web", func(v *cluster.Service) { v.Selector = labels }))
	apply(t, c, web)
	see(t, c, func(tx *cluster.Txn) {
		p := running(c.Store().State().Pod(cluster.Key{Namespace: "x", Name: "p"}), time.Unix(1, 0))
		p.Ready = false
		tx.Put(p)
	})
	good := c.journal.file
	bad, err := c.journal.openReadOnly()
	if err != nil {
		t.Fatal(err)
	}
	c.journal.file = bad
	if _, err := c.Apply(objects(service("other")), ApplyOptions{}); err == nil {
		t.Fatal("the disk was to fail")
	}
	c.journal.file = good
	if err := c.Reconcile(); err != nil {
		t.Fatal(err)
	}
	s := c.Store().State()
	if d := cmp.Diff(expected(s), actual(t, s)); d != "" || s.EndpointSlices.Len() != 1 || len(get(c, "web").ClusterIPs) != 1 {
		t.Errorf("%d slices; -want +got: %s", s.EndpointSlices.Len(), d)
	}
}
