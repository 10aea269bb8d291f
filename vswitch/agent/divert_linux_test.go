package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/netns"
	"vswitch/vswitch/netns/netnstest"
	"vswitch/vswitch/packet"
)

// echo serves TCP and UDP at a port of all addresses of a namespace: it says its
// name, and with every line or datagram again.
func echo(t *testing.T, ns, name string, port uint16) {
	t.Helper()
	var l net.Listener
	var u net.PacketConn
	netnstest.Do(t, ns, func() (err error) {
		if l, err = net.Listen("tcp", fmt.Sprint(":", port)); err == nil {
			u, err = net.ListenPacket("udp", fmt.Sprint(":", port))
		}
		return err
	})
	t.Cleanup(func() { l.Close(); u.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, name)
				for s := bufio.NewScanner(c); s.Scan(); {
					fmt.Fprintln(c, name)
				}
			}()
		}
	}()
	go func() {
		buf := make([]byte, 2048)
		for {
			_, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo([]byte(name+"\n"), from) // a lost answer is asked for again
		}
	}()
}

// hear returns the next line of a connection.
func hear(c net.Conn) (string, error) {
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	buf := make([]byte, 2048)
	n, err := c.Read(buf)
	return strings.TrimSpace(string(buf[:n])), err
}

// whoAt asks who serves an address and port.
func whoAt(ns, network string, from uint16, to netip.AddrPort) (who string, c net.Conn, err error) {
	err = netns.Do(ns, func() (err error) {
		d := net.Dialer{Timeout: 30 * time.Second}
		if network == "tcp" && from != 0 {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(to.Addr(), from))
		}
		c, err = d.Dial(network, to.String())
		return err
	})
	if err != nil {
		return "", nil, err
	}
	if network == "udp" {
		if _, err := c.Write([]byte("who\n")); err != nil {
			return "", c, err
		}
	}
	who, err = hear(c)
	return who, c, err
}

