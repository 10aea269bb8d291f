package agent

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
)

// Modes of reaching other nodes.
const (
	modeVXLAN  = "vxlan"
	modeDirect = "direct"
)

// UplinkConfig is the way to the host's kernel in mode direct.
type UplinkConfig struct {
	// Device is the name of the TUN device, at most 15 bytes. One that exists,
	// persistent and free, is adopted; else it is made and goes with the node.
	Device string `json:"device"`
	// Addresses of the device, outside of the cluster's ranges or the first one
	// of a range of podCIDRs. Usually none is needed.
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	// Routes says which routes of the host are this node's work.
	Routes string `json:"routes"`
	// RouteProtocol marks them, as rtm_protocol in rtnetlink(7); no route with
	// another one is ever touched. Nodes that share a network namespace need
	// different ones.
	RouteProtocol int `json:"routeProtocol"`
}

// Values of UplinkConfig.Routes.
const (
	// RoutesAll: this node's ranges into the device, and each other node's via
	// that node, which has to be on a network of this host.
	RoutesAll = "all"
	// RoutesLocal: this node's ranges only. The network between the nodes knows
	// where the others are, by BGP or static routes.
	RoutesLocal = "local"
	// RoutesNone: an administrator does it all.
	RoutesNone = "none"
)

// linkMTU is the largest IP packet in bytes that the way to other nodes takes.
func (c *Config) linkMTU() int {
	if c.Overlay.Mode == modeDirect {
		return c.Overlay.UnderlayMTU
	}
	return innerMTU(c)
}

// validateDirect finds what is wrong with a node in mode direct.
func (c *Config) validateDirect(bad func(field, format string, args ...any)) {
	if a := c.Overlay.Listen.Addr(); !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.Zone() != "" {
		bad("overlay.listen", "%s is nothing that other nodes can route to; give this host's address between the nodes (mode direct does not use the port)", a)
	}
	if c.hasFamily(true) && !c.hostAddress(netip.PrefixFrom(netip.IPv6Unspecified(), 0)).IsValid() {
		bad("addresses", "pods have IPv6 and the node has no IPv6 address, so that others could not route to them; add one, or give IPv4 ranges only")
	}
	u := &c.Uplink
	if len(u.Device) == 0 || len(u.Device) > 15 {
		bad("uplink.device", "%q is no name of a device: 1 to 15 bytes are", u.Device)
	}
	if !slices.Contains([]string{RoutesAll, RoutesLocal, RoutesNone}, u.Routes) {
		bad("uplink.routes", "%q is unknown; use %s, %s or %s", u.Routes, RoutesAll, RoutesLocal, RoutesNone)
	}
	// Up to 4 are the kernel's and the administrator's (RTPROT_STATIC).
	if u.RouteProtocol < 5 || u.RouteProtocol > 255 {
		bad("uplink.routeProtocol", "%d is outside 5..255", u.RouteProtocol)
	}
	for i, p := range u.Addresses {
		inCluster := slices.ContainsFunc(c.ClusterCIDRs, func(r netip.Prefix) bool { return r.Contains(p.Addr()) })
		first := slices.ContainsFunc(c.PodCIDRs, func(r netip.Prefix) bool { return r.Addr() == p.Addr() })
		switch field := fmt.Sprintf("uplink.addresses[%d]", i); {
		case !p.IsValid():
			bad(field, "is no address with a prefix length")
		case inCluster && !(first && p.IsSingleIP()):
			bad(field, "%s could become a pod's; give an address outside clusterCIDRs, or the first one of podCIDRs with its full length", p)
		}
	}
}

// validateNoUplink finds settings that the mode has no use for.
func (c *Config) validateNoUplink(bad func(field, format string, args ...any)) {
	if !reflect.DeepEqual(c.Uplink, Default().Uplink) && !reflect.DeepEqual(c.Uplink, UplinkConfig{}) {
		bad("uplink", "is of no use with overlay.mode %s; set overlay.mode to %s, or leave it out", c.Overlay.Mode, modeDirect)
	}
}
