package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/lab"
)

// completionTime is how long a shell may wait for its Tab key.
const completionTime = 2 * time.Second

// noFiles is a completion that ends with what it returns.
const noFiles = cobra.ShellCompDirectiveNoFileComp

// fromCluster completes with what find knows of the running cluster; without
// one, with nothing.
func fromCluster(find func(ctx context.Context, client *lab.Client) []string) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		client, err := open(c)
		if err != nil {
			return nil, noFiles
		}
		defer client.Close()
		ctx, cancel := context.WithTimeout(context.Background(), completionTime)
		defer cancel()
		return find(ctx, client), noFiles
	}
}

// nth completes the arguments one after the other, and none behind them.
func nth(each ...cobra.CompletionFunc) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(each) {
			return nil, noFiles
		}
		return each[len(args)](c, args, word)
	}
}

// completeFlag sets the completion of a flag that exists.
func completeFlag(c *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := c.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err)
	}
}

var (
	completePods = fromCluster(func(ctx context.Context, client *lab.Client) (names []string) {
		pods, _ := client.Pods(ctx)
		for _, p := range pods {
			names = append(names, p.Key().String())
		}
		return names
	})
	// completeProcesses completes those pods that have processes.
	completeProcesses = fromCluster(processes)
	// completePlaces completes NAMESPACE/POD, node/NODE and outside: where a command
	// may run.
	completePlaces = fromCluster(func(ctx context.Context, client *lab.Client) (names []string) {
		names = processes(ctx, client)
		nodes, _ := client.Nodes(ctx)
		for _, n := range nodes {
			names = append(names, "node/"+n.Name)
		}
		return append(names, outsideClient)
	})
	// completeTargets completes NAMESPACE/POD:PORT and svc/NAMESPACE/NAME:PORT.
	completeTargets = fromCluster(func(ctx context.Context, client *lab.Client) (names []string) {
		pods, _ := client.Pods(ctx)
		for _, p := range pods {
			ports := 0
			for _, c := range p.Containers {
				for _, port := range c.Ports {
					names = append(names, fmt.Sprintf("%s:%d", p.Key(), port.Port))
					ports++
				}
			}
			if ports == 0 {
				names = append(names, p.Key().String()+":")
			}
		}
		return append(names, serviceTargets(ctx, client)...)
	})
	completeNodes = fromCluster(func(ctx context.Context, client *lab.Client) (names []string) {
		nodes, _ := client.Nodes(ctx)
		for _, n := range nodes {
			names = append(names, n.Name)
		}
		return names
	})
	completeNamespaces = fromCluster(func(ctx context.Context, client *lab.Client) (names []string) {
		state, _ := client.State(ctx)
		for _, n := range state.Namespaces {
			names = append(names, n.Name)
		}
		return names
	})
)

// serviceTargets are the ports of the services that have an address, by name
// where they have one.
func processes(ctx context.Context, client *lab.Client) (names []string) {
	pods, _ := client.Pods(ctx)
	for _, p := range pods {
		if p.NodeServes == "" {
			names = append(names, p.Key().String())
		}
	}
	return names
}

func serviceTargets(ctx context.Context, client *lab.Client) (names []string) {
	state, _ := client.State(ctx)
	for _, v := range state.Services {
		if len(v.ClusterIPs) == 0 {
			continue
		}
		for _, p := range v.Ports {
			names = append(names, fmt.Sprintf("svc/%s:%s", v.Key(), cmp.Or(p.Name, fmt.Sprint(p.Port))))
		}
	}
	return names
}

// completeContainers completes the names of the containers of the pod that was
// named before.
func completeContainers(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return fromCluster(func(ctx context.Context, client *lab.Client) (names []string) {
		pods, _ := client.Pods(ctx)
		if len(args) == 0 {
			return nil
		}
		namespace, name, err := podName(args[0])
		if err != nil {
			return nil
		}
		for _, p := range pods {
			if p.Namespace != namespace || p.Name != name {
				continue
			}
			for _, c := range slices.Concat(p.InitContainers, p.Containers) {
				names = append(names, c.Name)
			}
		}
		return names
	})(c, args, word)
}

// completeClusters completes the names of clusters that run.
func completeClusters(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	names, _ := lab.List()
	return names, noFiles
}

// completeGet completes kinds, then names of that kind, and the flags of get.
func completeGet(c *cobra.Command) {
	c.ValidArgsFunction = func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return completeKinds(word), noFiles
		}
		return completeNames(c, args, word)
	}
	completeFlag(c, "namespace", completeNamespaces)
	completeFlag(c, "node", completeNodes)
	completeFlag(c, "output", cobra.FixedCompletions(getFormats, noFiles))
}

// completeKinds completes the last of several kinds.
func completeKinds(word string) []string {
	before := word[:strings.LastIndexByte(word, ',')+1]
	names := kindNames(getKinds)
	for i := range names {
		names[i] = before + names[i]
	}
	return names
}

// completeNames completes the names of objects of the kind that args begin with.
func completeNames(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if k, err := findKind(getKinds, args[0]); err == nil && k.events != nil && c.Name() == "get" {
		return completeEvents(c, args, word)
	}
	kind, ok := cluster.ParseKind(args[0])
	if !ok {
		return nil, noFiles
	}
	namespace, _ := c.Flags().GetString("namespace")
	return fromCluster(func(ctx context.Context, client *lab.Client) (names []string) {
		state, _ := client.State(ctx)
		for _, r := range state.Refs() {
			if r.Kind == kind && (r.Namespace == "" || r.Namespace == namespace) && !slices.Contains(args[1:], r.Name) {
				names = append(names, r.Name)
			}
		}
		return names
	})(c, args, word)
}

// completeEvents completes the names of events.
func completeEvents(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	namespace, _ := c.Flags().GetString("namespace")
	return fromCluster(func(ctx context.Context, client *lab.Client) (names []string) {
		l, _ := client.Events(ctx)
		for _, e := range l.Events {
			if e.Namespace == namespace && !slices.Contains(args[1:], e.Name) {
				names = append(names, e.Name)
			}
		}
		return names
	})(c, args, word)
}

// completeDelete completes kinds of objects, then their names.
func completeDelete(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return completeNames(c, args, word)
	}
	return deletable(), noFiles
}