// TestOwnServices: a node reaches services at its own addresses, at their ports
// and no others, as they come and go, over the death of its process, and not when
// it has no port any more.
func TestOwnServices(t *testing.T) {
	g := &guarded{t: t}
	g.lone, g.store = newFed(t)
	g.cfg.ExtraAddresses = addrs("192.0.2.1")
	g.stopFeed = g.feed(t, g.store)
	g.node = startNode(t, g.ns, g.cfg)
	g.node.ready(0)
	r := PodRequest{Namespace: "x", Name: "web", UID: "web", PortSpec: PortSpec{NetNS: netnstest.New(t)}}
	putPod(t, g.store, r)
	pod := g.node.pod(r)
	own := PortRequest{NetNS: netnstest.New(t)}
	netnstest.Do(t, own.NetNS, func() error { return netns.SetUp("lo") })
	if _, err := g.node.AttachOwn(context.Background(), own); err != nil {
		t.Fatal(err)
	}
	echo(t, pod.NetNS, "pod", 8080)
	for _, port := range []uint16{80, 81} {
		echo(t, own.NetNS, "node", port)
	}

	web := func(change func(*cluster.Service)) uint64 {
		return g.update(func(tx *cluster.Txn) {
			svc := &cluster.Service{Meta: cluster.Meta{Namespace: "x", Name: "web"}, ClusterIPs: addrs("10.96.0.5"),
				IPFamilies: []cluster.IPFamily{cluster.IPv4, cluster.IPv6},
				Ports:      []cluster.ServicePort{{Name: "t", Protocol: packet.ProtoTCP, Port: 80}, {Name: "u", Protocol: packet.ProtoUDP, Port: 80}}}
			change(svc)
			tx.Put(svc)
			for i, family := range []cluster.IPFamily{cluster.IPv4, cluster.IPv6} {
				tx.Put(&cluster.EndpointSlice{
					Meta:   cluster.Meta{Namespace: "x", Name: fmt.Sprint("web-", i), Labels: map[string]string{cluster.LabelServiceName: "web"}},
					Family: family, Ports: []cluster.EndpointPort{{Name: "t", Protocol: packet.ProtoTCP, Port: 8080}, {Name: "u", Protocol: packet.ProtoUDP, Port: 8080}},
					Endpoints: []cluster.Endpoint{{Addresses: pod.IPs[i : i+1], Node: "node1", Ready: true, Serving: true}},
				})
			}
		})
	}
	external := func(s *cluster.Service) { s.ExternalIPs = addrs("172.29.0.1", "fd00:10:29::1") }
	// answered checks who answers at ADDRESS:PORT, the first time that it is asked.
	answered := func(want string, at ...string) {
		t.Helper()
		for _, to := range at {
			for _, network := range []string{"tcp", "udp"} {
				who, c, err := whoAt(own.NetNS, network, 0, netip.MustParseAddrPort(to))
				if err != nil || who != want {
					t.Errorf("%s at %s is %q, error %v; want %s", network, to, who, err, want)
				}
				if c != nil {
					c.Close()
				}
			}
		}
	}
	// still checks that a connection is with whom it was.
	still := func(c net.Conn, want string) {
		t.Helper()
		if _, err := c.Write([]byte("who\n")); err != nil {
			t.Error(err)
		}
		if who, err := hear(c); err != nil || who != want {
			t.Errorf("a connection with %s is with %q, error %v", want, who, err)
		}
	}
	open := func(to, want string, from uint16) net.Conn {
		t.Helper()
		who, c, err := whoAt(own.NetNS, "tcp", from, netip.MustParseAddrPort(to))
		if err != nil || who != want {
			t.Fatalf("at %s is %q, error %v; want %s", to, who, err, want)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	// diverted counts the rules besides those of node ports.
	diverted := func(want int) {
		t.Helper()
		n := 0
		for _, family := range []string{"-4", "-6"} {
			out, err := run(own.NetNS, "ip", family, "rule", "list")
			if err != nil {
				t.Fatal(out, err)
			}
			n += strings.Count(out, "lookup 3080") - strings.Count(out, "dport 30000-32767")
		}
		if n != want {
			t.Errorf("%d rules for services, want %d", n, want)
		}
	}
	const four, six, extra = "172.29.0.1:80", "[fd00:10:29::1]:80", "192.0.2.1:80"

	g.enforced(web(func(*cluster.Service) {}))
	answered("node", four, six, extra)
	diverted(0)
	before := open(four, "node", 0)
	before6 := open(six, "node", 0)
	g.enforced(web(external))
	answered("pod", four, six)
	answered("node", extra, "127.0.0.1:80", "[::1]:80", "172.29.0.1:81", "[fd00:10:29::1]:81")
	diverted(4)
	still(before, "node")
	still(before6, "node")

	// A balancer's address; and a client's port that is a service's.
	g.enforced(web(func(s *cluster.Service) {
		external(s)
		s.Ingress = []cluster.LBIngress{{IP: netip.MustParseAddr("192.0.2.1")}, {IP: netip.MustParseAddr("198.51.100.1")}}
		s.Ports[0].Port = 40000
	}))
	answered("node", "172.29.0.1:81")
	for _, to := range []string{"172.29.0.1:40000", "[fd00:10:29::1]:40000", "192.0.2.1:40000"} {
		open(to, "pod", 0)
	}
	still(open("172.29.0.1:81", "node", 40000), "node")
	still(open("[fd00:10:29::1]:81", "node", 40000), "node")
	diverted(6)

	// The process is killed, and comes back, at first not knowing the services:
	// nothing is there for the kernel to refuse meanwhile. What is no longer
	// wanted goes.
	g.enforced(web(external))
	answered("pod", four, six)
	through := open(four, "pod", 0)
	g.node.stop(syscall.SIGKILL)
	g.stopFeed()
	g.node = startNode(t, g.ns, g.cfg)
	eventually(t, time.Minute, func() error {
		s, err := g.node.Status(context.Background())
		if err == nil && s.NodePort == nil {
			err = errors.New("the node port is not attached again")
		}
		return err
	})
	diverted(4)
	still(through, "pod")
	g.stopFeed = g.feed(t, g.store)
	g.node.ready(0)
	diverted(4)
	still(through, "pod")
	answered("pod", four, six)
	g.node.stop(syscall.SIGKILL)
	gone := g.update(func(tx *cluster.Txn) {
		tx.Delete(cluster.KindService.Ref(cluster.Key{Namespace: "x", Name: "web"}))
	})
	g.node = startNode(t, g.ns, g.cfg)
	g.node.ready(0)
	g.enforced(gone)
	answered("node", four, six)
	diverted(0)

	// Of more than one service, and none of what is nobody's own.
	g.enforced(web(func(s *cluster.Service) { external(s); s.ExternalIPs = append(s.ExternalIPs, addrs("198.51.100.2")...) }))
	g.enforced(g.update(func(tx *cluster.Txn) {
		tx.Put(&cluster.Service{Meta: cluster.Meta{Namespace: "x", Name: "other"}, ClusterIPs: addrs("10.96.0.6"), ExternalIPs: addrs("172.29.0.1"),
			Ports: []cluster.ServicePort{{Protocol: packet.ProtoTCP, Port: 81}}})
	}))
	diverted(4) // two neighboring ports are one rule's
	if _, c, err := whoAt(own.NetNS, "tcp", 0, netip.MustParseAddrPort("172.29.0.1:81")); err == nil {
		c.Close()
		t.Error("a service without endpoints is answered")
	}
	if err := g.node.DetachOwn(context.Background()); err != nil {
		t.Fatal(err)
	}
	diverted(0)
	if out, _ := run(own.NetNS, "ip", "rule", "list"); strings.Contains(out, "3080") {
		t.Errorf("rules are left:\n%s", out)
	}
	answered("node", four, six, "172.29.0.1:81")
}

// TestDiversionCost: services that have no address of the node's cost its diversion
// nothing, however many there are.
func TestDiversionCost(t *testing.T) {
	n := &Node{cfg: nodeConfig(t, 1), services: NewServices(ServiceConfig{}, "node1", "")}
	p := &ownPort{PortStatus: PortStatus{Interface: "eth0", Addresses: addrs("172.29.0.1", "fd00:10:29::1", "192.0.2.1")}}
	n.pools = []*pool{newPool(n.cfg.PodCIDRs[0]), newPool(n.cfg.PodCIDRs[1])}
	steps := func() (looked int) {
		s := n.services.compiler.Services()
		for _, a := range p.Addresses {
			for range s.At(a) {
				looked++
			}
		}
		return looked
	}
	cost := testing.AllocsPerRun(10, func() { n.diversion(p) })
	before := n.diversion(p)
	for i := range 10000 {
		a, b := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), netip.AddrFrom4([4]byte{198, 19, byte(i >> 8), byte(i)})
		n.services.compiler.Set(&cluster.Service{Meta: cluster.Meta{Namespace: "x", Name: fmt.Sprint(i)}, ClusterIPs: []netip.Addr{a},
			ExternalIPs: []netip.Addr{b}, Ports: []cluster.ServicePort{{Protocol: packet.ProtoTCP, Port: 80}}}, nil)
	}
	if now := testing.AllocsPerRun(10, func() { n.diversion(p) }); now != cost || steps() != 0 {
		t.Errorf("%v allocations and %d steps with many services, %v and none without", now, steps(), cost)
	}
	if now := n.diversion(p); !now.Equal(&before) {
		t.Errorf("the diversion became %+v", now)
	}
	n.services.compiler.Set(&cluster.Service{Meta: cluster.Meta{Namespace: "x", Name: "own"}, ClusterIPs: addrs("198.18.255.1"),
		ExternalIPs: addrs("192.0.2.1"), Ports: []cluster.ServicePort{{Protocol: packet.ProtoUDP, Port: 53}}}, nil)
	want := netns.Destination{Addr: p.Addresses[2], Proto: packet.ProtoUDP, First: 53, Last: 53}
	if to := n.diversion(p).To; len(to) != len(before.To)+1 || to[len(to)-1] != want {
		t.Errorf("the diversion became %+v, want %+v more", to, want)
	}
}

// TestOwnServicesUnreachable: a node whose namespace cannot be told says so, once,
// and goes on.
func TestOwnServicesUnreachable(t *testing.T) {
	g := &guarded{t: t}
	g.lone, g.store = newFed(t)
	g.stopFeed = g.feed(t, g.store)
	g.node = startNode(t, g.ns, g.cfg)
	g.node.ready(0)
	own := PortRequest{NetNS: netnstest.New(t)}
	if _, err := g.node.AttachOwn(context.Background(), own); err != nil {
		t.Fatal(err)
	}
	if err := netns.Delete(own.NetNS); err != nil {
		t.Fatal(err)
	}
	for _, port := range []uint16{80, 81} {
		g.enforced(g.update(func(tx *cluster.Txn) {
			tx.Put(&cluster.Service{Meta: cluster.Meta{Namespace: "x", Name: "web"}, ClusterIPs: addrs("10.96.0.5"), ExternalIPs: addrs("172.29.0.1"),
				Ports: []cluster.ServicePort{{Protocol: packet.ProtoTCP, Port: port}}})
		}))
	}
	const want = "the node does not reach all services at its own addresses; it is tried again"
	s, err := g.node.Status(context.Background())
	if err != nil || len(s.Problems) != 1 || !strings.Contains(s.Problems[0], want) {
		t.Errorf("problems %q, error %v", s.Problems, err)
	}
	if n := strings.Count(g.node.said(), want); n != 1 {
		t.Errorf("it was logged %d times", n)
	}
	if err := g.node.DetachOwn(context.Background()); err != nil {
		t.Fatal(err)
	}
	if s, err := g.node.Status(context.Background()); err != nil || len(s.Problems) != 0 {
		t.Errorf("problems %q, error %v, after the end", s.Problems, err)
	}
}
