package kube

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vswitch/vswitch/cluster"
)

func bareClusterPolicies(meta func(ns, name string) cluster.Meta) []*cluster.ClusterNetworkPolicy {
	prefix := netip.MustParsePrefix
	pods := cluster.PolicyPeer{Namespaces: &cluster.Selector{}, Pods: &cluster.Selector{Requirements: []cluster.Requirement{{Key: "a", Operator: cluster.SelectExists}}}}
	all := cluster.PolicyPeer{Namespaces: &cluster.Selector{}}
	return []*cluster.ClusterNetworkPolicy{
		{Meta: meta("", "admin"), Tier: cluster.TierAdmin, Priority: 7, Subject: pods,
			Ingress: []cluster.PolicyRule{{Name: "first", Action: cluster.ActionAccept, Peers: []cluster.PolicyPeer{all, pods}}, {Action: cluster.ActionPass, Peers: []cluster.PolicyPeer{pods}}},
			Egress: []cluster.PolicyRule{{Action: cluster.ActionDeny, Peers: []cluster.PolicyPeer{pods, {Nodes: &cluster.Selector{}}, {Blocks: []cluster.IPBlock{{CIDR: prefix("10.0.0.0/8")}, {CIDR: prefix("::/0")}}}},
				Ports: []cluster.PolicyPort{{Protocol: 6, First: 1, Last: 1}, {Protocol: 17, First: 1, Last: 65535}, {Protocol: 132, First: 9, Last: 9}}},
				{Action: cluster.ActionDeny, Peers: []cluster.PolicyPeer{all}, Ports: []cluster.PolicyPort{{Name: "http"}}}}},
		{Meta: meta("", "baseline"), Tier: cluster.TierBaseline, Subject: all},
	}
}

