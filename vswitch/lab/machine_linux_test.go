package lab

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRunDir(t *testing.T) {
	runtimeDir(t)
	d, err := lockRunDir("a")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(d.path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory %v, error %v, want mode 0700", info, err)
	}
	if _, err := lockRunDir("a"); !errors.Is(err, ErrRunning) {
		t.Errorf("second start: %v, want ErrRunning", err)
	}
	if _, err := Open("a"); err != nil {
		t.Errorf("Open: %v", err)
	}
	if _, err := Open("b"); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Open of another: %v, want ErrNotRunning", err)
	}
	b, err := lockRunDir("b")
	if err != nil {
		t.Fatal(err)
	}
	if names, err := List(); err != nil || !slices.Equal(names, []string{"a", "b"}) {
		t.Errorf("List: %v, %v", names, err)
	}
	if err := b.remove(); err != nil {
		t.Error(err)
	}
	// A crash: the lock is free, the files are there.
	if err := os.MkdirAll(filepath.Join(d.path, nodesDir, "node1"), 0o700); err != nil {
		t.Fatal(err)
	}
	d.lock.Close()
	if names, _ := List(); len(names) != 0 {
		t.Errorf("List shows what crashed: %v", names)
	}
	if d, err = lockRunDir("a"); err != nil {
		t.Fatalf("start after a crash: %v", err)
	}
	if left, _ := os.ReadDir(d.path); len(left) != 1 {
		t.Errorf("%v left of the crashed cluster", left)
	}
	// Whoever looks for a cluster that crashed cleans up after it.
	d.lock.Close()
	if _, err := Open("a"); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Open after a crash: %v, want ErrNotRunning", err)
	}
	if _, err := os.Lstat(d.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory of a crashed cluster: %v, want none", err)
	}
	for _, name := range []string{"", "A", "../x", "a_b", "-a", strings.Repeat("a", 41)} {
		if _, err := lockRunDir(name); err == nil {
			t.Errorf("name %q is accepted", name)
		}
	}
}

// TestRunDirOfSomeoneElse: in /tmp, anybody may make the directory first.
func TestRunDirOfSomeoneElse(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(dir, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := makePrivateDir(filepath.Join(dir, "link")); err == nil {
		t.Error("a link is accepted")
	}
	if os.Geteuid() == 0 {
		other := filepath.Join(dir, "other")
		if err := errors.Join(os.Mkdir(other, 0o777), os.Chown(other, 12345, 12345)); err != nil {
			t.Fatal(err)
		}
		if err := makePrivateDir(other); err == nil || !strings.Contains(err.Error(), "belongs to someone else") {
			t.Errorf("another user's directory: %v", err)
		}
	}
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := makePrivateDir(open); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(open); info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, want 0700", info.Mode())
	}
}

func TestUnderlay(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	a, err := takeUnderlay(random)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	if !a.vxlan.Addr().IsLoopback() || a.vxlan.Addr() != a.gossip.Addr() {
		t.Errorf("underlay %v, gossip %v", a.vxlan, a.gossip)
	}
	// The same choice again must find another address, though nobody listens.
	b, err := takeUnderlay(rand.New(rand.NewPCG(1, 2)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	if a.vxlan.Addr() == b.vxlan.Addr() {
		t.Errorf("two clusters have %s", a.vxlan.Addr())
	}
	// Somebody has the ports on all addresses; not the well-known ones, which
	// another program of this machine may have on some.
	u, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4zero})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	vxlan, gossip := u.LocalAddr().(*net.UDPAddr).AddrPort().Port(), l.Addr().(*net.TCPAddr).AddrPort().Port()
	d, err := takeUnderlayAt(random, vxlan, gossip)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if d.vxlan.Port() == vxlan || d.gossip.Port() == gossip {
		t.Errorf("underlay %v, gossip %v: ports %d and %d are taken twice", d.vxlan, d.gossip, vxlan, gossip)
	}
	if err := errors.Join(probePort(d.vxlan, "udp"), probePort(d.gossip, "udp", "tcp")); err != nil {
		t.Errorf("a port that it chose is not free: %v", err)
	}
}

func TestSubIDs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subuid")
	text := "root:1:5\nann:100000:65536\n1000:300000:10\nbob:200000:65536\nann:x:1\nann:500000:0\nann\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []string{"0", "1000", "1", "1", "100000", "65536", "65537", "300000", "10"}
	if got := mapArgs(1000, subIDs(file, "1000", "ann")); !slices.Equal(got, want) {
		t.Errorf("arguments %v, want %v", got, want)
	}
	if got := mapArgs(1000, subIDs(file, "1001", "eve")); got != nil {
		t.Errorf("arguments %v of a user without ids", got)
	}
}

func TestLookPath(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(
		os.WriteFile(dir+"/yes", nil, 0o755), os.WriteFile(dir+"/no", nil, 0o644), os.Mkdir(dir+"/dir", 0o755)); err != nil {
		t.Fatal(err)
	}
	env := []string{"PATH=/nonexistent", "PATH=/nonexistent:" + dir}
	for _, tc := range []struct{ command, want, problem string }{
		{"yes", dir + "/yes", ""},
		{dir + "/yes", dir + "/yes", ""},
		{"no", "", "is not executable; set its mode with chmod +x"},
		{"dir", "", "is a directory"},
		{"nothing", "", `command "nothing" was not found in PATH; a container runs a program of this machine`},
		{"/nonexistent/x", "", `command "/nonexistent/x" does not exist; a container runs`},
	} {
		got, err := lookPath(tc.command, env)
		if tc.problem == "" {
			if err != nil || got != tc.want {
				t.Errorf("%s: %q, %v, want %q", tc.command, got, err, tc.want)
			}
		} else if err == nil || !strings.Contains(err.Error(), tc.problem) {
			t.Errorf("%s: error %v, want %q", tc.command, err, tc.problem)
		}
	}
}

