package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/lab"
)

// objectRow is the row of an object of the cluster.
func objectRow(m *cluster.Meta, node string, value, state any, cells ...string) row {
	return row{key: m.Key().String(), meta: m, node: node, cells: cells, value: value, state: state}
}

var podHeader = []string{"NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "ALL-IPS", "SERVED-BY", "WHY"}

func podRows(s *lab.State, _ []lab.Node) (rows []row) {
	for _, p := range s.Pods {
		served, ip := "command", ""
		switch {
		case p.NodeServes != "":
			served = "node"
		case p.BuiltIn:
			served = "built-in"
		}
		if len(p.IPs) > 0 {
			ip = p.IPs[0].String()
		}
		rows = append(rows, objectRow(&p.Meta, p.Node, p, p, p.Namespace, p.Name, podReady(p), podStatus(p),
			strconv.Itoa(p.Restarts), since(p.Created), ip, p.Node, list(p.IPs), served, p.Reason))
	}
	return rows
}

// podReady is how many of a pod's containers are ready. Init containers that
// end are not counted.
func podReady(p *cluster.Pod) string {
	ready, all := 0, len(p.Containers)
	for i, s := range p.Statuses {
		if i < len(p.InitContainers) {
			if !p.InitContainers[i].Sidecar {
				continue
			}
			all++
		}
		if s.Ready {
			ready++
		}
	}
	return fmt.Sprintf("%d/%d", ready, all)
}

// podStatus is the word for how a pod is, as kubectl finds it (printPod in
// pkg/printers/internalversion).
func podStatus(p *cluster.Pod) string {
	if !p.Deleted.IsZero() {
		return "Terminating"
	}
	inits := min(len(p.InitContainers), len(p.Statuses))
	for i, s := range p.Statuses[:inits] {
		switch done := !s.Finished.IsZero() && s.ExitCode == 0; {
		case p.InitContainers[i].Sidecar && s.Running || !p.InitContainers[i].Sidecar && done:
		case s.Running || s.Reason == "":
			return fmt.Sprintf("Init:%d/%d", i, len(p.InitContainers))
		default:
			return "Init:" + s.Reason
		}
	}
	for _, s := range p.Statuses[inits:] {
		if !s.Running && s.Reason != "" {
			return s.Reason
		}
	}
	if p.Phase == "" {
		return string(cluster.PodPending)
	}
	return string(p.Phase)
}

var nodeHeader = []string{"NAME", "STATUS", "RESTARTS", "AGE", "INTERNAL-IP", "POD-CIDRS", "UNDERLAY", "GOSSIP", "WHY"}

func nodeRows(s *lab.State, processes []lab.Node) (rows []row) {
	for _, n := range s.Nodes {
		status := "NotReady"
		var p lab.Node
		if i := slices.IndexFunc(processes, func(p lab.Node) bool { return p.Name == n.Name }); i >= 0 {
			if p = processes[i]; p.Ready {
				status = "Ready"
			}
		}
		if n.Unschedulable {
			status += ",SchedulingDisabled"
		}
		rows = append(rows, objectRow(&n.Meta, n.Name, n, [2]any{n, p}, n.Name, status, strconv.Itoa(p.Restarts), since(n.Created),
			list(n.Addresses), list(n.PodCIDRs), endpoint(p.Underlay), endpoint(p.Gossip), p.Reason))
	}
	return rows
}

var deploymentHeader = []string{"NAMESPACE", "NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"}

func deploymentRows(s *lab.State, _ []lab.Node) (rows []row) {
	for _, d := range s.Deployments {
		rows = append(rows, objectRow(&d.Meta, "", d, d, d.Namespace, d.Name, fmt.Sprintf("%d/%d", d.ReadyReplicas, d.Replicas),
			strconv.Itoa(d.UpdatedReplicas), strconv.Itoa(d.AvailableReplicas), since(d.Created)))
	}
	return rows
}

var namespaceHeader = []string{"NAME", "STATUS", "AGE"}

func namespaceRows(s *lab.State, _ []lab.Node) (rows []row) {
	for _, n := range s.Namespaces {
		status := "Active"
		if !n.Deleted.IsZero() {
			status = "Terminating"
		}
		rows = append(rows, objectRow(&n.Meta, "", n, n, n.Name, status, since(n.Created)))
	}
	return rows
}

// onNode is an entry of a node's table. In JSON, node is a field beside the others.
type onNode[T any] struct {
	Node  string
	Entry T
}

// MarshalJSON implements json.Marshaler.
func (o onNode[T]) MarshalJSON() ([]byte, error) {
	node, err := json.Marshal(o.Node)
	if err != nil {
		return nil, err
	}
	entry, err := json.Marshal(o.Entry)
	if err != nil {
		return nil, err
	}
	return slices.Concat([]byte(`{"node":`), node, []byte(","), entry[1:]), nil
}

// tableRow is the row of an entry of a node's table; pods are empty or names.
func tableRow[T any](node, key string, entry T, state any, pods []string, cells ...string) row {
	return row{key: node + " " + key, node: node, pods: pods, value: onNode[T]{node, entry}, state: state,
		cells: append([]string{node}, cells...)}
}

var routeHeader = []string{"NODE", "DESTINATION", "KIND", "TO", "VIA", "MTU", "PORT"}

func routeRows(ctx context.Context, a *agent.Client, node string) (rows []row, err error) {
	routes, err := a.Routes(ctx)
	for _, r := range routes {
		mtu := ""
		if r.MTU > 0 {
			mtu = strconv.Itoa(r.MTU)
		}
		rows = append(rows, tableRow(node, r.Prefix.String(), r, r, []string{r.To}, r.Prefix.String(), r.Kind, r.To, r.Via, mtu, r.Port))
	}
	return rows, err
}

var neighborHeader = []string{"NODE", "IP", "MAC", "KIND", "TO", "PORT"}

func neighborRows(ctx context.Context, a *agent.Client, node string) (rows []row, err error) {
	neighbors, err := a.Neighbors(ctx)
	for _, n := range neighbors {
		rows = append(rows, tableRow(node, n.IP.String(), n, n, []string{n.To}, n.IP.String(), n.MAC, n.Kind, n.To, n.Port))
	}
	return rows, err
}

var flowHeader = []string{"NODE", "PROTO", "SOURCE", "DESTINATION", "STATE", "FROM", "TO", "SERVICE", "IDLE", "PACKETS", "BYTES", "AGE", "BACKEND", "WHY", "SNAT-TO", "VIA"}

func flowRows(ctx context.Context, a *agent.Client, node string) (rows []row, err error) {
	flows, err := a.Flows(ctx)
	for _, f := range flows {
		state := f
		state.Age, state.Idle = 0, 0
		key := strings.Join([]string{f.Proto, f.Source.String(), f.Destination.String()}, " ")
		rows = append(rows, tableRow(node, key, f, state, []string{f.From, f.To},
			f.Proto, endpoint(f.Source), endpoint(f.Destination), f.State, f.From, f.To, f.Service, seconds(f.Idle),
			fmt.Sprintf("%d/%d", f.Packets[0], f.Packets[1]), size(f.Bytes[0])+"/"+size(f.Bytes[1]), seconds(f.Age),
			endpoint(f.Backend), f.Why, endpoint(f.Masqueraded), f.Via))
	}
	return rows, err
}

// knownRow is the row of an object as a node knows it.
func knownRow(namespace, name, node string, value, state any, cells ...string) row {
	m := &cluster.Meta{Namespace: namespace, Name: name}
	return row{key: m.Key().String(), meta: m, node: node, value: value, state: state, cells: cells}
}

var knownPodHeader = []string{"NAMESPACE", "NAME", "NODE", "IPS", "KIND", "MAC", "MTU"}

func knownPodRows(ctx context.Context, a *agent.Client, _ string) (rows []row, err error) {
	pods, err := a.Pods(ctx)
	for _, p := range pods {
		state, mtu := p, ""
		state.Counters = nil
		if p.MTU > 0 {
			mtu = strconv.Itoa(p.MTU)
		}
		rows = append(rows, knownRow(p.Namespace, p.Name, p.Node, p, state, p.Namespace, p.Name, p.Node, list(p.IPs), p.Kind, p.MAC, mtu))
	}
	return rows, err
}

var knownNodeHeader = []string{"NAME", "STATE", "PODS", "INTERNAL-IP", "POD-CIDRS", "UNDERLAY", "VTEP-MAC"}

func knownNodeRows(ctx context.Context, a *agent.Client, _ string) (rows []row, err error) {
	nodes, err := a.Nodes(ctx)
	for _, n := range nodes {
		state := n
		state.Counters = nil
		rows = append(rows, knownRow("", n.Name, n.Name, n, state, n.Name, n.State, strconv.Itoa(n.Pods), list(n.Addresses),
			list(n.PodCIDRs), endpoint(n.Underlay), n.VTEPMAC))
	}
	return rows, err
}

// endpoint writes an address with its port, if it has one; nothing if there is
// no address.
func endpoint(a netip.AddrPort) string {
	switch {
	case !a.IsValid():
		return ""
	case a.Port() == 0:
		return a.Addr().String()
	}
	return a.String()
}

func since(t time.Time) string {
	if t.IsZero() || t.Unix() == 0 { // of manifests, which have no age
		return "<unknown>"
	}
	return age(time.Since(t))
}

func seconds(n uint32) string { return age(time.Duration(n) * time.Second) }
