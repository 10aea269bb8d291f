package main

import (
	"io"

	"github.com/spf13/cobra"

	"vswitch/vswitch/lab"
)

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
			return completeProcesses(c, args, word)
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
