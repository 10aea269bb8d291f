package kube

//lint:file-ignore SA1019 Endpoints are deprecated, and still written by people.

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"vswitch/vswitch/cluster"
)

// fromService writes the service with what was allocated for it.
func fromService(v *cluster.Service) (*corev1.Service, error) {
	o := &corev1.Service{}
	known, err := base(v, o)
	if err != nil {
		return nil, err
	}
	if !known {
		o.Spec = fromServiceSpec(v)
	}
	o.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}
	setMeta(&o.ObjectMeta, &v.Meta, 0)
	s := &o.Spec
	s.ClusterIP, s.ClusterIPs = "", nil
	for _, a := range v.ClusterIPs {
		s.ClusterIPs = append(s.ClusterIPs, a.String())
	}
	if v.Headless {
		s.ClusterIPs = []string{corev1.ClusterIPNone}
	}
	if len(s.ClusterIPs) > 0 {
		s.ClusterIP = s.ClusterIPs[0]
	}
	s.IPFamilies, s.IPFamilyPolicy = nil, nil
	for _, f := range v.IPFamilies {
		s.IPFamilies = append(s.IPFamilies, corev1.IPFamily(f))
	}
	if v.IPFamilyPolicy != "" {
		s.IPFamilyPolicy = pointer(corev1.IPFamilyPolicy(v.IPFamilyPolicy))
	}
	for i := range min(len(s.Ports), len(v.Ports)) {
		s.Ports[i].NodePort = int32(v.Ports[i].NodePort)
	}
	s.HealthCheckNodePort = int32(v.HealthCheckPort)
	o.Status = serviceStatus(v)
	return o, nil
}

func pointer[T any](v T) *T { return &v }

// optional is nil for the zero value.
func optional[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// fromServiceSpec writes the specification of a service without a manifest.
func fromServiceSpec(v *cluster.Service) corev1.ServiceSpec {
	o := corev1.Service{Spec: corev1.ServiceSpec{
		Type: corev1.ServiceType(v.Type), Selector: v.Selector, ExternalName: v.ExternalName,
		LoadBalancerClass: optional(v.LoadBalancerClass), PublishNotReadyAddresses: v.PublishNotReady,
		TrafficDistribution: optional(string(v.Distribution)),
	}}
	s := &o.Spec
	for i := range v.Ports {
		p := &v.Ports[i]
		s.Ports = append(s.Ports, corev1.ServicePort{Name: p.Name, Protocol: protocolName(p.Protocol), Port: int32(p.Port),
			TargetPort: fromPort(p.TargetPort, p.TargetName), AppProtocol: optional(p.AppProtocol)})
	}
	for _, a := range v.ExternalIPs {
		s.ExternalIPs = append(s.ExternalIPs, a.String())
	}
	if v.LoadBalancerIP.IsValid() {
		s.LoadBalancerIP = v.LoadBalancerIP.String()
	}
	for _, r := range v.SourceRanges {
		s.LoadBalancerSourceRanges = append(s.LoadBalancerSourceRanges, r.String())
	}
	if v.NoNodePorts {
		s.AllocateLoadBalancerNodePorts = pointer(false)
	}
	if v.ExternalLocal {
		s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	if v.InternalLocal {
		s.InternalTrafficPolicy = pointer(corev1.ServiceInternalTrafficPolicyLocal)
	}
	if v.Affinity > 0 {
		s.SessionAffinity = corev1.ServiceAffinityClientIP
		s.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: pointer(int32(v.Affinity / time.Second))}}
	}
	defaultService(&o)
	return o.Spec
}

func serviceStatus(v *cluster.Service) corev1.ServiceStatus {
	var s corev1.ServiceStatus
	for _, in := range v.Ingress {
		lb := corev1.LoadBalancerIngress{Hostname: in.Hostname}
		if in.IP.IsValid() {
			lb.IP, lb.IPMode = in.IP.String(), pointer(corev1.LoadBalancerIPModeVIP)
			if in.Proxy {
				lb.IPMode = pointer(corev1.LoadBalancerIPModeProxy)
			}
		}
		s.LoadBalancer.Ingress = append(s.LoadBalancer.Ingress, lb)
	}
	for _, c := range v.Conditions {
		out := metav1.Condition{Type: c.Type, Status: metav1.ConditionFalse, Reason: c.Reason, Message: c.Message, LastTransitionTime: metav1.NewTime(c.Since)}
		if c.True {
			out.Status = metav1.ConditionTrue
		}
		s.Conditions = append(s.Conditions, out)
	}
	return s
}

