package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vswitch/vswitch/netns"
	"vswitch/vswitch/netns/netnstest"
)

// site is two hosts of mode direct on one network, and a pod on each.
type site struct {
	t     *testing.T
	host  [2]string // namespaces
	cfg   [2]Config
	nodes [2]*process
	podNS [2]string
	pods  [2]PodStatus
}

func hostAddrs(i int) []netip.Addr {
	return []netip.Addr{netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", i+1)), netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i+1))}
}

// newHosts makes the hosts and joins them, without nodes.
func newHosts(t *testing.T) *site {
	s := &site{t: t}
	for i := range s.host {
		s.host[i] = netnstest.New(t)
		s.cfg[i] = nodeConfig(t, i+1)
		c := &s.cfg[i]
		c.Overlay.Mode, c.Overlay.Listen = modeDirect, netip.AddrPortFrom(hostAddrs(i)[0], 0)
		c.Addresses = hostAddrs(i)[1:]
		c.Gossip.Listen = netip.AddrPortFrom(hostAddrs(i)[0], 7946)
		c.Gossip.Join = []netip.AddrPort{netip.AddrPortFrom(hostAddrs(1 - i)[0], 7946)}
	}
	other, err := os.Open(s.host[1])
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	netnstest.Do(t, s.host[0], func() error { return netns.AddVeth("net0", "net0", other) })
	for i, ns := range s.host {
		netnstest.Do(t, ns, func() error {
			as := hostAddrs(i)
			return errors.Join(
				netns.SetUp("lo"),
				netns.SetLink(netns.Link{Name: "net0", MTU: 1500, Addrs: []netip.Prefix{netip.PrefixFrom(as[0], 24), netip.PrefixFrom(as[1], 64)}}),
				os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
				os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0),
			)
		})
	}
	return s
}

// start starts both nodes with a pod each. The pod on the first one has an MTU
// that the network does not take.
func (s *site) start() {
	s.t.Helper()
	for i := range s.nodes {
		s.nodes[i] = startNode(s.t, s.host[i], s.cfg[i])
	}
	for i, n := range s.nodes {
		n.ready(1)
		s.podNS[i] = netnstest.New(s.t)
		s.pods[i] = n.pod(PodRequest{Namespace: "test", Name: fmt.Sprint("pod", i+1), PortSpec: PortSpec{NetNS: s.podNS[i], MTU: []int{9000, 0}[i]}})
	}
}

// ownRoutes lists the routes of a host that are the node's.
func ownRoutes(t *testing.T, ns string) (rs []string) {
	t.Helper()
	netnstest.Do(t, ns, func() error {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			list, err := netlink.RouteListFiltered(family, &netlink.Route{Protocol: 86}, netlink.RT_FILTER_PROTOCOL)
			if err != nil {
				return err
			}
			for _, r := range list {
				l, err := netlink.LinkByIndex(r.LinkIndex)
				if err != nil {
					return err
				}
				s := r.Dst.String()
				if r.Gw != nil {
					s += " via " + r.Gw.String()
				}
				rs = append(rs, s+" dev "+l.Attrs().Name+" src "+r.Src.String())
			}
		}
		return nil
	})
	slices.Sort(rs)
	return rs
}

func (s *site) wantRoutes(host int, within time.Duration, want ...string) {
	s.t.Helper()
	eventually(s.t, within, func() error {
		if got := ownRoutes(s.t, s.host[host]); !slices.Equal(got, want) {
			return fmt.Errorf("routes of host %d are\n%s\nwant\n%s", host+1, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		return nil
	})
}

// Routes of the first host: its own, and those to the second.
var localRoutes = []string{
	"10.244.1.0/24 dev vswitch0 src 192.0.2.1",
	"fd00:10:244:1::/64 dev vswitch0 src 2001:db8::1",
}

var allRoutes = []string{
	"10.244.1.0/24 dev vswitch0 src 192.0.2.1",
	"10.244.2.0/24 via 192.0.2.2 dev net0 src 192.0.2.1",
	"fd00:10:244:1::/64 dev vswitch0 src 2001:db8::1",
	"fd00:10:244:2::/64 via 2001:db8::2 dev net0 src 2001:db8::1",
}

func addRoute(t *testing.T, ns, dst, via string, proto int) {
	t.Helper()
	netnstest.Do(t, ns, func() error {
		_, n, err := net.ParseCIDR(dst)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: n, Gw: net.ParseIP(via), Protocol: netlink.RouteProtocol(proto)})
	})
}

