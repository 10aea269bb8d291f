package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/kube"
	"vswitch/vswitch/lab"
)

// open returns a client of the cluster that --name says.
func open(c *cobra.Command) (*lab.Client, error) {
	name, err := c.Flags().GetString("name")
	if err != nil {
		return nil, err
	}
	client, err := lab.Open(name)
	return client, input(err)
}

// load reads manifests and prints warnings; what is wrong with them is bad input.
func load(c *cobra.Command, files []string) (*cluster.Objects, error) {
	objects, warnings, err := kube.Load(files, c.InOrStdin())
	for _, w := range warnings {
		fmt.Fprintln(c.ErrOrStderr(), "warning:", w)
	}
	if err != nil {
		return nil, bad(err)
	}
	if len(files) > 0 && objects.Len() == 0 {
		fmt.Fprintf(c.ErrOrStderr(), "warning: no objects in %s\n", strings.Join(files, ", "))
	}
	return objects, nil
}

// input marks an error that is the input's fault.
func input(err error) error {
	if errors.Is(err, lab.ErrInput) || errors.Is(err, lab.ErrNotFound) {
		return bad(err)
	}
	return err
}

// defaultNodes is how many nodes a cluster has if the manifests name none.
const defaultNodes = 3

func newUp() *cobra.Command {
	o := lab.Options{Config: agent.Default()}
	var files, clusterCIDRs, nodeCIDRs []string
	var services serviceFlags
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
			return up(c, o)
		},
	}
	f := c.Flags()
	f.StringArrayVarP(&files, "filename", "f", nil, "manifests: a file, a directory, or - for standard input; repeatable")
	f.IntVar(&o.Nodes, "nodes", defaultNodes, "number of nodes, if the manifests name none")
	f.BoolVarP(&o.Detach, "detach", "d", false, "return when the cluster is up, and leave it running")
	f.StringArrayVar(&clusterCIDRs, "cluster-cidr", nil, "range of all pods, one per family (default 10.244.0.0/16 and fd00:10:244::/56)")
	f.StringArrayVar(&nodeCIDRs, "node-cidr", nil, "range of nodes' own addresses, one per family (default 172.29.0.0/16 and fd00:10:29::/64)")
	services.add(f, "")
	f.IntVar(&o.Config.PodMTU, "pod-mtu", 0, "MTU of pods in bytes (default what fits the overlay); a larger one, up to 65521, is faster on a node, and across nodes path MTU discovery finds what fits")
	return c
}

func parsePrefixes(flag string, in []string, out *[]netip.Prefix) error {
	if len(in) > 0 {
		*out = nil
	}
	for _, s := range in {
		for _, one := range strings.Split(s, ",") {
			p, err := netip.ParsePrefix(one)
			if err != nil {
				return fmt.Errorf("--%s %q is not a range such as 10.244.0.0/16", flag, one)
			}
			*out = append(*out, p)
		}
	}
	return nil
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

// command writes a command line of this program for a cluster.
func command(name, rest string) string {
	if name == "default" {
		return "vswitch " + rest
	}
	return "vswitch --name " + name + " " + rest
}

func newDown() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Take the cluster down, and leave nothing behind",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := open(c)
			if err != nil {
				return err
			}
			return client.Down(c.Context())
		},
	}
}

