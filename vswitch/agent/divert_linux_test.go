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

	"golang.org/x/sys/unix"

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

// alone is a node in a namespace that speaks to itself, with servers of its own at
// ports 80 and 81, and a pod with one at 8080.
type alone struct {
	*guarded
	own PortRequest
	pod PodStatus
}

func newAlone(t *testing.T) *alone {
	t.Helper()
	g := &guarded{t: t}
	g.lone, g.store = newFed(t)
	g.cfg.ExtraAddresses = addrs("192.0.2.1")
	g.stopFeed = g.feed(t, g.store)
	g.node = startNode(t, g.ns, g.cfg)
	g.node.ready(0)
	a := &alone{guarded: g, own: PortRequest{NetNS: netnstest.New(t)}}
	r := PodRequest{Namespace: "x", Name: "web", UID: "web", PortSpec: PortSpec{NetNS: netnstest.New(t)}}
	putPod(t, g.store, r)
	a.pod = g.node.pod(r)
	netnstest.Do(t, a.own.NetNS, func() error { return netns.SetUp("lo") })
	if _, err := g.node.AttachOwn(context.Background(), a.own); err != nil {
		t.Fatal(err)
	}
	echo(t, a.pod.NetNS, "pod", 8080)
	echo(t, a.own.NetNS, "node", 80)
	echo(t, a.own.NetNS, "node", 81)
	return a
}

// web makes x/web, with the pod behind port 80 of TCP and UDP, what change makes
// of it, and waits until the node goes by that.
func (a *alone) web(change func(*cluster.Service)) {
	a.t.Helper()
	a.enforced(a.update(func(tx *cluster.Txn) {
		svc := &cluster.Service{Meta: cluster.Meta{Namespace: "x", Name: "web"}, ClusterIPs: addrs("10.96.0.5"),
			IPFamilies: []cluster.IPFamily{cluster.IPv4, cluster.IPv6},
			Ports:      []cluster.ServicePort{{Name: "t", Protocol: packet.ProtoTCP, Port: 80}, {Name: "u", Protocol: packet.ProtoUDP, Port: 80}}}
		change(svc)
		tx.Put(svc)
		for i, family := range svc.IPFamilies {
			tx.Put(&cluster.EndpointSlice{
				Meta:   cluster.Meta{Namespace: "x", Name: fmt.Sprint("web-", i), Labels: map[string]string{cluster.LabelServiceName: "web"}},
				Family: family, Ports: []cluster.EndpointPort{{Name: "t", Protocol: packet.ProtoTCP, Port: 8080}, {Name: "u", Protocol: packet.ProtoUDP, Port: 8080}},
				Endpoints: []cluster.Endpoint{{Addresses: a.pod.IPs[i : i+1], Node: "node1", Ready: true, Serving: true}},
			})
		}
	}))
}

// external gives a service both of the node's first addresses.
func external(s *cluster.Service) { s.ExternalIPs = addrs("172.29.0.1", "fd00:10:29::1") }

// answered checks who answers at ADDRESS:PORT, the first time that it is asked.
func (a *alone) answered(want string, at ...string) {
	a.t.Helper()
	for _, to := range at {
		for _, network := range []string{"tcp", "udp"} {
			who, c, err := whoAt(a.own.NetNS, network, 0, netip.MustParseAddrPort(to))
			if err != nil || who != want {
				a.t.Errorf("%s at %s is %q, error %v; want %s", network, to, who, err, want)
			}
			if c != nil {
				c.Close()
			}
		}
	}
}

// open connects to who is wanted, from a port if it is not 0.
func (a *alone) open(to, want string, from uint16) net.Conn {
	a.t.Helper()
	who, c, err := whoAt(a.own.NetNS, "tcp", from, netip.MustParseAddrPort(to))
	if err != nil || who != want {
		a.t.Fatalf("at %s is %q, error %v; want %s", to, who, err, want)
	}
	a.t.Cleanup(func() { c.Close() })
	return c
}

