package netns

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Configure brings lo up and l into its wanted state, in the namespace of the
// calling thread (see Do). What is as wanted already is not touched, so a
// second call changes nothing and disturbs no connection.
//
// IPv6 addresses are usable at once: duplicate address detection and router
// advertisements are off, and the one link-local address is the EUI-64 of the
// MAC. Sockets of ping and ports below 1024 are open to every user.
func Configure(l Link) error {
	if err := configure(l); err != nil {
		return fmt.Errorf("configure %s: %w", l.Name, err)
	}
	return nil
}

func configure(l Link) error {
	if err := SetUp("lo"); err != nil {
		return err
	}
	if err := openUnprivileged(); err != nil {
		return err
	}
	return setLink(l)
}

// SetLink is Configure for a link in a namespace that is not a pod's: nothing
// but l is touched.
func SetLink(l Link) error {
	if err := setLink(l); err != nil {
		return fmt.Errorf("configure %s: %w", l.Name, err)
	}
	return nil
}

func setLink(l Link) error {
	link, err := netlink.LinkByName(l.Name)
	if err != nil {
		return err
	}
	wants6 := l.IPv6 || slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Addr().Is6() })
	if err := prepareIPv6(l.Name, wants6); err != nil {
		return err
	}
	if err := setDevice(link, l); err != nil {
		return err
	}
	if wants6 && readSysctl("net/ipv6/conf/"+l.Name+"/addr_gen_mode") != strconv.Itoa(nl.IN6_ADDR_GEN_MODE_NONE) {
		// Before the link is up, or else the kernel adds one of its own.
		if err := netlink.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE); err != nil {
			return fmt.Errorf("set IPv6 address generation: %w", err)
		}
	}
	if err := SetUp(l.Name); err != nil {
		return err
	}
	if link, err = netlink.LinkByName(l.Name); err != nil {
		return err
	}
	if err := setAddrs(link, l.Addrs, wants6); err != nil {
		return err
	}
	return setGateways(link, l.Gateways)
}

// setDevice sets what belongs to the device below IP.
func setDevice(link netlink.Link, l Link) error {
	a := link.Attrs()
	if l.MAC != [6]byte{} && !bytes.Equal(a.HardwareAddr, l.MAC[:]) {
		if err := netlink.LinkSetHardwareAddr(link, l.MAC[:]); err != nil {
			return fmt.Errorf("set MAC %s: %w", net.HardwareAddr(l.MAC[:]), err)
		}
	}
	if l.MTU != 0 && a.MTU != l.MTU {
		if err := netlink.LinkSetMTU(link, l.MTU); err != nil {
			return fmt.Errorf("set MTU %d: %w", l.MTU, err)
		}
	}
	if l.TxQueueLen != 0 && a.TxQLen != l.TxQueueLen {
		if err := netlink.LinkSetTxQLen(link, l.TxQueueLen); err != nil {
			return fmt.Errorf("set queue length %d: %w", l.TxQueueLen, err)
		}
	}
	if l.GSOMaxSegs != 0 && a.GSOMaxSegs != uint32(l.GSOMaxSegs) {
		if err := netlink.LinkSetGSOMaxSegs(link, l.GSOMaxSegs); err != nil {
			return fmt.Errorf("set gso_max_segs %d: %w", l.GSOMaxSegs, err)
		}
	}
	if l.GSOMaxSize == 0 {
		return nil
	}
	if a.GSOMaxSize != uint32(l.GSOMaxSize) {
		if err := netlink.LinkSetGSOMaxSize(link, l.GSOMaxSize); err != nil {
			return fmt.Errorf("set gso_max_size %d: %w", l.GSOMaxSize, err)
		}
	}
	// Kernels before 6.3 have one bound for both families and report none here.
	if a.GSOIPv4MaxSize != 0 && a.GSOIPv4MaxSize != uint32(l.GSOMaxSize) {
		if err := netlink.LinkSetGSOIPv4MaxSize(link, l.GSOMaxSize); err != nil {
			return fmt.Errorf("set gso_ipv4_max_size %d: %w", l.GSOMaxSize, err)
		}
	}
	return nil
}

// setAddrs adds what is missing of addrs and removes other global addresses.
func setAddrs(link netlink.Link, addrs []netip.Prefix, linkLocal bool) error {
	want := slices.Clone(addrs)
	if mac := link.Attrs().HardwareAddr; linkLocal && len(mac) == 6 {
		want = append(want, netip.PrefixFrom(eui64([6]byte(mac)), 64))
	}
	have, err := addrList(link)
	if err != nil {
		return err
	}
	for _, a := range have {
		p := prefixFromIPNet(a.IPNet)
		if i := slices.Index(want, p); i >= 0 {
			want = slices.Delete(want, i, i+1)
		} else if a.Scope == unix.RT_SCOPE_UNIVERSE || p.Addr().IsLinkLocalUnicast() && linkLocal {
			if err := netlink.AddrDel(link, &a); err != nil {
				return fmt.Errorf("remove address %s: %w", p, err)
			}
		}
	}
	for _, p := range want {
		if err := AddAddr(link.Attrs().Name, p); err != nil {
			return err
		}
	}
	return nil
}

// setGateways makes the default routes of the link those via gws.
func setGateways(link netlink.Link, gws []netip.Addr) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		i := slices.IndexFunc(gws, func(a netip.Addr) bool { return a.Is4() == (family == netlink.FAMILY_V4) })
		routes, err := listRoutes(family, &netlink.Route{LinkIndex: link.Attrs().Index}, netlink.RT_FILTER_OIF)
		if err != nil {
			return err
		}
		found := false
		for _, r := range routes {
			if r.Dst != nil && !isDefault(r.Dst) || r.Table != unix.RT_TABLE_MAIN {
				continue
			}
			if gw, ok := netip.AddrFromSlice(r.Gw); i >= 0 && ok && gw.Unmap() == gws[i] {
				found = true
			} else if err := netlink.RouteDel(&r); err != nil {
				return fmt.Errorf("remove default route via %s: %w", r.Gw, err)
			}
		}
		if i >= 0 && !found {
			if err := AddRoute(link.Attrs().Name, netip.Prefix{}, gws[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// eui64 returns the link-local address that belongs to mac (RFC 4291, appendix A).
func eui64(mac [6]byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80,
		8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}

func isDefault(n *net.IPNet) bool {
	ones, _ := n.Mask.Size()
	return ones == 0 && n.IP.IsUnspecified()
}

func prefixFromIPNet(n *net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones)
}

// addrList asks again when the table changed under the dump.
func addrList(link netlink.Link) (as []netlink.Addr, err error) {
	for range 10 {
		if as, err = netlink.AddrList(link, netlink.FAMILY_ALL); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return as, nil
}
