package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Main is the program behind Subcommand: the processes of a cluster other than
// its nodes. It returns an exit code. Nobody but this package calls for it.
func Main(args []string) int {
	if len(args) < 1 {
		args = []string{""}
	}
	switch stage := args[0]; {
	case stage == "enter" && len(args) == 2:
		return enter(args[1])
	case stage == "init" && len(args) == 2:
		return runInit(args[1])
	case stage == "supervise" && len(args) == 2:
		return supervise(args[1])
	case stage == "shim" && len(args) == 1:
		return runShim()
	case stage == "probe" && len(args) == 1:
		return runProbe()
	}
	fmt.Fprintln(os.Stderr, "vswitch: this command is for vswitch itself; see vswitch help")
	return 2
}

// enter waits until its ids are mapped, and becomes root by running itself
// again: an exec without a mapped id drops all capabilities, and an exec as
// root of the namespace brings them back.
func enter(dir string) int {
	conn := os.NewFile(fdConn, "conn")
	var m message
	if err := readMessage(conn, &m); err != nil || !m.Mapped {
		return 1
	}
	err := syscall.Exec(self, []string{"vswitch", Subcommand, "init", dir}, os.Environ())
	writeMessage(conn, message{Error: fmt.Sprintf("run itself as root of the user namespace: %v", err)})
	return 1
}

// runInit is process 1 of the cluster's PID namespace. It starts the
// supervisor, collects orphans, and when the supervisor ends for whatever
// reason, ends everything and removes the runtime directory. If init itself is
// killed, the kernel kills all the others.
func runInit(path string) int {
	unix.CloseOnExec(fdConn)
	unix.CloseOnExec(fdLock)
	conn := os.NewFile(fdConn, "conn")
	d := &runDir{path, os.NewFile(fdLock, "lock")}
	defer d.remove()
	if err := ownMounts(); err != nil {
		writeMessage(conn, message{Error: explainNamespaces(err).Error()})
		return 1
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
	null, err := os.Open(os.DevNull)
	if err != nil {
		writeMessage(conn, message{Error: err.Error()})
		return 1
	}
	child, err := os.StartProcess(self, []string{"vswitch", Subcommand, "supervise", path}, &os.ProcAttr{
		Files: []*os.File{null, os.Stdout, os.Stderr, conn, d.lock},
	})
	if err != nil {
		writeMessage(conn, message{Error: err.Error()})
		return 1
	}
	pid := child.Pid
	go func() {
		for s := range signals {
			unix.Kill(pid, s.(syscall.Signal))
		}
	}()
	status := reapUntil(pid)
	endEverything()
	if status.ExitStatus() != 0 {
		why := "the supervisor ended unexpectedly: " + describe(status)
		if !status.Signaled() {
			why += lastLines(path) // who was killed does not know by whom
		}
		writeMessage(conn, message{Error: why})
		return 1
	}
	return 0
}

// reapUntil collects children, our own and adopted ones, until pid ended.
func reapUntil(pid int) unix.WaitStatus {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		if got == pid || errors.Is(err, unix.ECHILD) {
			return status
		}
	}
}

// endEverything kills all other processes of the namespace and waits for them.
func endEverything() {
	unix.Kill(-1, unix.SIGKILL)
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); errors.Is(err, unix.ECHILD) {
			return
		}
	}
}

// ownMounts keeps our mounts to ourselves and makes /proc show our processes.
func ownMounts() error {
	// Slave: what the user mounts later on the machine is seen here, too.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("separate mounts: %w", err)
	}
	// The kernel refuses this where parts of /proc are hidden, as in most
	// containers. The old one serves as well; members translates its ids.
	unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, "")
	return nil
}

// describe says how a process ended.
func describe(s unix.WaitStatus) string {
	if s.Signaled() {
		return "killed by " + unix.SignalName(s.Signal())
	}
	return fmt.Sprintf("exit code %d", s.ExitStatus())
}

// lastLines returns the end of the supervisor's log, for the one error message
// that outlives it.
func lastLines(dir string) string {
	log, err := os.ReadFile(filepath.Join(dir, "supervisor.log"))
	if err != nil || len(bytes.TrimSpace(log)) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return ":\n" + strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// killWithin sends SIGKILL to a process that has not ended after d.
func killWithin(p *os.Process, d time.Duration, ended <-chan struct{}) {
	select {
	case <-ended:
	case <-time.After(d):
		p.Kill()
		<-ended
	}
}
