package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/kube"
	"vswitch/vswitch/lab"
)

var getFormats = []string{"table", "wide", "json", "yaml", "name"}

func newGet() *cobra.Command {
	var g getOptions
	c := &cobra.Command{
		Use:   "get (KIND[,KIND...] [NAME...] | KIND/NAME...)",
		Short: "List objects, routes, neighbors and flows",
		Long: `Lists ` + strings.Join(kindNames(getKinds), ", ") + `.

Objects come as kubectl shows them; routes, neighbors and flows are each node's own
tables, of which -n shows what is about pods of that namespace. With --socket, a
node that 'vswitch node' runs tells what it knows: ` + strings.Join(kindNames(daemonKinds), ", ") + `.

Several kinds, as in services,pods, are a table each, with the kind before the names;
in JSON and YAML they are one list. Services with -o wide say in WHY what could not be
done as asked, such as a port that no pod has.

Events are what happened of late, those that were seen last at the end: warnings of what a
Service could not be given or why a Pod does not run, and what went well. An event that
happens again, or is still so after five minutes, is counted (-o wide); it is forgotten an
hour after that. Events of nodes are in namespace default.

A flow is a connection as a node sees it: SOURCE and DESTINATION are those of its first
packet as it came, FROM and TO who they are. Behind a SERVICE, the node sent it on to
BACKEND, with the source SNAT-TO if that is another one than SOURCE. VIA is the node that
shares the work, so that a client outside keeps its address: on the node where the
client came in, the one that has the backend, and there, the one that answers go back
through. WHY is how BACKEND was chosen: random, affinity or maglev, and if not out of all
that are ready, which were in question: those of the zone, the node, only local ones, or
terminating ones. PACKETS and BYTES are those of the one direction and of the other.

Policies are those of both kinds, in the order in which they are asked. With -o wide,
DROPPED counts packets; those that no rule of several policies allowed are shared, and
count for each of them. PROBLEMS says why a policy does not do what it says, UNUSED which
rules nobody matches, and SHADOWED which make no difference because of others. With -f,
policies of manifests are shown, and no cluster is needed.

With --matrix they are shown by what comes of them: rows are senders, columns receivers,
. is allowed, X denied, ~ some of it, - a pod itself. A receiver is asked on the ports
that its containers declare, or on --port; --by LABEL puts the pods together that have
one value of the label.

With -w, it goes on until Ctrl-C with what is ADDED, MODIFIED or DELETED: rows of
the table, or with -o json a line an event, {"type": "ADDED", "object": {...}}.
Flows, routes and neighbors are looked at once a second.

Exit codes: 0 also if there is nothing to list, 1 it failed, 2 there is no such
kind, name or node.`,
		Example: `  vswitch get pods -A -o wide
  vswitch get pods -n shop web-1 -o yaml
  vswitch get pods -A -l app=web,tier!=back
  vswitch get services,endpoints -n shop -o yaml
  vswitch get events -A -w
  vswitch get routes --node node1
  vswitch get flows -n shop -w
  vswitch get policies -A -o wide
  vswitch get policies -n shop --matrix --port 5432
  vswitch get policies -A -f ./k8s --matrix --by tier
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
			if g.kinds, g.names, err = findNamed(kinds, args); err != nil {
				return err
			}
			if err := g.check(); err != nil {
				return bad(err)
			}
			if len(g.from.files) > 0 {
				if g.manifests, err = g.from.load(c); err != nil {
					return err
				}
			} else if g.socket == "" {
				if g.client, err = open(c); err != nil {
					return err
				}
				defer g.client.Close()
			}
			g.inNamespace = c.Flags().Changed("namespace")
			g.out, g.errOut = c.OutOrStdout(), c.ErrOrStderr()
			if g.matrix.wanted {
				return g.showMatrix(c.Context())
			}
			return g.run(c.Context())
		},
	}
	f := c.Flags()
	f.StringVarP(&g.namespace, "namespace", "n", "default", "namespace")
	f.StringVarP(&g.selector, "selector", "l", "", "what has such labels only: app=web, 'tier in (front,back)', !canary, several with commas between")
	f.BoolVarP(&g.all, "all-namespaces", "A", false, "all namespaces")
	f.StringVarP(&g.output, "output", "o", "table", "output format: "+strings.Join(getFormats, ", "))
	f.BoolVarP(&g.watch, "watch", "w", false, "go on as things change")
	f.StringVar(&g.node, "node", "", "what is on this node only")
	f.StringVar(&g.socket, "socket", "", "ask the node whose API socket this is: node.sock in its runtimeDir")
	f.StringArrayVarP(&g.from.files, "filename", "f", nil, "policies of manifests instead of the running cluster's: a file, a directory, or -; repeatable")
	f.BoolVar(&g.matrix.wanted, "matrix", false, "of policies: who may reach whom")
	f.StringVar(&g.matrix.at, "port", "", "port of the matrix (default those that the receivers' containers declare)")
	f.StringVar(&g.matrix.proto, "proto", "", "protocol of the matrix: tcp, udp, sctp or icmp (default that of the ports, else tcp)")
	f.StringVar(&g.matrix.by, "by", "", "label by whose values the matrix puts pods together")
	completeFlag(c, "proto", cobra.FixedCompletions([]string{"tcp", "udp", "sctp", "icmp"}, noFiles))
	completeGet(c)
	return c
}

type getOptions struct {
	kinds       []*getKind
	names       []string
	namespace   string
	inNamespace bool   // it was given
	selector    string // of labels
	selects     func(labels map[string]string) bool
	all, watch  bool
	output      string
	node        string
	socket      string
	from        whereFlags
	manifests   *lab.State  // nil without -f
	client      *lab.Client // nil with a socket or manifests
	matrix      matrixOptions
	out, errOut io.Writer

	revision uint64 // of the State that was shown last, or of events, if they are
}

// listing is what there is of a kind.
type listing struct {
	kind *getKind
	rows []row
}

// check reports what cannot be had of the kinds.
func (g *getOptions) check() error {
	if g.socket != "" && g.node != "" {
		return errors.New("--node and --socket both name the node to ask; give one of them")
	}
	if len(g.from.files) > 0 {
		if g.watch || g.node != "" || g.socket != "" {
			return errors.New("-f shows manifests; leave -w, --node and --socket out")
		}
		for _, k := range g.kinds {
			if !k.policies {
				return fmt.Errorf("-f shows policies of manifests, and no %s", k.name())
			}
		}
	}
	if err := g.matrix.check(g); err != nil {
		return err
	}
	var err error
	if g.selects, err = kube.ParseSelector(g.selector); err != nil {
		return err
	}
	if g.watch && len(g.kinds) > 1 {
		return fmt.Errorf("-w follows one kind; %d are given", len(g.kinds))
	}
	for _, k := range g.kinds {
		if len(g.names) > 0 && k.table != nil && !k.named {
			return fmt.Errorf("%s have no names; --node and -n choose some", k.name())
		}
		if k.objects == nil && g.selector != "" {
			return fmt.Errorf("%s have no labels; leave -l out", k.name())
		}
		if k.table != nil && g.output == "name" {
			return fmt.Errorf("%s are no objects that have names; leave -o name out", k.name())
		}
		if k.table != nil && len(g.kinds) > 1 && g.values() {
			return fmt.Errorf("%s are no objects that a list could hold; with -o %s, get them alone", k.name(), g.output)
		}
	}
	return nil
}

// values reports whether JSON or YAML is to be printed.
func (g *getOptions) values() bool { return g.output == "json" || g.output == "yaml" }

// everywhere reports whether the namespace does not matter.
func (g *getOptions) everywhere(k *getKind) bool {
	return g.all || !k.namespaced && (!g.inNamespace || k.table == nil)
}

// wanted reports whether a row was asked for.
func (g *getOptions) wanted(k *getKind, r *row) bool {
	if g.node != "" && r.node != g.node {
		return false
	}
	if len(g.names) > 0 && !slices.Contains(g.names, r.meta.Name) {
		return false
	}
	if g.selector != "" && !g.selects(r.meta.Labels) {
		return false
	}
	if g.everywhere(k) {
		return true
	}
	if r.meta != nil {
		return r.meta.Namespace == "" || r.meta.Namespace == g.namespace
	}
	return slices.ContainsFunc(r.pods, func(p string) bool { return strings.HasPrefix(p, g.namespace+"/") })
}

func (g *getOptions) run(ctx context.Context) error {
	lists, err := g.list(ctx)
	if err != nil {
		return err
	}
	missing := g.missing(lists)
	if g.watch && missing == nil {
		return g.follow(ctx, lists[0].rows)
	}
	none := !slices.ContainsFunc(lists, func(l listing) bool { return len(l.rows) > 0 })
	if none && missing != nil {
		return missing
	}
	if err := g.print(lists); err != nil {
		return err
	}
	return missing
}

// list returns the rows of each kind that were asked for, as they are now.
func (g *getOptions) list(ctx context.Context) (lists []listing, err error) {
	if g.socket == "" {
		lists, err = g.listCluster(ctx)
	} else {
		lists, err = g.listDaemon(ctx)
	}
	for i := range lists {
		l := &lists[i]
		l.rows = slices.DeleteFunc(l.rows, func(r row) bool { return !g.wanted(l.kind, &r) })
	}
	return lists, err
}

// listDaemon returns what the node at the socket knows.
func (g *getOptions) listDaemon(ctx context.Context) (lists []listing, err error) {
	a := agent.NewClient(g.socket)
	defer a.Close()
	status, err := a.Status(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range g.kinds {
		rows, err := k.table(ctx, a, status.Name)
		if err != nil {
			return nil, err
		}
		lists = append(lists, listing{k, rows})
	}
	return lists, nil
}

func (g *getOptions) listCluster(ctx context.Context) (lists []listing, err error) {
	if g.manifests != nil {
		return g.listObjects(ctx, nil)
	}
	nodes, err := g.client.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	if g.node != "" && !slices.ContainsFunc(nodes, func(n lab.Node) bool { return n.Name == g.node }) {
		return nil, bad(fmt.Errorf("there is no node %s", g.node))
	}
	return g.listObjects(ctx, nodes)
}

// listObjects lists the kinds, tables of nodes among them.
func (g *getOptions) listObjects(ctx context.Context, nodes []lab.Node) (lists []listing, err error) {
	var state *lab.State // one for all kinds
	for _, k := range g.kinds {
		if k.objects == nil {
			rows, err := g.others(ctx, k, nodes)
			if err != nil {
				return nil, err
			}
			lists = append(lists, listing{k, rows})
			continue
		}
		if state == nil {
			if state, err = g.state(ctx); err != nil {
				return nil, err
			}
			g.revision = state.Revision
		}
		rows := k.objects(state, nodes)
		if k.policies && g.output == "wide" {
			if err := g.addPolicyReports(ctx, state, rows); err != nil {
				return nil, err
			}
		}
		lists = append(lists, listing{k, rows})
	}
	return lists, nil
}

// others lists a kind that is not of the State.
func (g *getOptions) others(ctx context.Context, k *getKind, nodes []lab.Node) ([]row, error) {
	if k.events == nil {
		return g.tables(ctx, k, nodes)
	}
	l, err := g.client.Events(ctx)
	g.revision = l.Revision
	return k.events(l.Events), err
}

// state returns the objects of the running cluster, or those of the manifests.
func (g *getOptions) state(ctx context.Context) (*lab.State, error) {
	if g.manifests != nil {
		return g.manifests, nil
	}
	s, err := g.client.State(ctx)
	return &s, err
}

// tables asks every node, or the one that was named.
func (g *getOptions) tables(ctx context.Context, k *getKind, nodes []lab.Node) (rows []row, err error) {
	for _, n := range nodes {
		if g.node != "" && n.Name != g.node {
			continue
		}
		a := agent.NewClient(n.Socket)
		_, silent := statusOf(ctx, a)
		var got []row
		if err = silent; err == nil {
			got, err = k.table(ctx, a, n.Name)
		}
		a.Close()
		switch {
		case err == nil:
			rows = append(rows, got...)
		case g.node != "" || n.Ready && silent == nil || ctx.Err() != nil:
			return nil, fmt.Errorf("node %s: %w", n.Name, err)
		case !g.watch:
			fmt.Fprintf(g.errOut, "node %s has nothing to show: %s\n", n.Name, cmp.Or(n.Reason, err.Error()))
		}
	}
	return rows, nil
}

// missing says which of the names there are not.
func (g *getOptions) missing(lists []listing) error {
	var all []string
	for _, l := range lists {
		var names []string
		for _, name := range g.names {
			if !slices.ContainsFunc(l.rows, func(r row) bool { return r.meta.Name == name }) {
				names = append(names, name)
			}
		}
		if len(names) > 0 {
			all = append(all, fmt.Sprintf("no %s named %s%s", l.kind.name(), strings.Join(names, ", "), g.where(l.kind)))
		}
	}
	if len(all) == 0 {
		return nil
	}
	return bad(errors.New(strings.Join(all, "; ")))
}

// where is the namespace for a message.
func (g *getOptions) where(k *getKind) string {
	if g.everywhere(k) {
		return ""
	}
	return fmt.Sprintf(" in namespace %s (-A lists all)", g.namespace)
}
