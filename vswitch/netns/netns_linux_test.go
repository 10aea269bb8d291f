package netns_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vswitch/vswitch/netns"
	"vswitch/vswitch/netns/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

func inode(t testing.TB, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestNewAndDelete(t *testing.T) {
	path := netnstest.New(t)
	if inode(t, path) == inode(t, "/proc/self/ns/net") {
		t.Error("the new namespace is our own")
	}
	if err := netns.New(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("New on an existing path: %v, want fs.ErrExist", err)
	}
	if inode(t, path) == 0 {
		t.Error("the failed New removed the namespace")
	}
	var links []string
	netnstest.Do(t, path, func() error {
		ifs, err := net.Interfaces()
		for _, i := range ifs {
			links = append(links, i.Name)
		}
		return err
	})
	if diff := cmp.Diff([]string{"lo"}, links); diff != "" {
		t.Errorf("links of a new namespace (-want +got):\n%s", diff)
	}
	if err := netns.Delete(path); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Delete: %v, want no file", err)
	}
	if mounts, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(mounts), path) {
		t.Error("after Delete the mount is still there")
	}
	if err := netns.Delete(path); err != nil {
		t.Errorf("second Delete: %v", err)
	}
	if err := netns.Do(path, func() error { return nil }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Do without a namespace: %v, want fs.ErrNotExist", err)
	}
}

func TestDeleteInUse(t *testing.T) {
	path := netnstest.New(t)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := netns.Delete(path); err != nil {
		t.Fatalf("Delete while open: %v", err)
	}
	if err := netns.DoFile(f, func() error { return netns.SetUp("lo") }); err != nil {
		t.Errorf("the open namespace died: %v", err)
	}
}

// TestDoLeavesNoTrace runs many goroutines in and out of namespaces, and
// checks that no thread of the process stays behind in one.
func TestDoLeavesNoTrace(t *testing.T) {
	path := netnstest.New(t)
	home, ours := inode(t, "/proc/self/ns/net"), inode(t, path)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := netns.Do(path, func() error {
				if got := inode(t, "/proc/thread-self/ns/net"); got != ours {
					return fmt.Errorf("namespace %d inside Do, want %d", got, ours)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
			if got := inode(t, "/proc/thread-self/ns/net"); got != home {
				t.Errorf("namespace %d after Do, want %d", got, home)
			}
		})
	}
	wg.Wait()
	want := errors.New("its own")
	if err := netns.Do(path, func() error { return want }); err != want {
		t.Errorf("Do returned %v, want the error of f", err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		left := ""
		tasks, _ := filepath.Glob("/proc/self/task/*/ns/net")
		for _, task := range tasks {
			var st unix.Stat_t
			if unix.Stat(task, &st) == nil && st.Ino == ours {
				left = task
			}
		}
		if left == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s stays in the namespace", left)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestProcessInherits(t *testing.T) {
	path := netnstest.New(t)
	var out []byte
	netnstest.Do(t, path, func() (err error) {
		out, err = exec.Command("readlink", "/proc/self/ns/net").Output()
		return err
	})
	if want := fmt.Sprintf("net:[%d]\n", inode(t, path)); string(out) != want {
		t.Errorf("process runs in %q, want %q", out, want)
	}
}

func TestNewFile(t *testing.T) {
	netnstest.Need(t)
	f, err := netns.NewFile()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := netns.DoFile(f, func() error { return netns.AddBridge("br0") }); err != nil {
		t.Fatal(err)
	}
}

// state returns all that Configure may set, as text.
func state(t testing.TB, ns, link string) string {
	t.Helper()
	var b strings.Builder
	netnstest.Do(t, ns, func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		a := l.Attrs()
		fmt.Fprintf(&b, "mac %s mtu %d up %t txqlen %d segs %d size %d size4 %d\n", a.HardwareAddr, a.MTU,
			a.Flags&net.FlagUp != 0, a.TxQLen, a.GSOMaxSegs, a.GSOMaxSize, a.GSOIPv4MaxSize)
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			fmt.Fprintf(&b, "addr %s scope %d tentative %t\n", a.IPNet, a.Scope, a.Flags&unix.IFA_F_TENTATIVE != 0)
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := netlink.RouteList(l, family)
			if err != nil {
				return err
			}
			for _, r := range routes {
				fmt.Fprintf(&b, "route %s via %s\n", r.Dst, r.Gw)
			}
		}
		for _, s := range []string{"ipv4/ip_unprivileged_port_start", "ipv6/conf/" + link + "/accept_ra"} {
			v, err := os.ReadFile("/proc/sys/net/" + s)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "%s %s", s, v)
		}
		return nil
	})
	return b.String()
}

