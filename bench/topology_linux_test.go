package bench

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vswitch/overlay"
	"vswitch/vswitch"
	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/netns"
	"vswitch/vswitch/port"
)

// topology is two hosts that reach each other in some way.
type topology struct {
	name string
	a, b host
	// at is where a reaches b, if not at b's own address: a service's.
	at netip.AddrPort
	// nodes are the namespaces of their nodes, if those are not their own.
	nodes [2]string
	// names: what is there is a name server.
	names bool
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// namespace makes an empty network namespace that goes with the test.
func namespace(tb testing.TB, name string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), name)
	must(tb, netns.New(path))
	tb.Cleanup(func() { must(tb, netns.Delete(path)) })
	return path
}

func in(tb testing.TB, ns string, f func() error) {
	tb.Helper()
	must(tb, netns.Do(ns, f))
}

var (
	addrA, addrB = netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("10.244.1.3")
	addrFar      = netip.MustParseAddr("10.244.2.2")
)

// kernelBridge is what a CNI bridge plugin makes: two veths on a bridge.
func kernelBridge(tb testing.TB, mtu int) topology {
	t := topology{name: "kernel", a: host{namespace(tb, "a"), addrA}, b: host{namespace(tb, "b"), addrB}}
	bridge := namespace(tb, "bridge")
	in(tb, bridge, func() error { return netns.AddBridge("cni0") })
	for i, h := range []host{t.a, t.b} {
		vethTo(tb, bridge, fmt.Sprintf("veth%d", i), h, mtu)
	}
	in(tb, bridge, func() error { return netns.SetUp("cni0") })
	return t
}

// vethTo connects a host to the bridge cni0 of a namespace.
func vethTo(tb testing.TB, bridge, name string, h host, mtu int) {
	tb.Helper()
	ns, err := os.Open(h.ns)
	must(tb, err)
	defer ns.Close()
	in(tb, bridge, func() error {
		if err := netns.AddVeth(name, "eth0", ns); err != nil {
			return err
		}
		if err := netns.SetMTU(name, mtu); err != nil {
			return err
		}
		if err := netns.SetMaster(name, "cni0"); err != nil {
			return err
		}
		return netns.SetUp(name)
	})
	configure(tb, h, netns.Link{MTU: mtu})
}

// configure gives a host its address and a gateway.
func configure(tb testing.TB, h host, l netns.Link) {
	tb.Helper()
	p := netip.PrefixFrom(h.addr, 24)
	l.Name, l.Addrs, l.Gateways = "eth0", []netip.Prefix{p}, []netip.Addr{agent.Gateway(p.Masked())}
	in(tb, h.ns, func() error { return netns.Configure(l) })
}

// openTAP opens a host's TAP and configures it as the agent does.
func openTAP(tb testing.TB, h host, mtu int) *port.TAP {
	tb.Helper()
	var tap *port.TAP
	in(tb, h.ns, func() (err error) {
		tap, err = port.OpenTAP(port.TAPConfig{Name: "eth0", MTU: mtu})
		return err
	})
	l := netns.Link{MAC: agent.MACOf(h.addr), MTU: mtu, TxQueueLen: 2000}
	if mtu <= 1500 {
		l.GSOMaxSegs, l.GSOMaxSize = 44, 61600
	}
	configure(tb, h, l)
	return tap
}

// tapFloor is two TAPs whose frames are passed on as they are, a thread a
// direction: what TAPs cost with no switch in between.
func tapFloor(tb testing.TB, mtu int) topology {
	t := topology{name: "floor", a: host{namespace(tb, "a"), addrA}, b: host{namespace(tb, "b"), addrB}}
	a, b := openTAP(tb, t.a, mtu), openTAP(tb, t.b, mtu)
	for _, f := range []*port.TAP{a, b} {
		must(tb, unix.SetNonblock(f.FD(), false))
	}
	var done sync.WaitGroup
	forward := func(from, to int) {
		runtime.LockOSThread()
		defer done.Done()
		buf := make([]byte, 1<<17)
		for {
			n, err := unix.Read(from, buf)
			if err != nil {
				return
			}
			_, _ = unix.Write(to, buf[:n]) // what the queue cannot take is lost
		}
	}
	done.Add(2)
	go forward(a.FD(), b.FD())
	go forward(b.FD(), a.FD())
	tb.Cleanup(func() {
		// A blocked read of a TAP ends with the device.
		for _, h := range []host{t.a, t.b} {
			in(tb, h.ns, func() error { return netns.DeleteLink("eth0") })
		}
		done.Wait()
		a.Close()
		b.Close()
	})
	return t
}

