package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
)

// node keeps one node process running.
type node struct {
	sup    *supervisor
	name   string
	dir    string
	space  *space
	under  *underlay
	client *agent.Client
	out    *logFile
	log    *slog.Logger

	ctx  context.Context
	stop context.CancelFunc
	done chan struct{} // closed when the process is gone for good

	telling  sync.Mutex // held over a change and its report, so that reports keep their order
	mu       sync.Mutex
	changed  chan struct{} // closed and replaced when something below changes
	proc     *os.Process   // nil while none runs
	held     bool          // it must not be started
	ready    bool
	problem  string // why it is not ready
	restarts int
	// connected: the node's namespace has been attached, which outlives the process
	connected bool
	started   time.Time
	status    agent.Status
	answers   bool // it did when it was asked last
	// restored and joined are the lives in which it had its pods again, and in
	// which it and all others knew each other; lacks is what is missing for that.
	restored, joined, lacks string

	ask chan struct{} // has it asked at once how it is
}

func newNode(ctx context.Context, sup *supervisor, name string) (*node, error) {
	n := &node{sup: sup, name: name, dir: nodeDir(sup.dir, name), space: newSpace(sup.dir, name), changed: make(chan struct{}),
		done: make(chan struct{}), ask: make(chan struct{}, 1), log: sup.log.With("node", name), problem: "it is starting"}
	var err error
	if n.under, err = takeUnderlay(sup.random); err != nil {
		return nil, fmt.Errorf("node %s: %w", name, err)
	}
	if n.out, err = newLogFile(filepath.Join(n.dir, "node.log")); err != nil {
		n.under.close()
		return nil, fmt.Errorf("node %s: %w", name, err)
	}
	if err = n.space.open(); err != nil {
		n.out.end()
		n.under.close()
		return nil, fmt.Errorf("node %s: %w", name, err)
	}
	n.client = agent.NewClient(n.socket())
	n.ctx, n.stop = context.WithCancel(ctx)
	return n, nil
}

// nodeDir returns a node's directory. A long name is cut, because the path of
// a socket in it has at most 107 bytes.
func nodeDir(dir, name string) string {
	const room = 107 - len("/"+nodesDir+"/"+"/"+agent.SocketName)
	if left := room - len(dir); len(name) > left && left > 20 {
		name = shortName(name, left)
	}
	return filepath.Join(dir, nodesDir, name)
}

func (n *node) socket() string { return filepath.Join(n.dir, agent.SocketName) }

// writeConfig writes what the node process is told. It is written before each
// start, because the list of other nodes grows.
func (n *node) writeConfig() (string, error) {
	c := n.sup.options.Config
	c.Name, c.Cluster = n.name, n.sup.id
	c.RuntimeDir, c.StateDir = n.dir, filepath.Join(n.dir, "state")
	c.Control = filepath.Join(n.sup.dir, apiSocket)
	c.Overlay.Listen = n.under.vxlan
	c.Gossip = agent.GossipConfig{Listen: n.under.gossip, Join: n.sup.gossipAddrs(n.name), KeyFile: n.sup.keyFile()}
	if d := n.sup.options.DNS; d.Serve {
		c.DNS = agent.DNSConfig{Domain: d.Domain, Upstreams: d.Upstreams, ClusterOnly: d.ClusterOnly}
	}
	if spec := n.sup.store.State().Node(n.name); spec != nil {
		c.Labels, c.Addresses, c.ExtraAddresses, c.PodCIDRs = spec.Labels, spec.Addresses, spec.ExtraAddresses, spec.PodCIDRs
	}
	if err := c.Validate(); err != nil {
		return "", fmt.Errorf("configuration of node %s: %w", n.name, err)
	}
	data, err := yaml.Marshal(c)
	if err != nil {
		return "", err
	}
	path := filepath.Join(n.dir, "config.yaml")
	return path, os.WriteFile(path, data, 0o600)
}