func TestDirect(t *testing.T) {
	s := newHosts(t)
	addRoute(t, s.host[0], "10.244.77.0/24", "192.0.2.2", 86) // of an earlier run
	addRoute(t, s.host[0], "10.244.78.0/24", "192.0.2.2", unix.RTPROT_STATIC)
	s.start()
	s.wantRoutes(0, 30*time.Second, allRoutes...)
	if out, _ := run(s.host[0], "ip", "route", "show", "10.244.78.0/24"); !strings.Contains(out, "static") {
		t.Error("the administrator's route is gone")
	}
	t.Run("ping", s.ping)
	t.Run("traceroute", s.traceroute)
	t.Run("tcp", s.tcp)
	t.Run("too big", s.tooBig)
	t.Run("spoofed", s.spoofed)
	t.Run("routes", s.shown)
	t.Run("trace", s.traced)
	t.Run("repair", func(t *testing.T) {
		// The interface's routes go with it, and come back by themselves.
		for _, state := range []string{"down", "up"} {
			if out, err := run(s.host[0], "ip", "link", "set", "net0", state); err != nil {
				t.Fatal(out)
			}
		}
		netnstest.Do(t, s.host[0], func() error { // those of IPv6 do not
			as := hostAddrs(0)
			return netns.SetLink(netns.Link{Name: "net0", Addrs: []netip.Prefix{netip.PrefixFrom(as[0], 24), netip.PrefixFrom(as[1], 64)}})
		})
		s.wantRoutes(0, time.Minute, allRoutes...)
	})
	t.Run("change", s.change)
}

func (s *site) ping(t *testing.T) {
	for i := range s.pods {
		to := append(slices.Clone(s.pods[1-i].IPs), s.pods[i].Gateways...)
		to = append(to, hostAddrs(i)...)   // its own host
		to = append(to, hostAddrs(1-i)...) // the other host
		for _, a := range to {
			if out, err := run(s.podNS[i], "ping", "-n", "-c1", "-W30", a.String()); err != nil {
				t.Errorf("pod%d: %s", i+1, out)
			}
		}
		for _, a := range append(slices.Clone(s.pods[0].IPs), s.pods[1].IPs...) {
			if out, err := run(s.host[i], "ping", "-n", "-c1", "-W30", a.String()); err != nil {
				t.Errorf("host %d: %s", i+1, out)
			}
		}
	}
}

// traceroute sees the switch and the host of either side.
func (s *site) traceroute(t *testing.T) {
	for f, family := range []string{"-4", "-6"} {
		to := s.pods[1].IPs[f]
		out, err := run(s.podNS[0], "traceroute", family, "-n", "-q1", "-w30", to.String())
		var hops []string
		for l := range strings.Lines(out) {
			if f := strings.Fields(l); len(f) > 1 && f[0] != "traceroute" {
				hops = append(hops, f[1])
			}
		}
		want := []string{s.pods[0].Gateways[f].String(), hostAddrs(0)[f].String(), hostAddrs(1)[f].String(), s.pods[1].Gateways[f].String(), to.String()}
		if err != nil || !slices.Equal(hops, want) {
			t.Errorf("hops are %v, want %v; %v\n%s", hops, want, err, out)
		}
	}
}

