package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
)

// The three tiers of the talk, and its rules in the form of its time.
const (
	storeIsolation = `kind: Namespace
apiVersion: v1
metadata:
  name: store
  annotations:
    net.beta.kubernetes.io/network-policy: |
      {
        "ingress": {
          "isolation": "DefaultDeny"
        }
      }
`
	storePolicies = `kind: NetworkPolicy
apiVersion: extensions/v1beta1
metadata:
  name: store-be
  namespace: store
spec:
  podSelector:
    matchLabels:
      app: store
      role: be
  ingress:
  - from:
    - podSelector:
        matchLabels:
          app: store
          role: fe
    ports:
    - protocol: TCP
      port: 80
---
kind: NetworkPolicy
apiVersion: extensions/v1beta1
metadata:
  name: store-db
  namespace: store
spec:
  podSelector:
    matchLabels:
      app: store
      role: db
  ingress:
  - from:
    - podSelector:
        matchLabels:
          app: store
          role: be
    ports:
    - protocol: TCP
      port: 80
`
)

// tier is a pod of the chapter and what it is.
type tier struct{ node, name, role string }

func (t tier) as(role string) tier { t.role = role; return t }

func (t tier) cast() role {
	return role{node: t.node, name: t.name, labels: map[string]string{"app": "store", "role": t.role}}
}

var tiers = []tier{
	{"node1", "store/fe-1", "fe"},
	{"node2", "store/fe-2", "fe"},
	{"node2", "store/be-1", "be"},
	{"node3", "store/be-2", "be"},
	{"node3", "store/db", "db"},
}

// networkPolicy: who may talk to whom is said by labels, and holds on every node.
func networkPolicy(ctx context.Context, d *demo) (string, error) {
	var roles []role
	for _, t := range tiers {
		roles = append(roles, t.cast())
	}
	if err := d.ensure(ctx, roles...); err != nil {
		return "", err
	}
	d.say("three tiers, a shop's front ends, back ends and data base; without policies, everybody reaches everybody:")
	if err := d.sweep(ctx, func(from, to tier) bool { return true }, tiers); err != nil {
		return "", err
	}

	d.say("applied are a namespace in which nobody is let in, and two NetworkPolicies: fe to be, and be to db")
	d.yaml(storeIsolation + "---\n" + storePolicies)
	if err := apply(ctx, d.stage, storeIsolation+"---\n"+storePolicies); err != nil {
		return "", err
	}
	rules := func(from, to tier) bool {
		return from.role == "fe" && to.role == "be" || from.role == "be" && to.role == "db"
	}
	if err := d.sweep(ctx, rules, tiers); err != nil {
		return "", err
	}

	fe, be, db := tiers[0], tiers[3], tiers[4]
	d.say("%s calls %s; an observer hears why there is no answer", fe.name, db.name)
	if err := d.deniedAloud(ctx, fe, db, "NetworkPolicy store/store-db"); err != nil {
		return "", err
	}

	d.say("%s sends data to %s; in the middle of it, its label becomes role: fe", be.name, db.name)
	if err := d.cut(ctx, be, db); err != nil {
		return "", err
	}
	d.say("the rules follow the label:")
	now := slices.Clone(tiers)
	now[3] = be.as("fe")
	if err := d.sweep(ctx, rules, now); err != nil {
		return "", err
	}
	return "front ends reach neither the data base nor each other, and rules follow labels", nil
}

// yaml prints a manifest.
func (d *demo) yaml(manifest string) {
	for line := range strings.Lines(manifest) {
		d.printf("       %s", line)
	}
}

// sweep connects every pod with every other one, until it finds what is wanted,
// as long as patience lasts. It prints what it found at last.
func (d *demo) sweep(ctx context.Context, wanted func(from, to tier) bool, pods []tier) error {
	// What is denied is not answered at all; whoever may is answered in less, in
	// the end.
	limit := 300 * time.Millisecond
	for deadline := time.Now().Add(patience); ; limit = min(2*limit, 2*time.Second) {
		m, wrong, err := d.reached(ctx, wanted, pods, limit)
		if err != nil {
			return err
		}
		if wrong == nil || time.Now().After(deadline) {
			var out strings.Builder
			m.print(&out)
			for line := range strings.Lines(out.String()) {
				d.printf("%s\n", strings.TrimRight("     "+line, " \n"))
			}
			return wrong
		}
	}
}

