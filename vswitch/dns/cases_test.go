package dns_test

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	wire "github.com/miekg/dns"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
	"vswitch/vswitch/dns"
	"vswitch/vswitch/kube/kubetest"
)

// dnsCase is a question, and what a cluster's DNS answers.
type dnsCase struct {
	ID, Level string
	Question  struct {
		Name, Type string
		Raw        bool
	}
	Expect struct {
		Rcode     string
		Match     string
		Answers   []struct{ Name, Type, Rdata string }
		SOA       bool     `json:"authority_soa"`
		IgnoreSRV bool     `json:"srv_ignore_priority_weight"`
		Addresses []string // of a lookup
	}
	Resolver *struct{ Search []string }
	Lookup   string
	Scenario string
	// Behaviour is of the server, in words.
	Behaviour string
}

// TestCases compares with what Kubernetes' specification, its conformance tests
// and CoreDNS' own tests expect. What they say in words of a server is in
// TestServer and TestForward, scenarios are in TestScenarios.
func TestCases(t *testing.T) {
	var file struct {
		Meta struct {
			Pods     []netip.Prefix `json:"pod_cidrs"`
			Services []netip.Prefix `json:"service_cidrs"`
		}
		Manifests []json.RawMessage
		Cases     []dnsCase
	}
	kubetest.Cases(t, "dns.json", &file)
	var b strings.Builder
	for _, m := range file.Manifests {
		b.WriteString("---\n" + string(m) + "\n")
	}
	state, _ := static(t, b.String(), func(c *control.Config) { c.ClusterCIDRs, c.ServiceCIDRs = file.Meta.Pods, file.Meta.Services })
	z := zoneOf(t, state, append(slices.Clone(file.Meta.Pods), file.Meta.Services...))
	asked, elsewhere := 0, 0
	for _, c := range file.Cases {
		switch {
		case c.Resolver != nil && !strings.HasPrefix(c.Expect.Addresses[0], "<"):
			asked++
			if got := search(z, c.Lookup, c.Resolver.Search); !slices.Equal(got, c.Expect.Addresses) {
				t.Errorf("%s (%s): %s has %v, want %v", c.ID, c.Level, c.Lookup, got, c.Expect.Addresses)
			}
		case c.Resolver != nil, c.Behaviour != "", c.Scenario != "":
			elsewhere++ // a service kubernetes is an API server's to make
		default:
			asked++
			if why := c.compare(z, file.Manifests); why != "" {
				t.Errorf("%s (%s): %s %s: %s", c.ID, c.Level, c.Question.Name, c.Question.Type, why)
			}
		}
	}
	t.Logf("%d questions; %d cases are of other tests", asked, elsewhere)
	if asked < 30 {
		t.Errorf("only %d questions", asked)
	}
}

// search resolves a name as a pod's resolver does, by its search path.
func search(z *dns.Zone, name string, path []string) (addrs []string) {
	for _, suffix := range path {
		a, _ := z.Answer(dns.Question{Name: name + "." + suffix + ".", Type: wire.TypeA, Size: 1232})
		for _, r := range a.Answer {
			addrs = append(addrs, r.(*wire.A).A.String())
		}
		if len(addrs) > 0 {
			return addrs
		}
	}
	return nil
}

func (c *dnsCase) compare(z *dns.Zone, manifests []json.RawMessage) string {
	a, ours := z.Answer(dns.Question{Name: c.Question.Name, Type: wire.StringToType[c.Question.Type], Size: 65535})
	if !ours {
		return "not ours"
	}
	rcode := wire.RcodeToString[a.Rcode]
	if !slices.ContainsFunc(strings.Split(c.Expect.Rcode, "|"), func(want string) bool {
		return want == rcode || want == "NODATA" && rcode == "NOERROR" && len(a.Answer) == 0
	}) {
		return rcode + ", want " + c.Expect.Rcode
	}
	if c.Expect.SOA && (len(a.Authority) != 1 || a.Authority[0].Header().Rrtype != wire.TypeSOA) {
		return "no SOA"
	}
	var got, want []string
	for _, r := range a.Answer {
		f := strings.Fields(r.String())
		if r.Header().Rrtype == wire.TypeSRV {
			f[4], f[5] = "*", "*"
		}
		got = append(got, strings.Trim(f[0]+" "+f[3]+" "+strings.Join(f[4:], " "), `"`))
	}
	for _, r := range c.Expect.Answers {
		data := strings.ReplaceAll(r.Rdata, "80|8080", "8080")
		want = append(want, r.Name+" "+r.Type+" "+data)
	}
	switch c.Expect.Match {
	case "ordered":
	case "srv-targets":
		return targets(z, a, got, want, readyAddresses(manifests, c.Question.Name))
	default:
		slices.Sort(got)
		slices.Sort(want)
	}
	for i := range got {
		got[i] = strings.ReplaceAll(got[i], `"`, "")
	}
	if !slices.Equal(got, want) {
		return strings.Join(got, "; ") + ", want " + strings.Join(want, "; ")
	}
	return ""
}