func newApply() *cobra.Command {
	var files []string
	wait := true
	c := &cobra.Command{
		Use:   "apply -f FILE|DIR...",
		Short: "Create or change objects of the running cluster",
		Long: `Creates or changes Nodes, Namespaces, Pods, Deployments, Services, EndpointSlices and
Endpoints. What a Service or Pod leaves out is filled in, and stays: cluster IPs, node
ports, load balancer addresses, nodes. EndpointSlices of a Service with a selector follow
its pods, unless some are given.

All of it is applied, or nothing. A range that has nothing left to give is no error: the
Service is created, says so in 'vswitch get services -o wide' and 'vswitch status', and
gets its address when there is one.

It returns when all nodes that are ready go by the services and endpoints that follow, or
after two seconds with a warning. What takes longer, such as the start of a pod's process,
is not waited for.

Exit codes: 0 applied, 1 it failed, 2 the input is wrong.`,
		Example: `  vswitch apply -f ./k8s
  cat service.yaml | vswitch apply -f -`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			objects, err := load(c, files)
			if err != nil {
				return err
			}
			client, err := open(c)
			if err != nil {
				return err
			}
			results, err := client.Apply(c.Context(), objects)
			if err != nil {
				return input(err)
			}
			for _, r := range results {
				fmt.Fprintln(c.OutOrStdout(), r)
			}
			if wait {
				if err := client.WaitInForce(c.Context()); err != nil {
					fmt.Fprintln(c.ErrOrStderr(), "warning: it is applied, but", err)
				}
			}
			return nil
		},
	}
	c.Flags().StringArrayVarP(&files, "filename", "f", nil, "manifests: a file, a directory, or - for standard input; repeatable")
	c.Flags().BoolVar(&wait, "wait", true, "return only when all nodes go by it")
	_ = c.MarkFlagRequired("filename") // the flag exists
	return c
}

func newDelete() *cobra.Command {
	var files []string
	var namespace string
	c := &cobra.Command{
		Use:   "delete (-f FILE|DIR... | KIND NAME...)",
		Short: "Delete objects of the running cluster",
		Example: `  vswitch delete -f pods.yaml
  vswitch delete pod web-1 -n shop
  vswitch delete service web -n shop`,
		ValidArgsFunction: completeDelete,
		RunE: func(c *cobra.Command, args []string) error {
			refs, err := refsOf(c, files, namespace, args)
			if err != nil {
				return err
			}
			client, err := open(c)
			if err != nil {
				return err
			}
			if err := client.Delete(c.Context(), refs); err != nil {
				return input(err)
			}
			for _, r := range refs {
				fmt.Fprintf(c.OutOrStdout(), "%s/%s deleted\n", r.Kind.Resource(), r.Name)
			}
			return nil
		},
	}
	c.Flags().StringArrayVarP(&files, "filename", "f", nil, "manifests: a file, a directory, or - for standard input; repeatable")
	c.Flags().StringVarP(&namespace, "namespace", "n", "default", "namespace of the objects")
	completeFlag(c, "namespace", completeNamespaces)
	return c
}

// refsOf returns what a delete command names.
func refsOf(c *cobra.Command, files []string, namespace string, args []string) (refs []cluster.Ref, err error) {
	switch {
	case len(files) > 0 && len(args) == 0:
		// What has no effect matters no more.
		objects, _, err := kube.Load(files, c.InOrStdin())
		if err != nil {
			return nil, bad(err)
		}
		return objects.Refs(), nil
	case len(files) == 0 && len(args) >= 2:
		kind, ok := cluster.ParseKind(args[0])
		if !ok {
			return nil, bad(fmt.Errorf("%q is no kind of object; use pod, deployment, service, node or namespace", args[0]))
		}
		for _, name := range args[1:] {
			r := cluster.Ref{Kind: kind, Key: cluster.Key{Namespace: namespace, Name: name}}
			if !kind.Namespaced() {
				r.Namespace = ""
			}
			refs = append(refs, r)
		}
		return refs, nil
	}
	return nil, bad(errors.New("name what to delete: -f FILE, or a kind and names"))
}

