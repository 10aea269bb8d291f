package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/fabric"
	"vswitch/vswitch/trace"
)

// oneOf is a cluster whose service's second endpoint of two is refused.
type oneOf struct{ asked int }

func (o *oneOf) Trace(_ context.Context, _ string, r agent.TraceRequest) (agent.TraceResult, error) {
	o.asked++
	a, b := netip.MustParseAddrPort("10.244.1.3:80"), netip.MustParseAddrPort("10.244.1.4:80")
	res := agent.TraceResult{Node: "node1", Source: r.Source, Destination: a, Backends: []netip.AddrPort{a, b}}
	if r.Source.Port()%8 == 5 {
		res.Destination, res.Reason = b, "policy-ingress"
	}
	return res, nil
}

// TestVerifyAsksForEveryEndpoint: an endpoint that is seldom chosen counts, too.
func TestVerifyAsksForEveryEndpoint(t *testing.T) {
	pod := &cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: "a"}, Node: "node1", IPs: []netip.Addr{netip.MustParseAddr("10.244.1.2")}}
	o := cluster.Objects{Pods: []*cluster.Pod{pod}, Nodes: []*cluster.Node{{Meta: cluster.Meta{Name: "node1"}}}}
	nodes := &oneOf{}
	where := trace.New(o.State(), nodes)
	for _, expect := range []string{"allow", "deny"} {
		list, err := parseExpectations("x", fmt.Appendf(nil, `[{from: x/a, to: "10.96.0.10:80", expect: %s}]`, expect))
		if err != nil {
			t.Fatal(err)
		}
		v, err := verify(t.Context(), where, list)
		if err != nil {
			t.Fatal(err)
		}
		if len(v.Differences) != 1 {
			t.Errorf("%s of a service with an endpoint that is refused and one that is not: %+v", expect, v)
		}
	}
	if nodes.asked != 6+1 {
		t.Errorf("asked %d times", nodes.asked)
	}
}

// TestVerifyFamilies: both families of pods that have both must be as expected; a
// row is of one where the other is as expected.
func TestVerifyFamilies(t *testing.T) {
	pod := func(name, v4, v6 string) *cluster.Pod {
		return &cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: name, Labels: map[string]string{"app": name}}, Node: "node1",
			IPs: []netip.Addr{netip.MustParseAddr(v4), netip.MustParseAddr(v6)}}
	}
	o := cluster.Objects{
		Namespaces: []*cluster.Namespace{{Meta: cluster.Meta{Name: "x"}}},
		Nodes: []*cluster.Node{{Meta: cluster.Meta{Name: "node1"},
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")}}},
		Pods: []*cluster.Pod{pod("a", "10.244.1.2", "fd00:10:244:1::2"), pod("b", "10.244.1.3", "fd00:10:244:1::3")},
		NetworkPolicies: []*cluster.NetworkPolicy{{Meta: cluster.Meta{Namespace: "x", Name: "only4"}, IsolatesIngress: true,
			Pods: cluster.Selector{Requirements: []cluster.Requirement{{Key: "app", Operator: cluster.SelectIn, Values: []string{"b"}}}},
			Ingress: []cluster.PolicyRule{{Action: cluster.ActionAccept,
				Peers: []cluster.PolicyPeer{{Blocks: []cluster.IPBlock{{CIDR: netip.MustParsePrefix("0.0.0.0/0")}}}}}}}},
	}
	state := o.State()
	f, err := fabric.FromState(state, fabric.Config{Inline: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	list, err := parseExpectations("x", []byte(`[{from: x/a, to: "x/b:80", expect: allow}, {from: x/b, to: "x/a:80", expect: deny},
  {from: x/b, to: "x/a:80", expect: allow}, {from: 10.244.1.2, to: "x/b:80", expect: allow}]`))
	if err != nil {
		t.Fatal(err)
	}
	v, err := verify(t.Context(), trace.New(state, f), list)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	printVerified(&got, v)
	want := `WHERE   FROM   TO       PROTO      EXPECTED   GOT     REASON           POLICY
x:1     x/a    x/b:80   tcp IPv6   allow      deny    policy-ingress   NetworkPolicy x/only4
x:1     x/b    x/a:80   tcp        deny       allow   <none>           <none>

2 of 4 as expected
`
	if squeeze(got.String()) != squeeze(want) {
		t.Errorf("got\n%s\nwant\n%s", &got, want)
	}
}

// squeeze takes out what aligns columns.
func squeeze(s string) string {
	var out []string
	for line := range strings.Lines(s) {
		out = append(out, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(out, "\n")
}

// TestVerifyIsFast: ten thousand expectations take seconds.
func TestVerifyIsFast(t *testing.T) {
	var o cluster.Objects
	for n := range 4 {
		o.Nodes = append(o.Nodes, &cluster.Node{Meta: cluster.Meta{Name: fmt.Sprintf("node%d", n)},
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", n))}})
		for p := range 25 {
			o.Pods = append(o.Pods, &cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: fmt.Sprintf("p%d-%d", n, p)},
				Node: fmt.Sprintf("node%d", n), IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, byte(n), byte(2 + p)})}})
		}
	}
	state := o.State()
	f, err := fabric.FromState(state, fabric.Config{Inline: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var names []string
	for _, p := range o.Pods {
		names = append(names, p.Key().String())
	}
	text := fmt.Sprintf("[{from: [%s], to: [%s], expect: allow}]", strings.Join(names, ", "), strings.Join(names, ":80, ")+":80")
	list, err := parseExpectations("x", []byte(text))
	if err != nil || len(list) != 10000 {
		t.Fatal(len(list), err)
	}
	start := time.Now()
	where := trace.New(state, f)
	if err := checkExpectations(where, list); err != nil {
		t.Fatal(err)
	}
	v, err := verify(t.Context(), where, list)
	if err != nil || v.AsExpected != 10000 {
		t.Errorf("%d of 10000, %v", v.AsExpected, err)
	}
	// It takes a tenth of a second on an idle machine.
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("10,000 expectations took %s", took)
	} else {
		t.Logf("10,000 expectations took %s", took)
	}
}

func FuzzExpectations(f *testing.F) {
	for _, s := range []string{
		`[{from: x/a, to: "x/b:80", expect: allow}]`,
		"- from: [x/a, x/b]\n  to: x/c\n  proto: icmp\n  expect: deny\n---\n- {}",
		"a: b", "- - -", "&a [*a]", "- {<<: 1}", "\t", "- {from: \"\", to: [], expect: no, at: 1}", "- {? [] : 1}", "- ~",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseExpectations("f", data)
		for _, e := range list {
			if e.line < 1 || e.probe.From == "" || e.probe.To == "" || e.expect != expectAllow && e.expect != expectDeny && e.expect != expectReject {
				t.Errorf("%+v", e)
			}
		}
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, "f:") {
					t.Errorf("%q does not say where", line)
				}
			}
		}
	})
}
