package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"vswitch/policy"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/lab"
)

var (
	policyHeader = []string{"NAMESPACE", "NAME", "TIER", "POD-SELECTOR", "TYPES", "PODS", "AGE", "DROPPED", "PROBLEMS", "UNUSED", "SHADOWED"}
	netpolHeader = []string{"NAMESPACE", "NAME", "POD-SELECTOR", "TYPES", "PODS", "AGE", "DROPPED", "PROBLEMS", "UNUSED", "SHADOWED"}
	cnpHeader    = []string{"NAME", "TIER", "PRIORITY", "SUBJECT", "TYPES", "PODS", "AGE", "DROPPED", "PROBLEMS", "UNUSED", "SHADOWED"}
)

// policyRows shows the policies of both kinds in the order in which they are
// asked: tier Admin, NetworkPolicies, tier Baseline. A namespace whose annotation
// isolates it is before its NetworkPolicies.
func policyRows(s *lab.State, _ []lab.Node) (rows []row) {
	var before, after []row
	for _, v := range byPriority(s) {
		tier := fmt.Sprintf("%s %d", v.Tier, v.Priority)
		r := objectRow(&v.Meta, "", v, v, "", v.Name, tier, subjectOf(v), clusterTypesOf(v), strconv.Itoa(countPods(s, subjectPods(s, v))), since(v.Created))
		if v.Tier == cluster.TierAdmin {
			before = append(before, r)
		} else {
			after = append(after, r)
		}
	}
	for _, v := range s.Namespaces {
		if v.IsolatesIngress {
			m := &cluster.Meta{Namespace: v.Name, Name: v.Name}
			r := objectRow(m, "", v, v.IsolatesIngress, v.Name, v.Name, "Namespace", "", "Ingress", strconv.Itoa(countPods(s, podsOf(v.Name))), since(v.Created))
			r.key = "Namespace " + v.Name
			before = append(before, r)
		}
	}
	for _, v := range s.NetworkPolicies {
		before = append(before, objectRow(&v.Meta, "", v, v, v.Namespace, v.Name, "NetworkPolicy", selectorOf(&v.Pods), typesOf(v),
			strconv.Itoa(countPods(s, policyPods(v))), since(v.Created)))
	}
	return append(before, after...)
}

func netpolRows(s *lab.State, _ []lab.Node) (rows []row) {
	for _, v := range s.NetworkPolicies {
		rows = append(rows, objectRow(&v.Meta, "", v, v, v.Namespace, v.Name, selectorOf(&v.Pods), typesOf(v),
			strconv.Itoa(countPods(s, policyPods(v))), since(v.Created)))
	}
	return rows
}

func cnpRows(s *lab.State, _ []lab.Node) (rows []row) {
	for _, v := range byPriority(s) {
		rows = append(rows, objectRow(&v.Meta, "", v, v, v.Name, string(v.Tier), strconv.Itoa(int(v.Priority)), subjectOf(v),
			clusterTypesOf(v), strconv.Itoa(countPods(s, subjectPods(s, v))), since(v.Created)))
	}
	return rows
}

// byPriority returns the cluster-wide policies, those that are asked first first.
func byPriority(s *lab.State) []*cluster.ClusterNetworkPolicy {
	return slices.SortedStableFunc(slices.Values(s.ClusterNetworkPolicies), func(a, b *cluster.ClusterNetworkPolicy) int {
		return cmp.Or(cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Name, b.Name))
	})
}

// selectorOf writes a selector as kubectl does: "app=web,tier in (a,b),!old".
// Empty is one that selects everything.
func selectorOf(s *cluster.Selector) string {
	var out []string
	for _, r := range s.Requirements {
		switch values := strings.Join(r.Values, ","); {
		case r.Operator == cluster.SelectIn && len(r.Values) == 1:
			out = append(out, r.Key+"="+values)
		case r.Operator == cluster.SelectIn:
			out = append(out, r.Key+" in ("+values+")")
		case r.Operator == cluster.SelectNotIn:
			out = append(out, r.Key+" notin ("+values+")")
		case r.Operator == cluster.SelectNotExists:
			out = append(out, "!"+r.Key)
		default:
			out = append(out, r.Key)
		}
	}
	return strings.Join(out, ",")
}

// subjectOf writes whom a cluster-wide policy is about.
func subjectOf(v *cluster.ClusterNetworkPolicy) string {
	var out []string
	if n := v.Subject.Namespaces; n != nil && len(n.Requirements) > 0 {
		out = append(out, "namespaces "+selectorOf(n))
	}
	if p := v.Subject.Pods; p != nil && len(p.Requirements) > 0 {
		out = append(out, "pods "+selectorOf(p))
	}
	return strings.Join(out, "; ")
}

