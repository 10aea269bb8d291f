package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vswitch/vswitch/netns"
	"vswitch/vswitch/netns/netnstest"
)

// nodeEnv makes the test binary a node instead: it holds its configuration.
// Nodes are processes of their own, because each lives in its own namespace.
const nodeEnv = "VSWITCH_AGENT_TEST_NODE"

func TestMain(m *testing.M) {
	if s := os.Getenv(nodeEnv); s != "" {
		if err := runNode(s); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	netnstest.Main(m)
}

func runNode(config string) error {
	var cfg Config
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the test
		os.Exit(3)
	}()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	n, err := Start(cfg, slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", cfg.Name))
	if err != nil {
		return err
	}
	return n.Run(ctx)
}

// run runs a program in a namespace and returns what it says.
func run(ns, name string, args ...string) (string, error) {
	var out []byte
	err := netns.Do(ns, func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		defer cancel()
		out, err = exec.CommandContext(ctx, name, args...).CombinedOutput()
		return err
	})
	return string(out), err
}

// eventually waits for a condition and fails with what it last said.
func eventually(t testing.TB, within time.Duration, cond func() error) {
	t.Helper()
	end := time.Now().Add(within)
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// process is a node in a namespace.
type process struct {
	*Client
	t      testing.TB
	ns     string
	cmd    *exec.Cmd
	exited chan struct{}
	stdin  io.Closer

	mu  sync.Mutex
	log strings.Builder
}

// Write takes what the process says.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// startNode starts a node in a namespace, but does not wait for it. It ends with
// the test. change may make a lesser process of it.
func startNode(t testing.TB, ns string, cfg Config, change ...func(*exec.Cmd)) *process {
	t.Helper()
	data, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, ns: ns, exited: make(chan struct{}), Client: NewClient(filepath.Join(cfg.RuntimeDir, SocketName))}
	p.cmd = exec.Command("/proc/self/exe")
	p.cmd.Env = append(os.Environ(), nodeEnv+"="+string(data))
	p.cmd.Stdout, p.cmd.Stderr = p, p
	for _, f := range change {
		f(p.cmd)
	}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	netnstest.Do(t, ns, p.cmd.Start)
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.Close()
		p.stop(syscall.SIGKILL)
		if strings.Contains(p.said(), "DATA RACE") {
			t.Error("the node has a data race")
		}
		for line := range strings.Lines(p.said()) {
			if strings.Count(line, " node=") > 1 {
				t.Errorf("the attribute node is there twice: %s", line)
			}
		}
		if t.Failed() {
			t.Logf("node %s:\n%s", cfg.Name, p.said())
		}
	})
	return p
}

// stop ends the process by a signal.
func (p *process) stop(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s) // it may have ended
	<-p.exited
}

// ready waits until the node knows that many others and gives out addresses.
func (p *process) ready(peers int) {
	p.t.Helper()
	eventually(p.t, time.Minute, func() error {
		select {
		case <-p.exited:
			return errors.New("the node ended")
		default:
		}
		s, err := p.Status(context.Background())
		if err == nil && (!s.Ready || s.Peers != peers) {
			err = fmt.Errorf("%s knows %d other nodes, want %d; ready: %v, problems %q", s.Name, s.Peers, peers, s.Ready, s.Problems)
		}
		return err
	})
}

// pod attaches a pod and returns what it got.
func (p *process) pod(r PodRequest) PodStatus {
	p.t.Helper()
	s, err := p.AttachPod(context.Background(), r)
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// nodeConfig returns the configuration of a node with ranges number i.
func nodeConfig(t testing.TB, i int) Config {
	cfg := Default()
	cfg.Name = fmt.Sprintf("node%d", i)
	dir := t.TempDir()
	cfg.RuntimeDir, cfg.StateDir = filepath.Join(dir, "run"), filepath.Join(dir, "state")
	cfg.PodCIDRs = []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%d::/64", i)),
	}
	return cfg
}
