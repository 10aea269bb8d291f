package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

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