// node is a switch with tables, for topologies that need no agent.
type node struct {
	sw       *vswitch.Switch
	compiler agent.Compiler
}

func newNode(tb testing.TB, name string, cidr netip.Prefix) *node {
	sw, err := vswitch.New(vswitch.Config{})
	must(tb, err)
	n := &node{sw: sw}
	n.compiler.SetSelf(agent.Self{Name: name, GatewayMAC: agent.MACOf(agent.Gateway(cidr)), VTEPMAC: vtepMAC(name),
		PodCIDRs: []netip.Prefix{cidr}})
	return n
}

func vtepMAC(name string) [6]byte { return [6]byte{2, 0, 0, 0, 0, name[len(name)-1]} }

func (n *node) run(tb testing.TB) {
	n.sw.Publish(n.compiler.Publish())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = n.sw.Run(ctx) // ends with ctx
	}()
	tb.Cleanup(func() { cancel(); <-done })
}

// pod opens a host's TAP and attaches it.
func (n *node) pod(tb testing.TB, name string, h host, mtu int) {
	tap := openTAP(tb, h, mtu)
	id, err := n.sw.Attach(name, tap)
	must(tb, err)
	tb.Cleanup(func() { n.sw.Detach(id); tap.Close() })
	n.compiler.SetPod(agent.LocalPod{Port: id, Name: name, MAC: agent.MACOf(h.addr), IPs: []netip.Addr{h.addr}, MTU: mtu})
}

// ourNode is two pods on one node of ours.
func ourNode(tb testing.TB, mtu int) topology {
	t := topology{name: "vswitch", a: host{namespace(tb, "a"), addrA}, b: host{namespace(tb, "b"), addrB}}
	n := newNode(tb, "node1", netip.MustParsePrefix("10.244.1.0/24"))
	n.pod(tb, "bench/a", t.a, mtu)
	n.pod(tb, "bench/b", t.b, mtu)
	n.run(tb)
	return t
}

// underlay is two namespaces joined by a veth of MTU 1500: two machines.
type underlay struct {
	ns   [2]string
	addr [2]netip.Addr
}

// On a wire there are no superpackets: the kernel cuts them before the veth, and
// nothing merges them behind it.
func newUnderlay(tb testing.TB, wire bool) underlay {
	u := underlay{
		ns:   [2]string{namespace(tb, "node1"), namespace(tb, "node2")},
		addr: [2]netip.Addr{netip.MustParseAddr("192.168.9.1"), netip.MustParseAddr("192.168.9.2")},
	}
	ns, err := os.Open(u.ns[1])
	must(tb, err)
	defer ns.Close()
	in(tb, u.ns[0], func() error { return netns.AddVeth("uplink", "uplink", ns) })
	for i := range u.ns {
		in(tb, u.ns[i], func() error {
			l := netns.Link{Name: "uplink", MTU: 1500, Addrs: []netip.Prefix{netip.PrefixFrom(u.addr[i], 24)}}
			if wire {
				l.GSOMaxSegs, l.GSOMaxSize = 1, 1500
			}
			return netns.Configure(l)
		})
	}
	return u
}

