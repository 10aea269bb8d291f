package kube

//lint:file-ignore SA1019 Endpoints are deprecated, and still written by people.

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The rules are those of k8s.io/kubernetes pkg/apis/discovery/validation and,
// for Endpoints, pkg/apis/core/validation.

// Limits of an EndpointSlice.
const (
	maxEndpoints         = 1000
	maxEndpointAddresses = 100
	maxEndpointPorts     = 100
	maxHints             = 8
)

func validateEndpointSlice(e *discoveryv1.EndpointSlice) field.ErrorList {
	errs := validateMeta(&e.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	types := []discoveryv1.AddressType{discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6}
	if e.AddressType == "" {
		errs = append(errs, field.Required(field.NewPath("addressType"), "IPv4 or IPv6"))
	} else if !slices.Contains(types, e.AddressType) {
		errs = append(errs, field.NotSupported(field.NewPath("addressType"), e.AddressType, types))
	}
	path := field.NewPath("endpoints")
	if len(e.Endpoints) > maxEndpoints {
		errs = append(errs, field.TooMany(path, len(e.Endpoints), maxEndpoints))
	}
	for i := range e.Endpoints {
		errs = append(errs, validateEndpoint(&e.Endpoints[i], e.AddressType, path.Index(i))...)
	}
	path = field.NewPath("ports")
	if len(e.Ports) > maxEndpointPorts {
		errs = append(errs, field.TooMany(path, len(e.Ports), maxEndpointPorts))
	}
	names := map[string]bool{}
	for i, p := range e.Ports {
		at := path.Index(i)
		errs = append(errs, validatePortName(*p.Name, false, names, at.Child("name"))...)
		if *p.Name == "" {
			if names[""] {
				errs = append(errs, field.Duplicate(at.Child("name"), ""))
			}
			names[""] = true
		}
		if p.Port != nil && *p.Port != 0 {
			errs = append(errs, each(at.Child("port"), *p.Port, validation.IsValidPortNum(int(*p.Port)))...)
		}
		if !slices.Contains(protocols, *p.Protocol) {
			errs = append(errs, field.NotSupported(at.Child("protocol"), *p.Protocol, protocols))
		}
		errs = append(errs, validateAppProtocol(p.AppProtocol, at)...)
	}
	return errs
}

func validateEndpoint(e *discoveryv1.Endpoint, t discoveryv1.AddressType, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	addresses := path.Child("addresses")
	if len(e.Addresses) == 0 {
		errs = append(errs, field.Required(addresses, "an endpoint has at least one address"))
	} else if len(e.Addresses) > maxEndpointAddresses {
		errs = append(errs, field.TooMany(addresses, len(e.Addresses), maxEndpointAddresses))
	}
	for i, a := range e.Addresses {
		at := addresses.Index(i)
		switch t {
		case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
			bad := validateEndpointIP(at, a)
			if len(bad) == 0 && familyName(netip.MustParseAddr(a)) != corev1.IPFamily(t) {
				bad = field.ErrorList{field.Invalid(at, a, fmt.Sprintf("must be an %s address, as addressType says", t))}
			}
			errs = append(errs, bad...)
		case discoveryv1.AddressTypeFQDN:
			errs = append(errs, validation.IsFullyQualifiedDomainName(at, a)...)
		}
	}
	if e.Hostname != nil {
		errs = append(errs, each(path.Child("hostname"), *e.Hostname, validation.IsDNS1123Label(*e.Hostname))...)
	}
	if e.NodeName != nil {
		errs = append(errs, each(path.Child("nodeName"), *e.NodeName, validation.IsDNS1123Subdomain(*e.NodeName))...)
	}
	if e.Hints == nil {
		return errs
	}
	zones, nodes := path.Child("hints", "forZones"), path.Child("hints", "forNodes")
	var names []string
	for i, z := range e.Hints.ForZones {
		errs = append(errs, validateHint(z.Name, names, validation.IsValidLabelValue(z.Name), zones.Index(i).Child("name"))...)
		names = append(names, z.Name)
	}
	names = nil
	for i, n := range e.Hints.ForNodes {
		errs = append(errs, validateHint(n.Name, names, validation.IsDNS1123Subdomain(n.Name), nodes.Index(i).Child("name"))...)
		names = append(names, n.Name)
	}
	if n := len(e.Hints.ForZones); n > maxHints {
		errs = append(errs, field.TooMany(zones, n, maxHints))
	}
	if n := len(e.Hints.ForNodes); n > maxHints {
		errs = append(errs, field.TooMany(nodes, n, maxHints))
	}
	return errs
}

// validateHint checks one name of a list of hints. Only the first ones of a
// list that is too long are compared with each other.
func validateHint(name string, before, bad []string, path *field.Path) field.ErrorList {
	switch {
	case name == "":
		return field.ErrorList{field.Required(path, "")}
	case slices.Contains(before[:min(len(before), maxHints)], name):
		return field.ErrorList{field.Duplicate(path, name)}
	}
	return each(path, name, bad)
}

// validateEndpointIP refuses addresses that make no sense behind or in front
// of a service; link-local ones belong to a node.
func validateEndpointIP(path *field.Path, s string) field.ErrorList {
	if errs := validateIP(path, s); len(errs) > 0 {
		return errs
	}
	if netip.MustParseAddr(s).IsLinkLocalUnicast() {
		return field.ErrorList{field.Invalid(path, s, "may not be a link-local address (169.254.0.0/16, fe80::/10)")}
	}
	return nil
}

func validateEndpoints(e *corev1.Endpoints) field.ErrorList {
	errs := validateMeta(&e.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	for i := range e.Subsets {
		s, path := &e.Subsets[i], field.NewPath("subsets").Index(i)
		if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(path, "must have addresses or notReadyAddresses"))
		}
		for j := range s.Addresses {
			errs = append(errs, validateEndpointAddress(&s.Addresses[j], path.Child("addresses").Index(j))...)
		}
		for j := range s.NotReadyAddresses {
			errs = append(errs, validateEndpointAddress(&s.NotReadyAddresses[j], path.Child("notReadyAddresses").Index(j))...)
		}
		for j, p := range s.Ports {
			at := path.Child("ports").Index(j)
			errs = append(errs, validatePortName(p.Name, len(s.Ports) > 1, map[string]bool{}, at.Child("name"))...)
			errs = append(errs, each(at.Child("port"), p.Port, validation.IsValidPortNum(int(p.Port)))...)
			if !slices.Contains(protocols, p.Protocol) {
				errs = append(errs, field.NotSupported(at.Child("protocol"), p.Protocol, protocols))
			}
			errs = append(errs, validateAppProtocol(p.AppProtocol, at)...)
		}
	}
	return errs
}

func validateEndpointAddress(a *corev1.EndpointAddress, path *field.Path) field.ErrorList {
	errs := validateEndpointIP(path.Child("ip"), a.IP)
	if a.Hostname != "" {
		errs = append(errs, each(path.Child("hostname"), a.Hostname, validation.IsDNS1123Label(a.Hostname))...)
	}
	if a.NodeName != nil {
		errs = append(errs, each(path.Child("nodeName"), *a.NodeName, validation.IsDNS1123Subdomain(*a.NodeName))...)
	}
	return errs
}
