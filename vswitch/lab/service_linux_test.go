package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/cluster"
)

// testAnswer is a server that answers datagrams on some ports with its name and
// the port.
func testAnswer(name string, ports []string) int {
	for _, port := range ports {
		c, err := net.ListenPacket("udp", ":"+port)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		go func() {
			buf := make([]byte, 1500)
			for {
				if _, from, err := c.ReadFrom(buf); err == nil {
					c.WriteTo([]byte(name+" "+port), from)
				}
			}
		}()
	}
	select {}
}

// udpPatience is how long testUDP waits for an answer.
const udpPatience = 5 * time.Second

// testUDP sends up to ten datagrams a second to an address, from one socket, until its
// standard input ends, and prints a line for each: when it was sent, in Unix
// milliseconds, and what came back.
func testUDP(addr string) int {
	done := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(done)
	}()
	c, err := net.Dial("udp", addr)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	buf := make([]byte, 1500)
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		select {
		case <-done:
			return 0
		case <-tick.C:
		}
		sent := time.Now()
		c.SetDeadline(sent.Add(udpPatience))
		n, err := 0, error(nil)
		if _, err = c.Write([]byte("hi")); err == nil {
			n, err = c.Read(buf)
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
		fmt.Printf("%d %s\n", sent.UnixMilli(), what)
	}
}

// sentAt is when the datagram of a line of testUDP was sent. The line is whole.
func sentAt(line string) (at time.Time, ok bool) {
	ms, _, _ := strings.Cut(line, " ")
	n, err := strconv.ParseInt(ms, 10, 64)
	return time.UnixMilli(n), err == nil && strings.HasSuffix(line, "\n")
}

// udpService has %[1]s as selector and %[2]d as target port.
const udpService = `
apiVersion: v1
kind: Service
metadata: {name: udp, namespace: shop}
spec: {selector: {%[1]s}, ports: [{port: 53, protocol: UDP, targetPort: %[2]d}]}
---
`

// udpPod is a server named %[1]s on %[2]s, with the program %[3]q.
const udpPod = `
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: shop, labels: {name: %[1]s, group: x}}
spec:
  nodeName: %[2]s
  terminationGracePeriodSeconds: 1
  containers: [{name: main, command: [%[3]q, test-answer, %[1]s, "9001", "9002"]}]
---
`