// run keeps the process running until the node is told to stop.
func (n *node) run() {
	defer close(n.done)
	defer n.under.close()
	defer n.space.close(n.log)
	defer n.client.Close()
	defer n.out.end()
	again := nodeBackoff()
	for n.waitWanted() {
		began := time.Now()
		why := n.runOnce()
		wait := again.next(time.Since(began))
		n.update(func() {
			n.proc, n.ready, n.lacks, n.problem = nil, false, "", "its process ended: "+why
			n.restarts++
		})
		n.sup.meet()
		if n.ctx.Err() == nil {
			n.log.Warn("node ended", "why", why, "again in", wait)
			sleep(n.ctx, wait)
		}
	}
}

// waitWanted waits while the node is held and reports whether it should run.
func (n *node) waitWanted() bool {
	for {
		n.mu.Lock()
		held, changed := n.held, n.changed
		n.mu.Unlock()
		if n.ctx.Err() != nil {
			return false
		}
		if !held {
			return true
		}
		select {
		case <-n.ctx.Done():
		case <-changed:
		}
	}
}

// runOnce runs one process of the node to its end and says why it ended.
func (n *node) runOnce() string {
	config, err := n.writeConfig()
	if err != nil {
		return err.Error()
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err.Error()
	}
	cmd := exec.Command(self, "node", "--config", config)
	cmd.Args[0] = "vswitch"
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return err.Error()
	}
	go func() {
		n.out.copy("stderr", r)
		r.Close()
	}()
	n.update(func() { n.proc, n.started = cmd.Process, time.Now() })
	ended, watched := make(chan struct{}), make(chan struct{})
	watching, stopWatching := context.WithCancel(n.ctx)
	go func() {
		defer close(watched)
		n.watch(watching)
	}()
	go func() {
		select {
		case <-ended:
		case <-n.ctx.Done():
			if n.sup.ctx.Err() != nil { // all go down; there is nobody to take leave of
				cmd.Process.Kill()
				return
			}
			cmd.Process.Signal(unix.SIGTERM)
			killWithin(cmd.Process, 4*time.Second, ended)
		}
	}()
	cmd.Wait()
	close(ended)
	stopWatching()
	<-watched // what it said last must not be noted when it has ended
	status := unix.WaitStatus(cmd.ProcessState.Sys().(syscall.WaitStatus))
	if status.Signaled() {
		return describe(status) // what it said last has nothing to do with it
	}
	return describe(status) + n.lastWords()
}

// lastWords is the last line that the process wrote.
func (n *node) lastWords() string {
	var last lastLine
	n.out.read(context.Background(), &last, LogOptions{Tail: 1})
	if last == "" {
		return ""
	}
	return ": " + string(last)
}

// watch asks the node how it is until ctx ends, with its process.
func (n *node) watch(ctx context.Context) {
	wait := 20 * time.Millisecond
	for {
		status, err := n.askOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		n.see(status, err)
		switch {
		case err == nil && status.Ready && !n.sup.unmet():
			wait = 2 * time.Second
		case wait > time.Second:
			wait = 20 * time.Millisecond // there is another node to be met
		case wait < 200*time.Millisecond:
			wait *= 2
		}
		select {
		case <-ctx.Done():
			return
		case <-n.ask:
		case <-time.After(wait):
		}
	}
}

// askOnce asks the node how it is, and connects it when it is ready.
func (n *node) askOnce(ctx context.Context) (agent.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	status, err := n.client.Status(ctx)
	if err != nil || !status.Ready || n.notReady() == nil {
		return status, err
	}
	if err := n.connect(ctx); err != nil {
		status.Ready, status.Problems = false, []string{err.Error()}
	} else if now, err := n.client.Status(ctx); err == nil {
		status = now // what it lacked without its port, it has
	}
	return status, nil
}

// connect attaches the node's namespace to the switch, or confirms that it is.
func (n *node) connect(ctx context.Context) error {
	spec := n.sup.store.State().Node(n.name)
	if spec == nil || len(spec.Addresses) == 0 {
		return nil
	}
	if err := n.space.writeEtc(spec); err != nil {
		return err
	}
	if _, err := n.client.AttachOwn(ctx, agent.PortRequest{NetNS: n.space.ns}); err != nil {
		return err
	}
	n.update(func() { n.connected = true })
	if err := n.sup.outside.connect(ctx, n); err != nil {
		n.log.Warn("clients outside do not reach the node", "err", err)
	}
	return nil
}

