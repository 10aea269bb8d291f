package lab

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vswitch/vswitch/cluster"
)

// testHealth is the process of a pod: a server that is well at /NAME if there
// is a file of that name in dir, and says who asked.
func testHealth(dir string) int {
	os.Remove(filepath.Join(dir, "ready"))
	err := http.ListenAndServe(":8080", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Println(r.URL.Path, host, r.UserAgent())
		if _, err := os.Stat(filepath.Join(dir, r.URL.Path)); err != nil {
			w.WriteHeader(500)
		}
	}))
	fmt.Println(err)
	return 1
}

func touch(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// quick is a probe that is made every second, and waits as long as a slow machine
// may take.
func quick(h cluster.Handler) *cluster.Probe {
	return &cluster.Probe{Handler: h, Period: time.Second, Timeout: 30 * time.Second, SuccessThreshold: 1, FailureThreshold: 1}
}

func podEventually(t *testing.T, c *Client, name string, cond func(p *cluster.Pod) bool) (p *cluster.Pod) {
	t.Helper()
	eventually(t, func() string {
		if p = getPod(t, c, name); p == nil || !cond(p) {
			return fmt.Sprintf("pod %s is %+v", name, p)
		}
		return ""
	})
	return p
}

// TestProbes lets nodes ask their pods.
func TestProbes(t *testing.T) {
	t.Setenv(realNodes, "1")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	server := newTestPod("server", exe, "test-health", dir)
	server.Containers[0].Ports = []cluster.ContainerPort{{Name: "web", Port: 8080, Protocol: 6}}
	server.Containers[0].Readiness = quick(cluster.Handler{HTTP: &cluster.HTTPGet{PortName: "web", Path: "/ready"}})
	server.Containers[0].Liveness = quick(cluster.Handler{HTTP: &cluster.HTTPGet{Port: 8080, Path: "/live"}})
	server.Containers[0].Liveness.FailureThreshold = 5 // it takes its time to listen
	touch(t, dir, "live")
	// The command is found in the container, and the file is seen from there.
	command := newTestPod("command", "sleep", "1000")
	command.Containers[0].Startup = quick(cluster.Handler{Exec: []string{"test", "-e", filepath.Join(dir, "started")}})
	command.Containers[0].Startup.FailureThreshold = 1000
	command.Containers[0].Liveness = quick(cluster.Handler{Exec: []string{"sh", "-c", "echo it is dead; exit 3"}})
	command.RestartPolicy = cluster.RestartNever
	tcp := newTestPod("tcp")
	tcp.Containers[0].Ports = []cluster.ContainerPort{{Port: 80, Protocol: 6}}
	tcp.Containers[0].Readiness = quick(cluster.Handler{TCP: &cluster.TCPSocket{Port: 80}})
	tcp.HostNetwork = true
	lost := newTestPod("lost", "sleep", "1000")
	lost.Containers[0].Readiness = quick(cluster.Handler{Exec: []string{"no-such-program"}})
	o := options(server, command, tcp, lost)
	o.Wait = 5 * time.Second // not all become ready
	c := start(t, o)

	podEventually(t, c, "tcp", func(p *cluster.Pod) bool { return p.Ready })
	podEventually(t, c, "lost", func(p *cluster.Pod) bool {
		return !p.Ready && strings.HasPrefix(p.Reason, `container main: its readiness probe cannot be made: command "no-such-program" was not found in PATH`)
	})
	p := podEventually(t, c, "server", func(p *cluster.Pod) bool {
		return strings.Contains(p.Reason, "its readiness probe failed") && !strings.Contains(p.Reason, "refused")
	})
	url := "http://" + netip.AddrPortFrom(p.IPs[0], 8080).String()
	if want := "container main: its readiness probe failed: " + url + "/ready says 500 Internal Server Error"; p.Ready || p.Reason != want || p.Phase != cluster.PodRunning {
		t.Errorf("the pod is %s, ready %v: %q, want %q", p.Phase, p.Ready, p.Reason, want)
	}
	touch(t, dir, "ready")
	podEventually(t, c, "server", func(p *cluster.Pod) bool { return p.Ready && p.Reason == "" && p.Statuses[0].Ready })
	os.Remove(filepath.Join(dir, "ready"))
	podEventually(t, c, "server", func(p *cluster.Pod) bool { return !p.Ready && p.Statuses[0].Running })

	// Its death is that of the process, which is replaced.
	os.Remove(filepath.Join(dir, "live"))
	podEventually(t, c, "server", func(p *cluster.Pod) bool { return p.Restarts > 0 })
	touch(t, dir, "live")
	podEventually(t, c, "server", func(p *cluster.Pod) bool { return p.Statuses[0].Running })
	eventually(t, func() string {
		log, err := c.Logs(t.Context(), LogRequest{Namespace: "shop", Pod: "server", LogOptions: LogOptions{Previous: true}})
		if err != nil {
			return err.Error()
		}
		defer log.Close()
		said, _ := io.ReadAll(log)
		if !strings.Contains(string(said), "/ready 172.29.0.1 vswitch-probe/") || !strings.Contains(string(said), "/live 172.29.0.1 vswitch-probe/") {
			return fmt.Sprintf("the server was asked by\n%s", said)
		}
		return ""
	})

	// Nothing else is asked before the startup probe has succeeded.
	if p := getPod(t, c, "command"); p.Ready || !p.Statuses[0].Running || p.Phase != cluster.PodRunning {
		t.Errorf("before it has started, the pod is %+v", p)
	}
	touch(t, dir, "started")
	p = podEventually(t, c, "command", func(p *cluster.Pod) bool { return p.Phase == cluster.PodFailed })
	if want := `container main: its liveness probe failed: command "sh": exit code 3: it is dead`; p.Reason != want || p.Restarts != 0 {
		t.Errorf("the pod that is not restarted says %q, want %q", p.Reason, want)
	}
}

// TestPreStop: the handler runs first, and takes its time from the grace period.
func TestPreStop(t *testing.T) {
	dir := t.TempDir()
	order := filepath.Join(dir, "order")
	trap := sh(fmt.Sprintf("trap 'echo term >>%s; exit 0' TERM; touch %s/up; while :; do sleep 0.02; done", order, dir))
	hook := newTestPod("hook", trap...)
	hook.GracePeriod = time.Minute
	hook.Containers[0].PreStop = &cluster.Handler{Exec: sh(fmt.Sprintf("sleep 0.1; echo $NAME >>%s", order))}
	hook.Containers[0].Env = []string{"NAME=hook"}
	slow := newTestPod("slow", "sleep", "1000")
	slow.GracePeriod = time.Second
	slow.Containers[0].PreStop = &cluster.Handler{Sleep: time.Hour}
	ended := newTestPod("ended", "sleep", "0.2")
	ended.RestartPolicy = cluster.RestartNever
	ended.Containers[0].PreStop = &cluster.Handler{Exec: sh("touch " + filepath.Join(dir, "never"))}
	c := start(t, options(hook, slow, ended))
	eventually(t, func() string {
		if _, err := os.Stat(filepath.Join(dir, "up")); err != nil {
			return err.Error()
		}
		return ""
	})
	podEventually(t, c, "ended", func(p *cluster.Pod) bool { return p.Phase == cluster.PodSucceeded })
	began := time.Now()
	if err := c.Delete(t.Context(), []cluster.Ref{{Kind: cluster.KindPod, Key: hook.Key()}, {Kind: cluster.KindPod, Key: slow.Key()}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if getPod(t, c, "hook") != nil || getPod(t, c, "slow") != nil {
			return "the pods are still there"
		}
		return ""
	})
	if took := time.Since(began); took < time.Second {
		t.Errorf("a handler that takes an hour had %s, want its second", took)
	}
	if got, _ := os.ReadFile(order); string(got) != "hook\nterm\n" {
		t.Errorf("it went %q, want the hook first", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "never")); err == nil {
		t.Error("the handler of a container that ended by itself was run")
	}
}

// TestPostStart: a container runs when its postStart handler has succeeded, and is
// ended and started again when it has failed.
func TestPostStart(t *testing.T) {
	dir := t.TempDir()
	good := newTestPod("good", "sleep", "1000")
	good.Containers[0].PostStart = &cluster.Handler{Exec: sh("while ! [ -e " + dir + "/go ]; do sleep 0.05; done")}
	bad := newTestPod("bad", "sleep", "1000")
	bad.Containers[0].PostStart = &cluster.Handler{Exec: sh("echo no luck; exit 3")}
	o := options(good, bad)
	o.Wait = 5 * time.Second // they are not all well
	c := start(t, o)
	p := podEventually(t, c, "good", func(p *cluster.Pod) bool { return len(p.Statuses) == 1 && p.Statuses[0].Reason == "ContainerCreating" })
	if s := p.Statuses[0]; s.Running || s.Ready || p.Ready {
		t.Errorf("while the handler runs: %+v", s)
	}
	touch(t, dir, "go")
	podEventually(t, c, "good", func(p *cluster.Pod) bool { return p.Ready && p.Statuses[0].Running && p.Statuses[0].Restarts == 0 })
	p = podEventually(t, c, "bad", func(p *cluster.Pod) bool { return p.Statuses[0].Restarts >= 1 && p.Reason != "" })
	if p.Ready {
		t.Errorf("%+v is ready", p.Statuses)
	}
	podEventually(t, c, "bad", func(p *cluster.Pod) bool {
		return strings.Contains(p.Reason, "postStart handler failed") && strings.Contains(p.Reason, "no luck")
	})
}
