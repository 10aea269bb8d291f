package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/fabric"
	"vswitch/vswitch/stack"
)

// memoryStage is a cluster in this process: the same switches, an in-memory
// wire between them, and gVisor netstacks as pods.
type memoryStage struct {
	f  *fabric.Fabric
	mu sync.Mutex
	// pods by name.
	pods map[string]*memoryPod
}

type memoryPod struct {
	*fabric.Pod
	stack *stack.Stack
}

func newMemoryStage(nodes int) (stage, error) {
	f, err := fabric.New(fabric.Config{Nodes: nodes})
	if err != nil {
		return nil, err
	}
	f.Start()
	return &memoryStage{f: f, pods: map[string]*memoryPod{}}, nil
}

func (m *memoryStage) AddPod(_ context.Context, node, name string) (actor, error) {
	n := m.f.Node(node)
	if n == nil {
		return actor{}, fmt.Errorf("no node %s", node)
	}
	plan := n.Plan(name)
	s, err := stack.New(stack.Config{Name: name, MAC: plan.MAC, Addrs: plan.IPs, Gateways: plan.Gateways, MTU: plan.MTU})
	if err != nil {
		return actor{}, err
	}
	l, err := s.Listen("tcp", fmt.Sprintf(":%d", demoPort))
	if err != nil {
		return actor{}, err
	}
	go answer(l, name)
	if err := plan.Attach(s); err != nil {
		return actor{}, err
	}
	m.mu.Lock()
	m.pods[name] = &memoryPod{plan, s}
	m.mu.Unlock()
	a := actor{Name: name, Node: node}
	for _, ip := range plan.IPs {
		a.IPs = append(a.IPs, ip.Addr())
	}
	return a, nil
}

func (m *memoryStage) DeletePod(_ context.Context, name string) error {
	p := m.pod(name)
	if p == nil {
		return fmt.Errorf("no pod %s", name)
	}
	p.Detach()
	m.mu.Lock()
	delete(m.pods, name)
	m.mu.Unlock()
	return p.stack.Close()
}

func (m *memoryStage) pod(name string) *memoryPod {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pods[name]
}

func (m *memoryStage) Call(ctx context.Context, from string, to netip.AddrPort) (string, error) {
	p := m.pod(from)
	if p == nil {
		return "", fmt.Errorf("no pod %s", from)
	}
	return call(ctx, p.stack.DialContext, to)
}

func (m *memoryStage) Stream(ctx context.Context, from string, to netip.AddrPort, bytes int64, half func()) error {
	p := m.pod(from)
	if p == nil {
		return fmt.Errorf("no pod %s", from)
	}
	return stream(ctx, p.stack.DialContext, to, bytes, half)
}

func (m *memoryStage) Watch(ctx context.Context, see func(agent.Sight)) (func(), error) {
	var stops []func()
	for _, n := range m.f.Nodes {
		stops = append(stops, agent.Watch(n.Switch, n.Name, "", see))
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}, nil
}

// KillNode makes the others lose a node, and find it again.
func (m *memoryStage) KillNode(_ context.Context, node string) error {
	m.f.Fail(node)
	time.Sleep(300 * time.Millisecond)
	m.f.Return(node)
	return nil
}

func (m *memoryStage) AddNode(context.Context) (string, error) {
	n, err := m.f.AddNode()
	if err != nil {
		return "", err
	}
	return n.Name, nil
}

func (m *memoryStage) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, p := range m.pods {
		p.Detach()
		errs = append(errs, p.stack.Close())
	}
	m.f.Close()
	return errors.Join(errs...)
}

// dialer opens a connection as a pod.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// answer says the pod's name to everybody who connects. To who then says
// "echo N", it sends back the N bytes that follow, as they come.
func answer(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if _, err := fmt.Fprintln(c, name); err != nil {
				return
			}
			var n int64
			r := bufio.NewReaderSize(c, 256<<10)
			if _, err := fmt.Fscanf(r, "echo %d\n", &n); err != nil {
				return // the caller wanted the name only
			}
			_, _ = io.CopyN(c, r, n) // what does not come back the caller misses
		}()
	}
}

// call connects and returns the first line that the other side says.
func call(ctx context.Context, dial dialer, to netip.AddrPort) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	c, err := dial(ctx, "tcp", to.String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

// stream sends bytes to answer, receives them again at the same time, and
// compares checksums. Halfway through it calls half, if that is not nil.
func stream(ctx context.Context, dial dialer, to netip.AddrPort, bytes int64, half func()) error {
	c, err := dial(ctx, "tcp", to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	r := bufio.NewReaderSize(c, 256<<10)
	if _, err := r.ReadString('\n'); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c, "echo %d\n", bytes); err != nil {
		return err
	}
	got := sha256.New()
	received := make(chan error, 1)
	go func() {
		n, err := io.CopyN(got, r, bytes)
		if err != nil {
			err = fmt.Errorf("%d of %d bytes came back: %w", n, bytes, err)
		}
		received <- err
	}()
	sent, err := upload(c, bytes, half)
	if err != nil {
		c.Close() // ends the receiver
		<-received
		return err
	}
	if err := <-received; err != nil {
		return err
	}
	if string(sent) != string(got.Sum(nil)) {
		return fmt.Errorf("the sha256 of what came back is another one than of what was sent")
	}
	return nil
}

// upload sends bytes and returns their sha256. Halfway through it calls half,
// if that is not nil.
func upload(w io.Writer, bytes int64, half func()) ([]byte, error) {
	sum := sha256.New()
	buf := make([]byte, 256<<10)
	for i := int64(0); i < bytes; i += int64(len(buf)) {
		if half != nil && i >= bytes/2 {
			half()
			half = nil
		}
		for k := range 8 { // other bytes in every block
			buf[k] = byte(i >> (8 * k))
		}
		n := min(int64(len(buf)), bytes-i)
		sum.Write(buf[:n])
		if _, err := w.Write(buf[:n]); err != nil {
			return nil, fmt.Errorf("after %d of %d bytes: %w", i, bytes, err)
		}
	}
	return sum.Sum(nil), nil
}
