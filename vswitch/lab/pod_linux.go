package lab

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
	"vswitch/vswitch/netns"
)

// pod runs one pod: its network namespace, its attachment to the switch of its
// node, and its containers. It ends when its processes have ended for good, or
// when it is told to.
type pod struct {
	sup  *supervisor
	spec *cluster.Pod
	dir  string // logs and files of the pod
	ns   string // path of its network namespace: one of its own, or its node's
	etc  string // directory of its files in /etc
	log  *slog.Logger

	ctx  context.Context // ends when the pod is told to end
	stop context.CancelFunc
	done chan struct{} // closed when nothing of the pod is left

	leaving bool // leave was called; guarded by sup.mu

	inits, mains []*container // of which sidecars are inits

	wire sync.Mutex // held while the pod is attached again, or for the last time detached

	telling  sync.Mutex // held by publish, so that reports keep their order
	mu       sync.Mutex // guards what follows, and the containers' state
	ips      []netip.Addr
	attached bool
	ready    bool
	readyAt  time.Time
	started  time.Time
	reason   string           // why the pod as a whole does not run
	final    cluster.PodPhase // once all is over
}

func newPod(ctx context.Context, sup *supervisor, spec *cluster.Pod) *pod {
	name := spec.Namespace + "_" + spec.Name // neither may hold an underscore
	p := &pod{sup: sup, spec: spec, dir: filepath.Join(sup.dir, podsDir, name), done: make(chan struct{}),
		ns: filepath.Join(sup.dir, netnsDir, name), log: sup.log.With("pod", spec.Key().String())}
	p.ctx, p.stop = context.WithCancel(ctx)
	p.etc = filepath.Join(p.dir, "etc")
	if spec.HostNetwork {
		p.ns = newSpace(sup.dir, spec.Node).ns
	}
	for i, c := range spec.InitContainers {
		p.inits = append(p.inits, &container{pod: p, index: i, init: true, spec: c, backoff: containerBackoff()})
	}
	for i, c := range spec.Containers {
		p.mains = append(p.mains, &container{pod: p, index: i, spec: c, backoff: containerBackoff()})
	}
	for _, c := range p.containers() {
		c.status.Name = c.spec.Name
	}
	return p
}

func (p *pod) key() cluster.Key         { return p.spec.Key() }
func (p *pod) containers() []*container { return slices.Concat(p.inits, p.mains) }

// run lives as long as the pod.
func (p *pod) run() {
	defer close(p.done)
	p.publish()
	if !p.prepare() {
		// it was told to end before it began
	} else if p.spec.NodeServes != "" {
		p.served()
	} else {
		phase := p.runContainers()
		if p.ctx.Err() == nil {
			p.log.Info("pod ended", "phase", phase)
			p.mu.Lock()
			p.final = phase
			p.mu.Unlock()
		}
	}
	p.release()
	p.publish()
}

// prepare gives the pod its namespace and addresses. It tries until it
// succeeds, and returns false if the pod was told to end before.
func (p *pod) prepare() bool {
	wait := 100 * time.Millisecond
	for p.ctx.Err() == nil {
		err := p.tryPrepare()
		p.mu.Lock()
		p.reason = ""
		if err != nil {
			p.reason = err.Error()
		}
		p.mu.Unlock()
		if err == nil {
			return true
		}
		p.log.Warn("pod cannot start yet", "err", err)
		if p.ctx.Err() == nil {
			p.warn(eventNoNetwork, "%v", err)
		}
		p.publish()
		sleep(p.ctx, wait)
		wait = min(2*wait, 5*time.Second)
	}
	return false
}

