package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The rules are those of k8s.io/kubernetes pkg/apis/networking/validation.

var policyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress, networkingv1.PolicyTypeIngress}

func validateNetworkPolicy(p *networkingv1.NetworkPolicy) field.ErrorList {
	errs := validateMeta(&p.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	s, spec := &p.Spec, field.NewPath("spec")
	errs = append(errs, validateSelector(&s.PodSelector, spec.Child("podSelector"))...)
	for i := range s.Ingress {
		r, at := &s.Ingress[i], spec.Child("ingress").Index(i)
		errs = append(errs, validatePolicyPorts(r.Ports, at.Child("ports"))...)
		errs = append(errs, validatePolicyPeers(r.From, at.Child("from"))...)
	}
	for i := range s.Egress {
		r, at := &s.Egress[i], spec.Child("egress").Index(i)
		errs = append(errs, validatePolicyPorts(r.Ports, at.Child("ports"))...)
		errs = append(errs, validatePolicyPeers(r.To, at.Child("to"))...)
	}
	path := spec.Child("policyTypes")
	if len(s.PolicyTypes) > len(policyTypes) {
		return append(errs, field.Invalid(path, s.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range s.PolicyTypes {
		if !slices.Contains(policyTypes, t) {
			errs = append(errs, field.NotSupported(path.Index(i), t, policyTypes))
		}
	}
	return errs
}

func validateSelector(s *metav1.LabelSelector, path *field.Path) field.ErrorList {
	return metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, path)
}

func validatePolicyPorts(ports []networkingv1.NetworkPolicyPort, path *field.Path) (errs field.ErrorList) {
	for i := range ports {
		p, at := &ports[i], path.Index(i)
		if p.Protocol != nil && !slices.Contains(protocols, *p.Protocol) {
			errs = append(errs, field.NotSupported(at.Child("protocol"), *p.Protocol, protocols))
		}
		end := at.Child("endPort")
		switch {
		case p.Port == nil:
			if p.EndPort != nil {
				errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is not specified"))
			}
		case p.Port.Type == intstr.String:
			if p.EndPort != nil {
				errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric"))
			}
			errs = append(errs, validatePortOrName(*p.Port, at.Child("port"))...)
		default:
			errs = append(errs, each(at.Child("port"), p.Port.IntVal, validation.IsValidPortNum(int(p.Port.IntVal)))...)
			if p.EndPort == nil {
				break
			}
			if *p.EndPort < p.Port.IntVal {
				errs = append(errs, field.Invalid(end, *p.EndPort, "must be greater than or equal to `port`"))
			}
			errs = append(errs, each(end, *p.EndPort, validation.IsValidPortNum(int(*p.EndPort)))...)
		}
	}
	return errs
}

func validatePolicyPeers(peers []networkingv1.NetworkPolicyPeer, path *field.Path) (errs field.ErrorList) {
	for i := range peers {
		p, at := &peers[i], path.Index(i)
		for _, s := range []struct {
			name     string
			selector *metav1.LabelSelector
		}{{"podSelector", p.PodSelector}, {"namespaceSelector", p.NamespaceSelector}} {
			if s.selector != nil {
				errs = append(errs, validateSelector(s.selector, at.Child(s.name))...)
			}
		}
		selects := p.PodSelector != nil || p.NamespaceSelector != nil
		if p.IPBlock != nil {
			errs = append(errs, validateIPBlock(p.IPBlock, at.Child("ipBlock"))...)
		}
		switch {
		case !selects && p.IPBlock == nil:
			errs = append(errs, field.Required(at, "must specify a peer: podSelector, namespaceSelector or ipBlock"))
		case selects && p.IPBlock != nil:
			errs = append(errs, field.Forbidden(at, "may not specify both ipBlock and another peer"))
		}
	}
	return errs
}

func validateIPBlock(b *networkingv1.IPBlock, path *field.Path) (errs field.ErrorList) {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(path.Child("cidr"), "")}
	}
	whole, ok := parseBlock(b.CIDR)
	if !ok {
		errs = append(errs, field.Invalid(path.Child("cidr"), b.CIDR, notBlock))
	}
	for i, text := range b.Except {
		at := path.Child("except").Index(i)
		switch part, isBlock := parseBlock(text); {
		case !isBlock:
			errs = append(errs, field.Invalid(at, text, notBlock))
		case ok && (!whole.Contains(part.Addr()) || part.Bits() <= whole.Bits()):
			errs = append(errs, field.Invalid(at, text, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}

const notBlock = "must be a range like 10.9.8.0/24 or 2001:db8::/64"

// parseBlock reads a range as the API server does where it is not strict
// (IsValidCIDRForLegacyField): leading zeros in decimal numbers and bits behind
// the prefix are overlooked.
func parseBlock(s string) (netip.Prefix, bool) {
	if strings.TrimSpace(s) != s {
		return netip.Prefix{}, false
	}
	return parseRange(s)
}

// annotationIsolation is how a namespace asked for isolation before Kubernetes
// 1.7: a JSON object.
const annotationIsolation = "net.beta.kubernetes.io/network-policy"

// isolates reports whether a namespace's annotation asks for isolation of its
// pods. The error says why the annotation cannot be understood.
func isolates(n *corev1.Namespace) (bool, error) {
	text, ok := n.Annotations[annotationIsolation]
	if !ok {
		return false, nil
	}
	var policy *struct {
		Ingress *struct {
			Isolation *string `json:"isolation"`
		} `json:"ingress"`
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(&policy)
	if _, more := d.Token(); err != nil || policy == nil || !errors.Is(more, io.EOF) {
		return false, errors.New(`must be JSON like {"ingress":{"isolation":"DefaultDeny"}}`)
	}
	if policy.Ingress == nil || policy.Ingress.Isolation == nil {
		return false, nil
	}
	if *policy.Ingress.Isolation != "DefaultDeny" {
		return false, fmt.Errorf("isolation %q is not known; the only one is \"DefaultDeny\"", *policy.Ingress.Isolation)
	}
	return true, nil
}
