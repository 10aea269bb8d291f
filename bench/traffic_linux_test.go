package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"vswitch/vswitch/netns"
	"vswitch/vswitch/netns/netnstest"
)

// trafficEnv makes the test binary a traffic generator instead: it holds a job
// as JSON. Generators are processes of their own, so that what they cost is not
// measured as the switch's.
const trafficEnv = "VSWITCH_BENCH_TRAFFIC"

// job is what one traffic process does.
type job struct {
	Role    string // "sink", "send", "udp-sink", "udp-send", "echo", "ping", "answer", "connect", "lookup"
	Addr    netip.AddrPort
	Streams int
	Size    int
	For     time.Duration
}

// result is what a sending process reports on its standard output when it is done.
type result struct {
	Bytes   int64
	Packets int64
	Took    time.Duration
	P50     time.Duration
}

func TestMain(m *testing.M) {
	if s := os.Getenv(trafficEnv); s != "" {
		var j job
		if err := json.Unmarshal([]byte(s), &j); err == nil {
			err = j.run()
			if err != nil {
				fmt.Fprintln(os.Stderr, "traffic:", err)
				os.Exit(1)
			}
		}
		os.Exit(0)
	}
	if s := os.Getenv(nodeEnv); s != "" {
		if err := runNode(s); err != nil {
			fmt.Fprintln(os.Stderr, "node:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(flowsEnv) != "" {
		if err := manyFlows(); err != nil {
			fmt.Fprintln(os.Stderr, "flows:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	netnstest.Main(m)
}

// host is a namespace with an address: one end of a topology.
type host struct {
	ns   string
	addr netip.Addr
}

// start runs a job in the host's namespace and returns the process, with its
// output to read.
func (h host) start(tb testing.TB, j job) (*exec.Cmd, *bufio.Reader) {
	tb.Helper()
	data, err := json.Marshal(j)
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), trafficEnv+"="+string(data))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := netns.Do(h.ns, cmd.Start); err != nil {
		tb.Fatal(err)
	}
	return cmd, bufio.NewReader(out)
}

// serve runs a server job until the returned function is called.
func (h host) serve(tb testing.TB, j job) (stop func() result) {
	tb.Helper()
	j.Addr = netip.AddrPortFrom(h.addr, 5001)
	cmd, out := h.start(tb, j)
	if line, err := out.ReadString('\n'); err != nil || line != "ready\n" {
		tb.Fatalf("traffic server in %s: %q, %v", h.ns, line, err)
	}
	return func() (r result) {
		tb.Helper()
		if j.Role == "udp-sink" {
			must(tb, cmd.Process.Signal(syscall.SIGUSR1))
			must(tb, json.NewDecoder(out).Decode(&r))
		}
		must(tb, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
		return r
	}
}

// run runs a client job against a server on the other host, at its own address
// if the job names none.
func (h host) run(tb testing.TB, to host, j job) (r result) {
	tb.Helper()
	if !j.Addr.IsValid() {
		j.Addr = netip.AddrPortFrom(to.addr, 5001)
	}
	cmd, out := h.start(tb, j)
	err := json.NewDecoder(out).Decode(&r)
	if werr := cmd.Wait(); err != nil || werr != nil {
		tb.Fatalf("traffic %s from %s to %s: %v, %v", j.Role, h.ns, j.Addr, err, werr)
	}
	return r
}

func (j job) run() error {
	switch j.Role {
	case "sink", "echo", "answer":
		return j.serveTCP()
	case "connect":
		return j.connect()
	case "send":
		return j.send()
	case "ping":
		return j.ping()
	case "udp-sink":
		return j.udpSink()
	case "udp-send":
		return j.udpSend()
	case "lookup":
		return j.lookup()
	}
	return fmt.Errorf("no role %q", j.Role)
}

func (j job) serveTCP() error {
	l, err := net.Listen("tcp", j.Addr.String())
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if j.Role == "echo" {
				_, _ = io.Copy(c, c) // the client ends it
				return
			}
			if j.Role == "answer" {
				var request [64]byte
				if _, err := io.ReadFull(c, request[:]); err == nil {
					_, _ = c.Write(request[:]) // the client counts what arrives
				}
				return
			}
			n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, c, make([]byte, 256<<10))
			_ = json.NewEncoder(c).Encode(n) // tell the sender what arrived
		}()
	}
}

// send streams for a while and reports what the other side has received.
func (j job) send() error {
	var total atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, j.Streams)
	start := time.Now()
	for i := range j.Streams {
		wg.Go(func() {
			c, err := net.DialTimeout("tcp", j.Addr.String(), 30*time.Second)
			if err != nil {
				errs[i] = err
				return
			}
			defer c.Close()
			buf := make([]byte, 128<<10)
			for time.Since(start) < j.For {
				if _, err := c.Write(buf); err != nil {
					errs[i] = err
					return
				}
			}
			errs[i] = c.(*net.TCPConn).CloseWrite()
			var n int64
			if err := json.NewDecoder(c).Decode(&n); err != nil {
				errs[i] = errors.Join(errs[i], err)
			}
			total.Add(n)
		})
	}
	wg.Wait()
	took := time.Since(start)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result{Bytes: total.Load(), Took: took})
}

