package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/netns"
	"vswitch/vswitch/netns/netnstest"
	"vswitch/vswitch/packet"
)

// guarded is a node with a feed, two pods that always are there, friend and
// stranger, and a policy for pods with app=web: they hear friends at the port
// that they call http, and speak to friends.
type guarded struct {
	*lone
	t                *testing.T
	store            *cluster.Store
	stopFeed         func()
	friend, stranger PodStatus
}

const httpPort, udpPort = 8080, 5300

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	l, store := newFed(t)
	g := &guarded{lone: l, t: t, store: store}
	g.stopFeed = l.feed(t, store)
	l.node = startNode(t, l.ns, l.cfg)
	l.node.ready(0)
	g.friend = g.attach("friend", "10.244.1.10")
	g.stranger = g.attach("stranger", "10.244.1.11")
	return g
}

// update changes what is desired, and returns the revision.
func (g *guarded) update(change func(tx *cluster.Txn)) uint64 {
	g.t.Helper()
	if err := g.store.Update(cluster.Desired, func(tx *cluster.Txn) error { change(tx); return nil }); err != nil {
		g.t.Fatal(err)
	}
	return g.store.State().Revision
}

// enforced waits until the node goes by a revision.
func (g *guarded) enforced(revision uint64) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := g.node.WaitDesired(ctx, revision); err != nil {
		g.t.Fatal(err)
	}
}

// dropped waits until the node counts what a policy dropped of a pod, at least as
// many packets of ingress, and some of egress.
func (g *guarded) dropped(policy, pod string, least uint64) {
	g.t.Helper()
	eventually(g.t, time.Minute, func() error { // what was sent last is still under way
		s, err := g.node.Policies(context.Background(), true)
		found := map[string]uint64{}
		for _, d := range s.Drops {
			if d.Policy == policy && d.Pod == pod {
				found[d.Direction] = d.Packets
			}
		}
		if len(s.Reports) != 1 || s.Reports[0].Policy != policy || s.Reports[0].Local == 0 {
			return fmt.Errorf("reports %+v, want one of %s", s.Reports, policy)
		}
		if err != nil || !s.InUse || found["ingress"] < least || found["egress"] == 0 {
			return fmt.Errorf("%+v, error %v; want at least %d ingress drops of %s for %s, and some of egress", s, err, least, policy, pod)
		}
		return nil
	})
}

// pod is a desired pod with a label app and its ports.
func pod(name, app string) *cluster.Pod {
	return &cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: name, UID: name, Labels: map[string]string{"app": app}}, Node: "node1",
		Containers: []cluster.Container{{Name: "c", Ports: []cluster.ContainerPort{
			{Name: "http", Port: httpPort, Protocol: packet.ProtoTCP}, {Name: "http", Port: udpPort, Protocol: packet.ProtoUDP}}}}}
}

func (g *guarded) request(name, ip string) PodRequest {
	return PodRequest{Namespace: "x", Name: name, UID: name, PortSpec: PortSpec{NetNS: netnstest.New(g.t)}, IPs: addrs(ip)}
}

func (g *guarded) attach(name, ip string) PodStatus {
	g.t.Helper()
	g.update(func(tx *cluster.Txn) { tx.Put(pod(name, name)) })
	return g.node.pod(g.request(name, ip))
}

func withApp(app string) cluster.Selector {
	return cluster.Selector{Requirements: []cluster.Requirement{{Key: "app", Operator: cluster.SelectIn, Values: []string{app}}}}
}

// guard is the policy.
func guard(name string) *cluster.NetworkPolicy {
	friends := withApp("friend")
	return &cluster.NetworkPolicy{
		Meta: cluster.Meta{Namespace: "x", Name: name}, Pods: withApp("web"), IsolatesIngress: true, IsolatesEgress: true,
		Ingress: []cluster.PolicyRule{{Action: cluster.ActionAccept, Peers: []cluster.PolicyPeer{{Pods: &friends}},
			Ports: []cluster.PolicyPort{{Name: "http", Protocol: packet.ProtoTCP}, {Name: "http", Protocol: packet.ProtoUDP}}}},
		Egress: []cluster.PolicyRule{{Action: cluster.ActionAccept, Peers: []cluster.PolicyPeer{{Pods: &friends}}}},
	}
}

// hears counts the datagrams that a namespace hears, by sender.
type hears struct {
	mu   sync.Mutex
	from map[netip.Addr]int
}

func (h *hears) count(a netip.Addr) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.from[a]
}

// listenUDP listens in a namespace, which need not have an address yet, and
// answers nothing.
func listenUDP(t *testing.T, ns string) *hears {
	t.Helper()
	h := &hears{from: map[netip.Addr]int{}}
	var conn *net.UDPConn
	netnstest.Do(t, ns, func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: udpPort})
		return err
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64)
		for {
			_, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			h.mu.Lock()
			h.from[from.Addr().Unmap()]++
			h.mu.Unlock()
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return h
}

