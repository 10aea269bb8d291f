package overlay

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNamespaces runs the calling test again in a process with a user and a
// network namespace of its own, where it may do as it likes, and reports true
// in that process. As root or as anybody else, it is the same.
func inNamespaces(t *testing.T) bool {
	t.Helper()
	const mark = "OVERLAY_TEST_NAMESPACE"
	if os.Getenv(mark) != "" {
		return true
	}
	name, _, _ := strings.Cut(t.Name(), "/")
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+name+"$", "-test.v", "-test.timeout=100s")
	cmd.Env = append(os.Environ(), mark+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	runtime.LockOSThread() // Pdeathsig is of the thread
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	if err != nil && len(out) == 0 {
		if os.Getenv("CI") != "" {
			t.Fatalf("no user namespace: %v", err)
		}
		t.Skipf("no user namespace: %v", err)
	}
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return false
}

// netns is a network namespace. It ends with the process.
type netns struct{ fd int }

func newNetns(t testing.TB) netns {
	t.Helper()
	n := netns{-1}
	onThread(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		n = thisNetns(t)
		up(t, "lo")
	})
	return n
}

func thisNetns(t testing.TB) netns {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
	}
	return netns{fd}
}

// onThread runs f on a thread that ends with it.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		f()
	}()
	<-done
}

// do runs f in the namespace. Sockets that it opens stay there.
func (n netns) do(t testing.TB, f func()) {
	t.Helper()
	onThread(func() {
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		f()
	})
	if t.Failed() {
		t.FailNow()
	}
}

func check(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

func device(t testing.TB, name string) netlink.Link {
	l, err := netlink.LinkByName(name)
	check(t, name, err)
	return l
}

func up(t testing.TB, name string) { check(t, name+" up", netlink.LinkSetUp(device(t, name))) }

// address adds an address; one of IPv6 is usable at once.
func address(t testing.TB, dev, cidr string) {
	a, err := netlink.ParseAddr(cidr)
	check(t, cidr, err)
	a.Flags = unix.IFA_F_NODAD
	check(t, cidr, netlink.AddrAdd(device(t, dev), a))
}

// route adds a route through a gateway whose MAC is known.
func route(t testing.TB, dev, dst, via string, mac net.HardwareAddr, src string) {
	d := device(t, dev)
	_, n, err := net.ParseCIDR(dst)
	check(t, dst, err)
	family := netlink.FAMILY_V4
	if n.IP.To4() == nil {
		family = netlink.FAMILY_V6
	}
	check(t, "neighbor "+via, netlink.NeighSet(&netlink.Neigh{
		LinkIndex: d.Attrs().Index, Family: family, State: netlink.NUD_PERMANENT,
		IP: net.ParseIP(via), HardwareAddr: mac,
	}))
	check(t, "route "+dst, netlink.RouteAdd(&netlink.Route{
		LinkIndex: d.Attrs().Index, Dst: n, Gw: net.ParseIP(via), Src: net.ParseIP(src), Flags: int(netlink.FLAG_ONLINK),
	}))
}

// veth connects the calling thread's namespace with another.
func veth(t testing.TB, name, peer string, to netns, mtu int) {
	check(t, "veth", netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu}, PeerName: peer, PeerNamespace: netlink.NsFd(to.fd),
	}))
}

func setMTU(dev string, mtu int) error {
	l, err := netlink.LinkByName(dev)
	if err != nil {
		return err
	}
	return netlink.LinkSetMTU(l, mtu)
}

func setDown(dev string) error {
	l, err := netlink.LinkByName(dev)
	if err != nil {
		return err
	}
	return netlink.LinkSetDown(l)
}

// Commands of SIOCETHTOOL (include/uapi/linux/ethtool.h).
const (
	ethtoolTxChecksum = 0x17
	ethtoolGRO        = 0x2c
)

// ethtool sets a feature of a device.
func ethtool(t testing.TB, dev string, cmd uint32, on bool) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	check(t, "socket", err)
	defer unix.Close(fd)
	value := [2]uint32{cmd, 0}
	if on {
		value[1] = 1
	}
	var ifr struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifr.name[:], dev)
	ifr.data = unsafe.Pointer(&value)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); e != 0 {
		t.Errorf("ethtool %#x of %s: %v", cmd, dev, e)
	}
	runtime.KeepAlive(&value)
}

// checksumErrors returns what the namespace's protocols counted, by name.
func (n netns) checksumErrors(t testing.TB) (bad map[string]int) {
	bad = map[string]int{}
	n.do(t, func() {
		for _, file := range []string{"snmp", "snmp6", "netstat"} {
			b, err := os.ReadFile("/proc/thread-self/net/" + file)
			check(t, file, err)
			lines := strings.Split(string(bytes.TrimSpace(b)), "\n")
			for i := 0; i < len(lines); i++ {
				f := strings.Fields(lines[i])
				if file == "snmp6" {
					count(bad, f[0], f[1])
					continue
				}
				// A line of names, a line of values.
				v := strings.Fields(lines[i+1])
				i++
				for k := 1; k < len(f); k++ {
					count(bad, f[0]+f[k], v[k])
				}
			}
		}
	})
	return bad
}

func count(bad map[string]int, name, value string) {
	if n, _ := strconv.Atoi(value); n != 0 && (strings.Contains(name, "Csum") || strings.Contains(name, "ReasmFails")) {
		bad[name] = n
	}
}

func hostPort(ip string, port int) string { return net.JoinHostPort(ip, fmt.Sprint(port)) }
