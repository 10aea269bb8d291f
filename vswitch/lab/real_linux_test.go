package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
)

// realNodes, in the environment, makes the test binary's node the real one.
const realNodes = "VSWITCH_TEST_REAL_NODES"

func runRealNode(config string) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	data, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	cfg := agent.Default()
	if err := yaml.UnmarshalStrict(data, &cfg); err != nil {
		return err
	}
	n, err := agent.Start(cfg, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	return n.Run(ctx)
}

const echoPort = 7

// testEcho is the process of a pod: it sends back what it gets. When it listens
// with TCP, it does with UDP, too.
func testEcho() int {
	u, err := net.ListenPacket("udp", fmt.Sprintf(":%d", echoPort))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", echoPort))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	go func() {
		buf := make([]byte, 65536)
		for {
			if n, from, err := u.ReadFrom(buf); err == nil {
				u.WriteTo(buf[:n], from)
			}
		}
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return 1
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

// testTalk speaks to the echo of each address, in all sizes, and prints what
// went wrong. It ends with "done".
func testTalk(bulk string, addrs []string) int {
	size, err := strconv.Atoi(bulk)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for _, a := range addrs {
		ip, err := netip.ParseAddr(a)
		if err != nil {
			fmt.Println(err)
			continue
		}
		to := netip.AddrPortFrom(ip, echoPort).String()
		// Around what fits a packet over IPv6 and over IPv4, and the most that
		// there can be.
		for _, n := range []int{1, 63, 1402, 1403, 1422, 1423, 9000, 65507} {
			if err := talkUDP(to, n); err != nil {
				fmt.Printf("UDP %s, %d bytes: %v\n", to, n, err)
			}
		}
		for _, n := range []int{1, 1398, 65536, size} {
			if err := talkTCP(to, n); err != nil {
				fmt.Printf("TCP %s, %d bytes: %v\n", to, n, err)
			}
		}
	}
	fmt.Println("done")
	return 0
}

func talkUDP(to string, size int) error {
	c, err := net.Dial("udp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	out, in := make([]byte, size), make([]byte, 65536)
	for i := range out {
		out[i] = byte(rand.Uint32())
	}
	// A datagram may get lost for good reasons; not five in a row.
	for range 5 {
		if _, err = c.Write(out); err != nil {
			continue
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		var n int
		if n, err = c.Read(in); err == nil {
			if !bytes.Equal(in[:n], out) {
				return errors.New("the answer is not what was sent")
			}
			return nil
		}
	}
	return err
}

func talkTCP(to string, size int) error {
	c, err := net.DialTimeout("tcp", to, 20*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(bulkTime(size)))
	sent, got := sha256.New(), sha256.New()
	failed := make(chan error, 1)
	go func() {
		random := rand.NewChaCha8([32]byte{byte(size)})
		_, err := io.Copy(io.MultiWriter(c, sent), io.LimitReader(random, int64(size)))
		c.(*net.TCPConn).CloseWrite()
		failed <- err
	}()
	n, err := io.Copy(got, c)
	if err = errors.Join(err, <-failed); err != nil {
		return err
	}
	if n != int64(size) || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		return fmt.Errorf("%d bytes came back, or others than were sent", n)
	}
	return nil
}

// echoes checks that an address answers an echo request of that size. One may get
// lost for good reasons; not five in a row.
func echoes(t *testing.T, c *Client, from ExecRequest, ip, size string) {
	t.Helper()
	from.Command = []string{"ping", "-n", "-c", "1", "-W", "5", "-s", size, ip}
	said := ""
	for range 5 {
		got, code := run(t, c, from, "")
		if code == 0 {
			return
		}
		said = got
	}
	t.Errorf("ping %s of %s bytes: %s", ip, size, said)
}

// bulkTime is how long a transfer may take on a machine that has other work.
func bulkTime(size int) time.Duration {
	return time.Minute + time.Duration(size>>20)*time.Second/10
}

// TestRealNodes lets every pod speak to every other one through real nodes:
// both families; ICMP, UDP and TCP; from one byte to what needs 47 fragments,
// and in bulk, where a path differs from the others.
func TestRealNodes(t *testing.T) {
	t.Setenv(realNodes, "1")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := options()
	o.Nodes = 2
	for i := range 4 {
		p := newTestPod(fmt.Sprintf("echo-%d", i), exe, "test-echo")
		p.Node = fmt.Sprintf("node%d", i%2+1)
		o.Objects.Pods = append(o.Objects.Pods, p)
	}
	c := start(t, o)
	pods, err := c.Pods(t.Context())
	if err != nil || len(pods) != 4 {
		t.Fatalf("%d pods, error %v", len(pods), err)
	}
	knowEachOther(t, c, 1)
	listening(t, c, "tcp", echoPort, "echo-0", "echo-1", "echo-2", "echo-3")
	others := func(p *cluster.Pod) (list []string) {
		for _, q := range pods {
			if q.Name != p.Name {
				for _, ip := range q.IPs {
					list = append(list, ip.String())
				}
			}
		}
		return list
	}
	for _, p := range pods {
		t.Run(p.Name, func(t *testing.T) {
			if len(p.IPs) != 2 {
				t.Fatalf("addresses %v, want one of each family", p.IPs)
			}
			command := append([]string{exe, "test-talk", strconv.Itoa(8 << 20)}, others(p)...)
			if got, _ := run(t, c, ExecRequest{Pod: p.Name, Command: command}, ""); got != "done\n" {
				t.Error(got)
			}
			for _, ip := range others(p) {
				for _, size := range []string{"1", "1402", "1403", "1422", "1423", "20000", "65507"} {
					echoes(t, c, ExecRequest{Pod: p.Name}, ip, size)
				}
			}
			if got, _ := run(t, c, ExecRequest{Pod: p.Name, Command: sh(checksumErrors)}, ""); got != "" {
				t.Errorf("checksum errors: %s", got)
			}
		})
	}
	t.Run("bulk", func(t *testing.T) {
		size := 1 << 30
		if testing.Short() {
			size = 64 << 20
		}
		for name, to := range map[string]*cluster.Pod{"same node": pods[2], "other node": pods[1]} {
			for _, ip := range to.IPs {
				t.Run(fmt.Sprintf("%s %s", name, ip), func(t *testing.T) {
					command := []string{exe, "test-talk", strconv.Itoa(size), ip.String()}
					if got, _ := runWithin(t, c, 2*bulkTime(size), ExecRequest{Pod: pods[0].Name, Command: command}, ""); got != "done\n" {
						t.Error(got)
					}
				})
			}
		}
	})
	t.Run("node killed", func(t *testing.T) {
		type result struct {
			out  string
			code int
		}
		done := make(chan result, 1)
		go func() {
			out, code := run(t, c, ExecRequest{Pod: "echo-0", Command: []string{exe, "test-talk", strconv.Itoa(256 << 20), pods[1].IPs[0].String()}}, "")
			done <- result{out, code}
		}()
		for range 3 {
			time.Sleep(300 * time.Millisecond)
			eventually(t, func() string { // it may wait before it starts again
				if err := c.KillNode(t.Context(), pods[1].Node); err != nil {
					return err.Error()
				}
				return ""
			})
		}
		if r := <-done; r.out != "done\n" {
			t.Errorf("a transfer does not survive its node: %q, code %d", r.out, r.code)
		}
		for _, was := range pods {
			if now := getPod(t, c, was.Name); now.Restarts != 0 || now.IPs[0] != was.IPs[0] || now.IPs[1] != was.IPs[1] {
				t.Errorf("pod %s was %v, is %v after %d restarts", was.Name, was.IPs, now.IPs, now.Restarts)
			}
		}
	})
}

// listening waits until pods listen at a port of "tcp" or "udp": one runs when its
// process does, which may be before that.
func listening(t *testing.T, c *Client, network string, port int, pods ...string) {
	t.Helper()
	script := fmt.Sprintf("cat /proc/net/%[1]s /proc/net/%[1]s6 | awk '{ print $2, $4 }' | grep -E ':%04[2]X 0[7A]$'", network, port) // unconnected, or LISTEN
	for _, pod := range pods {
		eventually(t, func() string {
			if got, code := run(t, c, ExecRequest{Pod: pod, Command: sh(script)}, ""); code != 0 {
				return fmt.Sprintf("pod %s does not listen at %s port %d: %s", pod, network, port, got)
			}
			return ""
		})
	}
}

// checksumErrors prints the counters of wrong checksums that are not zero.
const checksumErrors = `awk '
	FILENAME ~ /6$/ { if ($1 ~ /CsumErrors/ && $2 > 0) print; next }
	$2 ~ /^[A-Z]/ { split($0, name); next }
	{ for (i = 2; i <= NF; i++) if (name[i] == "InCsumErrors" && $i > 0) print $1, $i }
' /proc/net/snmp /proc/net/snmp6`

// knowEachOther checks that each node of a cluster that has come up knows that
// many others: whoever starts a cluster uses it at once.
func knowEachOther(t *testing.T, c *Client, want int) {
	t.Helper()
	nodes, err := c.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		a := agent.NewClient(n.Socket)
		st, err := a.Status(t.Context())
		a.Close()
		if err != nil || st.Peers != want {
			t.Errorf("node %s knows %d others, want %d (%v)", n.Name, st.Peers, want, err)
		}
	}
}

// TestRestartedNodesFindEachOther kills all nodes at once.
func TestRestartedNodesFindEachOther(t *testing.T) {
	t.Setenv(realNodes, "1")
	o := options(newTestPod("a"), newTestPod("b"))
	o.Nodes = 3
	o.Objects.Pods[0].Node, o.Objects.Pods[1].Node = "node1", "node3"
	o.Objects.Pods[1].Containers[0].Ports = []cluster.ContainerPort{{Port: 80, Protocol: 6}}
	c := start(t, o)
	knowEachOther(t, c, 2)
	for _, n := range []string{"node1", "node2", "node3"} {
		if err := c.KillNode(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	b := getPod(t, c, "b")
	eventually(t, func() string {
		for _, ip := range b.IPs {
			url := "http://" + netip.AddrPortFrom(ip, 80).String() + "/"
			if got, _ := run(t, c, ExecRequest{Pod: "a", Command: []string{"curl", "-s", "-m", "2", url}}, ""); !strings.HasPrefix(got, "shop/b on node3, client ") {
				return fmt.Sprintf("%s says %q", url, got)
			}
		}
		return ""
	})
}
