package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/kube"
	"vswitch/vswitch/lab"
)

func newGet() *cobra.Command {
	var g getOptions
	kinds := []string{"nodes", "pods", "deployments", "namespaces", "routes", "neighbors", "flows"}
	c := &cobra.Command{
		Use:       "get " + strings.Join(kinds, "|"),
		Short:     "List objects, routes, neighbors and flows",
		ValidArgs: kinds,
		Example: `  vswitch get pods -A -o wide
  vswitch get pods -n shop web-1 -o yaml
  vswitch get routes --node node1
  vswitch get flows`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains([]string{"table", "wide", "json", "yaml"}, g.output) {
				return bad(fmt.Errorf("output %q: use table, wide, json or yaml", g.output))
			}
			client, err := open(c)
			if err != nil {
				return err
			}
			g.names = args[1:]
			return g.run(c.Context(), c.OutOrStdout(), client, args[0])
		},
	}
	f := c.Flags()
	f.StringVarP(&g.namespace, "namespace", "n", "default", "namespace")
	f.BoolVarP(&g.all, "all-namespaces", "A", false, "all namespaces")
	f.StringVarP(&g.output, "output", "o", "table", "output format: table, wide, json or yaml")
	f.BoolVarP(&g.watch, "watch", "w", false, "go on as objects change")
	f.StringVar(&g.node, "node", "", "routes, neighbors and flows of this node only")
	return c
}

type getOptions struct {
	namespace, output, node string
	all, watch              bool
	names                   []string
}

func (g *getOptions) run(ctx context.Context, out io.Writer, client *lab.Client, what string) error {
	switch strings.ToLower(what) {
	case "routes", "route":
		return perNode(ctx, g, out, client, (*agent.Client).Routes, routeTable)
	case "neighbors", "neighbor", "neigh":
		return perNode(ctx, g, out, client, (*agent.Client).Neighbors, neighborTable)
	case "flows", "flow":
		return perNode(ctx, g, out, client, (*agent.Client).Flows, flowTable)
	}
	kind, ok := cluster.ParseKind(what)
	if !ok {
		return bad(fmt.Errorf("there is no %q to get; try nodes, pods, deployments, namespaces, routes, neighbors or flows", what))
	}
	state, err := client.State(ctx)
	for err == nil {
		if err = g.objects(ctx, out, client, kind, &state); err != nil || !g.watch {
			return err
		}
		state, err = client.Watch(ctx, state.Revision)
	}
	if ctx.Err() != nil {
		return nil // Ctrl-C is how watching ends
	}
	return err
}

// wanted reports whether an object was asked for.
func (g *getOptions) wanted(m *cluster.Meta) bool {
	if m.Namespace != "" && !g.all && m.Namespace != g.namespace {
		return false
	}
	return len(g.names) == 0 || slices.Contains(g.names, m.Name)
}

func (g *getOptions) objects(ctx context.Context, out io.Writer, client *lab.Client, kind cluster.Kind, s *lab.State) error {
	var nouns []any
	var t table
	switch kind {
	case cluster.KindPod:
		nouns, t = g.pods(s.Pods)
	case cluster.KindNode:
		nodes, err := client.Nodes(ctx)
		if err != nil {
			return err
		}
		nouns, t = g.nodes(s.Nodes, nodes)
	case cluster.KindDeployment:
		t.header = []string{"NAME", "READY", "AGE"}
		for _, d := range s.Deployments {
			if g.wanted(&d.Meta) {
				nouns = append(nouns, d)
				t.add(d.Name, fmt.Sprintf("%d/%d", d.ReadyReplicas, d.Replicas), since(d.Created))
			}
		}
	case cluster.KindNamespace:
		t.header = []string{"NAME", "AGE"}
		for _, n := range s.Namespaces {
			if g.wanted(&n.Meta) {
				nouns = append(nouns, n)
				t.add(n.Name, since(n.Created))
			}
		}
	}
	if len(g.names) > len(nouns) && len(g.names) == 1 {
		return bad(fmt.Errorf("%s %s in namespace %s: not found", kind, g.names[0], g.namespace))
	}
	if g.output == "json" || g.output == "yaml" {
		data, err := kube.EncodeList(nouns, kube.Format(g.output))
		if err == nil && len(g.names) == 1 {
			data, err = kube.Encode(nouns[0], kube.Format(g.output))
		}
		if err != nil {
			return err
		}
		_, err = out.Write(data)
		return err
	}
	if len(t.rows) == 0 {
		where := ""
		if kind.Namespaced() && !g.all {
			where = fmt.Sprintf(" in namespace %s (-A lists all)", g.namespace)
		}
		_, err := fmt.Fprintf(out, "No %ss%s.\n", strings.ToLower(string(kind)), where)
		return err
	}
	t.print(out, g.output == "wide")
	return nil
}

