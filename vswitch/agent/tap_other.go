//go:build !linux

package agent

import (
	"errors"

	"vswitch/vswitch/port"
)

// openPort fails: pods' namespaces exist on Linux only.
func (n *Node) openPort(*PodStatus, [6]byte) (port.Port, error) {
	return nil, errors.New("network namespaces exist on Linux only; on this system use in-process pods (vswitch demo --pods netstack)")
}
