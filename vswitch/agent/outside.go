package agent

import (
	"errors"
	"fmt"
	"runtime"
	"slices"

	"vswitch/vswitch/port"
)

// outsidePortName is the outside port's name at the switch, in captures and tables.
const outsidePortName = "outside"

// outsidePort is the way of clients that are not of the cluster to this node,
// and back. It is not kept over a restart: whoever is out there attaches again.
type outsidePort struct {
	OutsideStatus
	port port.Port
	id   uint16
}

func (p *outsidePort) compiled() OutsidePort {
	return OutsidePort{Port: p.id, MAC: outsideMAC, Prefixes: p.Prefixes, MTU: p.MTU}
}

// outsideMAC is what frames to the outside are addressed to. Nobody looks.
var outsideMAC = [6]byte{2, 'o', 'u', 't', 0, 1}

// AttachOutside attaches the outside port, or confirms or replaces it.
func (n *Node) AttachOutside(r OutsideRequest) (OutsideStatus, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.checkOutside(&r); err != nil {
		return OutsideStatus{}, fmt.Errorf("attach the outside port: %w", err)
	}
	if p := n.outside; p != nil {
		if p.Socket == r.Socket && p.Remote == r.Remote && p.MTU == r.MTU && slices.Equal(p.Prefixes, r.Prefixes) {
			p.GatewayMAC = macString(n.gatewayMAC())
			return p.OutsideStatus, nil
		}
		n.unplugOutside()
	}
	p := &outsidePort{OutsideStatus: OutsideStatus{OutsideRequest: r, GatewayMAC: macString(n.gatewayMAC())}}
	var err error
	if p.port, err = opened(port.OpenDgram(port.DgramConfig{Path: r.Socket, Remote: r.Remote, MTU: r.MTU})); err != nil {
		return OutsideStatus{}, fmt.Errorf("attach the outside port: %w", err)
	}
	if p.id, err = n.sw.Attach(outsidePortName, p.port); err != nil {
		p.port.Close()
		return OutsideStatus{}, err
	}
	n.outside = p
	n.compiler.SetOutside(p.compiled())
	n.sw.Publish(n.compiler.Publish())
	n.log.Info("outside port attached", "prefixes", r.Prefixes)
	return p.OutsideStatus, nil
}

// checkOutside finds what is wrong with a request and fills in what was left
// out. Called with mu held.
func (n *Node) checkOutside(r *OutsideRequest) error {
	pod := PodRequest{PortSpec: PortSpec{Kind: PortDgram, Socket: r.Socket, Remote: r.Remote, MTU: r.MTU}}
	err := pod.check(runtime.GOOS)
	switch {
	case err != nil:
	case r.Remote == "":
		err = errors.New("remote is needed: the path of the socket out there")
	case len(r.Prefixes) == 0:
		err = errors.New("prefixes are needed: the ranges of those out there")
	}
	for _, p := range r.Prefixes {
		ours := slices.ContainsFunc(slices.Concat(n.cfg.ClusterCIDRs, n.cfg.NodeCIDRs, n.ranges()), p.Overlaps)
		if ours || !p.IsValid() || slices.ContainsFunc(n.cfg.allAddresses(), p.Contains) {
			err = fmt.Errorf("prefix %s is no range outside of the cluster", p)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	if len(n.pools) == 0 {
		return errors.New("this node has no pod range yet, and so no gateway; wait until it has joined the cluster")
	}
	r.Socket, r.Remote = pod.Socket, pod.Remote
	if r.MTU == 0 {
		r.MTU = n.podMTU()
	}
	for i, p := range r.Prefixes {
		r.Prefixes[i] = p.Masked()
	}
	return nil
}

// unplugOutside takes the outside port away. Called with mu held.
func (n *Node) unplugOutside() {
	p := n.outside
	n.outside = nil
	n.compiler.DeleteOutside(p.compiled())
	n.sw.Publish(n.compiler.Publish())
	n.sw.Detach(p.id)
	p.port.Close()
}

// DetachOutside takes the outside port away.
func (n *Node) DetachOutside() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.outside != nil {
		n.unplugOutside()
	}
}
