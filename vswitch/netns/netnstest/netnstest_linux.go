// Package netnstest lets tests and benchmarks use network namespaces as any
// user: it runs the test binary again as root of a new user namespace, with a
// network and mounts of its own, so that nothing of the machine is touched.
//
// It is for tests only.
package netnstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/netns"
)

// reexecuted is set, in the environment, for the binary in the namespaces;
// refused holds the reason why there are none.
const (
	reexecuted = "VSWITCH_NETNSTEST"
	refused    = "VSWITCH_NETNSTEST_REFUSED"
)

// Main runs the tests in new namespaces and exits with their result. Where the
// system refuses namespaces, the tests run without, and those that call Need
// fail if the environment variable CI is set, and are skipped otherwise.
func Main(m *testing.M) {
	switch {
	case os.Getenv(reexecuted) == "":
		code, err := reexec()
		if err == nil {
			os.Exit(code)
		}
		os.Setenv(refused, err.Error())
	default:
		if err := enter(); err != nil {
			fmt.Fprintln(os.Stderr, "netnstest:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// Need says that the test cannot run outside the namespaces of Main.
func Need(t testing.TB) {
	t.Helper()
	why := os.Getenv(refused)
	switch {
	case why == "" && os.Getenv(reexecuted) != "":
	case why == "":
		t.Fatal("netnstest: the package's TestMain does not call netnstest.Main")
	case os.Getenv("CI") != "":
		t.Fatalf("needs namespaces: %s", why)
	default:
		t.Skipf("needs namespaces: %s", why)
	}
}

// New returns the path of a new namespace that ends with the test.
func New(t testing.TB) string {
	t.Helper()
	Need(t)
	path := filepath.Join(t.TempDir(), "ns")
	if err := netns.New(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(path); err != nil {
			t.Error(err)
		}
	})
	return path
}

// Do runs f in a namespace, and fails the test with its error.
func Do(t testing.TB, path string, f func() error) {
	t.Helper()
	if err := netns.Do(path, f); err != nil {
		t.Fatal(err)
	}
}

func reexec() (int, error) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), reexecuted+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	// The terminal signals the child as well; it decides when to end.
	signal.Ignore(os.Interrupt)
	if err := cmd.Start(); err != nil {
		signal.Reset(os.Interrupt)
		return 0, err
	}
	err := cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

func enter() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return netns.SetUp("lo")
}
