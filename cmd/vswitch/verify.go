package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"vswitch/vswitch/trace"
)

func newVerify() *cobra.Command {
	var o verifyOptions
	c := &cobra.Command{
		Use:   "verify [-f MANIFESTS] EXPECTATIONS...",
		Short: "Test who can reach whom, in CI without a cluster",
		Long: `Compares who should reach whom with what the switches would do, by 'vswitch trace': with
-f in a cluster that is made of the manifests in memory, in milliseconds and without
any right; without -f in the running cluster. No packet is sent.

EXPECTATIONS are files, or - for standard input, each a YAML list:

  - {from: shop/front, to: "shop/cart:8080", expect: allow}
  - {from: [shop/front, shop/web], to: "shop/db:5432", expect: deny}
  - {from: 203.0.113.7, to: "svc/shop/web:http", expect: allow, at: node2}
  - {from: shop/cart, to: shop/db, proto: icmp, expect: deny}

  from, to   as of 'vswitch trace', or lists of them: all from the ones to the others
  proto      tcp (the default), udp, sctp or icmp
  expect     allow    it is delivered; whether somebody listens there is not asked
             deny     it is not, be it dropped or rejected
             reject   it is not, and the sender is told (ICMP error, TCP reset)
  at         the node where a client outside enters

A packet to a service is sent to each of its endpoints: all of them must be as expected.
Where both ends have addresses of IPv4 and IPv6, both are asked about, and must be as
expected.

What differs is listed, with the reason and the policy that decided; where that is not the
same in both families, each of them that differs is. The last line says how many are as
expected.

Exit codes: 0 all are as expected, 1 some are not, 2 bad input, of which every fault is
named by file, line and field.`,
		Example: `  vswitch verify -f ./k8s expectations.yaml
  vswitch verify -f ./k8s -f ./policies tests/*.yaml
  kustomize build . | vswitch verify -f - expectations.yaml
  vswitch verify -f ./k8s expectations.yaml -o json | jq '.differences[].policy'
  vswitch verify expectations.yaml                # the running cluster`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return o.run(c, args) },
	}
	o.add(c.Flags())
	c.Flags().StringVarP(&o.output, "output", "o", "text", "output format: text or json")
	completeFlag(c, "output", cobra.FixedCompletions([]string{"text", "json"}, noFiles))
	return c
}

type verifyOptions struct {
	whereFlags
	output string
}

// verified is the result of a test, as -o json prints it.
type verified struct {
	Expectations int          `json:"expectations"`
	AsExpected   int          `json:"asExpected"`
	Differences  []difference `json:"differences"`
}

// difference is an expectation that was not met.
type difference struct {
	File  string `json:"file"`
	Line  int    `json:"line"`
	From  string `json:"from"`
	To    string `json:"to"`
	Proto string `json:"proto"`
	// Family is IPv4 or IPv6, where the other one is as expected, or differs
	// otherwise; empty where both ends have but one, or both are the same.
	Family trace.Family `json:"family,omitempty"`
	Expect string       `json:"expect"`
	// Got is allow, deny or reject.
	Got string `json:"got"`
	// Reason and Policy are as in a trace, and Destination is where the packet
	// went.
	Reason      string `json:"reason"`
	Policy      string `json:"policy"`
	Destination string `json:"destination"`
}

func (o *verifyOptions) run(c *cobra.Command, args []string) error {
	switch {
	case o.output != "text" && o.output != "json":
		return bad(fmt.Errorf("output %q: use text or json", o.output))
	case slices.Contains(args, "-") && slices.Contains(o.files, "-"):
		return bad(errors.New("standard input cannot be both the manifests and the expectations"))
	}
	if err := o.check(c); err != nil {
		return bad(err)
	}
	expectations, err := loadExpectations(args, c.InOrStdin())
	if err != nil {
		return bad(err)
	}
	where, done, err := o.cluster(c)
	if err != nil {
		return err
	}
	defer done()
	if err := checkExpectations(where, expectations); err != nil {
		return bad(err)
	}
	result, err := verify(c.Context(), where, expectations)
	if err != nil {
		return err
	}
	if o.output == "json" {
		err = printObject(c.OutOrStdout(), result, "json")
	} else {
		printVerified(c.OutOrStdout(), result)
	}
	if err == nil && len(result.Differences) > 0 {
		return &exitError{code: exitFailed}
	}
	return err
}

