package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/netns/netnstest"
)

// nodeEnv makes the test binary a node instead: it holds its configuration as
// JSON. What a node costs can only be seen of a process of its own.
const nodeEnv = "VSWITCH_BENCH_NODE"

func runNode(config string) error {
	cfg := agent.Default()
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	n, err := agent.Start(cfg, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		return err
	}
	return n.Run(ctx)
}

// startNode starts the i-th node of a cluster as a process with a number of
// pods, and returns its process id. All nodes join the first one.
func startNode(tb testing.TB, i, pods int) int {
	tb.Helper()
	at := func(i int, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(i)}), port)
	}
	dir := tb.TempDir()
	cfg := agent.Default()
	cfg.Name, cfg.RuntimeDir, cfg.StateDir = fmt.Sprintf("node%d", i), dir, dir
	cfg.PodCIDRs = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24)}
	cfg.Overlay.Listen, cfg.Gossip.Listen = at(i, 8472), at(i, 7946)
	cfg.Gossip.Join = []netip.AddrPort{at(1, 7946)}
	config, err := json.Marshal(cfg)
	must(tb, err)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), nodeEnv+"="+string(config))
	cmd.Stderr = os.Stderr
	must(tb, cmd.Start())
	tb.Cleanup(func() {
		must(tb, cmd.Process.Signal(syscall.SIGTERM))
		must(tb, cmd.Wait())
	})

	client := agent.NewClient(filepath.Join(dir, "node.sock"))
	tb.Cleanup(client.Close)
	for deadline := time.Now().Add(time.Minute); ; {
		st, err := client.Status(tb.Context())
		if err == nil && st.Ready && st.Peers == i-1 {
			break
		}
		if time.Now().After(deadline) {
			tb.Fatalf("node%d is not ready: %+v, %v", i, st, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	for k := range pods {
		name := fmt.Sprintf("pod%d", k)
		_, err := client.AttachPod(tb.Context(), agent.PodRequest{Namespace: "bench", Name: name, UID: name, PortSpec: agent.PortSpec{NetNS: namespace(tb, name)}})
		must(tb, err)
	}
	return cmd.Process.Pid
}

// BenchmarkNodeMemory: resident memory of a node process with 100 pods that
// sees two other nodes.
func BenchmarkNodeMemory(b *testing.B) {
	netnstest.Need(b)
	startNode(b, 1, 0)
	startNode(b, 2, 0)
	pid := startNode(b, 3, 100)
	b.ReportMetric(residentMiB(b, pid), "RSS-MiB")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkNodeIdle: processor time of a node with 10 pods that do nothing, and
// two other nodes, in percent of one processor.
func BenchmarkNodeIdle(b *testing.B) {
	netnstest.Need(b)
	startNode(b, 1, 0)
	startNode(b, 2, 0)
	pid := startNode(b, 3, 10)
	n, each := rounds()
	var used []float64
	for range n {
		before := cpuTime(b, pid)
		time.Sleep(2 * each)
		used = append(used, 100*float64(cpuTime(b, pid)-before)/float64(2*each))
	}
	b.ReportMetric(median(used), "%cpu")
	b.ReportMetric(0, "ns/op")
}

// residentMiB returns the resident memory of a process.
func residentMiB(tb testing.TB, pid int) float64 {
	tb.Helper()
	n, err := resident(pid)
	must(tb, err)
	return n
}

// resident reads the resident memory of a process (proc_pid_status(5)), MiB.
func resident(pid int) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	kib, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, err := strconv.ParseFloat(kib, 64)
	return n / 1024, err
}

// cpuTime returns how long the threads of a process have run: the first number
// in schedstat, nanoseconds (Documentation/scheduler/sched-stats.rst).
func cpuTime(tb testing.TB, pid int) (sum time.Duration) {
	tb.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	must(tb, err)
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // the thread ended
		}
		ns, _, _ := strings.Cut(string(data), " ")
		n, err := strconv.ParseInt(ns, 10, 64)
		must(tb, err)
		sum += time.Duration(n)
	}
	return sum
}
