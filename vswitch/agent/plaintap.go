//go:build linux || darwin || windows

package agent

import "vswitch/vswitch/port"

// openPlainTAP opens a TAP without offloads. It goes with this process.
func openPlainTAP(p *PodStatus) (port.Port, error) {
	return opened(port.OpenWater(port.WaterConfig{Name: p.Interface, MTU: p.MTU}))
}
