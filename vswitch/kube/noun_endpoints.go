package kube

//lint:file-ignore SA1019 Endpoints are deprecated, and still written by people.

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"vswitch/vswitch/cluster"
)

// toEndpointSlice converts a slice. What it says of names (addressType FQDN) is kept
// as it was written only: nothing uses it.
func toEndpointSlice(e *discoveryv1.EndpointSlice) *cluster.EndpointSlice {
	out := &cluster.EndpointSlice{
		Meta: toMeta(&e.ObjectMeta, &discoveryv1.EndpointSlice{
			TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}, ObjectMeta: desiredMeta(&e.ObjectMeta),
			AddressType: e.AddressType, Endpoints: e.Endpoints, Ports: e.Ports,
		}),
		Family: cluster.IPFamily(e.AddressType),
	}
	for _, p := range e.Ports {
		out.Ports = append(out.Ports, cluster.EndpointPort{Name: *p.Name, Protocol: protocolNumbers[*p.Protocol],
			Port: uint16(valueOf(p.Port)), AppProtocol: valueOf(p.AppProtocol)})
	}
	if e.AddressType == discoveryv1.AddressTypeFQDN {
		return out
	}
	for i := range e.Endpoints {
		out.Endpoints = append(out.Endpoints, toEndpoint(&e.Endpoints[i], e.Namespace))
	}
	return out
}

// valueOf is what p points to, or the zero value.
func valueOf[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func toEndpoint(e *discoveryv1.Endpoint, namespace string) cluster.Endpoint {
	c := e.Conditions
	out := cluster.Endpoint{
		Addresses: parseAddrs(e.Addresses), Ready: c.Ready == nil || *c.Ready, Serving: c.Serving == nil || *c.Serving,
		Terminating: valueOf(c.Terminating), Hostname: valueOf(e.Hostname), Node: valueOf(e.NodeName), Zone: valueOf(e.Zone),
	}
	out.Pod, out.PodUID = toTarget(e.TargetRef, namespace)
	if e.Hints != nil {
		for _, z := range e.Hints.ForZones {
			out.ForZones = append(out.ForZones, z.Name)
		}
		for _, n := range e.Hints.ForNodes {
			out.ForNodes = append(out.ForNodes, n.Name)
		}
	}
	return out
}

// toTarget returns the pod that a reference in an object of the namespace
// means; none if it means something else.
func toTarget(r *corev1.ObjectReference, namespace string) (pod cluster.Key, uid string) {
	if r == nil || r.Kind != "Pod" || r.Name == "" {
		return cluster.Key{}, ""
	}
	if r.Namespace != "" {
		namespace = r.Namespace
	}
	return cluster.Key{Namespace: namespace, Name: r.Name}, string(r.UID)
}

func toEndpoints(e *corev1.Endpoints) *cluster.Endpoints {
	out := &cluster.Endpoints{Meta: toMeta(&e.ObjectMeta, &corev1.Endpoints{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Endpoints"}, ObjectMeta: desiredMeta(&e.ObjectMeta), Subsets: e.Subsets,
	})}
	convert := func(list []corev1.EndpointAddress, ready bool) (out []cluster.Endpoint) {
		for _, a := range list {
			p := cluster.Endpoint{Addresses: parseAddrs([]string{a.IP}), Ready: ready, Serving: ready, Hostname: a.Hostname, Node: valueOf(a.NodeName)}
			p.Pod, p.PodUID = toTarget(a.TargetRef, e.Namespace)
			out = append(out, p)
		}
		return out
	}
	for _, s := range e.Subsets {
		subset := cluster.EndpointSubset{Ready: convert(s.Addresses, true), NotReady: convert(s.NotReadyAddresses, false)}
		for _, p := range s.Ports {
			subset.Ports = append(subset.Ports, cluster.EndpointPort{Name: p.Name, Protocol: protocolNumbers[p.Protocol],
				Port: uint16(p.Port), AppProtocol: valueOf(p.AppProtocol)})
		}
		out.Subsets = append(out.Subsets, subset)
	}
	return out
}
