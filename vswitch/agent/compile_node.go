package agent

import (
	"net/netip"

	"vswitch/vswitch"
	"vswitch/vswitch/packet"
)

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
