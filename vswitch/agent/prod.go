package agent

import (
	"context"
	"time"

	"vswitch/nat"
	"vswitch/vswitch"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// Who waits for a pod that is gone is told (vswitch.Switch.Prod) in two ways,
// because each node knows another half. The pod's own node knows at once, from
// whoever detaches it, and has all its connections. Other nodes hear that an
// endpoint left its service, also if its node died with it.

// Times of prodding.
const (
	// prodPause is between two lots, which bounds the rate: 12,800 a second.
	prodPause = vswitch.MaxProds * time.Second / 12800
	// reviewPause is the least time between two reviews of all connections; a
	// review that takes long waits for as long as makes it reviewShare.
	reviewPause = 100 * time.Millisecond
	reviewShare = 20
)

// prodAgain are the times after which a prod is repeated: it may have been lost,
// and Linux answers only one such packet of a socket in half a second
// (net.ipv4.tcp_invalid_ratelimit).
var prodAgain = [...]time.Duration{600 * time.Millisecond, 2 * time.Second}

// forgetPod ends all connections of a pod that is gone, and returns the other
// ends of those that may wait for it.
func forgetPod(conns *nat.Table, addr packet.Addr) (ends []vswitch.Prod) {
	conns.DeleteFunc(func(c *nat.Info) bool {
		server := c.Orig.Dst == addr || c.Reply.Src == addr
		client := c.Orig.Src == addr || c.Reply.Dst == addr
		if c.Orig.Proto == packet.ProtoTCP && open(c.State) && server != client {
			if server {
				ends = append(ends, vswitch.ProdClient(c))
			} else {
				ends = append(ends, vswitch.ProdServer(c))
			}
		}
		return server || client
	})
	return ends
}

// prod prods ends, now and again, in the background.
func (n *Node) prod(ends []vswitch.Prod) {
	if len(ends) == 0 {
		return
	}
	n.prods.Go(func() {
		n.sendProds(ends)
		began := time.Now()
		for _, at := range prodAgain {
			select {
			case <-n.over:
				return
			case <-time.After(time.Until(began.Add(at))):
				n.sendProds(ends)
			}
		}
	})
}

// sendProds prods ends, as fast as may be.
func (n *Node) sendProds(ends []vswitch.Prod) {
	for len(ends) > 0 {
		lot := min(len(ends), vswitch.MaxProds)
		n.sw.Prod(ends[:lot])
		if ends = ends[lot:]; len(ends) == 0 {
			return
		}
		select {
		case <-n.over:
			return
		case <-time.After(prodPause):
		}
	}
}

// lostEndpoints reports whether an endpoint, or a port of all, is in an old
// slice and not in the new one.
func lostEndpoints(c *cluster.Changes) bool {
	for _, ch := range c.EndpointSlices {
		if ch.Old != nil && lost(ch.Old, ch.New) {
			return true
		}
	}
	return false
}

func lost(old, now *cluster.EndpointSlice) bool {
	if now == nil {
		return len(old.Endpoints) > 0
	}
	ports := map[cluster.EndpointPort]bool{}
	for _, p := range now.Ports {
		ports[p] = true
	}
	for _, p := range old.Ports {
		if !ports[p] {
			return true
		}
	}
	there := map[string]bool{}
	for i := range now.Endpoints {
		for _, a := range now.Endpoints[i].Addresses {
			there[a.String()] = true
		}
	}
	for i := range old.Endpoints {
		for _, a := range old.Endpoints[i].Addresses {
			if !there[a.String()] {
				return true
			}
		}
	}
	return false
}

// reviewConnections prods the clients of connections whose backend left its
// service, each time that endpoints are lost, until ctx ends.
func (n *Node) reviewConnections(ctx context.Context) {
	var again <-chan time.Time
	left := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.lost:
			left = len(prodAgain)
		case <-again:
			left--
		}
		began := time.Now()
		ends := n.waiting()
		n.sendProds(ends)
		again = nil
		if len(ends) > 0 && left > 0 {
			again = time.After(prodAgain[0])
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(reviewPause, reviewShare*time.Since(began))):
		}
	}
}

// waiting returns the clients of TCP connections of which this node knows that
// their backend is gone.
func (n *Node) waiting() (ends []vswitch.Prod) {
	if n.conns.Len() == 0 {
		return nil
	}
	services := n.sw.Tables().Services
	for c := range n.conns.All {
		if c.Orig.Proto != packet.ProtoTCP || !open(c.State) || c.Service == 0 {
			continue
		}
		front, match := services.Lookup(&c.Orig, true)
		if match != nat.Matched {
			continue
		}
		fate := front.Service.Fate(c.Reply.Src, c.Reply.SrcPort)
		if c.Flags&nat.DNAT == 0 {
			fate = front.Service.FateOf(c.Backend) // it was passed on to another node
		}
		if fate == nat.Gone {
			ends = append(ends, vswitch.ProdClient(&c))
		}
	}
	return ends
}
