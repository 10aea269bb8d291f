package trace

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
	"vswitch/vswitch/fabric"
	"vswitch/vswitch/kube"
)

const manifests = `
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"]}
status:
  addresses:
    - {type: InternalIP, address: 172.29.0.1}
    - {type: InternalIP, address: "fd00:10:29::1"}
    - {type: InternalIP, address: 192.168.7.1}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
spec: {podCIDRs: [10.244.2.0/24, "fd00:10:244:2::/64"]}
status: {addresses: [{type: InternalIP, address: 172.29.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: "x"}
spec: {nodeName: n1, containers: [{name: c}]}
status: {podIPs: [{ip: 10.244.1.2}, {ip: "fd00:10:244:1::2"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: "x"}
spec: {nodeName: n2, containers: [{name: c}]}
status: {podIPs: [{ip: "fd00:10:244:2::2"}, {ip: 10.244.2.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: c}
spec: {nodeName: n1, containers: [{name: c}]}
status: {podIP: 10.244.1.3}
---
apiVersion: v1
kind: Pod
metadata: {name: host, namespace: "x"}
spec: {nodeName: n2, hostNetwork: true, containers: [{name: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: done, namespace: "x"}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Succeeded, podIP: 10.244.1.9}
---
apiVersion: v1
kind: Pod
metadata: {name: nowhere, namespace: "x"}
spec: {nodeSelector: {disk: none}, containers: [{name: c}]}
`

// load makes the cluster of manifests in memory.
func load(t testing.TB, manifests string) (*Cluster, *fabric.Fabric) {
	t.Helper()
	services := []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")}
	return loadWith(t, manifests, agent.ServiceConfig{CIDRs: services})
}