func podLink() netns.Link {
	return netns.Link{
		Name: "eth0", MAC: [6]byte{0x02, 0x42, 10, 244, 1, 5}, MTU: 1450,
		Addrs:      []netip.Prefix{netip.MustParsePrefix("10.244.1.5/24"), netip.MustParsePrefix("fd00:10:244:1::5/64")},
		Gateways:   []netip.Addr{netip.MustParseAddr("10.244.1.1"), netip.MustParseAddr("fd00:10:244:1::1")},
		GSOMaxSegs: 44, GSOMaxSize: 61600, TxQueueLen: 1000,
	}
}

func TestConfigure(t *testing.T) {
	ns := netnstest.New(t)
	netnstest.Do(t, ns, func() error { return netns.AddVeth("eth0", "peer", nil) })
	netnstest.Do(t, ns, func() error { return netns.SetUp("peer") })
	configure := func(l netns.Link) {
		t.Helper()
		netnstest.Do(t, ns, func() error { return netns.Configure(l) })
	}
	configure(podLink())
	want := `mac 02:42:0a:f4:01:05 mtu 1450 up true txqlen 1000 segs 44 size 61600 size4 61600
addr 10.244.1.5/24 scope 0 tentative false
addr fd00:10:244:1::5/64 scope 0 tentative false
addr fe80::42:aff:fef4:105/64 scope 253 tentative false
route 0.0.0.0/0 via 10.244.1.1
route 10.244.1.0/24 via <nil>
route fd00:10:244:1::/64 via <nil>
route fe80::/64 via <nil>
route ::/0 via fd00:10:244:1::1
ipv4/ip_unprivileged_port_start 0
ipv6/conf/eth0/accept_ra 0
`
	got := state(t, ns, "eth0")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("configured link (-want +got):\n%s", diff)
	}

	t.Run("idempotent", func(t *testing.T) {
		// The kernel announces some consequences of the first Configure late. A
		// Configure that changes something does so every time.
		n := 1
		for try := 0; try < 50 && n != 0; try++ {
			events := watch(t, ns)
			configure(podLink())
			n = events()
		}
		if diff := cmp.Diff(want, state(t, ns, "eth0")); diff != "" {
			t.Errorf("second Configure (-want +got):\n%s", diff)
		}
		if n != 0 {
			t.Errorf("second Configure changed %d things, every time", n)
		}
	})
	t.Run("other address", func(t *testing.T) {
		l := podLink()
		l.Addrs[0] = netip.MustParsePrefix("10.244.1.9/24")
		l.Gateways[0] = netip.MustParseAddr("10.244.1.254")
		configure(l)
		got := state(t, ns, "eth0")
		for _, s := range []string{"10.244.1.5/", "via 10.244.1.1\n"} {
			if strings.Contains(got, s) {
				t.Errorf("%q is still there:\n%s", s, got)
			}
		}
		for _, s := range []string{"addr 10.244.1.9/24", "0.0.0.0/0 via 10.244.1.254\n"} {
			if !strings.Contains(got, s) {
				t.Errorf("%q is missing:\n%s", s, got)
			}
		}
	})
	t.Run("address alone on the link", func(t *testing.T) {
		l := podLink()
		l.Addrs = []netip.Prefix{netip.MustParsePrefix("10.244.1.5/32"), netip.MustParsePrefix("fd00:10:244:1::5/128")}
		configure(l)
		got := state(t, ns, "eth0")
		for _, s := range []string{"route 0.0.0.0/0 via 10.244.1.1\n", "route ::/0 via fd00:10:244:1::1\n"} {
			if !strings.Contains(got, s) {
				t.Errorf("%q is missing:\n%s", s, got)
			}
		}
		if strings.Contains(got, "/24") {
			t.Errorf("the old prefix is still there:\n%s", got)
		}
	})
	t.Run("no such link", func(t *testing.T) {
		err := netns.Do(ns, func() error { return netns.Configure(netns.Link{Name: "eth7"}) })
		if err == nil || !strings.Contains(err.Error(), "eth7") {
			t.Errorf("error %v does not name the link", err)
		}
	})
}

