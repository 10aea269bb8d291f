package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"vswitch/vswitch/control"
	"vswitch/vswitch/kube"
	"vswitch/vswitch/lab"
)

func newApply() *cobra.Command {
	var files []string
	wait := true
	c := &cobra.Command{
		Use:   "apply -f FILE|DIR...",
		Short: "Create or change objects of the running cluster",
		Long: `Creates or changes Nodes, Namespaces, Pods, Deployments, Services, EndpointSlices,
Endpoints, NetworkPolicies and ClusterNetworkPolicies. What a Service or Pod leaves out is filled in, and stays: cluster IPs, node
ports, load balancer addresses, nodes. EndpointSlices of a Service with a selector follow
its pods, unless some are given.

All of it is applied, or nothing. Only a policy with a fault, where there is none of its
name, isolates the pods that it selects, until it is corrected or deleted. A range that has nothing left to give is no error: the
Service is created, says so in 'vswitch get services -o wide' and 'vswitch status', and
gets its address when there is one; apply warns of it.

It returns when all nodes that are ready go by the services and endpoints that follow, or
after ten seconds with a warning. What takes longer, such as the start of a pod's process,
is not waited for.

Exit codes: 0 applied, 1 it failed, 2 the input is wrong.`,
		Example: `  vswitch apply -f ./k8s
  cat service.yaml | vswitch apply -f -`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			objects, err := load(c, files)
			if err != nil {
				return isolate(c, err)
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
				for _, text := range r.Lacks {
					fmt.Fprintln(c.ErrOrStderr(), "warning:", text)
				}
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

// isolate has policies that could not be read isolate the pods which they
// select, in the running cluster, and adds to err, of load, what came of it.
func isolate(c *cobra.Command, err error) error {
	invalid, unclear := kube.StandIns(err), kube.Unclear(err)
	if invalid.Len()+len(unclear) == 0 {
		return err
	}
	var results []control.Result
	client, failed := open(c)
	if failed == nil {
		results, failed = client.Isolate(c.Context(), invalid)
	}
	if errors.Is(failed, lab.ErrNotRunning) {
		return err // there are no pods to isolate
	}
	said := map[string]bool{}
	remark := func(object, text string) {
		if !said[object] {
			said[object] = true
			err = kube.Remark(err, object, text)
		}
	}
	waits := false
	for _, r := range results {
		if r.Action == "kept" {
			remark(r.Ref.String(), "; the one of this name that was applied before stays in force")
			continue
		}
		waits = true
		remark(r.Ref.String(), "; until it is corrected or deleted, the pods that it selects are isolated")
	}
	for _, object := range unclear {
		remark(object, "; which pods it selects is not certain, so nothing is changed")
	}
	if waits {
		if late := client.WaitInForce(c.Context()); late != nil {
			fmt.Fprintln(c.ErrOrStderr(), "warning: isolation is asked for, but", late)
		}
	}
	if failed != nil {
		err = errors.Join(err, fmt.Errorf("the pods that invalid policies select could not be isolated: %w", failed))
	}
	return bad(err)
}
