//go:build !linux && !darwin && !windows

package agent

import (
	"fmt"

	"vswitch/vswitch/port"
)

// openPlainTAP is never reached: PodRequest.check knows what a system has.
func openPlainTAP(*PodStatus) (port.Port, error) {
	return nil, fmt.Errorf("kind %s does not exist on this system", PortPlainTAP)
}
