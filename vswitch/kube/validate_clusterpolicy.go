package kube

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// The rules are those of the CustomResourceDefinition of sigs.k8s.io/
// network-policy-api (config/crd/experimental).

// Limits of a ClusterNetworkPolicy.
const (
	maxPolicyPriority = 1000
	maxPolicyItems    = 25 // rules of a direction, peers and protocols of a rule, networks of a peer
	maxRuleName       = 100
)

var (
	policyTiers   = []policyv1alpha2.Tier{policyv1alpha2.AdminTier, policyv1alpha2.BaselineTier}
	policyActions = []policyv1alpha2.ClusterNetworkPolicyRuleAction{policyv1alpha2.ClusterNetworkPolicyRuleActionAccept,
		policyv1alpha2.ClusterNetworkPolicyRuleActionDeny, policyv1alpha2.ClusterNetworkPolicyRuleActionPass}
)

func validateClusterNetworkPolicy(p *policyv1alpha2.ClusterNetworkPolicy) field.ErrorList {
	errs := validateMeta(&p.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	s, spec := &p.Spec, field.NewPath("spec")
	errs = append(errs, oneOf(s.Tier, policyTiers, spec.Child("tier"))...)
	if s.Priority < 0 || s.Priority > maxPolicyPriority {
		errs = append(errs, field.Invalid(spec.Child("priority"), s.Priority, validation.InclusiveRangeError(0, maxPolicyPriority)))
	}
	subject := policyv1alpha2.ClusterNetworkPolicyEgressPeer{Namespaces: s.Subject.Namespaces, Pods: s.Subject.Pods}
	errs = append(errs, validateClusterPeer(&subject, "namespaces or pods", spec.Child("subject"))...)
	if n := len(s.Ingress); n > maxPolicyItems {
		errs = append(errs, field.TooMany(spec.Child("ingress"), n, maxPolicyItems))
	}
	if n := len(s.Egress); n > maxPolicyItems {
		errs = append(errs, field.TooMany(spec.Child("egress"), n, maxPolicyItems))
	}
	for i := range s.Ingress {
		r, at := &s.Ingress[i], spec.Child("ingress").Index(i)
		errs = append(errs, validateClusterRule(r.Name, r.Action, len(r.From), "from", r.Protocols, at)...)
		for j := range r.From {
			peer := policyv1alpha2.ClusterNetworkPolicyEgressPeer{Namespaces: r.From[j].Namespaces, Pods: r.From[j].Pods}
			errs = append(errs, validateClusterPeer(&peer, "namespaces or pods", at.Child("from").Index(j))...)
		}
	}
	for i := range s.Egress {
		r, at := &s.Egress[i], spec.Child("egress").Index(i)
		errs = append(errs, validateClusterRule(r.Name, r.Action, len(r.To), "to", r.Protocols, at)...)
		for j := range r.To {
			errs = append(errs, validateClusterPeer(&r.To[j], "namespaces, pods, nodes, networks or domainNames", at.Child("to").Index(j))...)
		}
		errs = append(errs, validateNamedPorts(r, at)...)
	}
	return errs
}

// oneOf checks a field that must be one of some words.
func oneOf[T ~string](v T, words []T, path *field.Path) field.ErrorList {
	switch {
	case v == "":
		return field.ErrorList{field.Required(path, "must be one of "+strings.Join(texts(words), ", "))}
	case !slices.Contains(words, v):
		return field.ErrorList{field.NotSupported(path, v, words)}
	}
	return nil
}

func texts[T ~string](words []T) (out []string) {
	for _, w := range words {
		out = append(out, string(w))
	}
	return out
}

func validateClusterRule(name string, action policyv1alpha2.ClusterNetworkPolicyRuleAction, peers int, list string, protocols []policyv1alpha2.ClusterNetworkPolicyProtocol, path *field.Path) (errs field.ErrorList) {
	if utf8.RuneCountInString(name) > maxRuleName {
		errs = append(errs, field.TooLongCharacters(path.Child("name"), name, maxRuleName))
	}
	errs = append(errs, oneOf(action, policyActions, path.Child("action"))...)
	switch {
	case peers == 0:
		errs = append(errs, field.Required(path.Child(list), "a rule has at least one peer"))
	case peers > maxPolicyItems:
		errs = append(errs, field.TooMany(path.Child(list), peers, maxPolicyItems))
	}
	path = path.Child("protocols")
	switch {
	case protocols != nil && len(protocols) == 0:
		errs = append(errs, field.Invalid(path, "[]", "should have at least one item; leave it out for all protocols"))
	case len(protocols) > maxPolicyItems:
		errs = append(errs, field.TooMany(path, len(protocols), maxPolicyItems))
	}
	for i := range protocols {
		errs = append(errs, validateClusterProtocol(&protocols[i], path.Index(i))...)
	}
	return errs
}

// exactlyOne checks that one of some fields, what, is set.
func exactlyOne(set []string, what string, path *field.Path) field.ErrorList {
	switch len(set) {
	case 0:
		return field.ErrorList{field.Required(path, "must have one of "+what)}
	case 1:
		return nil
	}
	return field.ErrorList{field.Forbidden(path, fmt.Sprintf("must have only one of %s, not %s", what, strings.Join(set, " and ")))}
}

func validateClusterPeer(p *policyv1alpha2.ClusterNetworkPolicyEgressPeer, what string, path *field.Path) (errs field.ErrorList) {
	var set []string
	selector := func(s *metav1.LabelSelector, name string) {
		if s != nil {
			set = append(set, name)
			errs = append(errs, validateSelector(s, path.Child(name))...)
		}
	}
	selector(p.Namespaces, "namespaces")
	if p.Pods != nil {
		set = append(set, "pods")
		errs = append(errs, validateSelector(&p.Pods.NamespaceSelector, path.Child("pods", "namespaceSelector"))...)
		errs = append(errs, validateSelector(&p.Pods.PodSelector, path.Child("pods", "podSelector"))...)
	}
	selector(p.Nodes, "nodes")
	if p.Networks != nil {
		set = append(set, "networks")
		errs = append(errs, validateNetworks(p.Networks, path.Child("networks"))...)
	}
	if p.DomainNames != nil {
		set = append(set, "domainNames")
		errs = append(errs, field.Forbidden(path.Child("domainNames"), "domain names are not supported; use networks"))
	}
	return append(errs, exactlyOne(set, what, path)...)
}

func validateNetworks(networks []policyv1alpha2.CIDR, path *field.Path) (errs field.ErrorList) {
	switch n := len(networks); {
	case n == 0:
		return field.ErrorList{field.Invalid(path, "[]", "should have at least one item")}
	case n > maxPolicyItems:
		errs = append(errs, field.TooMany(path, n, maxPolicyItems))
	}
	for i, text := range networks {
		switch p, err := netip.ParsePrefix(string(text)); {
		case err != nil || p.Addr().Is4In6():
			errs = append(errs, field.Invalid(path.Index(i), text, notBlock))
		case p != p.Masked():
			errs = append(errs, field.Invalid(path.Index(i), text, fmt.Sprintf("has bits set behind its prefix; did you mean %s?", p.Masked())))
		case slices.Contains(networks[:min(i, maxPolicyItems)], text):
			errs = append(errs, field.Duplicate(path.Index(i), text))
		}
	}
	return errs
}

func validateClusterProtocol(p *policyv1alpha2.ClusterNetworkPolicyProtocol, path *field.Path) (errs field.ErrorList) {
	var set []string
	for _, of := range clusterProtocols(p) {
		if !of.given {
			continue
		}
		set = append(set, of.name)
		if at := path.Child(of.name, "destinationPort"); of.port == nil {
			errs = append(errs, field.Required(at, "a port or a range of ports"))
		} else {
			errs = append(errs, validateClusterPort(of.port, at)...)
		}
	}
	if p.DestinationNamedPort != "" {
		set = append(set, "destinationNamedPort")
	}
	return append(errs, exactlyOne(set, "tcp, udp, sctp or destinationNamedPort", path)...)
}

// clusterProtocol is one of the protocols that an entry may have.
type clusterProtocol struct {
	name   string
	number uint8
	given  bool
	port   *policyv1alpha2.Port
}

func clusterProtocols(p *policyv1alpha2.ClusterNetworkPolicyProtocol) []clusterProtocol {
	list := []clusterProtocol{{name: "tcp", number: 6}, {name: "udp", number: 17}, {name: "sctp", number: 132}}
	if p.TCP != nil {
		list[0].given, list[0].port = true, p.TCP.DestinationPort
	}
	if p.UDP != nil {
		list[1].given, list[1].port = true, p.UDP.DestinationPort
	}
	if p.SCTP != nil {
		list[2].given, list[2].port = true, p.SCTP.DestinationPort
	}
	return list
}

func validateClusterPort(p *policyv1alpha2.Port, path *field.Path) (errs field.ErrorList) {
	var set []string
	if p.Number != 0 {
		set = append(set, "number")
		errs = append(errs, each(path.Child("number"), p.Number, validation.IsValidPortNum(int(p.Number)))...)
	}
	if p.Range != nil {
		set = append(set, "range")
		at := path.Child("range")
		bad := append(each(at.Child("start"), p.Range.Start, validation.IsValidPortNum(int(p.Range.Start))),
			each(at.Child("end"), p.Range.End, validation.IsValidPortNum(int(p.Range.End)))...)
		if len(bad) == 0 && p.Range.Start >= p.Range.End {
			bad = field.ErrorList{field.Invalid(at, fmt.Sprintf("%d-%d", p.Range.Start, p.Range.End), "start must be less than end")}
		}
		errs = append(errs, bad...)
	}
	return append(errs, exactlyOne(set, "number or range", path)...)
}

// validateNamedPorts refuses names of pods' ports in a rule for what has none.
func validateNamedPorts(r *policyv1alpha2.ClusterNetworkPolicyEgressRule, path *field.Path) field.ErrorList {
	named := slices.IndexFunc(r.Protocols, func(p policyv1alpha2.ClusterNetworkPolicyProtocol) bool { return p.DestinationNamedPort != "" })
	unnamed := slices.ContainsFunc(r.To, func(p policyv1alpha2.ClusterNetworkPolicyEgressPeer) bool {
		return p.Nodes != nil || p.Networks != nil || p.DomainNames != nil
	})
	if named < 0 || !unnamed {
		return nil
	}
	return field.ErrorList{field.Forbidden(path.Child("protocols").Index(named).Child("destinationNamedPort"),
		"nodes, networks and domainNames have no named ports; give them a rule of their own")}
}

// validateGiven refuses what has no value where the definition wants one, and
// where the Go types have a zero value that looks like one.
func validateGiven(tree map[string]any) (errs field.ErrorList) {
	spec, _ := tree["spec"].(map[string]any)
	if spec == nil {
		return field.ErrorList{field.Required(field.NewPath("spec"), "")}
	}
	if spec["priority"] == nil {
		errs = append(errs, field.Required(field.NewPath("spec", "priority"), "a number from 0, which comes first, to 1000"))
	}
	return append(errs, validatePodSelectors(field.NewPath("spec"), spec)...)
}

// validatePodSelectors finds peers and subjects "pods" without podSelector.
func validatePodSelectors(path *field.Path, v any) (errs field.ErrorList) {
	switch v := v.(type) {
	case []any:
		for i := range v {
			errs = append(errs, validatePodSelectors(path.Index(i), v[i])...)
		}
	case map[string]any:
		if pods, ok := v["pods"].(map[string]any); ok && pods["podSelector"] == nil {
			errs = append(errs, field.Required(path.Child("pods", "podSelector"), "{} selects all pods"))
		}
		for _, name := range []string{"subject", "ingress", "egress", "from", "to"} {
			errs = append(errs, validatePodSelectors(path.Child(name), v[name])...)
		}
	}
	return errs
}
