package kube

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What a C library reads of /etc/resolv.conf at most, and the API server takes
// (MaxDNSNameservers and so on in pkg/apis/core/validation).
const (
	maxNameServers     = 3
	maxSearchPaths     = 32
	maxSearchListChars = 2048
)

// validatePodDNS checks dnsPolicy and dnsConfig (validateDNSPolicy and
// validatePodDNSConfig in pkg/apis/core/validation).
func validatePodDNS(s *corev1.PodSpec, path *field.Path) (errs field.ErrorList) {
	policies := []corev1.DNSPolicy{corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet, corev1.DNSDefault, corev1.DNSNone}
	if !slices.Contains(policies, s.DNSPolicy) {
		errs = append(errs, field.NotSupported(path.Child("dnsPolicy"), s.DNSPolicy, policies))
	}
	at, c := path.Child("dnsConfig"), s.DNSConfig
	if c == nil {
		c = &corev1.PodDNSConfig{}
	}
	if s.DNSPolicy == corev1.DNSNone && len(c.Nameservers) == 0 {
		errs = append(errs, field.Required(at.Child("nameservers"), "dnsPolicy None takes at least one"))
	}
	if len(c.Nameservers) > maxNameServers {
		errs = append(errs, field.TooMany(at.Child("nameservers"), len(c.Nameservers), maxNameServers))
	}
	for i, text := range c.Nameservers {
		if a, err := netip.ParseAddr(text); err != nil || a.Zone() != "" {
			errs = append(errs, field.Invalid(at.Child("nameservers").Index(i), text, "must be an IP address"))
		}
	}
	if len(c.Searches) > maxSearchPaths {
		errs = append(errs, field.TooMany(at.Child("searches"), len(c.Searches), maxSearchPaths))
	}
	if n := len(strings.Join(c.Searches, " ")); n > maxSearchListChars {
		errs = append(errs, field.Invalid(at.Child("searches"), n, "must not have more than 2048 characters, spaces included"))
	}
	for i, name := range c.Searches {
		if name != "." {
			// Names like _sip._tcp.example.com are searched, too (KEP-4427).
			errs = append(errs, each(at.Child("searches").Index(i), name, validation.IsDNS1123SubdomainWithUnderscore(strings.TrimSuffix(name, ".")))...)
		}
	}
	for i, o := range c.Options {
		if o.Name == "" {
			errs = append(errs, field.Required(at.Child("options").Index(i), "name must not be empty"))
		}
	}
	return errs
}
