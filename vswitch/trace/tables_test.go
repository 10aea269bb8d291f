package trace

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"vswitch/vswitch/agent"
)

// places are who and what the tables of services speak of, in IPv4 and IPv6. Pods
// on nodeN have addresses of that node's range.
var places = map[string][2]string{
	"pod": {"10.244.1.9", "fd00:10:244:1::9"}, "pod2": {"10.244.2.9", "fd00:10:244:2::9"},
	"a1": {"10.244.1.11", "fd00:10:244:1::11"}, "a2": {"10.244.1.12", "fd00:10:244:1::12"},
	"b1": {"10.244.2.11", "fd00:10:244:2::11"}, "b2": {"10.244.2.12", "fd00:10:244:2::12"}, "c1": {"10.244.3.11", "fd00:10:244:3::11"},
	"node1": {"172.29.0.1", "fd00:10:29::1"}, "node2": {"172.29.0.2", "fd00:10:29::2"}, "node3": {"172.29.0.3", "fd00:10:29::3"},
	"extra1": {"172.29.1.1", "fd00:10:29::1:1"},
	"vip":    {"10.96.0.10", "fd00:10:96::10"}, "vip2": {"10.96.0.11", "fd00:10:96::11"}, "vip3": {"10.96.0.12", "fd00:10:96::12"},
	"free": {"10.96.0.99", "fd00:10:96::99"},
	"lb":   {"192.0.2.10", "2001:db8:2::10"}, "lb2": {"192.0.2.11", "2001:db8:2::11"},
	"ext": {"203.0.113.10", "2001:db8:3::10"}, "ext2": {"203.0.113.11", "2001:db8:3::11"},
	"out": {"198.51.100.7", "2001:db8:1::7"}, "out2": {"198.51.101.7", "2001:db8:101::7"},
	"outRange": {"198.51.100.0/24", "2001:db8:1::/48"}, "podRange": {"10.244.1.0/24", "fd00:10:244:1::/64"},
	"nodeRange": {"172.29.0.0/16", "fd00:10:29::/64"}, "extraRange": {"172.29.1.0/24", "fd00:10:29::1:0/112"},
	"family": {"IPv4", "IPv6"},
}

const tableNodes = `
apiVersion: v1
kind: Node
metadata: {name: node1, labels: {topology.kubernetes.io/zone: a}}
spec: {podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"]}
status: {addresses: [{type: InternalIP, address: 172.29.0.1}, {type: InternalIP, address: "fd00:10:29::1"}, {type: InternalIP, address: 172.29.1.1}, {type: InternalIP, address: "fd00:10:29::1:1"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node2, labels: {topology.kubernetes.io/zone: b}}
spec: {podCIDRs: [10.244.2.0/24, "fd00:10:244:2::/64"]}
status: {addresses: [{type: InternalIP, address: 172.29.0.2}, {type: InternalIP, address: "fd00:10:29::2"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node3, labels: {topology.kubernetes.io/zone: c}}
spec: {podCIDRs: [10.244.3.0/24, "fd00:10:244:3::/64"]}
status: {addresses: [{type: InternalIP, address: 172.29.0.3}, {type: InternalIP, address: "fd00:10:29::3"}]}
---
`

var placeholder = regexp.MustCompile(`\$[a-zA-Z0-9]+`)

// TestServiceTables runs testdata/services/*.txtar: objects, and rows of packets with
// what must become of them, by the rules of kube-proxy (pkg/proxy/topology.go and
// pkg/proxy/nftables/proxier.go of Kubernetes 1.37), in both families:
//
//	FROM TO PROTO: [snat] ENDPOINT... [~] | reject | drop | pass
//
// FROM is a place; of a client outside, out@nodeN says where it comes in (node1). TO is
// PLACE:PORT, an endpoint PLACE or PLACE:PORT (8080). A line "options:" in the comment has
// flags. Each table is run with --external-client masquerade, and with preserve, which hides
// no client outside; ~ says that then the endpoint's node may give it to another of its own.
func TestServiceTables(t *testing.T) {
	files, err := filepath.Glob("testdata/services/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no tables", err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i, family := range []string{"IPv4", "IPv6"} {
			text := placeholder.ReplaceAllStringFunc(string(data), func(s string) string {
				a, ok := places[s[1:]]
				if !ok {
					t.Fatalf("%s: there is no %s", name, s)
				}
				return `"` + a[i] + `"`
			})
			for _, mode := range []string{agent.MasqueradeClient, agent.PreserveClient} {
				t.Run(strings.Join([]string{strings.TrimSuffix(filepath.Base(name), ".txtar"), family, mode}, "/"), func(t *testing.T) {
					runTable(t, txtar.Parse([]byte(text)), i, mode)
				})
			}
		}
	}
}

func runTable(t *testing.T, a *txtar.Archive, family int, mode string) {
	cfg := agent.ServiceConfig{ExternalClient: mode, CIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")}}
	for line := range strings.Lines(string(a.Comment)) {
		options, ok := strings.CutPrefix(strings.TrimSpace(line), "options:")
		if !ok {
			continue
		}
		for _, o := range strings.Fields(options) {
			switch flag, value, _ := strings.Cut(o, "="); flag {
			case "--masquerade-all":
				cfg.MasqueradeAll = true
			case "--nodeport-addresses":
				cfg.NodePortAddresses = append(cfg.NodePortAddresses, netip.MustParsePrefix(strings.Trim(value, `"`)))
			default:
				t.Fatalf("unknown option %s", o)
			}
		}
	}
	var c *Cluster
	rows := 0
	for _, f := range a.Files {
		switch f.Name {
		case "objects.yaml":
			c, _ = loadWith(t, tableNodes+string(f.Data), cfg)
		case "rows":
			for line := range strings.Lines(string(f.Data)) {
				if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
					runRow(t, c, line, family, mode)
					rows++
				}
			}
		}
	}
	if rows == 0 {
		t.Error("there are no rows")
	}
}

