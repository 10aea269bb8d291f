package lab

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"vswitch/vswitch/cluster"
)

// The supervisor makes what runs follow the store: it starts and ends nodes and
// pods, and puts what it sees of them back.

// reconcile makes processes of what is in the store.
func (s *supervisor) reconcile() {
	if s.ctx.Err() != nil {
		return
	}
	state := s.store.State()
	for n := range state.Nodes.All() {
		if s.node(n.Name) == nil {
			s.startNode(n.Name)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		if state.Node(n.name) == nil {
			n.stop()
		}
	}
	for spec := range state.Pods.All() {
		p := s.pods[spec.Key()]
		switch {
		case p == nil && !spec.Deleted.IsZero():
			s.forget(spec)
		case p == nil && spec.Node != "" && s.nodeLocked(spec.Node) != nil:
			s.startPod(spec)
		case p != nil && (p.spec.UID != spec.UID || !spec.Deleted.IsZero()):
			p.leave(state)
		}
	}
	for key, p := range s.pods {
		if state.Pod(key) == nil {
			p.leave(state)
		}
	}
}

// startPod is called with mu held.
func (s *supervisor) startPod(spec *cluster.Pod) {
	p := newPod(s.ctx, s, spec)
	s.pods[spec.Key()] = p
	go func() {
		p.run()
		<-p.ctx.Done() // one that ended by itself keeps its logs and its place
		s.mu.Lock()
		delete(s.pods, spec.Key())
		s.mu.Unlock()
		os.RemoveAll(p.dir)
		s.log.Info("pod is gone", "pod", spec.Key().String())
		s.forget(spec)
		s.poke()
	}()
}

// forget says that nothing of a pod is left.
func (s *supervisor) forget(spec *cluster.Pod) {
	err := s.store.Update(cluster.Local, func(tx *cluster.Txn) error {
		tx.Delete(cluster.RefOf(spec))
		return nil
	})
	if err = errors.Join(err, s.control.PodGone(spec.Key(), spec.UID)); err != nil {
		s.log.Error("pod cannot be forgotten", "pod", spec.Key().String(), "err", err)
	}
}

// startNode adds the process of a node.
func (s *supervisor) startNode(name string) {
	n, err := newNode(context.WithoutCancel(s.ctx), s, name)
	if err != nil {
		s.log.Error("node cannot start", "node", name, "err", err)
		s.store.Update(cluster.Local, func(tx *cluster.Txn) error {
			tx.Put(&cluster.Node{Meta: cluster.Meta{Name: name}, Reason: err.Error()})
			return nil
		})
		return
	}
	s.mu.Lock()
	s.nodes = append(s.nodes, n)
	s.mu.Unlock()
	go func() {
		n.run()
		s.mu.Lock()
		s.nodes = slices.DeleteFunc(s.nodes, func(x *node) bool { return x == n })
		s.mu.Unlock()
		s.outside.forget(n.name)
		os.RemoveAll(n.dir)
		s.poke()
	}()
}

// poke asks for a reconcile.
func (s *supervisor) poke() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// node returns a node's process, or nil.
func (s *supervisor) node(name string) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodeLocked(name)
}

func (s *supervisor) nodeLocked(name string) *node {
	if i := slices.IndexFunc(s.nodes, func(n *node) bool { return n.name == name }); i >= 0 {
		return s.nodes[i]
	}
	return nil
}

// pod returns a pod that has a process, or had one.
func (s *supervisor) pod(namespace, name string) (*pod, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := cluster.Key{Namespace: namespace, Name: name}
	if p := s.pods[key]; p != nil {
		return p, nil
	}
	if s.store.State().Pod(key) != nil {
		return nil, failure(ErrConflict, "pod %s is not on a node yet", key)
	}
	return nil, failure(ErrNotFound, "there is no pod %s", key)
}

// forgetOthers makes the node forget pods that are none of the cluster any more.
func (n *node) forgetOthers(s *supervisor) {
	ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
	defer cancel()
	known, err := n.client.Pods(ctx)
	if err != nil {
		return
	}
	for _, k := range known {
		key := cluster.Key{Namespace: k.Namespace, Name: k.Name}
		s.mu.Lock()
		p := s.pods[key]
		s.mu.Unlock()
		if k.Node == n.name && (p == nil || p.spec.UID != k.UID) {
			n.detach(key)
		}
	}
}

// reportPod and reportNode put what was seen into the store.
func (s *supervisor) reportPod(p *pod, seen *cluster.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pods[p.key()] != p {
		return
	}
	s.store.Update(cluster.Local, func(tx *cluster.Txn) error {
		tx.Put(seen)
		return nil
	})
}

func (s *supervisor) reportNode(seen *cluster.Node) {
	s.store.Update(cluster.Local, func(tx *cluster.Txn) error {
		// What is no longer wanted must not come back by being seen.
		if tx.State().Node(seen.Name) != nil {
			tx.Put(seen)
		}
		return nil
	})
}
