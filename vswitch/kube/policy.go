package kube

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"vswitch/vswitch/cluster"
)

func (l *loader) networkPolicy(m *manifest, name string, tree map[string]any) {
	l.withoutStatus(m, name, tree)
	complete := defaultNetworkPolicy
	if version, _ := tree["apiVersion"].(string); version == "extensions/v1beta1" {
		complete = defaultOldNetworkPolicy
	}
	o, s := examine(l, m, name, tree, complete, validateNetworkPolicy)
	if len(s.problems) > 0 {
		if s.namesObject(&o.ObjectMeta) && s.readsPods(tree) {
			l.standIns.Add(standIn(m, o, s.problems[0]))
		} else {
			l.unclear = append(l.unclear, name)
		}
		return
	}
	l.generateName(cluster.KindNetworkPolicy, &o.ObjectMeta, o)
	l.networkPolicyNoEffect(m, name, o)
	l.record(m, toNetworkPolicy(o))
}

func (l *loader) clusterNetworkPolicy(m *manifest, name string, tree map[string]any) {
	o, s := examine(l, m, name, tree, func(*policyv1alpha2.ClusterNetworkPolicy) {}, func(o *policyv1alpha2.ClusterNetworkPolicy) field.ErrorList {
		return append(validateClusterNetworkPolicy(o), validateGiven(tree)...)
	})
	if len(s.problems) > 0 {
		if s.namesObject(&o.ObjectMeta) && s.clean("spec.subject") {
			l.standIns.Add(clusterStandIn(m, o, s))
		} else {
			l.unclear = append(l.unclear, name)
		}
		return
	}
	l.generateName(cluster.KindClusterNetworkPolicy, &o.ObjectMeta, o)
	l.clusterNetworkPolicyNoEffect(m, name, o)
	l.record(m, toClusterNetworkPolicy(o))
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
	for _, d := range []struct {
		name  string
		rules int
		of    networkingv1.PolicyType
	}{{"ingress", len(p.Spec.Ingress), networkingv1.PolicyTypeIngress}, {"egress", len(p.Spec.Egress), networkingv1.PolicyTypeEgress}} {
		if d.rules > 0 && !slices.Contains(p.Spec.PolicyTypes, d.of) {
			l.noEffect(m, object, "spec."+d.name, d.name, fmt.Sprintf("policyTypes does not name %s", d.of))
		}
	}
}

// clusterNetworkPolicyNoEffect warns of a status, and of names of ports that no
// container's port can have, which the definition lets pass.
func (l *loader) clusterNetworkPolicyNoEffect(m *manifest, object string, p *policyv1alpha2.ClusterNetworkPolicy) {
	if len(p.Status.Conditions) > 0 {
		l.noEffect(m, object, "status", "status", policyStatus)
	}
	ports := func(path string, protocols []policyv1alpha2.ClusterNetworkPolicyProtocol) {
		for i := range protocols {
			if n := protocols[i].DestinationNamedPort; n != "" && len(validation.IsValidPortName(n)) > 0 {
				l.noEffect(m, object, fmt.Sprintf("%s.protocols[%d].destinationNamedPort", path, i), "destinationNamedPort", fmt.Sprintf("no port can have the name %q", n))
			}
		}
	}
	for i := range p.Spec.Ingress {
		ports(fmt.Sprintf("spec.ingress[%d]", i), p.Spec.Ingress[i].Protocols)
	}
	for i := range p.Spec.Egress {
		ports(fmt.Sprintf("spec.egress[%d]", i), p.Spec.Egress[i].Protocols)
	}
}

// clean reports whether nothing is wrong with the field at path, what holds it
// and what it holds.
func (s *schema) clean(path string) bool {
	within := func(path, of string) bool {
		rest, ok := strings.CutPrefix(path, of)
		return ok && (of == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
	}
	bad := func(at string) bool { return within(path, at) || within(at, path) }
	return !slices.ContainsFunc(s.dropped, bad) && !slices.ContainsFunc(s.problems, func(p problem) bool { return bad(p.field) })
}

// namesObject reports whether it is certain which object is meant.
func (s *schema) namesObject(m *metav1.ObjectMeta) bool {
	return m.Name != "" && s.clean("metadata.name") && s.clean("metadata.namespace")
}

// readsPods reports whether it is certain which pods a NetworkPolicy selects
// that is not valid. Without podSelector it selects all, unless what it has in
// its place may have been meant.
func (s *schema) readsPods(tree map[string]any) bool {
	if !s.clean("spec.podSelector") {
		return false
	}
	spec, _ := tree["spec"].(map[string]any)
	if spec["podSelector"] != nil {
		return true
	}
	known := fieldsOf(reflect.TypeFor[networkingv1.NetworkPolicySpec]())
	return !slices.ContainsFunc(s.problems, func(p problem) bool {
		name, ok := strings.CutPrefix(p.field, "spec.")
		_, is := known[name]
		return ok && !is && !strings.ContainsAny(name, ".[")
	})
}

// standIn is what is known of a policy that is not valid, but whose name and
// selector are.
func standIn(m *manifest, o *networkingv1.NetworkPolicy, first problem) *cluster.NetworkPolicy {
	return &cluster.NetworkPolicy{Meta: cluster.Meta{Namespace: o.Namespace, Name: o.Name, Source: m.source()},
		Pods: toSelector(&o.Spec.PodSelector), IsolatesIngress: true, IsolatesEgress: true, Invalid: first.String()}
}

// clusterStandIn is standIn for a ClusterNetworkPolicy. Where its place is not
// known it is the first one.
func clusterStandIn(m *manifest, o *policyv1alpha2.ClusterNetworkPolicy, s *schema) *cluster.ClusterNetworkPolicy {
	v := &cluster.ClusterNetworkPolicy{Meta: cluster.Meta{Name: o.Name, Source: m.source()}, Tier: cluster.TierAdmin,
		Subject: toPodPeer(o.Spec.Subject.Namespaces, o.Spec.Subject.Pods), Invalid: s.problems[0].String()}
	if s.clean("spec.tier") {
		v.Tier = cluster.PolicyTier(o.Spec.Tier)
	}
	if s.clean("spec.priority") {
		v.Priority = o.Spec.Priority
	}
	return v
}
