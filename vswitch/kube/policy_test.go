package kube

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	extensionsv1beta1 "k8s.io/api/extensions/v1beta1"
	networkingv1 "k8s.io/api/networking/v1"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/kube/kubetest"
)

func bareNetworkPolicies(meta func(ns, name string) cluster.Meta) []*cluster.NetworkPolicy {
	prefix := netip.MustParsePrefix
	in := func(key string, values ...string) cluster.Requirement {
		return cluster.Requirement{Key: key, Operator: cluster.SelectIn, Values: values}
	}
	all := []cluster.Requirement{
		in("app", "web"), in("tier", "a", "b"),
		{Key: "tier", Operator: cluster.SelectNotIn, Values: []string{"c"}},
		{Key: "x", Operator: cluster.SelectNotExists}, {Key: "y", Operator: cluster.SelectExists},
	}
	return []*cluster.NetworkPolicy{
		{Meta: meta("shop", "deny"), IsolatesIngress: true},
		{Meta: meta("shop", "web"), Pods: cluster.Selector{Requirements: all}, IsolatesIngress: true, IsolatesEgress: true,
			Ingress: []cluster.PolicyRule{
				{Action: cluster.ActionAccept},
				{Action: cluster.ActionAccept, Peers: []cluster.PolicyPeer{
					{Pods: &cluster.Selector{}},
					{Namespaces: &cluster.Selector{Requirements: []cluster.Requirement{in("team", "a")}}},
					{Namespaces: &cluster.Selector{}, Pods: &cluster.Selector{Requirements: []cluster.Requirement{in("a", "b")}}},
					{Blocks: []cluster.IPBlock{{CIDR: prefix("10.0.0.0/8"), Except: []netip.Prefix{prefix("10.1.0.0/16"), prefix("10.2.0.0/16")}}}},
				}, Ports: []cluster.PolicyPort{{Protocol: 6}, {Protocol: 17, First: 53, Last: 53}, {Protocol: 132, First: 1, Last: 65535}, {Protocol: 6, Name: "http"}}},
			},
			Egress: []cluster.PolicyRule{{Action: cluster.ActionAccept, Peers: []cluster.PolicyPeer{{Blocks: []cluster.IPBlock{{CIDR: prefix("fd00::/8")}}}}}}},
	}
}

// policies reads NetworkPolicies without what says where they came from.
func policies(t *testing.T, text string) []*cluster.NetworkPolicy {
	t.Helper()
	o, warnings, err := Parse("x", []byte(text))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	for _, p := range o.NetworkPolicies {
		p.Meta = cluster.Meta{Name: p.Name}
	}
	return o.NetworkPolicies
}

// TestNetworkPolicyNouns: what is missing and what is empty, policy types by
// default, and every kind of peer and port, as nouns.
func TestNetworkPolicyNouns(t *testing.T) {
	accept := func(peers []cluster.PolicyPeer, ports ...cluster.PolicyPort) []cluster.PolicyRule {
		return []cluster.PolicyRule{{Action: cluster.ActionAccept, Peers: peers, Ports: ports}}
	}
	label := func(k, v string) *cluster.Selector {
		return &cluster.Selector{Requirements: []cluster.Requirement{{Key: k, Operator: cluster.SelectIn, Values: []string{v}}}}
	}
	prefix := netip.MustParsePrefix
	for _, c := range []struct {
		spec string
		want cluster.NetworkPolicy
	}{
		{`{}`, cluster.NetworkPolicy{IsolatesIngress: true}},
		{`{podSelector: {}, ingress: []}`, cluster.NetworkPolicy{IsolatesIngress: true}},
		{`{podSelector: {}, egress: []}`, cluster.NetworkPolicy{IsolatesIngress: true}},
		{`{podSelector: {}, egress: [{}]}`, cluster.NetworkPolicy{IsolatesIngress: true, IsolatesEgress: true, Egress: accept(nil)}},
		{`{podSelector: {}, policyTypes: []}`, cluster.NetworkPolicy{IsolatesIngress: true}},
		{`{podSelector: {}, policyTypes: [Egress]}`, cluster.NetworkPolicy{IsolatesEgress: true}},
		{`{podSelector: {}, policyTypes: [Egress, Ingress]}`, cluster.NetworkPolicy{IsolatesIngress: true, IsolatesEgress: true}},
		{`{podSelector: {}, policyTypes: [Egress, Egress]}`, cluster.NetworkPolicy{IsolatesEgress: true}},
		{`{podSelector: {}, ingress: [{}]}`, cluster.NetworkPolicy{IsolatesIngress: true, Ingress: accept(nil)}},
		{`{podSelector: {}, ingress: [null]}`, cluster.NetworkPolicy{IsolatesIngress: true, Ingress: accept(nil)}},
		{`{podSelector: {}, ingress: [{from: [], ports: []}]}`, cluster.NetworkPolicy{IsolatesIngress: true, Ingress: accept(nil)}},
		{`{podSelector: {}, ingress: [{from: null, ports: null}]}`, cluster.NetworkPolicy{IsolatesIngress: true, Ingress: accept(nil)}},
		{`{podSelector: {matchLabels: {a: b}, matchExpressions: [{key: a, operator: In, values: [b]}]}}`,
			cluster.NetworkPolicy{Pods: *label("a", "b"), IsolatesIngress: true}},
		{`{podSelector: {matchExpressions: [{key: a, operator: NotIn, values: [c, b, c]}]}}`, cluster.NetworkPolicy{IsolatesIngress: true,
			Pods: cluster.Selector{Requirements: []cluster.Requirement{{Key: "a", Operator: cluster.SelectNotIn, Values: []string{"b", "c"}}}}}},
		{`{ingress: [{from: [{podSelector: {}}, {namespaceSelector: {}}, {namespaceSelector: {matchLabels: {a: b}}, podSelector: {matchLabels: {c: d}}}]}]}`,
			cluster.NetworkPolicy{IsolatesIngress: true, Ingress: accept([]cluster.PolicyPeer{
				{Pods: &cluster.Selector{}}, {Namespaces: &cluster.Selector{}}, {Namespaces: label("a", "b"), Pods: label("c", "d")}})}},
		{`{ingress: [{from: [{ipBlock: {cidr: 10.1.2.3/8, except: [010.1.0.0/16]}}, {ipBlock: {cidr: "::/0"}}]}]}`,
			cluster.NetworkPolicy{IsolatesIngress: true, Ingress: accept([]cluster.PolicyPeer{
				{Blocks: []cluster.IPBlock{{CIDR: prefix("10.0.0.0/8"), Except: []netip.Prefix{prefix("10.1.0.0/16")}}}},
				{Blocks: []cluster.IPBlock{{CIDR: prefix("::/0")}}}})}},
		{`{ingress: [{ports: [{}, {port: 80}, {port: http}, {protocol: UDP}, {protocol: SCTP, port: 7, endPort: 9}, {port: 5, endPort: 5}]}]}`,
			cluster.NetworkPolicy{IsolatesIngress: true, Ingress: accept(nil,
				cluster.PolicyPort{Protocol: 6}, cluster.PolicyPort{Protocol: 6, First: 80, Last: 80}, cluster.PolicyPort{Protocol: 6, Name: "http"},
				cluster.PolicyPort{Protocol: 17}, cluster.PolicyPort{Protocol: 132, First: 7, Last: 9}, cluster.PolicyPort{Protocol: 6, First: 5, Last: 5})}},
	} {
		for _, version := range []string{"networking.k8s.io/v1", "extensions/v1beta1"} {
			got := policies(t, fmt.Sprintf("apiVersion: %s\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: %s\n", version, c.spec))
			c.want.Meta = cluster.Meta{Name: "p"}
			if d := cmp.Diff([]*cluster.NetworkPolicy{&c.want}, got, comparers); d != "" {
				t.Errorf("%s %s (-want +got):\n%s", version, c.spec, d)
			}
		}
	}
}

