package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"

	"vswitch/nat"
	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// Errors of attaching a pod.
var (
	// ErrConflict: another pod of that name, or with that address, is attached.
	ErrConflict = errors.New("conflict")
	// ErrBadRequest: the request cannot be understood.
	ErrBadRequest = errors.New("bad request")
)

// attachedPod is a pod of this node and its port.
type attachedPod struct {
	PodStatus
	port port.Port
	id   uint16
	mac  [6]byte
}

func (p *attachedPod) local() LocalPod {
	return LocalPod{Port: p.id, Name: p.Namespace + "/" + p.Name, MAC: p.mac, IPs: p.IPs, MTU: p.MTU}
}

// AttachPod gives a pod its port and addresses. Its port forwards nothing
// before the pod is in the published tables. Asking again for an attached pod
// changes nothing and returns what it has. On a node that follows a feed it waits
// until the feed has told about the pod, for a while.
func (n *Node) AttachPod(ctx context.Context, r PodRequest) (PodStatus, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.checkPod(&r); err != nil {
		return PodStatus{}, err
	}
	if old := n.pods[r.Namespace+"/"+r.Name]; old == nil || !old.same(&r) && !old.Configured {
		n.mu.Unlock()
		err := n.awaitTold(ctx, &r)
		n.mu.Lock()
		if err != nil {
			return PodStatus{}, fmt.Errorf("attach pod %s/%s: %w", r.Namespace, r.Name, err)
		}
	}
	return n.attachPod(r, false)
}

// checkPod finds what is wrong with a request and fills in what was left out.
// Called with mu held.
func (n *Node) checkPod(r *PodRequest) error {
	if r.Namespace == "" || r.Name == "" {
		return fmt.Errorf("%w: namespace and name are needed", ErrBadRequest)
	}
	if err := r.check(runtime.GOOS); err != nil {
		return fmt.Errorf("attach pod %s/%s: %w: %w", r.Namespace, r.Name, ErrBadRequest, err)
	}
	if r.MTU == 0 {
		r.MTU = n.podMTU()
	}
	return nil
}

// attachPod is AttachPod with mu held. A configured pod is not of the API.
func (n *Node) attachPod(r PodRequest, configured bool) (PodStatus, error) {
	if err := n.checkPod(&r); err != nil {
		return PodStatus{}, err
	}
	name := r.Namespace + "/" + r.Name
	if old := n.pods[name]; old != nil {
		if old.same(&r) {
			return old.PodStatus, nil
		}
		if old.Configured {
			return PodStatus{}, fmt.Errorf("attach pod %s: %w: the node's configuration has a port of that name", name, ErrConflict)
		}
		// A new pod under an old name: the old one is gone, or would be told so.
		n.detach(old)
	}
	if n.refuse != "" {
		return PodStatus{}, fmt.Errorf("attach pod %s: %s", name, n.refuse)
	}
	ips, err := n.addresses(name, r.IPs)
	if err != nil {
		return PodStatus{}, fmt.Errorf("attach pod %s: %w", name, err)
	}
	p := &attachedPod{PodStatus: PodStatus{
		Namespace: r.Namespace, Name: r.Name, UID: r.UID, Labels: r.Labels, Node: n.cfg.Name, IPs: ips,
		PortSpec: r.PortSpec, Gateways: n.gateways(), Configured: configured,
	}}
	if err := n.attach(p); err != nil {
		n.free(ips)
		return PodStatus{}, fmt.Errorf("attach pod %s: %w", name, err)
	}
	n.announce()
	if err := n.save(); err != nil {
		n.detach(p)
		return PodStatus{}, fmt.Errorf("attach pod %s: %w", name, err)
	}
	n.log.Info("pod attached", "pod", name, "ips", ips)
	return p.PodStatus, nil
}

// attach opens the pod's port, makes it part of the tables with what policy says
// of it, and only then sets it up: nothing that the pod sends comes before its
// place in the world. Called with mu held.
func (n *Node) attach(p *attachedPod) (err error) {
	if p.MAC == "" {
		p.MAC = macString(MACOf(p.IPs[0]))
	}
	if p.mac, err = parseMAC(p.MAC); err != nil {
		return err
	}
	if err := n.claim(p); err != nil {
		return err
	}
	if p.port, err = n.openPort(p); err != nil {
		return err
	}
	name := p.Namespace + "/" + p.Name
	if p.id, err = n.sw.Attach(name, p.port); err != nil {
		p.port.Close()
		return err
	}
	n.compiler.SetPod(p.local())
	n.vouch(p)
	n.refresh(false)
	n.sw.Publish(n.compiler.Publish())
	if err := n.configure(p); err != nil {
		n.unplug(p)
		return err
	}
	n.pods[name] = p
	return nil
}

// unplug takes a pod's port out of the tables and the switch, and closes it.
func (n *Node) unplug(p *attachedPod) {
	n.compiler.DeletePod(p.local())
	n.disown(p)
	n.refresh(false)
	n.sw.Publish(n.compiler.Publish())
	n.sw.Detach(p.id)
	p.port.Close()
}

// DetachPod takes a pod away. Its addresses rest before somebody else gets them.
func (n *Node) DetachPod(namespace, name string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.pods[namespace+"/"+name]
	if p == nil {
		return nil
	}
	n.detach(p)
	n.announce()
	n.log.Info("pod detached", "pod", namespace+"/"+name)
	return n.save()
}

