package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/fabric"
	"vswitch/vswitch/port"
	"vswitch/vswitch/stack"
)

// memoryPod is a netstack that answers its name, or one that the name server
// answers at. What its manifest says it should run is not looked at.
type memoryPod struct {
	*fabric.Pod
	port  port.Port
	stack *stack.Stack // nil: the name server's
	spec  *cluster.Pod
	leave *time.Timer // set when it is told to end
}

// follow makes the fabric's pods and services those of the store, until ctx ends.
func (m *memoryStage) follow(ctx context.Context) {
	w := m.control.Store().Watch()
	defer w.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.C():
		}
		changes := w.Next()
		m.mu.Lock()
		m.f.Follow(changes)
		m.names.Follow()
		var errs []error
		for p := range changes.To.Pods.All() {
			errs = append(errs, m.reconcile(p))
		}
		m.failed = errors.Join(append(errs, m.failed)...)
		m.mu.Unlock()
		m.followed.Store(changes.To.Revision)
	}
}

// reconcile starts a pod that should run, and ends one that should not. It is
// called with mu held.
func (m *memoryStage) reconcile(spec *cluster.Pod) error {
	p := m.pods[spec.Key()]
	switch {
	case p == nil && spec.Node != "" && spec.Deleted.IsZero():
		p, err := m.start(spec)
		if err != nil {
			return fmt.Errorf("pod %s: %w", spec.Key(), err)
		}
		m.pods[spec.Key()] = p
		return m.report(p)
	case p != nil && p.leave == nil && !spec.Deleted.IsZero():
		var wait time.Duration
		for _, c := range spec.Containers {
			if c.PreStop != nil {
				wait = max(wait, c.PreStop.Sleep)
			}
		}
		p.leave = time.AfterFunc(wait, func() { m.remove(p) })
	}
	return nil
}

// start attaches a pod to its node. It is called with mu held.
func (m *memoryStage) start(spec *cluster.Pod) (*memoryPod, error) {
	n := m.f.Node(spec.Node)
	if n == nil {
		return nil, fmt.Errorf("no node %s", spec.Node)
	}
	name := spec.Key().String()
	plan := n.Plan(name)
	cfg := stack.Config{Name: name, MAC: plan.MAC, Addrs: plan.IPs, Gateways: plan.Gateways, MTU: plan.MTU}
	if spec.NodeServes == cluster.ServeDNS {
		served, err := m.names.Open(cfg)
		if err != nil {
			return nil, err
		}
		return &memoryPod{Pod: plan, port: served, spec: spec}, plan.Attach(served)
	}
	s, err := stack.New(cfg)
	if err != nil {
		return nil, err
	}
	for _, port := range demoPorts {
		l, err := s.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return nil, err
		}
		go answer(l, name)
	}
	return &memoryPod{Pod: plan, port: s, stack: s, spec: spec}, plan.Attach(s)
}

// report says what became of a pod, as its node would: it is ready if it
// listens where its probes ask.
func (m *memoryStage) report(p *memoryPod) error {
	seen := &cluster.Pod{
		Meta: cluster.Meta{Namespace: p.spec.Namespace, Name: p.spec.Name, UID: p.spec.UID},
		Node: p.spec.Node, Phase: cluster.PodRunning, Ready: true, ReadyAt: time.Now(), Started: time.Now(),
	}
	for _, ip := range p.IPs {
		seen.IPs = append(seen.IPs, ip.Addr())
	}
	for _, c := range p.spec.Containers {
		if c.Readiness != nil && c.Readiness.TCP != nil && !slices.Contains(demoPorts, int(c.Readiness.TCP.Port)) {
			seen.Ready = false
		}
	}
	return m.control.Store().Update(cluster.Local, func(tx *cluster.Txn) error {
		tx.Put(seen)
		return nil
	})
}

// remove ends a pod and says that it is gone.
func (m *memoryStage) remove(p *memoryPod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pods[p.spec.Key()] != p {
		return
	}
	delete(m.pods, p.spec.Key())
	m.failed = errors.Join(m.failed, p.end(),
		m.control.Store().Update(cluster.Local, func(tx *cluster.Txn) error {
			tx.Delete(cluster.RefOf(p.spec))
			return nil
		}),
		m.control.PodGone(p.spec.Key(), p.spec.UID))
}

// end takes the pod off its node.
func (p *memoryPod) end() error {
	if p.leave != nil {
		p.leave.Stop()
	}
	p.Detach()
	return p.port.Close()
}
