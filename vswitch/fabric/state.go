package fabric

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/port"
)

// FromState makes the cluster that a State describes, at rest: all its nodes,
// ready or not, with their ranges and addresses, and the pods that live on one
// of them with theirs, each behind a pipe whose other end is Pod.End. A pod
// without a node or an address, one that has ended and one in its node's own
// network have no port. An address outside of its node's ranges is reached all
// the same. Nodes serve the State's services and enforce its policies. Config.Nodes
// is not used; the fabric does not follow the State.
func FromState(s *cluster.State, cfg Config) (*Fabric, error) {
	f := empty(cfg)
	if err := f.fill(s); err != nil {
		f.Close()
		return nil, err
	}
	none := cluster.State{}
	f.Follow(none.Diff(s))
	return f, nil
}

func (f *Fabric) fill(s *cluster.State) error {
	f.used = map[netip.Addr]bool{}
	pods := map[string][]*cluster.Pod{} // by node
	for p := range s.Pods.All() {
		if len(p.IPs) > 0 && !p.HostNetwork && !p.Ended() {
			pods[p.Node] = append(pods[p.Node], p)
			for _, ip := range p.IPs {
				f.used[ip] = true
			}
		}
	}
	for o := range s.Nodes.All() {
		n := &Node{Name: o.Name, PodCIDRs: o.PodCIDRs, Address: slices.Concat(o.Addresses, o.ExtraAddresses)}
		for _, p := range pods[n.Name] {
			for _, ip := range p.IPs {
				if !n.rangeOf(ip).IsValid() {
					n.strays = append(n.strays, netip.PrefixFrom(ip, ip.BitLen()))
				}
			}
		}
		for _, r := range n.PodCIDRs {
			n.next = append(n.next, agent.Gateway(r).Next())
		}
		if err := f.join(n); err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
		for _, p := range pods[n.Name] {
			if err := n.place(p); err != nil {
				return fmt.Errorf("pod %s: %w", p.Key(), err)
			}
		}
	}
	return nil
}

// rangeOf returns the node's range that holds a, or the zero Prefix.
func (n *Node) rangeOf(a netip.Addr) netip.Prefix {
	for _, r := range n.PodCIDRs {
		if r.Contains(a) {
			return r
		}
	}
	return netip.Prefix{}
}

// place gives a pod of a State its port, without publishing it.
func (n *Node) place(o *cluster.Pod) (err error) {
	p := &Pod{Node: n, Name: o.Key().String(), MAC: agent.MACOf(o.IPs[0]), MTU: n.fabric.cfg.PodMTU}
	for _, ip := range o.IPs {
		bits := ip.BitLen()
		if r := n.rangeOf(ip); r.IsValid() {
			bits = r.Bits()
			p.Gateways = append(p.Gateways, agent.Gateway(r))
		}
		p.IPs = append(p.IPs, netip.PrefixFrom(ip, bits))
	}
	near, far := port.Pipe(p.MTU)
	p.End = far
	if p.ID, err = n.Switch.Attach(p.Name, near); err != nil {
		return err
	}
	n.compiler.SetPod(p.local())
	n.fabric.Pods = append(n.fabric.Pods, p)
	return nil
}

// Trace asks a node what would become of a packet; errors wrap
// agent.ErrBadRequest.
func (f *Fabric) Trace(_ context.Context, node string, r agent.TraceRequest) (agent.TraceResult, error) {
	n := f.Node(node)
	if n == nil {
		return agent.TraceResult{}, fmt.Errorf("%w: there is no node %s", agent.ErrBadRequest, node)
	}
	return agent.Tracer{Switch: n.Switch, PodCIDRs: n.PodCIDRs}.Trace(r)
}
