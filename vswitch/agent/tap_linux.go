package agent

import (
	"fmt"

	"vswitch/vswitch/netns"
	"vswitch/vswitch/port"
)

// inNamespace runs f in the pod's network namespace.
func inNamespace(path string, f func() error) error { return netns.Do(path, f) }

// openTAP creates or finds again the pod's TAP. It outlives this process, so
// that a pod keeps its interface while its node restarts.
func openTAP(p *PodStatus) (port.Port, error) {
	return opened(port.OpenTAP(port.TAPConfig{Name: p.Interface, MTU: p.MTU, Persist: true}))
}

// configure gives the pod's interface its addresses and routes, and sets it up.
// A machine does that itself.
func (n *Node) configure(p *attachedPod) error {
	if p.NetNS == "" {
		return nil
	}
	link := netns.Link{Name: p.Interface, MAC: p.mac, MTU: p.MTU, Addrs: n.onLink(p.IPs), Gateways: p.Gateways, TxQueueLen: 2000}
	if p.Kind == PortTUN {
		link.MAC = [6]byte{}
	} else if p.MTU <= 1500 {
		// One superpacket of the pod is then one send of the overlay.
		link.GSOMaxSegs, link.GSOMaxSize = 44, 61600
	}
	if err := netns.Do(p.NetNS, func() error { return netns.Configure(link) }); err != nil {
		return fmt.Errorf("interface %s in %s: %w", p.Interface, p.NetNS, err)
	}
	return nil
}

// configureOwn gives the node port's interface the node's addresses, none of
// them with a network around it, and a way to all others by the gateway. What
// the node says to services at its own addresses goes that way, too.
func (n *Node) configureOwn(p *ownPort) error {
	link := netns.Link{Name: p.Interface, MAC: p.mac, MTU: p.MTU, Gateways: n.gatewaysFor(p.Addresses), TxQueueLen: 2000}
	if p.MTU <= 1500 {
		link.GSOMaxSegs, link.GSOMaxSize = 44, 61600
	}
	for _, a := range p.Addresses {
		link.Addrs = append(link.Addrs, host(a))
	}
	if err := netns.Do(p.NetNS, func() error { return netns.Configure(link) }); err != nil {
		return fmt.Errorf("interface %s in %s: %w", p.Interface, p.NetNS, err)
	}
	p.diversion = nil // its route may have gone with the interface's
	n.divertOwn()
	return nil
}