func runRow(t *testing.T, c *Cluster, line string, family int, mode string) {
	t.Helper()
	place := func(s string) string {
		a, ok := places[s]
		if !ok {
			t.Fatalf("%s: there is no %q", line, s)
		}
		return a[family]
	}
	addrPort := func(s, port string) string {
		if name, p, ok := strings.Cut(s, ":"); ok {
			s, port = name, p
		}
		return netip.MustParseAddrPort(fmt.Sprintf("[::]:%s", port)).String()[len("[::]"):] + " " + place(s)
	}
	join := func(s, port string) string {
		p, a, _ := strings.Cut(addrPort(s, port), " ")
		if strings.Contains(a, ":") {
			a = "[" + a + "]"
		}
		return a + p
	}
	head, want, ok := strings.Cut(line, ": ")
	fields := strings.Fields(head)
	if !ok || len(fields) != 3 {
		t.Fatalf("%q is no row", line)
	}
	from, at, _ := strings.Cut(fields[0], "@")
	p := Probe{To: join(fields[1], ""), Proto: fields[2], At: "node1"}
	switch {
	case strings.HasPrefix(from, "node"):
		p.From = "node/" + from
	default:
		p.From = place(from)
	}
	if at != "" {
		p.At = at
	}
	r, err := c.Trace(t.Context(), p)
	if err != nil {
		t.Errorf("%s: %v", line, err)
		return
	}
	verdict, snat, anyOfNode := Delivered, false, false
	var backends []string
	for _, w := range strings.Fields(want) {
		switch w {
		case "snat":
			snat = !strings.HasPrefix(from, "out") || mode == agent.MasqueradeClient
		case "reject":
			verdict = Rejected
		case "drop":
			verdict = Dropped
		case "pass":
			verdict = ""
		case "~":
			anyOfNode = mode == agent.PreserveClient
		default:
			backends = append(backends, join(w, "8080"))
		}
	}
	slices.Sort(backends)
	got := slices.Sorted(slices.Values(r.Backends))
	good := r.Verdict == verdict && (verdict != Delivered || slices.Equal(got, backends) && (anyOfNode || slices.Contains(got, r.Destination)) && r.SNAT == snat)
	if verdict == "" { // services leave it alone; where it ends is another matter
		good = len(got) == 0 && (r.Reason == "" || r.Reason == "no-route")
	}
	if !good {
		t.Errorf("%s:\n got %s (%s) at %s, snat %v, endpoints %v", line, r.Verdict, r.Reason, r.Destination, r.SNAT, got)
	}
}

// TestChoiceWords: a trace says which endpoints a service had to choose from, and why those.
func TestChoiceWords(t *testing.T) {
	c, _ := loadWith(t, tableNodes+`
apiVersion: v1
kind: Service
metadata: {name: web, namespace: x}
spec: {type: NodePort, externalTrafficPolicy: Local, clusterIP: 10.96.0.10, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: x, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [10.244.1.11], nodeName: node1, hints: {forZones: [{name: a}], forNodes: [{name: node1}]}}
- {addresses: [10.244.2.11], nodeName: node2, hints: {forZones: [{name: b}], forNodes: [{name: node2}]}}
- {addresses: [10.244.2.12], nodeName: node2, hints: {forZones: [{name: c}], forNodes: [{name: node2}]}}
- {addresses: [10.244.3.11], nodeName: node3, hints: {forZones: [{name: c}], forNodes: [{name: node2}]}, conditions: {ready: false, terminating: true}}
---
apiVersion: v1
kind: Service
metadata: {name: all, namespace: x}
spec: {type: NodePort, clusterIP: 10.96.0.11, ports: [{port: 80, nodePort: 30081}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: all-1, namespace: x, labels: {kubernetes.io/service-name: all}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [10.244.2.11], nodeName: node2}
- {addresses: [10.244.2.12], nodeName: node2}
`, agent.ServiceConfig{ExternalClient: agent.PreserveClient, CIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}})
	for _, p := range []struct{ from, at, to, want string }{
		{"10.244.1.9", "", "10.96.0.10:80", "the only endpoint that hints give to this node"},
		{"10.244.2.9", "", "10.96.0.10:80", "one of 2 endpoints that hints give to this node"},
		{"10.244.3.9", "", "10.96.0.10:80", "the only endpoint that hints give to this zone"},
		{"198.51.100.7", "node1", "172.29.0.1:30080", "the only endpoint on this node, as policy is Local"},
		{"198.51.100.7", "node2", "172.29.0.2:30080", "one of 2 endpoints on this node, as policy is Local"},
		{"198.51.100.7", "node3", "172.29.0.3:30080", "the only endpoint on this node, as policy is Local, where none is ready and what ends still serves"},
		{"198.51.100.7", "node1", "172.29.0.1:30081", "one of 2 endpoints; one of 2 endpoints on this node"},
	} {
		r, err := c.Trace(t.Context(), Probe{From: p.from, At: p.at, To: p.to})
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		for _, h := range r.Hops {
			if _, of, ok := strings.Cut(h.Did, ":8080, "); ok && h.Stage == "service" {
				said = append(said, of)
			}
		}
		if got := strings.Join(said, "; "); got != p.want {
			t.Errorf("%s to %s: %q, want %q", p.from, p.to, got, p.want)
		}
	}
}
