package agent

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vswitch/vswitch/netns"
	"vswitch/vswitch/netns/netnstest"
	"vswitch/vswitch/packet"
	"vswitch/vswitch/stack"
)

// machine is a virtual machine: a network stack that speaks as QEMU and vfkit
// do, and that may be switched off and on.
type machine struct {
	*stack.Stack
	connect func() (wire, error)

	mu   sync.Mutex
	wire wire // nil: nobody is there
	off  bool
}

// wire carries frames.
type wire interface {
	send(frame []byte) error
	recv(buf []byte) (int, error)
	Close() error
}

// streamWire is a stream as of QEMU: four bytes of length, and the frame.
type streamWire struct{ net.Conn }

func (w streamWire) send(frame []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...))
	return err
}

func (w streamWire) recv(buf []byte) (int, error) {
	var n [4]byte
	if _, err := io.ReadFull(w, n[:]); err != nil {
		return 0, err
	}
	return io.ReadFull(w, buf[:binary.BigEndian.Uint32(n[:])])
}

// dgramWire is datagrams as of vfkit: each a frame.
type dgramWire struct {
	*net.UnixConn
	to *net.UnixAddr
}

func (w dgramWire) send(frame []byte) error {
	_, err := w.WriteToUnix(frame, w.to)
	return err
}

func (w dgramWire) recv(buf []byte) (int, error) { return w.Read(buf) }

// newMachine starts a machine that is what the pod is said to be.
func newMachine(t *testing.T, p PodStatus, connect func() (wire, error)) *machine {
	t.Helper()
	mac, err := parseMAC(p.MAC)
	if err != nil {
		t.Fatal(err)
	}
	cfg := stack.Config{Name: p.Name, MAC: mac, MTU: p.MTU, Gateways: p.Gateways}
	for i, ip := range p.IPs {
		cfg.Addrs = append(cfg.Addrs, netip.PrefixFrom(ip, []int{24, 64}[i]))
	}
	m := &machine{connect: connect}
	if m.Stack, err = stack.New(cfg); err != nil {
		t.Fatal(err)
	}
	var ended sync.WaitGroup
	ended.Go(m.receive)
	stop := make(chan struct{})
	ended.Go(func() { m.transmit(stop) })
	t.Cleanup(func() {
		m.mu.Lock()
		m.off = true
		m.mu.Unlock()
		close(stop)
		m.unplug()
		m.Close()
		ended.Wait()
	})
	return m
}

// unplug ends the connection, as a restart of the machine does. It connects
// again by itself.
func (m *machine) unplug() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wire != nil {
		m.wire.Close()
		m.wire = nil
	}
}

// plug sets what the machine is connected by, and reports false once it is
// switched off.
func (m *machine) plug(w wire) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.off && w != nil {
		w.Close()
	}
	if !m.off {
		m.wire = w
	}
	return !m.off
}

// receive connects, gives the stack what comes, and does so again.
func (m *machine) receive() {
	b := packet.NewBatch()
	buf := make([]byte, packet.MaxFrame)
	for {
		w, err := m.connect()
		if err != nil {
			w = nil
		}
		if !m.plug(w) {
			return
		}
		if w == nil {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		for {
			n, err := w.recv(buf)
			if err != nil {
				break
			}
			b.Reset()
			b.Append(buf[:n])
			_, _ = m.Write(b, []uint16{0}) // what it drops, TCP repeats
		}
		m.unplug()
	}
}

// transmit sends what the stack gives.
func (m *machine) transmit(stop chan struct{}) {
	b := packet.NewBatch()
	scratch := make([]byte, packet.MaxFrame)
	bell := make(chan struct{}, 1)
	m.Notify(func() {
		select {
		case bell <- struct{}{}:
		default:
		}
	})
	for {
		select {
		case <-stop:
			return
		case <-bell:
		}
		for {
			b.Reset()
			n, _ := m.Read(b, packet.BatchSize)
			if n == 0 {
				break
			}
			m.mu.Lock()
			w := m.wire
			m.mu.Unlock()
			for i := range b.Packets {
				b.Each(&b.Packets[i], scratch, func(frame []byte) {
					if w != nil {
						_ = w.send(frame) // the machine's network is down
					}
				})
			}
		}
	}
}

// reaches pings until an answer comes.
func (m *machine) reaches(t *testing.T, as ...netip.Addr) {
	t.Helper()
	for _, a := range as {
		eventually(t, time.Minute, func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			_, err := m.Ping(ctx, a, 100)
			return err
		})
	}
}

// lone is a host with one node, and a pod on it to talk to.
type lone struct {
	cfg  Config
	ns   string
	node *process
	pod  PodStatus
}

func newLone(t *testing.T, ports ...PortConfig) *lone {
	return newLoneWith(t, func(c *Config) { c.Ports = ports })
}

