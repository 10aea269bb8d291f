package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
	"vswitch/vswitch/fabric"
	"vswitch/vswitch/lab"
	"vswitch/vswitch/trace"
)

// whereFlags say which cluster a question is about: what manifests describe, or
// the running one.
type whereFlags struct {
	files, clusterCIDRs, nodeCIDRs []string
	services                       serviceFlags
}

// add makes the flags part of f.
func (o *whereFlags) add(f *pflag.FlagSet) {
	f.StringArrayVarP(&o.files, "filename", "f", nil, "manifests instead of the running cluster: a file, a directory, or - for standard input; repeatable")
	f.StringArrayVar(&o.clusterCIDRs, "cluster-cidr", nil, "range of all pods, one per family (default 10.244.0.0/16 and fd00:10:244::/56); with -f")
	o.services.add(f, "; with -f")
	f.StringArrayVar(&o.nodeCIDRs, "node-cidr", nil, "range of nodes' own addresses, one per family (default 172.29.0.0/16 and fd00:10:29::/64); with -f")
}

// check reports flags that say nothing about a running cluster.
func (o *whereFlags) check(c *cobra.Command) error {
	for _, name := range append(o.services.names(), "cluster-cidr", "node-cidr") {
		if len(o.files) == 0 && c.Flags().Changed(name) {
			return fmt.Errorf("--%s is for manifests (-f); a running cluster has its own", name)
		}
	}
	return nil
}

// cluster returns where to trace: in what the manifests describe, or in the
// running cluster. Call done in the end.
func (o *whereFlags) cluster(c *cobra.Command) (where *trace.Cluster, done func(), err error) {
	if len(o.files) > 0 {
		return o.inMemory(c)
	}
	client, err := open(c)
	if err != nil {
		return nil, nil, err
	}
	s, err := client.State(c.Context())
	if err != nil {
		return nil, nil, err
	}
	nodes := &runningNodes{client: client, agents: map[string]*agent.Client{}}
	return trace.New(s.Objects.State(), nodes, lab.OutsideAddrs()...), nodes.close, nil
}

// inMemory makes the cluster that the manifests describe.
func (o *whereFlags) inMemory(c *cobra.Command) (*trace.Cluster, func(), error) {
	state, cfg, services, err := o.static(c)
	if err != nil {
		return nil, nil, err
	}
	f, err := fabric.FromState(state, fabric.Config{ClusterCIDRs: cfg.ClusterCIDRs, Services: services, Inline: true})
	if err != nil {
		return nil, nil, err
	}
	return trace.New(state, f, lab.OutsideAddrs()...), f.Close, nil
}

// static returns the state that the manifests describe, with what they leave
// out filled in, and how it is to be treated.
func (o *whereFlags) static(c *cobra.Command) (state *cluster.State, cfg control.Config, services agent.ServiceConfig, err error) {
	cfg, services = control.Default(), agent.Default().Services
	objects, err := load(c, o.files)
	if err != nil {
		return nil, cfg, services, err
	}
	if err := o.services.to(&services); err != nil {
		return nil, cfg, services, bad(err)
	}
	for _, p := range []struct {
		flag string
		in   []string
		out  *[]netip.Prefix
	}{{"cluster-cidr", o.clusterCIDRs, &cfg.ClusterCIDRs}, {"node-cidr", o.nodeCIDRs, &cfg.NodeCIDRs}} {
		if err := parsePrefixes(p.flag, p.in, p.out); err != nil {
			return nil, cfg, services, bad(err)
		}
	}
	if err := o.services.pools(&cfg); err != nil {
		return nil, cfg, services, bad(err)
	}
	if !namesNodes(objects) {
		cfg.Nodes = lab.DefaultNodes
	}
	if state, err = control.Static(cfg, objects); err != nil {
		return nil, cfg, services, bad(err)
	}
	services.CIDRs = cfg.ServiceRanges()
	return state, cfg, services, nil
}

// load returns the objects that the manifests describe, as those of a running
// cluster.
func (o *whereFlags) load(c *cobra.Command) (*lab.State, error) {
	if o.services.externalClient == "" {
		o.services.externalClient = agent.PreserveClient
	}
	s, _, _, err := o.static(c)
	if err != nil {
		return nil, err
	}
	return lab.StateOf(s), nil
}

// namesNodes reports whether the manifests say which nodes there are.
func namesNodes(o *cluster.Objects) bool {
	onNode := func(e cluster.Endpoint) bool { return e.Node != "" }
	return len(o.Nodes) > 0 || slices.ContainsFunc(o.Pods, func(p *cluster.Pod) bool { return p.Node != "" }) ||
		slices.ContainsFunc(o.EndpointSlices, func(v *cluster.EndpointSlice) bool { return slices.ContainsFunc(v.Endpoints, onNode) }) ||
		slices.ContainsFunc(o.Endpoints, func(v *cluster.Endpoints) bool {
			return slices.ContainsFunc(v.Subsets, func(s cluster.EndpointSubset) bool {
				return slices.ContainsFunc(s.Ready, onNode) || slices.ContainsFunc(s.NotReady, onNode)
			})
		})
}

// runningNodes asks the nodes of the running cluster.
type runningNodes struct {
	client *lab.Client
	agents map[string]*agent.Client
}

// Trace implements trace.Nodes.
func (n *runningNodes) Trace(ctx context.Context, node string, r agent.TraceRequest) (agent.TraceResult, error) {
	a := n.agents[node]
	if a == nil {
		var err error
		if a, err = n.client.Agent(ctx, node); err != nil {
			return agent.TraceResult{}, err
		}
		if _, err = statusOf(ctx, a); err != nil {
			a.Close()
			return agent.TraceResult{}, fmt.Errorf("node %s: %w", node, err)
		}
		n.agents[node] = a
	}
	res, err := a.Trace(ctx, r)
	if err != nil {
		return res, fmt.Errorf("node %s: %w", node, err)
	}
	return res, nil
}

func (n *runningNodes) close() {
	for _, a := range n.agents {
		a.Close()
	}
}