// targets compares SRV records where the first labels of some targets are free: <id>,
// which stands for one endpoint or more. Each of these must lead to one address that
// no other target has, and all targets together to those that are ready.
func targets(z *dns.Zone, a dns.Answer, got, want, ready []string) string {
	if len(got) == 0 || len(slices.Compact(slices.Sorted(slices.Values(got)))) != len(got) {
		return "nothing, or one twice: " + strings.Join(got, "; ")
	}
	used := map[string]bool{}
	var addrs []string
	for i, g := range got {
		target := a.Answer[i].(*wire.SRV).Target
		var own []string
		for _, qtype := range []uint16{wire.TypeA, wire.TypeAAAA} {
			b, _ := z.Answer(dns.Question{Name: target, Type: qtype, Size: 65535})
			for _, r := range b.Answer {
				own = append(own, strings.TrimPrefix(r.String(), r.Header().String()))
			}
		}
		addrs = append(addrs, own...)
		if slices.Contains(want, g) {
			used[g] = true
			continue
		}
		_, parent, _ := strings.Cut(target, ".")
		free := strings.TrimSuffix(g, target) + "<id>." + parent
		if used[free] = true; !slices.Contains(want, free) || len(own) != 1 {
			return g + " with " + strings.Join(own, ", ") + " is not among " + strings.Join(want, "; ")
		}
	}
	for _, w := range want {
		if !used[w] {
			return w + " is missing in " + strings.Join(got, "; ")
		}
	}
	slices.Sort(addrs)
	if !slices.Equal(addrs, ready) {
		return "targets lead to " + strings.Join(addrs, ", ") + ", want " + strings.Join(ready, ", ")
	}
	return ""
}

// readyAddresses lists, from the slices alone, the addresses that are ready of the
// port that a name _PORT._PROTOCOL.SERVICE.NAMESPACE… has.
func readyAddresses(manifests []json.RawMessage, name string) (addrs []string) {
	labels := strings.Split(name, ".")
	for _, m := range manifests {
		var v struct {
			Kind     string
			Metadata struct {
				Namespace string
				Labels    map[string]string
			}
			Ports     []struct{ Name, Protocol string }
			Endpoints []struct {
				Addresses  []string
				Conditions struct{ Ready bool }
			}
		}
		if json.Unmarshal(m, &v) != nil || v.Kind != "EndpointSlice" || v.Metadata.Namespace != labels[3] || v.Metadata.Labels["kubernetes.io/service-name"] != labels[2] {
			continue
		}
		for _, p := range v.Ports {
			if "_"+p.Name != labels[0] || "_"+strings.ToLower(p.Protocol) != labels[1] {
				continue
			}
			for _, e := range v.Endpoints {
				if e.Conditions.Ready {
					addrs = append(addrs, e.Addresses...)
				}
			}
		}
	}
	slices.Sort(addrs)
	return addrs
}

// TestScenarios changes services and endpoints as Kubernetes' conformance tests do.
func TestScenarios(t *testing.T) {
	z, err := dns.NewZone(dns.ZoneConfig{Domain: "cluster.local", TTL: 5})
	if err != nil {
		t.Fatal(err)
	}
	state := &cluster.State{}
	apply := func(manifests string) {
		t.Helper()
		next, _ := static(t, manifests, nil)
		c := state.Diff(next)
		z, state = z.Follow(&c), next
	}
	expect := func(name, qtype, want string) {
		t.Helper()
		if got := strings.ReplaceAll(strings.TrimSpace(dig(z, name, qtype)), "\n", "; "); !strings.HasPrefix(got, want) {
			t.Errorf("%s %s: %s, want %s", name, qtype, got, want)
		}
	}
	const name = "s.n.svc.cluster.local."
	if a, ours := z.Answer(dns.Question{Name: name, Type: wire.TypeA, Size: 512}); !ours || a.Rcode != wire.RcodeServerFailure || z.Synced() {
		t.Errorf("before the cluster is known: %+v", a)
	}
	apply("apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: n}\nspec: {type: ExternalName, externalName: a.test}\n")
	expect(name, "A", "NOERROR, follow a.test.; "+name+" CNAME a.test.")
	apply("apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: n}\nspec: {type: ExternalName, externalName: b.test}\n")
	expect(name, "CNAME", "NOERROR; "+name+" CNAME b.test.")
	apply("apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: n}\nspec: {clusterIP: 10.96.1.1, ports: [{port: 80}]}\n")
	expect(name, "A", "NOERROR; "+name+" A 10.96.1.1")
	expect(name, "CNAME", "NOERROR; + cluster.local. SOA")

	// a pod with hostname and subdomain, that is ready, and not, and ready again
	pod := func(ready string) string {
		return `apiVersion: v1
kind: Service
metadata: {name: s, namespace: n}
spec: {clusterIP: None, selector: {app: x}}
---
apiVersion: v1
kind: Pod
metadata: {name: q-2, namespace: n, labels: {app: x}}
spec: {nodeName: node1, hostname: dns-querier-2, subdomain: s, containers: [{name: c}]}
status: {podIP: 10.244.1.9, conditions: [{type: Ready, status: "` + ready + `"}]}
`
	}
	for range 2 {
		apply(pod("True"))
		expect(name, "A", "NOERROR; "+name+" A 10.244.1.9")
		expect("dns-querier-2."+name, "A", "NOERROR; dns-querier-2."+name+" A 10.244.1.9")
		apply(pod("False"))
		expect("dns-querier-2."+name, "A", "NXDOMAIN")
		expect(name, "A", "NXDOMAIN")
	}
	apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n")
	expect(name, "A", "NXDOMAIN")
	expect("n.svc.cluster.local.", "A", "NOERROR; + cluster.local. SOA")
}
