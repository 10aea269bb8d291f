package agent

import (
	"fmt"
	"net/netip"
	"time"

	"vswitch/overlay"
	"vswitch/overlay/gossip"
	"vswitch/vswitch"
	"vswitch/vswitch/port"
)

// link is the node's way to the other nodes: the VXLAN overlay, or in mode
// direct the uplink and the host's routes. The node calls it with its mu held,
// but for Close.
type link interface {
	port.Port
	// kind is that of its port; the port's name is overlay or uplink.
	kind() vswitch.PortKind
	// underlay is the node's address between nodes. Its port is 0 where there is
	// no VXLAN endpoint.
	underlay() netip.AddrPort
	// add makes a node a peer and returns its id, remove takes it back.
	add(n *gossip.Node) (uint16, error)
	remove(id uint16)
	// follow makes what is outside of the switch follow this node's ranges and
	// its peers. What cannot be done is kept as problems.
	follow(ranges []netip.Prefix, peers map[string]*peer)
	// via says where packets for a range of p leave to.
	via(p *peer, to netip.Prefix) string
	// traffic is what was exchanged with a peer; nil where that is not known.
	traffic(id uint16) *Counters
	// problems are sentences for the operator about what is wrong now.
	problems() []string
}

// startLink opens the link of the configured mode.
func (n *Node) startLink() error {
	var err error
	if n.cfg.Overlay.Mode == modeDirect {
		n.link, err = openDirect(&n.cfg, n.mac("vtep"), n.mac("host"))
	} else {
		n.link, err = openTunnel(&n.cfg)
	}
	if err != nil {
		n.link = nil // not an interface around nothing
		return err
	}
	if n.uplink, err = n.sw.Attach(linkName(n.link.kind()), n.link); err != nil {
		return err
	}
	n.compiler.SetOverlay(n.uplink, n.link.kind(), n.link.MTU())
	return nil
}

// linkName is the name of the link's port.
func linkName(kind vswitch.PortKind) string {
	if kind == vswitch.PortUplink {
		return "uplink"
	}
	return "overlay"
}

// mixed says that a node uses another mode than this one; empty if it does not.
func (n *Node) mixed(o *gossip.Node) string {
	direct := o.Underlay.Port() == 0
	if direct == (n.link.kind() == vswitch.PortUplink) {
		return ""
	}
	other := modeVXLAN
	if direct {
		other = modeDirect
	}
	return fmt.Sprintf("node %s is in mode %s and this node is not: no packets pass between them; give all nodes the same overlay.mode", o.Name, other)
}

// tendEvery is how often the node repairs what it needs of the system.
const tendEvery = 10 * time.Second

// tend repairs what others may have taken from the link, as a kernel drops routes
// with the interface that they leave by, and tries again what could not be had.
func (n *Node) tend() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.link.follow(n.ranges(), n.peers)
	n.divertOwn()
}

// tunnel is the VXLAN overlay as a link.
type tunnel struct{ *overlay.Link }

func openTunnel(cfg *Config) (link, error) {
	l, err := overlay.Listen(overlay.Config{
		Local: cfg.Overlay.Listen, VNI: cfg.Overlay.VNI, MTU: cfg.linkMTU(), Offload: cfg.Overlay.Offload,
	})
	if err != nil {
		return nil, fmt.Errorf("overlay: %w", err)
	}
	return tunnel{l}, nil
}

func (t tunnel) kind() vswitch.PortKind { return vswitch.PortOverlay }

func (t tunnel) underlay() netip.AddrPort { return t.LocalAddr() }

func (t tunnel) add(n *gossip.Node) (uint16, error) {
	return t.AddPeer(overlay.Peer{Name: n.Name, Addr: n.Underlay, SourcePorts: n.SourcePorts})
}

func (t tunnel) remove(id uint16) { t.RemovePeer(id) }

func (t tunnel) follow([]netip.Prefix, map[string]*peer) {}

func (t tunnel) via(p *peer, _ netip.Prefix) string { return p.Underlay.String() }

func (t tunnel) traffic(id uint16) *Counters {
	c, ok := t.PeerCounters(id)
	if !ok {
		return nil
	}
	return &Counters{RxPackets: c.RxPackets, RxBytes: c.RxBytes, TxPackets: c.TxPackets, TxBytes: c.TxBytes}
}

func (t tunnel) problems() []string { return nil }