// still checks that a connection is with whom it was.
func (a *alone) still(c net.Conn, want string) {
	a.t.Helper()
	if _, err := c.Write([]byte("who\n")); err != nil {
		a.t.Error(err)
	}
	if who, err := hear(c); err != nil || who != want {
		a.t.Errorf("a connection with %s is with %q, error %v", want, who, err)
	}
}

// lost checks that a connection of the node with ADDRESS:PORT, of which only its
// own side is left, is reset.
func (a *alone) lost(to string, from uint16) {
	a.t.Helper()
	server := netip.MustParseAddrPort(to)
	netnstest.Do(a.t, a.own.NetNS, func() error {
		family, sockaddr := unix.AF_INET, func(port uint16) unix.Sockaddr {
			return &unix.SockaddrInet4{Addr: server.Addr().As4(), Port: int(port)}
		}
		if server.Addr().Is6() {
			family, sockaddr = unix.AF_INET6, func(port uint16) unix.Sockaddr {
				return &unix.SockaddrInet6{Addr: server.Addr().As16(), Port: int(port)}
			}
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		// In repair, a socket is connected without a word; when that ends, it probes the
		// other side's window (tcp_send_window_probe in the kernel).
		timeout := unix.Timeval{Sec: 30}
		if err := errors.Join(
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
			unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1),
			unix.Bind(fd, sockaddr(from)),
			unix.Connect(fd, sockaddr(server.Port())),
			unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 0),
		); err != nil {
			return fmt.Errorf("connect from port %d: %w", from, err)
		}
		n, err := unix.Read(fd, make([]byte, 100))
		for err == unix.EINTR { // by a signal of the runtime: no call with a timeout is restarted (signal(7))
			n, err = unix.Read(fd, make([]byte, 100))
		}
		if err != unix.ECONNRESET {
			a.t.Errorf("a lost connection with %s from port %d reads %d bytes, error %v", to, from, n, err)
		}
		return nil
	})
}

// diverted checks how many rules there are besides those of node ports, and the
// number of those.
func (a *alone) diverted(services, nodePorts int) {
	a.t.Helper()
	all, ranges := 0, 0
	for _, family := range []string{"-4", "-6"} {
		out, err := run(a.own.NetNS, "ip", family, "rule", "list")
		if err != nil {
			a.t.Fatal(out, err)
		}
		all += strings.Count(out, "lookup 3080")
		ranges += strings.Count(out, "dport 30000-32767 lookup 3080")
	}
	if all-ranges != services || ranges != nodePorts {
		a.t.Errorf("%d rules for services and %d for node ports, want %d and %d", all-ranges, ranges, services, nodePorts)
	}
}

const own4, own6, ownExtra = "172.29.0.1:80", "[fd00:10:29::1]:80", "192.0.2.1:80"

// TestOwnServices: a node reaches services at its own addresses, at their ports
// and no others, as they come and go, and not when it has no port any more. What
// it said to itself before, or says from such a port, is not cut.
func TestOwnServices(t *testing.T) {
	a := newAlone(t)
	a.web(func(*cluster.Service) {})
	a.answered("node", own4, own6, ownExtra)
	a.diverted(0, 6)
	before, before6 := a.open(own4, "node", 0), a.open(own6, "node", 0)
	a.web(external)
	a.answered("pod", own4, own6)
	a.answered("node", ownExtra, "127.0.0.1:80", "[::1]:80", "172.29.0.1:81", "[fd00:10:29::1]:81")
	a.diverted(4, 6)
	a.still(before, "node")
	a.still(before6, "node")
	for _, from := range []uint16{20000, 30500} { // the reset goes to the switch, too, if there may be a node port
		a.lost(own4, from)
		a.lost(own6, from)
	}

	// A balancer's address; and a client's port that is a service's.
	a.web(func(s *cluster.Service) {
		external(s)
		s.Ingress = []cluster.LBIngress{{IP: netip.MustParseAddr("192.0.2.1")}, {IP: netip.MustParseAddr("198.51.100.1")}}
		s.Ports[0].Port = 40000
	})
	a.diverted(6, 6)
	a.answered("node", "172.29.0.1:81")
	for _, to := range []string{"172.29.0.1:40000", "[fd00:10:29::1]:40000", "192.0.2.1:40000"} {
		a.open(to, "pod", 0)
	}
	a.still(a.open("172.29.0.1:81", "node", 40000), "node")
	a.still(a.open("[fd00:10:29::1]:81", "node", 40000), "node")

	// Another service, whose port is next to the first one's.
	a.web(external)
	a.enforced(a.update(func(tx *cluster.Txn) {
		tx.Put(&cluster.Service{Meta: cluster.Meta{Namespace: "x", Name: "other"}, ClusterIPs: addrs("10.96.0.6"), ExternalIPs: addrs("172.29.0.1", "198.51.100.2"),
			Ports: []cluster.ServicePort{{Protocol: packet.ProtoTCP, Port: 81}}})
	}))
	a.diverted(4, 6) // two neighboring ports are one rule's
	a.answered("pod", own4, own6)
	if _, c, err := whoAt(a.own.NetNS, "tcp", 0, netip.MustParseAddrPort("172.29.0.1:81")); err == nil {
		c.Close()
		t.Error("a service without endpoints is answered")
	}
	if err := a.node.DetachOwn(context.Background()); err != nil {
		t.Fatal(err)
	}
	a.diverted(0, 0)
	a.answered("node", own4, own6, "172.29.0.1:81")
}

