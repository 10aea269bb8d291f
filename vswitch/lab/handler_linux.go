package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/netns"
)

// perform does what a handler of the container says, for a probe or a hook.
// Requests come from the node, commands run in the container.
func (c *container) perform(ctx context.Context, h *cluster.Handler) finding {
	switch {
	case len(h.Exec) > 0:
		return c.askCommand(ctx, h.Exec)
	case h.Sleep > 0:
		sleep(ctx, h.Sleep)
		return finding{outcome: healthy}
	}
	var host, name string
	var number uint16
	if h.HTTP != nil {
		host, number, name = h.HTTP.Host, h.HTTP.Port, h.HTTP.PortName
	} else if h.TCP != nil {
		host, number, name = h.TCP.Host, h.TCP.Port, h.TCP.PortName
	} else if h.GRPC != nil {
		number = h.GRPC.Port
	} else {
		return finding{noAnswer, "it says nothing to do"}
	}
	port, err := portNumber(&c.spec, number, name)
	if err != nil {
		return finding{noAnswer, err.Error()}
	}
	if host == "" {
		c.pod.mu.Lock()
		ips := c.pod.ips
		c.pod.mu.Unlock()
		if len(ips) == 0 {
			return finding{noAnswer, "the pod has no address yet"}
		}
		host = ips[0].String()
	}
	dial := newSpace(c.pod.sup.dir, c.pod.spec.Node).dial
	addr := net.JoinHostPort(host, strconv.Itoa(int(port)))
	switch {
	case h.TCP != nil:
		return askTCP(ctx, dial, addr)
	case h.GRPC != nil:
		return askGRPC(ctx, dial, h.GRPC.Service, addr)
	}
	return askHTTP(ctx, dial, h.HTTP, host, port)
}

// dial connects from the node's network. Names are looked up in the host's.
func (s *space) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	var ips []netip.Addr
	if ip, err := netip.ParseAddr(host); err == nil {
		ips = append(ips, ip)
	} else if ips, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
		return nil, err
	}
	for _, ip := range ips {
		// Of one address, the socket is made by this very goroutine.
		err = netns.Do(s.ns, func() (err error) {
			var d net.Dialer
			conn, err = d.DialContext(ctx, network, net.JoinHostPort(ip.Unmap().String(), port))
			return err
		})
		if err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// askCommand finds the container healthy if a command in it succeeds. One that
// cannot be started says nothing of the container.
func (c *container) askCommand(ctx context.Context, command []string) finding {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return finding{noAnswer, err.Error()}
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return finding{noAnswer, err.Error()}
	}
	defer r.Close()
	spec := c.processSpec()
	spec.BuiltIn, spec.Command = nil, command
	proc, err := startProcess(c.pod.ns, spec, [3]*os.File{null, w, w}, false)
	w.Close()
	if err != nil {
		return finding{noAnswer, err.Error()}
	}
	said := make(chan []byte, 1)
	go func() {
		var answer bytes.Buffer
		io.Copy(&answer, io.LimitReader(r, maxAnswer))
		io.Copy(io.Discard, r) // a full pipe would hold the command up
		said <- answer.Bytes()
	}()
	select {
	case <-proc.done:
	case <-ctx.Done():
		proc.cmd.Process.Kill()
	}
	proc.killRest()
	answer := <-said
	if proc.result.Code == 0 {
		return finding{outcome: healthy}
	}
	why := fmt.Sprintf("command %q: %s", command[0], proc.result.Reason)
	if line := firstLine(answer); line != "" {
		why += ": " + line
	}
	return finding{sick, why}
}

// illness is why a container must end.
type illness struct {
	why   string
	grace time.Duration
}

// watch runs the postStart handler of a run of the container, and then its probes,
// until alive ends. What the container must end for comes by the channel.
func (c *container) watch(alive, wanted context.Context) (end <-chan illness, done <-chan struct{}) {
	if c.spec.PostStart == nil {
		return c.probe(alive, wanted)
	}
	ill, ended := make(chan illness, 2), make(chan struct{})
	go func() {
		defer close(ended)
		ctx, cancel := context.WithCancel(alive)
		defer cancel()
		defer context.AfterFunc(wanted, cancel)()
		f := c.perform(ctx, c.spec.PostStart)
		switch {
		case ctx.Err() != nil: // it has ended, or is to end
			return
		case f.outcome != healthy:
			c.warn(eventPostStart, "PostStartHook failed: %s", f.why)
			ill <- illness{"its postStart handler failed: " + f.why, c.pod.grace()}
			return
		}
		c.change(c.runs)
		worse, probed := c.probe(alive, wanted)
		for {
			select {
			case i := <-worse:
				ill <- i
				continue
			case <-probed:
			}
			select {
			case i := <-worse:
				ill <- i
			default:
			}
			return
		}
	}()
	return ill, ended
}

