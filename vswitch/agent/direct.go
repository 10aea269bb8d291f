package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"vswitch/overlay/gossip"
	"vswitch/vswitch"
	"vswitch/vswitch/netns"
	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// direct is the link without encapsulation: the network is taught how to route.
// A TUN device leads from the switch to the host, whose kernel routes to the
// addresses of the other nodes, whose kernels have such a device, too.
//
//	pod ─ switch ─ TUN ─ host ──── network ──── host ─ TUN ─ switch ─ pod
//
// The routes are this node's, marked by their protocol: its own ranges lead
// into the device, a peer's via the peer.
type direct struct {
	*port.TUN
	cfg *Config

	mu     sync.Mutex // guards what follows
	lastID uint16
	peers  map[uint16]string // id -> node
	wrong  []string          // of the last follow
}

// errPeers says that no id is left for another peer.
var errPeers = errors.New("too many nodes")

// openDirect opens or adopts the device of a node in mode direct, sets it up,
// and removes the routes that an earlier run left. mac is the switch's own on
// the device, host is the kernel's: the device has neither, so that nobody but
// the switch sees them.
func openDirect(cfg *Config, mac, host [6]byte) (link, error) {
	if err := directAllowed(cfg); err != nil {
		return nil, fmt.Errorf("mode direct: %w", err)
	}
	tun, err := port.OpenTUN(port.TUNConfig{Name: cfg.Uplink.Device, MTU: cfg.linkMTU(), GatewayMAC: mac, HostMAC: host})
	if err != nil {
		return nil, fmt.Errorf("mode direct: %w", err)
	}
	d := &direct{TUN: tun, cfg: cfg, peers: map[uint16]string{}}
	if err := d.setUp(); err != nil {
		tun.Close()
		return nil, fmt.Errorf("mode direct: %w", err)
	}
	if cfg.Uplink.Routes != RoutesNone {
		if err := netns.SyncRoutes(cfg.Uplink.RouteProtocol, nil); err != nil {
			tun.Close()
			return nil, fmt.Errorf("mode direct: routes of an earlier run: %w", err)
		}
	}
	return d, nil
}

// directAllowed finds out at once what packets would silently die of later.
func directAllowed(cfg *Config) error {
	var errs []error
	if cfg.Uplink.Routes != RoutesNone {
		if err := netns.MayRoute(); err != nil {
			errs = append(errs, fmt.Errorf("%w: run the node as root, or give its binary the right with 'setcap cap_net_admin+ep', "+
				"or let an administrator make the device and the routes and set uplink.routes to none", err))
		}
	}
	for _, v6 := range []bool{false, true} {
		if !cfg.hasFamily(v6) {
			continue
		}
		if err := netns.Forwards(v6); err != nil {
			errs = append(errs, fmt.Errorf("this host passes no packets on between its pods and other nodes: %w", err))
		}
	}
	for _, a := range append([]netip.Addr{cfg.Overlay.Listen.Addr()}, cfg.Addresses...) {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s is no address of this host (%w); overlay.listen and addresses are the host's own", a, err))
			continue
		}
		c.Close()
	}
	return errors.Join(errs...)
}

// setUp gives the device its addresses and sets it up.
func (d *direct) setUp() error {
	err := netns.SetLink(netns.Link{
		Name: d.Name(), Addrs: d.cfg.Uplink.Addresses, IPv6: d.cfg.hasFamily(true), TxQueueLen: 2000,
	})
	if d.cfg.Uplink.Routes == RoutesNone && errors.Is(err, fs.ErrPermission) {
		// An administrator's device: as it is, if it is of any use.
		i, ierr := net.InterfaceByName(d.Name())
		if ierr == nil && i.Flags&net.FlagUp != 0 {
			return nil
		}
		return fmt.Errorf("%w: set it up first: ip link set %s up", err, d.Name())
	}
	return err
}

func (d *direct) kind() vswitch.PortKind { return vswitch.PortUplink }

func (d *direct) underlay() netip.AddrPort {
	return netip.AddrPortFrom(d.cfg.Overlay.Listen.Addr(), 0)
}