func newExec() *cobra.Command {
	var tty, stdin bool
	var container string
	c := &cobra.Command{
		Use:   "exec [-it] (NAMESPACE/POD | node/NODE | outside) -- COMMAND [ARG...]",
		Short: "Run a command in a pod or a node, and pass its exit code on",
		Long: `Runs a program of this machine in a pod's network, or in a node's, which has the node's
own addresses and reaches pods and nodes through the node's switch. Outside is a client
that is not of the cluster, 203.0.113.10 and 2001:db8:113::10, in front of all nodes; a pod
that is called outside is default/outside.

Exit codes: that of the command, or 128 and the number of the signal that ended it;
127 there is no such command, 126 it cannot be executed; 1 the pod does not run,
2 there is no such pod, node or container.`,
		Example: `  vswitch exec shop/front -- curl -s http://10.244.2.3:8080/
  vswitch exec -it shop/front -- bash
  vswitch exec node/node1 -- ping -c 1 10.244.2.3
  vswitch exec outside -- ping -c 1 172.29.0.1`,
		Args: cobra.MinimumNArgs(2),

		ValidArgsFunction: nth(completePlaces),
		RunE: func(c *cobra.Command, args []string) error {
			req := lab.ExecRequest{Container: container, Command: args[1:], TTY: tty}
			var err error
			node, inNode := strings.CutPrefix(args[0], "node/")
			switch {
			case args[0] == "outside":
				req.Outside = true
			case inNode:
				req.Node = node
			default:
				req.Namespace, req.Pod, err = podName(args[0])
			}
			if (req.Outside || inNode) && container != "" || inNode && node == "" {
				err = bad(errors.New("exec takes NAMESPACE/POD, node/NODE or outside, and a container of a pod only"))
			}
			if err != nil {
				return err
			}
			client, err := open(c)
			if err != nil {
				return err
			}
			code, err := client.Exec(c.Context(), req, os.Stdin, os.Stdout, os.Stderr)
			if code != 0 {
				return &exitError{code, err}
			}
			return input(err)
		},
	}
	c.Flags().BoolVarP(&tty, "tty", "t", false, "give the command a terminal")
	c.Flags().BoolVarP(&stdin, "stdin", "i", false, "pass standard input on (always done; for kubectl's habits)")
	c.Flags().StringVarP(&container, "container", "c", "", "container (default the first)")
	completeFlag(c, "container", completeContainers)
	return c
}

// podName reads NAMESPACE/POD; without a namespace it is the default one.
func podName(s string) (namespace, name string, err error) {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok {
		namespace, name = "default", s
	}
	if namespace == "" || name == "" || strings.Contains(name, "/") {
		return "", "", bad(fmt.Errorf("%q is not NAMESPACE/POD", s))
	}
	return namespace, name, nil
}

func newLogs() *cobra.Command {
	var r lab.LogRequest
	var node bool
	c := &cobra.Command{
		Use:   "logs (NAMESPACE/POD | --node NODE)",
		Short: "Print what a pod's process, or a node, has written",
		Args:  cobra.ExactArgs(1),

		ValidArgsFunction: nth(func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if node {
				return completeNodes(c, args, word)
			}
			return completePods(c, args, word)
		}),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if node {
				r.Node = args[0]
			} else if r.Namespace, r.Pod, err = podName(args[0]); err != nil {
				return err
			}
			client, err := open(c)
			if err != nil {
				return err
			}
			log, err := client.Logs(c.Context(), r)
			if err != nil {
				return input(err)
			}
			defer log.Close()
			if _, err = io.Copy(c.OutOrStdout(), log); c.Context().Err() != nil {
				return nil // Ctrl-C is how following ends
			}
			return err
		},
	}
	c.Flags().BoolVar(&node, "node", false, "the argument is a node")
	c.Flags().BoolVarP(&r.Follow, "follow", "f", false, "go on as the log grows")
	c.Flags().StringVarP(&r.Container, "container", "c", "", "container (default the first)")
	completeFlag(c, "container", completeContainers)
	return c
}

func newDoctor() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Say what this machine can do, and how to mend the rest",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			failed := 0
			for _, check := range lab.Doctor() {
				mark := "ok  "
				if !check.OK {
					mark, failed = "FAIL", failed+1
				}
				fmt.Fprintf(c.OutOrStdout(), "%s  %-24s %s\n", mark, check.Name, check.Detail)
				if !check.OK && check.Fix != "" {
					fmt.Fprintf(c.OutOrStdout(), "      %-24s fix: %s\n", "", check.Fix)
				}
			}
			if failed > 0 {
				return &exitError{code: exitFailed}
			}
			return nil
		},
	}
}
