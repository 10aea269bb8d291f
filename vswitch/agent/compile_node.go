package agent

import (
	"net/netip"

	"vswitch/vswitch"
	"vswitch/vswitch/fib"
	"vswitch/vswitch/packet"
)

// OutsidePort is the port to who is not of the cluster, as the compiler sees it.
type OutsidePort struct {
	Port     uint16 // id at the switch
	MAC      [6]byte
	Prefixes []netip.Prefix // those that are out there
	MTU      int
}

// SetOutside adds the outside port.
func (c *Compiler) SetOutside(p OutsidePort) {
	c.setPort(p.Port, &vswitch.PortInfo{Kind: vswitch.PortOutside, Name: outsidePortName, MAC: p.MAC, MTU: uint16(p.MTU)})
	hop := &fib.Hop{Kind: fib.Outside, Port: p.Port, MTU: uint16(p.MTU), MAC: p.MAC, Name: outsidePortName}
	for _, prefix := range p.Prefixes {
		c.next.Routes = c.next.Routes.Insert(prefix, hop)
	}
}

// DeleteOutside removes the outside port.
func (c *Compiler) DeleteOutside(p OutsidePort) {
	for _, prefix := range p.Prefixes {
		if hop := c.next.Routes.Get(prefix); hop != nil && hop.Kind == fib.Outside && hop.Port == p.Port {
			c.next.Routes = c.next.Routes.Delete(prefix)
		}
	}
	c.setPort(p.Port, nil)
}

// OwnPort is the node port as the compiler sees it. The routes to it are those
// of Self.Addresses, with Self.Uplink.
type OwnPort struct {
	Port      uint16 // id at the switch
	Node      string
	MAC       [6]byte
	Addresses []netip.Addr
	MTU       int
}

// SetOwn adds the node port.
func (c *Compiler) SetOwn(p OwnPort) {
	info := &vswitch.PortInfo{Kind: vswitch.PortNode, Name: p.Node, MAC: p.MAC, MTU: uint16(p.MTU)}
	for _, a := range p.Addresses {
		info.Addrs = append(info.Addrs, packet.AddrFrom(a))
	}
	c.setPort(p.Port, info)
}

// DeleteOwn removes the node port. SetSelf gives its addresses to somebody else.
func (c *Compiler) DeleteOwn(p OwnPort) { c.setPort(p.Port, nil) }
