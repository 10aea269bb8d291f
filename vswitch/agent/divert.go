package agent

import (
	"errors"
	"io/fs"

	"vswitch/vswitch/netns"
	"vswitch/vswitch/packet"
)

// portProtos are the protocols that have ports.
var portProtos = [...]uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP}

// diversion is what the node says to its own addresses and its switch answers:
// node ports, the whole range of them, and services that have such an address
// for an external IP, or a load balancer's. What is no service's there the switch
// sends back. While nobody has told which services there are, those that were
// there before this process are left alone. Called with mu held.
func (n *Node) diversion(p *ownPort) netns.Diversion {
	d := netns.Diversion{Dev: p.Interface, Gateways: n.gatewaysFor(p.Addresses), Keep: n.deaf}
	if r := n.cfg.Services.NodePorts; r.Last > 0 {
		for _, a := range n.cfg.Services.nodePortAddresses(p.Addresses) {
			for _, proto := range portProtos {
				d.To = append(d.To, netns.Destination{Addr: a, Proto: proto, First: r.First, Last: r.Last})
			}
		}
	}
	services := n.services.compiler.Services()
	for _, a := range p.Addresses {
		for proto, port := range services.At(a) {
			d.To = append(d.To, netns.Destination{Addr: a, Proto: proto, First: port, Last: port})
		}
	}
	return d
}

// divertOwn makes the diversion of the node port the one that is wanted. It asks
// nothing of the kernel if it is. What goes wrong is a problem until it goes
// right, and is tried again by tend. Called with mu held.
func (n *Node) divertOwn() {
	p := n.own
	if p == nil {
		return
	}
	d := n.diversion(p)
	if p.diversion != nil && p.diversion.Equal(&d) {
		return
	}
	p.diversion = nil
	err := netns.Do(p.NetNS, func() error { return netns.Divert(d) })
	if err == nil {
		p.diversion, p.undiverted = &d, ""
		return
	}
	text := "the node does not reach all services at its own addresses; it is tried again: " + err.Error()
	if p.undiverted != text {
		p.undiverted = text
		n.log.Warn("the node does not reach all services at its own addresses; it is tried again", "netns", p.NetNS, "err", err)
	}
}

// releaseOwn leaves the node's own packets to the kernel of its namespace, which
// may be gone.
func releaseOwn(p *ownPort) error {
	err := netns.Do(p.NetNS, func() error { return netns.Divert(netns.Diversion{}) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
