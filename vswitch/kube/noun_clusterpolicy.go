package kube

import (
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"vswitch/vswitch/cluster"
)

// clusterPolicyVersion is the version of ClusterNetworkPolicies.
const clusterPolicyVersion = "policy.networking.k8s.io/v1alpha2"

func toClusterNetworkPolicy(p *policyv1alpha2.ClusterNetworkPolicy) *cluster.ClusterNetworkPolicy {
	s := &p.Spec
	out := &cluster.ClusterNetworkPolicy{
		Meta: toMeta(&p.ObjectMeta, &policyv1alpha2.ClusterNetworkPolicy{
			TypeMeta: metav1.TypeMeta{APIVersion: clusterPolicyVersion, Kind: "ClusterNetworkPolicy"}, ObjectMeta: desiredMeta(&p.ObjectMeta), Spec: p.Spec,
		}),
		Tier: cluster.PolicyTier(s.Tier), Priority: s.Priority,
		Subject: toPodPeer(s.Subject.Namespaces, s.Subject.Pods),
	}
	for i := range s.Ingress {
		r := &s.Ingress[i]
		rule := cluster.PolicyRule{Name: r.Name, Action: cluster.PolicyAction(r.Action), Ports: toClusterPorts(r.Protocols)}
		for j := range r.From {
			rule.Peers = append(rule.Peers, toPodPeer(r.From[j].Namespaces, r.From[j].Pods))
		}
		out.Ingress = append(out.Ingress, rule)
	}
	for i := range s.Egress {
		r := &s.Egress[i]
		rule := cluster.PolicyRule{Name: r.Name, Action: cluster.PolicyAction(r.Action), Ports: toClusterPorts(r.Protocols)}
		for j := range r.To {
			to := &r.To[j]
			peer := toPodPeer(to.Namespaces, to.Pods)
			peer.Nodes = optionalSelector(to.Nodes)
			for _, n := range to.Networks {
				peer.Blocks = append(peer.Blocks, cluster.IPBlock{CIDR: netip.MustParsePrefix(string(n))})
			}
			rule.Peers = append(rule.Peers, peer)
		}
		out.Egress = append(out.Egress, rule)
	}
	return out
}

// toPodPeer selects pods: all of some namespaces, or some of them.
func toPodPeer(namespaces *metav1.LabelSelector, pods *policyv1alpha2.NamespacedPod) cluster.PolicyPeer {
	if pods != nil {
		return cluster.PolicyPeer{Namespaces: optionalSelector(&pods.NamespaceSelector), Pods: optionalSelector(&pods.PodSelector)}
	}
	return cluster.PolicyPeer{Namespaces: optionalSelector(namespaces)}
}

func toClusterPorts(protocols []policyv1alpha2.ClusterNetworkPolicyProtocol) (out []cluster.PolicyPort) {
	for i := range protocols {
		p := &protocols[i]
		if p.DestinationNamedPort != "" {
			out = append(out, cluster.PolicyPort{Name: p.DestinationNamedPort})
			continue
		}
		for _, of := range clusterProtocols(p) {
			if !of.given {
				continue
			}
			port := cluster.PolicyPort{Protocol: of.number, First: uint16(of.port.Number), Last: uint16(of.port.Number)}
			if r := of.port.Range; r != nil {
				port.First, port.Last = uint16(r.Start), uint16(r.End)
			}
			out = append(out, port)
		}
	}
	return out
}

