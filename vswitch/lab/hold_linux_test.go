package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/cluster"
)

// testTicks is a server of connections that live long: to each line it answers,
// and to "watch" it says something five times a second, and hears no more. "die"
// kills it.
func testTicks(addr string) int {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return 1
		}
		go func() {
			defer c.Close()
			for in := bufio.NewScanner(c); in.Scan(); {
				if in.Text() == "die" {
					_ = unix.Kill(os.Getpid(), unix.SIGKILL)
				}
				for watch := in.Text() == "watch"; ; {
					time.Sleep(200 * time.Millisecond)
					if _, err := fmt.Fprintln(c, "tick"); err != nil {
						return
					}
					if !watch {
						break
					}
				}
			}
		}()
	}
}

// testDie kills the server of ticks at an address.
func testDie(addr string) int {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return 1
	}
	fmt.Fprintln(c, "die")
	_, _ = c.Read(make([]byte, 1))
	return 0
}

// patience is how long a client of testHold waits for a tick before it says that
// its connection hangs. One that does hangs for minutes, and a busy machine may
// take seconds.
const patience = 10 * time.Second

// holdReport is what the clients of testHold saw.
type holdReport struct {
	Connections, Ticks, Resets int
	Longest                    time.Duration // until a tick, or the end of the connection
	Hanging                    []string
}

// testHold holds twelve connections, half of whose clients only listen, and
// makes others when they end, until its standard input ends.
func testHold(addr string) int {
	done := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(done)
	}()
	var mu sync.Mutex
	var r holdReport
	ended := func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	}
	hold := func(say string) {
		c, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			time.Sleep(20 * time.Millisecond) // the one chosen is gone, and nobody knows it yet
			return
		}
		defer c.Close()
		in := bufio.NewReader(c)
		fmt.Fprintln(c, say)
		for !ended() {
			began := time.Now()
			c.SetReadDeadline(began.Add(patience))
			_, err := in.ReadString('\n')
			mu.Lock()
			r.Longest = max(r.Longest, time.Since(began))
			switch {
			case err == nil:
				r.Ticks++
			case os.IsTimeout(err):
				r.Hanging = append(r.Hanging, fmt.Sprintf("%s %s from %s since %s", say, addr, c.LocalAddr(), began.Format("05.000")))
			default:
				r.Resets++
			}
			mu.Unlock()
			if err != nil {
				return
			}
			if say != "watch" {
				fmt.Fprintln(c, say)
			}
		}
	}
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			for !ended() {
				mu.Lock()
				r.Connections++
				mu.Unlock()
				hold([]string{"watch", "ask"}[i%2])
			}
		})
	}
	wg.Wait()
	json.NewEncoder(os.Stdout).Encode(&r)
	return 0
}

// ticksService is a server of connections that live long, behind a service.
const ticksService = `
apiVersion: v1
kind: Service
metadata: {name: ticks, namespace: shop}
spec: {selector: {app: ticks}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: ticks, namespace: shop}
spec:
  replicas: 6
  selector: {matchLabels: {app: ticks}}
  template:
    metadata: {labels: {app: ticks}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, command: [%q, test-ticks, ":8080"], readinessProbe: {tcpSocket: {port: 8080}}}]
`

// deaths, in the environment, is how long TestB16PodsDieAtRandom kills.
const deaths = "VSWITCH_TEST_DEATHS"

// TestB16PodsDieAtRandom: 24 clients hold connections through a service while
// its pods are deleted, have their process killed, or are taken off their node so
// that nobody says goodbye. No connection hangs, even if its client only listens.
func TestB16PodsDieAtRandom(t *testing.T) {
	exe := thisProgram(t)
	c := clusterOf(t, 2, clientPods+fmt.Sprintf(ticksService, exe))
	addr := serviceAt(t, c, "ticks", "80")
	var holds []*background
	for _, pod := range []string{"client1", "client2"} {
		holds = append(holds, inBackground(t, c, ExecRequest{Pod: pod, Command: []string{exe, "test-hold", addr}}))
	}
	period := 4 * time.Second
	if s := os.Getenv(deaths); s != "" {
		var err error
		if period, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	ways := []string{"delete", "kill", "unplug"}
	// Twelve connections are on six pods: each death ends some of them, all but
	// surely, and a dozen of them do. A slow machine takes longer for that.
	died := 0
	for n, end := 0, time.Now().Add(period); time.Now().Before(end) || died < 12 && time.Now().Before(end.Add(time.Minute)); n++ {
		pods := slices.DeleteFunc(podsOf(t, c, "ticks"), func(p *cluster.Pod) bool { return !p.Ready })
		if len(pods) > 2 {
			p, way := pods[rand.IntN(len(pods))], ways[n%len(ways)]
			t.Logf("%s %s %s %v", time.Now().Format("05.000"), way, p.Name, p.IPs)
			die(t, c, p, way)
			died++
		}
		time.Sleep(200 * time.Millisecond)
	}
	time.Sleep(patience)
	for _, h := range holds {
		var r holdReport
		if err := json.Unmarshal([]byte(h.end(t)), &r); err != nil {
			t.Fatalf("%v: %s", err, h.out)
		}
		t.Logf("%d connections, %d ticks, %d ended, the longest silence %s", r.Connections, r.Ticks, r.Resets, r.Longest)
		if len(r.Hanging) > 0 || r.Resets == 0 || r.Ticks < 100 {
			t.Errorf("%d connections ended, %d hang:\n%s", r.Resets, len(r.Hanging), strings.Join(r.Hanging, "\n"))
		}
	}
}

// die ends a pod.
func die(t testing.TB, c *Client, p *cluster.Pod, way string) {
	t.Helper()
	if way == "kill" {
		// It may have ended before.
		_, _ = c.Exec(context.Background(), ExecRequest{Namespace: p.Namespace, Pod: p.Name, Command: []string{thisProgram(t), "test-die", "127.0.0.1:8080"}}, nil, nil, nil)
		return
	}
	if way == "unplug" {
		a, err := c.Agent(t.Context(), p.Node)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		if err := a.DetachPod(t.Context(), p.Namespace, p.Name); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Delete(t.Context(), []cluster.Ref{{Kind: cluster.KindPod, Key: p.Key()}}); err != nil {
		t.Logf("delete: %v", err) // the deployment was faster
	}
}