// checkExpectations names all that the cluster does not have.
func checkExpectations(where *trace.Cluster, expectations []expectation) error {
	var errs []error
	for i := range expectations {
		e := &expectations[i]
		err := where.Check(e.probe)
		if in := (*trace.InputError)(nil); errors.As(err, &in) {
			err = e.fault(in.Field, "%s", in.Message)
		}
		// With lists, one thing may be wrong in several expectations.
		if err != nil && (len(errs) == 0 || errs[len(errs)-1].Error() != err.Error()) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// verify compares expectations with what becomes of their packets.
func verify(ctx context.Context, where *trace.Cluster, expectations []expectation) (*verified, error) {
	out := &verified{Expectations: len(expectations), Differences: []difference{}}
	for i := range expectations {
		e := &expectations[i]
		differs, err := differences(ctx, where, e)
		if err != nil {
			return nil, entryFault(e.file, e.line, err.Error())
		}
		if len(differs) == 0 {
			out.AsExpected++
		}
		out.Differences = append(out.Differences, differs...)
	}
	return out, nil
}

// differences are what does not become of an expectation's packets as expected, in
// each family that both ends have: one if that is the same in all.
func differences(ctx context.Context, where *trace.Cluster, e *expectation) (out []difference, err error) {
	families, err := where.Families(e.probe)
	if err != nil {
		return nil, err
	}
	for _, f := range families {
		p := e.probe
		p.Family = f
		r, err := counterexample(ctx, where, e, p)
		if err != nil {
			return nil, err
		}
		if r != nil {
			out = append(out, difference{
				File: e.file, Line: e.line, From: p.From, To: p.To, Proto: cmp.Or(p.Proto, "tcp"), Family: f, Expect: e.expect,
				Got: got(r), Reason: r.Reason, Policy: r.Policy, Destination: r.Destination,
			})
		}
	}
	if len(out) == len(families) && !slices.ContainsFunc(out, func(d difference) bool { return !d.like(&out[0]) }) {
		out = out[:min(len(out), 1)]
		for i := range out {
			out[i].Family = ""
		}
	}
	return out, nil
}

// like reports whether the same became of both packets.
func (d *difference) like(o *difference) bool {
	return d.Got == o.Got && d.Reason == o.Reason && d.Policy == o.Policy
}

// counterexample returns what does not become of p, the expectation's packet in a
// family, as expected; nil if all does. Where a service has several endpoints, the packet is
// sent from one port after the other until each has been chosen.
func counterexample(ctx context.Context, where *trace.Cluster, e *expectation, p trace.Probe) (*trace.Result, error) {
	const firstPort = 40000
	seen := map[string]bool{}
	for n := 0; ; n++ {
		if n > 0 {
			p.SourcePort = uint16(firstPort + n)
		}
		r, err := where.Trace(ctx, p)
		if err != nil || !e.met(r) {
			return r, err
		}
		// Chosen at random, all of them come up in so many attempts, by far.
		if seen[r.Destination] = true; len(r.Backends) < 2 || len(seen) >= len(r.Backends) || n >= min(50+20*len(r.Backends), 20000) {
			return nil, nil
		}
	}
}

// met reports whether a packet fared as it should.
func (e *expectation) met(r *trace.Result) bool {
	is := got(r)
	return is == e.expect || e.expect == expectDeny && is == expectReject
}

// got is the word of an expectation that is met by a packet.
func got(r *trace.Result) string {
	switch r.Verdict {
	case trace.Delivered:
		return expectAllow
	case trace.Rejected:
		return expectReject
	}
	return expectDeny
}

// printVerified writes a result for people.
func printVerified(out io.Writer, v *verified) {
	if len(v.Differences) > 0 {
		t := table{header: []string{"WHERE", "FROM", "TO", "PROTO", "EXPECTED", "GOT", "REASON", "POLICY"}}
		for _, d := range v.Differences {
			proto := d.Proto
			if d.Family != "" {
				proto += " " + string(d.Family)
			}
			t.add(fmt.Sprintf("%s:%d", d.File, d.Line), d.From, d.To, proto, d.Expect, d.Got, d.Reason, d.Policy)
		}
		t.print(out)
		fmt.Fprintln(out)
	}
	fmt.Fprintf(out, "%d of %d as expected\n", v.AsExpected, v.Expectations)
}