// fromClusterNetworkPolicy writes the policy; one that could not be understood
// as what stands for it, a policy that denies all, and a condition.
func fromClusterNetworkPolicy(p *cluster.ClusterNetworkPolicy) (*policyv1alpha2.ClusterNetworkPolicy, error) {
	o := &policyv1alpha2.ClusterNetworkPolicy{}
	known, err := base(p, o)
	if err != nil {
		return nil, err
	}
	o.TypeMeta = metav1.TypeMeta{APIVersion: clusterPolicyVersion, Kind: "ClusterNetworkPolicy"}
	setMeta(&o.ObjectMeta, &p.Meta, 0)
	o.Status.Conditions = []metav1.Condition{}
	if known {
		return o, nil
	}
	s := &o.Spec
	s.Tier, s.Priority = policyv1alpha2.Tier(p.Tier), p.Priority
	s.Subject.Namespaces, s.Subject.Pods = fromPodPeer(&p.Subject)
	ingress, egress := p.Ingress, p.Egress
	if p.Invalid != "" {
		o.Status.Conditions = []metav1.Condition{{Type: "Accepted", Status: metav1.ConditionFalse, Reason: "Invalid", Message: p.Invalid,
			ObservedGeneration: p.Generation, LastTransitionTime: metav1.NewTime(p.Created)}}
		ingress, egress = denyAll(), denyAll()
		egress[0].Peers = []cluster.PolicyPeer{{Blocks: []cluster.IPBlock{{CIDR: netip.MustParsePrefix("0.0.0.0/0")}, {CIDR: netip.MustParsePrefix("::/0")}}}}
	}
	for i := range ingress {
		r := &ingress[i]
		rule := policyv1alpha2.ClusterNetworkPolicyIngressRule{Name: r.Name, Action: policyv1alpha2.ClusterNetworkPolicyRuleAction(r.Action), Protocols: fromClusterPorts(r.Ports)}
		for j := range r.Peers {
			var peer policyv1alpha2.ClusterNetworkPolicyIngressPeer
			peer.Namespaces, peer.Pods = fromPodPeer(&r.Peers[j])
			rule.From = append(rule.From, peer)
		}
		s.Ingress = append(s.Ingress, rule)
	}
	for i := range egress {
		r := &egress[i]
		rule := policyv1alpha2.ClusterNetworkPolicyEgressRule{Name: r.Name, Action: policyv1alpha2.ClusterNetworkPolicyRuleAction(r.Action), Protocols: fromClusterPorts(r.Ports)}
		for j := range r.Peers {
			from := &r.Peers[j]
			peer := policyv1alpha2.ClusterNetworkPolicyEgressPeer{Nodes: fromSelector(from.Nodes)}
			peer.Namespaces, peer.Pods = fromPodPeer(from)
			for _, b := range from.Blocks {
				peer.Networks = append(peer.Networks, policyv1alpha2.CIDR(b.CIDR.String()))
			}
			rule.To = append(rule.To, peer)
		}
		s.Egress = append(s.Egress, rule)
	}
	return o, nil
}

// denyAll is a rule that denies what all pods say.
func denyAll() []cluster.PolicyRule {
	return []cluster.PolicyRule{{Action: cluster.ActionDeny, Peers: []cluster.PolicyPeer{{Namespaces: &cluster.Selector{}}}}}
}

func fromPodPeer(p *cluster.PolicyPeer) (*metav1.LabelSelector, *policyv1alpha2.NamespacedPod) {
	if p.Pods == nil {
		return fromSelector(p.Namespaces), nil
	}
	pods := &policyv1alpha2.NamespacedPod{PodSelector: *fromSelector(p.Pods)}
	if p.Namespaces != nil {
		pods.NamespaceSelector = *fromSelector(p.Namespaces)
	}
	return nil, pods
}

func fromClusterPorts(ports []cluster.PolicyPort) (out []policyv1alpha2.ClusterNetworkPolicyProtocol) {
	for _, p := range ports {
		if p.Name != "" {
			out = append(out, policyv1alpha2.ClusterNetworkPolicyProtocol{DestinationNamedPort: p.Name})
			continue
		}
		port := &policyv1alpha2.Port{Number: int32(p.First)}
		if p.First != p.Last {
			port = &policyv1alpha2.Port{Range: &policyv1alpha2.PortRange{Start: int32(p.First), End: int32(p.Last)}}
		}
		var one policyv1alpha2.ClusterNetworkPolicyProtocol
		switch p.Protocol {
		case 6:
			one.TCP = &policyv1alpha2.ClusterNetworkPolicyProtocolTCP{DestinationPort: port}
		case 17:
			one.UDP = &policyv1alpha2.ClusterNetworkPolicyProtocolUDP{DestinationPort: port}
		case 132:
			one.SCTP = &policyv1alpha2.ClusterNetworkPolicyProtocolSCTP{DestinationPort: port}
		}
		out = append(out, one)
	}
	return out
}