// TestExtensionsHasTheFormOfV1: the older version is decoded as v1, so it must
// have the same fields, of the same types.
func TestExtensionsHasTheFormOfV1(t *testing.T) {
	if d := cmp.Diff(form(reflect.TypeFor[networkingv1.NetworkPolicy]()), form(reflect.TypeFor[extensionsv1beta1.NetworkPolicy]())); d != "" {
		t.Error(d)
	}
}

// form is a type's JSON fields and theirs.
func form(t reflect.Type) any {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t.Kind() == reflect.Slice:
		return []any{form(t.Elem())}
	case t.Kind() != reflect.Struct || decodesItself(t):
		return t.Kind().String()
	}
	fields := map[string]any{}
	for name, f := range fieldsOf(t) {
		if name != "metadata" {
			fields[name] = form(f)
		}
	}
	return fields
}

func TestNamespaceIsolation(t *testing.T) {
	for _, c := range []struct {
		value string
		want  bool
		err   string
	}{
		{`{"ingress":{"isolation":"DefaultDeny"}}`, true, ""},
		{"{\n  \"ingress\": {\n    \"isolation\": \"DefaultDeny\"\n  }\n}\n", true, ""},
		{`{}`, false, ""},
		{`{"ingress":{}}`, false, ""},
		{`{"ingress":null}`, false, ""},
		{``, false, "must be JSON"},
		{`null`, false, "must be JSON"},
		{`"DefaultDeny"`, false, "must be JSON"},
		{`{"ingress":{"isolation":"DefaultDeny"}`, false, "must be JSON"},
		{`{"ingress":{"isolation":"DefaultDeny"}}}`, false, "must be JSON"},
		{`{"egress":{"isolation":"DefaultDeny"}}`, false, "must be JSON"},
		{`{"ingress":{"isolation":""}}`, false, `isolation "" is not known`},
		{`{"ingress":{"isolation":"defaultDeny"}}`, false, `isolation "defaultDeny" is not known`},
	} {
		o, _, err := Parse("x", fmt.Appendf(nil, "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  annotations:\n    net.beta.kubernetes.io/network-policy: %q\n", c.value))
		switch {
		case c.err != "":
			if err == nil || !strings.HasPrefix(err.Error(), "x:6: Namespace shop: metadata.annotations[net.beta.kubernetes.io/network-policy]: ") || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v", c.value, err)
			}
		case err != nil || o.Namespaces[0].IsolatesIngress != c.want:
			t.Errorf("%s: %v %v", c.value, o, err)
		}
	}
}

// TestCases reads all policies that Kubernetes' own tests of network policies
// make.
func TestCases(t *testing.T) {
	var file struct {
		Cases []struct {
			ID    string
			Steps []struct{ Actions []map[string]any }
		}
	}
	kubetest.Cases(t, "netpol-e2e.json", &file)
	read := 0
	for _, c := range file.Cases {
		for _, s := range c.Steps {
			for _, a := range s.Actions {
				for what, v := range a {
					text, ok := v.(string)
					if !ok || !strings.Contains(text, "kind: NetworkPolicy") {
						continue
					}
					o, warnings, err := Parse(c.ID, []byte(text))
					if err != nil || len(warnings) > 0 || len(o.NetworkPolicies) != 1 {
						t.Errorf("%s %s: %v %v\n%s", c.ID, what, err, warnings, text)
					}
					read++
				}
			}
		}
	}
	if len(file.Cases) > 0 && read < len(file.Cases)/2 {
		t.Errorf("only %d policies in %d cases", read, len(file.Cases))
	}
}
