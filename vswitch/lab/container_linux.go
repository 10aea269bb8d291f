package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// container runs one container of a pod: one process after the other, as the
// restart policy says.
type container struct {
	pod   *pod
	index int  // in its list of the pod
	init  bool // which list: InitContainers or Containers
	spec  cluster.Container

	// Guarded by pod.mu.
	status  cluster.ContainerStatus
	started bool   // running, and by its startup probe, if it has one
	problem string // why it does not run or is not ready, a sentence; empty while it is well
	proc    *process
	log     *logFile // of the current run, or the last
	prev    *logFile // of the run before
	run     int
	backoff backoff
}

// loop runs the container until it has ended for good or ctx ends, and returns
// its last exit code. Then no process of it is left.
func (c *container) loop(ctx context.Context, policy cluster.RestartPolicy) int {
	code := 0
	for run := 0; ctx.Err() == nil; run++ {
		c.pod.mu.Lock()
		c.status.Restarts = run // while it waits for the next one, that does not count
		c.pod.mu.Unlock()
		started := time.Now()
		var again bool
		code, again = c.runOnce(ctx)
		if ctx.Err() != nil || policy == cluster.RestartNever || policy == cluster.RestartOnFailure && code == 0 && !again {
			return code
		}
		c.pod.mu.Lock()
		wait := c.backoff.next(time.Since(started))
		if wait > 0 {
			c.status.Reason = "CrashLoopBackOff"
			c.problem += "; next try at " + time.Now().Add(wait).Format(time.TimeOnly)
		}
		c.pod.mu.Unlock()
		if wait > 0 {
			c.warn(eventBackOff, "Back-off restarting failed container %s", c.spec.Name)
		}
		c.pod.publish()
		sleep(ctx, wait)
	}
	return code
}

// runOnce runs one process to its end and returns its exit code, ExitNotStarted
// if it could not be started. When ctx ends, the process is told to end; when a
// probe finds that it must, too, and then it is to run again.
func (c *container) runOnce(ctx context.Context) (code int, again bool) {
	proc, err := c.start()
	if err != nil {
		c.warn(eventNoStart, "Error: %v", err)
		c.finish(exitStatus{Code: ExitNotStarted}, "StartError", err.Error())
		return ExitNotStarted, false
	}
	alive, over := context.WithCancel(context.Background())
	defer over()
	ill, probed := c.watch(alive, ctx)
	why := ""
	select {
	case <-proc.done:
	case <-ctx.Done():
		c.pod.log.Info("container is told to end", "container", c.spec.Name)
		c.note(eventKilling, "Stopping container %s", c.spec.Name)
		c.end(proc, c.pod.grace())
	case i := <-ill:
		c.pod.log.Warn("container must end", "container", c.spec.Name, "why", i.why)
		c.note(eventKilling, "Stopping container %s: %s", c.spec.Name, i.why)
		why = i.why
		c.end(proc, i.grace)
	}
	proc.killRest()
	// All that it wrote is in its log before the next run begins another, unless
	// a process that got away keeps the pipe open.
	select {
	case <-proc.logged:
	case <-time.After(time.Second):
	}
	over()
	<-probed
	word := "Error"
	if proc.result.Code == 0 {
		word = "Completed"
	}
	c.finish(proc.result, word, proc.result.Reason)
	if why != "" {
		c.change(func() { c.problem = fmt.Sprintf("container %s: %s", c.spec.Name, why) })
	}
	return proc.result.Code, why != ""
}

// start starts the container's process and its log.
func (c *container) start() (*process, error) {
	log, err := c.newLog()
	if err != nil {
		return nil, err
	}
	spec := c.processSpec()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	stdio := [3]*os.File{null}
	var copies sync.WaitGroup
	for i, stream := range []string{"stdout", "stderr"} {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		defer w.Close()
		stdio[i+1] = w
		copies.Go(func() {
			log.copy(stream, r)
			r.Close()
		})
	}
	// The log ends with the last process that can write to it.
	logged := make(chan struct{})
	defer func() {
		go func() {
			copies.Wait()
			log.end()
			close(logged)
		}()
	}()
	proc, err := startProcess(c.pod.ns, spec, stdio, false)
	if err != nil {
		log.note("%v", err)
		return nil, err
	}
	proc.logged = logged
	c.pod.mu.Lock()
	c.proc = proc
	if c.spec.PostStart == nil {
		c.runs()
	} else {
		c.status.Reason, c.problem = "ContainerCreating", fmt.Sprintf("container %s: its postStart handler has not ended yet", c.spec.Name)
	}
	c.pod.mu.Unlock()
	c.pod.log.Info("container started", "container", c.spec.Name, "pid", proc.pid())
	c.note(eventStarted, "Started container %s", c.spec.Name)
	c.pod.publish()
	return proc, nil
}

