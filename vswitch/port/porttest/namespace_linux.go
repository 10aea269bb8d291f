package porttest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
)

// inNamespace is set in the environment of a test binary that Main started in a
// namespace.
const inNamespace = "PORTTEST_NAMESPACE"

// Main runs the tests, for TestMain: the whole test binary again, as root of a
// new user namespace with an empty network namespace of its own, so that tests
// may make devices without any privilege and see nobody else's. It returns the
// exit code.
//
// Where the system forbids that, it fails if CI=true. Else it runs the tests
// without, and those that need Namespaced skip.
func Main(m *testing.M) int {
	if os.Getenv(inNamespace) != "" {
		// Less noise from new devices; where it is not allowed, tests cope.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
		return m.Run()
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "porttest:", err)
		return 1
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNamespace+"="+strconv.Itoa(os.Getpid()))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		if os.Getenv("CI") == "true" {
			fmt.Fprintln(os.Stderr, "porttest: no user and network namespace:", err)
			return 1
		}
		reason = err
		return m.Run()
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); errors.As(err, &exit) {
		return exit.ExitCode()
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "porttest:", err)
		return 1
	}
	return 0
}

// reason is why there is no namespace.
var reason = errors.New("TestMain does not call porttest.Main")

// Namespaced skips a test that needs a network namespace where there can be
// none, and says why.
func Namespaced(t testing.TB) {
	t.Helper()
	if os.Getenv(inNamespace) == "" {
		t.Skipf("no user and network namespace: %v", reason)
	}
}
