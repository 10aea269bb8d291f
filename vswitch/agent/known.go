package agent

import (
	"context"
	"fmt"
	"maps"
	"time"

	"vswitch/vswitch/cluster"
)

// What policy knows of pods comes from three sides: the feed tells their labels
// and ports, gossip the addresses of other nodes' pods, and the node itself those
// of its own. The store puts that together, and the node goes by it.
//
// A pod of this node is judged by what the feed says of it, so the node tells the
// store its addresses only when the feed has told about the pod: then every policy
// is known that was there before the pod. Until then its new connections are
// neither allowed nor refused, but silent. Ports of the configuration, of which
// the feed may never tell, have the labels that the configuration gives them.

// toldWithin bounds how long AttachPod waits for the feed.
const toldWithin = 5 * time.Second

// told returns what the feed says of a pod, or nil if it has not told yet, or
// tells of another pod of that name.
func (n *Node) told(p *attachedPod) *cluster.Pod {
	t := n.store.State().Pod(cluster.Key{Namespace: p.Namespace, Name: p.Name})
	if t == nil || t.Node != n.cfg.Name || p.UID != "" && t.UID != "" && t.UID != p.UID {
		return nil // what gossip says is of another node
	}
	return t
}

// awaitTold waits until the feed has told about the pod, for a while.
func (n *Node) awaitTold(ctx context.Context, r *PodRequest) error {
	if n.cfg.Control == "" {
		return nil
	}
	p := &attachedPod{PodStatus: PodStatus{Namespace: r.Namespace, Name: r.Name, UID: r.UID}}
	ctx, cancel := context.WithTimeout(ctx, toldWithin)
	defer cancel()
	for {
		_, changed := n.revisions.present()
		if n.told(p) != nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("nothing has been heard of it from %s, so that its policies are not known; apply it first", n.cfg.Control)
		}
	}
}

// vouch tells the store the addresses of a pod of this node, if the pod is known
// by its labels. Called with mu held.
func (n *Node) vouch(p *attachedPod) {
	if n.cfg.Control == "" || n.deaf {
		return
	}
	t := n.told(p)
	if t == nil && !p.Configured {
		return
	}
	seen := &cluster.Pod{Meta: cluster.Meta{Namespace: p.Namespace, Name: p.Name, UID: p.UID, Labels: p.Labels},
		Node: n.cfg.Name, IPs: p.IPs}
	if t != nil {
		// Should the feed withdraw the pod before the pod is gone, it is judged
		// as what it was.
		seen.Labels, seen.Containers, seen.InitContainers = t.Labels, t.Containers, t.InitContainers
	}
	n.tell(cluster.Local, func(tx *cluster.Txn) { tx.Put(seen) })
	if !maps.Equal(p.Labels, seen.Labels) {
		p.Labels, n.relabelled = seen.Labels, true
	}
}

// disown takes a pod's addresses back. Called with mu held.
func (n *Node) disown(p *attachedPod) {
	if n.cfg.Control != "" {
		n.tell(cluster.Local, func(tx *cluster.Txn) {
			tx.Delete(cluster.KindPod.Ref(cluster.Key{Namespace: p.Namespace, Name: p.Name}))
		})
	}
}

// tell changes what a source says.
func (n *Node) tell(s cluster.Source, change func(*cluster.Txn)) {
	_ = n.store.Update(s, func(tx *cluster.Txn) error { change(tx); return nil }) // it fails for unknown sources only
}

// vouchAll vouches for all pods of the node. Called with mu held.
func (n *Node) vouchAll() {
	for _, p := range n.pods {
		n.vouch(p)
	}
}

// vouchFor vouches for those pods of the node of which something is new. Called
// with mu held.
func (n *Node) vouchFor(c *cluster.Changes) {
	for _, ch := range c.Pods {
		if ch.New == nil {
			continue
		}
		if p := n.pods[ch.New.Key().String()]; p != nil {
			n.vouch(p)
		}
	}
}
