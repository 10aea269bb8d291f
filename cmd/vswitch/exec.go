package main

import (
	"errors"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"vswitch/vswitch/lab"
)

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
