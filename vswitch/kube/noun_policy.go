package kube

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"vswitch/vswitch/cluster"
)

// defaultNetworkPolicy does what SetDefaults_NetworkPolicy does in
// k8s.io/kubernetes pkg/apis/networking/v1/defaults.go: a policy isolates for
// ingress, and for egress only if it has rules for it.
func defaultNetworkPolicy(p *networkingv1.NetworkPolicy) {
	set(&p.Namespace, corev1.NamespaceDefault)
	s := &p.Spec
	for i := range s.Ingress {
		defaultPolicyPorts(s.Ingress[i].Ports)
	}
	for i := range s.Egress {
		defaultPolicyPorts(s.Egress[i].Ports)
	}
	if len(s.PolicyTypes) == 0 {
		s.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(s.Egress) > 0 {
			s.PolicyTypes = append(s.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
}

func defaultPolicyPorts(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		setPtr(&ports[i].Protocol, corev1.ProtocolTCP)
	}
}

// defaultOldNetworkPolicy is defaultNetworkPolicy for extensions/v1beta1, which
// has the form of v1. Before Kubernetes 1.7 its protocols were not checked, and
// the documentation wrote them in lower case.
func defaultOldNetworkPolicy(p *networkingv1.NetworkPolicy) {
	upper := func(ports []networkingv1.NetworkPolicyPort) {
		for i := range ports {
			if of := ports[i].Protocol; of != nil {
				ports[i].Protocol = pointer(corev1.Protocol(strings.ToUpper(string(*of))))
			}
		}
	}
	for i := range p.Spec.Ingress {
		upper(p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		upper(p.Spec.Egress[i].Ports)
	}
	defaultNetworkPolicy(p)
}

func toNetworkPolicy(p *networkingv1.NetworkPolicy) *cluster.NetworkPolicy {
	s := &p.Spec
	out := &cluster.NetworkPolicy{
		Meta: toMeta(&p.ObjectMeta, &networkingv1.NetworkPolicy{
			TypeMeta: metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"}, ObjectMeta: desiredMeta(&p.ObjectMeta), Spec: p.Spec,
		}),
		Pods:            toSelector(&s.PodSelector),
		IsolatesIngress: slices.Contains(s.PolicyTypes, networkingv1.PolicyTypeIngress),
		IsolatesEgress:  slices.Contains(s.PolicyTypes, networkingv1.PolicyTypeEgress),
	}
	for i := range s.Ingress {
		out.Ingress = append(out.Ingress, toPolicyRule(s.Ingress[i].From, s.Ingress[i].Ports))
	}
	for i := range s.Egress {
		out.Egress = append(out.Egress, toPolicyRule(s.Egress[i].To, s.Egress[i].Ports))
	}
	return out
}

func toPolicyRule(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) cluster.PolicyRule {
	r := cluster.PolicyRule{Action: cluster.ActionAccept}
	for i := range peers {
		p := &peers[i]
		peer := cluster.PolicyPeer{Namespaces: optionalSelector(p.NamespaceSelector), Pods: optionalSelector(p.PodSelector)}
		if p.IPBlock != nil {
			peer.Blocks = []cluster.IPBlock{toIPBlock(p.IPBlock)}
		}
		r.Peers = append(r.Peers, peer)
	}
	for i := range ports {
		p := &ports[i]
		port := cluster.PolicyPort{Protocol: protocolNumbers[*p.Protocol]}
		switch {
		case p.Port == nil:
		case p.Port.Type == intstr.String:
			port.Name = p.Port.StrVal
		default:
			port.First, port.Last = uint16(p.Port.IntVal), uint16(p.Port.IntVal)
			if p.EndPort != nil {
				port.Last = uint16(*p.EndPort)
			}
		}
		r.Ports = append(r.Ports, port)
	}
	return r
}

// toIPBlock parses what validation has looked at.
func toIPBlock(b *networkingv1.IPBlock) cluster.IPBlock {
	cidr, _ := parseBlock(b.CIDR)
	out := cluster.IPBlock{CIDR: cidr}
	for _, e := range b.Except {
		p, _ := parseBlock(e)
		out.Except = append(out.Except, p)
	}
	return out
}

func optionalSelector(s *metav1.LabelSelector) *cluster.Selector {
	if s == nil {
		return nil
	}
	out := toSelector(s)
	return &out
}

// toSelector puts the requirements in order, so that selectors that differ only
// in how they are written are equal.
func toSelector(s *metav1.LabelSelector) (out cluster.Selector) {
	for k, v := range s.MatchLabels {
		out.Requirements = append(out.Requirements, cluster.Requirement{Key: k, Operator: cluster.SelectIn, Values: []string{v}})
	}
	for _, e := range s.MatchExpressions {
		r := cluster.Requirement{Key: e.Key, Operator: cluster.SelectorOp(e.Operator)}
		if len(e.Values) > 0 {
			r.Values = slices.Compact(slices.Sorted(slices.Values(e.Values)))
		}
		out.Requirements = append(out.Requirements, r)
	}
	slices.SortFunc(out.Requirements, compareRequirements)
	out.Requirements = slices.CompactFunc(out.Requirements, func(a, b cluster.Requirement) bool { return compareRequirements(a, b) == 0 })
	return out
}

func compareRequirements(a, b cluster.Requirement) int {
	return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Operator, b.Operator), slices.Compare(a.Values, b.Values))
}

// annotationInvalid says why a policy stands there without its rules. It is not
// read.
const annotationInvalid = "vswitch/invalid"

// fromNetworkPolicy writes the policy; one that could not be understood as what
// stands for it, a policy without rules, with annotationInvalid.
func fromNetworkPolicy(p *cluster.NetworkPolicy) (*networkingv1.NetworkPolicy, error) {
	o := &networkingv1.NetworkPolicy{}
	known, err := base(p, o)
	if err != nil {
		return nil, err
	}
	o.TypeMeta = metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"}
	setMeta(&o.ObjectMeta, &p.Meta, 0)
	if known {
		return o, nil
	}
	if p.Invalid != "" {
		o.Annotations = maps.Clone(o.Annotations)
		if o.Annotations == nil {
			o.Annotations = map[string]string{}
		}
		o.Annotations[annotationInvalid] = p.Invalid
	}
	s := &o.Spec
	s.PodSelector = *fromSelector(&p.Pods)
	if p.IsolatesIngress {
		s.PolicyTypes = append(s.PolicyTypes, networkingv1.PolicyTypeIngress)
	}
	if p.IsolatesEgress {
		s.PolicyTypes = append(s.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
	for i := range p.Ingress {
		r := &p.Ingress[i]
		s.Ingress = append(s.Ingress, networkingv1.NetworkPolicyIngressRule{From: fromPolicyPeers(r.Peers), Ports: fromPolicyPorts(r.Ports)})
	}
	for i := range p.Egress {
		r := &p.Egress[i]
		s.Egress = append(s.Egress, networkingv1.NetworkPolicyEgressRule{To: fromPolicyPeers(r.Peers), Ports: fromPolicyPorts(r.Ports)})
	}
	return o, nil
}

func fromPolicyPeers(peers []cluster.PolicyPeer) (out []networkingv1.NetworkPolicyPeer) {
	for i := range peers {
		p := &peers[i]
		for _, b := range p.Blocks {
			block := &networkingv1.IPBlock{CIDR: b.CIDR.String()}
			for _, e := range b.Except {
				block.Except = append(block.Except, e.String())
			}
			out = append(out, networkingv1.NetworkPolicyPeer{IPBlock: block})
		}
		if p.Namespaces != nil || p.Pods != nil {
			out = append(out, networkingv1.NetworkPolicyPeer{NamespaceSelector: fromSelector(p.Namespaces), PodSelector: fromSelector(p.Pods)})
		}
	}
	return out
}

func fromPolicyPorts(ports []cluster.PolicyPort) (out []networkingv1.NetworkPolicyPort) {
	for _, p := range ports {
		port := networkingv1.NetworkPolicyPort{Protocol: optional(protocolName(p.Protocol))}
		switch {
		case p.Name != "":
			port.Port = pointer(intstr.FromString(p.Name))
		case p.First != 0:
			port.Port = pointer(intstr.FromInt32(int32(p.First)))
			if p.Last != p.First {
				port.EndPort = pointer(int32(p.Last))
			}
		}
		out = append(out, port)
	}
	return out
}

// fromSelector returns nil for nil. A requirement of one value is a label.
func fromSelector(s *cluster.Selector) *metav1.LabelSelector {
	if s == nil {
		return nil
	}
	out := &metav1.LabelSelector{}
	for _, r := range s.Requirements {
		if _, taken := out.MatchLabels[r.Key]; r.Operator == cluster.SelectIn && len(r.Values) == 1 && !taken {
			if out.MatchLabels == nil {
				out.MatchLabels = map[string]string{}
			}
			out.MatchLabels[r.Key] = r.Values[0]
			continue
		}
		out.MatchExpressions = append(out.MatchExpressions, metav1.LabelSelectorRequirement{Key: r.Key, Operator: metav1.LabelSelectorOperator(r.Operator), Values: r.Values})
	}
	return out
}
