package policy

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"vswitch/vswitch/cluster"
)

// TestReportIsTrue takes rules that are reported as unused or shadowed out of
// random policies, one at a time: the oracle's answers must stay as they are.
func TestReportIsTrue(t *testing.T) {
	unused, shadowed := 0, 0
	for seed := range uint64(60) {
		m := maker{rand.New(rand.NewPCG(seed, 2))}
		w := &world{}
		for len(w.pods)+len(w.policies)+len(w.clusterPolicies) < 25 {
			m.change(w)
		}
		c := NewCompiler("")
		c.Apply(w.all())
		for _, r := range c.Report() {
			for i, remark := range slices.Concat(r.Unused, r.Shadowed) {
				if i < len(r.Unused) {
					unused++
				} else {
					shadowed++
				}
				checkWithout(t, m, w, r.Policy, remark)
			}
		}
	}
	if unused < 50 || shadowed < 50 {
		t.Errorf("only %d unused and %d shadowed rules: the worlds are too tame", unused, shadowed)
	}
}

func checkWithout(t *testing.T, m maker, w *world, policy string, r Remark) {
	t.Helper()
	without := *w
	without.policies, without.clusterPolicies = slices.Clone(w.policies), slices.Clone(w.clusterPolicies)
	take := func(egress, ingress *[]cluster.PolicyRule) {
		list := egress
		if r.Direction == Ingress {
			list = ingress
		}
		*list = slices.Delete(slices.Clone(*list), r.Rule, r.Rule+1)
	}
	for i, p := range w.policies {
		if "NetworkPolicy "+p.Key().String() == policy {
			q := *p
			take(&q.Egress, &q.Ingress)
			without.policies[i] = &q
		}
	}
	for i, p := range w.clusterPolicies {
		if "ClusterNetworkPolicy "+p.Name == policy {
			q := *p
			take(&q.Egress, &q.Ingress)
			without.clusterPolicies[i] = &q
		}
	}
	for range 300 {
		q := m.question()
		q.dir = r.Direction
		if len(w.pods) > 0 {
			ip := w.pods[m.IntN(len(w.pods))].IPs[0]
			if q.dir == Egress {
				q.from = ip
			} else {
				q.to = ip
			}
		}
		if a, b := w.oracle(q), without.oracle(q); a.allowed != b.allowed {
			t.Fatalf("%s %s rule %d is said to do nothing (%s), but decides %+v", policy, r.Direction, r.Rule, r.Text, q)
		}
	}
}