func (p *pod) tryPrepare() error {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	if !p.spec.HostNetwork && p.spec.NodeServes == "" {
		if err := makeNS(p.ns); err != nil {
			return err
		}
	}
	n := p.sup.node(p.spec.Node)
	if n == nil {
		return fmt.Errorf("its node %s does not exist; add it, or delete the pod", p.spec.Node)
	}
	if err := n.waitReady(p.ctx); err != nil {
		return err
	}
	if p.spec.HostNetwork {
		p.adopt()
	} else if err := p.attach(n, p.spec.IPs); err != nil {
		return err
	}
	if p.spec.NodeServes != "" {
		return nil // nothing of it looks at files
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return writeEtc(p.etc, p.spec, p.ips, p.sup.options.DNS.Domain, control.NameServers(p.sup.store.State()))
}

// adopt gives a pod of the node's network the node's addresses.
func (p *pod) adopt() {
	if n := p.sup.store.State().Node(p.spec.Node); n != nil {
		p.mu.Lock()
		p.ips = n.Addresses
		p.mu.Unlock()
	}
}

// attach connects the pod to its node's switch, or confirms that it is.
func (p *pod) attach(n *node, ips []netip.Addr) error {
	ctx, cancel := context.WithTimeout(p.ctx, 15*time.Second)
	defer cancel()
	status, err := n.client.AttachPod(ctx, agent.PodRequest{Namespace: p.spec.Namespace, Name: p.spec.Name,
		UID: p.spec.UID, Labels: p.spec.Labels, PortSpec: p.port(), IPs: ips})
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attached = true
	p.ips = status.IPs
	return nil
}

// port is the pod's in the switch: a device in its namespace, or what its node
// serves.
func (p *pod) port() agent.PortSpec {
	if p.spec.NodeServes == cluster.ServeDNS {
		return agent.PortSpec{Kind: agent.PortDNS}
	}
	return agent.PortSpec{NetNS: p.ns}
}

// served lives as long as a pod that its node serves. Its node's process is all
// that runs of it.
func (p *pod) served() {
	p.mu.Lock()
	for _, c := range p.mains {
		c.status.Running, c.status.Ready, c.status.Started, c.started = true, true, time.Now(), true
	}
	p.mu.Unlock()
	p.publish()
	<-p.ctx.Done()
}

// reattach makes a node that came back confirm the pod. It tries until it
// succeeds, or the node is gone again.
func (p *pod) reattach(n *node) {
	for wait := 100 * time.Millisecond; p.ctx.Err() == nil && n.notReady() == nil; wait = min(2*wait, 5*time.Second) {
		if p.tryReattach(n) == nil {
			return
		}
		sleep(p.ctx, wait)
	}
}

func (p *pod) tryReattach(n *node) error {
	p.wire.Lock()
	defer p.wire.Unlock()
	p.mu.Lock()
	attached, ips := p.attached, p.ips
	p.mu.Unlock()
	if !attached || p.ctx.Err() != nil {
		return nil
	}
	err := p.attach(n, ips)
	p.mu.Lock()
	p.reason = ""
	if err != nil {
		p.reason = fmt.Sprintf("its node came back without it: %v", err)
		p.log.Error("pod is not attached again", "err", err)
		p.warn(eventNetwork, "%s", p.reason)
	}
	p.mu.Unlock()
	p.publish()
	return err
}

// runContainers runs all containers to their ends and returns the final phase.
func (p *pod) runContainers() cluster.PodPhase {
	// Sidecars serve the others, so they are told to end after them.
	sidecars, stopSidecars := context.WithCancel(context.WithoutCancel(p.ctx))
	var wg, sidecarWG sync.WaitGroup
	defer sidecarWG.Wait()
	defer stopSidecars()

	initPolicy := p.spec.RestartPolicy
	if initPolicy == cluster.RestartAlways {
		initPolicy = cluster.RestartOnFailure
	}
	for _, c := range p.inits {
		if c.spec.Sidecar {
			sidecarWG.Go(func() { c.loop(sidecars, cluster.RestartAlways) })
			p.waitStarted(c)
		} else if code := c.loop(p.ctx, initPolicy); code != 0 {
			return cluster.PodFailed
		}
	}
	codes := make([]int, len(p.mains))
	for i, c := range p.mains {
		wg.Go(func() { codes[i] = c.loop(p.ctx, p.spec.RestartPolicy) })
	}
	wg.Wait()
	if slices.ContainsFunc(codes, func(code int) bool { return code != 0 }) {
		return cluster.PodFailed
	}
	return cluster.PodSucceeded
}

func (p *pod) waitStarted(c *container) {
	for p.ctx.Err() == nil {
		p.mu.Lock()
		started := c.status.Running && c.started
		p.mu.Unlock()
		if started {
			return
		}
		sleep(p.ctx, 20*time.Millisecond)
	}
}

// release gives back all that the pod had but its logs.
func (p *pod) release() {
	if p.spec.HostNetwork {
		return // the namespace is the node's, and others live in it
	}
	// What left its container's namespaces is still in the pod's.
	if inode := inodeOf(p.ns); inode != 0 {
		killMembers("net", inode)
	}
	p.wire.Lock()
	defer p.wire.Unlock()
	p.mu.Lock()
	attached := p.attached
	p.attached, p.ips = false, nil
	p.mu.Unlock()
	if n := p.sup.node(p.spec.Node); attached && n != nil {
		n.detach(p.key())
	}
	if err := netns.Delete(p.ns); err != nil {
		p.log.Error("namespace stays", "err", err)
	}
}

// grace is how long a process of the pod has to end after SIGTERM.
func (p *pod) grace() time.Duration {
	if p.sup.ctx.Err() != nil {
		return min(p.spec.GracePeriod, shutdownGrace)
	}
	return p.spec.GracePeriod
}

// resolved is the pod with its present addresses and all variables expanded.
func (p *pod) resolved() *cluster.Pod {
	spec := *p.spec
	p.mu.Lock()
	spec.IPs = p.ips
	p.mu.Unlock()
	return spec.Resolve(p.sup.store.State().Node(p.spec.Node))
}

// publish tells the cluster how the pod is.
func (p *pod) publish() {
	p.telling.Lock()
	defer p.telling.Unlock()
	p.mu.Lock()
	seen := &cluster.Pod{
		Meta: cluster.Meta{Namespace: p.spec.Namespace, Name: p.spec.Name, UID: p.spec.UID},
		Node: p.spec.Node, IPs: slices.Clone(p.ips), Phase: p.phase(), Reason: p.reason, BuiltIn: p.spec.BuiltIn,
	}
	ready := len(p.mains) > 0
	for _, c := range p.containers() {
		seen.Statuses = append(seen.Statuses, c.status)
		seen.Restarts += c.status.Restarts
		ready = ready && (c.status.Ready || c.init && !c.spec.Sidecar)
		if seen.Reason == "" {
			seen.Reason = c.problem
		}
		if c.status.Running && p.started.IsZero() {
			p.started = c.status.Started
		}
	}
	if ready != p.ready {
		p.ready, p.readyAt = ready, time.Now()
	}
	seen.Ready, seen.ReadyAt, seen.Started = p.ready, p.readyAt, p.started
	p.mu.Unlock()
	p.sup.reportPod(p, seen)
}

// phase is the pod's phase by the rules of the kubelet (getPhase in
// pkg/kubelet/kubelet_pods.go); called with mu held.
func (p *pod) phase() cluster.PodPhase {
	if p.final != "" {
		return p.final
	}
	for _, c := range p.inits {
		if !c.spec.Sidecar && (c.status.Finished.IsZero() || c.status.ExitCode != 0) {
			return cluster.PodPending
		}
	}
	waiting := 0
	for _, c := range p.mains {
		if c.status.Running || !c.status.Started.IsZero() {
			continue
		}
		waiting++
	}
	if waiting > 0 || len(p.mains) == 0 {
		return cluster.PodPending
	}
	return cluster.PodRunning
}
