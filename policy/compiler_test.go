package policy

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"vswitch/vswitch/packet"
)

func (s *Set) answer(q question) (answer, Verdict) {
	from, to := packet.AddrFrom(q.from), packet.AddrFrom(q.to)
	ask := s.Egress
	if q.dir == Ingress {
		ask = s.Ingress
	}
	v := ask(&from, &to, q.proto, q.port)
	return answer{v.Allowed, v.Pending, v.Policy()}, v
}

// check compares a Set to the oracle by some questions.
func (w *world) check(t *testing.T, m maker, s *Set, questions int, what string) {
	t.Helper()
	for range questions {
		q := m.question()
		if len(w.pods) > 0 && !m.oneIn(4) { // about a pod that there is
			p := w.pods[m.IntN(len(w.pods))]
			if q.dir == Egress {
				q.from = p.IPs[m.IntN(len(p.IPs))]
			} else {
				q.to = p.IPs[m.IntN(len(p.IPs))]
			}
		}
		got, v := s.answer(q)
		if want := w.oracle(q); got != want {
			dump, _ := json.MarshalIndent(map[string]any{"namespaces": w.namespaces, "nodes": w.nodes, "pods": w.pods,
				"policies": w.policies, "clusterPolicies": w.clusterPolicies}, "", " ")
			t.Fatalf("%s, node %q: %s %s -> %s proto %d port %d:\ngot  %+v (%s)\nwant %+v\n%s",
				what, w.node, q.dir, q.from, q.to, q.proto, q.port, got, v.Why(), want, dump)
		}
		if v.Count(); !got.allowed && !got.pending && m.oneIn(20) {
			for _, name := range strings.Split(strings.Split(got.policy, " rule")[0], ", ") {
				counted := slices.ContainsFunc(s.Drops(), func(d Drop) bool {
					return d.Policy == name && d.Pod.String() == v.pod.name && d.Direction == q.dir
				})
				if !counted {
					t.Fatalf("%s: a drop of %s by %s was not counted: %v", what, v.pod.name, name, s.Drops())
				}
			}
		}
		why := v.Why()
		for _, name := range strings.Split(strings.Split(got.policy, " rule")[0], ", ") {
			if why == "" || !strings.Contains(why, strings.TrimPrefix(name, "NetworkPolicy ")) {
				t.Fatalf("Why() of %+v is %q", got, why)
			}
		}
	}
}

// TestAgainstOracle lets random worlds change, and compares after each change
// the Set that followed them, and one made afresh, with the oracle.
func TestAgainstOracle(t *testing.T) {
	for seed := range uint64(120) {
		m := maker{rand.New(rand.NewPCG(seed, 1))}
		follow(t, m, 60, 40)
	}
}

func follow(t *testing.T, m maker, steps, questions int) {
	t.Helper()
	w := &world{node: m.pick("", "n1", "n2")}
	c := NewCompiler(w.node)
	for step := range steps {
		ch := m.change(w)
		for step == 0 && len(w.pods)+len(w.policies) < 12 { // begin with some
			join(ch, m.change(w))
		}
		c.Apply(ch)
		w.check(t, m, c.Set(), questions, "after changes")
		if m.oneIn(8) {
			fresh := NewCompiler(w.node)
			fresh.Apply(w.all())
			w.check(t, m, fresh.Set(), questions, "made afresh")
		}
	}
}
