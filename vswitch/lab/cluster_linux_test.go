package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// runtimeDir gives the test a runtime directory of its own.
func runtimeDir(t testing.TB) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "lab")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", dir)
	t.Cleanup(func() {
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("left in the runtime directory: %v", left)
		}
		os.RemoveAll(dir)
	})
}

func options(pods ...*cluster.Pod) Options {
	return Options{Name: "test", Config: agent.Default(), Nodes: 1, Wait: time.Minute, Objects: &cluster.Objects{Pods: pods}, Home: "/root", Dir: "/"}
}

// newTestPod returns a pod of one container.
func newTestPod(name string, command ...string) *cluster.Pod {
	return &cluster.Pod{
		Meta: cluster.Meta{Namespace: "shop", Name: name}, RestartPolicy: cluster.RestartAlways, GracePeriod: 5 * time.Second,
		Containers: []cluster.Container{{Name: "main", Command: command}}, BuiltIn: len(command) == 0,
	}
}

func start(t testing.TB, o Options) *Client {
	t.Helper()
	runtimeDir(t)
	var lines []string
	o.Progress = func(line string) { lines = append(lines, line) }
	c, err := Start(t.Context(), o)
	if err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(lines, "\n"))
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(c.Dir() + "/supervisor.log")
			t.Logf("progress:\n%s\nsupervisor:\n%s", strings.Join(lines, "\n"), log)
		}
		c.Close()
	})
	return c
}

