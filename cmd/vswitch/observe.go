package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"vswitch/vswitch"
	"vswitch/vswitch/agent"
	"vswitch/vswitch/lab"
)

func newObserve() *cobra.Command {
	var o observeOptions
	c := &cobra.Command{
		Use:   "observe",
		Short: "Watch connections begin and packets die, with the reason",
		Long: `Shows, as it happens on all nodes of the cluster, the first packet of every connection
and every packet that dies, until Ctrl-C. A connection between two nodes begins on both.
Further packets of a connection that goes well are not shown; 'vswitch get flows' counts
them.

FROM and TO are pods and nodes where they are known. Behind a service, TO is the pod that
it chose; -o wide has the service, and the addresses. Where a packet died, REASON is the
word that 'vswitch trace' and 'vswitch status' use, and POLICY the policy that decided,
with its rule. Where several policies isolate a pod and none of them let the packet pass,
it is the first of them and how many there are besides; -o wide and json name up to eight:

  forwarded   it goes on
  dropped     it died in silence
  rejected    it died, and its sender was told (ICMP error, TCP reset)

A node tells 1,000 events a second, and 2,000 at once. How many more there were is said
on standard error.

With --socket, one node is watched that 'vswitch node' runs.

Exit codes: 0 Ctrl-C, or --count events were shown, 1 the cluster or node has ended, 2
bad input.`,
		Example: `  vswitch observe --verdict dropped
  vswitch observe --pod shop/web-1 --verdict dropped,rejected -o wide
  vswitch observe -n shop --policy NetworkPolicy
  vswitch observe --reason policy-ingress -o json | jq -r '[.from, .to, .policy] | @tsv'
  vswitch observe --node node1 --count 10`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c) },
	}
	f := c.Flags()
	f.StringSliceVar(&o.verdicts, "verdict", nil, "forwarded, dropped or rejected; repeatable")
	f.StringSliceVar(&o.filter.Reasons, "reason", nil, "what died for this reason; repeatable")
	f.StringArrayVar(&o.pods, "pod", nil, "what this pod, NAMESPACE/NAME, sends or is sent; repeatable")
	f.StringVarP(&o.namespace, "namespace", "n", "", "what pods of this namespace send or are sent")
	f.StringVar(&o.policy, "policy", "", "what a policy let pass or dropped whose name, such as 'NetworkPolicy shop/db rule 0', has this in it")
	f.StringVar(&o.node, "node", "", "what this node sees only")
	f.StringVar(&o.socket, "socket", "", "watch the one node whose API socket this is: node.sock in its runtimeDir")
	f.IntVarP(&o.count, "count", "c", 0, "end after so many events")
	f.StringVarP(&o.output, "output", "o", "table", "output format: table, wide, or json (a line an event)")
	completeFlag(c, "verdict", cobra.FixedCompletions(eventVerdicts, noFiles))
	completeFlag(c, "reason", cobra.FixedCompletions(reasonNames(), noFiles))
	completeFlag(c, "pod", completePods)
	completeFlag(c, "namespace", completeNamespaces)
	completeFlag(c, "node", completeNodes)
	completeFlag(c, "output", cobra.FixedCompletions([]string{"table", "wide", "json"}, noFiles))
	return c
}

var eventVerdicts = []string{string(agent.EventForwarded), string(agent.EventDropped), string(agent.EventRejected)}

func reasonNames() (names []string) {
	for _, r := range vswitch.Reasons() {
		names = append(names, r.String())
	}
	return names
}

type observeOptions struct {
	verdicts, pods                  []string
	namespace, policy, node, socket string
	output                          string
	count                           int
	filter                          agent.EventFilter // what nodes are asked for
}

func (o *observeOptions) run(c *cobra.Command) error {
	if err := o.check(); err != nil {
		return bad(err)
	}
	ctx, cancel := context.WithCancelCause(c.Context())
	defer cancel(nil)
	w := &watcher{observeOptions: o, events: make(chan agent.Event, 1024), fail: cancel, known: map[string]bool{}}
	if err := w.start(ctx, c); err != nil {
		return err
	}
	print := newEventPrinter(c.OutOrStdout(), c.ErrOrStderr(), o.output)
	print.head()
	err := o.show(ctx, w.events, print)
	cancel(nil)
	w.wg.Wait()
	if w.client != nil {
		w.client.Close()
	}
	return err
}

// show prints events until ctx ends. Ctrl-C is how that is meant to happen.
func (o *observeOptions) show(ctx context.Context, events <-chan agent.Event, print *eventPrinter) error {
	shown := 0
	for {
		select {
		case <-ctx.Done():
			if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		case e := <-events:
			print.suppressed(&e)
			if !o.wanted(&e) {
				continue
			}
			if err := print.event(&e); err != nil {
				return err
			}
			if shown++; shown == o.count {
				return nil
			}
		}
	}
}

