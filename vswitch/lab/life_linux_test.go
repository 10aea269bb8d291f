package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/cluster"
)

func TestNodeDies(t *testing.T) {
	o := options(newTestPod("a", "sleep", "1000"), newTestPod("b", "sleep", "1000"))
	c := start(t, o)
	before := map[string]*cluster.Pod{"a": getPod(t, c, "a"), "b": getPod(t, c, "b")}
	pid, _ := run(t, c, ExecRequest{Pod: "a", Command: sh("pgrep -o -x sleep")}, "")
	ns, _ := run(t, c, ExecRequest{Pod: "a", Command: sh("readlink /proc/self/ns/net")}, "")

	if err := c.KillNode(t.Context(), "node1"); err != nil {
		t.Fatal(err)
	}
	node := func() Node {
		t.Helper()
		nodes, err := c.Nodes(t.Context())
		if err != nil || len(nodes) != 1 {
			t.Fatalf("nodes %v, error %v", nodes, err)
		}
		return nodes[0]
	}
	if n := node(); n.Restarts > 0 && n.Ready && n.PID == 0 {
		t.Errorf("after its end, the node is %+v", n)
	}
	eventually(t, func() string {
		if n := node(); !n.Ready || n.Restarts != 1 {
			return fmt.Sprintf("the node is %+v, want it ready after one restart", n)
		}
		// The bridge of the fake node died with it, so an interface with its
		// address is the work of the one that came back.
		got, _ := run(t, c, ExecRequest{Pod: "a", Command: sh("ip -4 -o addr show dev eth0 2>&1 | awk '{print $4}'")}, "")
		if want := before["a"].IPs[0].String() + "/24\n"; got != want {
			return fmt.Sprintf("address %q, want %q", got, want)
		}
		return ""
	})
	for name, was := range before {
		now := getPod(t, c, name)
		if now.UID != was.UID || now.Restarts != 0 || now.IPs[0] != was.IPs[0] || now.Reason != "" {
			t.Errorf("pod %s was %+v, is %+v", name, was, now)
		}
	}
	if again, _ := run(t, c, ExecRequest{Pod: "a", Command: sh("pgrep -o -x sleep")}, ""); again != pid {
		t.Errorf("the pod's process was %q, is %q", pid, again)
	}
	if again, _ := run(t, c, ExecRequest{Pod: "a", Command: sh("readlink /proc/self/ns/net")}, ""); again != ns {
		t.Errorf("the pod's namespace was %q, is %q", ns, again)
	}

	if err := c.StopNode(t.Context(), "node1"); err != nil {
		t.Fatal(err)
	}
	if n := node(); n.Ready || !n.Held || n.PID != 0 {
		t.Errorf("a stopped node is %+v", n)
	}
	if err := c.KillNode(t.Context(), "node1"); !errors.Is(err, ErrConflict) {
		t.Errorf("kill of a stopped node: %v, want ErrConflict", err)
	}
	if status, err := c.Status(t.Context()); err != nil || len(status.Problems) != 1 || !strings.HasPrefix(status.Problems[0], "node node1: its process ended: killed by SIGKILL") {
		t.Errorf("problems %q, error %v", status.Problems, err)
	}
	// A pod deleted meanwhile must not come back with the node.
	if err := c.Delete(t.Context(), []cluster.Ref{{Kind: cluster.KindPod, Key: cluster.Key{Namespace: "shop", Name: "b"}}}); err != nil {
		t.Fatal(err)
	}
	if err := c.StartNode(t.Context(), "node1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if n := node(); !n.Ready || getPod(t, c, "b") != nil {
			return fmt.Sprintf("the node is %+v, pod b %v", n, getPod(t, c, "b"))
		}
		return ""
	})
	if err := c.KillNode(t.Context(), "node9"); !errors.Is(err, ErrNotFound) {
		t.Errorf("kill of no node: %v, want ErrNotFound", err)
	}
}

