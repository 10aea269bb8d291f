package kube

//lint:file-ignore SA1019 Endpoints are deprecated, and still written by people.

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Annotations by which services asked for what are fields today. The first two
// were used before Kubernetes 1.7.
const (
	annotationExternalTraffic      = "service.beta.kubernetes.io/external-traffic"
	annotationExternalTrafficAlpha = "service.alpha.kubernetes.io/external-traffic"
	annotationHealthCheck          = "service.beta.kubernetes.io/healthcheck-nodeport"
	annotationHealthCheckAlpha     = "service.alpha.kubernetes.io/healthcheck-nodeport"
	annotationSourceRanges         = corev1.AnnotationLoadBalancerSourceRangesKey
)

// Values of annotationExternalTraffic.
const (
	externalOnlyLocal = "OnlyLocal"
	externalGlobal    = "Global"
)

// annotated returns the first of the annotations that is there, and its value.
func annotated(m map[string]string, names ...string) (name, value string, ok bool) {
	for _, name := range names {
		if value, ok := m[name]; ok {
			return name, value, true
		}
	}
	return "", "", false
}

// reachedFromOutside reports whether a service has addresses or ports for
// clients outside the cluster.
func reachedFromOutside(s *corev1.ServiceSpec) bool {
	switch s.Type {
	case corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		return true
	case corev1.ServiceTypeClusterIP:
		return len(s.ExternalIPs) > 0
	}
	return false
}

// defaultService does what the API server does without its allocators. Cluster
// IPs, families and node ports stay unset where the manifest says nothing.
func defaultService(v *corev1.Service) {
	set(&v.Namespace, corev1.NamespaceDefault)
	s := &v.Spec
	set(&s.Type, corev1.ServiceTypeClusterIP)
	set(&s.SessionAffinity, corev1.ServiceAffinityNone)
	switch s.SessionAffinity {
	case corev1.ServiceAffinityNone:
		s.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		setPtr(&s.SessionAffinityConfig, corev1.SessionAffinityConfig{})
		setPtr(&s.SessionAffinityConfig.ClientIP, corev1.ClientIPConfig{})
		setPtr(&s.SessionAffinityConfig.ClientIP.TimeoutSeconds, corev1.DefaultClientIPServiceAffinitySeconds)
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		set(&p.Protocol, corev1.ProtocolTCP)
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	defaultTraffic(v)
	if s.Type == corev1.ServiceTypeLoadBalancer {
		setPtr(&s.AllocateLoadBalancerNodePorts, true)
	}
	if s.ClusterIP != "" && len(s.ClusterIPs) == 0 {
		s.ClusterIPs = []string{s.ClusterIP}
	}
	for i := range v.Status.LoadBalancer.Ingress {
		if in := &v.Status.LoadBalancer.Ingress[i]; in.IP != "" {
			setPtr(&in.IPMode, corev1.LoadBalancerIPModeVIP)
		}
	}
}

// defaultTraffic fills in the traffic policies: from the annotations of old,
// where the field is not set, else Cluster.
func defaultTraffic(v *corev1.Service) {
	s := &v.Spec
	_, traffic, _ := annotated(v.Annotations, annotationExternalTraffic, annotationExternalTrafficAlpha)
	if reachedFromOutside(s) {
		if traffic == externalOnlyLocal {
			set(&s.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyLocal)
		}
		set(&s.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if needsHealthCheck(s) {
		_, text, _ := annotated(v.Annotations, annotationHealthCheck, annotationHealthCheckAlpha)
		if port, err := strconv.ParseInt(text, 10, 32); err == nil {
			set(&s.HealthCheckNodePort, int32(port))
		}
	}
	switch s.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		setPtr(&s.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
}

// needsHealthCheck reports whether nodes tell a balancer if they have endpoints.
func needsHealthCheck(s *corev1.ServiceSpec) bool {
	return s.Type == corev1.ServiceTypeLoadBalancer && s.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func defaultEndpointSlice(e *discoveryv1.EndpointSlice) {
	set(&e.Namespace, corev1.NamespaceDefault)
	for i := range e.Ports {
		setPtr(&e.Ports[i].Name, "")
		setPtr(&e.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range e.Endpoints {
		e.Endpoints[i].DeprecatedTopology = nil // not writable in v1
	}
}

func defaultEndpoints(e *corev1.Endpoints) {
	set(&e.Namespace, corev1.NamespaceDefault)
	for i := range e.Subsets {
		for j := range e.Subsets[i].Ports {
			set(&e.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
		}
	}
}
