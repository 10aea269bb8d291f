package netns_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vswitch/vswitch/netns"
	"vswitch/vswitch/netns/netnstest"
)

// rulesOf lists the rules of both families before that of the main table.
func rulesOf(t *testing.T, ns string) (rs []string) {
	t.Helper()
	netnstest.Do(t, ns, func() error {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			list, err := netlink.RuleList(family)
			if err != nil {
				return err
			}
			for _, r := range list {
				switch {
				case r.Table == unix.RT_TABLE_LOCAL:
					rs = append(rs, fmt.Sprint(r.Priority, " local"))
				case r.Dst != nil:
					rs = append(rs, fmt.Sprint(r.Priority, " ", r.IifName, " ", r.Dst, " ", r.IPProto, " ", r.Dport.Start, "-", r.Dport.End))
				}
			}
		}
		return nil
	})
	slices.Sort(rs)
	return rs
}

// TestDivert: what the namespace says to its own addresses leaves it, at the
// ports of the diversion only, and not any more when that has ended.
func TestDivert(t *testing.T) {
	ns := netnstest.New(t)
	link := netns.Link{Name: "net0", Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::1/128")},
		Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}}
	netnstest.Do(t, ns, func() error {
		if err := netns.AddVeth("net0", "peer", nil); err != nil {
			return err
		}
		if err := netns.SetUp("peer"); err != nil {
			return err
		}
		return netns.Configure(link)
	})
	// to lists ADDRESS PROTOCOL FIRST LAST, of both addresses and all protocols if *.
	to := func(lines ...string) (list []netns.Destination) {
		for _, line := range lines {
			var addr, proto string
			var d netns.Destination
			if _, err := fmt.Sscan(line, &addr, &proto, &d.First, &d.Last); err != nil {
				t.Fatal(line, err)
			}
			for _, p := range link.Addrs {
				for number, name := range map[uint8]string{6: "tcp", 17: "udp", 132: "sctp"} {
					d.Addr, d.Proto = p.Addr(), number
					if (addr == "*" || addr == d.Addr.String()) && (proto == "*" || proto == name) {
						list = append(list, d)
					}
				}
			}
		}
		return list
	}
	divert := func(lines ...string) netns.Diversion {
		return netns.Diversion{Dev: "net0", Gateways: link.Gateways, To: to(lines...)}
	}
	d := divert("* * 30000 30009")
	only4, keep := d, divert("192.0.2.1 tcp 80 80")
	only4.Gateways, keep.Keep = d.Gateways[:1], true
	for _, step := range []struct {
		name    string
		d       netns.Diversion
		rules   []string
		gone    []string // addresses and ports that nobody refuses
		refused []string // those that the kernel does
	}{
		{"both families", d, []string{
			"1 lo 192.0.2.1/32 132 30000-30009", "1 lo 192.0.2.1/32 17 30000-30009", "1 lo 192.0.2.1/32 6 30000-30009",
			"1 lo 2001:db8::1/128 132 30000-30009", "1 lo 2001:db8::1/128 17 30000-30009", "1 lo 2001:db8::1/128 6 30000-30009",
			"2 local", "2 local",
		}, []string{"192.0.2.1:30000", "192.0.2.1:30009", "[2001:db8::1]:30009"},
			[]string{"192.0.2.1:29999", "192.0.2.1:30010", "[2001:db8::1]:29999", "127.0.0.1:30000", "[::1]:30000"}},
		{"other ports", divert("* * 40000 40000"), []string{
			"1 lo 192.0.2.1/32 132 40000-40000", "1 lo 192.0.2.1/32 17 40000-40000", "1 lo 192.0.2.1/32 6 40000-40000",
			"1 lo 2001:db8::1/128 132 40000-40000", "1 lo 2001:db8::1/128 17 40000-40000", "1 lo 2001:db8::1/128 6 40000-40000",
			"2 local", "2 local",
		}, []string{"192.0.2.1:40000", "[2001:db8::1]:40000"}, []string{"192.0.2.1:30000", "[2001:db8::1]:30009"}},
		{"one gateway", only4, []string{
			"1 lo 192.0.2.1/32 132 30000-30009", "1 lo 192.0.2.1/32 17 30000-30009", "1 lo 192.0.2.1/32 6 30000-30009",
			"2 local", "2 local",
		}, []string{"192.0.2.1:30000"}, []string{"[2001:db8::1]:30000"}},
		{"up to the last port", divert("192.0.2.1 * 50000 65535", "2001:db8::1 tcp 65535 65535"), []string{
			"1 lo 192.0.2.1/32 132 50000-65534", "1 lo 192.0.2.1/32 17 50000-65534", "1 lo 192.0.2.1/32 6 50000-65534",
			"2 local", "2 local",
		}, []string{"192.0.2.1:65534"}, []string{"192.0.2.1:65535"}},
		{"of services", divert("192.0.2.1 tcp 80 80", "2001:db8::1 udp 53 53", "2001:db8::1 tcp 443 443", "192.0.2.1 tcp 30000 30009"), []string{
			"1 lo 192.0.2.1/32 6 30000-30009", "1 lo 192.0.2.1/32 6 80-80",
			"1 lo 2001:db8::1/128 17 53-53", "1 lo 2001:db8::1/128 6 443-443",
			"2 local", "2 local",
		}, []string{"192.0.2.1:80", "192.0.2.1:30009", "[2001:db8::1]:443"},
			[]string{"192.0.2.1:53", "192.0.2.1:79", "192.0.2.1:81", "192.0.2.1:443", "[2001:db8::1]:53", "[2001:db8::1]:80", "127.0.0.1:80"}},
		{"ranges that meet", divert("192.0.2.1 tcp 80 80", "192.0.2.1 tcp 82 90", "192.0.2.1 tcp 81 85", "192.0.2.1 udp 91 91", "192.0.2.1 tcp 80 80", "192.0.2.1 tcp 92 92"), []string{
			"1 lo 192.0.2.1/32 17 91-91", "1 lo 192.0.2.1/32 6 80-90", "1 lo 192.0.2.1/32 6 92-92",
			"2 local", "2 local",
		}, []string{"192.0.2.1:80", "192.0.2.1:90", "192.0.2.1:92"}, []string{"192.0.2.1:79", "192.0.2.1:91", "192.0.2.1:93", "[2001:db8::1]:80"}},
		{"what was before is kept", keep, []string{
			"1 lo 192.0.2.1/32 17 91-91", "1 lo 192.0.2.1/32 6 80-80", "1 lo 192.0.2.1/32 6 80-90", "1 lo 192.0.2.1/32 6 92-92",
			"2 local", "2 local",
		}, []string{"192.0.2.1:80", "192.0.2.1:92"}, []string{"192.0.2.1:79"}},
		{"none", netns.Diversion{}, []string{"2 local", "2 local"}, nil, []string{"192.0.2.1:30000", "[2001:db8::1]:30000"}},
	} {
		t.Run(step.name, func(t *testing.T) {
			for range 2 { // the second time changes nothing
				netnstest.Do(t, ns, func() error { return netns.Divert(step.d) })
				if diff := cmp.Diff(step.rules, rulesOf(t, ns)); diff != "" {
					t.Fatalf("rules (-want +got):\n%s", diff)
				}
			}
			for _, to := range step.gone {
				if refuses(t, ns, netip.MustParseAddrPort(to), 100*time.Millisecond) {
					t.Errorf("%s is refused, so it has not left the namespace", to)
				}
			}
			for _, to := range step.refused {
				if !refuses(t, ns, netip.MustParseAddrPort(to), 20*time.Second) {
					t.Errorf("%s is not refused, so it has left the namespace", to)
				}
			}
		})
	}
}

