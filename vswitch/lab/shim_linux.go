package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The shim is the process of a container before it runs its command: in the
// pod's network namespace, and alone in a mount and UTS namespace. It makes
// them ready, becomes the wanted user, and executes the command.

const (
	fdSpec   = 3 // where the processSpec comes from
	fdReport = 4 // where reports go; closed by the exec
)

func runShim() int {
	unix.CloseOnExec(fdSpec)
	unix.CloseOnExec(fdReport)
	var spec processSpec
	specs := os.NewFile(fdSpec, "spec")
	if err := json.NewDecoder(specs).Decode(&spec); err != nil {
		return 1
	}
	specs.Close()
	err := becomeContainer(spec) // it is only back if it failed
	_ = report(err.Error(), nil) // the supervisor sees the exit code at least
	if c := (*commandError)(nil); errors.As(err, &c) {
		return c.code
	}
	return 1
}

// Exit codes for a command that cannot be run, as env(1) and shells have them
// (POSIX, Shell Command Language, 2.8.2).
const (
	exitCannotRun = 126
	exitNotFound  = 127
)

// commandError is why a command cannot be run.
type commandError struct {
	code    int
	message string
}

func (e *commandError) Error() string { return e.message }

func cannotRun(code int, format string, args ...any) error {
	return &commandError{code, fmt.Sprintf(format, args...)}
}

// becomeContainer returns only if it fails.
func becomeContainer(spec processSpec) error {
	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := containerMounts(spec.Etc); err != nil {
		return err
	}
	if err := sendMounts(); err != nil {
		return err
	}
	unix.Umask(0o022)
	if spec.BuiltIn != nil {
		spec.BuiltIn.openSCTP() // which not every user may
	}
	if err := becomeUser(spec.UID, spec.GID); err != nil {
		return err
	}
	if spec.BuiltIn != nil {
		return spec.BuiltIn.serve(func() { unix.Close(fdReport) })
	}
	if err := enterDir(spec); err != nil {
		return err
	}
	path, err := lookPath(spec.Command[0], spec.Env)
	if err != nil {
		return err
	}
	err = syscall.Exec(path, spec.Command, spec.Env)
	switch {
	case errors.Is(err, unix.ENOENT):
		return cannotRun(exitNotFound, "command %q: %s names an interpreter or loader that does not exist", spec.Command[0], path)
	case errors.Is(err, unix.ENOEXEC):
		return cannotRun(exitCannotRun, "command %q: %s is not a program for this machine", spec.Command[0], path)
	}
	return cannotRun(exitCannotRun, "command %q: %v", spec.Command[0], err)
}

func enterDir(spec processSpec) error {
	if spec.Dir == "" {
		if os.Chdir(spec.FallbackDir) == nil {
			return nil
		}
		return os.Chdir("/")
	}
	if err := os.Chdir(spec.Dir); err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	return nil
}

// becomeUser changes to a user and drops what root could do. In a user
// namespace of its own the process is that user already.
func becomeUser(uid, gid int) error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if os.Getuid() == uid && os.Getgid() == gid {
		return nil
	}
	// Where setgroups is denied there are no other groups to drop either:
	// those of the user who started us are theirs to keep.
	if v, err := os.ReadFile("/proc/self/setgroups"); err != nil || strings.TrimSpace(string(v)) != "deny" {
		if err := syscall.Setgroups([]int{}); err != nil {
			return fmt.Errorf("drop groups: %w", err)
		}
	}
	if err := syscall.Setgid(gid); err != nil {
		return fmt.Errorf("become group %d: %w", gid, err)
	}
	if err := syscall.Setuid(uid); err != nil {
		return fmt.Errorf("become user %d: %w", uid, err)
	}
	return nil
}

// lookPath finds a command as execvp(3) does, in the PATH of env.
func lookPath(command string, env []string) (string, error) {
	if strings.Contains(command, "/") {
		return command, executable(command, command)
	}
	path := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	var denied error
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, command)
		if _, err := os.Stat(file); err != nil {
			continue // not there, or in a directory that is not for this user
		}
		err := executable(command, file)
		if err == nil {
			return file, nil
		}
		if denied == nil {
			denied = err
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", cannotRun(exitNotFound, "command %q was not found in PATH; %s", command, hostPrograms)
}

const hostPrograms = "a container runs a program of this machine, not of its image: install it or change the command"

func executable(command, file string) error {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return cannotRun(exitNotFound, "command %q does not exist; %s", command, hostPrograms)
	}
	if err != nil {
		return cannotRun(exitCannotRun, "command %q: %v", command, err)
	}
	if info.IsDir() {
		return cannotRun(exitCannotRun, "command %q: %s is a directory", command, file)
	}
	if unix.Access(file, unix.X_OK) != nil {
		return cannotRun(exitCannotRun, "command %q: %s is not executable; set its mode with chmod +x", command, file)
	}
	return nil
}