func getPod(t testing.TB, c *Client, name string) *cluster.Pod {
	t.Helper()
	pods, err := c.Pods(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// run runs a command in a pod and returns its output and exit code.
func run(t testing.TB, c *Client, r ExecRequest, stdin string) (string, int) {
	t.Helper()
	return runWithin(t, c, 2*time.Minute, r, stdin)
}

func runWithin(t testing.TB, c *Client, limit time.Duration, r ExecRequest, stdin string) (string, int) {
	t.Helper()
	inR, inW, err1 := os.Pipe()
	outR, outW, err2 := os.Pipe()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	defer inR.Close()
	defer outR.Close()
	go func() {
		io.WriteString(inW, stdin)
		inW.Close()
	}()
	r.Namespace = "shop"
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	out := make(chan []byte, 1)
	go func() {
		data, _ := io.ReadAll(outR)
		out <- data
	}()
	code, err := c.Exec(ctx, r, inR, outW, outW)
	outW.Close()
	if err != nil {
		t.Fatalf("exec %q: %v", r.Command, err)
	}
	return string(<-out), code
}

func sh(script string) []string { return []string{"sh", "-c", script} }

func TestPodProcess(t *testing.T) {
	web := newTestPod("web-1", "sleep", "1000")
	web.Hostname, web.Subdomain = "web", "nginx"
	web.Containers[0].Env = []string{"COLOR=blue", "ADDR=", "URL=http://$(ADDR)/"}
	web.Containers[0].EnvFields = map[string]string{"ADDR": "status.podIP"}
	web.Containers[0].WorkingDir = "/usr"
	c := start(t, options(web))

	pod := getPod(t, c, "web-1")
	if pod.Phase != cluster.PodRunning || !pod.Ready || len(pod.IPs) != 1 || pod.Reason != "" {
		t.Fatalf("pod is %+v, want it running and ready", pod)
	}
	ip := pod.IPs[0].String()
	for _, tc := range []struct{ name, script, want string }{
		{"hostname", "hostname", "web\n"},
		{"hosts", "cat /etc/hosts | tail -1", ip + "\tweb.nginx.shop.svc.cluster.local\tweb\n"},
		{"hostname file", "cat /etc/hostname", "web\n"},
		{"resolver", "grep -v ^search /etc/resolv.conf", "options ndots:5\n"},
		{"address", "ip -4 -o addr show eth0 | awk '{print $4}'", ip + "/24\n"},
		{"variables", "echo $COLOR $ADDR $URL $HOSTNAME $HOME", "blue " + ip + " http://" + ip + "/ web /root\n"},
		{"directory", "pwd", "/usr\n"},
		{"user", "id -u; id -g", "0\n0\n"},
		{"devices in /sys", "ls /sys/class/net", "eth0\nlo\n"},
		{"loopback", "ping -c1 -W10 127.0.0.1 >/dev/null && echo up", "up\n"},
		{"no other processes' terminal", "tty", "not a tty\n"},
		{"mounts are the pod's own", "mount -t tmpfs none /mnt && ls /mnt", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, code := run(t, c, ExecRequest{Pod: "web-1", Command: sh(tc.script)}, "")
			if got != tc.want || code != 0 && tc.name != "no other processes' terminal" {
				t.Errorf("%s: got %q (code %d), want %q", tc.script, got, code, tc.want)
			}
		})
	}
	if mounts, _ := os.ReadFile("/proc/self/mounts"); bytes.Contains(mounts, []byte(" /mnt ")) {
		t.Error("a pod's mount is seen on the machine")
	}
}

func TestExec(t *testing.T) {
	c := start(t, options(newTestPod("web-1", "sleep", "1000")))
	for _, tc := range []struct {
		name, script, stdin, want string
		code                      int
	}{
		{"exit code", "exit 42", "", "", 42},
		{"killed", "kill -KILL $$", "", "", 128 + 9},
		{"input and output", "tr a-z A-Z; echo err >&2", "hello", "HELLOerr\n", 0},
		{"left behind", "sleep 1000 >/dev/null 2>&1 & echo gone", "", "gone\n", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, code := run(t, c, ExecRequest{Pod: "web-1", Command: sh(tc.script)}, tc.stdin)
			if got != tc.want || code != tc.code {
				t.Errorf("got %q, code %d, want %q, code %d", got, code, tc.want, tc.code)
			}
		})
	}
	t.Run("large input", func(t *testing.T) {
		in := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB
		got, code := run(t, c, ExecRequest{Pod: "web-1", Command: []string{"cat"}}, in)
		if got != in || code != 0 {
			t.Errorf("got %d bytes, code %d, want %d bytes", len(got), code, len(in))
		}
	})
	t.Run("errors", func(t *testing.T) {
		for _, tc := range []struct {
			req  ExecRequest
			kind error
			want string
			code int
		}{
			{ExecRequest{Pod: "web-1", Command: []string{"no-such-program"}}, ErrConflict, `command "no-such-program" was not found in PATH`, 127},
			{ExecRequest{Pod: "web-1", Command: []string{script(t, "#!/no/such/shell\n", 0o755)}}, ErrConflict, "names an interpreter or loader that does not exist", 127},
			{ExecRequest{Pod: "web-1", Command: []string{script(t, "text\n", 0o755)}}, ErrConflict, "is not a program for this machine", 126},
			{ExecRequest{Pod: "web-1", Command: []string{script(t, "#!/bin/sh\n", 0o644)}}, ErrConflict, "is not executable", 126},
			{ExecRequest{Pod: "web-9", Command: []string{"true"}}, ErrNotFound, "no pod shop/web-9", 0},
			{ExecRequest{Pod: "web-1", Container: "x", Command: []string{"true"}}, ErrNotFound, "no container x", 0},
			{ExecRequest{Pod: "web-1"}, ErrInput, "no command", 0},
		} {
			tc.req.Namespace = "shop"
			code, err := c.Exec(t.Context(), tc.req, nil, nil, nil)
			if !errors.Is(err, tc.kind) || !strings.Contains(err.Error(), tc.want) || code != tc.code {
				t.Errorf("%+v: code %d, error %v, want %d and one of kind %v with %q", tc.req, code, err, tc.code, tc.kind, tc.want)
			}
		}
	})
	t.Run("hang up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		go func() {
			r.Read(make([]byte, 1))
			cancel()
		}()
		// It ignores the hang-up, and must end all the same.
		_, err = c.Exec(ctx, ExecRequest{Namespace: "shop", Pod: "web-1", Command: sh("trap '' HUP; echo; exec sleep 4321")}, nil, w, nil)
		w.Close()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
		eventually(t, func() string {
			if out, _ := run(t, c, ExecRequest{Pod: "web-1", Command: sh("pgrep -f 'sleep 4321' | grep -v $$")}, ""); out != "" {
				return "the command is still there: " + out
			}
			return ""
		})
	})
}

