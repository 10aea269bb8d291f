package kube

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const kubeletPort = 10250

var serviceTypes = []corev1.ServiceType{corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName,
	corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort}

// validateService refuses what the API server refuses when a service is
// created, and the combinations of families and addresses that its allocator
// refuses. A name may begin with a digit (feature RelaxedServiceNameValidation).
// A health check port that nothing would use is left to a warning.
func validateService(v *corev1.Service) field.ErrorList {
	errs := validateMeta(&v.ObjectMeta, true, apivalidation.NameIsDNSLabel)
	s, spec := &v.Spec, field.NewPath("spec")
	if !slices.Contains(serviceTypes, s.Type) {
		errs = append(errs, field.NotSupported(spec.Child("type"), s.Type, serviceTypes))
	}
	errs = append(errs, validateServicePorts(s, spec)...)
	errs = append(errs, metavalidation.ValidateLabels(s.Selector, spec.Child("selector"))...)
	errs = append(errs, validateClusterIPs(s, spec)...)
	errs = append(errs, validateFamilies(s, spec)...)
	if s.Type == corev1.ServiceTypeExternalName {
		errs = append(errs, validateExternalName(s, spec)...)
	}
	for i, ip := range s.ExternalIPs {
		errs = append(errs, validateEndpointIP(spec.Child("externalIPs").Index(i), ip)...)
	}
	errs = append(errs, validateAffinity(s, spec)...)
	errs = append(errs, validateTraffic(v, spec)...)
	errs = append(errs, validateBalancer(v, spec)...)
	return append(errs, validateServiceStatus(&v.Status, field.NewPath("status"))...)
}

func isHeadless(s *corev1.ServiceSpec) bool { return s.ClusterIP == corev1.ClusterIPNone }

func validateServicePorts(s *corev1.ServiceSpec, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	path := spec.Child("ports")
	if len(s.Ports) == 0 && !isHeadless(s) && s.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(path, "a service has at least one port, unless it is headless"))
	}
	type key struct {
		protocol corev1.Protocol
		port     int32
	}
	names, ports, nodePorts := map[string]bool{}, map[key]bool{}, map[key]bool{}
	for i := range s.Ports {
		p, at := &s.Ports[i], path.Index(i)
		errs = append(errs, validatePortName(p.Name, len(s.Ports) > 1, names, at.Child("name"))...)
		bad := each(at.Child("port"), p.Port, validation.IsValidPortNum(int(p.Port)))
		errs = append(errs, bad...)
		if len(bad) == 0 || p.TargetPort.IntVal != p.Port { // else said already: it is the default
			errs = append(errs, validatePortOrName(p.TargetPort, at.Child("targetPort"))...)
		}
		if !slices.Contains(protocols, p.Protocol) {
			errs = append(errs, field.NotSupported(at.Child("protocol"), p.Protocol, protocols))
		}
		errs = append(errs, validateAppProtocol(p.AppProtocol, at)...)
		if k := (key{p.Protocol, p.Port}); ports[k] {
			errs = append(errs, field.Duplicate(at, fmt.Sprintf("%s port %d", p.Protocol, p.Port)))
		} else {
			ports[k] = true
		}
		if s.Type == corev1.ServiceTypeLoadBalancer && p.Port == kubeletPort {
			errs = append(errs, field.Invalid(at.Child("port"), p.Port, "may not be exposed externally, because the kubelet uses it"))
		}
		if p.NodePort == 0 {
			continue
		}
		at = at.Child("nodePort")
		if s.Type == corev1.ServiceTypeClusterIP {
			errs = append(errs, field.Forbidden(at, "may not be used when the type is ClusterIP"))
			continue
		}
		errs = append(errs, each(at, p.NodePort, validation.IsValidPortNum(int(p.NodePort)))...)
		if k := (key{p.Protocol, p.NodePort}); nodePorts[k] {
			errs = append(errs, field.Duplicate(at, p.NodePort))
		} else {
			nodePorts[k] = true
		}
	}
	return errs
}

// validatePortName checks the name of a port that is one of names so far.
func validatePortName(name string, required bool, names map[string]bool, path *field.Path) field.ErrorList {
	if name == "" {
		if required {
			return field.ErrorList{field.Required(path, "each of several ports has a name")}
		}
		return nil
	}
	errs := each(path, name, validation.IsDNS1123Label(name))
	if names[name] {
		errs = append(errs, field.Duplicate(path, name))
	}
	names[name] = true
	return errs
}

func validateAppProtocol(p *string, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	return each(path.Child("appProtocol"), *p, validation.IsQualifiedName(*p))
}

