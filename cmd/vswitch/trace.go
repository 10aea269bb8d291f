package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"vswitch/vswitch/trace"
)

func newTrace() *cobra.Command {
	var o traceOptions
	c := &cobra.Command{
		Use:   "trace (FROM TO | --probes FILE)",
		Short: "Explain what becomes of a packet, hop by hop",
		Long: `Says what becomes of a packet on every node it comes to, and why, with the code that
forwards: the packet is made, and every switch on the way decides about it as it would
about a real one. Nothing is sent.

Without -f the nodes of the running cluster are asked. With -f the cluster that the
manifests describe is made in memory; nothing needs to run. What they leave out (pods'
nodes, addresses) is filled in as 'vswitch up' does.

FROM is who sends it:
  NAMESPACE/POD            a pod
  node/NAME                a node itself
  outside                  the client that 'vswitch exec outside' runs commands as,
                           203.0.113.10 or 2001:db8:113::10, who enters at --at NODE; a pod
                           that is called outside is default/outside
  IP                       whoever has the address: a pod; a node; nobody in the range of
                           a node's pods, which stands for a pod without labels there; or
                           else a client outside the cluster, who enters at --at NODE

TO is where it goes, with the port left out for --proto icmp:
  NAMESPACE/POD:PORT       a pod
  svc/NAMESPACE/NAME:PORT  a service's cluster IP; PORT by number or name, and left out
                           if there is only one
  IP:PORT, [IP6]:PORT      also a node port, a load balancer's address or an external IP

The verdict is one of
  delivered   it arrives at the pod or node; whether somebody listens there is not asked
  rejected    it dies, and the sender is told (ICMP error, TCP reset)
  dropped     it dies in silence
and a reason, one word, follows in parentheses if it dies. Where a network policy
decided, it is named with the rule: the steps egress, of the sender's policies, and
ingress, of the receiver's, say how it came to that.

With --probes every line of a file is a packet, {"from":"x/a","to":"x/b:80"}, where "id",
"proto" and "at" may follow; every line of the output is the result of one, in order. The
cluster is made once.

Exit codes: 0 delivered, 1 not delivered, 2 bad input.
With --probes: 0 all were explained, whatever the verdict, 2 bad input.`,
		Example: `  vswitch trace shop/front shop/cart:8080
  vswitch trace shop/front svc/shop/web:http
  vswitch trace outside 172.30.0.1:80 --at node2
  vswitch trace 203.0.113.7 172.29.0.1:30080 --at node1
  vswitch trace shop/front 10.244.2.2 --proto icmp
  vswitch trace -f ./k8s node/node1 shop/cart:8080 -o json
  vswitch trace -f ./k8s 203.0.113.7 '[fd00:10:244:2::3]:80' --at node2
  vswitch trace -f ./k8s --probes probes.jsonl | jq -r 'select(.verdict != "delivered") | .id'`,
		ValidArgsFunction: nth(completePlaces, completeTargets),
		RunE:              func(c *cobra.Command, args []string) error { return o.run(c, args) },
	}
	f := c.Flags()
	o.add(f)
	f.StringVar(&o.probe.Proto, "proto", "tcp", "tcp, udp, sctp or icmp")
	f.StringVar(&o.probe.At, "at", "", "node where a client outside enters (default the one that has the address of TO, for itself or its pods, else the first by name)")
	f.IntVar(&o.probe.Size, "size", 0, "size of the IP packet in bytes (default the smallest)")
	f.StringVar(&o.probes, "probes", "", "file with a packet a line, or - for standard input")
	f.StringVarP(&o.output, "output", "o", "text", "output format: text or json")
	completeFlag(c, "proto", cobra.FixedCompletions([]string{"tcp", "udp", "sctp", "icmp"}, noFiles))
	return c
}

type traceOptions struct {
	whereFlags
	probes, output string
	probe          trace.Probe
}

func (o *traceOptions) run(c *cobra.Command, args []string) error {
	if err := o.check(c, args); err != nil {
		return bad(err)
	}
	where, done, err := o.cluster(c)
	if err != nil {
		return err
	}
	defer done()
	if o.probes != "" {
		return o.explainAll(c, where)
	}
	p := o.probe
	p.From, p.To = args[0], args[1]
	r, err := where.Trace(c.Context(), p)
	if err != nil {
		return badProbe(err)
	}
	if o.output == "json" {
		err = printObject(c.OutOrStdout(), r, "json")
	} else {
		printTrace(c.OutOrStdout(), r)
	}
	if err == nil && r.Verdict != trace.Delivered {
		return &exitError{code: exitFailed}
	}
	return err
}

func (o *traceOptions) check(c *cobra.Command, args []string) error {
	switch {
	case o.output != "text" && o.output != "json":
		return fmt.Errorf("output %q: use text or json", o.output)
	case o.probes != "" && len(args) > 0:
		return errors.New("--probes says what to trace; leave FROM and TO out")
	case o.probes == "" && len(args) != 2:
		return fmt.Errorf("trace takes FROM and TO, %d given; see '%s --help'", len(args), c.CommandPath())
	case o.probes == "-" && slices.Contains(o.files, "-"):
		return errors.New("standard input cannot be both the manifests and the probes")
	}
	return o.whereFlags.check(c)
}

// explainAll traces the probes of a file.
func (o *traceOptions) explainAll(c *cobra.Command, where *trace.Cluster) error {
	name, in := "stdin", c.InOrStdin()
	if o.probes != "-" {
		f, err := os.Open(o.probes)
		if err != nil {
			return bad(err)
		}
		defer f.Close()
		name, in = o.probes, f
	}
	return badProbe(where.Probes(c.Context(), name, in, c.OutOrStdout(), o.probe))
}

func badProbe(err error) error {
	if e := (*trace.InputError)(nil); errors.As(err, &e) {
		return bad(err)
	}
	return err
}

// printTrace writes a result for people.
func printTrace(out io.Writer, r *trace.Result) {
	t := table{header: []string{"NODE", "STAGE", "WHAT"}}
	for _, h := range r.Hops {
		t.add(h.Node, h.Stage, h.Did)
	}
	t.print(out)
	fmt.Fprintf(out, "\n%s: %s -> %s", r.Verdict, r.Source, r.Destination)
	switch {
	case r.Reason != "" && r.Policy != "" && strings.HasPrefix(r.Reason, "policy-"):
		fmt.Fprintf(out, " (%s: %s)", r.Reason, r.Policy)
	case r.Reason != "":
		fmt.Fprintf(out, " (%s)", r.Reason)
	case r.Policy != "":
		fmt.Fprintf(out, " (allowed by %s)", r.Policy)
	}
	fmt.Fprintln(out)
}
