package main

import (
	"cmp"
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

var statusFormats = []string{"text", "json", "yaml"}

func newStatus() *cobra.Command {
	var output, socket string
	c := &cobra.Command{
		Use:   "status",
		Short: "Sum up the cluster: nodes, pods, drops, and what is wrong",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !slices.Contains(statusFormats, output) {
				return bad(fmt.Errorf("output %q: use text, json or yaml", output))
			}
			if socket != "" {
				return printNodeStatus(c.Context(), c.OutOrStdout(), socket, output)
			}
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
	completeFlag(c, "output", cobra.FixedCompletions(statusFormats, noFiles))
	c.Flags().StringVar(&socket, "socket", "", "sum up the one node whose API socket this is: node.sock in its runtimeDir")
	return c
}

func printStatus(ctx context.Context, out io.Writer, client *lab.Client) error {
	s, err := client.Status(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "cluster %s, up for %s: %s, %s, %d ready\n\n", s.Name, age(time.Since(s.Started)),
		count(len(s.Nodes), "node"), count(s.Pods, "pod"), s.Ready)
	t := table{header: statusHeader}
	for _, n := range s.Nodes {
		a := agent.NewClient(n.Socket)
		st, err := statusOf(ctx, a)
		a.Close()
		if err != nil {
			t.add(n.Name, "NotReady", "", "", "", list(n.PodCIDRs), cmp.Or(n.Reason, err.Error()))
			continue
		}
		t.add(statusRow(&st)...)
	}
	t.print(out)
	for i, p := range s.Problems {
		if i == 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintf(out, "problem: %s\n", p)
	}
	if s.Warnings > 0 {
		fmt.Fprintf(out, "\n%s in the last hour; %s says what and when\n", count(s.Warnings, "warning"), command(s.Name, "get events -A"))
	}
	return nil
}

// answerTime is how long a node may take to say how it is.
const answerTime = 3 * time.Second

// statusOf asks a node how it is, which one whose process hangs does not say.
func statusOf(ctx context.Context, a *agent.Client) (agent.Status, error) {
	limited, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	st, err := a.Status(limited)
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		err = fmt.Errorf("it has not answered for %v", answerTime)
	}
	return st, err
}

// printNodeStatus prints what one node says of itself.
func printNodeStatus(ctx context.Context, out io.Writer, socket, output string) error {
	a := agent.NewClient(socket)
	defer a.Close()
	st, err := statusOf(ctx, a)
	if err != nil {
		return err
	}
	if output == "json" || output == "yaml" {
		return printObject(out, st, output)
	}
	t := table{header: statusHeader}
	t.add(statusRow(&st)...)
	t.print(out)
	for _, p := range st.Problems {
		fmt.Fprintf(out, "\nproblem: %s\n", p)
	}
	return nil
}

var statusHeader = []string{"NODE", "STATUS", "PODS", "PEERS", "FLOWS", "POD-CIDRS", "DROPS"}

func statusRow(st *agent.Status) []string {
	status := "Ready"
	if !st.Ready {
		status = "NotReady"
	}
	return []string{st.Name, status, fmt.Sprint(st.Pods), fmt.Sprint(st.Peers), fmt.Sprint(st.Flows), list(st.PodCIDRs), drops(st.Drops)}
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