// kernelVXLAN is what flannel makes: bridge and VXLAN device on both nodes,
// fixed neighbors, no learning.
func kernelVXLAN(tb testing.TB, wire bool) topology {
	t := topology{name: "kernel", a: host{namespace(tb, "a"), addrA}, b: host{namespace(tb, "b"), addrFar}}
	u := newUnderlay(tb, wire)
	t.nodes = u.ns
	cidrs := [2]netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("10.244.2.0/24")}
	macs := [2][6]byte{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}
	for i, h := range []host{t.a, t.b} {
		o := 1 - i
		in(tb, u.ns[i], func() error { return netns.AddBridge("cni0") })
		vethTo(tb, u.ns[i], "veth0", h, 1450)
		in(tb, u.ns[i], func() error {
			if err := netns.AddAddr("cni0", netip.PrefixFrom(agent.Gateway(cidrs[i]), 24)); err != nil {
				return err
			}
			if err := netns.SetUp("cni0"); err != nil {
				return err
			}
			if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
				return err
			}
			if err := netns.AddVXLAN(netns.VXLAN{Name: "flannel.1", VNI: 1, Local: u.addr[i], Port: 8472, Underlay: "uplink", MAC: macs[i], MTU: 1450}); err != nil {
				return err
			}
			if err := netns.AddAddr("flannel.1", netip.PrefixFrom(cidrs[i].Addr(), 32)); err != nil {
				return err
			}
			if err := netns.SetUp("flannel.1"); err != nil {
				return err
			}
			if err := netns.AddNeighbor("flannel.1", cidrs[o].Addr(), macs[o]); err != nil {
				return err
			}
			if err := netns.AddFDB("flannel.1", macs[o], u.addr[o]); err != nil {
				return err
			}
			return netns.AddRoute("flannel.1", cidrs[o], cidrs[o].Addr())
		})
	}
	return t
}

// ourVXLAN is a pod on each of two nodes of ours.
func ourVXLAN(tb testing.TB, wire bool, cfg overlay.Config) topology {
	return ourCluster(tb, wire, cfg, &cluster.Changes{})
}

// ourCluster is ourVXLAN with services and policies, which both nodes know.
func ourCluster(tb testing.TB, wire bool, cfg overlay.Config, c *cluster.Changes) topology {
	t := topology{name: "vswitch", a: host{namespace(tb, "a"), addrA}, b: host{namespace(tb, "b"), addrFar}}
	u := newUnderlay(tb, wire)
	cidrs := [2]netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("10.244.2.0/24")}
	var links [2]*overlay.Link
	for i := range links {
		in(tb, u.ns[i], func() (err error) {
			c := cfg
			c.Local, c.VNI, c.MTU = netip.AddrPortFrom(u.addr[i], 8472), 1, 1450
			links[i], err = overlay.Listen(c)
			return err
		})
	}
	for i, h := range []host{t.a, t.b} {
		o := 1 - i
		names := [2]string{"node1", "node2"}
		n := newNode(tb, names[i], cidrs[i])
		id, err := n.sw.Attach("overlay", links[i])
		must(tb, err)
		tb.Cleanup(func() { n.sw.Detach(id); links[i].Close() })
		n.compiler.SetOverlay(id, vswitch.PortOverlay, 1450)
		n.pod(tb, "bench/pod", h, 1450)
		peer, err := links[i].AddPeer(overlay.Peer{Name: names[o], Addr: netip.AddrPortFrom(u.addr[o], 8472)})
		must(tb, err)
		n.compiler.SetNode(agent.RemoteNode{Peer: peer, Port: id, Name: names[o], MAC: vtepMAC(names[o]), MTU: 1450, PodCIDRs: cidrs[o : o+1]})
		s := agent.NewServices(agent.ServiceConfig{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}}, names[i], "")
		s.Apply(c)
		n.compiler.SetServices(s)
		p := agent.NewPolicies(agent.PolicyConfig{}, names[i])
		p.Apply(c)
		n.compiler.SetPolicies(p)
		n.run(tb)
	}
	return t
}

// settle waits until the hosts reach each other.
func (t topology) settle(tb testing.TB) {
	tb.Helper()
	role := "lookup"
	if !t.names {
		role = "ping"
		defer t.b.serve(tb, job{Role: "echo"})()
	}
	if r := t.run(tb, job{Role: role, Streams: 1, For: 10 * time.Millisecond}); r.Packets == 0 {
		tb.Fatalf("%s carries nothing", t.name)
	}
}

// run runs a client job at a against the server at b.
func (t topology) run(tb testing.TB, j job) result {
	tb.Helper()
	j.Addr = t.at
	return t.a.run(tb, t.b, j)
}
