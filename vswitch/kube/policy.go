package kube

import (
	"fmt"
	"maps"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"

	"vswitch/vswitch/cluster"
)

// policyObject is object for policies.
func (l *loader) policyObject(m *manifest, kind, name string, tree map[string]any) {
	switch kind {
	case "NetworkPolicy":
		l.withoutStatus(m, name, tree)
		complete := defaultNetworkPolicy
		if version, _ := tree["apiVersion"].(string); version == "extensions/v1beta1" {
			complete = defaultOldNetworkPolicy
		}
		if o, ok := decode(l, m, name, tree, complete, validateNetworkPolicy); ok {
			l.generateName(cluster.KindNetworkPolicy, &o.ObjectMeta, o)
			l.networkPolicyNoEffect(m, name, o)
			v := toNetworkPolicy(o)
			record(l, m, cluster.KindNetworkPolicy, &v.Meta, &l.objects.NetworkPolicies, v)
		}
	}
}

// withoutStatus takes out the status, which NetworkPolicies of Kubernetes 1.24
// to 1.27 had.
func (l *loader) withoutStatus(m *manifest, object string, tree map[string]any) {
	status, given := tree["status"]
	if fields, ok := status.(map[string]any); given && ok {
		if len(fields) > 0 {
			l.noEffect(m, object, "status", "status", policyStatus)
		}
		delete(tree, "status")
	}
}

const policyStatus = "what became of a policy is decided here"

// networkPolicyNoEffect warns of rules for a direction in which the policy does
// not isolate.
func (l *loader) networkPolicyNoEffect(m *manifest, object string, p *networkingv1.NetworkPolicy) {
	rules := map[string]struct {
		count int
		of    networkingv1.PolicyType
	}{
		"egress":  {len(p.Spec.Egress), networkingv1.PolicyTypeEgress},
		"ingress": {len(p.Spec.Ingress), networkingv1.PolicyTypeIngress},
	}
	for _, name := range slices.Sorted(maps.Keys(rules)) {
		if r := rules[name]; r.count > 0 && !slices.Contains(p.Spec.PolicyTypes, r.of) {
			l.noEffect(m, object, "spec."+name, name, fmt.Sprintf("policyTypes does not name %s", r.of))
		}
	}
}