// TestReport shows each kind of remark once.
func TestReport(t *testing.T) {
	tcp := func(name string, first, last uint16) []cluster.PolicyPort {
		return []cluster.PolicyPort{{Protocol: 6, Name: name, First: first, Last: last}}
	}
	accept := func(ports []cluster.PolicyPort, peers ...cluster.PolicyPeer) cluster.PolicyRule {
		return cluster.PolicyRule{Action: cluster.ActionAccept, Ports: ports, Peers: peers}
	}
	pods := func(app string) cluster.PolicyPeer { return cluster.PolicyPeer{Pods: equals("app", app)} }
	meta := func(name string) cluster.Meta { return cluster.Meta{Namespace: "x", Name: name} }
	everywhere := cluster.PolicyPeer{Namespaces: &cluster.Selector{}}
	w := &world{
		pods: []*cluster.Pod{testPod("x", "web", "n1", "10.0.0.1"), testPod("x", "db", "n2", "10.0.0.2"), testPod("y", "web", "n1", "10.0.0.3")},
		policies: []*cluster.NetworkPolicy{
			{Meta: meta("a"), Pods: *equals("app", "web"), IsolatesIngress: true, Ingress: []cluster.PolicyRule{
				accept(tcp("", 80, 90), pods("db")), accept(tcp("", 85, 85), pods("db")),
				accept(nil, pods("nobody")), accept(tcp("metrics", 0, 0), pods("db"))},
				Egress: []cluster.PolicyRule{accept(nil)}},
			{Meta: meta("b"), Invalid: "spec.ingress[0].ports[0].port: 70000 is not a port"},
			{Meta: meta("c"), Pods: cluster.Selector{Requirements: []cluster.Requirement{{Key: "app", Operator: "Near"}}}},
		},
		clusterPolicies: []*cluster.ClusterNetworkPolicy{
			{Meta: cluster.Meta{Name: "late"}, Tier: cluster.TierAdmin, Priority: 2, Subject: everywhere,
				Ingress: []cluster.PolicyRule{{Action: cluster.ActionDeny, Peers: []cluster.PolicyPeer{everywhere}, Ports: tcp("", 22, 22)}}},
			{Meta: cluster.Meta{Name: "early"}, Tier: cluster.TierAdmin, Priority: 1, Subject: everywhere,
				Ingress: []cluster.PolicyRule{{Action: cluster.ActionPass, Peers: []cluster.PolicyPeer{everywhere}}}},
		},
	}
	c := NewCompiler("n1")
	c.Apply(w.all())
	want := []PolicyReport{
		{Policy: "ClusterNetworkPolicy early", Pods: 3, Local: 2},
		{Policy: "ClusterNetworkPolicy late", Pods: 3, Local: 2,
			Shadowed: []Remark{{Ingress, 0, "ClusterNetworkPolicy early rule 0"}}},
		{Policy: "NetworkPolicy x/a", Pods: 1, Local: 1,
			Problems: []string{`ingress rule 3 names the port "metrics", which no pod that it selects has`},
			Unused: []Remark{{Egress, 0, "the policy does not isolate egress, so its rules of that direction do nothing"},
				{Ingress, 2, "no pod or node is one of its peers"}},
			Shadowed: []Remark{{Ingress, 1, "NetworkPolicy x/a rule 0"}}},
		{Policy: "NetworkPolicy x/b", Pods: 2, Local: 1, Problems: []string{"spec.ingress[0].ports[0].port: 70000 is not a port"}},
		{Policy: "NetworkPolicy x/c", Pods: 2, Local: 1, Problems: []string{
			`podSelector has the operator "Near", which is not known; so the policy selects all pods of its namespace`}},
	}
	if got := c.Report(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for _, r := range c.Report() {
		if strings.Contains(strings.Join(r.Problems, ""), "\n") {
			t.Errorf("%s: a problem has several lines", r.Policy)
		}
	}
}

// TestShadesIndex compares the rules that the index finds with those that a walk
// over all rules of the same subject finds.
func TestShadesIndex(t *testing.T) {
	found := 0
	for seed := range uint64(150) {
		m := maker{rand.New(rand.NewPCG(seed, 8))}
		w := &world{}
		for len(w.policies)+len(w.clusterPolicies) < 12 {
			m.change(w)
		}
		for _, p := range w.policies { // of few subjects
			if m.oneIn(2) {
				p.Pods = cluster.Selector{}
			}
		}
		c := NewCompiler("")
		c.Apply(w.all())
		var all []*policy
		for _, p := range c.policies {
			all = append(all, p)
		}
		slices.SortFunc(all, comparePolicies)
		index := newShades(all)
		for _, p := range all {
			for dir := range p.rules {
				for _, r := range p.rules[dir] {
					got, want := index.over(r), walk(all, r)
					if got != want && (got == nil || want == nil || got.String() != want.String()) {
						t.Fatalf("seed %d: %s %s is shadowed by %v, a walk finds %v", seed, r, Direction(dir), got, want)
					}
					if want != nil {
						found++
					}
				}
			}
		}
	}
	if found < 200 {
		t.Errorf("only %d shadowed rules", found)
	}
}

// walk is shades.over without an index.
func walk(all []*policy, r *rule) *rule {
	if r.policy.subject == nil {
		return nil
	}
	for _, key := range []string{subjectKey(r.policy), everything(r.policy)} {
		for _, p := range all {
			if p.subject == nil || subjectKey(p) != key {
				continue
			}
			rules := p.rules[r.dir]
			if p.tier != network && len(p.problems) > 0 {
				rules = []*rule{{policy: p, dir: r.dir, index: -1, spec: &cluster.PolicyRule{}}}
			}
			for _, q := range rules {
				if q != r && shadows(q, r) && covers(q, r) {
					return q
				}
			}
		}
	}
	return nil
}
