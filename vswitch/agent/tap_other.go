//go:build !linux

package agent

import (
	"errors"

	"vswitch/vswitch/port"
)

// openPort fails: pods' namespaces exist on Linux only.
func (n *Node) openPort(*PodStatus) (port.Port, error) {
	return nil, errors.New("network namespaces exist on Linux only; on this system use in-process pods (vswitch demo --pods netstack)")
}

// configure is never reached, as there is no port.
func (n *Node) configure(*PodStatus, [6]byte) error { return nil }