// detach is DetachPod with mu held, without saving.
func (n *Node) detach(p *attachedPod) {
	delete(n.pods, p.Namespace+"/"+p.Name) // first, or it would be vouched for again
	n.unplug(p)
	for _, ip := range p.IPs {
		n.prod(forgetPod(n.conns, packet.AddrFrom(ip)))
	}
	n.free(p.IPs)
}

// addresses takes the addresses asked for, or one of every range.
func (n *Node) addresses(owner string, want []netip.Addr) (ips []netip.Addr, err error) {
	defer func() {
		if err != nil {
			n.free(ips)
			ips = nil
		}
	}()
	if len(n.pools) == 0 {
		return nil, errors.New("this node has no pod range yet; give it podCIDRs, or wait until it has joined the cluster")
	}
	for _, a := range want {
		i := slices.IndexFunc(n.pools, func(p *pool) bool { return p.cidr.Contains(a) })
		if i < 0 {
			return ips, fmt.Errorf("address %s is outside this node's ranges %v", a, n.ranges())
		}
		if err := n.pools[i].take(a, owner); err != nil {
			return ips, err
		}
		ips = append(ips, a)
	}
	if len(want) > 0 {
		return ips, nil
	}
	for _, p := range n.pools {
		a, err := p.get(owner, time.Now(), time.Duration(n.cfg.PodReuseAfter))
		if err != nil {
			return ips, err
		}
		ips = append(ips, a)
	}
	return ips, nil
}

func (n *Node) free(ips []netip.Addr) {
	for _, a := range ips {
		for _, p := range n.pools {
			p.put(a, time.Now())
		}
	}
}

func (n *Node) gateways() (gws []netip.Addr) {
	for _, p := range n.pools {
		gws = append(gws, Gateway(p.cidr))
	}
	return gws
}

// restore attaches the pods of the last run again. Their interfaces persist in
// their namespaces; a pod whose namespace is gone is forgotten.
func (n *Node) restore(s state) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.pools {
		for _, r := range s.Released {
			if p.usable(r.Addr) {
				p.released = append(p.released, r)
			}
		}
	}
	for _, st := range s.Pods {
		name := st.Namespace + "/" + st.Name
		if st.Configured {
			n.leases[name] = st.IPs
			continue
		}
		p := &attachedPod{PodStatus: st}
		if p.Kind == "" { // as older versions wrote it
			p.Kind = PortTAP
		}
		ips, err := n.addresses(name, st.IPs)
		if err == nil {
			if err = n.attach(p); err != nil {
				n.free(ips)
			}
		}
		if err != nil {
			n.log.Warn("a pod of the last run is not attached again", "pod", name, "err", err)
			continue
		}
		n.log.Info("pod attached again", "pod", name, "ips", st.IPs)
	}
	n.restoreOwn(s.Own)
	n.announce()
}

// Pods lists the pods that the node knows, its own first.
func (n *Node) Pods() []PodStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	var own, others []PodStatus
	for _, p := range n.pods {
		s := p.PodStatus
		s.Counters = counters(n.sw.Counters(p.id))
		own = append(own, s)
	}
	for _, node := range n.gossip.Snapshot().Nodes {
		for _, p := range node.Pods {
			others = append(others, PodStatus{Namespace: p.Namespace, Name: p.Name, UID: p.UID, Labels: p.Labels, Node: node.Name, IPs: p.IPs})
		}
	}
	byName := func(a, b PodStatus) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	}
	slices.SortFunc(own, byName)
	slices.SortFunc(others, byName)
	return append(own, others...)
}

// Flows lists the tracked connections.
func (n *Node) Flows() []FlowStatus {
	names := n.names()
	now, tables := n.sw.Seconds(), n.sw.Tables()
	var out []FlowStatus
	n.conns.All(func(i nat.Info) bool {
		src, dst := i.Orig.Src.Netip(), i.Orig.Dst.Netip()
		f := FlowStatus{
			Proto:       packet.ProtoName(i.Orig.Proto),
			Source:      netip.AddrPortFrom(src, i.Orig.SrcPort),
			Destination: netip.AddrPortFrom(dst, i.Orig.DstPort),
			State:       i.State.String(),
			From:        names[src], To: names[dst],
			Age: now - i.Created, Idle: now - max(i.Seen[0], i.Seen[1]),
			Packets: i.Packets, Bytes: i.Bytes,
		}
		if front, match := tables.Services.Lookup(&i.Orig, true); match == nat.Matched {
			f.Service = front.Service.Name
		}
		if i.Flags&nat.DNAT != 0 {
			f.Backend = netip.AddrPortFrom(i.Reply.Src.Netip(), i.Reply.SrcPort)
			f.To = names[i.Reply.Src.Netip()]
		}
		if i.Service != 0 {
			f.Why = i.Why.String()
		}
		if i.Flags&nat.SNAT != 0 {
			f.Masqueraded = netip.AddrPortFrom(i.Reply.Dst.Netip(), i.Reply.DstPort)
		}
		for _, p := range tables.Peers {
			if i.Via != 0 && p != nil && p.ID == i.Via {
				f.Via = p.Name
			}
		}
		out = append(out, f)
		return true
	})
	slices.SortFunc(out, func(a, b FlowStatus) int {
		if c := a.Source.Compare(b.Source); c != 0 {
			return c
		}
		return a.Destination.Compare(b.Destination)
	})
	return out
}