// TestOwnServicesRestart: what a node reaches at its own addresses outlives the
// death of its process, also while the next one does not know the services yet,
// and what is no longer wanted goes.
func TestOwnServicesRestart(t *testing.T) {
	a := newAlone(t)
	a.web(external)
	a.answered("pod", own4, own6)
	through := a.open(own4, "pod", 0)
	a.node.stop(syscall.SIGKILL)
	a.stopFeed()
	a.node = startNode(t, a.ns, a.cfg)
	eventually(t, time.Minute, func() error {
		s, err := a.node.Status(context.Background())
		if err == nil && s.NodePort == nil {
			err = errors.New("the node port is not attached again")
		}
		return err
	})
	a.diverted(4, 6)
	a.still(through, "pod")
	a.stopFeed = a.feed(t, a.store)
	a.node.ready(0)
	a.diverted(4, 6)
	a.still(through, "pod")
	a.answered("pod", own4, own6)

	a.node.stop(syscall.SIGKILL)
	gone := a.update(func(tx *cluster.Txn) {
		tx.Delete(cluster.KindService.Ref(cluster.Key{Namespace: "x", Name: "web"}))
	})
	a.node = startNode(t, a.ns, a.cfg)
	a.node.ready(0)
	a.enforced(gone)
	a.answered("node", own4, own6)
	a.diverted(0, 6)
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
	a := newAlone(t)
	if err := netns.Delete(a.own.NetNS); err != nil {
		t.Fatal(err)
	}
	for _, port := range []uint16{80, 81} {
		a.enforced(a.update(func(tx *cluster.Txn) {
			tx.Put(&cluster.Service{Meta: cluster.Meta{Namespace: "x", Name: "web"}, ClusterIPs: addrs("10.96.0.5"), ExternalIPs: addrs("172.29.0.1"),
				Ports: []cluster.ServicePort{{Protocol: packet.ProtoTCP, Port: port}}})
		}))
	}
	const want = "the node does not reach all services at its own addresses; it is tried again"
	s, err := a.node.Status(context.Background())
	if err != nil || len(s.Problems) != 1 || !strings.Contains(s.Problems[0], want) {
		t.Errorf("problems %q, error %v", s.Problems, err)
	}
	if err := a.node.DetachOwn(context.Background()); err != nil {
		t.Fatal(err)
	}
	if s, err := a.node.Status(context.Background()); err != nil || len(s.Problems) != 0 {
		t.Errorf("problems %q, error %v, after the end", s.Problems, err)
	}
	a.node.stop(syscall.SIGTERM) // all that it says has been read then
	if n := strings.Count(a.node.said(), want); n != 1 {
		t.Errorf("it was logged %d times", n)
	}
}
