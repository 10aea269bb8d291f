package trace

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/kube"
	"vswitch/vswitch/kube/kubetest"
)

// kubeProxyFlow is a packet, and what kube-proxy makes of it.
type kubeProxyFlow struct {
	Name, Src, SrcKind, Proto, Dst string
	Port                           int
	Expect                         struct {
		Action     string
		Endpoints  []string
		Masquerade bool
	}
}

// kubeProxyGroup are packets that meet the same objects.
type kubeProxyGroup struct {
	ID        string
	Backends  []string // modes of kube-proxy for which the rows hold
	Viewpoint struct {
		Node          string
		NodeIPs       []string
		PodCIDR       string `json:"podCIDR(local detector)"`
		LocalDetector bool
		MasqueradeAll bool
		NodePorts     string `json:"nodePortAddresses"`
		ServiceCIDR   string
	}
	Objects []json.RawMessage
	Flows   []kubeProxyFlow
}

// TestCasesKubeProxy compares with what kube-proxy's own tests expect of it.
// Where its modes differ, the nftables one is followed; docs/compat.md says in
// what, and differs has the same as a rule.
func TestCasesKubeProxy(t *testing.T) {
	var file struct{ Groups []kubeProxyGroup }
	kubetest.Cases(t, "kubeproxy-flows.json", &file)
	right, explained := 0, map[string]int{}
	for _, g := range file.Groups {
		if !g.Viewpoint.LocalDetector {
			continue // a proxy that does not know who is a pod; every node here knows
		}
		for i, r := range g.run(t) {
			f := &g.Flows[i]
			wrong, why := f.compare(&r), g.differs(f, &r)
			switch {
			case wrong == "":
				right++
			case why != "":
				explained[why]++
			default:
				t.Errorf("%s (%s): %s: %s to %s port %d: %s", g.ID, g.Backends, f.Name, f.Src, f.Dst, f.Port, wrong)
			}
		}
	}
	t.Logf("%d rows are as expected; explained: %v", right, explained)
}

// run sends the group's packets through a cluster of its objects.
func (g *kubeProxyGroup) run(t *testing.T) (results []Result) {
	t.Helper()
	v := &g.Viewpoint
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Node\nmetadata: {name: %s}\nspec: {podCIDRs: [%q]}\nstatus:\n  addresses:\n", v.Node, v.PodCIDR)
	for _, ip := range v.NodeIPs {
		fmt.Fprintf(&b, "    - {type: InternalIP, address: %q}\n", ip)
	}
	for _, o := range g.Objects {
		fmt.Fprintf(&b, "---\n%s\n", o)
	}
	services := agent.ServiceConfig{
		CIDRs: []netip.Prefix{netip.MustParsePrefix(v.ServiceCIDR)}, MasqueradeAll: v.MasqueradeAll, ExternalClient: agent.MasqueradeClient,
	}
	for _, r := range strings.Fields(strings.Trim(v.NodePorts, "[]")) {
		services.NodePortAddresses = append(services.NodePortAddresses, netip.MustParsePrefix(r))
	}
	c, _ := loadWith(t, b.String(), services, netip.MustParsePrefix(v.PodCIDR))
	var in, out bytes.Buffer
	for _, f := range g.Flows {
		p := Probe{From: f.Src, To: net.JoinHostPort(f.Dst, strconv.Itoa(f.Port)), Proto: strings.ToLower(f.Proto), At: v.Node}
		if f.SrcKind == "node" {
			p.From = "node/" + v.Node
		}
		fmt.Fprintf(&in, `{"from":%q,"to":%q,"proto":%q,"at":%q}`+"\n", p.From, p.To, p.Proto, p.At)
	}
	if err := c.Probes(t.Context(), g.ID, &in, &out, Probe{}); err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(&out); d.More(); {
		var r Result
		if err := d.Decode(&r); err != nil {
			t.Fatal(err)
		}
		results = append(results, r)
	}
	if len(results) != len(g.Flows) {
		t.Fatalf("%s: %d results for %d flows", g.ID, len(results), len(g.Flows))
	}
	return results
}

// compare says what is not as expected.
func (f *kubeProxyFlow) compare(r *Result) string {
	want := slices.Sorted(slices.Values(f.Expect.Endpoints))
	ok := false
	switch f.Expect.Action {
	case "dnat":
		ok = r.Verdict == Delivered && slices.Equal(slices.Sorted(slices.Values(r.Backends)), want) &&
			slices.Contains(want, r.Destination) && r.SNAT == f.Expect.Masquerade
	case "reject":
		ok = r.Verdict == Rejected
	case "drop":
		ok = r.Verdict == Dropped
	case "pass-through", "accept": // services leave it alone; where it ends is another matter
		ok = len(r.Backends) == 0 && (r.Reason == "" || r.Reason == "no-route")
	}
	if ok {
		return ""
	}
	return fmt.Sprintf("%s (%s) at %s, snat %v, backends %s; want %+v", r.Verdict, r.Reason, r.Destination, r.SNAT, r.Backends, f.Expect)
}

