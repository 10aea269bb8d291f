package main

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
	"vswitch/vswitch/lab"
	"vswitch/vswitch/packet"
)

var serviceHeader = []string{"NAMESPACE", "NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR", "WHY"}

// serviceRows shows services as kubectl does (printService in
// pkg/printers/internalversion).
func serviceRows(s *lab.State, _ []lab.Node) (rows []row) {
	for _, v := range s.Services {
		clusterIP := list(v.ClusterIPs[:min(1, len(v.ClusterIPs))])
		if v.Headless {
			clusterIP = "None"
		}
		rows = append(rows, objectRow(&v.Meta, "", v, v, v.Namespace, v.Name, string(v.Type), clusterIP,
			externalOf(v), portsOf(v.Ports), since(v.Created), labelsOf(v.Selector), strings.Join(v.Lacks(), "; ")))
	}
	return rows
}

// serviceAt says in words where a service is.
func serviceAt(v *cluster.Service) string {
	switch {
	case v.Type == cluster.ServiceExternalName:
		return "another name for " + v.ExternalName
	case v.Headless:
		return "headless"
	case len(v.ClusterIPs) == 0:
		return "without an address"
	case len(v.Ingress) > 0:
		return "at " + list(v.ClusterIPs) + ", outside at " + externalOf(v)
	}
	return "at " + list(v.ClusterIPs)
}

// externalOf is where a service is reached from outside.
func externalOf(v *cluster.Service) string {
	if v.Type == cluster.ServiceExternalName {
		return v.ExternalName
	}
	var out []string
	for _, in := range v.Ingress {
		out = append(out, cmp.Or(in.Hostname, in.IP.String()))
	}
	if len(out) == 0 && v.Type == cluster.ServiceLoadBalancer && len(v.ExternalIPs) == 0 {
		return "<pending>"
	}
	for _, a := range v.ExternalIPs {
		out = append(out, a.String())
	}
	return strings.Join(out, ",")
}

func portsOf(ports []cluster.ServicePort) string {
	var out []string
	for _, p := range ports {
		text := fmt.Sprint(p.Port)
		if p.NodePort != 0 {
			text += fmt.Sprintf(":%d", p.NodePort)
		}
		out = append(out, text+"/"+strings.ToUpper(packet.ProtoName(p.Protocol)))
	}
	return strings.Join(out, ",")
}

func labelsOf(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return strings.Join(out, ",")
}

var endpointsHeader = []string{"NAMESPACE", "NAME", "ENDPOINTS", "AGE", "NOT-READY"}

func endpointsRows(s *lab.State, _ []lab.Node) (rows []row) {
	state := s.Objects.State()
	for _, v := range s.Services {
		e := control.EndpointsOf(state, v.Key())
		if e == nil {
			continue
		}
		var ready, rest []string
		for _, sub := range e.Subsets {
			ready = append(ready, addressesOf(sub.Ready, sub.Ports)...)
			rest = append(rest, addressesOf(sub.NotReady, sub.Ports)...)
		}
		rows = append(rows, objectRow(&e.Meta, "", e, e, e.Namespace, e.Name, few(ready), since(v.Created), few(rest)))
	}
	return rows
}

// addressesOf is every endpoint with every port.
func addressesOf(endpoints []cluster.Endpoint, ports []cluster.EndpointPort) (out []string) {
	for _, e := range endpoints {
		for _, a := range e.Addresses {
			if len(ports) == 0 {
				out = append(out, a.String())
			}
			for _, p := range ports {
				out = append(out, netip.AddrPortFrom(a, p.Port).String())
			}
		}
	}
	return out
}

// few shows the first of a list, as kubectl does.
func few(list []string) string {
	const most = 3
	if n := len(list) - most; n > 0 {
		return strings.Join(list[:most], ",") + fmt.Sprintf(" + %d more...", n)
	}
	return strings.Join(list, ",")
}

var sliceHeader = []string{"NAMESPACE", "NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"}

func sliceRows(s *lab.State, _ []lab.Node) (rows []row) {
	for _, v := range s.EndpointSlices {
		var ports, addrs []string
		for _, p := range v.Ports {
			ports = append(ports, fmt.Sprint(p.Port))
		}
		for _, e := range v.Endpoints {
			addrs = append(addrs, list(e.Addresses))
		}
		rows = append(rows, objectRow(&v.Meta, "", v, v, v.Namespace, v.Name, string(v.Family), strings.Join(ports, ","), few(addrs), since(v.Created)))
	}
	return rows
}
