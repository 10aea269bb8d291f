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
)

func newDemo() *cobra.Command {
	var o demoOptions
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show the life of a packet on a throwaway cluster",
		Long: `Brings up a throwaway three-node cluster on this machine without root, and walks the
chapters of "Life of a Packet": real packets between real processes, with the hops
that each packet was really seen at. Everything is taken down at the end.

` + contents() + `
Chapter 6 starts a second cluster of two nodes for a while, which hides clients as
kube-proxy does. With --pods netstack, the cluster is in memory; what that leaves out
is said where it matters.

Exit codes: 0 all chapters passed, 1 some did not, 2 bad input.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c.Context(), c.OutOrStdout()) },
	}
	c.Flags().BoolVar(&o.keep, "keep", false, "leave the cluster up afterwards, as cluster 'demo'")
	c.Flags().IntVar(&o.chapter, "chapter", 0, "play only this chapter")
	c.Flags().StringVar(&o.pods, "pods", "process", "what pods are: 'process' (real ones) or 'netstack' (in memory, on any system)")
	c.Flags().StringVarP(&o.output, "output", "o", "text", "output format: text or json")
	return c
}

// contents lists the chapters.
func contents() string {
	var s strings.Builder
	for i, c := range chapters {
		fmt.Fprintf(&s, "  %d. %s\n", i+1, c.Title)
	}
	return s.String()
}

type demoOptions struct {
	keep    bool
	chapter int
	pods    string
	output  string
}

// demo is a play on a stage.
type demo struct {
	stage stage
	// open makes one more stage, which the caller closes.
	open     func(ctx context.Context, o stageOptions) (stage, error)
	inMemory bool
	out      io.Writer
	color    bool
	pods     map[string]actor
}

// chapterResult is what -o json prints of a chapter.
type chapterResult struct {
	Chapter int     `json:"chapter"`
	Title   string  `json:"title"`
	Pass    bool    `json:"pass"`
	Shown   string  `json:"shown,omitempty"`
	Error   string  `json:"error,omitempty"`
	Seconds float64 `json:"seconds"`
}

func (o *demoOptions) run(ctx context.Context, out io.Writer) (err error) {
	if o.chapter < 0 || o.chapter > len(chapters) {
		return bad(fmt.Errorf("there is no chapter %d; there are %d", o.chapter, len(chapters)))
	}
	if o.output != "text" && o.output != "json" {
		return bad(fmt.Errorf("output %q: use text or json", o.output))
	}
	if o.pods != "process" && o.pods != "netstack" {
		return bad(fmt.Errorf("pods %q: use process or netstack", o.pods))
	}
	d := &demo{out: out, pods: map[string]actor{}}
	if o.output == "json" {
		d.out = io.Discard
	} else {
		d.color = isTerminal(out)
	}
	d.printf("%s\n", d.bold("Life of a Packet"))
	start := time.Now()
	d.open = func(ctx context.Context, s stageOptions) (stage, error) {
		if d.inMemory = o.pods == "netstack"; d.inMemory {
			return newMemoryStage(s)
		}
		return newLabStage(ctx, s, o.keep && s.name == "demo")
	}
	if d.stage, err = d.open(ctx, stageOptions{name: "demo", nodes: 3, externalClient: agent.PreserveClient}); err != nil {
		return err
	}
	defer func() {
		if cerr := d.stage.Close(); cerr != nil && err == nil {
			err = cerr
		}
	}()
	d.printf("three nodes are up after %s, without root: node1, node2, node3\n", time.Since(start).Round(time.Millisecond))
	if d.inMemory {
		d.printf("in memory: pods and the client outside are netstacks in this process, packets\n" +
			"between nodes are handed over without VXLAN, and a node is no process to kill:\n" +
			"the others lose sight of it\n")
	}

	var results []chapterResult
	failed := 0
	for i, c := range chapters {
		if o.chapter != 0 && o.chapter != i+1 {
			continue
		}
		d.printf("\n%s\n", d.bold(fmt.Sprintf("%d. %s", i+1, c.Title)))
		start := time.Now()
		shown, err := c.play(ctx, d)
		r := chapterResult{Chapter: i + 1, Title: c.Title, Pass: err == nil, Shown: shown, Seconds: time.Since(start).Seconds()}
		if err != nil {
			failed++
			r.Error = err.Error()
			d.printf("   %s  %s\n", d.paint("31", "FAIL"), err)
		} else {
			d.printf("   %s  %s\n", d.paint("32", "PASS"), shown)
		}
		results = append(results, r)
		if ctx.Err() != nil {
			break
		}
	}
	if o.output == "json" {
		if err := printObject(out, results, "json"); err != nil {
			return err
		}
	}
	if failed > 0 {
		return &exitError{code: exitFailed, err: fmt.Errorf("%d of %d chapters failed", failed, len(results))}
	}
	what := fmt.Sprintf("all %d chapters", len(results))
	if o.chapter != 0 {
		what = fmt.Sprintf("chapter %d", o.chapter)
	}
	d.printf("\n%s passed in %s\n", what, time.Since(start).Round(100*time.Millisecond))
	if o.keep && o.pods == "process" {
		d.printf("the cluster stays up: try 'vswitch --name demo get pods', and 'vswitch --name demo down' when done\n")
	}
	return nil
}

// pod returns a pod of the play, and starts it where it is first needed.
func (d *demo) pod(ctx context.Context, node, name string) (actor, error) {
	if a, ok := d.pods[name]; ok {
		return a, nil
	}
	return d.addPod(ctx, node, name)
}

func (d *demo) addPod(ctx context.Context, node, name string) (actor, error) {
	added, err := addPods(ctx, d.stage, role{node: node, name: name})
	if err != nil {
		return actor{}, err
	}
	d.pods[name] = added[0]
	return added[0], nil
}

// ensure starts those pods of the play that do not run yet, all at once.
func (d *demo) ensure(ctx context.Context, roles ...role) error {
	missing := slices.DeleteFunc(slices.Clone(roles), func(r role) bool { _, ok := d.pods[r.name]; return ok })
	if len(missing) == 0 {
		return nil
	}
	added, err := addPods(ctx, d.stage, missing...)
	for _, a := range added {
		d.pods[a.Name] = a
	}
	return err
}

func (d *demo) printf(format string, args ...any) { fmt.Fprintf(d.out, format, args...) }

func (d *demo) say(format string, args ...any) { d.printf("   "+format+"\n", args...) }

func (d *demo) detail(format string, args ...any) {
	d.printf("     %s\n", d.paint("2", fmt.Sprintf(format, args...)))
}

// calls says who calls whom.
func (d *demo) calls(from, to actor) {
	d.say("%s on %s calls %s on %s", from.Name, from.Node, to.Name, to.Node)
	for i := range to.IPs {
		d.detail("%s > %s", from.IPs[i], to.IPs[i])
	}
}

// hops prints where a packet was seen, a line each, and what it was.
func (d *demo) hops(hops []agent.Sight) {
	width := 0
	for _, h := range hops {
		width = max(width, len(h.Port))
	}
	for i, h := range hops {
		if i == 0 {
			d.detail("%s %s > %s [%s]", h.Proto, h.Source, h.Destination, h.TCPFlags)
		}
		dir := "→ switch"
		if h.Out {
			dir = "switch →"
		}
		d.printf("     %s  %-*s %s  ttl %d  %s > %s\n", h.Node, width, h.Port, dir, h.TTL, h.SrcMAC, h.DstMAC)
	}
}

func (d *demo) bold(s string) string { return d.paint("1", s) }

func (d *demo) paint(code, s string) string {
	if !d.color || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + strings.ReplaceAll(s, "\x1b", "") + "\x1b[0m"
}
