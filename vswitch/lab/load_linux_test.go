package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/kube"
)

// testWeb is a server that does not drain: SIGTERM ends it at once, also amid a
// request. It answers its version.
func testWeb(addr, version string) int {
	fmt.Println(http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(5 * time.Millisecond) // the time in which it may be hit
		fmt.Fprintln(w, version)
	})))
	return 1
}

// testLoad asks a URL from several clients at once, until its standard input
// ends, and prints a loadReport. Half of the clients make a connection for each
// request, the other half keep theirs.
func testLoad(url string) int {
	const clients = 8
	done := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(done)
	}()
	var mu sync.Mutex
	report := loadReport{Answers: map[string]int{}}
	var wg sync.WaitGroup
	for i := range clients {
		fresh := i%2 == 0
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: fresh}, Timeout: 20 * time.Second}
		pause := 50 * time.Millisecond
		if fresh {
			pause = 5 * time.Millisecond
		}
		wg.Go(func() {
			for {
				began := time.Now()
				body, err := get(&client, url)
				mu.Lock()
				report.Requests++
				report.Longest = max(report.Longest, time.Since(began))
				if err != nil {
					report.Failed = append(report.Failed, fmt.Sprintf("%s fresh=%v after %s: %v", began.Format("05.000"), fresh, time.Since(began), err))
				} else {
					report.Answers[body]++
				}
				mu.Unlock()
				select {
				case <-done:
					return
				case <-time.After(pause):
				}
			}
		})
	}
	wg.Wait()
	json.NewEncoder(os.Stdout).Encode(&report)
	return 0
}

// loadReport is what testLoad saw.
type loadReport struct {
	Requests int
	Failed   []string
	Longest  time.Duration
	Answers  map[string]int
}

func get(c *http.Client, url string) (string, error) {
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(body)), err
}

// background is a command in a pod that runs until it is told to end.
type background struct {
	in   *os.File
	done chan struct{}
	code int
	err  error

	mu  sync.Mutex
	out []byte
}

// Write takes what the command writes.
func (b *background) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.out = append(b.out, p...)
	return len(p), nil
}

// said is what the command has written so far.
func (b *background) said() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.out)
}

// inBackground starts a command that ends with its standard input.
func inBackground(t testing.TB, c *Client, r ExecRequest) *background {
	t.Helper()
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	b := &background{in: inW, done: make(chan struct{})}
	if r.Namespace == "" {
		r.Namespace = "shop"
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(b, outR)
		outR.Close()
	}()
	go func() {
		defer close(b.done)
		b.code, b.err = c.Exec(context.Background(), r, inR, outW, outW)
		inR.Close()
		outW.Close()
		<-read
	}()
	t.Cleanup(func() { b.in.Close() })
	return b
}

// end tells the command to end and returns what it wrote.
func (b *background) end(t testing.TB) string {
	t.Helper()
	b.in.Close()
	select {
	case <-b.done:
	case <-time.After(time.Minute):
		t.Fatal("the command does not end")
	}
	if b.err != nil || b.code != 0 {
		t.Errorf("exit code %d, error %v: %s", b.code, b.err, b.out)
	}
	return string(b.out)
}

// manifests reads objects. Probes are made often, so that a test is short.
func manifests(t testing.TB, text string) *cluster.Objects {
	t.Helper()
	o, _, err := kube.Load([]string{"-"}, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range o.Deployments {
		for i := range d.Template.Containers {
			if r := d.Template.Containers[i].Readiness; r != nil {
				r.Period = 50 * time.Millisecond
			}
		}
	}
	return o
}

// clusterOf starts real nodes with objects.
func clusterOf(t testing.TB, nodes int, text string) *Client {
	t.Helper()
	t.Setenv(realNodes, "1")
	o := options()
	o.Nodes, o.Objects = nodes, manifests(t, text)
	return start(t, o)
}

// apply applies and waits until it is in force.
func apply(t testing.TB, c *Client, o *cluster.Objects) {
	t.Helper()
	if _, err := c.Apply(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitInForce(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// thisProgram is the path of the test binary.
func thisProgram(t testing.TB) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// serviceAt returns host and port of the first cluster IP of a service.
func serviceAt(t testing.TB, c *Client, name string, port string) string {
	t.Helper()
	s, err := c.State(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range s.Services {
		if v.Name == name && len(v.ClusterIPs) > 0 {
			return net.JoinHostPort(v.ClusterIPs[0].String(), port)
		}
	}
	t.Fatalf("there is no service %s", name)
	return ""
}