// watch counts the changes that the kernel announces in ns from now on.
func watch(t *testing.T, ns string) (count func() int) {
	var fd int
	netnstest.Do(t, ns, func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		groups := uint32(1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1) |
			1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1))
		return unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups})
	})
	t.Cleanup(func() { unix.Close(fd) })
	return func() (n int) {
		buf := make([]byte, 65536)
		for {
			if k, err := unix.Read(fd, buf); err != nil || k == 0 {
				return n
			}
			n++
		}
	}
}

// TestUnprivileged checks what Configure opens to users other than root.
func TestUnprivileged(t *testing.T) {
	ns := netnstest.New(t)
	netnstest.Do(t, ns, func() error {
		if err := netns.AddVeth("eth0", "peer", nil); err != nil {
			return err
		}
		return netns.Configure(podLink())
	})
	netnstest.Do(t, ns, func() error {
		// A ping socket needs the group to be in the range, even of root.
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)
		if err != nil {
			return fmt.Errorf("ping socket: %w", err)
		}
		return unix.Close(fd)
	})
}

// TestKernelVXLAN builds two kernel nodes as flannel does and sends through
// them, which exercises every function that makes kernel networks.
func TestKernelVXLAN(t *testing.T) {
	netnstest.Need(t)
	type node struct {
		path string
		file *os.File
		vtep netip.Addr
		ip   netip.Addr
		mac  [6]byte
	}
	nodes := []*node{
		{vtep: netip.MustParseAddr("192.0.2.1"), ip: netip.MustParseAddr("10.244.0.0"), mac: [6]byte{2, 0, 0, 0, 0, 1}},
		{vtep: netip.MustParseAddr("192.0.2.2"), ip: netip.MustParseAddr("10.244.1.0"), mac: [6]byte{2, 0, 0, 0, 0, 2}},
	}
	for _, n := range nodes {
		n.path = netnstest.New(t)
		f, err := os.Open(n.path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		n.file = f
	}
	netnstest.Do(t, nodes[0].path, func() error { return netns.AddVeth("under0", "under0", nodes[1].file) })
	for i, n := range nodes {
		other := nodes[1-i]
		netnstest.Do(t, n.path, func() error {
			remote := netip.PrefixFrom(other.ip, 24)
			return errors.Join(
				netns.SetUp("lo"),
				netns.AddAddr("under0", netip.PrefixFrom(n.vtep, 24)),
				netns.SetMTU("under0", 1500),
				netns.SetUp("under0"),
				netns.AddVXLAN(netns.VXLAN{Name: "flannel.1", VNI: 1, Local: n.vtep, Port: 8472, Underlay: "under0", MAC: n.mac, MTU: 1450}),
				netns.SetUp("flannel.1"),
				netns.AddAddr("flannel.1", netip.PrefixFrom(n.ip, 32)),
				netns.AddFDB("flannel.1", other.mac, other.vtep),
				netns.AddNeighbor("flannel.1", other.ip, other.mac),
				netns.AddRoute("flannel.1", remote, other.ip),
				netns.AddBridge("cni0"),
				netns.SetUp("cni0"),
			)
		})
	}
	want := []byte("through the kernel's tunnel")
	var ln net.Listener
	netnstest.Do(t, nodes[1].path, func() (err error) {
		ln, err = net.Listen("tcp", netip.AddrPortFrom(nodes[1].ip, 80).String())
		return err
	})
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err == nil {
			c.Write(want)
			c.Close()
		}
	}()
	var got []byte
	netnstest.Do(t, nodes[0].path, func() error {
		c, err := net.DialTimeout("tcp", ln.Addr().String(), 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		got, err = io.ReadAll(c)
		return err
	})
	if string(got) != string(want) {
		t.Errorf("received %q, want %q", got, want)
	}
	netnstest.Do(t, nodes[0].path, func() error {
		mac, err := netns.MAC("flannel.1")
		if err == nil && mac != nodes[0].mac {
			err = fmt.Errorf("MAC %x, want %x", mac, nodes[0].mac)
		}
		return errors.Join(err, netns.SetMaster("under0", "cni0"), netns.DeleteLink("cni0"), netns.DeleteLink("cni0"))
	})
}