// TestB01B02B03B05UDP: datagrams of one socket go to who is behind the service
// now. When a change is in force on all nodes, not one goes to who was before.
func TestB01B02B03B05UDP(t *testing.T) {
	exe := thisProgram(t)
	c := clusterOf(t, 2, clientPods+fmt.Sprintf(udpPod, "a", "node1", exe)+fmt.Sprintf(udpPod, "b", "node2", exe)+fmt.Sprintf(udpService, "name: a", 9001))
	for _, port := range []int{9001, 9002} {
		listening(t, c, "udp", port, "a", "b")
	}
	addr := serviceAt(t, c, "udp", "53")
	type phase struct {
		name, want string
		do         func()
		from, to   time.Time // while it was in force
	}
	change := func(selector string, port int) func() {
		return func() { apply(t, c, manifests(t, fmt.Sprintf(udpService, selector, port))) }
	}
	phases := []phase{
		{name: "at first", want: "a 9001", do: func() {}},
		{name: "B05 other target port", want: "a 9002", do: change("name: a", 9002)},
		{name: "B01 other endpoint", want: "b 9002", do: change("name: b", 9002)},
		{name: "B03 none", want: "refused", do: change("name: nobody", 9002)},
		{name: "B02 one again", want: "b 9002", do: change("name: b", 9002)},
		{name: "another is added", want: "b 9002", do: change("group: x", 9002)},
		{name: "B01 its pod is deleted", want: "a 9002", do: func() {
			if err := c.Delete(t.Context(), []cluster.Ref{{Kind: cluster.KindPod, Key: cluster.Key{Namespace: "shop", Name: "b"}}}); err != nil {
				t.Fatal(err)
			}
			// Datagrams stay with a pod that ends, as in kube-proxy: it may have
			// something to finish.
			eventually(t, func() string {
				if getPod(t, c, "b") != nil {
					return "the pod does not end"
				}
				return ""
			})
			if err := c.WaitInForce(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
	}
	clients := map[string]*background{}
	for _, pod := range []string{"client1", "client2"} {
		clients[pod] = inBackground(t, c, ExecRequest{Pod: pod, Command: []string{exe, "test-udp", addr}})
	}
	// sent waits until each client has sent n datagrams since a moment, and is done
	// with them.
	sent := func(since time.Time, n int) {
		t.Helper()
		for pod, b := range clients {
			eventually(t, func() string {
				k := 0
				for line := range strings.Lines(b.said()) {
					if at, ok := sentAt(line); ok && !at.Before(since) {
						k++
					}
				}
				if k < n {
					return fmt.Sprintf("%s sent %d datagrams, want %d", pod, k, n)
				}
				return ""
			})
		}
	}
	for i := range phases {
		p := &phases[i]
		began := time.Now()
		p.do()
		p.from = time.Now()
		if took := p.from.Sub(began); took > 10*time.Second {
			t.Errorf("%s took %s", p.name, took)
		}
		// A client may still wait for an answer to what it sent before. What it sent
		// while the change was in force has been judged when it sends the next one.
		sent(p.from, 10)
		p.to = time.Now()
		sent(p.to, 1)
	}
	for pod, b := range clients {
		out := b.end(t)
		for _, p := range phases {
			t.Run(p.name+"/"+pod, func(t *testing.T) {
				seen := 0
				for line := range strings.Lines(out) {
					at, what, _ := strings.Cut(strings.TrimSpace(line), " ")
					if sent, ok := sentAt(line); !ok || sent.Before(p.from) || !sent.Before(p.to) {
						continue
					}
					if seen++; what != p.want {
						t.Errorf("at %s: %q, want %q", at, what, p.want)
					}
				}
				if seen == 0 {
					t.Errorf("no datagram was sent; all there is:\n%s", out)
				}
			})
		}
	}
}

// affinityService has %[1]s in its spec; four servers are behind it.
const affinityService = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {%[1]s selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
`

// TestB17Affinity: a client stays with a pod while it is there, and with a new
// one when it is gone; without affinity it does not.
func TestB17Affinity(t *testing.T) {
	sticky := fmt.Sprintf(affinityService, "sessionAffinity: ClientIP,")
	text := fmt.Sprintf(webService, "one", "")
	c := clusterOf(t, 2, clientPods+text[strings.Index(text, "---"):]+"\n---\n"+sticky)
	url := "http://" + serviceAt(t, c, "web", "80") + "/"
	ask := func(pod string) map[string]int {
		t.Helper()
		got, _ := run(t, c, ExecRequest{Pod: pod, Command: sh("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do curl -sS -m 20 " + url + " 2>&1; done")}, "")
		names := map[string]int{}
		for s := bufio.NewScanner(strings.NewReader(got)); s.Scan(); {
			name, _, _ := strings.Cut(s.Text(), " ")
			if name == "curl:" {
				name = s.Text() // why it failed
			}
			names[strings.TrimPrefix(name, "shop/")]++
		}
		return names
	}
	only := func(names map[string]int) string {
		t.Helper()
		for name, n := range names {
			if len(names) == 1 && n == 16 && !strings.HasPrefix(name, "curl:") {
				return name
			}
		}
		t.Errorf("16 requests were answered by %v, want one pod", names)
		return ""
	}
	for _, pod := range []string{"client1", "client2"} {
		first := only(ask(pod))
		if again := only(ask(pod)); again != first {
			t.Errorf("%s was with %s, and now is with %s", pod, first, again)
		}
		if err := c.Delete(t.Context(), []cluster.Ref{{Kind: cluster.KindPod, Key: cluster.Key{Namespace: "shop", Name: first}}}); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitInForce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if next := only(ask(pod)); next == first {
			t.Errorf("%s is still with %s, which is deleted", pod, first)
		}
	}
	// That 16 requests are answered by one of four is as likely as 1 in 4^15.
	eventually(t, func() string {
		if n := len(slices.DeleteFunc(podsOf(t, c, "web"), func(p *cluster.Pod) bool { return !p.Ready })); n != 4 {
			return fmt.Sprintf("%d pods are ready, want 4", n)
		}
		return ""
	})
	apply(t, c, manifests(t, fmt.Sprintf(affinityService, "sessionAffinity: None,")))
	if names := ask("client1"); len(names) < 2 || slices.ContainsFunc(sortedKeys(names), func(name string) bool { return strings.HasPrefix(name, "curl:") }) {
		t.Errorf("without affinity, all are answered by %v", names)
	}
	apply(t, c, manifests(t, sticky))
	only(ask("client1"))
}

// localService is a deployment of one pod on node1, whose old pod ends as soon as
// the new one is made, behind a node port with policy Local.
const localService = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {type: NodePort, externalTrafficPolicy: Local, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}
  template:
    metadata: {labels: {app: web, version: %[1]q}}
    spec:
      nodeName: node1
      terminationGracePeriodSeconds: 10
      containers: [{name: main, ports: [{containerPort: 8080}]}]
---
`

// TestB25LocalRollingUpdate: with policy Local, the one pod of a node that ends
// serves until its successor does.
func TestB25LocalRollingUpdate(t *testing.T) {
	c := clusterOf(t, 2, fmt.Sprintf(localService, "one"))
	s, err := c.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + net.JoinHostPort(s.Nodes[0].Addresses[0].String(), "30080") + "/"
	load := inBackground(t, c, ExecRequest{Outside: true, Command: []string{thisProgram(t), "test-load", url}})
	for _, version := range []string{"two", "three"} {
		time.Sleep(200 * time.Millisecond)
		apply(t, c, manifests(t, fmt.Sprintf(localService, version)))
		rolledOut(t, c, version)
	}
	noneFailed(t, load, 50)
}

// TestB04NodesDie: requests and connections through services go on when the
// processes of the nodes are killed, and are back before they are missed. On a
// machine that takes too long for that it is tried again.
func TestB04NodesDie(t *testing.T) {
	for range 5 {
		if nodesDie(t) {
			return
		}
		t.Log("a node was given up before it was back")
	}
	t.Error("this machine is too slow for this test: it takes more than a second to restart a node, each time")
}

// nodesDie reports whether the killed nodes were back before they were missed.
func nodesDie(t *testing.T) bool {
	exe := thisProgram(t)
	c := clusterOf(t, 2, clientPods+fmt.Sprintf(webService, "one", "")+"---"+fmt.Sprintf(ticksService, exe))
	url := "http://" + serviceAt(t, c, "web", "80") + "/"
	var loads, holds []*background
	for _, pod := range []string{"client1", "client2"} {
		loads = append(loads, inBackground(t, c, ExecRequest{Pod: pod, Command: []string{exe, "test-load", url}}))
		holds = append(holds, inBackground(t, c, ExecRequest{Pod: pod, Command: []string{exe, "test-hold", serviceAt(t, c, "ticks", "80")}}))
	}
	time.Sleep(300 * time.Millisecond)
	nodes := []string{"node1", "node2"}
	for _, n := range nodes {
		if err := c.KillNode(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		waitReady(t, c)
		time.Sleep(300 * time.Millisecond)
	}
	missed := false
	for _, n := range nodes {
		log, err := c.Logs(t.Context(), LogRequest{Node: n})
		if err != nil {
			t.Fatal(err)
		}
		said, _ := io.ReadAll(log)
		log.Close()
		missed = missed || strings.Contains(string(said), "how=failed")
	}
	for _, l := range loads {
		if missed {
			l.end(t)
			continue
		}
		noneFailed(t, l, 8)
	}
	for _, h := range holds {
		var r holdReport
		if err := json.Unmarshal([]byte(h.end(t)), &r); err != nil {
			t.Fatalf("%v: %s", err, h.out)
		}
		if !missed && (r.Resets > 0 || r.Connections != 12 || r.Ticks < 12) {
			t.Errorf("of %d connections %d ended, %d ticks came", r.Connections, r.Resets, r.Ticks)
		}
	}
	return !missed
}
