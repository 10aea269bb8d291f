//go:build !linux

package agent

import (
	"fmt"

	"vswitch/vswitch/port"
)

// inNamespace runs f where the system has its only network.
func inNamespace(_ string, f func() error) error { return f() }

// openTAP is never reached: PodRequest.check knows what a system has.
func openTAP(*PodStatus) (port.Port, error) {
	return nil, fmt.Errorf("kind %s needs Linux", PortTAP)
}

// configure does nothing: addresses and routes of a device are its user's work.
func (n *Node) configure(*attachedPod) error { return nil }

// configureOwn is never reached: checkOwn knows what a system has.
func (n *Node) configureOwn(*ownPort) error { return nil }