func validateClusterIPs(s *corev1.ServiceSpec, spec *field.Path) field.ErrorList {
	if s.Type == corev1.ServiceTypeExternalName {
		if len(s.ClusterIPs) > 0 {
			return field.ErrorList{field.Forbidden(ipPath(s, spec, 0), "may not be set for ExternalName services")}
		}
		return nil
	}
	var errs field.ErrorList
	list := spec.Child("clusterIPs")
	switch {
	case len(s.ClusterIPs) == 0:
		return nil
	case s.ClusterIP == "":
		return field.ErrorList{field.Invalid(list, s.ClusterIPs, "must be empty when clusterIP is not given; clusterIP must be the first of clusterIPs")}
	case s.ClusterIP != s.ClusterIPs[0]:
		return field.ErrorList{field.Invalid(list.Index(0), s.ClusterIPs[0], "must be the same as clusterIP, which is "+s.ClusterIP)}
	case len(s.ClusterIPs) > 2:
		return field.ErrorList{field.Invalid(list, s.ClusterIPs, "may hold at most two addresses, one of each family")}
	}
	var families [2]bool
	for i, text := range s.ClusterIPs {
		at := ipPath(s, spec, i)
		if text == corev1.ClusterIPNone {
			switch {
			case i > 0 || len(s.ClusterIPs) > 1:
				errs = append(errs, field.Invalid(at, text, "must be the first and only value"))
			case s.Type == corev1.ServiceTypeNodePort || s.Type == corev1.ServiceTypeLoadBalancer:
				errs = append(errs, field.Invalid(at, text, fmt.Sprintf("may not be None for %s services", s.Type)))
			}
			continue
		}
		if bad := validateIP(at, text); len(bad) > 0 {
			errs = append(errs, bad...)
			continue
		}
		a := netip.MustParseAddr(text)
		if families[family(a)] {
			errs = append(errs, field.Invalid(at, text, "is a second address of one family; give at most one of each"))
		}
		families[family(a)] = true
		if i < len(s.IPFamilies) && familyName(a) != s.IPFamilies[i] {
			errs = append(errs, field.Invalid(at, text, fmt.Sprintf("must be an %s address, as ipFamilies[%d] says", s.IPFamilies[i], i)))
		}
	}
	return errs
}

// ipPath is where the i-th cluster IP is written, most likely.
func ipPath(s *corev1.ServiceSpec, spec *field.Path, i int) *field.Path {
	if len(s.ClusterIPs) == 1 && s.ClusterIP == s.ClusterIPs[0] {
		return spec.Child("clusterIP")
	}
	return spec.Child("clusterIPs").Index(i)
}

