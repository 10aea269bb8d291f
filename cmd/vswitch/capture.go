package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"vswitch/vswitch/lab"
)

func newCapture() *cobra.Command {
	var node, pod, file string
	c := &cobra.Command{
		Use:   "capture [--pod NAMESPACE/POD | --node NODE] [-w FILE]",
		Short: "Write packets as pcapng",
		Long: `Writes the packets that a node's switch sees, at all its ports or at one pod's, as
pcapng, until Ctrl-C. Superpackets appear whole, as the switch handles them.

  vswitch capture --pod shop/web-1 -w web.pcapng
  vswitch capture --pod node/node1 | tcpdump -nr -     # what the node itself says and hears
  vswitch capture --node node1 | tcpdump -nr -`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := open(c)
			if err != nil {
				return err
			}
			if name, ok := strings.CutPrefix(pod, "node/"); ok {
				node, pod = name, "node"
			} else if pod != "" {
				if node, err = nodeOf(c, client, pod); err != nil {
					return err
				}
			}
			a, err := client.Agent(c.Context(), node)
			if err != nil {
				return input(err)
			}
			defer a.Close()
			out := os.Stdout
			switch {
			case file != "" && file != "-":
				if out, err = os.Create(file); err != nil {
					return err
				}
				defer out.Close()
			case term.IsTerminal(int(out.Fd())):
				return bad(fmt.Errorf("pcapng on a terminal helps nobody; give -w FILE, or pipe it to tcpdump -nr -"))
			}
			stream, err := a.Capture(c.Context(), pod)
			if err != nil {
				return err
			}
			defer stream.Close()
			if _, err = io.Copy(out, stream); c.Context().Err() != nil {
				return nil // Ctrl-C is how a capture ends
			}
			return err
		},
	}
	c.Flags().StringVar(&pod, "pod", "", "the port of this pod only, or with node/NODE that of a node itself")
	c.Flags().StringVar(&node, "node", "", "all ports of this node (default the first one)")
	c.Flags().StringVarP(&file, "write", "w", "", "file to write (default standard output)")
	c.MarkFlagsMutuallyExclusive("pod", "node")
	completeFlag(c, "pod", completePods)
	completeFlag(c, "node", completeNodes)
	return c
}

// nodeOf returns the node of a pod.
func nodeOf(c *cobra.Command, client *lab.Client, pod string) (string, error) {
	namespace, name, err := podName(pod)
	if err != nil {
		return "", err
	}
	pods, err := client.Pods(c.Context())
	if err != nil {
		return "", err
	}
	for _, p := range pods {
		if p.Namespace == namespace && p.Name == name {
			return p.Node, nil
		}
	}
	return "", bad(fmt.Errorf("there is no pod %s/%s", namespace, name))
}