// newLoneWith is newLone with another configuration.
func newLoneWith(t *testing.T, change func(*Config)) *lone {
	l := &lone{cfg: nodeConfig(t, 1), ns: netnstest.New(t)}
	netnstest.Do(t, l.ns, func() error { return netns.SetUp("lo") })
	change(&l.cfg)
	l.node = startNode(t, l.ns, l.cfg)
	l.node.ready(0)
	l.pod = l.node.pod(PodRequest{Namespace: "test", Name: "pod", PortSpec: PortSpec{NetNS: netnstest.New(t)}})
	return l
}

// restart kills the node and starts it again.
func (l *lone) restart(t *testing.T) {
	l.node.stop(syscall.SIGKILL)
	l.node = startNode(t, l.ns, l.cfg)
	l.node.ready(0)
}

// named returns a pod of the node.
func (l *lone) named(t *testing.T, name string) (found PodStatus) {
	t.Helper()
	eventually(t, time.Minute, func() error {
		pods, err := l.node.Pods(context.Background())
		for _, p := range pods {
			if p.Namespace+"/"+p.Name == name {
				found = p
				return nil
			}
		}
		return fmt.Errorf("no pod %s: %v", name, err)
	})
	return found
}

// exchange sends bytes from a machine to a pod's process, which sends them back.
func exchange(m *machine, pod PodStatus, ip netip.Addr, size int64) error {
	var l net.Listener
	if err := netns.Do(pod.NetNS, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(ip, 0).String())
		return err
	}); err != nil {
		return err
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, c)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := m.DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	want, got := sha256.New(), sha256.New()
	go func() {
		_, _ = io.Copy(io.MultiWriter(c, want), io.LimitReader(rand.NewChaCha8([32]byte{2}), size))
	}()
	if n, err := io.Copy(got, io.LimitReader(c, size)); n != size {
		return fmt.Errorf("%d of %d bytes came back: %v", n, size, err)
	}
	if string(want.Sum(nil)) != string(got.Sum(nil)) {
		return errors.New("the bytes that came back are others")
	}
	return nil
}

// TestMachines: a virtual machine at a socket is a pod as any other, also after
// it or the node was restarted.
func TestMachines(t *testing.T) {
	listen := func(path string) func() (wire, error) {
		return func() (wire, error) {
			_ = os.Remove(path)
			l, err := net.Listen("unix", path)
			if err != nil {
				return nil, err
			}
			defer l.Close()
			_ = l.(*net.UnixListener).SetDeadline(time.Now().Add(3 * time.Second))
			c, err := l.Accept()
			if err != nil {
				return nil, err
			}
			return streamWire{c}, nil
		}
	}
	bind := func(own, to string) func() (wire, error) {
		return func() (wire, error) {
			_ = os.Remove(own)
			c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: own, Net: "unixgram"})
			if err != nil {
				return nil, err
			}
			return dgramWire{c, &net.UnixAddr{Name: to, Net: "unixgram"}}, nil
		}
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, tt := range []struct {
		name    string
		port    PortConfig
		connect func() (wire, error)
	}{
		{"qemu that connects", PortConfig{PortSpec: PortSpec{Kind: PortStream, Socket: at("a"), MAC: "52:54:00:12:34:56"}}, func() (wire, error) {
			c, err := net.Dial("unix", at("a"))
			return streamWire{c}, err
		}},
		{"qemu that listens", PortConfig{PortSpec: PortSpec{Kind: PortStream, Socket: at("b"), Connect: true}}, listen(at("b"))},
		{"vfkit", PortConfig{Addresses: addrs("10.244.1.20", "fd00:10:244:1::20"), PortSpec: PortSpec{Kind: PortDgram, Socket: at("c")}}, bind(at("c.vm"), at("c"))},
		{"qemu with datagrams", PortConfig{PortSpec: PortSpec{Kind: PortDgram, Socket: at("d"), Remote: at("d.vm")}}, bind(at("d.vm"), at("d"))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := tt.port
			c.Name = "vms/one"
			l := newLone(t, c)
			p := l.named(t, "vms/one")
			if c.MAC != "" && p.MAC != c.MAC || c.Addresses != nil && fmt.Sprint(p.IPs) != fmt.Sprint(c.Addresses) || p.Kind != c.Kind {
				t.Fatalf("the pod is %+v, want %+v", p, c)
			}
			m := newMachine(t, p, tt.connect)
			talk := func() {
				t.Helper()
				m.reaches(t, append(p.Gateways, l.pod.IPs...)...)
				for _, ip := range p.IPs {
					if out, err := run(l.pod.NetNS, "ping", "-n", "-c1", "-W30", ip.String()); err != nil {
						t.Errorf("from the pod: %s", out)
					}
				}
			}
			talk()
			for _, ip := range l.pod.IPs {
				if err := exchange(m, l.pod, ip, 8<<20); err != nil {
					t.Errorf("TCP to %s: %v", ip, err)
				}
			}
			m.unplug()
			talk()
			l.restart(t)
			if again := l.named(t, "vms/one"); fmt.Sprint(again.IPs, again.MAC) != fmt.Sprint(p.IPs, p.MAC) {
				t.Errorf("after the restart the pod has %v %s, before %v %s", again.IPs, again.MAC, p.IPs, p.MAC)
			}
			talk()
		})
	}
}

