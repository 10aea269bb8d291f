package main

import (
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"vswitch/vswitch/lab"
)

func newLogs() *cobra.Command {
	var r lab.LogRequest
	var node bool
	var since time.Duration
	c := &cobra.Command{
		Use:   "logs (NAMESPACE/POD | --node NODE)",
		Short: "Print what a pod's process, or a node, has written",
		Example: `  vswitch logs shop/web-1 -f
  vswitch logs shop/web-1 -c proxy --previous
  vswitch logs shop/web-1 --tail 20 --timestamps
  vswitch logs --node node1 --since 5m`,
		Args: cobra.ExactArgs(1),

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
			if r.Tail < 0 || since < 0 {
				return bad(errors.New("--tail and --since are not negative"))
			}
			if since > 0 {
				r.Since = time.Now().Add(-since)
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
	c.Flags().BoolVarP(&r.Previous, "previous", "p", false, "of the run before, of a container that was started again")
	c.Flags().IntVar(&r.Tail, "tail", 0, "the last so many lines only (default all)")
	c.Flags().DurationVar(&since, "since", 0, "what came in that time only, such as 30s or 5m")
	c.Flags().BoolVar(&r.Timestamps, "timestamps", false, "put the time before each line")
	c.Flags().StringVarP(&r.Container, "container", "c", "", "container (default the first)")
	completeFlag(c, "container", completeContainers)
	return c
}