// clientPort is what every connection comes from: the reset that refuses it goes
// to this port, and would leave the namespace, too, were it one of a diversion.
const clientPort = 10000

// refuses reports whether the kernel refuses a TCP connection to a port of the
// namespace's own within that time, where nobody listens. Behind the link is
// nobody who would answer.
func refuses(t *testing.T, ns string, to netip.AddrPort, within time.Duration) (refused bool) {
	t.Helper()
	try := func() error {
		family, from := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: clientPort})
		sa := unix.Sockaddr(&unix.SockaddrInet4{Port: int(to.Port()), Addr: [4]byte(to.Addr().AsSlice())})
		if to.Addr().Is6() {
			family, from = unix.AF_INET6, &unix.SockaddrInet6{Port: clientPort}
			sa = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, from); err != nil {
			return fmt.Errorf("bind to port %d: %v", clientPort, err)
		}
		timeout := unix.NsecToTimeval(within.Nanoseconds()) // connect minds it, too
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout); err != nil {
			return err
		}
		switch err := unix.Connect(fd, sa); err {
		case unix.ECONNREFUSED:
			refused = true
		case unix.EINPROGRESS:
		default:
			return fmt.Errorf("connect to %s: %w", to, err)
		}
		return nil
	}
	netnstest.Do(t, ns, func() error {
		err := try()
		for errors.Is(err, unix.EINTR) { // by a signal of the runtime: no call with a timeout is restarted (signal(7))
			err = try()
		}
		return err
	})
	return refused
}
