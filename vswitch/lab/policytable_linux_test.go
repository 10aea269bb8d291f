package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vswitch/policy/policytest"
	"vswitch/vswitch/kube"
	"vswitch/vswitch/packet"
)

// Who is let through is answered, or at least refused by the pod itself, and
// testReach waits for that as long as it takes. Who is not hears nothing for so long.
const (
	answerWithin = 20 * time.Second
	silentFor    = time.Second
)

// testReach tries to reach addresses, all at a time, and prints a line for each:
// a dot if there was an answer, an X if there was none. An argument is "tcp" or
// "udp", what is expected, and where to.
func testReach(args []string) int {
	answers := make([]string, len(args)/3)
	var wg sync.WaitGroup
	for i := range answers {
		network, want, addr := args[3*i], args[3*i+1], args[3*i+2]
		limit := silentFor
		if want == "." {
			limit = answerWithin
		}
		wg.Go(func() { answers[i] = reach(network, addr, limit) })
	}
	wg.Wait()
	fmt.Println(strings.Join(answers, "\n"))
	return 0
}

func reach(network, addr string, limit time.Duration) string {
	end := time.Now().Add(limit)
	c, err := net.DialTimeout(network, addr, limit)
	for buf := make([]byte, 1500); network == "udp" && err == nil && time.Now().Before(end); {
		c.SetDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err = c.Write([]byte("hi")); err == nil {
			_, err = c.Read(buf)
		}
		if err == nil || !os.IsTimeout(err) {
			break
		}
		if time.Now().Before(end) {
			err = nil
		}
	}
	if c != nil {
		c.Close()
	}
	switch {
	case err == nil || errors.Is(err, unix.ECONNREFUSED):
		return "."
	case os.IsTimeout(err):
		return "X"
	}
	return err.Error()
}

// TestPolicyTables runs truth tables with processes and sockets: every pod tries
// to reach every other one.
func TestPolicyTables(t *testing.T) {
	chosen := []string{"union", "named-ports-ingress", "named-ports-egress", "cluster-tiers", "old-forms", "deny-ingress", "invalid"}
	if testing.Short() {
		chosen = chosen[:2]
	}
	for _, table := range policytest.Read(t, "../../policy/testdata") {
		if slices.Contains(chosen, table.Name) {
			t.Run(table.Name, func(t *testing.T) { testTable(t, &table) })
		}
	}
}

// cell is a question of a table, put to a sender.
type cell struct {
	matrix, to string
	args       []string
	want       bool
}

func testTable(t *testing.T, table *policytest.Table) {
	o := manifests(t, string(table.Manifests))
	if table.Invalid != nil {
		_, _, err := kube.Parse(table.File, table.Invalid)
		in := kube.StandIns(err)
		o.NetworkPolicies = append(o.NetworkPolicies, in.NetworkPolicies...)
		o.ClusterNetworkPolicies = append(o.ClusterNetworkPolicies, in.ClusterNetworkPolicies...)
	}
	t.Setenv(realNodes, "1")
	opts := options()
	opts.Nodes, opts.Objects = 0, o
	c := start(t, opts)
	ips := map[string][]netip.Addr{}
	pods, err := c.Pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		if !p.HostNetwork {
			ips[p.Key().String()] = p.IPs
		}
	}
	questions := map[string][]cell{} // by sender
	for _, m := range table.Matrices {
		if m.Proto != packet.ProtoTCP && m.Proto != packet.ProtoUDP {
			continue
		}
		for i, from := range m.From {
			for j, to := range m.To {
				if ips[from] == nil || ips[to] == nil || from == to {
					continue
				}
				k := slices.IndexFunc(ips[to], func(a netip.Addr) bool { return a.Is6() == m.IPv6 })
				if k < 0 {
					t.Fatalf("%s has no address for %s", to, m.Name)
				}
				want := map[bool]string{true: ".", false: "X"}[m.Allowed[i][j]]
				questions[from] = append(questions[from], cell{m.Name, to,
					[]string{packet.ProtoName(m.Proto), want, netip.AddrPortFrom(ips[to][k], m.Port).String()}, m.Allowed[i][j]})
			}
		}
	}
	if len(questions) == 0 {
		t.Fatal("nobody is asked anything")
	}
	var wg sync.WaitGroup
	for from, cells := range questions {
		wg.Go(func() { askAll(t, c, from, cells) })
	}
	wg.Wait()
}

// askAll has a pod try what a table asks of it.
func askAll(t *testing.T, c *Client, from string, cells []cell) {
	command := []string{thisProgram(t), "test-reach"}
	for _, q := range cells {
		command = append(command, q.args...)
	}
	namespace, name, _ := strings.Cut(from, "/")
	null, err1 := os.Open(os.DevNull)
	r, w, err2 := os.Pipe()
	if err := errors.Join(err1, err2); err != nil {
		t.Error(err)
		return
	}
	defer null.Close()
	defer r.Close()
	said := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(r)
		said <- string(text)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 2*answerWithin)
	defer cancel()
	code, err := c.Exec(ctx, ExecRequest{Namespace: namespace, Pod: name, Command: command}, null, w, w)
	w.Close()
	lines := strings.Fields(<-said)
	if err != nil || code != 0 || len(lines) != len(cells) {
		t.Errorf("pod %s: exit code %d, %v: %q", from, code, err, lines)
		return
	}
	for i, q := range cells {
		if (lines[i] == ".") != q.want {
			t.Errorf("%s from %s to %s: %s, want %v", q.matrix, from, q.to, lines[i], q.args[1])
		}
	}
}
