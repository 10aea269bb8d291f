package netns_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vswitch/vswitch/netns"
	"vswitch/vswitch/netns/netnstest"
)

const testProto = 86

func ip(s string) net.IP { return netip.MustParseAddr(s).AsSlice() }

func ipNet(s string) *net.IPNet {
	_, n, _ := net.ParseCIDR(s)
	return n
}

// tableOf lists the routes of all protocols to the test's ranges.
func tableOf(t *testing.T, ns string) (rs []string) {
	t.Helper()
	netnstest.Do(t, ns, func() error {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			list, err := netlink.RouteList(nil, family)
			if err != nil {
				return err
			}
			for _, r := range list {
				if s := r.Dst.String(); strings.HasPrefix(s, "10.244.") || strings.HasPrefix(s, "fd00:") {
					via := r.Gw.String()
					if r.Via != nil {
						via = r.Via.(*netlink.Via).Addr.String()
					}
					rs = append(rs, fmt.Sprintf("%s via %s src %s proto %d", s, via, r.Src, r.Protocol))
				}
			}
		}
		return nil
	})
	slices.Sort(rs)
	return rs
}

func TestSyncRoutes(t *testing.T) {
	ns := netnstest.New(t)
	netnstest.Do(t, ns, func() error {
		if err := netns.AddVeth("net0", "peer", nil); err != nil {
			return err
		}
		if err := netns.SetUp("peer"); err != nil {
			return err
		}
		if err := netns.SetLink(netns.Link{Name: "net0", Addrs: []netip.Prefix{
			netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64"),
		}}); err != nil {
			return err
		}
		for _, dst := range []string{"10.244.7.0/24", "10.244.8.0/24"} {
			if err := netlink.RouteAdd(&netlink.Route{Dst: ipNet(dst), Gw: ip("192.0.2.7"), Protocol: unix.RTPROT_STATIC}); err != nil {
				return err
			}
		}
		return nil
	})
	foreign := []string{"10.244.7.0/24 via 192.0.2.7 src <nil> proto 4", "10.244.8.0/24 via 192.0.2.7 src <nil> proto 4"}
	route := func(dst, via, src string) netns.Route {
		r := netns.Route{Dst: netip.MustParsePrefix(dst)}
		if via == "" {
			r.Dev = "net0"
		} else {
			r.Via = netip.MustParseAddr(via)
		}
		if src != "" {
			r.Source = netip.MustParseAddr(src)
		}
		return r
	}
	for _, step := range []struct {
		name string
		want []netns.Route
		have []string // beside the foreign ones
		errs []string // one for each that cannot be had
	}{
		{"first", []netns.Route{
			route("10.244.1.0/24", "", "192.0.2.1"), route("10.244.2.0/24", "192.0.2.2", ""), route("fd00:2::/64", "2001:db8::2", "2001:db8::1"),
		}, []string{
			"10.244.1.0/24 via <nil> src 192.0.2.1 proto 86", "10.244.2.0/24 via 192.0.2.2 src <nil> proto 86",
			"fd00:2::/64 via 2001:db8::2 src 2001:db8::1 proto 86",
		}, nil},
		{"another way, and IPv4 via IPv6", []netns.Route{
			route("10.244.2.0/24", "192.0.2.3", ""), route("10.244.3.0/24", "2001:db8::3", ""), route("fd00:2::/64", "2001:db8::3", ""),
		}, []string{
			"10.244.2.0/24 via 192.0.2.3 src <nil> proto 86", "10.244.3.0/24 via 2001:db8::3 src <nil> proto 86",
			"fd00:2::/64 via 2001:db8::3 src <nil> proto 86",
		}, nil},
		{"what cannot be had", []netns.Route{
			route("10.244.2.0/24", "192.0.2.3", ""), route("10.244.4.0/24", "198.51.100.1", ""),
			route("10.244.5.0/24", "192.0.2.5", "198.51.100.1"), route("10.244.7.0/24", "192.0.2.2", ""),
			route("10.244.8.0/24", "192.0.2.7", ""), route("fd00:4::/64", "2001:db8:1::1", ""),
		}, []string{"10.244.2.0/24 via 192.0.2.3 src <nil> proto 86"}, []string{
			"route 10.244.4.0/24 via 198.51.100.1: network is unreachable: the next hop is on no network of this host",
			"route 10.244.5.0/24 via 192.0.2.5: invalid argument: is the source 198.51.100.1 an address of this host",
			"route 10.244.7.0/24 via 192.0.2.2: another route to that range exists",
			"route fd00:4::/64 via 2001:db8:1::1: no route to host: the next hop is on no network",
		}},
		{"none", nil, nil, nil},
	} {
		t.Run(step.name, func(t *testing.T) {
			for range 2 { // the second time changes nothing
				var err error
				netnstest.Do(t, ns, func() error {
					err = netns.SyncRoutes(testProto, step.want)
					return nil
				})
				var lines []string
				if err != nil {
					lines = strings.Split(err.Error(), "\n")
				}
				if !slices.EqualFunc(lines, step.errs, strings.HasPrefix) {
					t.Errorf("errors\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(step.errs, "\n"))
				}
				want := slices.Sorted(slices.Values(append(slices.Clone(step.have), foreign...)))
				if diff := cmp.Diff(want, tableOf(t, ns)); diff != "" {
					t.Errorf("routes (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestForwards(t *testing.T) {
	ns := netnstest.New(t)
	for _, tt := range []struct {
		v6   bool
		name string
	}{{false, "net.ipv4.ip_forward"}, {true, "net.ipv6.conf.all.forwarding"}} {
		for _, value := range []string{"0", "1"} {
			netnstest.Do(t, ns, func() error {
				if err := os.WriteFile("/proc/sys/"+strings.ReplaceAll(tt.name, ".", "/"), []byte(value), 0); err != nil {
					return err
				}
				err := netns.Forwards(tt.v6)
				if (err == nil) != (value == "1") || err != nil && !strings.Contains(err.Error(), "sysctl -w "+tt.name+"=1") {
					t.Errorf("%s is %s: %v", tt.name, value, err)
				}
				return netns.MayRoute()
			})
		}
	}
}
