package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/netns"
)

// processSpec is what the shim is told about the process it becomes.
type processSpec struct {
	Hostname string   `json:"hostname"`
	Etc      string   `json:"etc,omitempty"` // directory of files to be seen in /etc; empty: the host's
	Command  []string `json:"command,omitempty"`
	Env      []string `json:"env"`
	// Dir is the working directory. If it is empty, it is FallbackDir, or the
	// root if the user may not enter that.
	Dir         string `json:"dir,omitempty"`
	FallbackDir string `json:"fallbackDir,omitempty"`
	UID         int    `json:"uid"`
	GID         int    `json:"gid"`
	// BuiltIn is set in place of Command.
	BuiltIn *builtIn `json:"builtIn,omitempty"`
}

// process is a host process in a pod.
type process struct {
	cmd *exec.Cmd
	// mounts is its mount namespace, held open: the kernel gives the number
	// of one that is gone to the next one that is made.
	mounts *os.File
	done   chan struct{} // closed when it ended and result is set
	result exitStatus
	// logged is closed when all that it wrote is in its log; nil if it has none.
	logged chan struct{}
}

// exitStatus is how a process ended.
type exitStatus struct {
	Code   int    // 128 and the signal's number if one ended it
	Reason string // "exit code 1", "killed by SIGTERM"
}

// startProcess starts a process in a pod's network namespace and returns when
// it runs its command. tty says that stdin is a terminal of its own.
func startProcess(ns string, spec processSpec, stdio [3]*os.File, tty bool) (*process, error) {
	specR, specW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer specW.Close()
	reports, shimEnd, err := reportPair()
	if err != nil {
		specR.Close()
		return nil, err
	}
	defer reports.Close()

	cmd := exec.Command(self, Subcommand, "shim")
	cmd.Args[0] = "vswitch"
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio[0], stdio[1], stdio[2]
	cmd.ExtraFiles = []*os.File{specR, shimEnd}
	cmd.SysProcAttr = shimAttr(spec, tty)
	if ns == "" {
		err = cmd.Start()
	} else {
		// The child inherits the namespace of the thread that makes it.
		err = netns.Do(ns, cmd.Start)
	}
	specR.Close()
	shimEnd.Close()
	if err != nil {
		if cmd.SysProcAttr.Cloneflags&unix.CLONE_NEWUSER != 0 {
			err = explainNamespaces(err)
		}
		return nil, fmt.Errorf("start a process in the pod: %w", err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go p.wait()
	// A shim that dies closes its end, so this ends in any case.
	json.NewEncoder(specW).Encode(spec)
	specW.Close()
	mounts, problem := receiveReports(reports)
	p.mounts = mounts
	if problem != "" {
		p.killRest() // and so p.result is set
		if code := p.result.Code; code == exitCannotRun || code == exitNotFound {
			return nil, &commandError{code, problem}
		}
		return nil, errors.New(problem)
	}
	return p, nil
}

// shimAttr chooses the namespaces of a shim. A user that our own user
// namespace does not know gets one in which it is the only user.
func shimAttr(spec processSpec, tty bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true, Setctty: tty, Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWUTS}
	if !idMapped("/proc/self/uid_map", spec.UID) || !idMapped("/proc/self/gid_map", spec.GID) {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: spec.UID, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: spec.GID, Size: 1}}
		// Or else the exec of the shim, which is not root there, drops it.
		attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN}
	}
	return attr
}

// idMapped reports whether an id exists in the user namespace of a map file.
func idMapped(file string, id int) bool {
	data, err := os.ReadFile(file)
	if err != nil {
		return id == 0
	}
	f := strings.Fields(string(data))
	for ; len(f) >= 3; f = f[3:] {
		first, _ := strconv.Atoi(f[0])
		count, _ := strconv.Atoi(f[2])
		if id >= first && id-first < count {
			return true
		}
	}
	return false
}

func (p *process) wait() {
	p.cmd.Wait()
	status := unix.WaitStatus(p.cmd.ProcessState.Sys().(syscall.WaitStatus))
	p.result = exitStatus{status.ExitStatus(), describe(status)}
	if status.Signaled() {
		p.result.Code = 128 + int(status.Signal())
	}
	close(p.done)
}

// pid returns the process id in the cluster's namespace.
func (p *process) pid() int { return p.cmd.Process.Pid }

// signal sends a signal to the process and its group.
func (p *process) signalGroup(s syscall.Signal) { unix.Kill(-p.pid(), s) }

// stop asks the process to end, as the kubelet does, and kills it after grace.
// It returns when the process and all that it left behind are gone.
func (p *process) stop(grace time.Duration) {
	p.cmd.Process.Signal(unix.SIGTERM)
	p.cmd.Process.Signal(unix.SIGCONT) // a stopped one would never see it
	killWithin(p.cmd.Process, grace, p.done)
	p.killRest()
}

// killRest kills what the ended process left in its group and mount namespace.
// Only the owner of the process may call it, once or more.
func (p *process) killRest() {
	<-p.done
	p.signalGroup(unix.SIGKILL)
	if p.mounts != nil {
		killMembers("mnt", inodeOf(fmt.Sprintf("/proc/self/fd/%d", p.mounts.Fd())))
	}
	p.release()
}

// release lets go of the process's mount namespace.
func (p *process) release() {
	if p.mounts != nil {
		p.mounts.Close()
		p.mounts = nil
	}
}

// killMembers kills all processes in a namespace, also those born meanwhile.
func killMembers(kind string, inode uint64) {
	for range 200 {
		pids := members(kind, inode)
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// members returns the processes of our PID namespace that are in a namespace.
func members(kind string, inode uint64) (pids []int) {
	ours := nestedPID("self")
	if len(ours) == 0 {
		return nil
	}
	level := len(ours) - 1
	links, _ := filepath.Glob("/proc/[0-9]*/ns/" + kind)
	for _, link := range links {
		var st unix.Stat_t
		if unix.Stat(link, &st) != nil || st.Ino != inode {
			continue
		}
		// /proc may be that of a parent PID namespace.
		dir := strings.Split(link, "/")[2]
		if ids := nestedPID(dir); len(ids) > level && !ended(dir) {
			pids = append(pids, ids[level])
		}
	}
	return pids
}

// nestedPID returns the ids of a process in the PID namespaces from that of
// the mounted /proc inwards.
func nestedPID(dir string) (ids []int) {
	status, err := os.ReadFile("/proc/" + dir + "/status")
	if err != nil {
		return nil
	}
	_, rest, _ := strings.Cut(string(status), "\nNSpid:")
	line, _, _ := strings.Cut(rest, "\n")
	for _, f := range strings.Fields(line) {
		id, err := strconv.Atoi(f)
		if err != nil {
			return nil
		}
		ids = append(ids, id)
	}
	return ids
}

// ended reports whether a process is dead but not yet collected.
func ended(dir string) bool {
	stat, err := os.ReadFile("/proc/" + dir + "/stat")
	if err != nil {
		return true
	}
	// The name before the last parenthesis may hold anything.
	_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	return strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}

// inodeOf identifies a namespace by its file.
func inodeOf(path string) uint64 {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0
	}
	return st.Ino
}
