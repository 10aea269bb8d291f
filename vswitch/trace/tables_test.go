package trace

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/trace/servicetest"
)

// TestServiceTables runs testdata/services/*.txtar (package servicetest) with
// packets in memory, in both families and with both treatments of clients outside.
func TestServiceTables(t *testing.T) {
	for _, family := range servicetest.Families {
		for _, table := range servicetest.Read(t, "testdata/services", family, servicetest.Default()) {
			for _, mode := range []string{agent.MasqueradeClient, agent.PreserveClient} {
				t.Run(strings.Join([]string{table.Name, family.String(), mode}, "/"), func(t *testing.T) {
					cfg := agent.ServiceConfig{ExternalClient: mode, CIDRs: servicetest.ServiceCIDRs,
						MasqueradeAll: table.Options.MasqueradeAll, NodePortAddresses: table.Options.NodePortAddresses}
					c, _ := loadWith(t, servicetest.Nodes+table.Objects, cfg)
					for _, r := range table.Rows {
						runRow(t, c, &r, mode == agent.MasqueradeClient)
					}
				})
			}
		}
	}
}

func runRow(t *testing.T, c *Cluster, row *servicetest.Row, masquerade bool) {
	t.Helper()
	p := Probe{From: row.Source.String(), To: row.Target.String(), Proto: row.Proto, At: "node1"}
	if strings.HasPrefix(row.From, "node") {
		p.From = "node/" + row.From
	}
	if row.At != "" {
		p.At = row.At
	}
	r, err := c.Trace(t.Context(), p)
	if err != nil {
		t.Errorf("%s: %v", row.Text, err)
		return
	}
	got := addrPorts(t, r.Backends)
	good := false
	switch row.Fate {
	case servicetest.Delivered:
		anyOfNode := row.Loose && !masquerade
		good = r.Verdict == Delivered && slices.Equal(got, row.Endpoints) && r.SNAT == row.HiddenBy(masquerade) &&
			(anyOfNode || slices.Contains(r.Backends, r.Destination))
	case servicetest.Rejected:
		good = r.Verdict == Rejected
	case servicetest.Dropped:
		good = r.Verdict == Dropped
	case servicetest.Passed:
		good = len(got) == 0 && (r.Reason == "" || r.Reason == "no-route")
	}
	if !good {
		t.Errorf("%s:\n got %s (%s) at %s, snat %v, endpoints %v", row.Text, r.Verdict, r.Reason, r.Destination, r.SNAT, got)
	}
}

func addrPorts(t *testing.T, list []string) (out []netip.AddrPort) {
	t.Helper()
	for _, s := range list {
		a, err := netip.ParseAddrPort(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out
}

// TestChoiceWords: a trace says which endpoints a service had to choose from, and why those.
func TestChoiceWords(t *testing.T) {
	c, _ := loadWith(t, servicetest.Nodes+`
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