// TestDevices: plain TAP and TUN interfaces in namespaces are pods as any other,
// also after the node was restarted.
func TestDevices(t *testing.T) {
	for _, kind := range []string{PortPlainTAP, PortTUN} {
		t.Run(kind, func(t *testing.T) {
			l := newLone(t)
			r := PodRequest{Namespace: "test", Name: "device", PortSpec: PortSpec{NetNS: netnstest.New(t), Kind: kind}}
			if kind == PortPlainTAP {
				r.MAC = "52:54:00:00:00:09"
			}
			p := l.node.pod(r)
			talk := func() {
				t.Helper()
				for _, a := range append(p.Gateways, l.pod.IPs...) {
					if out, err := run(p.NetNS, "ping", "-n", "-c1", "-W30", a.String()); err != nil {
						t.Errorf("from the device: %s", out)
					}
				}
				for i, ip := range p.IPs {
					if err := bulk(l.pod.NetNS, p.NetNS, ip, 16<<20); err != nil {
						t.Errorf("to the device at %s: %v", ip, err)
					}
					if err := bulk(p.NetNS, l.pod.NetNS, l.pod.IPs[i], 16<<20); err != nil {
						t.Errorf("from the device to %s: %v", l.pod.IPs[i], err)
					}
				}
			}
			talk()
			l.restart(t)
			if again := l.node.pod(r); fmt.Sprint(again.IPs, again.MAC) != fmt.Sprint(p.IPs, p.MAC) {
				t.Errorf("after the restart the pod has %v, before %v", again.IPs, p.IPs)
			}
			talk()
		})
	}
}

// TestPortErrors: what cannot be attached is one clear error of the API, or a
// problem of the node that goes when it is mended.
func TestPortErrors(t *testing.T) {
	dir := t.TempDir()
	taken := filepath.Join(dir, "taken")
	other, err := net.Listen("unix", taken)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l := newLone(t, PortConfig{Name: "vms/one", PortSpec: PortSpec{Kind: PortStream, Socket: taken, MAC: "52:54:00:00:00:01"}})
	ctx := context.Background()
	problem := func() string {
		s, err := l.node.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(s.Problems, "\n")
	}
	if p := problem(); !strings.Contains(p, "attach pod vms/one: ") || !strings.Contains(p, taken+" is in use by another process") {
		t.Errorf("problems are %q", p)
	}
	other.Close()
	l.named(t, "vms/one") // it is tried again
	if p := problem(); p != "" {
		t.Errorf("problems are still %q", p)
	}
	for _, tt := range []struct {
		name string
		r    PodRequest
		want string
	}{
		{"kind", PodRequest{PortSpec: PortSpec{Kind: "veth"}}, `bad request: kind "veth" is unknown; use tap, `},
		{"socket of another pod", PodRequest{PortSpec: PortSpec{Kind: PortDgram, Socket: taken}}, "conflict: socket " + taken + " is that of pod vms/one"},
		{"MAC of another pod", PodRequest{PortSpec: PortSpec{Kind: PortDgram, Socket: dir + "/d", MAC: "52:54:00:00:00:01"}}, "conflict: mac 52:54:00:00:00:01 is that of pod vms/one"},
		{"MAC of the gateway", PodRequest{PortSpec: PortSpec{Kind: PortDgram, Socket: dir + "/d", MAC: "0a:58:0a:f4:01:01"}}, "is the gateway's"},
		{"file", PodRequest{PortSpec: PortSpec{Kind: PortDgram, Socket: file}}, "exists and is no socket: remove it, or choose another path"},
		{"no directory", PodRequest{PortSpec: PortSpec{Kind: PortStream, Socket: dir + "/no/such"}}, "no such file or directory"},
		{"a server that is none", PodRequest{PortSpec: PortSpec{Kind: PortDNS}}, "kind dns: this node has no DNS server; give its configuration a dns.domain"},
		{"address", PodRequest{IPs: addrs("10.244.9.9"), PortSpec: PortSpec{Kind: PortDgram, Socket: dir + "/d"}}, "outside this node's ranges"},
		{"no namespace", PodRequest{PortSpec: PortSpec{Kind: PortTUN, NetNS: dir + "/ns"}}, "no such file or directory"},
		{"device of another kind", PodRequest{PortSpec: PortSpec{Kind: PortTUN, NetNS: l.pod.NetNS}}, "eth0 in " + l.pod.NetNS},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.r.Namespace, tt.r.Name = "test", "bad"
			_, err := l.node.AttachPod(ctx, tt.r)
			if err == nil || !strings.Contains(err.Error(), "attach pod test/bad: ") || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := l.node.AttachPod(ctx, PodRequest{Namespace: "vms", Name: "one", PortSpec: PortSpec{Kind: PortDgram, Socket: dir + "/d"}}); err == nil || !strings.Contains(err.Error(), "configuration") {
		t.Errorf("a configured port was replaced: %v", err)
	}
}