func familyName(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func validateFamilies(s *corev1.ServiceSpec, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	list, policy := spec.Child("ipFamilies"), spec.Child("ipFamilyPolicy")
	if s.Type == corev1.ServiceTypeExternalName {
		if len(s.IPFamilies) > 0 {
			errs = append(errs, field.Forbidden(list, "may not be set for ExternalName services"))
		}
		if s.IPFamilyPolicy != nil {
			errs = append(errs, field.Forbidden(policy, "may not be set for ExternalName services"))
		}
		return errs
	}
	known := []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	for i, f := range s.IPFamilies {
		if !slices.Contains(known, f) {
			errs = append(errs, field.NotSupported(list.Index(i), f, known))
		} else if slices.Contains(s.IPFamilies[:i], f) {
			errs = append(errs, field.Duplicate(list.Index(i), f))
		}
	}
	if s.IPFamilyPolicy == nil {
		return errs
	}
	policies := []corev1.IPFamilyPolicy{corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack}
	switch {
	case !slices.Contains(policies, *s.IPFamilyPolicy):
		errs = append(errs, field.NotSupported(policy, *s.IPFamilyPolicy, policies))
	case *s.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack:
	case len(s.ClusterIPs) > 1:
		errs = append(errs, field.Invalid(policy, *s.IPFamilyPolicy, "must be RequireDualStack or PreferDualStack when there are two cluster IPs"))
	case len(s.IPFamilies) > 1:
		errs = append(errs, field.Invalid(policy, *s.IPFamilyPolicy, "must be RequireDualStack or PreferDualStack when there are two families"))
	}
	return errs
}

func validateExternalName(s *corev1.ServiceSpec, spec *field.Path) field.ErrorList {
	name := strings.TrimSuffix(s.ExternalName, ".")
	if name == "" {
		return field.ErrorList{field.Required(spec.Child("externalName"), "the name that an ExternalName service stands for")}
	}
	return each(spec.Child("externalName"), s.ExternalName, validation.IsDNS1123Subdomain(name))
}

// maxAffinity is a day, in seconds.
const maxAffinity = 86400

func validateAffinity(s *corev1.ServiceSpec, spec *field.Path) field.ErrorList {
	known := []corev1.ServiceAffinity{corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone}
	if !slices.Contains(known, s.SessionAffinity) {
		return field.ErrorList{field.NotSupported(spec.Child("sessionAffinity"), s.SessionAffinity, known)}
	}
	if s.SessionAffinity == corev1.ServiceAffinityClientIP {
		if t := *s.SessionAffinityConfig.ClientIP.TimeoutSeconds; t <= 0 || t > maxAffinity {
			return field.ErrorList{field.Invalid(spec.Child("sessionAffinityConfig", "clientIP", "timeoutSeconds"), t,
				fmt.Sprintf("must be greater than 0, and not more than %d", maxAffinity))}
		}
	}
	return nil
}

func validateTraffic(v *corev1.Service, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	s, annotations := &v.Spec, field.NewPath("metadata", "annotations")
	if name, value, ok := annotated(v.Annotations, annotationExternalTraffic, annotationExternalTrafficAlpha); ok {
		known := []string{externalGlobal, externalOnlyLocal}
		if !slices.Contains(known, value) {
			errs = append(errs, field.NotSupported(annotations.Key(name), value, known))
		} else if !reachedFromOutside(s) {
			errs = append(errs, field.Invalid(annotations.Key(name), value, onlyOutside))
		}
	}
	name, value, ok := annotated(v.Annotations, annotationHealthCheck, annotationHealthCheckAlpha)
	if port, isPort := decimal(value); ok && (!isPort || port < 1) {
		errs = append(errs, field.Invalid(annotations.Key(name), value, "must be a port from 1 to 65535, in quotes"))
	} else if p := s.HealthCheckNodePort; p != 0 && (!ok || int(p) != port) {
		errs = append(errs, each(spec.Child("healthCheckNodePort"), p, validation.IsValidPortNum(int(p)))...)
	}
	external := []corev1.ServiceExternalTrafficPolicy{corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal}
	switch p := s.ExternalTrafficPolicy; {
	case p == "":
	case !slices.Contains(external, p):
		errs = append(errs, field.NotSupported(spec.Child("externalTrafficPolicy"), p, external))
	case !reachedFromOutside(s):
		errs = append(errs, field.Invalid(spec.Child("externalTrafficPolicy"), p, onlyOutside))
	}
	internal := []corev1.ServiceInternalTrafficPolicy{corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal}
	if p := s.InternalTrafficPolicy; p != nil && !slices.Contains(internal, *p) {
		errs = append(errs, field.NotSupported(spec.Child("internalTrafficPolicy"), *p, internal))
	}
	distributions := []string{corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameNode, corev1.ServiceTrafficDistributionPreferSameZone}
	if d := s.TrafficDistribution; d != nil && !slices.Contains(distributions, *d) {
		errs = append(errs, field.NotSupported(spec.Child("trafficDistribution"), *d, distributions))
	}
	return errs
}

const onlyOutside = "may only be set for services that are reached from outside: NodePort, LoadBalancer, or with externalIPs"

// validateBalancer checks what only services of type LoadBalancer may have.
func validateBalancer(v *corev1.Service, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	s := &v.Spec
	forbidden := func(path *field.Path) {
		if s.Type != corev1.ServiceTypeLoadBalancer {
			errs = append(errs, field.Forbidden(path, "may only be used when the type is LoadBalancer"))
		}
	}
	if s.AllocateLoadBalancerNodePorts != nil {
		forbidden(spec.Child("allocateLoadBalancerNodePorts"))
	}
	if c := s.LoadBalancerClass; c != nil {
		at := spec.Child("loadBalancerClass")
		forbidden(at)
		errs = append(errs, each(at, *c, validation.IsQualifiedName(*c))...)
	}
	ranges, path := sourceRanges(v)
	if len(ranges) > 0 {
		forbidden(path(-1))
	}
	for i, r := range ranges {
		if _, ok := parseRange(r); !ok {
			errs = append(errs, field.Invalid(path(i), r, "must be a range like 10.0.0.0/8 or 2001:db8::/32"))
		}
	}
	return errs
}

func validateServiceStatus(s *corev1.ServiceStatus, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	modes := []corev1.LoadBalancerIPMode{corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP}
	for i, in := range s.LoadBalancer.Ingress {
		at := path.Child("loadBalancer", "ingress").Index(i)
		if in.IP != "" {
			if a, err := netip.ParseAddr(in.IP); err != nil || a.Zone() != "" || a.Is4In6() {
				errs = append(errs, field.Invalid(at.Child("ip"), in.IP, "must be an IP address like 10.9.8.7 or 2001:db8::1"))
			}
		}
		if in.IPMode != nil {
			if in.IP == "" {
				errs = append(errs, field.Forbidden(at.Child("ipMode"), "may not be given without ip"))
			} else if !slices.Contains(modes, *in.IPMode) {
				errs = append(errs, field.NotSupported(at.Child("ipMode"), *in.IPMode, modes))
			}
		}
		if in.Hostname == "" {
			continue
		}
		errs = append(errs, each(at.Child("hostname"), in.Hostname, validation.IsDNS1123Subdomain(in.Hostname))...)
		if _, err := netip.ParseAddr(in.Hostname); err == nil {
			errs = append(errs, field.Invalid(at.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address"))
		}
	}
	for i, c := range s.Conditions {
		if c.Type == "" {
			errs = append(errs, field.Required(path.Child("conditions").Index(i).Child("type"), ""))
		}
	}
	return errs
}
