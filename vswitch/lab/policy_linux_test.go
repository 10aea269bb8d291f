package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/cluster"
)

// firstPatience is how long testFirst waits for an answer.
const firstPatience = 8 * time.Second

// testFirst sends a datagram from a new socket every 50 ms, the first one at
// once, and prints a line for each, in their order: the moments between which it
// was sent, in Unix microseconds, and what came back.
func testFirst(addr string) int {
	lines := make(chan chan string, 2*firstPatience/(50*time.Millisecond))
	go func() {
		for line := range lines {
			fmt.Println(<-line)
		}
	}()
	for tick := time.NewTicker(50 * time.Millisecond); ; <-tick.C {
		line := make(chan string, 1)
		lines <- line
		go func() { line <- first(addr) }()
	}
}

func first(addr string) string {
	buf := make([]byte, 1500)
	sent := time.Now()
	gone := sent
	n, err := 0, error(nil)
	c, err := net.Dial("udp", addr)
	if err == nil {
		c.SetDeadline(sent.Add(firstPatience))
		_, err = c.Write([]byte("hi"))
		if gone = time.Now(); err == nil {
			n, err = c.Read(buf)
		}
		c.Close()
	}
	what := string(buf[:n])
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		what = "refused"
	case err != nil && os.IsTimeout(err):
		what = "silence"
	case err != nil:
		what = err.Error()
	}
	return fmt.Sprintf("%d %d %s", sent.UnixMicro(), gone.UnixMicro(), what)
}

// isolated lets friends, and whoever a label of their namespace makes one, speak
// to the server web at the port that it calls dns.
const isolated = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {name: web}}
  ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}], ports: [{port: dns, protocol: UDP}]}]
---
`

// guardedPod is the server web on a node.
const guardedPod = `
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {name: web}}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 1
  containers: [{name: main, command: [%[2]q, test-answer, web, "9001"], ports: [{name: dns, containerPort: 9001, protocol: UDP}]}]
---
`

// asker is a pod named %[1]s with the role %[2]s on %[3]s, that asks %[5]s.
const asker = `
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: shop, labels: {role: %[2]s}}
spec:
  nodeName: %[3]s
  terminationGracePeriodSeconds: 0
  containers: [{name: main, command: [%[4]q, test-first, %[5]q]}]