func TestAddNodeAndMore(t *testing.T) {
	c := start(t, options())
	if err := c.AddNode(t.Context(), "node2"); err != nil {
		t.Fatal(err)
	}
	if err := c.AddNode(t.Context(), "node2"); !errors.Is(err, ErrConflict) {
		t.Errorf("the same node again: %v, want ErrConflict", err)
	}
	results, err := c.Apply(t.Context(), &cluster.Objects{Pods: []*cluster.Pod{newTestPod("a", "sleep", "1000"), newTestPod("b", "sleep", "1000")}})
	if err != nil || len(results) != 2 || results[0].String() != "pod/a created" {
		t.Fatalf("apply: %v, %v", results, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	state, err := c.State(ctx)
	for err == nil {
		nodes := map[string]bool{}
		for _, p := range state.Pods {
			if p.Ready {
				nodes[p.Node] = true
			}
		}
		if len(nodes) == 2 {
			break
		}
		state, err = c.Watch(ctx, state.Revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), []cluster.Ref{{Kind: cluster.KindNode, Key: cluster.Key{Name: "node2"}}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		nodes, err := c.Nodes(t.Context())
		state, err2 := c.State(t.Context())
		if err := errors.Join(err, err2); err != nil {
			return err.Error()
		}
		if len(nodes) != 1 || len(state.Nodes) != 1 || len(state.Pods) != 1 {
			return fmt.Sprintf("%d processes, %d nodes, %d pods left, want one of each", len(nodes), len(state.Nodes), len(state.Pods))
		}
		return ""
	})
	if err := c.Delete(t.Context(), []cluster.Ref{{Kind: cluster.KindPod, Key: cluster.Key{Namespace: "x", Name: "y"}}}); !errors.Is(err, ErrNotFound) {
		t.Errorf("delete of no pod: %v, want ErrNotFound", err)
	}
}

func TestReplicas(t *testing.T) {
	o := options()
	o.Objects.Deployments = []*cluster.Deployment{{
		Meta: cluster.Meta{Namespace: "shop", Name: "web"}, Replicas: 3,
		Template: cluster.Pod{RestartPolicy: cluster.RestartAlways, BuiltIn: true, Containers: []cluster.Container{{Name: "main"}}},
	}}
	c := start(t, o)
	status, err := c.Status(t.Context())
	if err != nil || status.Pods != 3 || status.Ready != 3 || status.Failing != 0 {
		t.Errorf("status %+v, error %v, want 3 pods that are ready", status, err)
	}
}

func TestStartFails(t *testing.T) {
	runtimeDir(t)
	for _, tc := range []struct {
		name   string
		change func(*Options)
		kind   error
		want   string
	}{
		{"name", func(o *Options) { o.Wait, o.Name = 0, "A B" }, ErrInput, "lower-case"},
		{"overlapping ranges", func(o *Options) {
			o.Wait, o.NodeCIDRs = 0, o.Config.ClusterCIDRs
		}, ErrInput, "overlaps"},
		{"node that fails", func(o *Options) {
			o.Wait = time.Second
			o.Objects.Nodes = []*cluster.Node{{Meta: cluster.Meta{Name: "n1", Labels: map[string]string{"test": "fail"}}}}
		}, nil, "node n1 is not ready: its process ended: exit code 1: this node was told to fail"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := options()
			tc.change(&o)
			_, err := Start(t.Context(), o)
			if err != nil && !strings.Contains(err.Error(), tc.want) && o.Wait > 0 {
				o.Wait = 30 * time.Second // a second may be too short for the node to fail
				_, err = Start(t.Context(), o)
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) || tc.kind != nil && !errors.Is(err, tc.kind) {
				t.Errorf("error %v, want one of kind %v with %q", err, tc.kind, tc.want)
			}
			if _, err := os.Lstat(filepath.Join(baseDir(), "test")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("something is left: %v", err)
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		o := options(newTestPod("slow", "sleep", "1000"))
		o.Progress = func(string) { cancel() }
		if _, err := Start(ctx, o); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
		if names, _ := List(); len(names) != 0 {
			t.Errorf("%v still run", names)
		}
	})
}

func TestTwoClusters(t *testing.T) {
	a := start(t, options(newTestPod("a", "sleep", "1000")))
	if _, err := Start(t.Context(), options()); !errors.Is(err, ErrRunning) {
		t.Errorf("the same name again: %v, want ErrRunning", err)
	}
	o := options(newTestPod("b", "sleep", "1000"))
	o.Name = "other"
	b, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if names, _ := List(); strings.Join(names, " ") != "other test" {
		t.Errorf("running are %v", names)
	}
	b.Close()
	if p := getPod(t, a, "a"); !p.Ready {
		t.Error("the end of one cluster disturbs another")
	}
	if err := b.Wait(); err != nil {
		t.Errorf("Wait after Close: %v", err)
	}
}

// cluster processes, as the machine sees them: those in the PID namespace of
// the cluster's init.
func clusterProcesses(t *testing.T, dir string) (pids []int) {
	t.Helper()
	supervisor := newClient("", dir).supervisorPID()
	if supervisor == 0 {
		t.Fatal("the supervisor is not found")
	}
	inode := inodeOf(fmt.Sprintf("/proc/%d/ns/pid", supervisor))
	links, _ := filepath.Glob("/proc/[0-9]*/ns/pid")
	for _, link := range links {
		if inodeOf(link) == inode {
			pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

// nothingLeft checks that a cluster is gone, all of it.
func nothingLeft(t *testing.T, dir string, pids []int) {
	t.Helper()
	eventually(t, func() string {
		for _, pid := range pids {
			if cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && len(cmdline) > 0 {
				return fmt.Sprintf("process %d lives: %q", pid, cmdline)
			}
		}
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			left, _ := filepath.Glob(dir + "/*")
			return fmt.Sprintf("%s is left: %v", dir, left)
		}
		if mounts, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(mounts), dir) {
			return "a mount is left"
		}
		if sockets, _ := os.ReadFile("/proc/net/unix"); strings.Contains(string(sockets), dir) {
			return "a socket is left"
		}
		return ""
	})
}

func TestDown(t *testing.T) {
	stubborn := newTestPod("stubborn", sh("trap '' TERM; while :; do sleep 0.05; done")...)
	stubborn.GracePeriod = time.Hour
	c := start(t, options(stubborn, newTestPod("server")))
	pids := clusterProcesses(t, c.Dir())
	if len(pids) < 5 { // init, supervisor, node, two pods
		t.Errorf("only %d processes: %v", len(pids), pids)
	}
	other, err := Open("test")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := other.Down(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > shutdownGrace+time.Minute {
		t.Errorf("it took %s", took)
	}
	nothingLeft(t, c.Dir(), pids)
	if err := c.Wait(); err != nil {
		t.Errorf("Wait: %v", err)
	}
	if err := other.Down(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Down again: %v, want ErrNotRunning", err)
	}
	if _, err := other.Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Status: %v, want ErrNotRunning", err)
	}
}

func TestDetach(t *testing.T) {
	runtimeDir(t)
	o := options(newTestPod("a", "sleep", "1000"))
	o.Detach = true
	c, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	pids := clusterProcesses(t, c.Dir())
	c.Close()
	time.Sleep(100 * time.Millisecond)
	if c, err = Open("test"); err != nil {
		t.Fatal(err)
	}
	if p := getPod(t, c, "a"); p == nil || !p.Ready {
		t.Errorf("pod is %+v, want it ready", p)
	}
	if err := c.Down(t.Context()); err != nil {
		t.Error(err)
	}
	nothingLeft(t, c.Dir(), pids)
}

// TestCrash kills one process after the other and looks for what is left.
func TestCrash(t *testing.T) {
	initOf := func(pids []int) int { // the one whose id in the namespace is 1
		for _, pid := range pids {
			if ids := nestedPID(strconv.Itoa(pid)); len(ids) > 0 && ids[len(ids)-1] == 1 {
				return pid
			}
		}
		return 0
	}
	for _, tc := range []struct {
		name   string
		detach bool
		signal syscall.Signal
		victim func(up int, dir string, pids []int) int
		stale  bool // files are left for the next start
	}{
		{"command is interrupted", false, unix.SIGTERM, func(up int, _ string, _ []int) int { return up }, false},
		{"command is killed", false, unix.SIGKILL, func(up int, _ string, _ []int) int { return up }, false},
		{"supervisor is killed", false, unix.SIGKILL, func(_ int, dir string, _ []int) int { return newClient("", dir).supervisorPID() }, false},
		{"supervisor is killed, detached", true, unix.SIGKILL, func(_ int, dir string, _ []int) int { return newClient("", dir).supervisorPID() }, false},
		{"init is killed", false, unix.SIGKILL, func(_ int, _ string, pids []int) int { return initOf(pids) }, false},
		{"init is killed, detached", true, unix.SIGKILL, func(_ int, _ string, pids []int) int { return initOf(pids) }, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			runtimeDir(t)
			o := options(newTestPod("a", sh("trap '' TERM HUP; setsid sleep 1000 & while :; do sleep 0.1; done")...), newTestPod("b"))
			dir := filepath.Join(baseDir(), "test")
			up := 0
			if tc.detach {
				o.Detach = true
				if _, err := Start(t.Context(), o); err != nil {
					t.Fatal(err)
				}
			} else {
				up = startUp(t, o)
			}
			pids := clusterProcesses(t, dir)
			victim := tc.victim(up, dir, pids)
			if victim == 0 {
				t.Fatal("no process to kill")
			}
			if err := unix.Kill(victim, tc.signal); err != nil {
				t.Fatal(err)
			}
			if !tc.stale {
				nothingLeft(t, dir, pids)
				return
			}
			eventually(t, func() string {
				if running(dir) {
					return "somebody holds the lock"
				}
				return ""
			})
			o.Detach = false
			c, err := Start(t.Context(), o)
			if err != nil {
				t.Fatalf("start after the crash: %v", err)
			}
			c.Close()
			nothingLeft(t, dir, pids)
		})
	}
}

// startUp starts a cluster by a process of its own and returns that.
func startUp(t *testing.T, o Options) (pid int) {
	t.Helper()
	data, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "test-up")
	cmd.Stdin = strings.NewReader(string(data))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("it said %q (%v)", line, err)
	}
	return cmd.Process.Pid
}

// TestWhyNotRunning: there is always a reason why no command runs in a pod.
func TestWhyNotRunning(t *testing.T) {
	for _, tc := range []struct {
		reason  string
		leaving bool
		want    string
	}{
		{"its node is away", false, "its node is away"},
		{"its node is away", true, "it is being deleted"},
		{"", true, "it is being deleted"},
		{"", false, "it has no network yet"},
	} {
		if got := whyNotRunning(tc.reason, tc.leaving); got != tc.want {
			t.Errorf("%q, leaving %t: %q, want %q", tc.reason, tc.leaving, got, tc.want)
		}
	}
}
