package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"

	"vswitch/vswitch"
	"vswitch/vswitch/netns"
	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// ownPortName is the node port's name at the switch, in captures and tables.
const ownPortName = "node"

// ownPort is the node port: the node itself at its switch. The link has no
// neighbors but the gateway: the node's addresses are of no range that is on
// it, so all that the node says is routed, and its pods reach it by their
// gateway, as other nodes' pods do.
type ownPort struct {
	PortStatus
	node string
	port port.Port
	id   uint16
	mac  [6]byte
	// diversion is the one in force; nil: unknown. undiverted says why it could
	// not be had.
	diversion  *netns.Diversion
	undiverted string
}

func (p *ownPort) compiled() OwnPort {
	return OwnPort{Port: p.id, Node: p.node, MAC: p.mac, Addresses: p.Addresses, MTU: p.MTU}
}

// be makes the port the owner of the node's addresses, if there is one.
func (p *ownPort) be(s *Self) {
	if p != nil {
		s.Addresses, s.Uplink, s.UplinkMTU, s.UplinkMAC = p.Addresses, p.id, p.MTU, p.mac
	}
}

// AttachOwn attaches the node port. Asking again for the same one changes
// nothing; asking for another one replaces it.
func (n *Node) AttachOwn(r PortRequest) (PortStatus, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.checkOwn(&r); err != nil {
		return PortStatus{}, fmt.Errorf("attach the node port: %w", err)
	}
	if p := n.own; p != nil {
		if p.NetNS == r.NetNS && p.Interface == r.Interface && p.MTU == r.MTU {
			return p.PortStatus, nil
		}
		n.unplugOwn()
	}
	if err := n.attachOwn(r); err != nil {
		return PortStatus{}, fmt.Errorf("attach the node port: %w", err)
	}
	if err := n.save(); err != nil {
		n.unplugOwn()
		return PortStatus{}, fmt.Errorf("attach the node port: %w", err)
	}
	n.log.Info("node port attached", "netns", r.NetNS, "addresses", n.own.Addresses)
	return n.own.PortStatus, nil
}

// checkOwn finds what is wrong with a request and fills in what was left out.
// Called with mu held.
func (n *Node) checkOwn(r *PortRequest) error {
	pod := PodRequest{PortSpec: PortSpec{NetNS: r.NetNS, Interface: r.Interface, MTU: r.MTU}}
	err := pod.check(runtime.GOOS)
	switch {
	case runtime.GOOS != "linux":
		err = fmt.Errorf("it needs Linux; this is %s", runtime.GOOS)
	case err != nil:
	case n.link.kind() == vswitch.PortUplink:
		err = fmt.Errorf("in mode %s the node's addresses are the host's own, behind the uplink", modeDirect)
	case len(n.cfg.Addresses) == 0:
		err = errors.New("the node has no address; give it addresses in its configuration")
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	if len(n.pools) == 0 {
		return errors.New("this node has no pod range yet, and so no gateway; give it podCIDRs, or wait until it has joined the cluster")
	}
	if r.Interface = pod.Interface; r.MTU == 0 {
		r.MTU = n.podMTU()
	}
	return nil
}

// attachOwn opens the port, gives it the node's addresses in the tables, and
// sets it up. Called with mu held.
func (n *Node) attachOwn(r PortRequest) error {
	p := &ownPort{node: n.cfg.Name, PortStatus: PortStatus{NetNS: r.NetNS, Interface: r.Interface, MTU: r.MTU,
		Addresses: n.cfg.allAddresses()}}
	p.mac = MACOf(p.Addresses[0])
	p.MAC = macString(p.mac)
	err := inNamespace(p.NetNS, func() (err error) {
		p.port, err = openTAP(&PodStatus{PortSpec: PortSpec{Interface: p.Interface, MTU: p.MTU}})
		return err
	})
	if err != nil {
		return fmt.Errorf("interface %s in %s: %w", p.Interface, p.NetNS, err)
	}
	if p.id, err = n.sw.Attach(ownPortName, p.port); err != nil {
		p.port.Close()
		return err
	}
	n.own = p
	n.compiler.SetOwn(p.compiled())
	n.setSelf()
	if err := n.configureOwn(p); err != nil {
		n.unplugOwn()
		return err
	}
	n.moveHealth()
	return nil
}

// unplugOwn gives the node's addresses back to the switch, and takes the port
// out of it. Called with mu held.
func (n *Node) unplugOwn() {
	p := n.own
	n.own = nil
	n.moveHealth()
	n.compiler.DeleteOwn(p.compiled())
	n.setSelf()
	n.sw.Detach(p.id)
	p.port.Close()
	if err := releaseOwn(p); err != nil {
		n.log.Warn("what the node sends to services at its own addresses is lost", "netns", p.NetNS, "err", err)
	}
	for _, a := range p.Addresses {
		n.conns.DeleteByAddr(packet.AddrFrom(a))
	}
}

// DetachOwn takes the node port away: its addresses are the switch's again.
func (n *Node) DetachOwn() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.own == nil {
		return nil
	}
	n.unplugOwn()
	n.log.Info("node port detached")
	return n.save()
}

// restoreOwn attaches the port of the last run again. Called with mu held.
func (n *Node) restoreOwn(last *PortStatus) {
	if last == nil {
		return
	}
	r := PortRequest{NetNS: last.NetNS, Interface: last.Interface, MTU: last.MTU}
	err := n.checkOwn(&r)
	if err == nil {
		err = n.attachOwn(r)
	}
	if err != nil {
		n.log.Warn("the node port of the last run is not attached again", "err", err)
		return
	}
	n.log.Info("node port attached again", "netns", r.NetNS, "addresses", n.own.Addresses)
}

// tendOwn makes the port follow the node's ranges: they have its gateways.
// Called with mu held.
func (n *Node) tendOwn() {
	if n.own == nil {
		return
	}
	if err := n.configureOwn(n.own); err != nil {
		n.log.Error("the node port does not follow the node's ranges", "err", err)
	}
}

// ownStatus is the port as it is; nil without one. Called with mu held.
func (n *Node) ownStatus() *PortStatus {
	if n.own == nil {
		return nil
	}
	s := n.own.PortStatus
	s.Counters = counters(n.sw.Counters(n.own.id))
	return &s
}

// gatewaysFor are the gateways of the families that addresses have.
func (n *Node) gatewaysFor(addresses []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(n.gateways(), func(gw netip.Addr) bool {
		return !slices.ContainsFunc(addresses, func(a netip.Addr) bool { return a.Is4() == gw.Is4() })
	})
}
