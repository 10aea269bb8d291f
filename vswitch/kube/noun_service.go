package kube

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"vswitch/vswitch/cluster"
)

// normalizeService drops what serviceNoEffect warned of, as the API server
// would not keep it, and writes cluster IPs in their canonical form, in which
// they come back.
func normalizeService(v *corev1.Service) {
	if !needsHealthCheck(&v.Spec) {
		v.Spec.HealthCheckNodePort = 0
	}
	if v.Spec.Type != corev1.ServiceTypeLoadBalancer {
		v.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
	for i, text := range v.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(text); err == nil {
			v.Spec.ClusterIPs[i] = a.String()
		}
	}
	if len(v.Spec.ClusterIPs) > 0 {
		v.Spec.ClusterIP = v.Spec.ClusterIPs[0]
	}
}

func toService(v *corev1.Service) *cluster.Service {
	s := &v.Spec
	out := &cluster.Service{
		Meta: toMeta(&v.ObjectMeta, &corev1.Service{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: desiredMeta(&v.ObjectMeta), Spec: v.Spec,
		}),
		Type: cluster.ServiceType(s.Type), Headless: isHeadless(s), ExternalName: s.ExternalName,
		NoNodePorts:     s.AllocateLoadBalancerNodePorts != nil && !*s.AllocateLoadBalancerNodePorts,
		ExternalLocal:   s.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		InternalLocal:   s.InternalTrafficPolicy != nil && *s.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		HealthCheckPort: uint16(s.HealthCheckNodePort), PublishNotReady: s.PublishNotReadyAddresses,
	}
	if len(s.Selector) > 0 {
		out.Selector = s.Selector
	}
	for i := range s.Ports {
		out.Ports = append(out.Ports, toServicePort(&s.Ports[i]))
	}
	if !out.Headless {
		out.ClusterIPs = parseAddrs(s.ClusterIPs)
	}
	for _, f := range s.IPFamilies {
		out.IPFamilies = append(out.IPFamilies, cluster.IPFamily(f))
	}
	if s.IPFamilyPolicy != nil {
		out.IPFamilyPolicy = cluster.IPFamilyPolicy(*s.IPFamilyPolicy)
	}
	out.ExternalIPs = parseAddrs(s.ExternalIPs)
	if a, ok := balancerIP(s); ok {
		out.LoadBalancerIP = a
	}
	if s.LoadBalancerClass != nil {
		out.LoadBalancerClass = *s.LoadBalancerClass
	}
	ranges, _ := sourceRanges(v)
	for _, r := range ranges {
		p, _ := parseRange(r)
		out.SourceRanges = append(out.SourceRanges, p)
	}
	if s.SessionAffinity == corev1.ServiceAffinityClientIP {
		out.Affinity = inSeconds(*s.SessionAffinityConfig.ClientIP.TimeoutSeconds)
	}
	if s.TrafficDistribution != nil {
		out.Distribution = cluster.Distribution(*s.TrafficDistribution)
	}
	for _, in := range v.Status.LoadBalancer.Ingress {
		lb := cluster.LBIngress{Hostname: in.Hostname, Proxy: in.IPMode != nil && *in.IPMode == corev1.LoadBalancerIPModeProxy}
		if in.IP != "" {
			lb.IP = netip.MustParseAddr(in.IP)
		}
		out.Ingress = append(out.Ingress, lb)
	}
	for _, c := range v.Status.Conditions {
		out.Conditions = append(out.Conditions, cluster.Condition{Type: c.Type, True: c.Status == metav1.ConditionTrue,
			Reason: c.Reason, Message: c.Message, Since: utc(c.LastTransitionTime)})
	}
	return out
}

// balancerIP is the address that a service asks a balancer for. The API server
// takes any text; what is no address asks for nothing.
func balancerIP(s *corev1.ServiceSpec) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s.LoadBalancerIP)
	return a, err == nil && a.Zone() == "" && !a.Is4In6()
}

func toServicePort(p *corev1.ServicePort) cluster.ServicePort {
	out := cluster.ServicePort{Name: p.Name, Protocol: protocolNumbers[p.Protocol], Port: uint16(p.Port), NodePort: uint16(p.NodePort)}
	if p.TargetPort.Type == intstr.String {
		out.TargetName = p.TargetPort.StrVal
	} else {
		out.TargetPort = uint16(p.TargetPort.IntVal)
	}
	if p.AppProtocol != nil {
		out.AppProtocol = *p.AppProtocol
	}
	return out
}

// parseAddrs parses what validation has looked at.
func parseAddrs(texts []string) (out []netip.Addr) {
	for _, t := range texts {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}
