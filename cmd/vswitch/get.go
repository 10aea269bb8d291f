package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/lab"
)

// getKind is something that get shows: objects of the cluster, or a table that
// each node has for itself.
type getKind struct {
	names      string // of the kind, the first one as help lists it
	namespaced bool
	header     []string
	wide       int // columns from here on are for -o wide; 0: there are none

	// One of the two is set.
	objects func(*lab.State, []lab.Node) []row
	table   func(ctx context.Context, a *agent.Client, node string) ([]row, error)
	// named: the rows of table have names.
	named bool
}

// row is one object, or one entry of a node's table.
type row struct {
	key   string // tells it from the others of its kind
	meta  *cluster.Meta
	node  string   // where it is
	pods  []string // NAMESPACE/NAME of those it is about; of tables only
	cells []string
	value any // what JSON and YAML show
	// state is what makes the row another one when it differs: all but what
	// time alone changes.
	state any
}

var getKinds = []getKind{
	{names: "nodes node no", header: nodeHeader, wide: 6, objects: nodeRows},
	{names: "pods pod po", namespaced: true, header: podHeader, wide: 8, objects: podRows},
	{names: "deployments deployment deploy deployments.apps", namespaced: true, header: deploymentHeader, objects: deploymentRows},
	{names: "services service svc", namespaced: true, header: serviceHeader, wide: 7, objects: serviceRows},
	{names: "endpoints ep", namespaced: true, header: endpointsHeader, wide: 4, objects: endpointsRows},
	{names: "endpointslices endpointslice endpointslices.discovery.k8s.io", namespaced: true, header: sliceHeader, objects: sliceRows},
	{names: "namespaces namespace ns", header: namespaceHeader, objects: namespaceRows},
	{names: "routes route", header: routeHeader, wide: 6, table: routeRows},
	{names: "neighbors neighbor neigh", header: neighborHeader, wide: 5, table: neighborRows},
	{names: "flows flow", header: flowHeader, wide: 11, table: flowRows},
}

// daemonKinds are what a node that belongs to no cluster of this machine knows.
var daemonKinds = []getKind{
	{names: "nodes node no", header: knownNodeHeader, wide: 5, table: knownNodeRows, named: true},
	{names: "pods pod po", namespaced: true, header: knownPodHeader, wide: 5, table: knownPodRows, named: true},
	{names: "routes route", header: routeHeader, wide: 6, table: routeRows},
	{names: "neighbors neighbor neigh", header: neighborHeader, wide: 5, table: neighborRows},
	{names: "flows flow", header: flowHeader, wide: 10, table: flowRows},
}

// name returns the kind as help and messages call it.
func (k *getKind) name() string { return strings.Fields(k.names)[0] }

func kindNames(kinds []getKind) (names []string) {
	for i := range kinds {
		names = append(names, kinds[i].name())
	}
	return names
}

func findKind(kinds []getKind, name string) (*getKind, error) {
	for i := range kinds {
		if slices.Contains(strings.Fields(kinds[i].names), strings.ToLower(name)) {
			return &kinds[i], nil
		}
	}
	return nil, bad(fmt.Errorf("there is no %q to get; try %s", name, strings.Join(kindNames(kinds), ", ")))
}

var getFormats = []string{"table", "wide", "json", "yaml"}

func newGet() *cobra.Command {
	var g getOptions
	c := &cobra.Command{
		Use:   "get KIND [NAME...]",
		Short: "List objects, routes, neighbors and flows",
		Long: `Lists ` + strings.Join(kindNames(getKinds), ", ") + `.

Objects come as kubectl shows them; routes, neighbors and flows are each node's own
tables, of which -n shows what is about pods of that namespace. With --socket, a
node that 'vswitch node' runs tells what it knows: ` + strings.Join(kindNames(daemonKinds), ", ") + `.

With -w, it goes on until Ctrl-C with what is ADDED, MODIFIED or DELETED: rows of
the table, or with -o json a line an event, {"type": "ADDED", "object": {...}}.
Flows, routes and neighbors are looked at once a second.

Exit codes: 0 also if there is nothing to list, 1 it failed, 2 there is no such
kind, name or node.`,
		Example: `  vswitch get pods -A -o wide
  vswitch get pods -n shop web-1 -o yaml
  vswitch get routes --node node1
  vswitch get flows -n shop -w
  vswitch get pods -A --socket /run/user/1000/vswitch/node1/node.sock`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if !slices.Contains(getFormats, g.output) {
				return bad(fmt.Errorf("output %q: use %s", g.output, strings.Join(getFormats, ", ")))
			}
			kinds := getKinds
			if g.socket != "" {
				kinds = daemonKinds
			}
			if g.kind, err = findKind(kinds, args[0]); err != nil {
				return err
			}
			if g.names = args[1:]; len(g.names) > 0 && g.kind.table != nil && !g.kind.named {
				return bad(fmt.Errorf("%s have no names; --node and -n choose some", g.kind.name()))
			}
			if g.socket != "" && g.node != "" {
				return bad(errors.New("--node and --socket both name the node to ask; give one of them"))
			}
			if g.socket == "" {
				if g.client, err = open(c); err != nil {
					return err
				}
				defer g.client.Close()
			}
			g.everywhere = g.all || !g.kind.namespaced && !c.Flags().Changed("namespace")
			g.out, g.errOut = c.OutOrStdout(), c.ErrOrStderr()
			return g.run(c.Context())
		},
	}
	f := c.Flags()
	f.StringVarP(&g.namespace, "namespace", "n", "default", "namespace")
	f.BoolVarP(&g.all, "all-namespaces", "A", false, "all namespaces")
	f.StringVarP(&g.output, "output", "o", "table", "output format: "+strings.Join(getFormats, ", "))
	f.BoolVarP(&g.watch, "watch", "w", false, "go on as things change")
	f.StringVar(&g.node, "node", "", "what is on this node only")
	f.StringVar(&g.socket, "socket", "", "ask the node whose API socket this is: node.sock in its runtimeDir")
	completeGet(c)
	return c
}

