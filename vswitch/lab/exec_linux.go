package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// exec runs commands in pods and nodes. The caller connects to a unix socket of its own,
// sends an ExecRequest with its standard input, output and error attached
// (SCM_RIGHTS), then signals to forward, and receives an execReply when the
// command has ended. The command reads and writes the caller's files itself;
// nothing is copied. If the caller goes away, the command is ended.

// execSignal is what the caller sends after its request.
type execSignal struct {
	Signal int `json:"signal"`
}

// execReply ends the conversation.
type execReply struct {
	Code   int    `json:"code"`            // of a command that did not start: see Client.Exec
	Error  string `json:"error,omitempty"` // it did not start
	Status int    `json:"status,omitempty"`
}

// hangupGrace is how long a command has to end after its caller went away.
const hangupGrace = 2 * time.Second

func (s *supervisor) serveExec(l *net.UnixListener) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(50 * time.Millisecond)
			continue
		}
		go s.execConn(conn)
	}
}

func (s *supervisor) execConn(conn *net.UnixConn) {
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	req, files, err := receiveExec(conn)
	conn.SetReadDeadline(time.Time{})
	if err != nil {
		closeAll(files)
		writeMessage(conn, execReply{Error: err.Error(), Status: statusOf(failure(ErrInput, ""))})
		return
	}
	proc, err := s.exec(req, [3]*os.File(files))
	closeAll(files)
	if err != nil {
		reply := execReply{Error: err.Error(), Status: statusOf(err)}
		if c := (*commandError)(nil); errors.As(err, &c) {
			reply.Code = c.code
		}
		writeMessage(conn, reply)
		return
	}
	defer proc.release()
	left := make(chan struct{})
	go func() {
		defer close(left)
		for {
			var m execSignal
			if readMessage(conn, &m) != nil {
				return
			}
			if m.Signal > 0 && m.Signal <= 64 {
				proc.signalGroup(syscall.Signal(m.Signal))
			}
		}
	}()
	select {
	case <-proc.done:
		writeMessage(conn, execReply{Code: proc.result.Code})
	case <-left:
		proc.signalGroup(unix.SIGHUP)
		proc.signalGroup(unix.SIGCONT)
		killWithin(proc.cmd.Process, hangupGrace, proc.done)
		proc.signalGroup(unix.SIGKILL)
	}
}

// exec starts a command in a container of a pod.
func (s *supervisor) exec(req ExecRequest, files [3]*os.File) (*process, error) {
	if len(req.Command) == 0 || req.Command[0] == "" {
		return nil, failure(ErrInput, "no command is given")
	}
	if req.Outside {
		return s.execOutside(req, files)
	}
	if req.Node != "" {
		return s.execInNode(req, files)
	}
	p, err := s.pod(req.Namespace, req.Pod)
	if err != nil {
		return nil, err
	}
	if p.spec.NodeServes != "" {
		return nil, failure(ErrConflict, "pod %s is served by node %s itself, and has no processes", p.key(), p.spec.Node)
	}
	c, err := p.container(req.Container)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	there, final, reason := p.attached || p.spec.HostNetwork, p.final, p.reason
	p.mu.Unlock()
	switch {
	case final != "":
		return nil, failure(ErrConflict, "pod %s has ended (%s)", p.key(), final)
	case !there || p.ctx.Err() != nil:
		return nil, failure(ErrConflict, "pod %s is not running: %s", p.key(), whyNotRunning(reason, p.ctx.Err() != nil))
	}
	spec := c.processSpec()
	spec.BuiltIn, spec.Command = nil, req.Command
	spec.Env = append(spec.Env, req.Env...)
	proc, err := startProcess(p.ns, spec, files, req.TTY)
	if err != nil {
		return nil, &kindError{fmt.Sprintf("exec in pod %s: %v", p.key(), err), errors.Join(ErrConflict, err)}
	}
	s.log.Debug("command runs in pod", "pod", p.key().String(), "command", req.Command, "pid", proc.pid())
	return proc, nil
}

// execInNode starts a command in a node's namespace.
func (s *supervisor) execInNode(req ExecRequest, files [3]*os.File) (*process, error) {
	n := s.node(req.Node)
	if n == nil {
		return nil, failure(ErrNotFound, "there is no node %s", req.Node)
	}
	n.mu.Lock()
	connected, problem := n.connected, n.problem
	n.mu.Unlock()
	if !connected {
		return nil, failure(ErrConflict, "node %s is not in the network yet: %s", req.Node, problem)
	}
	spec := s.placeSpec(n.name, n.space.etc, req)
	proc, err := startProcess(n.space.ns, spec, files, req.TTY)
	if err != nil {
		return nil, failure(ErrConflict, "exec in node %s: %v", req.Node, err)
	}
	return proc, nil
}

// execOutside starts a command as a client outside of the cluster.
func (s *supervisor) execOutside(req ExecRequest, files [3]*os.File) (*process, error) {
	ctx, cancel := context.WithTimeout(s.ctx, 15*time.Second)
	defer cancel()
	if err := s.outside.open(ctx); err != nil {
		return nil, failure(ErrConflict, "%v", err)
	}
	proc, err := startProcess(s.outside.ns, s.placeSpec("outside", "", req), files, req.TTY)
	if err != nil {
		return nil, failure(ErrConflict, "exec outside: %v", err)
	}
	return proc, nil
}

// placeSpec is a command that is in no pod.
func (s *supervisor) placeSpec(host, etc string, req ExecRequest) processSpec {
	spec := processSpec{Hostname: host, Etc: etc, FallbackDir: s.options.Dir, Command: req.Command}
	spec.Env = append([]string{"PATH=" + s.options.Path, "HOSTNAME=" + host, "HOME=" + homeOf(0, s.options.Home)}, req.Env...)
	return spec
}

// container returns a container by name, or the first one.
func (p *pod) container(name string) (*container, error) {
	if name == "" && len(p.mains) > 0 {
		return p.mains[0], nil
	}
	for _, c := range p.containers() {
		if c.spec.Name == name {
			return c, nil
		}
	}
	return nil, failure(ErrNotFound, "pod %s has no container %s", p.key(), name)
}

// receiveExec reads a request and the caller's three files.
func receiveExec(conn *net.UnixConn) (req ExecRequest, files []*os.File, err error) {
	// The files come with the first bytes, which are the length.
	head := make([]byte, 4)
	oob := make([]byte, unix.CmsgSpace(3*4))
	n, oobn, _, _, err := conn.ReadMsgUnix(head, oob)
	if err != nil {
		return req, nil, err
	}
	files = receivedFiles(oob[:oobn])
	if len(files) != 3 {
		return req, files, errors.New("standard input, output and error must come with the request")
	}
	return req, files, readMessage(&prefixed{head[:n], conn}, &req)
}

// prefixed reads some bytes that were read already, then the rest.
type prefixed struct {
	first []byte
	conn  net.Conn
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.first) > 0 {
		n := copy(b, p.first)
		p.first = p.first[n:]
		return n, nil
	}
	return p.conn.Read(b)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// whyNotRunning says why nothing runs in a pod, of which reason is what went
// wrong, if anything did.
func whyNotRunning(reason string, leaving bool) string {
	switch {
	case leaving:
		return "it is being deleted"
	case reason == "":
		return "it has no network yet"
	}
	return reason
}
