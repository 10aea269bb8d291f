package control

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// portsOf returns the ports that p has for v, and the named ones that it lacks, as
// an error message calls them.
func portsOf(v *cluster.Service, p *cluster.Pod) (ports []cluster.EndpointPort, missing []string) {
	for i := range v.Ports {
		sp := &v.Ports[i]
		number := sp.TargetPort
		if sp.TargetName != "" {
			if number = namedPort(p, sp.TargetName, sp.Protocol); number == 0 {
				missing = append(missing, fmt.Sprintf("targetPort %q is no %s", sp.TargetName, strings.ToUpper(packet.ProtoName(sp.Protocol))))
				continue
			}
		} else if number == 0 {
			number = sp.Port
		}
		ports = append(ports, cluster.EndpointPort{Name: sp.Name, Protocol: sp.Protocol, Port: number, AppProtocol: sp.AppProtocol})
	}
	return ports, missing
}

// namedPort returns a container port of p by name, or 0 (FindPort in
// pkg/api/v1/pod).
func namedPort(p *cluster.Pod, name string, protocol uint8) uint16 {
	for i := range p.Containers {
		for _, port := range p.Containers[i].Ports {
			if port.Name == name && port.Protocol == protocol {
				return port.Port
			}
		}
	}
	for i := range p.InitContainers {
		for _, port := range p.InitContainers[i].Ports {
			if p.InitContainers[i].Sidecar && port.Name == name && port.Protocol == protocol {
				return port.Port
			}
		}
	}
	return 0
}

// lack notes which named ports a pod does not have.
func (r *refill) lack(pod cluster.Key, missing []string) {
	all := r.index.fan.lacking
	if slices.Equal(all[r.key][pod], missing) {
		return
	}
	r.lacks = true
	switch {
	case len(missing) > 0 && all[r.key] == nil:
		all[r.key] = map[cluster.Key][]string{pod: missing}
	case len(missing) > 0:
		all[r.key][pod] = missing
	default:
		if delete(all[r.key], pod); len(all[r.key]) == 0 {
			delete(all, r.key)
		}
	}
}

// maxNamed is how many pods a condition names.
const maxNamed = 3

// report makes conditions of the pods that lack a named port, and of Endpoints that
// somebody wrote for a service whose endpoints are the pods that it selects.
func (s *step) report(own *cluster.Service) {
	var l *lack
	if lacks := s.index.fan.lacking[own.Key()]; len(lacks) > 0 {
		l = &lack{reason: "UnknownPort", message: lackText(lacks)}
	}
	v := *own
	s.setCondition(&v, conditionTargetPorts, l)
	l = nil
	if e := s.tx.Own().Endpoints.Get(own.Key()); e != nil && len(own.Selector) > 0 && e.Labels[labelEndpoints] != endpointsController {
		l = &lack{reason: "HasSelector", message: fmt.Sprintf("Endpoints %s have no effect: the service has a selector, and its endpoints are the pods that it selects; delete one of the two", own.Key())}
	}
	s.setCondition(&v, conditionEndpoints, l)
	if !slices.Equal(v.Conditions, own.Conditions) {
		s.put(&v)
	}
}

func lackText(lacks map[cluster.Key][]string) string {
	without := map[string][]string{} // pods by port
	for _, pod := range slices.SortedFunc(maps.Keys(lacks), compareKeys) {
		for i, port := range lacks[pod] {
			if !slices.Contains(lacks[pod][:i], port) { // several ports of the service may lead there
				without[port] = append(without[port], pod.String())
			}
		}
	}
	var parts []string
	for _, port := range slices.Sorted(maps.Keys(without)) {
		pods := without[port]
		text := port + " container port of " + strings.Join(pods[:min(maxNamed, len(pods))], ", ")
		if n := len(pods) - maxNamed; n > 0 {
			text += fmt.Sprintf(" and %d more", n)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}