// connect makes one connection after the other, each for one request. The server
// closes first, so that the client's ports are free again at once.
func (j job) connect() error {
	var total atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, j.Streams)
	start := time.Now()
	for i := range j.Streams {
		wg.Go(func() {
			for errs[i] == nil && time.Since(start) < j.For {
				if errs[i] = j.request(); errs[i] == nil {
					total.Add(1)
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result{Packets: total.Load(), Took: took})
}

// request connects, asks, and reads the answer to its end.
func (j job) request() error {
	c, err := net.DialTimeout("tcp", j.Addr.String(), 30*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, 64)); err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, c)
	if err == nil && n != 64 {
		err = fmt.Errorf("%d bytes of an answer of 64", n)
	}
	return err
}

// ping sends one small message after the other and waits for each to come back.
func (j job) ping() error {
	c, err := net.DialTimeout("tcp", j.Addr.String(), 30*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, 64)
	var times []time.Duration
	for start := time.Now(); time.Since(start) < j.For; {
		t := time.Now()
		if _, err := c.Write(buf); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return err
		}
		times = append(times, time.Since(t))
	}
	slices.Sort(times)
	return json.NewEncoder(os.Stdout).Encode(result{Packets: int64(len(times)), P50: times[len(times)/2]})
}

func (j job) udpSink() error {
	lc := net.ListenConfig{}
	c, err := lc.ListenPacket(context.Background(), "udp", j.Addr.String())
	if err != nil {
		return err
	}
	_ = c.(*net.UDPConn).SetReadBuffer(4 << 20) // as large as the system allows
	fmt.Println("ready")
	var n int64
	var first, last time.Time
	buf := make([]byte, 2048)
	enough := make(chan os.Signal, 1)
	signal.Notify(enough, syscall.SIGUSR1)
	go func() {
		<-enough
		_ = c.SetReadDeadline(time.Now())
	}()
	for {
		if _, _, err := c.(*net.UDPConn).ReadFromUDPAddrPort(buf); err != nil {
			break
		}
		if n++; n == 1 {
			first = time.Now()
		} else if n%64 == 0 {
			last = time.Now()
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(result{Packets: n, Took: last.Sub(first)}); err != nil {
		return err
	}
	select {} // until it is killed
}

func (j job) udpSend() error {
	c, err := net.Dial("udp", j.Addr.String())
	if err != nil {
		return err
	}
	buf := make([]byte, j.Size)
	var n int64
	start := time.Now()
	for time.Since(start) < j.For {
		for range 64 {
			if _, err := c.Write(buf); err == nil {
				n++
			}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(result{Packets: n, Took: time.Since(start)})
}
