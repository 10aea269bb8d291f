package control

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"vswitch/vswitch/cluster"
)

// labelEndpoints says who writes Endpoints.
const labelEndpoints, endpointsController = "endpoints.kubernetes.io/managed-by", "endpoint-controller"

// EndpointsOf returns the Endpoints of a service for reading: as they were
// written, if the service has no selector, else as its slices say. It returns
// nil if there is neither.
//
// Like the endpoints controller it leaves out endpoints that are terminating,
// unless the service publishes those that are not ready, and all families but
// the service's first.
func EndpointsOf(s *cluster.State, k cluster.Key) *cluster.Endpoints {
	var list []*cluster.EndpointSlice
	for v := range s.EndpointSlices.In(k.Namespace) {
		if v.Service() == k {
			list = append(list, v)
		}
	}
	return endpointsOf(s, k, list)
}

// AllEndpoints returns what EndpointsOf returns for each service and for what
// was written, in order of key.
func AllEndpoints(s *cluster.State) []*cluster.Endpoints {
	byService := map[cluster.Key][]*cluster.EndpointSlice{}
	for v := range s.EndpointSlices.All() {
		byService[v.Service()] = append(byService[v.Service()], v)
	}
	keys := map[cluster.Key]bool{}
	for v := range s.Services.All() {
		keys[v.Key()] = true
	}
	for v := range s.Endpoints.All() {
		keys[v.Key()] = true
	}
	var out []*cluster.Endpoints
	for _, k := range sorted(keys) {
		if e := endpointsOf(s, k, byService[k]); e != nil {
			out = append(out, e)
		}
	}
	return out
}

func endpointsOf(s *cluster.State, k cluster.Key, list []*cluster.EndpointSlice) *cluster.Endpoints {
	v, e := s.Service(k), s.Endpoints.Get(k)
	if e != nil && (v == nil || len(v.Selector) == 0) {
		return e
	}
	if v == nil || v.Type == cluster.ServiceExternalName || len(v.Selector) == 0 && len(list) == 0 {
		return nil
	}
	e = &cluster.Endpoints{Meta: cluster.Meta{Namespace: k.Namespace, Name: k.Name, UID: endpointsUID(v.UID), Created: v.Created, ResourceVersion: v.ResourceVersion}}
	e.Labels = maps.Clone(v.Labels)
	if e.Labels == nil {
		e.Labels = map[string]string{}
	}
	e.Labels[labelEndpoints] = endpointsController
	if v.Headless {
		e.Labels[cluster.LabelHeadless] = ""
	}
	p, trigger := packing{}, ""
	for _, slice := range list {
		if len(v.IPFamilies) > 0 && slice.Family != v.IPFamilies[0] {
			continue
		}
		e.ResourceVersion = max(e.ResourceVersion, slice.ResourceVersion)
		trigger = max(trigger, slice.Annotations[cluster.AnnotationTrigger])
		if len(slice.Ports) == 0 && len(v.Ports) > 0 {
			continue
		}
		for i := range slice.Endpoints {
			p.add(&slice.Endpoints[i], slice.Ports, v.PublishNotReady)
		}
	}
	if e.Subsets = p.subsets(); trigger != "" {
		e.Annotations = map[string]string{cluster.AnnotationTrigger: trigger}
	}
	return e
}

// endpointsUID returns the UUID of a service's Endpoints, which are made when they
// are read: another one than the service's, and always the same (RFC 9562,
// version 8).
func endpointsUID(service string) string {
	if service == "" {
		return ""
	}
	sum := sha256.Sum256([]byte("endpoints of " + service))
	return formatUUID([16]byte(sum[:16]), 8)
}

// packing sorts addresses by the ports that they have (RepackSubsets in
// pkg/api/v1/endpoints).
type packing map[netip.Addr]*packed

type packed struct {
	endpoint cluster.Endpoint
	ports    []cluster.EndpointPort
}

func (p packing) add(e *cluster.Endpoint, ports []cluster.EndpointPort, unready bool) {
	if len(e.Addresses) == 0 || e.Terminating && !unready {
		return
	}
	a := e.Addresses[0]
	if p[a] == nil {
		p[a] = &packed{endpoint: *e}
	}
	p[a].endpoint.Ready = p[a].endpoint.Ready || e.Ready
	for _, port := range ports {
		if !slices.Contains(p[a].ports, port) {
			p[a].ports = append(p[a].ports, port)
		}
	}
}

func (p packing) subsets() (list []cluster.EndpointSubset) {
	at := map[string]int{}
	all := slices.SortedFunc(maps.Values(p), func(a, b *packed) int { return compareAddresses(a.endpoint, b.endpoint) })
	for _, e := range all {
		slices.SortFunc(e.ports, comparePorts)
		group := fmt.Sprint(e.ports)
		n, ok := at[group]
		if !ok {
			n = len(list)
			at[group] = n
			list = append(list, cluster.EndpointSubset{Ports: e.ports})
		}
		if e.endpoint.Ready {
			list[n].Ready = append(list[n].Ready, e.endpoint)
		} else {
			list[n].NotReady = append(list[n].NotReady, e.endpoint)
		}
	}
	slices.SortStableFunc(list, func(a, b cluster.EndpointSubset) int { return slices.CompareFunc(a.Ports, b.Ports, comparePorts) })
	return list
}

func comparePorts(a, b cluster.EndpointPort) int {
	return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Name, b.Name), cmp.Compare(a.AppProtocol, b.AppProtocol))
}