// TestClusterNetworkPolicyNoun: every kind of peer, port and action as a noun.
func TestClusterNetworkPolicyNoun(t *testing.T) {
	o, warnings, err := Parse("x", []byte(`
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
  tier: Baseline
  priority: 12
  subject: {pods: {podSelector: {matchLabels: {a: b}}}}
  ingress:
  - {action: Pass, from: [{namespaces: {matchLabels: {c: d}}}]}
  egress:
  - name: one
    action: Accept
    to: [{pods: {namespaceSelector: {matchLabels: {c: d}}, podSelector: {}}}]
    protocols: [{destinationNamedPort: http}, {udp: {destinationPort: {number: 53}}}]
  - name: two
    action: Deny
    to: [{nodes: {}}, {networks: [10.0.0.0/8, "fd00::/8"]}]
    protocols: [{tcp: {destinationPort: {range: {start: 5, end: 6}}}}, {sctp: {destinationPort: {number: 65535}}}]
`))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	label := func(k, v string) *cluster.Selector {
		return &cluster.Selector{Requirements: []cluster.Requirement{{Key: k, Operator: cluster.SelectIn, Values: []string{v}}}}
	}
	want := []*cluster.ClusterNetworkPolicy{{Meta: cluster.Meta{Name: "p"}, Tier: cluster.TierBaseline, Priority: 12,
		Subject: cluster.PolicyPeer{Namespaces: &cluster.Selector{}, Pods: label("a", "b")},
		Ingress: []cluster.PolicyRule{{Action: cluster.ActionPass, Peers: []cluster.PolicyPeer{{Namespaces: label("c", "d")}}}},
		Egress: []cluster.PolicyRule{
			{Name: "one", Action: cluster.ActionAccept, Peers: []cluster.PolicyPeer{{Namespaces: label("c", "d"), Pods: &cluster.Selector{}}},
				Ports: []cluster.PolicyPort{{Name: "http"}, {Protocol: 17, First: 53, Last: 53}}},
			{Name: "two", Action: cluster.ActionDeny, Peers: []cluster.PolicyPeer{{Nodes: &cluster.Selector{}},
				{Blocks: []cluster.IPBlock{{CIDR: netip.MustParsePrefix("10.0.0.0/8")}, {CIDR: netip.MustParsePrefix("fd00::/8")}}}},
				Ports: []cluster.PolicyPort{{Protocol: 6, First: 5, Last: 6}, {Protocol: 132, First: 65535, Last: 65535}}},
		}}}
	o.ClusterNetworkPolicies[0].Meta = cluster.Meta{Name: "p"}
	if d := cmp.Diff(want, o.ClusterNetworkPolicies, comparers); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// TestStandIns: a policy that is refused has a stand-in if it is certain which
// pods it selects, and only then.
func TestStandIns(t *testing.T) {
	const bad = "ingress: [{ports: [{port: 0}]}]"
	web := cluster.Selector{Requirements: []cluster.Requirement{{Key: "app", Operator: cluster.SelectIn, Values: []string{"web"}}}}
	for _, c := range []struct {
		meta, spec string
		want       *cluster.Selector // nil: there is none
	}{
		{"{name: p}", "{podSelector: {matchLabels: {app: web}}, " + bad + "}", &web},
		{"{name: p}", "{podSelector: {}, " + bad + "}", &cluster.Selector{}},
		{"{name: p}", "{" + bad + "}", &cluster.Selector{}},
		{"{name: p, labels: {a: 1}}", "{podSelector: {matchLabels: {app: web}}}", &web},
		{"{name: p}", "{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingres]}", &web},
		{"{name: p}", "{podSelector: {matchLabels: {app: web}}, rules: []}", &web},
		{"{name: p}", "{rules: []}", nil},
		{"{name: p}", "{podSelecter: {matchLabels: {app: web}}, " + bad + "}", nil},
		{"{name: p}", "{podSelector: {matchlabels: {app: web}}, " + bad + "}", nil},
		{"{name: p}", "{podSelector: {matchLabels: {app: 1}}}", nil},
		{"{name: p}", "{podSelector: {matchExpressions: [{key: a, operator: In}]}}", nil},
		{"{name: p}", "[]", nil},
		{"{name: P}", "{podSelector: {}, " + bad + "}", nil},
		{"{name: p, namespace: a_b}", "{podSelector: {}, " + bad + "}", nil},
		{"{generateName: p-}", "{podSelector: {}, " + bad + "}", nil},
	} {
		_, _, err := Parse("f", []byte("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: "+c.meta+"\nspec: "+c.spec+"\n"))
		if err == nil {
			t.Errorf("%s %s is accepted", c.meta, c.spec)
			continue
		}
		got := StandIns(err)
		if c.want == nil {
			if got.Len() > 0 || len(Unclear(err)) != 1 {
				t.Errorf("%s %s: %+v, unclear %q", c.meta, c.spec, got.NetworkPolicies, Unclear(err))
			}
			continue
		}
		first, _, _ := strings.Cut(err.Error(), "\n")
		_, reason, _ := strings.Cut(first, "NetworkPolicy default/p: ")
		want := []*cluster.NetworkPolicy{{Meta: cluster.Meta{Namespace: "default", Name: "p", Source: "f:1"}, Pods: *c.want,
			IsolatesIngress: true, IsolatesEgress: true, Invalid: reason}}
		if d := cmp.Diff(want, got.NetworkPolicies); d != "" {
			t.Errorf("%s %s (-want +got):\n%s", c.meta, c.spec, d)
		}
	}
	if StandIns(nil).Len() != 0 {
		t.Error("something stands for nothing")
	}
}

func TestClusterStandIns(t *testing.T) {
	subject := "subject: {namespaces: {}}"
	for _, c := range []struct {
		spec string
		want string // tier and priority; empty: there is none
	}{
		{"{tier: Baseline, priority: 5, " + subject + ", ingress: [{action: Drop, from: [{namespaces: {}}]}]}", "Baseline 5"},
		{"{tier: Base, priority: 5, " + subject + "}", "Admin 5"},
		{"{priority: 5, " + subject + "}", "Admin 5"},
		{"{tier: Baseline, " + subject + "}", "Baseline 0"},
		{"{tier: Baseline, priority: 2000, " + subject + "}", "Baseline 0"},
		{"{tier: Baseline, priority: high, " + subject + "}", "Baseline 0"},
		{"{tier: Admin, priority: 1, subject: {}}", ""},
		{"{tier: Admin, priority: 1}", ""},
		{"{tier: Admin, priority: 1, subject: {namespaces: {}, pods: {podSelector: {}}}}", ""},
		{"{tier: Admin, priority: 1, subject: {pods: {}}}", ""},
		{"{tier: Admin, priority: 1, subjekt: {namespaces: {}}}", ""},
	} {
		_, _, err := Parse("f", []byte("apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: p}\nspec: "+c.spec+"\n"))
		if err == nil {
			t.Errorf("%s is accepted", c.spec)
			continue
		}
		got := ""
		for _, p := range StandIns(err).ClusterNetworkPolicies {
			got = string(p.Tier) + " " + string(rune('0'+p.Priority))
			if p.Invalid == "" || p.Subject.Namespaces == nil || p.Name != "p" {
				t.Errorf("%s: %+v", c.spec, p)
			}
		}
		if got != c.want || (got == "") != (len(Unclear(err)) == 1) {
			t.Errorf("%s: got %q, want %q", c.spec, got, c.want)
		}
	}
}

// TestEncodeStandIn: what is written of a policy with a fault is what is in
// force, and why. The reason is not read back.
func TestEncodeStandIn(t *testing.T) {
	_, _, err := Parse("f", []byte("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {matchLabels: {a: b}}, ingress: [{}], policyTypes: [A]}\n---\n"+
		"apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: p}\nspec: {tier: Admin, priority: 7, subject: {namespaces: {}}, ingress: [{}]}\n"))
	list := StandIns(err)
	created := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	list.ClusterNetworkPolicies[0].Created, list.ClusterNetworkPolicies[0].Generation = created, 2
	got := encodeAll(t, list)
	want := `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  annotations:
    vswitch/invalid: 'spec.policyTypes[0]: Unsupported value: "A": supported values:
      "Egress", "Ingress"'
  name: p
  namespace: default
spec:
  podSelector:
    matchLabels:
      a: b
  policyTypes:
  - Ingress
  - Egress
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata:
  creationTimestamp: "2024-05-06T07:08:09Z"
  generation: 2
  name: p
spec:
  egress:
  - action: Deny
    to:
    - networks:
      - 0.0.0.0/0
      - ::/0
  ingress:
  - action: Deny
    from:
    - namespaces: {}
  priority: 7
  subject:
    namespaces: {}
  tier: Admin
status:
  conditions:
  - lastTransitionTime: "2024-05-06T07:08:09Z"
    message: 'spec.ingress[0].action: Required value: must be one of Accept, Deny,
      Pass'
    observedGeneration: 2
    reason: Invalid
    status: "False"
    type: Accepted
`
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	o, _, err := Parse("again", []byte(got))
	if err != nil || o.NetworkPolicies[0].Annotations != nil || o.NetworkPolicies[0].Invalid != "" {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestRemark(t *testing.T) {
	_, _, err := Parse("f", []byte("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {policyTypes: [A], ingress: [{ports: [{port: 0}]}]}\n---\nkind: Pod\napiVersion: v1\nmetadata: {name: a}\n"))
	all := strings.Split(err.Error(), "\n")
	all[1] += "; so there"
	got := Remark(err, "NetworkPolicy default/p", "; so there")
	if d := cmp.Diff(all, strings.Split(got.Error(), "\n")); d != "" || len(all) != 3 {
		t.Error(d)
	}
	if StandIns(got).Len() != 1 || len(Unclear(got)) != 0 {
		t.Error("the stand-ins are lost")
	}
}