// script writes a file and returns its path.
func script(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := t.TempDir() + "/script"
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExecSignal(t *testing.T) {
	c := start(t, options(newTestPod("web-1", "sleep", "1000")))
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer outR.Close()
	go func() {
		outR.Read(make([]byte, 1)) // it is ready
		unix.Kill(os.Getpid(), unix.SIGUSR1)
	}()
	code, err := c.Exec(t.Context(), ExecRequest{Namespace: "shop", Pod: "web-1",
		Command: sh("trap 'exit 7' USR1; echo; while :; do sleep 0.01; done")}, nil, outW, nil)
	outW.Close()
	if err != nil || code != 7 {
		t.Errorf("code %d, error %v, want code 7", code, err)
	}
}

func TestRestartPolicy(t *testing.T) {
	mark := t.TempDir() + "/mark"
	pod := func(name string, policy cluster.RestartPolicy, script string) *cluster.Pod {
		p := newTestPod(name, sh(script)...)
		p.RestartPolicy = policy
		return p
	}
	c := start(t, options(
		pod("never-ok", cluster.RestartNever, "exit 0"),
		pod("never-bad", cluster.RestartNever, "exit 3"),
		pod("once-more", cluster.RestartOnFailure, "test -e "+mark+" || { touch "+mark+"; exit 1; }"),
		pod("crash", cluster.RestartAlways, "echo run; kill -SEGV $$$$"),
		pod("missing", cluster.RestartAlways, "x"),
		pod("missing-never", cluster.RestartNever, "x"),
		newTestPod("fine", "sleep", "1000"),
	))
	_ = c
	for _, tc := range []struct {
		name     string
		phase    cluster.PodPhase
		reason   string
		word     string
		code     int
		restarts int
	}{
		{"never-ok", cluster.PodSucceeded, "", "Completed", 0, 0},
		{"never-bad", cluster.PodFailed, "container main: exit code 3", "Error", 3, 0},
		{"once-more", cluster.PodSucceeded, "", "Completed", 0, 1},
		{"crash", cluster.PodRunning, "container main: killed by SIGSEGV; next try at ", "CrashLoopBackOff", 139, 1},
		{"fine", cluster.PodRunning, "", "", 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eventually(t, func() string {
				p := getPod(t, c, tc.name)
				s := p.Statuses[0]
				got := fmt.Sprintf("%s %t %q %q %d %d", p.Phase, strings.HasPrefix(p.Reason, tc.reason), tc.reason, s.Reason, s.ExitCode, s.Restarts)
				want := fmt.Sprintf("%s true %q %q %d %d", tc.phase, tc.reason, tc.word, tc.code, tc.restarts)
				if got != want {
					return fmt.Sprintf("pod is %s, reason %q, want %s", got, p.Reason, want)
				}
				return ""
			})
		})
	}
}

func TestMissingCommand(t *testing.T) {
	always := newTestPod("always", "/opt/nginx", "-g", "daemon off;")
	never := newTestPod("never", "nginx-that-is-not-here")
	never.RestartPolicy = cluster.RestartNever
	two := newTestPod("two", "sleep", "1000")
	two.Containers = append(two.Containers, cluster.Container{Name: "side", Command: []string{"nothing"}})
	c := start(t, options(always, never, two))
	for _, tc := range []struct {
		name   string
		phase  cluster.PodPhase
		reason string
	}{
		{"always", cluster.PodPending, `container main: command "/opt/nginx" does not exist; a container runs`},
		{"never", cluster.PodFailed, `container main: command "nginx-that-is-not-here" was not found in PATH; a container runs`},
		{"two", cluster.PodPending, `container side: command "nothing" was not found in PATH; a container runs`},
	} {
		eventually(t, func() string {
			p := getPod(t, c, tc.name)
			if p.Phase != tc.phase || !strings.HasPrefix(p.Reason, tc.reason) || strings.Contains(p.Reason, "\n") {
				return fmt.Sprintf("pod %s is %s, reason %q, want %s, %q", tc.name, p.Phase, p.Reason, tc.phase, tc.reason)
			}
			return ""
		})
	}
	if s := getPod(t, c, "two").Statuses; !s[0].Running {
		t.Error("a broken container keeps its neighbor from running")
	}
}

func TestBuiltInServer(t *testing.T) {
	server := newTestPod("server")
	server.Containers[0].Ports = []cluster.ContainerPort{{Port: 80, Protocol: packet.ProtoTCP}, {Port: 53, Protocol: packet.ProtoUDP}, {Port: 90, Protocol: packet.ProtoSCTP}}
	c := start(t, options(server, newTestPod("client", "sleep", "1000")))
	p := getPod(t, c, "server")
	if !p.BuiltIn || !p.Ready {
		t.Errorf("built in %t, ready %t, want both", p.BuiltIn, p.Ready)
	}
	client := getPod(t, c, "client").IPs[0].String()
	want := "shop/server on node1, client " + client + ":"
	for _, script := range []string{
		"curl -s -m 20 http://" + p.IPs[0].String() + "/",
		"nc -w 20 " + p.IPs[0].String() + " 80 </dev/null",
		"echo hi | nc -u -w 1 " + p.IPs[0].String() + " 53",
	} {
		eventually(t, func() string { // a second may be too short for the datagram
			if got, _ := run(t, c, ExecRequest{Pod: "client", Command: sh(script)}, ""); !strings.HasPrefix(got, want) {
				return fmt.Sprintf("%s: %q, want %q and a port", script, got, want)
			}
			return ""
		})
	}
	if got, code := run(t, c, ExecRequest{Pod: "client", Command: []string{self, "test-sctp", client, p.IPs[0].String() + ":90"}}, ""); got != want+"40000\n" {
		t.Errorf("SCTP: %q, exit code %d, want %q and a port", got, code, want)
	}
}