// reached connects every pod with every other one at once, and says what is not
// as wanted.
func (d *demo) reached(ctx context.Context, wanted func(from, to tier) bool, pods []tier, limit time.Duration) (m *matrix, wrong, err error) {
	m = &matrix{cells: make([][]reach, len(pods))}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, from := range pods {
		m.names, m.cells[i] = append(m.names, short(strings.TrimPrefix(from.name, "store/"))), make([]reach, len(pods))
		for j, to := range pods {
			if i == j {
				m.cells[i][j] = reachSelf
				continue
			}
			wg.Go(func() {
				address := d.pods[to.name].webAt()
				all, aerr := d.stage.Ask(ctx, from.name, address, 1, limit)
				mu.Lock()
				defer mu.Unlock()
				err = errors.Join(err, aerr)
				if len(all) == 1 && all[0].Error == "" {
					m.cells[i][j] = reachAll
				}
				if got := m.cells[i][j] == reachAll; got != wanted(from, to) {
					wrong = fmt.Errorf("%s (role %s) reaches %s (role %s): %v, and should: %v", from.name, from.role, to.name, to.role, got, !got)
				}
			})
		}
	}
	wg.Wait()
	return m, wrong, err
}

// deniedAloud connects in vain, and prints what the switch that stops it says.
func (d *demo) deniedAloud(ctx context.Context, from, to tier, by string) error {
	heard := make(chan agent.Event, 1)
	stop, err := d.stage.Observe(ctx, agent.EventFilter{Verdicts: []agent.EventVerdict{agent.EventDropped}}, func(e agent.Event) {
		if e.From == from.name && e.To == to.name && e.Reason == "policy-ingress" {
			select {
			case heard <- e:
			default:
			}
		}
	})
	if err != nil {
		return err
	}
	defer stop()
	if _, err := one(ctx, d.stage, from.name, d.pods[to.name].webAt(), 300*time.Millisecond); err == nil {
		return fmt.Errorf("%s was answered", from.name)
	}
	select {
	case e := <-heard:
		d.printf("     %s  %s  %s > %s  %s  %s\n", e.Node, d.paint("31", string(e.Verdict)), senderOf(&e), receiverOf(&e), e.Reason, e.Policy)
		if e.Why != "" {
			d.detail("%s", e.Why)
		}
		if !strings.HasPrefix(e.Policy, by) {
			return fmt.Errorf("it was stopped by %q, not by %s", e.Policy, by)
		}
		return nil
	case <-time.After(patience):
		return fmt.Errorf("nobody heard that a packet was dropped")
	}
}

// cut relabels a pod in the middle of its connection, which must not outlive it.
func (d *demo) cut(ctx context.Context, from, to tier) error {
	var half error
	start := time.Now()
	err := d.stage.Stream(ctx, from.name, d.pods[to.name].webAt(), 64<<20, func() {
		half = d.relabel(ctx, from.as("fe"))
		start = time.Now()
	})
	switch took := time.Since(start); {
	case half != nil:
		return half
	case err == nil:
		return fmt.Errorf("the connection from %s to %s went on though it is no longer allowed", from.name, to.name)
	case took > 10*time.Second:
		return fmt.Errorf("the connection ended %s after the rules had changed, not at once: %w", took.Round(time.Millisecond), err)
	default:
		d.detail("its connection is cut: %s", reason(err))
		return nil
	}
}

// relabel gives a pod the labels of another role, and returns when all nodes
// know.
func (d *demo) relabel(ctx context.Context, t tier) error {
	p, err := t.cast().object()
	if err != nil {
		return err
	}
	if err := d.stage.Apply(ctx, &cluster.Objects{Pods: []*cluster.Pod{p}}); err != nil {
		return err
	}
	return d.stage.InForce(ctx)
}
