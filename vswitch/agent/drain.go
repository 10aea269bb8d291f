package agent

import (
	"context"
	"slices"
	"time"

	"vswitch/nat"
	"vswitch/vswitch/packet"
)

// young is how long ago, in seconds, a connection began that Drain waits for.
// One that is older lives long, and its client must be ready for its end.
const young = 3

// Drain waits until no TCP connection to a pod of this node is left that began a
// moment ago, or ctx ends. When no service chooses the pod any more, those were
// the last ones that it was chosen for: a process that does not finish what it
// has begun when it is told to end can be told then. Connections that live long
// are not waited for.
func (n *Node) Drain(ctx context.Context, namespace, name string) error {
	n.mu.Lock()
	var addrs []packet.Addr
	if p := n.pods[namespace+"/"+name]; p != nil {
		for _, ip := range p.IPs {
			addrs = append(addrs, packet.AddrFrom(ip))
		}
	}
	n.mu.Unlock()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		began := time.Now()
		if len(addrs) == 0 || !n.busy(addrs) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(wait, 4*time.Since(began))): // a large table takes a while to look through
		}
	}
}

// busy reports whether one of addrs answers a young connection.
func (n *Node) busy(addrs []packet.Addr) bool {
	now := n.sw.Seconds()
	for c := range n.conns.All {
		if c.Orig.Proto == packet.ProtoTCP && slices.Contains(addrs, c.Reply.Src) && now-c.Created <= young && open(c.State) {
			return true
		}
	}
	return false
}

// open reports whether a TCP connection in that state may still transport data.
func open(s nat.State) bool { return s != nat.TimeWait && s != nat.Closed }