---
`

// answered is a line of testFirst.
type answered struct {
	sent, gone time.Time // it was sent between them
	what       string
}

// answers reads what a pod's testFirst has said, at least n lines.
func answers(t *testing.T, c *Client, pod string, n int) (out []answered) {
	t.Helper()
	eventually(t, func() string {
		body, err := c.Logs(context.Background(), LogRequest{Namespace: "shop", Pod: pod})
		if err != nil {
			return err.Error()
		}
		defer body.Close()
		text, err := io.ReadAll(body)
		if err != nil {
			return err.Error()
		}
		out = nil
		for line := range strings.Lines(string(text)) {
			if w := strings.SplitN(strings.TrimSpace(line), " ", 3); len(w) == 3 {
				sent, _ := strconv.ParseInt(w[0], 10, 64)
				gone, _ := strconv.ParseInt(w[1], 10, 64)
				out = append(out, answered{time.UnixMicro(sent), time.UnixMicro(gone), w[2]})
			}
		}
		if len(out) < n {
			return fmt.Sprintf("pod %s said %d lines, want %d", pod, len(out), n)
		}
		return ""
	})
	return out
}

// TestB21PolicyInCluster: a new pod is judged by its labels from its first packet,
// on its own node and on others: who may speak is answered at once, who may not is
// never. When apply returns, labels and policies are in force on all nodes. A node
// that was killed lets nobody in who may not.
func TestB21PolicyInCluster(t *testing.T) {
	exe := thisProgram(t)
	c := clusterOf(t, 2, fmt.Sprintf(guardedPod, "node1", exe)+isolated)
	listening(t, c, "udp", 9001, "web")
	ip := getPod(t, c, "web").IPs[0].String()
	addr := net.JoinHostPort(ip, "9001")
	put := func(name, role, node string) {
		t.Helper()
		apply(t, c, manifests(t, fmt.Sprintf(asker, name, role, node, exe, addr)))
	}
	for i := range 4 {
		for _, node := range []string{"node1", "node2"} {
			put(fmt.Sprintf("friend-%s-%d", node, i), "friend", node)
			put(fmt.Sprintf("foe-%s-%d", node, i), "foe", node)
		}
	}
	for _, node := range []string{"node1", "node2"} {
		for i := range 4 {
			friend, foe := fmt.Sprintf("friend-%s-%d", node, i), fmt.Sprintf("foe-%s-%d", node, i)
			for k, a := range answers(t, c, friend, 5) {
				if a.what != "web 9001" {
					t.Errorf("%s, datagram %d: %s, want an answer", friend, k, a.what)
				}
			}
			for k, a := range answers(t, c, foe, 3) {
				if a.what != "silence" {
					t.Errorf("%s, datagram %d: %s, want silence", foe, k, a.what)
				}
			}
		}
	}
	// between are the words of a pod between two moments; there must be some.
	between := func(pod string, from, to time.Time, want string) {
		t.Helper()
		n := 0
		var all []answered
		eventually(t, func() string {
			if all = answers(t, c, pod, 1); all[len(all)-1].sent.Before(to) {
				return pod + " says nothing any more"
			}
			return ""
		})
		for _, a := range all {
			if a.sent.Before(from) || !a.gone.Before(to) {
				continue
			}
			if n++; a.what != want {
				t.Errorf("%s %v after the change: %s, want %s", pod, a.sent.Sub(from), a.what, want)
			}
		}
		if n == 0 {
			t.Errorf("%s said nothing", pod)
		}
	}
	phase := func(change func()) (from, to time.Time) {
		change()
		from = time.Now()
		for range 20 { // while it is in force; a machine that stalls takes one of the naps
			time.Sleep(50 * time.Millisecond)
		}
		to = time.Now()
		time.Sleep(200 * time.Millisecond) // the nodes judge what was sent, before the next change
		return from, to
	}
	pods := []string{"foe-node1-0", "foe-node2-0"}
	var checks []func() // of all phases in the end: silence takes its time
	later := func(from, to time.Time, want string) {
		checks = append(checks, func() {
			t.Helper()
			for _, p := range pods {
				between(p, from, to, want)
			}
		})
	}
	relabel := func(role string) func() {
		return func() { put(pods[0], role, "node1"); put(pods[1], role, "node2") }
	}
	from, to := phase(relabel("friend"))
	later(from, to, "web 9001")
	from, to = phase(relabel("foe"))
	later(from, to, "silence")
	from, to = phase(func() {
		ref := cluster.Ref{Kind: cluster.KindNetworkPolicy, Key: cluster.Key{Namespace: "shop", Name: "web"}}
		if err := c.Delete(t.Context(), []cluster.Ref{ref}); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitInForce(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	later(from, to, "web 9001")
	from, to = phase(func() { apply(t, c, manifests(t, isolated)) })
	later(from, to, "silence")

	began := time.Now()
	for _, node := range []string{"node1", "node2"} {
		if err := c.KillNode(t.Context(), node); err != nil {
			t.Fatal(err)
		}
	}
	friends := []string{"friend-node1-0", "friend-node2-0"}
	eventually(t, func() string {
		for _, p := range friends {
			if all := answers(t, c, p, 1); all[len(all)-1].what != "web 9001" || all[len(all)-1].sent.Before(began.Add(time.Second)) {
				return p + " is not answered when the nodes are back"
			}
		}
		return ""
	})
	later(began, time.Now(), "silence")
	for _, check := range checks {
		check()
	}
	eventually(t, func() string {
		drops := map[string]uint64{}
		states, err := c.Policies(t.Context(), false)
		for _, s := range states {
			for _, d := range s.Drops {
				if d.Policy == "NetworkPolicy shop/web" && d.Pod == "shop/web" && d.Direction == "ingress" {
					drops[s.Node] += d.Packets
				}
			}
		}
		if err != nil || len(states) != 2 || drops["node1"] == 0 || drops["node2"] != 0 {
			return fmt.Sprintf("the nodes tell of %+v, error %v; want drops of shop/web on node1, where it is", states, err)
		}
		return ""
	})
}