// typesOf are the directions in which a policy isolates.
func typesOf(v *cluster.NetworkPolicy) string {
	return directions(v.IsolatesIngress, v.IsolatesEgress)
}

func clusterTypesOf(v *cluster.ClusterNetworkPolicy) string {
	return directions(len(v.Ingress) > 0 || v.Invalid != "", len(v.Egress) > 0 || v.Invalid != "")
}

func directions(ingress, egress bool) string {
	switch {
	case ingress && egress:
		return "Ingress,Egress"
	case ingress:
		return "Ingress"
	case egress:
		return "Egress"
	}
	return ""
}

func podsOf(namespace string) func(*cluster.Pod) bool {
	return func(p *cluster.Pod) bool { return p.Namespace == namespace }
}

func policyPods(v *cluster.NetworkPolicy) func(*cluster.Pod) bool {
	return func(p *cluster.Pod) bool { return p.Namespace == v.Namespace && v.Pods.Matches(p.Labels) }
}

// subjectPods returns what tells the subjects of a cluster-wide policy.
func subjectPods(s *lab.State, v *cluster.ClusterNetworkPolicy) func(*cluster.Pod) bool {
	labels := map[string]map[string]string{}
	for _, n := range s.Namespaces {
		labels[n.Name] = n.Labels
	}
	return func(p *cluster.Pod) bool {
		return (v.Subject.Namespaces == nil || v.Subject.Namespaces.Matches(labels[p.Namespace])) &&
			(v.Subject.Pods == nil || v.Subject.Pods.Matches(p.Labels))
	}
}

// countPods counts the pods that policy can be about.
func countPods(s *lab.State, selected func(*cluster.Pod) bool) (n int) {
	for _, p := range s.Pods {
		if isParty(p) && selected(p) {
			n++
		}
	}
	return n
}

// isParty reports whether a pod has a network of its own, which policy is about.
func isParty(p *cluster.Pod) bool { return !p.HostNetwork && !p.Ended() }

// policyNameOf is what verdicts, drops and reports call a policy.
func policyNameOf(value any) string {
	switch v := value.(type) {
	case *cluster.NetworkPolicy:
		return "NetworkPolicy " + v.Key().String()
	case *cluster.ClusterNetworkPolicy:
		return "ClusterNetworkPolicy " + v.Name
	case *cluster.Namespace:
		return "Namespace " + v.Name + " DefaultDeny"
	}
	return ""
}

// addPolicyReports adds the cells of -o wide to rows of policies: what they
// dropped, on all nodes that are ready, and what is to be said of their rules, for
// which the policies are compiled here, for all pods.
func (g *getOptions) addPolicyReports(ctx context.Context, s *lab.State, rows []row) error {
	dropped, shared := map[string]uint64{}, map[string]uint64{}
	if g.client != nil {
		nodes, err := g.client.Policies(ctx, false)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			for _, d := range n.Drops {
				dropped[d.Policy] += d.Packets
				shared[d.Policy] += d.Shared
			}
		}
	}
	reports := map[string]policy.PolicyReport{}
	for _, r := range compileAll(s.Objects.State()).Report() {
		reports[r.Policy] = r
	}
	for i := range rows {
		name := policyNameOf(rows[i].value)
		r, drops := reports[name], ""
		if g.client != nil {
			drops = droppedCell(dropped[name], shared[name])
		}
		rows[i].cells = append(rows[i].cells, drops, strings.Join(r.Problems, "; "), remarks(r.Unused), remarks(r.Shadowed))
	}
	return nil
}

// droppedCell writes how many packets a policy dropped: "120", or "120 (80 shared)"
// where others isolate the same pods, and allowed these no more than it did.
func droppedCell(packets, shared uint64) string {
	if shared == 0 {
		return strconv.FormatUint(packets, 10)
	}
	return fmt.Sprintf("%d (%d shared)", packets, shared)
}

// remarks writes what is to be said of rules: "ingress 0: no pod is ...".
func remarks(list []policy.Remark) string {
	var out []string
	for _, r := range list {
		out = append(out, fmt.Sprintf("%s %d: %s", r.Direction, r.Rule, r.Text))
	}
	return strings.Join(out, "; ")
}

// compileAll compiles the policies of all pods of a cluster.
func compileAll(s *cluster.State) *policy.Compiler {
	c := policy.NewCompiler("")
	changes := new(cluster.State).Diff(s)
	c.Apply(&changes)
	return c
}
