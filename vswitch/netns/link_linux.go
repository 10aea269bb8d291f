package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The functions of this file work in the namespace of the calling thread. They
// build the kernel's own networks, which tests and benchmarks hold against ours.

// SetUp sets a link up; one that is up is left alone.
func SetUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	if link.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// SetMTU sets a link's MTU in bytes.
func SetMTU(name string, mtu int) error {
	return onLink(name, "set MTU of", func(l netlink.Link) error { return netlink.LinkSetMTU(l, mtu) })
}

// SetMaster makes a link a port of a bridge.
func SetMaster(name, bridge string) error {
	return onLink(name, "attach", func(l netlink.Link) error {
		b, err := netlink.LinkByName(bridge)
		if err != nil {
			return fmt.Errorf("%s: %w", bridge, err)
		}
		return netlink.LinkSetMaster(l, b)
	})
}

// DeleteLink removes a link. One that does not exist is no error.
func DeleteLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}

// MAC returns the hardware address of a link.
func MAC(name string) (mac [6]byte, err error) {
	err = onLink(name, "read the MAC of", func(l netlink.Link) error {
		if a := l.Attrs().HardwareAddr; len(a) == 6 {
			mac = [6]byte(a)
			return nil
		}
		return errors.New("it has none")
	})
	return mac, err
}

// AddAddr adds an address, without duplicate address detection.
func AddAddr(name string, p netip.Prefix) error {
	return onLink(name, "add address "+p.String()+" to", func(l netlink.Link) error {
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if p.Addr().IsLinkLocalUnicast() {
			a.Scope = unix.RT_SCOPE_LINK
		}
		return netlink.AddrAdd(l, a)
	})
}

// AddRoute adds a route through a link. The zero prefix is the default route
// of the gateway's family. Without a gateway, the range is on the link.
func AddRoute(name string, dst netip.Prefix, via netip.Addr) error {
	return onLink(name, fmt.Sprintf("add route %s via %s to", dst, via), func(l netlink.Link) error {
		r := &netlink.Route{LinkIndex: l.Attrs().Index, Scope: unix.RT_SCOPE_LINK}
		if via.IsValid() {
			r.Gw, r.Scope = via.AsSlice(), unix.RT_SCOPE_UNIVERSE
			r.Flags = int(netlink.FLAG_ONLINK)
		}
		if !dst.IsValid() {
			if !via.IsValid() {
				return errors.New("it has neither a destination nor a gateway")
			}
			dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			if via.Is4() {
				dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			}
		}
		r.Dst = ipNet(dst)
		return netlink.RouteReplace(r)
	})
}

// AddNeighbor adds a permanent ARP or ND entry.
func AddNeighbor(name string, ip netip.Addr, mac [6]byte) error {
	return onLink(name, "add neighbor "+ip.String()+" to", func(l netlink.Link) error {
		return netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT,
			IP: ip.AsSlice(), HardwareAddr: mac[:]})
	})
}

// AddFDB tells a VXLAN device the VTEP behind a MAC address.
func AddFDB(name string, mac [6]byte, vtep netip.Addr) error {
	return onLink(name, "add forwarding entry "+net.HardwareAddr(mac[:]).String()+" to", func(l netlink.Link) error {
		return netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE,
			State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, IP: vtep.AsSlice(), HardwareAddr: mac[:]})
	})
}

// AddVeth adds a pair of connected links. The peer is made in the namespace
// peerNS, or in this one if it is nil.
func AddVeth(name, peer string, peerNS *os.File) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	veth := netlink.NewVeth(attrs)
	veth.PeerName = peer
	if peerNS != nil {
		veth.PeerNamespace = netlink.NsFd(peerNS.Fd())
	}
	return addLink(veth)
}

// AddBridge adds a bridge.
func AddBridge(name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return addLink(&netlink.Bridge{LinkAttrs: attrs})
}

// VXLAN describes a VXLAN device of the kernel as flannel makes it: nothing is
// learned, who is where comes from AddFDB.
type VXLAN struct {
	Name string
	VNI  uint32
	// Local is the VTEP's own address, Port its UDP port.
	Local netip.Addr
	Port  uint16
	// Underlay is the link that the tunnel's packets leave through; it may be empty.
	Underlay string
	// MAC of the device, the kernel's choice if zero.
	MAC [6]byte
	MTU int
}

// AddVXLAN adds a VXLAN device.
func AddVXLAN(v VXLAN) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = v.Name, v.MTU
	if v.MAC != [6]byte{} {
		attrs.HardwareAddr = v.MAC[:]
	}
	dev := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: int(v.VNI), SrcAddr: v.Local.AsSlice(),
		Port: int(v.Port), UDPCSum: true}
	if v.Underlay != "" {
		u, err := netlink.LinkByName(v.Underlay)
		if err != nil {
			return fmt.Errorf("add %s: underlay %s: %w", v.Name, v.Underlay, err)
		}
		dev.VtepDevIndex = u.Attrs().Index
	}
	return addLink(dev)
}

func addLink(l netlink.Link) error {
	if err := netlink.LinkAdd(l); err != nil {
		return fmt.Errorf("add %s %s: %w", l.Type(), l.Attrs().Name, err)
	}
	return nil
}

func onLink(name, verb string, f func(netlink.Link) error) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = f(link)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