type getOptions struct {
	kind        *getKind
	names       []string
	namespace   string
	all, watch  bool
	everywhere  bool // the namespace does not matter
	output      string
	node        string
	socket      string
	client      *lab.Client // nil with a socket
	out, errOut io.Writer

	revision uint64 // of the State that was shown last
}

// wanted reports whether a row was asked for.
func (g *getOptions) wanted(r *row) bool {
	if g.node != "" && r.node != g.node {
		return false
	}
	if len(g.names) > 0 && !slices.Contains(g.names, r.meta.Name) {
		return false
	}
	if g.everywhere {
		return true
	}
	if r.meta != nil {
		return r.meta.Namespace == "" || r.meta.Namespace == g.namespace
	}
	return slices.ContainsFunc(r.pods, func(p string) bool { return strings.HasPrefix(p, g.namespace+"/") })
}

func (g *getOptions) run(ctx context.Context) error {
	rows, err := g.list(ctx)
	if err != nil {
		return err
	}
	missing := g.missing(rows)
	if g.watch && missing == nil {
		return g.follow(ctx, rows)
	}
	if len(rows) == 0 && missing != nil {
		return missing
	}
	if err := g.print(rows); err != nil {
		return err
	}
	return missing
}

// list returns the rows that were asked for, as they are now.
func (g *getOptions) list(ctx context.Context) (rows []row, err error) {
	if g.socket == "" {
		rows, err = g.listCluster(ctx)
	} else {
		rows, err = g.listDaemon(ctx)
	}
	return slices.DeleteFunc(rows, func(r row) bool { return !g.wanted(&r) }), err
}

// listDaemon returns what the node at the socket knows.
func (g *getOptions) listDaemon(ctx context.Context) ([]row, error) {
	a := agent.NewClient(g.socket)
	defer a.Close()
	status, err := a.Status(ctx)
	if err != nil {
		return nil, err
	}
	return g.kind.table(ctx, a, status.Name)
}

func (g *getOptions) listCluster(ctx context.Context) (rows []row, err error) {
	nodes, err := g.client.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	if g.node != "" && !slices.ContainsFunc(nodes, func(n lab.Node) bool { return n.Name == g.node }) {
		return nil, bad(fmt.Errorf("there is no node %s", g.node))
	}
	if g.kind.objects != nil {
		state, err := g.client.State(ctx)
		if err != nil {
			return nil, err
		}
		g.revision = state.Revision
		return g.kind.objects(&state, nodes), nil
	}
	return g.tables(ctx, nodes)
}

// tables asks every node, or the one that was named.
func (g *getOptions) tables(ctx context.Context, nodes []lab.Node) (rows []row, err error) {
	for _, n := range nodes {
		if g.node != "" && n.Name != g.node {
			continue
		}
		a := agent.NewClient(n.Socket)
		got, err := g.kind.table(ctx, a, n.Name)
		a.Close()
		switch {
		case err == nil:
			rows = append(rows, got...)
		case n.Ready || g.node != "":
			return nil, fmt.Errorf("node %s: %w", n.Name, err)
		case !g.watch:
			fmt.Fprintf(g.errOut, "node %s has nothing to show: %s\n", n.Name, n.Reason)
		}
	}
	return rows, nil
}

// missing says which of the names there are not.
func (g *getOptions) missing(rows []row) error {
	var names []string
	for _, name := range g.names {
		if !slices.ContainsFunc(rows, func(r row) bool { return r.meta.Name == name }) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return bad(fmt.Errorf("no %s named %s%s", g.kind.name(), strings.Join(names, ", "), g.where()))
}

// where is the namespace for a message.
func (g *getOptions) where() string {
	if g.everywhere {
		return ""
	}
	return fmt.Sprintf(" in namespace %s (-A lists all)", g.namespace)
}

// event is what became of a row.
type event struct {
	what string // "ADDED", "MODIFIED" or "DELETED"
	row  row
}

// changes compares rows with those that were seen before. The rows that are gone
// come last, by key.
func changes(before, now []row) (events []event) {
	gone := map[string]row{}
	for _, r := range before {
		gone[r.key] = r
	}
	for _, r := range now {
		old, known := gone[r.key]
		delete(gone, r.key)
		if !known {
			events = append(events, event{"ADDED", r})
		} else if !reflect.DeepEqual(old.state, r.state) {
			events = append(events, event{"MODIFIED", r})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(gone)) {
		events = append(events, event{"DELETED", gone[key]})
	}
	return events
}

// follow prints rows, and then what becomes of them, until ctx ends.
func (g *getOptions) follow(ctx context.Context, rows []row) error {
	show := g.watcher()
	var before []row
	for {
		if err := show(changes(before, rows)); err != nil {
			return err
		}
		before = rows
		err := g.wait(ctx)
		if err == nil {
			rows, err = g.list(ctx)
		}
		if ctx.Err() != nil {
			return nil // Ctrl-C is how watching ends
		}
		if err != nil {
			return err
		}
	}
}

// wait returns when there may be news.
func (g *getOptions) wait(ctx context.Context) error {
	if g.kind.objects != nil {
		_, err := g.client.Watch(ctx, g.revision)
		return err
	}
	select {
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
	return ctx.Err()
}