// tcp sends as much as shows lost and damaged segments, both ways, from the pod
// with the large MTU and to it.
func (s *site) tcp(t *testing.T) {
	for f := range 2 {
		for from := range s.pods {
			to := 1 - from
			if err := bulk(s.podNS[from], s.podNS[to], s.pods[to].IPs[f], 64<<20); err != nil {
				t.Errorf("pod%d to pod%d at %s: %v", from+1, to+1, s.pods[to].IPs[f], err)
			}
		}
	}
	if err := bulk(s.host[1], s.podNS[0], s.pods[0].IPs[0], 8<<20); err != nil {
		t.Errorf("host 2 to pod1: %v", err)
	}
}

// bulk sends size bytes from one namespace to an address of another, and
// compares what arrives.
func bulk(from, to string, ip netip.Addr, size int64) error {
	var l net.Listener
	if err := netns.Do(to, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(ip, 0).String())
		return err
	}); err != nil {
		return err
	}
	defer l.Close()
	var c net.Conn
	if err := netns.Do(from, func() (err error) {
		c, err = net.DialTimeout("tcp", l.Addr().String(), 30*time.Second)
		return err
	}); err != nil {
		return err
	}
	defer c.Close()
	deadline := time.Now().Add(60 * time.Second)
	_ = c.SetDeadline(deadline)
	sent := make(chan []byte, 1)
	go func() {
		h := sha256.New()
		src := rand.NewChaCha8([32]byte{1})
		_, _ = io.Copy(io.MultiWriter(c, h), io.LimitReader(src, size))
		_ = c.(*net.TCPConn).CloseWrite()
		sent <- h.Sum(nil)
	}()
	r, err := l.Accept()
	if err != nil {
		return err
	}
	defer r.Close()
	_ = r.SetDeadline(deadline)
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil || n != size {
		return fmt.Errorf("%d of %d bytes arrived: %v", n, size, err)
	}
	if !bytes.Equal(h.Sum(nil), <-sent) {
		return errors.New("the bytes that arrived are others")
	}
	return nil
}

// tooBig: the switch tells of the network's MTU, and a narrower place behind it
// is told of by the host, whose word passes.
func (s *site) tooBig(t *testing.T) {
	says := func(size int, to netip.Addr, want string) {
		t.Helper()
		eventually(t, time.Minute, func() error {
			out, err := run(s.podNS[0], "ping", "-n", "-c1", "-W1", "-Mdo", fmt.Sprint("-s", size), to.String())
			if err == nil || !strings.Contains(strings.ReplaceAll(out, " ", ""), want) {
				return fmt.Errorf("ping of %d bytes: %v, want %s:\n%s", size, err, want, out)
			}
			return nil
		})
	}
	for _, a := range s.pods[1].IPs {
		says(3000, a, "mtu=1500")
	}
	netnstest.Do(t, s.host[0], func() error { return netns.SetMTU("net0", 1400) })
	defer netnstest.Do(t, s.host[0], func() error { return netns.SetMTU("net0", 1500) })
	for _, a := range s.pods[1].IPs {
		says(1420, a, "mtu=1400")
	}
}

func (s *site) spoofed(t *testing.T) {
	ctx := context.Background()
	// A pod under an address that is not its own.
	netnstest.Do(t, s.podNS[0], func() error { return netns.AddAddr("eth0", netip.MustParsePrefix("198.51.100.7/32")) })
	_, _ = run(s.podNS[0], "ping", "-n", "-c1", "-W1", "-I198.51.100.7", s.pods[1].IPs[0].String())
	eventually(t, time.Minute, func() error { // ping may end before the node has read what it sent
		pods, err := s.nodes[0].Pods(ctx)
		if err == nil && pods[0].Counters.Drops["spoofed"] == 0 {
			err = fmt.Errorf("the pod's spoofed packets are not counted: %v", pods[0].Counters)
		}
		return err
	})
	// Somebody on the network whom no node knows; his packets reach the uplink.
	netnstest.Do(t, s.host[1], func() error { return netns.AddAddr("lo", netip.MustParsePrefix("198.51.100.9/32")) })
	addRoute(t, s.host[0], "198.51.100.9/32", "192.0.2.2", unix.RTPROT_STATIC)
	before, err := s.nodes[0].Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := run(s.host[1], "ping", "-n", "-c1", "-W1", "-I198.51.100.9", s.pods[0].IPs[0].String()); err == nil {
		t.Errorf("a stranger got an answer: %s", out)
	}
	eventually(t, time.Minute, func() error {
		after, err := s.nodes[0].Status(ctx)
		if err == nil && after.Drops["spoofed"] == before.Drops["spoofed"] {
			err = fmt.Errorf("the stranger's packet was not counted as spoofed: %v", after.Drops)
		}
		return err
	})
}

