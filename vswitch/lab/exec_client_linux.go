package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Exec runs a command in a pod, or in a node's namespace, with the caller's files as its standard input,
// output and error, and returns its exit code: 128 and the signal's number if
// a signal ended it. An error says that it did not start, or was lost; with it,
// the code is 127 if there is no such command, 126 if it cannot be executed, and
// 0 in all other cases.
//
// Without a terminal of its own (ExecRequest.TTY), the command receives the
// signals that this process gets meanwhile: INT, TERM, HUP, QUIT, USR1, USR2
// and CONT. The end of ctx hangs up, which ends the command; a caller whose ctx
// ends with a signal should pass context.WithoutCancel.
func (c *Client) Exec(ctx context.Context, r ExecRequest, stdin, stdout, stderr *os.File) (int, error) {
	files := [3]*os.File{stdin, stdout, stderr}
	var tty *terminal
	if r.TTY = r.TTY && stdin != nil && term.IsTerminal(int(stdin.Fd())); r.TTY {
		var err error
		if tty, err = newTerminal(stdin, stdout); err != nil {
			return 0, err
		}
		defer tty.close()
		files = [3]*os.File{tty.slave, tty.slave, tty.slave}
		r.Env = append([]string{"TERM=" + os.Getenv("TERM")}, r.Env...)
	}
	conn, err := c.dialExec(ctx, r, files)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if tty != nil {
		tty.start()
	} else {
		defer forwardSignals(conn)()
	}
	var reply execReply
	if err := readMessage(conn, &reply); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return 0, fmt.Errorf("the command in %s was lost: %w", r.where(), err)
	}
	if reply.Error != "" {
		return reply.Code, errorOf(reply.Status, reply.Error)
	}
	return reply.Code, nil
}

// dialExec connects and sends the request with the files.
func (c *Client) dialExec(ctx context.Context, r ExecRequest, files [3]*os.File) (*net.UnixConn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(c.dir, execSocket))
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("cluster %s: %w", c.name, ErrNotRunning)
	}
	if err != nil {
		return nil, err
	}
	fds := make([]int, 3)
	for i, f := range files {
		if f == nil {
			if f, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
				conn.Close()
				return nil, err
			}
			defer f.Close()
		}
		fds[i] = int(f.Fd())
	}
	w := &rightsWriter{conn: conn.(*net.UnixConn), oob: unix.UnixRights(fds...)}
	if err := writeMessage(w, r); err != nil {
		conn.Close()
		return nil, err
	}
	return w.conn, nil
}

// rightsWriter attaches descriptors to the first bytes it writes.
type rightsWriter struct {
	conn *net.UnixConn
	oob  []byte
}

func (w *rightsWriter) Write(p []byte) (n int, err error) {
	if len(w.oob) > 0 {
		if n, _, err = w.conn.WriteMsgUnix(p, w.oob, nil); err != nil {
			return n, err
		}
		w.oob = nil
		if n == len(p) {
			return n, nil // not one more write, to a peer that may have answered and gone
		}
	}
	m, err := w.conn.Write(p[n:])
	return n + m, err
}

// forwardSignals passes on the signals of this process until stop is called.
func forwardSignals(conn net.Conn) (stop func()) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGCONT)
	go func() {
		for s := range signals {
			writeMessage(conn, execSignal{int(s.(syscall.Signal))})
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
	}
}

// terminal is a pseudo terminal between the caller's and the command.
type terminal struct {
	master, slave *os.File
	in, out       *os.File
	old           *term.State
	resized       chan os.Signal
	drained       chan struct{} // closed when the command's output has been copied
}

func newTerminal(in, out *os.File) (*terminal, error) {
	if out == nil {
		out = in
	}
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a pseudo terminal: %w", err)
	}
	t := &terminal{master: os.NewFile(uintptr(fd), "/dev/ptmx"), in: in, out: out,
		resized: make(chan os.Signal, 1), drained: make(chan struct{})}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.master.Close()
		return nil, fmt.Errorf("unlock the pseudo terminal: %w", err)
	}
	// Not by its path: the /dev/pts mounted here may be that of a container.
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		t.master.Close()
		return nil, fmt.Errorf("open the pseudo terminal's other end: %w", errno)
	}
	t.slave = os.NewFile(slave, "/dev/pts")
	t.resize()
	return t, nil
}

// start begins to copy, once the command has its end.
func (t *terminal) start() {
	t.slave.Close()
	// Raw, so that keys like Ctrl-C reach the command's terminal.
	t.old, _ = term.MakeRaw(int(t.in.Fd()))
	signal.Notify(t.resized, unix.SIGWINCH)
	go func() {
		for range t.resized {
			t.resize()
		}
	}()
	go io.Copy(t.master, t.in)
	go func() {
		defer close(t.drained)
		io.Copy(t.out, t.master)
	}()
}

func (t *terminal) resize() {
	size, err := unix.IoctlGetWinsize(int(t.in.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return
	}
	if raw, err := t.master.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) })
	}
}

// close writes what is left of the output and gives the terminal back.
func (t *terminal) close() {
	t.slave.Close()
	signal.Stop(t.resized)
	close(t.resized)
	if t.old != nil {
		// A process that the command left behind may keep its end open.
		t.master.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		<-t.drained
		term.Restore(int(t.in.Fd()), t.old)
	}
	t.master.Close()
}