// loadWith is load with services treated otherwise, and other ranges of pods if
// some are given.
func loadWith(t testing.TB, manifests string, services agent.ServiceConfig, pods ...netip.Prefix) (*Cluster, *fabric.Fabric) {
	t.Helper()
	objects, _, err := kube.Parse("test.yaml", []byte(manifests))
	if err != nil {
		t.Fatal(err)
	}
	cfg := control.Default()
	cfg.ServiceCIDRs = services.CIDRs
	if len(pods) > 0 {
		cfg.ClusterCIDRs = pods
	}
	state, err := control.Static(cfg, objects)
	if err != nil {
		t.Fatal(err)
	}
	f, err := fabric.FromState(state, fabric.Config{ClusterCIDRs: cfg.ClusterCIDRs, Services: services, Inline: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	f.RecordOnFailure(t)
	return New(state, f), f
}

// line is a result in short: verdict, reason, source, destination and the nodes
// on the way.
func line(r *Result) string {
	nodes := []string{}
	for _, h := range r.Hops {
		if len(nodes) == 0 || nodes[len(nodes)-1] != h.Node {
			nodes = append(nodes, h.Node)
		}
	}
	verdict := string(r.Verdict)
	if r.Reason != "" {
		verdict += " " + r.Reason
	}
	return fmt.Sprintf("%s: %s > %s by %s", verdict, r.Source, r.Destination, strings.Join(nodes, " "))
}

func TestTrace(t *testing.T) {
	c, _ := load(t, manifests)
	for _, p := range []struct{ from, to, proto, at, want string }{
		// pods
		{"x/a", "x/b:80", "", "", "delivered: 10.244.1.2 > 10.244.2.2:80 by n1 n2"},
		{"x/b", "x/a:80", "udp", "", "delivered: fd00:10:244:2::2 > [fd00:10:244:1::2]:80 by n2 n1"},
		{"x/a", "c:80", "sctp", "", "delivered: 10.244.1.2 > 10.244.1.3:80 by n1"},
		{"c", "x/b", "icmp", "", "delivered: 10.244.1.3 > 10.244.2.2 by n1 n2"},
		{"x/a", "x/b:80", "icmp", "", "delivered: 10.244.1.2 > 10.244.2.2 by n1 n2"},
		{"x/a", "x/a:80", "", "", "delivered: 10.244.1.2 > 10.244.1.2:80 by n1"},
		// addresses
		{"10.244.1.2", "10.244.2.2:65535", "", "", "delivered: 10.244.1.2 > 10.244.2.2:65535 by n1 n2"},
		{"::ffff:10.244.1.2", "[::ffff:10.244.2.2]:80", "", "", "delivered: 10.244.1.2 > 10.244.2.2:80 by n1 n2"},
		{"fd00:10:244:1::2", "[fd00:10:244:2::2]:80", "", "", "delivered: fd00:10:244:1::2 > [fd00:10:244:2::2]:80 by n1 n2"},
		{"[fd00:10:244:1::2]", "fd00:10:244:2::2", "icmp", "", "delivered: fd00:10:244:1::2 > fd00:10:244:2::2 by n1 n2"},
		{"x/a", "[fd00:10:244:2::2]", "icmp", "", "delivered: fd00:10:244:1::2 > fd00:10:244:2::2 by n1 n2"},
		// nodes and their own addresses
		{"node/n1", "x/b:80", "", "", "delivered: 172.29.0.1 > 10.244.2.2:80 by n1 n2"},
		{"node/n1", "x/a:80", "", "n2", "delivered: 172.29.0.1 > 10.244.1.2:80 by n1"},
		{"192.168.7.1", "x/b:80", "", "", "delivered: 192.168.7.1 > 10.244.2.2:80 by n1 n2"},
		{"10.244.2.1", "x/b:80", "", "", "delivered: 10.244.2.1 > 10.244.2.2:80 by n2"},
		{"10.244.2.0", "x/a:80", "", "", "delivered: 10.244.2.0 > 10.244.1.2:80 by n2 n1"},
		{"x/host", "x/a:80", "", "", "delivered: 172.29.0.2 > 10.244.1.2:80 by n2 n1"},
		{"x/a", "x/host:80", "", "", "delivered: 10.244.1.2 > 172.29.0.2:80 by n1 n2"},
		{"x/a", "172.29.0.1:22", "", "", "delivered: 10.244.1.2 > 172.29.0.1:22 by n1"},
		{"x/b", "192.168.7.1:22", "", "", "delivered: 10.244.2.2 > 192.168.7.1:22 by n2 n1"},
		{"x/a", "10.244.2.1", "icmp", "", "delivered: 10.244.1.2 > 10.244.2.1 by n1 n2"},
		{"127.0.0.1", "x/a:80", "", "", "dropped spoofed: 127.0.0.1 > 10.244.1.2:80 by n1"},
		{"::1", "[::1]:80", "", "n2", "dropped spoofed: ::1 > [::1]:80 by n2"},
		// addresses of pods that nobody knows
		{"10.244.2.77", "x/a:80", "", "n1", "delivered: 10.244.2.77 > 10.244.1.2:80 by n2 n1"},
		{"fd00:10:244:1::77", "x/a:80", "", "", "delivered: fd00:10:244:1::77 > [fd00:10:244:1::2]:80 by n1"},
		{"10.244.1.9", "x/a:80", "", "", "delivered: 10.244.1.9 > 10.244.1.2:80 by n1"}, // of x/done
		{"x/a", "10.244.2.77:80", "", "", "rejected no-route: 10.244.1.2 > 10.244.2.77:80 by n1 n2"},
		{"x/a", "10.244.1.9:80", "", "", "rejected no-route: 10.244.1.2 > 10.244.1.9:80 by n1"},
		// outside
		{"203.0.113.7", "x/a:80", "", "", "delivered: 203.0.113.7 > 10.244.1.2:80 by n1"},
		{"203.0.113.7", "x/b:80", "", "n2", "delivered: 203.0.113.7 > 10.244.2.2:80 by n2"},
		{"203.0.113.7", "x/b:80", "", "", "delivered: 203.0.113.7 > 10.244.2.2:80 by n2"},
		{"2001:db8::7", "x/b", "icmp", "", "delivered: 2001:db8::7 > fd00:10:244:2::2 by n2"},
		{"203.0.113.7", "10.244.2.77:80", "", "", "rejected no-route: 203.0.113.7 > 10.244.2.77:80 by n2"},
		{"203.0.113.7", "10.244.2.2:80", "", "n1", "dropped spoofed: 203.0.113.7 > 10.244.2.2:80 by n1 n2"},
		{"2001:db8::7", "172.29.0.2:80", "", "n2", "no address family in common"},
		{"2001:db8::7", "[fd00:10:29::1]:80", "", "", "delivered: 2001:db8::7 > [fd00:10:29::1]:80 by n1"},
		{"203.0.113.7", "172.29.0.2:80", "", "n2", "delivered: 203.0.113.7 > 172.29.0.2:80 by n2"},
		{"10.96.0.1", "x/a:80", "", "", "dropped spoofed: 10.96.0.1 > 10.244.1.2:80 by n1"},
		{"10.244.99.1", "x/a:80", "", "", "dropped spoofed: 10.244.99.1 > 10.244.1.2:80 by n1"},
		// nobody
		{"x/a", "10.96.0.10:80", "", "", "dropped unallocated-service-address: 10.244.1.2 > 10.96.0.10:80 by n1"},
		{"node/n1", "192.0.2.1:80", "", "", "rejected no-route: 172.29.0.1 > 192.0.2.1:80 by n1"},
		{"203.0.113.7", "10.96.0.10:80", "udp", "", "dropped unallocated-service-address: 203.0.113.7 > 10.96.0.10:80 by n1"},

		// what is wrong
		{"x/a", "x/b:80", "gre", "", `protocol "gre": use tcp, udp, sctp or icmp`},
		{"x/a", "x/b:80", "TCP", "", `protocol "TCP": use tcp, udp, sctp or icmp`},
		{"x/nobody", "x/b:80", "", "", "there is no pod x/nobody"},
		{"10.244.1", "x/b:80", "", "", "there is no pod default/10.244.1: FROM is NAMESPACE/POD, node/NAME, outside or an IP"},
		{"x/a/b", "x/b:80", "", "", `"x/a/b" is not understood: FROM is NAMESPACE/POD, node/NAME, outside or an IP`},
		{"", "x/b:80", "", "", `"" is not understood: FROM is NAMESPACE/POD, node/NAME, outside or an IP`},
		{"node/n3", "x/b:80", "", "", "there is no node n3"},
		{"x/a", "x/b:80", "", "n3", "there is no node n3 to enter at"},
		{"0.0.0.0", "x/b:80", "", "", "0.0.0.0 is no address that a packet can come from"},
		{"ff02::1", "x/b:80", "", "", "ff02::1 is no address that a packet can come from"},
		{"fe80::1%eth0", "x/b:80", "", "", "fe80::1%eth0 is no address that a packet can come from"},
		{"x/done", "x/b:80", "", "", "pod x/done has ended, and has no address any more"},
		{"x/nowhere", "x/b:80", "", "", "pod x/nowhere has no address: 0/2 nodes are available"},
		{"x/a", "x/b", "", "", `"x/b" has no port: TO is NAMESPACE/POD:PORT, svc/NAMESPACE/NAME:PORT, IP:PORT or [IP6]:PORT`},
		{"x/a", "10.244.2.2", "", "", `"10.244.2.2" has no port`},
		{"x/a", "[fd00::1]", "", "", `"[fd00::1]" has no port`},
		{"x/a", "fd00::1:80", "", "", `"fd00::1:80" has no port: write an IPv6 address as [IP6]:PORT`},
		{"x/a", "x/b:", "", "", `"x/b:" has no port`},
		{"x/a", "x/b:0", "", "", `"x/b:0": port "0" is not a number from 1 to 65535`},
		{"x/a", "x/b:65536", "", "", `"x/b:65536": port "65536" is not a number from 1 to 65535`},
		{"x/a", "x/b:http", "", "", `"x/b:http": port "http" is not a number from 1 to 65535`},
		{"x/a", "x/nobody:80", "", "", "there is no pod x/nobody"},
		{"x/a", "/b:80", "", "", `"/b" is not understood: TO is`},
		{"x/a", "[fe80::1%eth0]:80", "", "", "fe80::1%eth0 has a zone"},
		{"x/a", "svc/x/web:80", "", "", "there is no service x/web"},
		{"x/a", "svc/x/web:http", "", "", "there is no service x/web"},
		{"x/a", "svc/web:80", "", "", "there is no service default/web"},
		{"10.244.1.2", "[fd00:10:244:2::2]:80", "", "", "10.244.1.2 and [fd00:10:244:2::2]:80 have no address family in common"},
		{"c", "[fd00:10:244:2::2]:80", "", "", "c and [fd00:10:244:2::2]:80 have no address family in common"},
	} {
		r, err := c.Trace(t.Context(), Probe{From: p.from, To: p.to, Proto: p.proto, At: p.at})
		var got string
		if in := (*InputError)(nil); errors.As(err, &in) {
			if got = err.Error(); strings.HasPrefix(got, p.want) || strings.HasSuffix(got, p.want) {
				continue
			}
		} else if err != nil {
			t.Errorf("%s to %s: %v", p.from, p.to, err)
			continue
		} else {
			got = line(r)
		}
		if got != p.want {
			t.Errorf("%s to %s %s at %s:\n got %s\nwant %s", p.from, p.to, p.proto, p.at, got, p.want)
		}
	}
}

// TestTraceSize: a packet that does not fit is refused on the way.
func TestTraceSize(t *testing.T) {
	c, _ := load(t, manifests)
	for size, want := range map[int]string{
		1450: "delivered: 10.244.1.2 > 10.244.2.2:80 by n1 n2", 1451: "rejected too-big: 10.244.1.2 > 10.244.2.2:80 by n1",
	} {
		r, err := c.Trace(t.Context(), Probe{From: "x/a", To: "x/b:80", Size: size})
		if err != nil || line(r) != want {
			t.Errorf("%d bytes: %+v, %v, want %s", size, r, err, want)
		}
	}
	for _, size := range []int{-1, 65536} {
		if _, err := c.Trace(t.Context(), Probe{From: "x/a", To: "x/b:80", Size: size}); err == nil {
			t.Errorf("%d bytes were accepted", size)
		}
	}
}

// TestTraceWithoutNodes: there is nothing to enter at.
func TestTraceWithoutNodes(t *testing.T) {
	c := New(&cluster.State{}, nil)
	if _, err := c.Trace(t.Context(), Probe{From: "192.0.2.1", To: "192.0.2.2:80"}); err == nil || err.Error() != "the cluster has no node" {
		t.Error(err)
	}
}

// scripted are nodes that say what a test wants.
type scripted func(node string, r agent.TraceRequest) (agent.TraceResult, error)

func (f scripted) Trace(_ context.Context, node string, r agent.TraceRequest) (agent.TraceResult, error) {
	return f(node, r)
}

// TestTraceOfRewrittenPackets: a result tells of the packet as it arrives, and
// the next node is asked about the one that the last has sent.
func TestTraceOfRewrittenPackets(t *testing.T) {
	c, _ := load(t, manifests)
	c.nodes = scripted(func(node string, r agent.TraceRequest) (agent.TraceResult, error) {
		res := agent.TraceResult{Node: node, Steps: []agent.TraceStep{{Stage: "service", Did: "something"}},
			Source: netip.MustParseAddrPort("172.29.0.1:1"), Destination: netip.MustParseAddrPort("10.244.2.2:8080")}
		if node == "n1" {
			if r.Sender != agent.SenderPod || r.Name != "x/a" || r.Destination.String() != "10.96.0.10:80" {
				t.Errorf("n1 is asked %+v", r)
			}
			res.NextNode, res.Frame = "n2", []byte("a frame")
		} else if r.Sender != agent.SenderPeer || r.Name != "n1" || string(r.Frame) != "a frame" {
			t.Errorf("n2 is asked %+v", r)
		}
		return res, nil
	})
	r, err := c.Trace(t.Context(), Probe{ID: json.RawMessage(`{"n":1}`), From: "x/a", To: "10.96.0.10:80"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"id":{"n":1},"verdict":"delivered","reason":"","policy":"","backends":[],"destination":"10.244.2.2:8080",` +
		`"source":"172.29.0.1","snat":true,"hops":[{"node":"n1","stage":"service","did":"something"},{"node":"n2","stage":"service","did":"something"}]}`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	c.nodes = scripted(func(string, agent.TraceRequest) (agent.TraceResult, error) {
		return agent.TraceResult{}, errors.New("node n1 is down")
	})
	_, err = c.Trace(t.Context(), Probe{From: "x/a", To: "x/b:80"})
	if in := (*InputError)(nil); err == nil || errors.As(err, &in) {
		t.Errorf("a node that is down gives %v", err)
	}
}

// TestTraceWithoutAddressOfFamily: a node that has no address to hide a client behind
// says so.
func TestTraceWithoutAddressOfFamily(t *testing.T) {
	c, _ := loadWith(t, `
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.244.1.0/24]}
status: {addresses: [{type: InternalIP, address: 172.29.0.1}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: x}
spec: {type: NodePort, clusterIP: "fd00:10:96::10", externalIPs: ["2001:db8:3::10"], ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: x, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{port: 8080}]
endpoints: [{addresses: ["fd00:10:244:1::11"], nodeName: n1}]
`, agent.ServiceConfig{ExternalClient: agent.MasqueradeClient, CIDRs: []netip.Prefix{netip.MustParsePrefix("fd00:10:96::/112")}})
	r, err := c.Trace(t.Context(), Probe{From: "2001:db8:1::7", To: "[2001:db8:3::10]:80"})
	if err != nil || r.Verdict != Dropped || r.Reason != "no-snat-port" || r.SNAT {
		t.Errorf("%+v, %v; want it to be dropped, as the node has no IPv6 address", r, err)
	}
}

func TestProbes(t *testing.T) {
	const ok = `{"id":"1","from":"x/a","to":"x/b:80"}` + "\n"
	for _, c := range []struct {
		name, in, want string
		results        int
	}{
		{"nothing", "", "", 0},
		{"blank lines", "\n" + ok + "\r\n  \n" + ok, "", 2},
		{"no newline at the end", strings.TrimSpace(ok), "", 1},
		{"all fields", `{"id":7,"from":"203.0.113.7","to":"x/b:80","proto":"udp","at":"n2"}`, "", 1},
		{"unknown field", ok + `{"from":"x/a","to":"x/b:80","form":"x/a"}`, `p:2: unknown field "form"`, 1},
		{"wrong type", `{"from":["x/a"],"to":"x/b:80"}`, `p:1: field "from" must be a string, not array`, 0},
		{"no object", `"x/a"`, `p:1: not a JSON object such as`, 0},
		{"null", `null`, `p:1: not a JSON object such as`, 0},
		{"two on a line", `{"from":"x/a","to":"x/b:80"} {}`, "p:1: more than one JSON object on a line", 0},
		{"over two lines", "{\"from\":\"x/a\",\n\"to\":\"x/b:80\"}", "p:1: the JSON object does not end on this line", 0},
		{"no JSON", "from x/a", "p:1: invalid character 'r' in literal", 0},
		{"no from", `{"to":"x/b:80"}`, `p:1: field "from" is missing`, 0},
		{"no to", `{"from":"x/a"}`, `p:1: field "to" is missing`, 0},
		{"no such pod", ok + "\n" + `{"from":"x/a","to":"x/z:80"}` + "\n" + ok, "p:3: there is no pod x/z", 1},
		{"too long", ok + strings.Repeat(" ", maxLine+1), "p:2: the line is longer than 1048576 bytes", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			where, _ := load(t, manifests)
			var out bytes.Buffer
			err := where.Probes(t.Context(), "p", strings.NewReader(c.in), &out, Probe{Proto: "tcp"})
			if in := (*InputError)(nil); c.want == "" && err != nil || c.want != "" && (!errors.As(err, &in) || !strings.HasPrefix(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if n := strings.Count(out.String(), "\n"); n != c.results {
				t.Errorf("%d results, want %d:\n%s", n, c.results, out.String())
			}
		})
	}
}

// TestProbesFailure: what a node cannot answer is not the input's fault.
func TestProbesFailure(t *testing.T) {
	c, _ := load(t, manifests)
	c.nodes = scripted(func(string, agent.TraceRequest) (agent.TraceResult, error) {
		return agent.TraceResult{}, errors.New("node n1 is down")
	})
	err := c.Probes(t.Context(), "p", strings.NewReader(`{"from":"x/a","to":"x/b:80"}`), new(bytes.Buffer), Probe{})
	if in := (*InputError)(nil); err == nil || errors.As(err, &in) || err.Error() != "p:1: node n1 is down" {
		t.Error(err)
	}
}

// hundred are 100 objects: 10 nodes and 90 pods.
func hundred() string {
	var b strings.Builder
	for i := range 10 {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Node\nmetadata: {name: node%d}\n", i+1)
	}
	for i := range 90 {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p%d, namespace: x}\nspec: {nodeName: node%d, containers: [{name: c}]}\n", i, i%10+1)
	}
	return b.String()
}

// probes are n lines, with senders and receivers of all kinds.
func probes(n int) string {
	var b strings.Builder
	from := []string{"x/p%d", "node/node1", "10.244.3.%d", "203.0.113.%d"}
	to := []string{"x/p17:80", "10.96.0.1:80", "10.244.7.5:80", "172.29.0.2:22"}
	for i := range n {
		s := from[i%4]
		if strings.Contains(s, "%") {
			s = fmt.Sprintf(s, i%90)
		}
		fmt.Fprintf(&b, `{"id":"%d","from":%q,"to":%q}`+"\n", i, s, to[i/4%4])
	}
	return b.String()
}

// TestProbesCompileOnce: however many probes there are, and whoever sends them,
// no switch gets other tables, and no connection is left behind.
func TestProbesCompileOnce(t *testing.T) {
	c, f := load(t, hundred())
	gens := map[string]uint32{}
	for _, n := range f.Nodes {
		gens[n.Name] = n.Switch.Tables().Gen
	}
	const n = 10_000
	var out bytes.Buffer
	if err := c.Probes(t.Context(), "p", strings.NewReader(probes(n)), &out, Probe{}); err != nil {
		t.Fatal(err)
	}
	results := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(results) != n {
		t.Fatalf("%d results", len(results))
	}
	verdicts := map[Verdict]int{}
	for i, line := range results {
		var r struct {
			ID      string
			Verdict Verdict
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.ID != fmt.Sprint(i) {
			t.Fatalf("result %d is %s (%v)", i, line, err)
		}
		verdicts[r.Verdict]++
	}
	if verdicts[Delivered] == 0 || verdicts[Dropped] == 0 {
		t.Errorf("verdicts are %v", verdicts)
	}
	for _, n := range f.Nodes {
		if gen := n.Switch.Tables().Gen; gen != gens[n.Name] {
			t.Errorf("%s was compiled %d more times", n.Name, gen-gens[n.Name])
		}
		if k := n.Switch.Conns().Len(); k != 0 {
			t.Errorf("%s has %d connections", n.Name, k)
		}
	}
}

// BenchmarkProbes is 1,000 probes against a cluster of 100 objects.
func BenchmarkProbes(b *testing.B) {
	c, _ := load(b, hundred())
	in := probes(1000)
	for b.Loop() {
		var out bytes.Buffer
		if err := c.Probes(b.Context(), "p", strings.NewReader(in), &out, Probe{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/1000, "µs/probe")
}
