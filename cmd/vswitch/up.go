package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
	"vswitch/vswitch/dns"
	"vswitch/vswitch/lab"
)

func newUp() *cobra.Command {
	o := lab.Options{Config: agent.Default(), DNS: lab.DNS{Serve: true}}
	var files, clusterCIDRs, nodeCIDRs, upstreams []string
	var services serviceFlags
	var policy policyFlags
	c := &cobra.Command{
		Use:   "up [-f FILE|DIR]... [--nodes N]",
		Short: "Start a cluster on this machine, without root",
		Long: `Starts a cluster: a node process for every Node, and the containers of every Pod and
Deployment as processes in network namespaces of their own. Images are ignored; a pod
without a command answers its own name on each containerPort.

Services get cluster IPs, node ports and load balancer addresses (172.30.0.0/24 and
fd00:10:30::/112), and work from pods, nodes ('vswitch exec node/NODE') and outside
('vswitch exec outside'). What one cannot be given is told by 'vswitch status'.

The cluster runs until Ctrl-C, or with --detach until 'vswitch down'.

Each node is a DNS server of the cluster, at the address of Service kube-system/kube-dns, which
pods ask for names: those of services and pods it knows (see 'vswitch dns'), others it asks
the resolvers of this machine for, or those of --upstream; 'none' refuses them.

With --state, objects and what was given out for them, addresses and ports of services,
ranges and addresses of nodes, are kept in a directory, also if the cluster is killed; the
next 'up' with it goes on from there, and by the same ranges if no flag says others. What
a service has of a range that was changed stays, and is told.

  vswitch up --nodes 3
  vswitch up -f ./k8s --detach
  cat pods.yaml | vswitch up -f -

Exit codes: 0 it was taken down, or with --detach, it is up; 1 it failed; 2 the input is
wrong: then nothing was started, or it is the command of a pod that cannot be started,
and all else was.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if o.Objects, err = load(c, files); err != nil {
				return err
			}
			if o.Name, err = c.Flags().GetString("name"); err != nil {
				return err
			}
			for _, p := range []struct {
				flag string
				in   []string
				out  *[]netip.Prefix
			}{{"cluster-cidr", clusterCIDRs, &o.Config.ClusterCIDRs}, {"node-cidr", nodeCIDRs, &o.NodeCIDRs}} {
				if err := parsePrefixes(p.flag, p.in, p.out); err != nil {
					return bad(err)
				}
			}
			if err := services.to(&o.Config.Services); err != nil {
				return bad(err)
			}
			if err := policy.to(&o.Config.Policy); err != nil {
				return bad(err)
			}
			if err := dnsFlags(&o.DNS, upstreams); err != nil {
				return bad(err)
			}
			var pools control.Config
			if err := services.pools(&pools); err != nil {
				return bad(err)
			}
			o.Config.Services.CIDRs, o.LoadBalancerCIDRs = pools.ServiceCIDRs, pools.LoadBalancerCIDRs
			if c.Flags().Changed("node-port-range") {
				o.NodePorts = pools.NodePorts
			}
			if o.StateDir != "" && !c.Flags().Changed("nodes") {
				o.Nodes = 0 // as many as the last time
			}
			if len(clusterCIDRs) == 0 {
				o.Config.ClusterCIDRs = nil // that of the state directory, or the default
			}
			return up(c, o)
		},
	}
	f := c.Flags()
	f.StringArrayVarP(&files, "filename", "f", nil, "manifests: a file, a directory, or - for standard input; repeatable")
	f.IntVar(&o.Nodes, "nodes", lab.DefaultNodes, "number of nodes, if the manifests name none")
	f.BoolVarP(&o.Detach, "detach", "d", false, "return when the cluster is up, and leave it running")
	f.StringArrayVar(&clusterCIDRs, "cluster-cidr", nil, "range of all pods, one per family (default 10.244.0.0/16 and fd00:10:244::/56)")
	f.StringArrayVar(&nodeCIDRs, "node-cidr", nil, "range of nodes' own addresses, one per family (default 172.29.0.0/16 and fd00:10:29::/64)")
	f.StringVar(&o.StateDir, "state", "", "directory that keeps objects and what was given out for them; 'down' leaves it alone (default: nothing is kept)")
	f.BoolVar(&o.DNS.Serve, "dns", true, "give the cluster a DNS server; without one, pods ask the Service kube-system/kube-dns if the manifests have it")
	f.StringVar(&o.DNS.Domain, "cluster-domain", defaultDomain, "domain of the cluster's names")
	f.StringArrayVar(&upstreams, "upstream", nil, "resolver of names outside the cluster, IP or IP:PORT, or none; repeatable (default those of /etc/resolv.conf)")
	services.add(f, "")
	policy.add(f, "")
	f.IntVar(&o.Config.PodMTU, "pod-mtu", 0, "MTU of pods in bytes (default what fits the overlay); a larger one, up to 65521, is faster on a node, and across nodes path MTU discovery finds what fits")
	return c
}

// dnsFlags writes what the flags say of DNS into o.
func dnsFlags(o *lab.DNS, upstreams []string) (err error) {
	if !o.Serve && len(upstreams) > 0 {
		return errors.New("--upstream is whom the cluster's DNS server asks, and --dns=false is to have none; leave one of them out")
	}
	if _, err := dns.NewZone(dns.ZoneConfig{Domain: o.Domain}); err != nil {
		return fmt.Errorf("--cluster-domain: %w", err)
	}
	o.Domain = strings.TrimSuffix(o.Domain, ".")
	o.Upstreams, o.ClusterOnly, err = parseUpstreams(upstreams)
	return err
}

func up(c *cobra.Command, o lab.Options) error {
	out := c.OutOrStdout()
	o.Progress = func(line string) { fmt.Fprintln(out, line) }
	client, err := lab.Start(c.Context(), o)
	if err != nil {
		return input(err)
	}
	defer client.Close()
	if err := printStatus(c.Context(), out, client); err != nil {
		return err
	}
	pods, err := client.Pods(c.Context())
	if err != nil {
		return err
	}
	if o.Detach {
		fmt.Fprintf(out, "\nIt runs until '%s'.\n", command(o.Name, "down"))
		return unstartable(pods)
	}
	fmt.Fprintf(out, "\nPress Ctrl-C to take it down. In another terminal:\n  %s\n  %s\n\n",
		command(o.Name, "get pods -A"), command(o.Name, "exec NAMESPACE/POD -- sh"))
	go live(c.Context(), out, client)
	ended := make(chan error, 1)
	go func() { ended <- client.Wait() }()
	select {
	case err = <-ended:
		if err == nil {
			fmt.Fprintln(out, "it was taken down")
		}
	case <-c.Context().Done():
		fmt.Fprintln(out, "taking it down")
		client.Close()
		err = <-ended
	}
	if err != nil {
		return err
	}
	return unstartable(pods)
}

// unstartable says by its exit code that the command of a pod cannot be started,
// which is the input's fault, though the rest runs. The status names the pod.
func unstartable(pods []*cluster.Pod) error {
	for _, p := range pods {
		for _, s := range p.Statuses {
			if !s.Running && s.ExitCode == lab.ExitNotStarted {
				return &exitError{code: exitBad}
			}
		}
	}
	return nil
}
