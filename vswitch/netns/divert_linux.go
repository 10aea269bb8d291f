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

// lastDiverted is the last port that can be diverted: for 65535 no rule can be
// (fib_rule_port_range_valid in the kernel).
const lastDiverted = 65534

// Divert makes d the diversion of the namespace of the calling thread; the zero
// one ends it. What is as wanted already is not touched, and what is no longer
// wanted goes when what is wanted is there. Addresses of a family without a
// gateway, or for which the link cannot be told to take packets from the
// namespace's own addresses as /proc/sys is read-only, stay local, and so does
// port 65535. An error tells of the first destination that is not as wanted;
// the others are, as far as they can be.
func Divert(d Diversion) error {
	to := ranges(d.To)
	var first error
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if err := divert(d, to, family); err != nil && first == nil {
			first = fmt.Errorf("divert what is for the namespace's own addresses to %q: %w", d.Dev, err)
		}
	}
	return first
}

// ranges returns the destinations that can be diverted, in order, each port in
// one range only, and neighboring ones in one.
func ranges(to []Destination) (out []Destination) {
	for _, d := range slices.SortedFunc(slices.Values(to), Destination.compare) {
		d.First, d.Last = max(d.First, 1), min(d.Last, lastDiverted)
		if d.First > d.Last {
			continue
		}
		if n := len(out) - 1; n >= 0 && out[n].Addr == d.Addr && out[n].Proto == d.Proto && d.First <= out[n].Last+1 {
			out[n].Last = max(out[n].Last, d.Last)
			continue
		}
		out = append(out, d)
	}
	return out
}

func divert(d Diversion, to []Destination, family int) error {
	is4 := family == netlink.FAMILY_V4
	to = slices.DeleteFunc(slices.Clone(to), func(t Destination) bool { return t.Addr.Is4() != is4 })
	gateway := slices.IndexFunc(d.Gateways, func(a netip.Addr) bool { return a.Is4() == is4 })
	if gateway < 0 {
		to = nil
	}
	if is4 && len(to) > 0 {
		// The answers come in from where the packets went, and from an address
		// that is the namespace's own (fib_validate_source in the kernel). IPv6
		// does not look at that.
		name := "net/ipv4/conf/" + d.Dev + "/accept_local"
		if err := sysctl(name, "1"); err != nil {
			return err
		}
		if readSysctl(name) != "1" {
			to = nil
		}
	}
	if len(to) > 0 {
		if err := routeDiverted(d.Dev, d.Gateways[gateway]); err != nil {
			return err
		}
	}
	return syncDiverted(family, to, d.Keep)
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

// syncDiverted makes the rules of a family those that divert what is to a
// destination. With keep, the others stay.
func syncDiverted(family int, to []Destination, keep bool) error {
	missing := map[Destination]bool{}
	for _, t := range to {
		missing[t] = true
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
	stale := have[:0]
	for _, r := range have {
		if is := destinationOf(&r); missing[is] {
			delete(missing, is)
		} else if !keep && r.Table == divertTable {
			stale = append(stale, r)
		}
	}
	// A rule that takes the place of others is there before they go: what they
	// divert belongs to connections that the namespace knows nothing of.
	for _, t := range to {
		if !missing[t] {
			continue
		}
		if e := netlink.RuleAdd(t.rule(family)); e != nil && !errors.Is(e, unix.EEXIST) && err == nil {
			err = fmt.Errorf("add rule to ports %d-%d of %s: %w", t.First, t.Last, t.Addr, e)
		}
	}
	for _, r := range stale {
		if e := netlink.RuleDel(&r); e != nil && !errors.Is(e, unix.ENOENT) && err == nil {
			err = fmt.Errorf("remove rule %v: %w", r, e)
		}
	}
	return err
}

// rule is the kernel's for the destination.
func (d Destination) rule(family int) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table, r.IifName = family, divertPref, divertTable, "lo"
	r.Dst, r.IPProto = ipNet(netip.PrefixFrom(d.Addr, d.Addr.BitLen())), int(d.Proto)
	r.Dport = netlink.NewRulePortRange(d.First, d.Last)
	return r
}

// destinationOf returns what a rule diverts, the zero one if it is another rule.
func destinationOf(r *netlink.Rule) (d Destination) {
	if r.Table == divertTable && r.Dst != nil && r.Dport != nil {
		d = Destination{prefixFromIPNet(r.Dst).Addr(), uint8(r.IPProto), r.Dport.Start, r.Dport.End}
	}
	return d
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