func (g *getOptions) pods(pods []*cluster.Pod) (nouns []any, t table) {
	t = table{header: []string{"NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "ALL-IPS", "SERVED-BY", "WHY"}, wide: 8}
	for _, p := range pods {
		if !g.wanted(&p.Meta) {
			continue
		}
		nouns = append(nouns, p)
		ready, served, ip := "0/1", "command", ""
		if p.Ready {
			ready = "1/1"
		}
		if p.BuiltIn {
			served = "built-in"
		}
		if len(p.IPs) > 0 {
			ip = p.IPs[0].String()
		}
		t.add(p.Namespace, p.Name, ready, string(p.Phase), strconv.Itoa(p.Restarts), since(p.Created), ip, p.Node, list(p.IPs), served, p.Reason)
	}
	return nouns, t
}

func (g *getOptions) nodes(nodes []*cluster.Node, processes []lab.Node) (nouns []any, t table) {
	t = table{header: []string{"NAME", "STATUS", "RESTARTS", "AGE", "INTERNAL-IP", "POD-CIDRS", "UNDERLAY", "GOSSIP", "WHY"}, wide: 6}
	for _, n := range nodes {
		if !g.wanted(&n.Meta) {
			continue
		}
		nouns = append(nouns, n)
		status, restarts, why := "NotReady", 0, ""
		var underlay, gossip netip.AddrPort
		for _, p := range processes {
			if p.Name != n.Name {
				continue
			}
			if restarts, why, underlay, gossip = p.Restarts, p.Reason, p.Underlay, p.Gossip; p.Ready {
				status = "Ready"
			}
		}
		t.add(n.Name, status, strconv.Itoa(restarts), since(n.Created), list(n.Addresses), list(n.PodCIDRs), underlay.String(), gossip.String(), why)
	}
	return nouns, t
}

func since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return age(time.Since(t))
}

// onNode is a row of one node.
type onNode[T any] struct {
	Node string `json:"node"`
	Row  T      `json:"row"`
}

// perNode asks every node, or the one that was named, and prints all rows.
func perNode[T any](ctx context.Context, g *getOptions, out io.Writer, client *lab.Client,
	get func(*agent.Client, context.Context) ([]T, error), show func([]onNode[T]) table) error {
	nodes, err := client.Nodes(ctx)
	if err != nil {
		return err
	}
	rows := []onNode[T]{}
	found := false
	for _, n := range nodes {
		if g.node != "" && n.Name != g.node {
			continue
		}
		found = true
		a := agent.NewClient(n.Socket)
		got, err := get(a, ctx)
		a.Close()
		if err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
		for _, r := range got {
			rows = append(rows, onNode[T]{n.Name, r})
		}
	}
	if !found {
		return bad(fmt.Errorf("there is no node %s", g.node))
	}
	if g.output == "json" || g.output == "yaml" {
		return printObject(out, rows, g.output)
	}
	t := show(rows)
	t.print(out, g.output == "wide")
	return nil
}

func routeTable(rows []onNode[agent.Route]) table {
	t := table{header: []string{"NODE", "DESTINATION", "KIND", "TO", "VIA", "PORT", "MTU"}}
	for _, r := range rows {
		mtu := ""
		if r.Row.MTU > 0 {
			mtu = strconv.Itoa(r.Row.MTU)
		}
		t.add(r.Node, r.Row.Prefix.String(), r.Row.Kind, r.Row.To, r.Row.Via, r.Row.Port, mtu)
	}
	return t
}

func neighborTable(rows []onNode[agent.Neighbor]) table {
	t := table{header: []string{"NODE", "IP", "MAC", "KIND", "TO"}}
	for _, r := range rows {
		t.add(r.Node, r.Row.IP.String(), r.Row.MAC, r.Row.Kind, r.Row.To)
	}
	return t
}

func flowTable(rows []onNode[agent.FlowStatus]) table {
	t := table{header: []string{"NODE", "PROTO", "SOURCE", "DESTINATION", "STATE", "FROM", "TO", "IDLE", "PACKETS", "BYTES"}}
	for _, r := range rows {
		f := r.Row
		t.add(r.Node, f.Proto, endpoint(f.Source), endpoint(f.Destination), f.State, f.From, f.To, age(f.Idle),
			fmt.Sprintf("%d/%d", f.Packets[0], f.Packets[1]), size(f.Bytes[0])+"/"+size(f.Bytes[1]))
	}
	return t
}

// endpoint writes an address with its port, if it has one.
func endpoint(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}
