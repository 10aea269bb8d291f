package agent

import (
	"fmt"
	"net/netip"

	"vswitch/vswitch/netns"
	"vswitch/vswitch/port"
)

// openPort creates or finds again the pod's TAP in its namespace and gives it
// the pod's addresses. The TAP outlives this process, so that a pod keeps its
// interface while its node restarts.
func (n *Node) openPort(p *PodStatus, mac [6]byte) (port.Port, error) {
	var tap *port.TAP
	err := netns.Do(p.NetNS, func() (err error) {
		if tap, err = port.OpenTAP(port.TAPConfig{Name: p.Interface, MTU: p.MTU, Persist: true}); err != nil {
			return err
		}
		link := netns.Link{Name: p.Interface, MAC: mac, MTU: p.MTU, Gateways: p.Gateways, TxQueueLen: 2000}
		if p.MTU <= 1500 {
			// One superpacket of the pod is then one send of the overlay.
			link.GSOMaxSegs, link.GSOMaxSize = 44, 61600
		}
		for i, ip := range p.IPs {
			link.Addrs = append(link.Addrs, netip.PrefixFrom(ip, n.pools[i].cidr.Bits()))
		}
		return netns.Configure(link)
	})
	if err != nil {
		if tap != nil {
			tap.Close()
		}
		return nil, fmt.Errorf("interface %s in %s: %w", p.Interface, p.NetNS, err)
	}
	return tap, nil
}