func TestMembers(t *testing.T) {
	pids := members("pid", inodeOf("/proc/self/ns/pid"))
	if !slices.Contains(pids, os.Getpid()) {
		t.Errorf("%v does not contain ourselves, %d", pids, os.Getpid())
	}
	if pids := members("net", 1); len(pids) != 0 {
		t.Errorf("a namespace that does not exist has %v", pids)
	}
}

func TestKernelAtLeast(t *testing.T) {
	for _, tc := range []struct {
		release string
		want    bool
	}{{"6.2.0", true}, {"6.1.99-generic", false}, {"6.10-rc1", true}, {"10.0", true}, {"5.15.167.4-microsoft-standard-WSL2", false}, {"x", false}} {
		if got := kernelAtLeast(tc.release, 6, 2); got != tc.want {
			t.Errorf("%s: %t, want %t", tc.release, got, tc.want)
		}
	}
}

// TestDoctor: on a machine that runs the other tests of this package, all that
// is required is there.
func TestDoctor(t *testing.T) {
	for _, c := range Doctor() {
		t.Logf("%-20s ok %-5t %s (%s)", c.Name, c.OK, c.Detail, c.Fix)
		if c.Required && !c.OK {
			t.Errorf("%s: %s", c.Name, c.Detail)
		}
		if !c.OK && c.Detail == "" || c.Name == "" {
			t.Errorf("check %+v says nothing", c)
		}
	}
}

func TestCheckTUN(t *testing.T) {
	dir := t.TempDir()
	if err := checkTUN(dir + "/tun"); err == nil || err.Error() !=
		"/dev/net/tun does not exist; load the driver with 'sudo modprobe tun', or give a container '--device /dev/net/tun'" {
		t.Errorf("a missing device: %v", err)
	}
	if os.Geteuid() != 0 { // root may open everything
		if err := os.WriteFile(dir+"/tun", nil, 0o400); err != nil {
			t.Fatal(err)
		}
		if err := checkTUN(dir + "/tun"); err == nil || err.Error() != "/dev/net/tun may not be opened: its mode 0400 keeps you out; "+
			"run 'sudo chmod 0666 /dev/net/tun', which is what distributions ship" {
			t.Errorf("a forbidden device: %v", err)
		}
	}
	if err := checkTUN(os.DevNull); err != nil {
		t.Errorf("a device that can be opened: %v", err)
	}
}

// TestDoctorExplains checks the sentences for refusals that this machine does
// not make.
func TestDoctorExplains(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want []string
	}{
		{unix.EINVAL, []string{"CONFIG_USER_NS"}},
		{unix.ENOSPC, []string{"user.max_user_namespaces=" + readFile(t, "/proc/sys/user/max_user_namespaces"), "sudo sysctl -w user.max_user_namespaces=15000"}},
		{unix.EPERM, []string{"forbid"}},
		{unix.EIO, []string{unix.EIO.Error()}},
	} {
		got := explainNamespaces(&fs.PathError{Op: "fork", Err: tc.err}).Error()
		for _, w := range tc.want {
			if !strings.Contains(got, w) {
				t.Errorf("%v: %q does not say %q", tc.err, got, w)
			}
		}
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// TestBuiltInServe exercises the server without a pod.
func TestBuiltInServe(t *testing.T) {
	var tcp, udp uint16
	for err, tries := errors.New("not tried"), 0; err != nil; tries++ {
		if tries == 5 {
			t.Fatal(err)
		}
		c, listenErr := net.ListenPacket("udp", ":0")
		if listenErr != nil {
			t.Fatal(listenErr)
		}
		tcp, udp = freeTCPPort(t), uint16(c.LocalAddr().(*net.UDPAddr).Port)
		c.Close() // from now on others may take it, and then it is tried again
		s := &builtIn{Pod: "shop/a", Node: "node1", TCP: []uint16{tcp}, UDP: []uint16{udp}}
		ready := make(chan error, 2)
		go func() { ready <- s.serve(func() { ready <- nil }) }()
		err = <-ready
	}
	ask := func(network, host string, port uint16, say string) string {
		t.Helper()
		c, err := net.Dial(network, net.JoinHostPort(host, strconv.Itoa(int(port))))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := c.Write([]byte(say)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		n, err := c.Read(buf)
		if err != nil {
			t.Fatalf("%s %q: %v", network, say, err)
		}
		return strings.ReplaceAll(string(buf[:n]), c.LocalAddr().String(), "ME")
	}
	const want = "shop/a on node1, client ME\n"
	for _, host := range []string{"127.0.0.1", "::1"} {
		for _, say := range []string{"hi\n", "x", strings.Repeat("y", 3000)} {
			if got := ask("tcp", host, tcp, say); got != want {
				t.Errorf("TCP %s, %.10q: %q, want %q", host, say, got, want)
			}
		}
		if got := ask("tcp", host, tcp, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(got, "\r\n\r\n"+want) {
			t.Errorf("HTTP %s: %q", host, got)
		}
		if got := ask("udp", host, udp, "hi"); got != want {
			t.Errorf("UDP %s: %q, want %q", host, got, want)
		}
	}
	if got := ask("tcp", "127.0.0.1", tcp, ""); got != want {
		t.Errorf("a silent client: %q, want %q", got, want)
	}
	if err := (&builtIn{TCP: []uint16{tcp}}).serve(func() {}); err == nil {
		t.Error("a port that is taken is no error")
	}
}

func freeTCPPort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}