// TestBuiltInServerOfUser has a server of a user who may have no raw socket.
// Either it was opened in time, or the log says what is not served.
func TestBuiltInServerOfUser(t *testing.T) {
	server := newTestPod("server")
	uid := int64(1000)
	server.RunAsUser = &uid
	server.Containers[0].Ports = []cluster.ContainerPort{{Port: 80, Protocol: packet.ProtoTCP}, {Port: 90, Protocol: packet.ProtoSCTP}}
	c := start(t, options(server, newTestPod("client", "sleep", "1000")))
	p := getPod(t, c, "server")
	if !p.Ready {
		t.Fatalf("the server is not ready: %s", p.Reason)
	}
	log, err := c.Logs(t.Context(), LogRequest{Namespace: "shop", Pod: "server"})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	said, err := io.ReadAll(log)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(said), "SCTP [90] is not served: the kernel has no SCTP") {
		return
	}
	client := getPod(t, c, "client").IPs[0].String()
	got, code := run(t, c, ExecRequest{Pod: "client", Command: []string{self, "test-sctp", client, p.IPs[0].String() + ":90"}}, "")
	if want := "shop/server on node1, client " + client + ":40000\n"; got != want {
		t.Errorf("SCTP: %q, exit code %d, want %q; the server says %s", got, code, want, said)
	}
}

// TestBuiltInServerTaken: of two containers with one SCTP port, one has it, and
// the other one says what is wrong.
func TestBuiltInServerTaken(t *testing.T) {
	two := newTestPod("two")
	two.Containers[0].Ports = []cluster.ContainerPort{{Port: 90, Protocol: packet.ProtoSCTP}}
	two.Containers = append(two.Containers, cluster.Container{Name: "side", Ports: two.Containers[0].Ports})
	c := start(t, options(two))
	eventually(t, func() string {
		p := getPod(t, c, "two")
		s := p.Statuses
		if s[0].Running == s[1].Running || !strings.Contains(p.Reason, "listen at SCTP port 90: address already in use") {
			return fmt.Sprintf("running %t and %t, reason %q", s[0].Running, s[1].Running, p.Reason)
		}
		return ""
	})
}

func TestDeletePod(t *testing.T) {
	dir := t.TempDir()
	gentle := newTestPod("gentle", sh("trap 'echo bye > "+dir+"/gentle; exit 0' TERM; touch "+dir+"/up; while :; do sleep 0.05; done")...)
	stubborn := newTestPod("stubborn", sh("trap '' TERM; setsid sleep 7654 & while :; do sleep 0.05; done")...)
	stubborn.GracePeriod = 200 * time.Millisecond
	c := start(t, options(gentle, stubborn, newTestPod("other", "sleep", "1000")))
	// Something that left all of its pod's namespaces but the network.
	run(t, c, ExecRequest{Pod: "stubborn", Command: sh("setsid sleep 8765 >/dev/null 2>&1 &")}, "")
	count := func() string {
		out, _ := run(t, c, ExecRequest{Pod: "other", Command: sh("pgrep -x sleep -a | grep -c -e 7654 -e 8765")}, "")
		return strings.TrimSpace(out)
	}
	counted := func(want string) {
		t.Helper()
		eventually(t, func() string {
			if n := count(); n != want {
				return fmt.Sprintf("%s background processes, want %s", n, want)
			}
			return ""
		})
	}
	counted("2")
	eventually(t, func() string { // and the gentle one hears what it is told
		if _, err := os.Stat(dir + "/up"); err != nil {
			return err.Error()
		}
		return ""
	})
	refs := []cluster.Ref{{Kind: cluster.KindPod, Key: gentle.Key()}, {Kind: cluster.KindPod, Key: stubborn.Key()}}
	if err := c.Delete(t.Context(), refs); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if getPod(t, c, "gentle") != nil || getPod(t, c, "stubborn") != nil {
			return "the pods are still there"
		}
		return ""
	})
	eventually(t, func() string {
		if left, _ := os.ReadDir(c.Dir() + "/" + netnsDir); len(left) != 2 {
			return fmt.Sprintf("%d namespaces left, want that of the node and of one pod", len(left))
		}
		return ""
	})
	if got, _ := os.ReadFile(dir + "/gentle"); string(got) != "bye\n" {
		t.Errorf("the gentle pod said %q, want bye", got)
	}
	counted("0") // they do not survive their pod
}