// storm sends datagrams from a namespace, each the first of a flow, from now on,
// whether it has an address or not. It returns how many have left.
func storm(t *testing.T, ns, to string) (sent *atomic.Int64, stop func()) {
	t.Helper()
	sent = new(atomic.Int64)
	dst := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(to), udpPort))
	ended, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		for n := 0; ; n++ {
			select {
			case <-ended:
				return
			default:
			}
			_ = netns.Do(ns, func() error { // it has no address yet, or no way
				c, err := net.DialUDP("udp4", nil, dst)
				if err != nil {
					return err
				}
				defer c.Close()
				if _, err = c.Write([]byte("storm")); err == nil {
					sent.Add(1)
				}
				return err
			})
		}
	}()
	stop = sync.OnceFunc(func() { close(ended); <-over })
	t.Cleanup(stop)
	return sent, stop
}

// serveTCP answers lines at the http port in a namespace.
func serveTCP(t *testing.T, ns string) {
	t.Helper()
	var l net.Listener
	netnstest.Do(t, ns, func() (err error) {
		l, err = net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", httpPort))
		return err
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

// say says a line and hears it back.
func say(c net.Conn, within time.Duration) error {
	_ = c.SetDeadline(time.Now().Add(within))
	if _, err := fmt.Fprintln(c, "hello"); err != nil {
		return err
	}
	_, err := bufio.NewReader(c).ReadString('\n')
	return err
}

// short makes a short connection.
func short(ns, to string, within time.Duration) error {
	c, err := dialIn(ns, within, netip.AddrPortFrom(netip.MustParseAddr(to), httpPort))
	if err != nil {
		return err
	}
	defer c.Close()
	return say(c, within)
}

// TestB21PolicyBeforePod: when the policy is there before the pod, or comes with
// it, not one forbidden packet passes in either direction, though they come from
// the first instant and the node is asked to attach the pod before it has heard
// of either. What is allowed works at once.
func TestB21PolicyBeforePod(t *testing.T) {
	g := newGuarded(t)
	heardByStranger, heardByFriend := listenUDP(t, g.stranger.NetNS), listenUDP(t, g.friend.NetNS)
	g.update(func(tx *cluster.Txn) { tx.Put(pod("caller", "friend")) })
	caller := g.node.pod(g.request("caller", "10.244.1.12")) // sends nothing but what it is told to
	for i := range 5 {
		name, ip := fmt.Sprintf("web%d", i), fmt.Sprintf("10.244.1.%d", 20+i)
		r := g.request(name, ip)
		heard := listenUDP(t, r.NetNS)
		serveTCP(t, r.NetNS)
		// Who is not there answers no ARP, and is asked once a second.
		for _, p := range []PodStatus{g.stranger, g.friend, caller} {
			if out, err := run(p.NetNS, "ip", "neigh", "replace", ip, "lladdr", macString(MACOf(r.IPs[0])), "dev", "eth0", "nud", "permanent"); err != nil {
				t.Fatal(out, err)
			}
		}
		in, stopIn := storm(t, g.stranger.NetNS, ip)
		out, stopOut := storm(t, r.NetNS, "10.244.1.11")
		good, stopGood := storm(t, g.friend.NetNS, ip)
		attached := make(chan error, 1)
		go func() {
			_, err := g.node.AttachPod(context.Background(), r)
			attached <- err
		}()
		time.Sleep(20 * time.Millisecond) // the node has the request, most likely
		g.update(func(tx *cluster.Txn) {
			tx.Put(pod(name, "web"))
			tx.Put(guard("guard"))
		})
		if err := <-attached; err != nil {
			t.Fatal(err)
		}
		if err := short(caller.NetNS, ip, time.Minute); err != nil {
			t.Errorf("%s: an allowed connection in the first moment: %v", name, err)
		}
		lost := txDropped(t, g.stranger.NetNS)
		from, web := in.Load(), netip.MustParseAddr(ip)
		eventually(t, time.Minute, func() error {
			if in.Load() < from+50 || out.Load() < 50 || heard.count(g.friend.IPs[0]) == 0 {
				return fmt.Errorf("%d and %d datagrams were sent, %d allowed ones came", in.Load(), out.Load(), heard.count(g.friend.IPs[0]))
			}
			return nil
		})
		for _, stop := range []func(){stopIn, stopOut, stopGood} {
			stop()
		}
		if n := heard.count(g.stranger.IPs[0]); n > 0 {
			t.Errorf("%s heard %d of %d forbidden datagrams", name, n, in.Load())
		}
		if n := heardByStranger.count(web); n > 0 {
			t.Errorf("%s said %d of %d forbidden datagrams", name, n, out.Load())
		}
		if good.Load() == 0 || heardByFriend.count(g.stranger.IPs[0]) > 0 {
			t.Errorf("%s: the test itself is wrong", name)
		}
		// What its kernel drops, because the switch does not read for a while, the switch cannot count.
		// It counted what it dropped before we looked at in, too, which may be more than all since.
		lost = txDropped(t, g.stranger.NetNS) - lost
		since := uint64(in.Load() - from)
		g.dropped("NetworkPolicy x/guard", "x/"+name, since-min(lost, since))
		if i == 2 { // from now on, without the policy; it comes with the pod
			g.enforced(g.update(func(tx *cluster.Txn) {
				tx.Delete(cluster.KindNetworkPolicy.Ref(cluster.Key{Namespace: "x", Name: "guard"}))
			}))
		}
	}
	pods, err := g.node.Pods(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		if p.Name != caller.Name {
			continue
		}
		for reason, n := range p.Counters.Drops {
			if reason == "starting" || strings.HasPrefix(reason, "policy-") {
				t.Errorf("%d allowed packets died in the first moment: %s", n, reason)
			}
		}
	}
}

// TestPolicyAddressReused: who has the address of a pod that is gone has none of its
// rights, though the feed has the pod for a while longer than the node.
func TestPolicyAddressReused(t *testing.T) {
	g := newGuarded(t)
	g.update(func(tx *cluster.Txn) { tx.Put(pod("web", "web")); tx.Put(guard("guard")) })
	web := g.request("web", "10.244.1.20")
	serveTCP(t, web.NetNS)
	g.node.pod(web)
	if err := short(g.friend.NetNS, "10.244.1.20", time.Minute); err != nil {
		t.Fatalf("a friend: %v", err)
	}
	if err := g.node.DetachPod(context.Background(), "x", "friend"); err != nil {
		t.Fatal(err)
	}
	g.enforced(g.update(func(tx *cluster.Txn) { tx.Delete(cluster.KindPod.Ref(cluster.Key{Namespace: "x", Name: "friend"})) }))
	next := g.attach("next", "10.244.1.10")
	if err := short(next.NetNS, "10.244.1.20", 2*time.Second); err == nil {
		t.Error("its successor at the address is let in, too")
	}
}

// txDropped returns how many packets the kernel has dropped that a pod sent,
// before the switch could read them.
func txDropped(t *testing.T, ns string) (n uint64) {
	t.Helper()
	netnstest.Do(t, ns, func() error {
		l, err := netlink.LinkByName("eth0")
		if err == nil {
			n = l.Attrs().Statistics.TxDropped
		}
		return err
	})
	return n
}

// TestPolicyRestart: a node that was killed and hears nothing of policies lets no
// forbidden packet pass; connections that were allowed go on meanwhile, and new
// ones work when it has heard.
func TestPolicyRestart(t *testing.T) {
	g := newGuarded(t)
	g.update(func(tx *cluster.Txn) { tx.Put(pod("web", "web")); tx.Put(guard("guard")) })
	web := g.node.pod(g.request("web", "10.244.1.20"))
	heard := listenUDP(t, web.NetNS)
	serveTCP(t, web.NetNS)
	conn, err := dialIn(g.friend.NetNS, 30*time.Second, netip.MustParseAddrPort("10.244.1.20:8080"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := say(conn, time.Minute); err != nil {
		t.Fatal(err)
	}
	sent, stop := storm(t, g.stranger.NetNS, "10.244.1.20")
	eventually(t, time.Minute, func() error {
		if sent.Load() < 100 {
			return errors.New("there is no storm")
		}
		return nil
	})
	g.stopFeed()
	g.node.stop(syscall.SIGKILL)
	g.node = startNode(t, g.ns, g.cfg)
	eventually(t, time.Minute, func() error {
		s, err := g.node.Status(context.Background())
		if err == nil && s.Pods != 3 {
			err = fmt.Errorf("%d pods are attached again, want 3", s.Pods)
		}
		return err
	})
	if err := say(conn, time.Minute); err != nil {
		t.Errorf("a connection that was allowed, while nothing is heard of policies: %v", err)
	}
	// Of friends, too, nobody is let in: their flows of before would be known.
	before := sent.Load()
	allowed, stopAllowed := storm(t, g.friend.NetNS, "10.244.1.20")
	eventually(t, time.Minute, func() error {
		if sent.Load() < before+100 || allowed.Load() < 100 {
			return errors.New("the storm is over")
		}
		return nil
	})
	if n := heard.count(g.friend.IPs[0]); n > 0 {
		t.Errorf("%d new flows passed before anything was heard of policies", n)
	}
	g.feed(t, g.store)
	g.node.ready(0)
	if err := short(g.friend.NetNS, "10.244.1.20", time.Minute); err != nil {
		t.Errorf("an allowed connection when policies are known: %v", err)
	}
	if err := say(conn, time.Minute); err != nil {
		t.Errorf("a connection that was allowed, when policies are known: %v", err)
	}
	before = sent.Load()
	eventually(t, time.Minute, func() error {
		if sent.Load() < before+100 || heard.count(g.friend.IPs[0]) == 0 {
			return errors.New("the storm is over, or nothing that is allowed comes")
		}
		return nil
	})
	stop()
	stopAllowed()
	if n := heard.count(g.stranger.IPs[0]); n > 0 {
		t.Errorf("%d of %d forbidden datagrams passed", n, sent.Load())
	}
}

// TestPolicyEnforced: when the node says that it goes by a revision, its changes
// are in force: labels of pods and of their namespace, and policies, for new
// connections and, if so configured, for those that there are.
func TestPolicyEnforced(t *testing.T) {
	for _, established := range []string{CutEstablished, KeepEstablished} {
		t.Run(established, func(t *testing.T) {
			l, store := newFed(t)
			l.cfg.Policy.Established = established
			g := &guarded{lone: l, t: t, store: store}
			l.feed(t, store)
			l.node = startNode(t, l.ns, l.cfg)
			l.node.ready(0)
			g.update(func(tx *cluster.Txn) { tx.Put(guard("guard")) })
			friend := g.attach("friend", "10.244.1.10")
			web := g.attach("web", "10.244.1.20")
			serveTCP(t, web.NetNS)
			heard := listenUDP(t, web.NetNS)
			from := net.UDPAddr{Port: 20000}
			once := func(none bool) error {
				before := heard.count(friend.IPs[0])
				for range 20 { // each the first of a flow, and so from a port that none was from
					from.Port++
					if err := netns.Do(friend.NetNS, func() error {
						c, err := net.DialUDP("udp4", &from, &net.UDPAddr{IP: net.IPv4(10, 244, 1, 20), Port: udpPort})
						if err != nil {
							return err
						}
						defer c.Close()
						_, err = c.Write([]byte("x"))
						return err
					}); err != nil {
						return err
					}
				}
				n := 0
				// Nothing tells that nothing comes. What comes may be late on a busy
				// machine, some of it or all.
				for wait := 300 * time.Millisecond; wait < time.Minute && n < 20; wait *= 2 {
					time.Sleep(wait)
					if n = heard.count(friend.IPs[0]) - before; n == 0 && none {
						break
					}
				}
				if n != 20 {
					return fmt.Errorf("%d of 20 datagrams came", n)
				}
				return nil
			}
			conn, err := dialIn(friend.NetNS, 30*time.Second, netip.MustParseAddrPort("10.244.1.20:8080"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := say(conn, time.Minute); err != nil {
				t.Fatal(err)
			}
			if err := once(false); err != nil {
				t.Fatal(err)
			}
			was := pod("friend", "friend")
			now := *was
			now.Labels = map[string]string{"app": "foe"}
			g.enforced(g.update(func(tx *cluster.Txn) { tx.Put(&now) }))
			if err := once(true); err == nil || err.Error() != "0 of 20 datagrams came" {
				t.Errorf("after the label is gone: %v, want none to pass", err)
			}
			err = say(conn, time.Minute)
			if kept := err == nil; kept != (established == KeepEstablished) {
				t.Errorf("a connection that is no longer allowed: %v", err)
			} else if err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("a connection that is no longer allowed ends with %v, want a reset", err)
			}
			pods, err := g.node.Pods(context.Background())
			if err != nil || pods[0].Labels["app"] != "foe" {
				t.Errorf("the node shows %v, error %v; want the label that is in force", pods, err)
			}
			g.enforced(g.update(func(tx *cluster.Txn) { tx.Put(was) }))
			if err := once(false); err != nil {
				t.Errorf("when the label is back: %v", err)
			}
			g.enforced(g.update(func(tx *cluster.Txn) {
				none := guard("guard")
				none.Ingress = nil
				tx.Put(none)
			}))
			if err := once(true); err == nil || os.IsTimeout(err) {
				t.Errorf("when the rule is gone: %v, want none to pass", err)
			}
			g.enforced(g.update(func(tx *cluster.Txn) {
				tx.Delete(cluster.KindNetworkPolicy.Ref(cluster.Key{Namespace: "x", Name: "guard"}))
			}))
			if err := once(false); err != nil {
				t.Errorf("without a policy: %v", err)
			}
		})
	}
}
