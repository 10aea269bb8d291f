package agent

import (
	"fmt"
	"net/netip"

	"vswitch/vswitch/netns"
	"vswitch/vswitch/port"
)

// openPort creates or finds again the pod's TAP in its namespace. The TAP
// outlives this process, so that a pod keeps its interface while its node
// restarts.
func (n *Node) openPort(p *PodStatus) (port.Port, error) {
	var tap *port.TAP
	err := netns.Do(p.NetNS, func() (err error) {
		tap, err = port.OpenTAP(port.TAPConfig{Name: p.Interface, MTU: p.MTU, Persist: true})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("interface %s in %s: %w", p.Interface, p.NetNS, err)
	}
	return tap, nil
}

// configure gives the pod's interface its addresses and routes, and sets it up.
func (n *Node) configure(p *PodStatus, mac [6]byte) error {
	link := netns.Link{Name: p.Interface, MAC: mac, MTU: p.MTU, Gateways: p.Gateways, TxQueueLen: 2000}
	if p.MTU <= 1500 {
		// One superpacket of the pod is then one send of the overlay.
		link.GSOMaxSegs, link.GSOMaxSize = 44, 61600
	}
	for _, ip := range p.IPs {
		for _, pool := range n.pools {
			if pool.cidr.Contains(ip) {
				link.Addrs = append(link.Addrs, netip.PrefixFrom(ip, pool.cidr.Bits()))
			}
		}
	}
	if err := netns.Do(p.NetNS, func() error { return netns.Configure(link) }); err != nil {
		return fmt.Errorf("interface %s in %s: %w", p.Interface, p.NetNS, err)
	}
	return nil
}