func (s *site) shown(t *testing.T) {
	routes, err := s.nodes[0].Routes(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range routes {
		if r.Port == "uplink" {
			got = append(got, strings.TrimSpace(fmt.Sprint(r.Prefix, " ", r.Kind, " ", r.To, " ", r.MTU, " ", r.Via)))
		}
	}
	want := []string{
		"10.244.2.0/24 peer node2 1500 192.0.2.2",
		"192.0.2.1/32 host node1 1500",
		"192.0.2.2/32 peer node2 1500 192.0.2.2",
		"2001:db8::1/128 host node1 1500",
		"2001:db8::2/128 peer node2 1500 2001:db8::2",
		"fd00:10:244:2::/64 peer node2 1500 2001:db8::2",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func (s *site) traced(t *testing.T) {
	ctx := context.Background()
	to := netip.AddrPortFrom(s.pods[1].IPs[0], 80)
	from := netip.AddrPortFrom(s.pods[0].IPs[0], 40000)
	out, err := s.nodes[0].Trace(ctx, TraceRequest{Sender: SenderPod, Name: "test/pod1", Source: from, Destination: to, Proto: 6})
	if err != nil || out.NextNode != "node2" || out.Reason != "" {
		t.Errorf("from the pod: %+v, %v", out, err)
	}
	out, err = s.nodes[1].Trace(ctx, TraceRequest{Sender: SenderPeer, Name: "node1", Frame: out.Frame})
	if err != nil || out.Pod != "test/pod2" || out.Reason != "" {
		t.Errorf("from the peer: %+v, %v", out, err)
	}
}

// change: the routes of a node that leaves go, those of one that comes back are
// there again, and so are pods; a crash is a slower way to leave.
func (s *site) change(t *testing.T) {
	s.nodes[1].stop(syscall.SIGTERM)
	if rs := ownRoutes(t, s.host[1]); len(rs) > 0 {
		t.Errorf("a node that was stopped leaves %v", rs)
	}
	s.wantRoutes(0, 30*time.Second, localRoutes...)
	if out, err := run(s.podNS[0], "ping", "-n", "-c1", "-W30", s.pods[1].IPs[0].String()); err == nil || !strings.Contains(out, "Unreachable") {
		t.Errorf("to a pod of a node that left: %s", out)
	}
	s.nodes[1] = startNode(t, s.host[1], s.cfg[1])
	s.nodes[1].ready(1)
	s.wantRoutes(0, 30*time.Second, allRoutes...)
	if err := bulk(s.podNS[0], s.podNS[1], s.pods[1].IPs[1], 1<<20); err != nil {
		t.Errorf("after the restart: %v", err)
	}
	s.nodes[1].stop(syscall.SIGKILL)
	s.wantRoutes(0, 60*time.Second, localRoutes...)
}

// TestDirectRefused: what the host lacks is said once, at the start, with what
// helps.
func TestDirectRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		spoil  func(*site)
		change func(*exec.Cmd)
		want   []string
	}{
		{"no forwarding", func(s *site) {
			netnstest.Do(s.t, s.host[0], func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0) })
		}, nil, []string{"net.ipv4.ip_forward is 0", "sysctl -w net.ipv4.ip_forward=1"}},
		{"no IPv6 forwarding", func(s *site) {
			netnstest.Do(s.t, s.host[0], func() error {
				return os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("0"), 0)
			})
		}, nil, []string{"sysctl -w net.ipv6.conf.all.forwarding=1"}},
		{"no right", nil, func(c *exec.Cmd) {
			// Root of a user namespace that does not own the network.
			c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER,
				UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
		}, []string{"no CAP_NET_ADMIN", "setcap cap_net_admin+ep", "uplink.routes"}},
		{"another host's address", func(s *site) { s.cfg[0].Addresses = hostAddrs(1)[1:] }, nil,
			[]string{"2001:db8::2 is no address of this host"}},
		{"device in the way", func(s *site) {
			netnstest.Do(s.t, s.host[0], func() error { return netns.AddBridge("vswitch0") })
		}, nil, []string{"tun vswitch0", "is no single-queue TUN", "choose another name"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newHosts(t)
			if tt.spoil != nil {
				tt.spoil(s)
			}
			var change []func(*exec.Cmd)
			if tt.change != nil {
				change = append(change, tt.change)
			}
			p := startNode(t, s.host[0], s.cfg[0], change...)
			select {
			case <-p.exited:
			case <-time.After(time.Minute):
				t.Fatal("the node runs")
			}
			_, msg, _ := strings.Cut(p.said(), "error: mode direct: ")
			for _, w := range tt.want {
				if !strings.Contains(msg, w) {
					t.Errorf("error %q lacks %q", msg, w)
				}
			}
			if n := strings.Count(msg, "\n"); n != 1 {
				t.Errorf("%d lines of error: %s", n, msg)
			}
		})
	}
}

