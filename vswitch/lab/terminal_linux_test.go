package lab

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTerminal talks to an interactive shell in a pod as a person would, from
// a terminal of our own.
func TestTerminal(t *testing.T) {
	c := start(t, options(newTestPod("web-1", "sleep", "1000")))
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	ours, err := newTerminal(null, nil) // a person's: we are at its master
	if err != nil {
		t.Fatal(err)
	}
	defer ours.master.Close()
	defer ours.slave.Close()
	setSize := func(rows uint16) {
		t.Helper()
		if err := unix.IoctlSetWinsize(int(ours.slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: 132}); err != nil {
			t.Fatal(err)
		}
	}
	setSize(43)
	before, err := unix.IoctlGetTermios(int(ours.slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}

	code := make(chan int, 1)
	go func() {
		n, err := c.Exec(t.Context(), ExecRequest{Namespace: "shop", Pod: "web-1", TTY: true,
			Command: []string{"sh", "-i"}, Env: []string{"PS1=ready> "}}, ours.slave, ours.slave, ours.slave)
		if err != nil {
			t.Error(err)
		}
		code <- n
	}()
	screen := bufio.NewReader(ours.master)
	ours.master.SetDeadline(time.Now().Add(time.Minute))
	seen := ""
	see := func(want string) {
		t.Helper()
		for !strings.Contains(seen, want) {
			b, err := screen.ReadByte()
			if err != nil {
				t.Fatalf("waiting for %q: %v; the screen says %q", want, err, seen)
			}
			seen += string(b)
		}
		_, seen, _ = strings.Cut(seen, want)
	}
	typeIn := func(s string) {
		t.Helper()
		if _, err := io.WriteString(ours.master, s); err != nil {
			t.Fatal(err)
		}
	}
	see("ready> ")
	typeIn("stty size; tty </dev/tty >/dev/null && echo con''trolling\r")
	see("43 132\r\n")
	see("controlling\r\n")
	see("ready> ")
	// Ctrl-C ends the command in the foreground, not the shell.
	typeIn("sh -c 'echo in the fore''ground; exec sleep 1000'\r")
	see("in the foreground\r\n") // it has been given the terminal before it ran
	typeIn("\x03")
	see("ready> ")
	setSize(50)
	// The kernel tells our session, which this terminal is not of.
	unix.Kill(os.Getpid(), unix.SIGWINCH)
	// The signal takes its time.
	typeIn("until stty size | grep '^50 132$'; do sleep 0.05; done\r")
	see("50 132\r\n")
	typeIn("exit 5\r")
	if n := <-code; n != 5 {
		t.Errorf("exit code %d, want 5", n)
	}
	after, err := unix.IoctlGetTermios(int(ours.slave.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("the terminal is %+v (%v), was %+v", after, err, before)
	}
}

// TestMountEtc lays files over directories, in the mount namespace of a pod.
func TestMountEtc(t *testing.T) {
	c := start(t, options(newTestPod("web-1", "sleep", "1000")))
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"files/hosts": "ours", "files/resolv.conf": "ours",
		"whole/hosts": "theirs", "whole/resolv.conf": "theirs", "whole/passwd": "theirs",
		"dangling/hosts": "theirs", "dangling/passwd": "theirs",
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// As systemd-resolved leaves it when it does not run.
	if err := os.Symlink("../run/nobody/stub-resolv.conf", filepath.Join(dir, "dangling/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	for _, etc := range []string{"whole", "dangling"} {
		got, code := run(t, c, ExecRequest{Pod: "web-1", Command: []string{exe, "test-etc", filepath.Join(dir, etc), filepath.Join(dir, "files")}}, "")
		if want := "hosts: ours\npasswd: theirs\nresolv.conf: ours\n"; code != 0 || got != want {
			t.Errorf("%s: %q, code %d, want %q", etc, got, code, want)
		}
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "whole/hosts")); string(got) != "theirs" {
		t.Errorf("outside the pod, the file says %q", got)
	}
}

// testEtc is the process in the pod: it mounts and prints what is seen then.
func testEtc(etc, files string) int {
	if err := mountEtc(etc, files); err != nil {
		os.Stdout.WriteString(err.Error())
		return 1
	}
	entries, err := os.ReadDir(etc)
	for _, e := range entries {
		var data []byte
		if data, err = os.ReadFile(filepath.Join(etc, e.Name())); err != nil {
			break
		}
		os.Stdout.WriteString(e.Name() + ": " + string(data) + "\n")
	}
	if err != nil {
		os.Stdout.WriteString(err.Error())
		return 1
	}
	return 0
}

// TestSubordinateIDs needs a user with ids of its own; root makes one, in
// mounts that only this test sees.
func TestSubordinateIDs(t *testing.T) {
	if newIDMaps() == nil && os.Geteuid() != 0 {
		t.Skip("this user has no subordinate ids (subuid(5))")
	}
	if os.Geteuid() == 0 {
		if _, err := exec.LookPath("newuidmap"); err != nil {
			t.Skip("newuidmap is not installed")
		}
		dir, err := os.MkdirTemp("/tmp", "lab")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		for name, text := range map[string]string{"ids": "labtester:700000:65536\n", "passwd": "root:x:0:0::/root:/bin/sh\nlabtester:x:54321:54321::/tmp:/bin/sh\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		script := "set -e; for f in subuid subgid; do mount --bind " + dir + "/ids /etc/$f; done; mount --bind " + dir + "/passwd /etc/passwd; " +
			"exec setpriv --reuid=54321 --regid=54321 --clear-groups " + self + " -test.run='^TestSubordinateIDs$' -test.v"
		cmd := exec.Command("unshare", "-m", "sh", "-c", strings.ReplaceAll(script, self, dir+"/test"))
		if err := copyFile(dir+"/test", self); err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(os.Environ(), "HOME=/tmp", "TMPDIR=/tmp")
		cmd.Dir = "/"
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestSubordinateIDs") {
			t.Errorf("as a user with subordinate ids: %v\n%s", err, out)
		}
		return
	}
	p := newTestPod("pg", "sleep", "1000")
	uid, gid := int64(70), int64(71)
	p.RunAsUser, p.RunAsGroup = &uid, &gid
	c := start(t, options(p, newTestPod("root", "sleep", "1000")))
	if got, _ := run(t, c, ExecRequest{Pod: "pg", Command: sh("id -u; id -g; id -G; cut -c1-99 /proc/self/uid_map | wc -l")}, ""); got != "70\n71\n71\n2\n" {
		t.Errorf("the pod's user is %q", got)
	}
	// Root of the pod can be others, as a server that starts as root does.
	if got, _ := run(t, c, ExecRequest{Pod: "root", Command: sh("setpriv --reuid=33 --regid=33 --clear-groups id -u")}, ""); got != "33\n" {
		t.Errorf("root became %q", got)
	}
}

func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}
