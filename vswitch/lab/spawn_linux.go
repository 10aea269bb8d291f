package lab

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// self is this program, whatever happened to its file since it was started.
const self = "/proc/self/exe"

// Descriptors of the processes of a cluster beyond the standard ones.
const (
	fdConn = 3 // to the command that started the cluster
	fdLock = 4 // the lock of the runtime directory
)

// spawn starts the first process of a cluster: the init of a new PID namespace
// with mounts of its own, as root of a new user namespace if we are not root
// already. It stays in the host's network namespace. It gets theirs, the other
// end of ours, and shares the lock.
func spawn(d *runDir, ours io.Writer, theirs *os.File) (*exec.Cmd, error) {
	log, err := os.OpenFile(d.path+"/supervisor.log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID)
	if privileged() {
		return startInit(d, theirs, log, "init", &syscall.SysProcAttr{Cloneflags: flags})
	}
	flags |= unix.CLONE_NEWUSER
	if m := newIDMaps(); m != nil {
		cmd, err := startInit(d, theirs, log, "enter", &syscall.SysProcAttr{Cloneflags: flags})
		if err != nil {
			return nil, err
		}
		if err := m.write(cmd.Process.Pid); err == nil {
			return cmd, writeMessage(ours, message{Mapped: true})
		}
		// Subordinate ids are a luxury. The process has not touched anything.
		cmd.Process.Kill()
		cmd.Wait()
	}
	// The kernel lets everybody map one id: their own.
	return startInit(d, theirs, log, "init", &syscall.SysProcAttr{Cloneflags: flags,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
	})
}

func startInit(d *runDir, conn, log *os.File, stage string, attr *syscall.SysProcAttr) (*exec.Cmd, error) {
	attr.Setsid = true // Ctrl-C is for the command, which then says what to do
	cmd := exec.Command(self, Subcommand, stage, d.path)
	cmd.Args[0] = "vswitch"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{conn, d.lock}
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		return nil, explainNamespaces(err)
	}
	return cmd, nil
}

// privileged reports whether we may do all that a cluster does without a user
// namespace of our own.
func privileged() bool {
	if os.Geteuid() != 0 {
		return false
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, &data[0]) != nil {
		return false
	}
	for _, c := range []int{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_SETUID, unix.CAP_SETGID,
		unix.CAP_KILL, unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE} {
		if data[c/32].Effective&(1<<(c%32)) == 0 {
			return false
		}
	}
	return true
}

// idMaps are the ids of a user namespace whose root is us and whose others
// are the subordinate ids that the administrator gave us (subuid(5)).
type idMaps struct {
	uid, gid     []string // arguments of newuidmap and newgidmap after the pid
	uidBy, gidBy string   // the programs
}

// newIDMaps returns nil where there are no subordinate ids.
func newIDMaps() *idMaps {
	var m idMaps
	var err error
	if m.uidBy, err = exec.LookPath("newuidmap"); err != nil {
		return nil
	}
	if m.gidBy, err = exec.LookPath("newgidmap"); err != nil {
		return nil
	}
	if noNewPrivileges() {
		return nil // both programs are set-user-id
	}
	uid := strconv.Itoa(os.Geteuid())
	name := uid
	if u, err := user.LookupId(uid); err == nil {
		name = u.Username
	}
	if m.uid = mapArgs(os.Geteuid(), subIDs("/etc/subuid", uid, name)); m.uid == nil {
		return nil
	}
	if m.gid = mapArgs(os.Getegid(), subIDs("/etc/subgid", uid, name)); m.gid == nil {
		return nil
	}
	return &m
}

// write maps the ids of the user namespace of a process.
func (m *idMaps) write(pid int) error {
	for _, argv := range [][]string{append([]string{m.uidBy, strconv.Itoa(pid)}, m.uid...),
		append([]string{m.gidBy, strconv.Itoa(pid)}, m.gid...)} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", argv[0], err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

type idRange struct{ first, count int }

// subIDs returns the ranges that a file of subuid(5) gives to a user.
func subIDs(path, uid, name string) (rs []idRange) {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		f := strings.Split(strings.TrimSpace(s.Text()), ":")
		if len(f) != 3 || f[0] != uid && f[0] != name {
			continue
		}
		first, err1 := strconv.Atoi(f[1])
		count, err2 := strconv.Atoi(f[2])
		if err1 == nil && err2 == nil && first > 0 && count > 0 {
			rs = append(rs, idRange{first, count})
		}
	}
	return rs
}

// mapArgs maps 0 to our own id and 1 onwards to the ranges; nil without any.
func mapArgs(own int, rs []idRange) []string {
	if len(rs) == 0 {
		return nil
	}
	args := []string{"0", strconv.Itoa(own), "1"}
	next := 1
	for _, r := range rs {
		args = append(args, strconv.Itoa(next), strconv.Itoa(r.first), strconv.Itoa(r.count))
		next += r.count
	}
	return args
}

func noNewPrivileges() bool {
	v, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	return err != nil || v != 0
}