// TestDirectAdopted: a user without any right over the host runs a node on a
// device and routes that an administrator made.
func TestDirectAdopted(t *testing.T) {
	s := newHosts(t)
	for _, args := range [][]string{
		{"tuntap", "add", "dev", "pods0", "mode", "tun", "user", fmt.Sprint(os.Getuid())},
		{"link", "set", "pods0", "up"},
		{"route", "add", "10.244.1.0/24", "dev", "pods0", "src", "192.0.2.1"},
	} {
		if out, err := run(s.host[0], "ip", args...); err != nil {
			t.Fatalf("ip %v: %s", args, out)
		}
	}
	c := &s.cfg[0]
	c.Uplink.Device, c.Uplink.Routes = "pods0", RoutesNone
	n := startNode(t, s.host[0], *c, func(c *exec.Cmd) {
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
	})
	n.ready(0)
	gw := Gateway(c.PodCIDRs[0])
	if out, err := run(s.host[0], "ping", "-n", "-c1", "-W30", gw.String()); err != nil {
		t.Errorf("the host does not reach the switch: %s", out)
	}
	n.stop(syscall.SIGTERM)
	if out, err := run(s.host[0], "ip", "route", "show", "dev", "pods0"); err != nil || !strings.Contains(out, "10.244.1.0/24") {
		t.Errorf("after the node the administrator's route is gone: %s", out)
	}
}

// TestDirectMixed: nodes of different modes do not send into nowhere; both say
// what is wrong.
func TestDirectMixed(t *testing.T) {
	s := newHosts(t)
	s.cfg[1].Overlay.Mode, s.cfg[1].Overlay.Listen = modeVXLAN, netip.AddrPortFrom(hostAddrs(1)[0], 8472)
	for i := range s.nodes {
		s.nodes[i] = startNode(t, s.host[i], s.cfg[i])
	}
	for i, n := range s.nodes {
		n.ready(0)
		eventually(t, time.Minute, func() error {
			st, err := n.Status(context.Background())
			if want := fmt.Sprintf("node node%d is in mode %s", 2-i, s.cfg[1-i].Overlay.Mode); err != nil || !slices.ContainsFunc(st.Problems, func(p string) bool { return strings.Contains(p, want) }) {
				return fmt.Errorf("problems of node%d: %q, %v; want %q", i+1, st.Problems, err, want)
			}
			return nil
		})
	}
	s.wantRoutes(0, 0, localRoutes...)
}