func (o *observeOptions) check() error {
	if !slices.Contains([]string{"table", "wide", "json"}, o.output) {
		return fmt.Errorf("output %q: use table, wide or json", o.output)
	}
	if o.socket != "" && o.node != "" {
		return errors.New("--node and --socket both name the node to watch; give one of them")
	}
	if o.count < 0 {
		return fmt.Errorf("--count %d: give how many events to wait for", o.count)
	}
	for i, p := range o.pods {
		namespace, name, err := podName(p)
		if err != nil {
			return err
		}
		o.pods[i] = namespace + "/" + name
	}
	for _, v := range o.verdicts {
		o.filter.Verdicts = append(o.filter.Verdicts, agent.EventVerdict(strings.ToLower(v)))
	}
	err := o.filter.Check()
	if err != nil {
		err = errors.New(strings.TrimPrefix(err.Error(), agent.ErrBadRequest.Error()+": "))
	}
	return err
}

// wanted reports whether an event is to be shown.
func (o *observeOptions) wanted(e *agent.Event) bool {
	if e.Verdict == "" {
		return false // it says only what was suppressed
	}
	if len(o.pods) > 0 && !slices.Contains(o.pods, e.From) && !slices.Contains(o.pods, e.To) {
		return false
	}
	in := func(name string) bool { return strings.HasPrefix(name, o.namespace+"/") }
	if o.namespace != "" && !in(e.From) && !in(e.To) && !in(e.Service) {
		return false
	}
	return o.policy == "" || strings.Contains(e.Policy, o.policy)
}

// watcher collects the events of nodes.
type watcher struct {
	*observeOptions
	events chan agent.Event
	fail   context.CancelCauseFunc
	client *lab.Client // nil with a socket
	wg     sync.WaitGroup
	known  map[string]bool // nodes that are watched
}

// start returns when all nodes that run and answer are watched. Those that come later, or
// come back, are watched then.
func (w *watcher) start(ctx context.Context, c *cobra.Command) error {
	if w.socket != "" {
		a := agent.NewClient(w.socket)
		done, err := a.Events(ctx, w.filter, w.see(ctx))
		if err != nil {
			return err
		}
		w.wg.Go(func() {
			<-done
			w.fail(fmt.Errorf("the node at %s has ended", w.socket))
		})
		return nil
	}
	var err error
	if w.client, err = open(c); err != nil {
		return err
	}
	nodes, err := w.client.Nodes(ctx)
	if err != nil {
		return err
	}
	if w.node != "" && !slices.ContainsFunc(nodes, func(n lab.Node) bool { return n.Name == w.node }) {
		return bad(fmt.Errorf("there is no node %s", w.node))
	}
	var first sync.WaitGroup
	w.watch(ctx, nodes, &first)
	first.Wait()
	w.wg.Go(func() { w.follow(ctx) })
	return nil
}

// follow watches nodes that are added, until the cluster is gone.
func (w *watcher) follow(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(500 * time.Millisecond):
		}
		nodes, err := w.client.Nodes(ctx)
		if err != nil {
			w.fail(err)
			return
		}
		w.watch(ctx, nodes, nil)
	}
}

// watch begins to watch those nodes that are not watched yet. Each is done once
// in first.
func (w *watcher) watch(ctx context.Context, nodes []lab.Node, first *sync.WaitGroup) {
	for _, n := range nodes {
		if w.known[n.Name] || w.node != "" && n.Name != w.node {
			continue
		}
		w.known[n.Name] = true
		ready := func() {}
		if first != nil {
			first.Add(1)
			ready = sync.OnceFunc(first.Done)
			time.AfterFunc(answerTime, ready) // one that hangs does not keep the others from being shown
		}
		w.wg.Go(func() { w.keep(ctx, n.Socket, ready) })
	}
}

// keep watches one node, over its restarts. It calls ready after the first attempt.
func (w *watcher) keep(ctx context.Context, socket string, ready func()) {
	for ctx.Err() == nil {
		a := agent.NewClient(socket)
		done, err := a.Events(ctx, w.filter, w.see(ctx))
		ready()
		if err == nil {
			<-done
		}
		a.Close()
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// see returns what takes a node's events.
func (w *watcher) see(ctx context.Context) func(agent.Event) {
	return func(e agent.Event) {
		select {
		case w.events <- e:
		case <-ctx.Done():
		}
	}
}