// runs notes that the container runs. Called with the pod's mu held.
func (c *container) runs() {
	c.problem = ""
	c.started = c.spec.Startup == nil
	c.status.Running, c.status.Ready = true, c.started && c.spec.Readiness == nil
	c.status.Started, c.status.Reason = time.Now(), ""
}

// newLog begins the log of the next run and drops that of the run before the
// last.
func (c *container) newLog() (*logFile, error) {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	log, err := newLogFile(filepath.Join(c.pod.dir, "log", c.spec.Name, strconv.Itoa(c.run)+".log"))
	if err != nil {
		return nil, err
	}
	if c.prev != nil {
		c.prev.remove()
	}
	if c.log != nil {
		c.log.end()
	}
	c.prev, c.log = c.log, log
	c.run++
	return log, nil
}

// finish notes how a run ended.
func (c *container) finish(result exitStatus, word, sentence string) {
	c.pod.mu.Lock()
	c.proc = nil
	c.status.Running, c.status.Ready, c.started = false, false, false
	c.status.Finished, c.status.ExitCode, c.status.Reason = time.Now(), result.Code, word
	c.problem = fmt.Sprintf("container %s: %s", c.spec.Name, sentence)
	if result.Code == 0 {
		c.problem = ""
	}
	c.pod.mu.Unlock()
	c.pod.log.Info("container ended", "container", c.spec.Name, "why", sentence)
	c.pod.publish()
}

// processSpec is the container's process, with the pod's present addresses in
// its variables.
func (c *container) processSpec() processSpec {
	p := c.pod
	resolved := p.resolved()
	list := resolved.Containers
	if c.init {
		list = resolved.InitContainers
	}
	spec := &list[c.index]
	s := p.processSpec(spec)
	s.Command = spec.Command
	if len(s.Command) == 0 {
		s.BuiltIn = &builtIn{Pod: p.key().String(), Node: p.spec.Node}
		for _, port := range spec.Ports {
			switch port.Protocol {
			case packet.ProtoTCP:
				s.BuiltIn.TCP = append(s.BuiltIn.TCP, port.Port)
			case packet.ProtoUDP:
				s.BuiltIn.UDP = append(s.BuiltIn.UDP, port.Port)
			case packet.ProtoSCTP:
				s.BuiltIn.SCTP = append(s.BuiltIn.SCTP, port.Port)
			}
		}
	}
	return s
}

// processSpec is what every process of a container has: those of its command
// and those of exec.
func (p *pod) processSpec(c *cluster.Container) processSpec {
	s := processSpec{Hostname: hostName(p.spec), Etc: p.etc, Dir: c.WorkingDir, FallbackDir: p.sup.options.Dir}
	if s.Dir != "" && !filepath.IsAbs(s.Dir) {
		s.Dir = filepath.Join(p.sup.options.Dir, s.Dir)
	}
	s.UID = int(firstSet(c.RunAsUser, p.spec.RunAsUser))
	s.GID = int(firstSet(c.RunAsGroup, p.spec.RunAsGroup))
	s.Env = append([]string{
		"PATH=" + p.sup.options.Path,
		"HOSTNAME=" + s.Hostname,
		"HOME=" + homeOf(s.UID, p.sup.options.Home),
	}, c.Env...)
	return s
}

func firstSet(ids ...*int64) int64 {
	for _, id := range ids {
		if id != nil {
			return *id
		}
	}
	return 0
}

// homeOf returns the home directory of a user of a container: for root, who is
// the user that started the cluster, that user's.
func homeOf(uid int, own string) string {
	if uid == 0 && own != "" {
		return own
	}
	passwd, _ := os.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(passwd)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) == 7 && f[2] == strconv.Itoa(uid) {
			return f[5]
		}
	}
	return "/"
}

// logOf returns the log of the current run, or of the one before.
func (c *container) logOf(previous bool) (*logFile, error) {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	log, what := c.log, "has not started yet"
	if previous {
		log, what = c.prev, "was never restarted"
	}
	if log == nil {
		return nil, failure(ErrConflict, "container %s of pod %s %s", c.spec.Name, c.pod.key(), what)
	}
	return log, nil
}