func fromEndpointSlice(e *cluster.EndpointSlice) (*discoveryv1.EndpointSlice, error) {
	o := &discoveryv1.EndpointSlice{}
	known, err := base(e, o)
	if err != nil {
		return nil, err
	}
	o.TypeMeta = metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}
	setMeta(&o.ObjectMeta, &e.Meta, 0)
	if known {
		return o, nil
	}
	if e.Owner.Name != "" {
		o.GenerateName = e.Owner.Name + "-"
		o.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: string(e.Owner.Kind), Name: e.Owner.Name,
			UID: types.UID(e.OwnerUID), Controller: pointer(true), BlockOwnerDeletion: pointer(true)}}
	}
	o.AddressType = discoveryv1.AddressType(e.Family)
	for _, p := range e.Ports {
		port := discoveryv1.EndpointPort{Name: pointer(p.Name), Protocol: pointer(protocolName(p.Protocol)), AppProtocol: optional(p.AppProtocol)}
		if p.Port != 0 {
			port.Port = pointer(int32(p.Port))
		}
		o.Ports = append(o.Ports, port)
	}
	for i := range e.Endpoints {
		o.Endpoints = append(o.Endpoints, fromEndpoint(&e.Endpoints[i]))
	}
	return o, nil
}

func fromEndpoint(p *cluster.Endpoint) discoveryv1.Endpoint {
	out := discoveryv1.Endpoint{
		Conditions: discoveryv1.EndpointConditions{Ready: pointer(p.Ready), Serving: pointer(p.Serving), Terminating: pointer(p.Terminating)},
		Hostname:   optional(p.Hostname), NodeName: optional(p.Node), Zone: optional(p.Zone), TargetRef: fromTarget(p),
	}
	for _, a := range p.Addresses {
		out.Addresses = append(out.Addresses, a.String())
	}
	if len(p.ForZones)+len(p.ForNodes) > 0 {
		out.Hints = &discoveryv1.EndpointHints{}
		for _, z := range p.ForZones {
			out.Hints.ForZones = append(out.Hints.ForZones, discoveryv1.ForZone{Name: z})
		}
		for _, n := range p.ForNodes {
			out.Hints.ForNodes = append(out.Hints.ForNodes, discoveryv1.ForNode{Name: n})
		}
	}
	return out
}

func fromTarget(p *cluster.Endpoint) *corev1.ObjectReference {
	if p.Pod.Name == "" {
		return nil
	}
	return &corev1.ObjectReference{Kind: "Pod", Namespace: p.Pod.Namespace, Name: p.Pod.Name, UID: types.UID(p.PodUID)}
}

func fromEndpoints(e *cluster.Endpoints) (*corev1.Endpoints, error) {
	o := &corev1.Endpoints{}
	known, err := base(e, o)
	if err != nil {
		return nil, err
	}
	o.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Endpoints"}
	setMeta(&o.ObjectMeta, &e.Meta, 0)
	if known {
		return o, nil
	}
	for i := range e.Subsets {
		s := &e.Subsets[i]
		subset := corev1.EndpointSubset{Addresses: fromAddresses(s.Ready), NotReadyAddresses: fromAddresses(s.NotReady)}
		for _, p := range s.Ports {
			subset.Ports = append(subset.Ports, corev1.EndpointPort{Name: p.Name, Port: int32(p.Port), Protocol: protocolName(p.Protocol), AppProtocol: optional(p.AppProtocol)})
		}
		o.Subsets = append(o.Subsets, subset)
	}
	return o, nil
}

func fromAddresses(list []cluster.Endpoint) (out []corev1.EndpointAddress) {
	for i := range list {
		p := &list[i]
		for _, a := range p.Addresses {
			out = append(out, corev1.EndpointAddress{IP: a.String(), Hostname: p.Hostname, NodeName: optional(p.Node), TargetRef: fromTarget(p)})
		}
	}
	return out
}
