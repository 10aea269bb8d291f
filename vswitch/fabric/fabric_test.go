package fabric

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
	"vswitch/vswitch/stack"
)

// start starts a fabric with netstack pods, some on every node.
func start(t *testing.T, cfg Config, perNode int) (*Fabric, []*stackPod) {
	t.Helper()
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	f.RecordOnFailure(t)
	f.Start()
	var pods []*stackPod
	for _, n := range f.Nodes {
		for i := range perNode {
			pods = append(pods, newStackPod(t, n, fmt.Sprintf("test/%s-%d", n.Name, i)))
		}
	}
	return f, pods
}

type stackPod struct {
	*Pod
	*stack.Stack
}

func newStackPod(t *testing.T, n *Node, name string) *stackPod {
	t.Helper()
	plan := n.Plan(name)
	s, err := stack.New(stack.Config{Name: name, MAC: plan.MAC, Addrs: plan.IPs, Gateways: plan.Gateways, MTU: plan.MTU})
	if err != nil {
		t.Fatal(err)
	}
	if err := plan.Attach(s); err != nil {
		t.Fatal(err)
	}
	p := &stackPod{plan, s}
	t.Cleanup(func() { plan.Detach(); s.Close() })
	l, err := s.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }() // the client ends it
		}
	}()
	u, err := s.ListenPacket("udp", ":53")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 1<<16)
		for {
			k, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(buf[:k], from) // what is lost the client misses
		}
	}()
	return p
}

// TestEveryPair: every pod reaches every other, and itself, with TCP, UDP and ICMP, in both
// families and many sizes.
func TestEveryPair(t *testing.T) {
	_, pods := start(t, Config{Nodes: 3}, 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, a := range pods {
		for _, b := range pods {
			for _, ip := range b.IPs {
				name := fmt.Sprintf("%s -> %s %s", a.Name, b.Name, ip.Addr())
				if _, err := a.Ping(ctx, ip.Addr(), 56); err != nil {
					t.Errorf("%s: ping: %v", name, err)
				}
				if _, err := a.Ping(ctx, ip.Addr(), 4000); err != nil {
					t.Errorf("%s: ping with 4000 bytes: %v", name, err)
				}
				if err := echo(ctx, a, "tcp", ip.Addr(), 80, 100_000); err != nil {
					t.Errorf("%s: TCP: %v", name, err)
				}
				for _, size := range []int{1, 1400, 1422, 1423, 9000, 60000} {
					if err := echo(ctx, a, "udp", ip.Addr(), 53, size); err != nil {
						t.Errorf("%s: UDP with %d bytes: %v", name, size, err)
					}
				}
			}
		}
	}
}

// echo sends bytes and wants them back.
func echo(ctx context.Context, from *stackPod, network string, to netip.Addr, port uint16, size int) error {
	c, err := from.DialContext(ctx, network, netip.AddrPortFrom(to, port).String())
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	sent := make([]byte, size)
	for i := range sent {
		sent[i] = byte(i * 7)
	}
	go func() { _, _ = c.Write(sent) }() // what is not written is not read either
	got := make([]byte, size)
	if _, err := io.ReadFull(datagrams{c}, got); err != nil {
		return err
	}
	if !bytes.Equal(got, sent) {
		return fmt.Errorf("other bytes came back")
	}
	return nil
}

// datagrams keeps io.ReadFull from reading less than a datagram at a time.
type datagrams struct{ net.Conn }

// TestBulk: 1 GiB each way between nodes, both at once, over one connection and
// with equal sha256, at ordinary and large MTU, half of it over each family.
func TestBulk(t *testing.T) {
	const size = 512 << 20
	for _, mtu := range []int{1450, 9000} {
		t.Run(fmt.Sprintf("mtu=%d", mtu), func(t *testing.T) {
			_, pods := start(t, Config{Nodes: 2, PodMTU: mtu}, 1)
			for _, ip := range pods[1].IPs {
				l, err := pods[1].Listen("tcp", netip.AddrPortFrom(ip.Addr(), 9).String())
				if err != nil {
					t.Fatal(err)
				}
				a, err := pods[0].DialContext(t.Context(), "tcp", l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				b, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				bulk(t, a, b, size)
				a.Close()
				b.Close()
				l.Close()
			}
		})
	}
}

// bulk sends size bytes each way at once and compares their sha256.
func bulk(t *testing.T, a, b net.Conn, size int64) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	var wg sync.WaitGroup
	var sent, got [2][]byte
	for i, ends := range [][2]net.Conn{{a, b}, {b, a}} {
		from, to := ends[0], ends[1]
		if err := from.SetDeadline(deadline); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			sum, buf := sha256.New(), make([]byte, 1<<18)
			for n := int64(0); n < size; n += int64(len(buf)) {
				buf[0], buf[1], buf[2], buf[3] = byte(i), byte(n>>18), byte(n>>26), byte(n>>34)
				sum.Write(buf)
				if _, err := from.Write(buf); err != nil {
					t.Errorf("way %d: after %d bytes: %v", i, n, err)
					return
				}
			}
			sent[i] = sum.Sum(nil)
		})
		wg.Go(func() {
			sum := sha256.New()
			if n, err := io.CopyBuffer(sum, struct{ io.Reader }{io.LimitReader(to, size)}, make([]byte, 1<<18)); err != nil || n != size {
				t.Errorf("way %d: received %d bytes of %d: %v", i, n, size, err)
			}
			got[i] = sum.Sum(nil)
		})
	}
	wg.Wait()
	if !bytes.Equal(sent[0], got[0]) || !bytes.Equal(sent[1], got[1]) {
		t.Error("other bytes arrived than were sent")
	}
}

// TestCrashedNode: packets to the pods of a lost node are answered, at once.
func TestCrashedNode(t *testing.T) {
	f, pods := start(t, Config{Nodes: 2}, 1)
	to := netip.AddrPortFrom(pods[1].IPs[0].Addr(), 80)
	f.Fail("node2")
	start := time.Now()
	if c, err := pods[0].DialContext(t.Context(), "tcp", to.String()); err == nil {
		c.Close()
		t.Fatal("a pod of a lost node answers")
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("silence for %s", took)
	}
	f.Return("node2")
	if err := echo(t.Context(), pods[0], "tcp", to.Addr(), 80, 1000); err != nil {
		t.Errorf("after its return: %v", err)
	}
}

// TestInline: an inline fabric moves packets in Settle only.
func TestInline(t *testing.T) {
	f, err := New(Config{Nodes: 2, Inline: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.RecordOnFailure(t)
	near, far := port.Pipe(1450)
	p := f.Nodes[0].Plan("test/a")
	if err := p.Attach(near); err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if n := f.Settle(); n != 0 {
		t.Errorf("%d packets moved, and nobody sent one", n)
	}
}

// TestBatchFull: superpackets that did not fit a batch are read with the next
// one, although the wire has rung only once.
func TestBatchFull(t *testing.T) {
	f, err := New(Config{Nodes: 2, Inline: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.RecordOnFailure(t)
	const n = 60
	for range n {
		f.Nodes[1].wire.put(inFlight{packet.Packet{Len: 60000, In: packet.PeerBase | 1}, make([]byte, 60000)})
	}
	if got := f.Settle(); got != n {
		t.Errorf("%d of %d packets were read", got, n)
	}
}
