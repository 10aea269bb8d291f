package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/agent"
)

// downTimeout bounds how long a cluster has to go down: the grace of pods,
// then that of nodes, and some time for a busy machine.
const downTimeout = 20 * time.Second

// holder is what the caller of Start has of the cluster's processes.
type holder struct {
	cmd    *exec.Cmd // init
	conn   net.Conn
	exited chan struct{} // closed when init ended and nothing is left
	status error         // how init ended; valid after exited

	attended chan struct{} // closed when the cluster has no more to say
	last     error         // what it said last; valid after attended
}

// Start starts a cluster and waits until its nodes are ready and its pods have
// started, or cannot. The cluster lives until Down, and unless o.Detach is set,
// no longer than the calling process or the Client.
//
// It fails with ErrRunning if there is one of that name, and with ErrInput if
// the options or objects are at fault; then nothing is left of it.
func Start(ctx context.Context, o Options) (*Client, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	if err := checkMachine(); err != nil {
		return nil, err
	}
	d, err := lockRunDir(o.Name)
	if err != nil {
		return nil, err
	}
	h, err := launch(d)
	d.lock.Close() // the cluster has it
	if err != nil {
		return nil, err
	}
	if err := writeMessage(h.conn, message{Options: &o}); err != nil {
		h.hangUp()
		return nil, fmt.Errorf("cluster %s: %w", o.Name, err)
	}
	stop := context.AfterFunc(ctx, func() { h.conn.Close() })
	err = h.follow(o.Progress)
	if !stop() && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		h.hangUp()
		if !errors.Is(err, ErrInput) { // which names what is at fault itself
			err = fmt.Errorf("cluster %s did not start: %w", o.Name, err)
		}
		return nil, err
	}
	c := newClient(o.Name, d.path)
	if !o.Detach {
		c.held = h
		return c, nil
	}
	err = writeMessage(h.conn, message{Detach: true})
	h.conn.Close()
	return c, err
}

// fill sets what the caller left open, and refuses what no node would accept.
func (o *Options) fill() error {
	if err := checkName(o.Name); err != nil {
		return failure(ErrInput, "%v", err)
	}
	if err := o.recall(); err != nil {
		return err
	}
	if o.DNS.Domain == "" {
		o.DNS.Domain = "cluster.local"
	}
	c := o.Config
	c.Name, c.RuntimeDir, c.StateDir = "node", "/", "/" // each node has its own
	c.DNS = agent.DNSConfig{Domain: o.DNS.Domain, Upstreams: o.DNS.Upstreams, ClusterOnly: o.DNS.ClusterOnly}
	if err := c.Validate(); err != nil {
		return failure(ErrInput, "%v", err)
	}
	if o.Dir == "" {
		var err error
		if o.Dir, err = os.Getwd(); err != nil {
			o.Dir = "/" // it was removed under us
		}
	}
	if o.Path == "" {
		o.Path = os.Getenv("PATH")
		// Where ip, ping and the like are, which users often have not in theirs.
		for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
			if !strings.Contains(":"+o.Path+":", ":"+dir+":") {
				o.Path = strings.TrimPrefix(o.Path+":"+dir, ":")
			}
		}
	}
	if o.Home == "" {
		o.Home = os.Getenv("HOME")
	}
	return nil
}

// launch starts init and looks after its end.
func launch(d *runDir) (*holder, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs, file := os.NewFile(uintptr(fds[1]), "conn"), os.NewFile(uintptr(fds[0]), "conn")
	defer theirs.Close()
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil {
		return nil, err
	}
	cmd, err := spawn(d, conn, theirs)
	if err != nil {
		conn.Close()
		d.remove()
		return nil, err
	}
	h := &holder{cmd: cmd, conn: conn, exited: make(chan struct{}), attended: make(chan struct{})}
	go func() {
		h.status = cmd.Wait()
		// Init cleans up; if it was killed, that is for us.
		removeStale(d.path)
		close(h.exited)
	}()
	return h, nil
}

// follow reads what the cluster says until it is ready or has failed.
func (h *holder) follow(progress func(string)) error {
	for {
		var m message
		if err := readMessage(h.conn, &m); err != nil {
			return errors.New("its supervisor ended")
		}
		switch {
		case m.Error != "" && m.Input:
			return failure(ErrInput, "%s", m.Error)
		case m.Error != "":
			return errors.New(m.Error)
		case m.Ready:
			go h.attend()
			return nil
		case m.Line != "" && progress != nil:
			progress(m.Line)
		}
	}
}

// attend keeps the reason of an unexpected end.
func (h *holder) attend() {
	defer close(h.attended)
	for {
		var m message
		if readMessage(h.conn, &m) != nil {
			return
		}
		if m.Error != "" {
			h.last = errors.New(m.Error)
		}
	}
}

// hangUp makes the cluster go down and returns when nothing of it is left.
func (h *holder) hangUp() {
	h.conn.Close()
	killWithin(h.cmd.Process, downTimeout, h.exited)
}

// Wait returns when the cluster that this process started is gone: with nil if
// it was taken down, with the reason otherwise.
func (c *Client) Wait() error {
	if c.held == nil {
		return errors.New("only the process that started a cluster and did not detach can wait for it")
	}
	h := c.held
	<-h.exited
	<-h.attended
	switch {
	case h.last != nil:
		return fmt.Errorf("cluster %s: %w", c.name, h.last)
	case h.status != nil:
		return fmt.Errorf("cluster %s: its first process ended: %w", c.name, h.status)
	}
	return nil
}

// Close lets go of the cluster. If this process started it and did not detach,
// the cluster goes down, and Close returns when it is gone.
func (c *Client) Close() {
	c.http.CloseIdleConnections()
	if c.held != nil {
		c.held.hangUp()
	}
}

// Down takes the cluster down and returns when nothing of it is left.
func (c *Client) Down(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	pid := c.supervisorPID()
	err := c.call(ctx, "POST", "/v1/down", nil, nil)
	if errors.Is(err, ErrNotRunning) {
		removeStale(c.dir)
		return err
	}
	if ctx.Err() != nil && pid > 0 {
		// It hangs. Init cleans up after it.
		unix.Kill(pid, unix.SIGKILL)
	}
	// The answer, or the lack of it, comes before init has cleaned up.
	for range 500 {
		if _, err := os.Lstat(c.dir); errors.Is(err, fs.ErrNotExist) || !running(c.dir) {
			removeStale(c.dir)
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("cluster %s does not go down: %w", c.name, err)
}

// supervisorPID returns the process that serves the API, 0 if it is unknown.
func (c *Client) supervisorPID() int {
	conn, err := net.DialTimeout("unix", filepath.Join(c.dir, apiSocket), time.Second)
	if err != nil {
		return 0
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

// Open returns a client of a running cluster, or ErrNotRunning. What is left of
// one that crashed is removed.
func Open(name string) (*Client, error) {
	if err := checkName(name); err != nil {
		return nil, failure(ErrInput, "%v", err)
	}
	dir := filepath.Join(baseDir(), name)
	if !running(dir) {
		removeStale(dir)
		return nil, fmt.Errorf("cluster %s: %w", name, ErrNotRunning)
	}
	return newClient(name, dir), nil
}

// removeStale removes a runtime directory that nobody owns any more.
func removeStale(dir string) {
	if _, err := os.Lstat(dir); err != nil || !ownedByUs(dir) {
		return
	}
	lock, err := tryLock(dir)
	if err != nil {
		return
	}
	d := &runDir{dir, lock}
	d.remove()
	lock.Close()
}