// probe runs the probes of a run of the container until alive ends. What it
// must end for comes by the channel.
func (c *container) probe(alive, wanted context.Context) (end <-chan illness, done <-chan struct{}) {
	ill, ended := make(chan illness, 2), make(chan struct{})
	log := c.pod.log.With("container", c.spec.Name)
	lost := map[string]string{} // guarded by the pod's mu
	p := &prober{
		startup: c.spec.Startup, liveness: c.spec.Liveness, readiness: c.spec.Readiness, ask: c.perform,
		started: func() {
			log.Info("container has started by its startup probe")
			c.change(func() {
				c.started = true
				c.status.Ready = c.spec.Readiness == nil
			})
		},
		ready: c.setReady, failed: c.probeFailed,
		unhealthy: func(kind string, p *cluster.Probe, why string) {
			i := illness{why: fmt.Sprintf("its %s probe failed: %s", kind, why), grace: c.pod.grace()}
			if p.GracePeriod != nil {
				i.grace = min(*p.GracePeriod, i.grace)
				if c.pod.sup.ctx.Err() == nil {
					i.grace = *p.GracePeriod
				}
			}
			ill <- i
		},
		lost: func(kind, why string) {
			c.pod.mu.Lock()
			again := lost[kind] == why
			lost[kind] = why
			c.pod.mu.Unlock()
			if again {
				return
			}
			log.Warn("probe cannot be made", "probe", kind, "why", why)
			c.change(func() {
				if !c.status.Ready {
					c.problem = fmt.Sprintf("container %s: its %s probe cannot be made: %s", c.spec.Name, kind, why)
				}
			})
		},
	}
	go func() {
		defer close(ended)
		p.run(alive, wanted)
	}()
	return ill, ended
}

// probeFailed tells what a probe found that did not succeed, in the words of the
// kubelet (pkg/kubelet/prober/prober.go).
func (c *container) probeFailed(kind string, f finding) {
	kind = strings.ToUpper(kind[:1]) + kind[1:]
	if f.outcome == noAnswer {
		c.warn(eventUnhealthy, "%s probe errored and resulted in unknown state: %s", kind, f.why)
		return
	}
	c.warn(eventUnhealthy, "%s probe failed: %s", kind, f.why)
}

// setReady notes what the readiness probe found.
func (c *container) setReady(ok bool, why string) {
	problem := ""
	if !ok {
		problem = fmt.Sprintf("container %s: its readiness probe failed: %s", c.spec.Name, why)
	}
	c.pod.mu.Lock()
	same := c.status.Ready == ok && c.problem == problem
	c.pod.mu.Unlock()
	if same {
		return
	}
	c.pod.log.Info("container is ready", "container", c.spec.Name, "ready", ok, "why", why)
	c.change(func() { c.status.Ready, c.problem = ok, problem })
}

// change changes the state of the running container and tells the cluster.
func (c *container) change(f func()) {
	c.pod.mu.Lock()
	f()
	c.pod.mu.Unlock()
	c.pod.publish()
}

// leastGrace is what a preStop handler leaves of the grace period, at the least
// (pkg/kubelet/kuberuntime, minimumGracePeriodInSeconds).
const leastGrace = 2 * time.Second

// end runs the preStop handler, then tells the process to end, and kills it
// when both have taken as long as grace. It returns when nothing of it is left.
func (c *container) end(proc *process, grace time.Duration) {
	if c.spec.PreStop == nil || grace <= 0 {
		proc.stop(grace)
		return
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if sup := c.pod.sup.ctx; sup.Err() == nil {
		defer context.AfterFunc(sup, cancel)() // nobody has that much time any more
	}
	finished := make(chan finding, 1)
	go func() { finished <- c.perform(ctx, c.spec.PreStop) }()
	select {
	case f := <-finished:
		if f.outcome != healthy {
			c.pod.log.Warn("preStop handler failed", "container", c.spec.Name, "why", f.why)
			c.warn(eventPreStop, "PreStopHook failed: %s", f.why)
		}
	case <-proc.done:
		cancel()
		<-finished
	}
	grace -= time.Since(began)
	if c.pod.sup.ctx.Err() != nil {
		grace = min(grace, shutdownGrace)
	}
	proc.stop(max(grace, leastGrace))
}