func (d *direct) add(n *gossip.Node) (uint16, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for range packet.PeerBase - 1 {
		if d.lastID++; d.lastID >= packet.PeerBase {
			d.lastID = 1
		}
		if _, used := d.peers[d.lastID]; !used {
			d.peers[d.lastID] = n.Name
			return d.lastID, nil
		}
	}
	return 0, errPeers
}

func (d *direct) remove(id uint16) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.peers, id)
}

func (d *direct) traffic(uint16) *Counters { return nil } // the kernel knows

func (d *direct) via(p *peer, to netip.Prefix) string {
	if hop, ok := p.nextHop(to); ok {
		return hop.String()
	}
	return ""
}

func (d *direct) problems() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.wrong)
}

// follow installs the host's routes.
func (d *direct) follow(ranges []netip.Prefix, peers map[string]*peer) {
	want, wrong := d.cfg.directRoutes(ranges, peers)
	if d.cfg.Uplink.Routes != RoutesNone {
		if err := netns.SyncRoutes(d.cfg.Uplink.RouteProtocol, want); err != nil {
			wrong = append(wrong, strings.Split(err.Error(), "\n")...)
		}
	}
	d.mu.Lock()
	d.wrong = wrong
	d.mu.Unlock()
}

// directRoutes returns the routes that the host needs, and what is in their way.
func (c *Config) directRoutes(ranges []netip.Prefix, peers map[string]*peer) (want []netns.Route, wrong []string) {
	for _, r := range ranges {
		want = append(want, netns.Route{Dst: r, Dev: c.Uplink.Device, Source: c.hostAddress(r)})
	}
	if c.Uplink.Routes != RoutesAll {
		return want, nil
	}
	for _, name := range slices.Sorted(maps.Keys(peers)) {
		for _, r := range peers[name].PodCIDRs {
			hop, ok := peers[name].nextHop(r)
			if !ok {
				wrong = append(wrong, fmt.Sprintf("node %s has pods in %s and no IPv6 address to route that to; give it one in its addresses", name, r))
				continue
			}
			want = append(want, netns.Route{Dst: r, Via: hop, Source: c.hostAddress(r)})
		}
	}
	return want, wrong
}

// Close removes this node's routes and closes the device.
func (d *direct) Close() error {
	var err error
	if d.cfg.Uplink.Routes != RoutesNone {
		err = netns.SyncRoutes(d.cfg.Uplink.RouteProtocol, nil)
	}
	return errors.Join(err, d.TUN.Close())
}

// nextHop returns the address of the node that a range of it is routed to: its
// underlay address, or else one of its own of the range's family. The kernel
// routes IPv4 via IPv6, but not the other way round.
func (p *peer) nextHop(to netip.Prefix) (netip.Addr, bool) {
	candidates := append([]netip.Addr{p.Underlay.Addr()}, p.Addresses...)
	for _, a := range candidates {
		if a.Is4() == to.Addr().Is4() {
			return a, true
		}
	}
	return candidates[0], candidates[0].Is6()
}

// hostAddress returns the address that the host speaks to pods of a range with,
// one that peers know it by.
func (c *Config) hostAddress(to netip.Prefix) netip.Addr {
	for _, a := range append(slices.Clone(c.Addresses), c.Overlay.Listen.Addr()) {
		if a.Is4() == to.Addr().Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// hostAddresses returns the addresses of this node's host that pods reach, in
// mode direct.
func (c *Config) hostAddresses() []netip.Addr {
	as := append(slices.Clone(c.Addresses), c.Overlay.Listen.Addr())
	for _, p := range c.Uplink.Addresses {
		as = append(as, p.Addr())
	}
	return as
}

// hasFamily reports whether pods have addresses of a family.
func (c *Config) hasFamily(v6 bool) bool {
	cidrs := c.PodCIDRs
	if len(cidrs) == 0 {
		cidrs = c.ClusterCIDRs
	}
	return slices.ContainsFunc(cidrs, func(p netip.Prefix) bool { return p.Addr().Is6() == v6 })
}
