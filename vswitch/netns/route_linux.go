package netns

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// SyncRoutes makes want the routes of protocol proto (rtm_protocol in
// rtnetlink(7)) in the main table of the calling thread's namespace. Routes of
// other protocols are never touched: where one of them leads elsewhere than a
// wanted one, that is an error and it stays. Every route that cannot be had is
// an error of its own in the joined one; the others are there all the same.
func SyncRoutes(proto int, want []Route) error {
	missing := make(map[netip.Prefix]netlink.Route, len(want))
	var errs []error
	for _, r := range want {
		route, err := r.netlink(proto)
		if err != nil {
			errs = append(errs, fmt.Errorf("route %s: %w", r, err))
			continue
		}
		missing[r.Dst] = route
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		have, err := listRoutes(family, &netlink.Route{Protocol: netlink.RouteProtocol(proto)}, netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return err
		}
		for _, h := range have {
			dst := destination(&h)
			if w, ok := missing[dst]; ok && leadsAs(&w, &h) {
				delete(missing, dst)
			} else if err := netlink.RouteDel(&h); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("remove route %s: %w", dst, err))
			}
		}
	}
	for _, r := range want {
		if route, ok := missing[r.Dst]; ok {
			delete(missing, r.Dst)
			if err := addRoute(&route); err != nil {
				errs = append(errs, fmt.Errorf("route %s: %w", r, err))
			}
		}
	}
	return errors.Join(errs...)
}

// addRoute adds a route unless somebody else has one there: RouteReplace would
// take it from them.
func addRoute(r *netlink.Route) error {
	err := netlink.RouteAdd(r)
	switch {
	case errors.Is(err, unix.EEXIST):
		return existing(r)
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH):
		return fmt.Errorf("%w: the next hop is on no network of this host", err)
	case errors.Is(err, unix.EINVAL) && r.Src != nil:
		return fmt.Errorf("%w: is the source %s an address of this host, and the next hop none?", err, r.Src)
	}
	return err
}

// existing says whether the route that is in the way of r leads where r does.
func existing(r *netlink.Route) error {
	family := netlink.FAMILY_V4
	if r.Dst.IP.To4() == nil {
		family = netlink.FAMILY_V6
	}
	have, err := listRoutes(family, &netlink.Route{Dst: r.Dst}, netlink.RT_FILTER_DST)
	if err != nil {
		return err
	}
	for _, h := range have {
		h.Src = r.Src // of no account for where it leads
		if leadsAs(r, &h) {
			return nil
		}
	}
	return errors.New("another route to that range exists, which is not ours to change; remove it")
}

// netlink returns r as rtnetlink has it.
func (r Route) netlink(proto int) (netlink.Route, error) {
	route := netlink.Route{Dst: ipNet(r.Dst), Protocol: netlink.RouteProtocol(proto), Scope: unix.RT_SCOPE_LINK}
	if r.Dev != "" {
		l, err := netlink.LinkByName(r.Dev)
		if err != nil {
			return route, err
		}
		route.LinkIndex = l.Attrs().Index
	}
	if r.Via.IsValid() {
		route.Scope = unix.RT_SCOPE_UNIVERSE
		if r.Via.Is4() == r.Dst.Addr().Is4() {
			route.Gw = r.Via.AsSlice()
		} else {
			family := unix.AF_INET6
			if r.Via.Is4() {
				family = unix.AF_INET
			}
			route.Via = &netlink.Via{AddrFamily: family, Addr: r.Via.AsSlice()}
		}
	}
	if r.Source.IsValid() {
		route.Src = r.Source.AsSlice()
	}
	return route, nil
}

// leadsAs reports whether have is what was wanted.
func leadsAs(want, have *netlink.Route) bool {
	if want.LinkIndex != 0 && want.LinkIndex != have.LinkIndex || len(have.MultiPath) > 0 {
		return false
	}
	if !want.Gw.Equal(have.Gw) || !want.Src.Equal(have.Src) {
		return false
	}
	if want.Via == nil || have.Via == nil {
		return want.Via == nil && have.Via == nil
	}
	return want.Via.Equal(have.Via)
}

// destination returns the range of a route that was listed; some versions of
// the library have no range for a default route.
func destination(r *netlink.Route) netip.Prefix {
	if r.Dst == nil {
		return netip.Prefix{}
	}
	return prefixFromIPNet(r.Dst)
}

// MayRoute reports why the calling thread may not change the routes of its
// namespace; nil if it may.
func MayRoute() error {
	// No table has this route, so that a thread that may remove it is told so.
	err := netlink.RouteDel(&netlink.Route{
		Dst: ipNet(netip.MustParsePrefix("192.0.2.255/32")), Table: 1 << 30, Protocol: 255, Scope: unix.RT_SCOPE_LINK, LinkIndex: 1,
	})
	if errors.Is(err, fs.ErrPermission) {
		return errors.New("this process has no CAP_NET_ADMIN over its network namespace")
	}
	return nil
}

// Forwards reports why the namespace of the calling thread does not pass packets
// of the family on from one link to another; nil if it does.
func Forwards(v6 bool) error {
	name := "net/ipv4/ip_forward"
	if v6 {
		name = "net/ipv6/conf/all/forwarding"
	}
	dotted := strings.ReplaceAll(name, "/", ".")
	if _, err := os.Stat("/proc/sys/" + name); err != nil {
		return fmt.Errorf("%s does not exist: the kernel has that family switched off", dotted)
	}
	if v := readSysctl(name); v == "0" || v == "" {
		return fmt.Errorf("%s is %s: run 'sysctl -w %s=1', and put that line into /etc/sysctl.d/ to keep it", dotted, cmp.Or(v, "unreadable"), dotted)
	}
	return nil
}

// listRoutes lists routes of the main table that agree with filter in what mask
// says. It asks again when the table changed under the dump.
func listRoutes(family int, filter *netlink.Route, mask uint64) (rs []netlink.Route, err error) {
	for range 10 {
		if rs, err = netlink.RouteListFiltered(family, filter, mask); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return rs, nil
}