func TestLogs(t *testing.T) {
	talker := newTestPod("talker", sh("echo one; echo two >&2; printf three; sleep 1000")...)
	crash := newTestPod("crash", sh("echo $$$$; exit 1")...)
	c := start(t, options(talker, crash))
	read := func(r LogRequest) string {
		t.Helper()
		r.Namespace = "shop"
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		body, err := c.Logs(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		data, _ := io.ReadAll(body)
		return string(data)
	}
	eventually(t, func() string {
		lines := strings.Split(read(LogRequest{Pod: "talker"}), "\n")
		slices.Sort(lines)
		if got := strings.Join(lines, " "); got != " one two" && got != "one three two" {
			return fmt.Sprintf("log is %q", got)
		}
		return ""
	})
	eventually(t, func() string {
		if getPod(t, c, "crash").Restarts < 2 {
			return "no second restart"
		}
		return ""
	})
	now := read(LogRequest{Pod: "crash", LogOptions: LogOptions{Follow: true}})
	before := read(LogRequest{Pod: "crash", LogOptions: LogOptions{Previous: true}})
	if now == before || now == "" || before == "" {
		t.Errorf("logs of two runs: %q and %q", before, now)
	}
	if got := read(LogRequest{Node: "node1"}); got != "fake node node1\n" {
		t.Errorf("log of the node: %q", got)
	}
	if _, err := c.Logs(t.Context(), LogRequest{Namespace: "shop", Pod: "nobody"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("log of no pod: %v, want ErrNotFound", err)
	}
}

func TestUsers(t *testing.T) {
	pg := newTestPod("pg", "sleep", "1000")
	uid, gid := int64(4321), int64(8765)
	pg.RunAsUser, pg.RunAsGroup = &uid, &gid
	c := start(t, options(pg))
	got, _ := run(t, c, ExecRequest{Pod: "pg", Command: sh("id -u; id -g; grep CapEff /proc/self/status; hostname; tail -1 /etc/hosts | cut -f2")}, "")
	if want := "4321\n8765\nCapEff:\t0000000000000000\npg\npg\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, code := run(t, c, ExecRequest{Pod: "pg", Command: sh("ping -c1 -W10 127.0.0.1 >/dev/null && echo ok")}, ""); code != 0 {
		t.Errorf("ping as a user: %q, code %d", got, code)
	}
}

func TestInitContainers(t *testing.T) {
	dir := t.TempDir()
	p := newTestPod("app", sh("cat "+dir+"/order; sleep 1000")...)
	p.InitContainers = []cluster.Container{
		{Name: "first", Command: sh("sleep 0.2; echo first >> " + dir + "/order")},
		{Name: "proxy", Sidecar: true, Command: sh("echo proxy >> " + dir + "/order; trap 'echo proxy ends >> " + dir + "/order; exit' TERM; while :; do sleep 0.05; done")},
		{Name: "second", Command: sh("sleep 0.2; echo second >> " + dir + "/order")},
	}
	p.Containers[0].Command = sh("trap 'echo main ends >> " + dir + "/order; exit' TERM; echo main >> " + dir + "/order; while :; do sleep 0.05; done")
	bad := newTestPod("bad", "sleep", "1000")
	bad.RestartPolicy = cluster.RestartNever
	bad.InitContainers = []cluster.Container{{Name: "check", Command: sh("exit 9")}}
	c := start(t, options(p, bad))
	eventually(t, func() string {
		if got := getPod(t, c, "bad"); got.Phase != cluster.PodFailed || got.Reason != "container check: exit code 9" {
			return fmt.Sprintf("pod bad is %s, %q", got.Phase, got.Reason)
		}
		return ""
	})
	eventually(t, func() string {
		if got, _ := os.ReadFile(dir + "/order"); !strings.HasSuffix(string(got), "main\n") {
			return fmt.Sprintf("order %q: main does not run", got)
		}
		return ""
	})
	if err := c.Delete(t.Context(), []cluster.Ref{{Kind: cluster.KindPod, Key: p.Key()}}); err != nil {
		t.Fatal(err)
	}
	const want = "first\nproxy\nsecond\nmain\nmain ends\nproxy ends\n"
	eventually(t, func() string {
		if got, _ := os.ReadFile(dir + "/order"); string(got) != want {
			return fmt.Sprintf("order %q, want %q", got, want)
		}
		return ""
	})
}