// see notes what the node says of itself.
func (n *node) see(status agent.Status, err error) {
	n.mu.Lock()
	was := n.ready
	var known []string
	if was {
		known = n.status.Problems
	}
	n.mu.Unlock()
	if err == nil && status.Ready {
		n.warn(status.Problems, known)
	}
	n.update(func() {
		n.answers = err == nil
		if err != nil {
			// It may be busy; only the end of the process makes it not ready.
			if !n.ready {
				n.problem = "it does not answer yet"
			}
			return
		}
		n.status, n.ready, n.problem = status, status.Ready, ""
		if !status.Ready {
			n.problem = "it is starting"
			if len(status.Problems) > 0 {
				n.problem = status.Problems[0]
			}
		}
	})
	if err == nil && status.Ready && !was {
		n.log.Info("node is ready", "vtep", status.Underlay, "podCIDRs", status.PodCIDRs)
		go n.sup.restorePods(n, status.Life)
		n.sup.askAll()
	}
	n.sup.meet()
}

// update changes the node's state under its lock and tells those who wait. What is
// reported last is what the node is.
func (n *node) update(change func()) {
	n.telling.Lock()
	defer n.telling.Unlock()
	n.mu.Lock()
	change()
	close(n.changed)
	n.changed = make(chan struct{})
	seen := &cluster.Node{Meta: cluster.Meta{Name: n.name}}
	seen.Ready, seen.Reason = n.reported()
	if n.ready {
		seen.PodCIDRs, seen.Addresses, seen.Underlay = n.status.PodCIDRs, n.status.Addresses, n.status.Underlay
	}
	n.mu.Unlock()
	n.sup.reportNode(seen)
}

// reported is whether the node is called ready, and why not; called with mu held.
func (n *node) reported() (ready bool, why string) {
	if n.ready {
		if err := n.lack(); err != nil {
			return false, err.Error()
		}
	}
	return n.ready, n.problem
}

// notReady says why the node's process is not ready; nil if it is.
func (n *node) notReady() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ready {
		return nil
	}
	return fmt.Errorf("node %s is not ready: %s", n.name, n.problem)
}

// waitReady waits until the node answers, or ctx ends.
func (n *node) waitReady(ctx context.Context) error {
	for {
		n.mu.Lock()
		changed := n.changed
		n.mu.Unlock()
		err := n.notReady()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-n.done:
			return fmt.Errorf("node %s is gone", n.name)
		case <-changed:
		}
	}
}

// kill ends the process at once and returns when it is gone. It is started
// again unless hold is set.
func (n *node) kill(ctx context.Context, hold bool) error {
	n.mu.Lock()
	proc := n.proc
	n.held = n.held || hold
	n.mu.Unlock()
	if proc == nil {
		if hold {
			return nil
		}
		return failure(ErrConflict, "no process of node %s is running", n.name)
	}
	if err := proc.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill node %s: %w", n.name, err)
	}
	for {
		n.mu.Lock()
		same, changed := n.proc == proc, n.changed
		n.mu.Unlock()
		if !same {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// release lets a held node run again.
func (n *node) release() { n.update(func() { n.held = false }) }

// detach takes a pod off the node, if it can be told. A node that comes back
// later is told by restorePods.
func (n *node) detach(k cluster.Key) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := n.client.DetachPod(ctx, k.Namespace, k.Name); err != nil {
		n.log.Warn("pod is not detached", "pod", k.String(), "err", err)
	}
}

// gossipAddrs returns where other nodes are found, at most eight.
func (s *supervisor) gossipAddrs(except string) (addrs []netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		if n.name != except && len(addrs) < 8 {
			addrs = append(addrs, n.under.gossip)
		}
	}
	return addrs
}

// lastLine keeps the last line written to it.
type lastLine string

func (l *lastLine) Write(p []byte) (int, error) {
	*l = lastLine(strings.TrimSpace(string(p)))
	return len(p), nil
}