// differs explains a row that is not as expected, or returns nothing.
func (g *kubeProxyGroup) differs(f *kubeProxyFlow, r *Result) string {
	nftables := slices.Contains(g.Backends, "nftables")
	switch {
	case !nftables && netip.MustParseAddr(f.Dst).IsLoopback():
		return "no node ports on loopback"
	case !nftables && f.Expect.Action == "pass-through" && r.Verdict == Rejected && r.Reason == "not-a-service-port":
		return "a wrong port of a cluster IP is rejected"
	case !nftables && f.Expect.Action == "pass-through" && r.Verdict == Dropped && r.Reason == "unallocated-service-address":
		return "an unallocated address of the service range is dropped"
	}
	return ""
}

// netpolCase is one of Kubernetes' own cases of network policy.
type netpolCase struct {
	ID   string
	Pods []struct {
		Namespace, Name, IP, Node string
		Labels                    map[string]string
		Ports                     []struct {
			Name          string
			ContainerPort uint16
			Protocol      string
		}
	}
	Steps []struct {
		Pods     []string
		Expected map[string][]string // by protocol and port; a row a sender
		Actions  []struct {
			CreatePolicy, UpdatePolicy string
			DeleteAllPolicies          bool
			SetPodLabels               *struct {
				Namespace, Name string
				Labels          map[string]string
			}
			SetNamespaceLabels *struct {
				Name   string
				Labels map[string]string
			}
		}
	}
}

// TestCasesNetpol: every pair of pods reaches each other, or not, as Kubernetes'
// own tests expect after each of their steps.
func TestCasesNetpol(t *testing.T) {
	var file struct {
		Namespaces map[string]map[string]string
		Cases      []netpolCase
	}
	kubetest.Cases(t, "netpol-e2e.json", &file)
	probes := 0
	for _, k := range file.Cases {
		namespaces, policies := maps.Clone(file.Namespaces), map[string]string{}
		for i, s := range k.Steps {
			for _, a := range s.Actions {
				switch {
				case a.CreatePolicy+a.UpdatePolicy != "":
					o, _, err := kube.Parse("policy.yaml", []byte(a.CreatePolicy+a.UpdatePolicy))
					if err != nil {
						t.Fatal(err)
					}
					policies[o.NetworkPolicies[0].Key().String()] = a.CreatePolicy + a.UpdatePolicy
				case a.DeleteAllPolicies:
					clear(policies)
				case a.SetPodLabels != nil:
					for j := range k.Pods {
						if p := &k.Pods[j]; p.Namespace == a.SetPodLabels.Namespace && p.Name == a.SetPodLabels.Name {
							p.Labels = a.SetPodLabels.Labels
						}
					}
				case a.SetNamespaceLabels != nil:
					namespaces[a.SetNamespaceLabels.Name] = a.SetNamespaceLabels.Labels
				default:
					t.Fatalf("%s, step %d: an action that is not known: %+v", k.ID, i, a)
				}
			}
			c, _ := load(t, k.manifests(t, namespaces, policies))
			for what, rows := range s.Expected {
				proto, port, _ := strings.Cut(what, "/")
				for row, from := range s.Pods {
					for column, to := range s.Pods {
						if row == column {
							continue
						}
						r, err := c.Trace(t.Context(), Probe{From: from, To: to + ":" + port, Proto: strings.ToLower(proto)})
						want := rows[row][column] == '1'
						if err != nil || (r.Verdict == Delivered) != want || !want && (r.Verdict != Dropped || r.Policy == "") {
							t.Errorf("%s, step %d, %s: %s to %s: %+v, %v; want it to be let through: %v", k.ID, i, what, from, to, r, err, want)
						}
						probes++
					}
				}
			}
		}
	}
	if probes < 500 {
		t.Errorf("only %d probes", probes)
	}
}

// manifests are the case's objects, as JSON documents, which are YAML, too.
func (k *netpolCase) manifests(t *testing.T, namespaces map[string]map[string]string, policies map[string]string) string {
	var b strings.Builder
	object := func(kind string, meta map[string]any, rest map[string]any) {
		o := map[string]any{"apiVersion": "v1", "kind": kind, "metadata": meta}
		maps.Copy(o, rest)
		data, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "---\n%s\n", data)
	}
	for name, labels := range namespaces {
		object("Namespace", map[string]any{"name": name, "labels": labels}, nil)
	}
	for _, p := range k.Pods {
		var ports []map[string]any
		for _, q := range p.Ports {
			ports = append(ports, map[string]any{"name": q.Name, "containerPort": q.ContainerPort, "protocol": q.Protocol})
		}
		object("Pod", map[string]any{"name": p.Name, "namespace": p.Namespace, "labels": p.Labels}, map[string]any{
			"spec":   map[string]any{"nodeName": p.Node, "containers": []any{map[string]any{"name": "c", "ports": ports}}},
			"status": map[string]any{"podIP": p.IP},
		})
	}
	for _, p := range policies {
		fmt.Fprintf(&b, "---\n%s\n", p)
	}
	return b.String()
}
