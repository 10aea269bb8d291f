package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/lab"
)

func newStatus() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "status",
		Short: "Sum up the cluster: nodes, pods, drops, and what is wrong",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := open(c)
			if err != nil {
				return err
			}
			if output == "json" || output == "yaml" {
				s, err := client.Status(c.Context())
				if err != nil {
					return err
				}
				return printObject(c.OutOrStdout(), s, output)
			}
			return printStatus(c.Context(), c.OutOrStdout(), client)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "text", "output format: text, json or yaml")
	return c
}

func printStatus(ctx context.Context, out io.Writer, client *lab.Client) error {
	s, err := client.Status(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "cluster %s, up for %s: %s, %s, %d ready\n\n", s.Name, age(time.Since(s.Started)),
		count(len(s.Nodes), "node"), count(s.Pods, "pod"), s.Ready)
	t := table{header: []string{"NODE", "STATUS", "PODS", "PEERS", "FLOWS", "POD-CIDRS", "DROPS"}}
	for _, n := range s.Nodes {
		a := agent.NewClient(n.Socket)
		st, err := a.Status(ctx)
		a.Close()
		if err != nil {
			t.add(n.Name, "NotReady", "", "", "", list(n.PodCIDRs), n.Reason)
			continue
		}
		status := "Ready"
		if !st.Ready {
			status = "NotReady"
		}
		t.add(n.Name, status, fmt.Sprint(st.Pods), fmt.Sprint(st.Peers), fmt.Sprint(st.Flows), list(st.PodCIDRs), drops(st.Drops))
	}
	t.print(out, true)
	for _, p := range s.Problems {
		fmt.Fprintf(out, "\nproblem: %s\n", p)
	}
	return nil
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// drops writes counters by reason, the largest first.
func drops(m map[string]uint64) string {
	var reasons []string
	for r := range m {
		reasons = append(reasons, r)
	}
	slices.SortFunc(reasons, func(a, b string) int {
		if m[a] != m[b] {
			return int(int64(m[b]) - int64(m[a]))
		}
		return strings.Compare(a, b)
	})
	for i, r := range reasons {
		reasons[i] = fmt.Sprintf("%s %d", r, m[r])
	}
	return strings.Join(reasons, ", ")
}
