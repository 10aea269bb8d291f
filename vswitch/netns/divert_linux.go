package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The kernel asks the table of its local addresses first, by a rule of
// preference 0, so the rules of a diversion need that one behind them. The
// table of a diversion is one that nobody else has a name for.
const (
	divertPref  = 1
	localPref   = 2
	divertTable = 3080
)

// divertProtos are the protocols that have ports.
var divertProtos = [...]int{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP}

// Divert makes d the diversion of the namespace of the calling thread; the zero
// one ends it. What is as wanted already is not touched. Addresses of a family
// without a gateway, or for which the link cannot be told to take packets from
// the namespace's own addresses as /proc/sys is read-only, stay local, and so
// does port 65535, for which no rule can be (fib_rule_port_range_valid).
func Divert(d Diversion) error {
	if d.Last = min(d.Last, 65534); d.First > d.Last || d.First == 0 {
		d = Diversion{}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if err := divert(d, family); err != nil {
			return fmt.Errorf("divert ports %d-%d of the namespace's own addresses to %q: %w", d.First, d.Last, d.Dev, err)
		}
	}
	return nil
}

func divert(d Diversion, family int) error {
	is4 := family == netlink.FAMILY_V4
	other := func(a netip.Addr) bool { return a.Is4() != is4 }
	addrs := slices.DeleteFunc(slices.Clone(d.Addrs), other)
	gateways := slices.DeleteFunc(slices.Clone(d.Gateways), other)
	if is4 && len(addrs) > 0 {
		// The answers come in from where the packets went, and from an address
		// that is the namespace's own (fib_validate_source in the kernel). IPv6
		// does not look at that.
		name := "net/ipv4/conf/" + d.Dev + "/accept_local"
		if err := sysctl(name, "1"); err != nil {
			return err
		}
		if readSysctl(name) != "1" {
			addrs = nil
		}
	}
	if len(gateways) == 0 {
		addrs = nil
	}
	if len(addrs) > 0 {
		if err := routeDiverted(d.Dev, gateways[0]); err != nil {
			return err
		}
	}
	return syncDiverted(d, family, addrs)
}

// routeDiverted makes the gateway the way of all that is diverted.
func routeDiverted(dev string, gateway netip.Addr) error {
	return onLink(dev, "add diverting route to", func(l netlink.Link) error {
		all := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		if gateway.Is4() {
			all = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		return netlink.RouteReplace(&netlink.Route{Table: divertTable, LinkIndex: l.Attrs().Index, Dst: ipNet(all),
			Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)})
	})
}

// diverted is what is particular to a rule.
type diverted struct {
	dst         netip.Prefix
	proto       int
	first, last uint16
}

// syncDiverted makes the rules of a family those that divert addrs.
func syncDiverted(d Diversion, family int, addrs []netip.Addr) error {
	missing := map[diverted]bool{}
	for _, a := range addrs {
		for _, proto := range divertProtos {
			missing[diverted{netip.PrefixFrom(a, a.BitLen()), proto, d.First, d.Last}] = true
		}
	}
	if len(missing) > 0 {
		if err := moveLocal(family); err != nil {
			return fmt.Errorf("move the rule of the local table: %w", err)
		}
	}
	have, err := listRules(family, divertPref)
	if len(missing) == 0 && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT)) {
		return nil // the kernel has no such family, or no rules
	}
	if err != nil {
		return err
	}
	for _, r := range have {
		var is diverted
		if r.Table == divertTable && r.Dst != nil && r.Dport != nil {
			is = diverted{prefixFromIPNet(r.Dst), r.IPProto, r.Dport.Start, r.Dport.End}
		}
		if missing[is] {
			delete(missing, is)
		} else if err := netlink.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove rule: %w", err)
		}
	}
	for m := range missing {
		r := netlink.NewRule()
		r.Family, r.Priority, r.Table, r.IifName = family, divertPref, divertTable, "lo"
		r.Dst, r.IPProto, r.Dport = ipNet(m.dst), m.proto, netlink.NewRulePortRange(m.first, m.last)
		if err := netlink.RuleAdd(r); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add rule to %s: %w", m.dst, err)
		}
	}
	return nil
}

// moveLocal moves the rule of the local table behind those of a diversion. At no
// time there is none.
func moveLocal(family int) error {
	for _, at := range []int{localPref, 0} {
		have, err := listRules(family, at)
		if err != nil {
			return err
		}
		there := slices.ContainsFunc(have, func(r netlink.Rule) bool { return r.Table == unix.RT_TABLE_LOCAL })
		r := netlink.NewRule()
		r.Family, r.Priority, r.Table = family, at, unix.RT_TABLE_LOCAL
		switch {
		case at == 0 && there:
			err = netlink.RuleDel(r)
		case at != 0 && !there:
			err = netlink.RuleAdd(r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// listRules lists the rules of a preference. It asks again when they changed
// under the dump.
func listRules(family, pref int) (rs []netlink.Rule, err error) {
	for range 10 {
		if rs, err = netlink.RuleListFiltered(family, &netlink.Rule{Priority: pref}, netlink.RT_FILTER_PRIORITY); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	for i := range rs {
		rs[i].Family = family
	}
	return rs, nil
}
