package control

import (
	"reflect"

	"vswitch/vswitch/cluster"
)

// fed is a kind of object that nodes are told of.
type fed interface {
	// write adds the changes of the kind's objects to lines.
	write(l *lines, c *cluster.Changes) error
	// put makes those of o part of what is desired.
	put(tx *cluster.Txn, o *cluster.Objects)
	// delete takes the object away, if it is of this kind.
	delete(tx *cluster.Txn, r cluster.Ref)
}

// fedKinds are all kinds that nodes are told of.
var fedKinds = []fed{
	kindOf[cluster.Namespace, *cluster.Namespace]{cluster.KindNamespace,
		func(c *cluster.Changes) []cluster.Change[cluster.Namespace] { return c.Namespaces },
		func(o *cluster.Objects) *[]*cluster.Namespace { return &o.Namespaces },
		tellNamespace, (*cluster.Txn).PutNamespace, byName((*cluster.Txn).DeleteNamespace)},
	kindOf[cluster.Node, *cluster.Node]{cluster.KindNode,
		func(c *cluster.Changes) []cluster.Change[cluster.Node] { return c.Nodes },
		func(o *cluster.Objects) *[]*cluster.Node { return &o.Nodes },
		tellNode, (*cluster.Txn).PutNode, byName((*cluster.Txn).DeleteNode)},
	kindOf[cluster.Pod, *cluster.Pod]{cluster.KindPod,
		func(c *cluster.Changes) []cluster.Change[cluster.Pod] { return c.Pods },
		func(o *cluster.Objects) *[]*cluster.Pod { return &o.Pods },
		tellPod, (*cluster.Txn).PutPod, (*cluster.Txn).DeletePod},
	kindOf[cluster.Service, *cluster.Service]{cluster.KindService,
		func(c *cluster.Changes) []cluster.Change[cluster.Service] { return c.Services },
		func(o *cluster.Objects) *[]*cluster.Service { return &o.Services },
		tellService, (*cluster.Txn).PutService, (*cluster.Txn).DeleteService},
	kindOf[cluster.EndpointSlice, *cluster.EndpointSlice]{cluster.KindEndpointSlice,
		func(c *cluster.Changes) []cluster.Change[cluster.EndpointSlice] { return c.EndpointSlices },
		func(o *cluster.Objects) *[]*cluster.EndpointSlice { return &o.EndpointSlices },
		tellEndpointSlice, (*cluster.Txn).PutEndpointSlice, (*cluster.Txn).DeleteEndpointSlice},
	kindOf[cluster.NetworkPolicy, *cluster.NetworkPolicy]{cluster.KindNetworkPolicy,
		func(c *cluster.Changes) []cluster.Change[cluster.NetworkPolicy] { return c.NetworkPolicies },
		func(o *cluster.Objects) *[]*cluster.NetworkPolicy { return &o.NetworkPolicies },
		tellNetworkPolicy, (*cluster.Txn).PutNetworkPolicy, (*cluster.Txn).DeleteNetworkPolicy},
	kindOf[cluster.ClusterNetworkPolicy, *cluster.ClusterNetworkPolicy]{cluster.KindClusterNetworkPolicy,
		func(c *cluster.Changes) []cluster.Change[cluster.ClusterNetworkPolicy] {
			return c.ClusterNetworkPolicies
		},
		func(o *cluster.Objects) *[]*cluster.ClusterNetworkPolicy { return &o.ClusterNetworkPolicies },
		tellClusterNetworkPolicy, (*cluster.Txn).PutClusterNetworkPolicy, byName((*cluster.Txn).DeleteClusterNetworkPolicy)},
}

// keyed is a pointer to an object.
type keyed[T any] interface {
	*T
	Key() cluster.Key
}

// kindOf is the kind of the objects T.
type kindOf[T any, P keyed[T]] struct {
	kind    cluster.Kind
	changes func(*cluster.Changes) []cluster.Change[T]
	list    func(*cluster.Objects) *[]*T
	// tell returns what nodes are told of an object.
	tell   func(*T) *T
	putOne func(*cluster.Txn, *T)
	drop   func(*cluster.Txn, cluster.Key)
}

func byName(f func(*cluster.Txn, string)) func(*cluster.Txn, cluster.Key) {
	return func(tx *cluster.Txn, k cluster.Key) { f(tx, k.Name) }
}

func (k kindOf[T, P]) write(l *lines, c *cluster.Changes) error {
	for _, ch := range k.changes(c) {
		if ch.New == nil {
			l.next.Deleted = append(l.next.Deleted, cluster.Ref{Kind: k.kind, Key: P(ch.Old).Key()})
		} else {
			v := k.tell(ch.New)
			if ch.Old != nil && reflect.DeepEqual(k.tell(ch.Old), v) {
				continue // what changed is nothing that nodes go by
			}
			list := k.list(l.next.Objects)
			*list = append(*list, v)
		}
		if err := l.full(); err != nil {
			return err
		}
	}
	return nil
}

func (k kindOf[T, P]) put(tx *cluster.Txn, o *cluster.Objects) {
	for _, v := range *k.list(o) {
		k.putOne(tx, v)
	}
}

func (k kindOf[T, P]) delete(tx *cluster.Txn, r cluster.Ref) {
	if r.Kind == k.kind {
		k.drop(tx, r.Key)
	}
}

// identity is what all objects are told with: who they are, and their labels.
func identity(m *cluster.Meta) cluster.Meta {
	return cluster.Meta{Namespace: m.Namespace, Name: m.Name, UID: m.UID, Labels: m.Labels}
}

func tellNamespace(n *cluster.Namespace) *cluster.Namespace {
	return &cluster.Namespace{Meta: identity(&n.Meta), IsolatesIngress: n.IsolatesIngress}
}

func tellNode(n *cluster.Node) *cluster.Node {
	return &cluster.Node{Meta: identity(&n.Meta), Addresses: n.Addresses, ExtraAddresses: n.ExtraAddresses}
}

// tellPod leaves out all that changes with a pod's status but its end, after which
// it has no addresses. Who has which, nodes tell each other.
func tellPod(p *cluster.Pod) *cluster.Pod {
	out := &cluster.Pod{Meta: identity(&p.Meta), Node: p.Node, HostNetwork: p.HostNetwork,
		InitContainers: tellPorts(p.InitContainers), Containers: tellPorts(p.Containers)}
	out.Deleted = p.Deleted
	if p.Ended() {
		out.Phase = p.Phase
	}
	return out
}

// tellPorts returns the containers that have ports, with nothing else.
func tellPorts(list []cluster.Container) (out []cluster.Container) {
	for i := range list {
		c := &list[i]
		if len(c.Ports) == 0 {
			continue
		}
		told := cluster.Container{Name: c.Name, Sidecar: c.Sidecar}
		for _, p := range c.Ports {
			told.Ports = append(told.Ports, cluster.ContainerPort{Name: p.Name, Port: p.Port, Protocol: p.Protocol})
		}
		out = append(out, told)
	}
	return out
}

func tellService(v *cluster.Service) *cluster.Service {
	out := *v
	out.Manifest = nil // for people, not for the data plane
	return &out
}

func tellEndpointSlice(v *cluster.EndpointSlice) *cluster.EndpointSlice {
	out := *v
	out.Manifest = nil
	return &out
}

func tellNetworkPolicy(v *cluster.NetworkPolicy) *cluster.NetworkPolicy {
	out := *v
	out.Meta = identity(&v.Meta)
	return &out
}

func tellClusterNetworkPolicy(v *cluster.ClusterNetworkPolicy) *cluster.ClusterNetworkPolicy {
	out := *v
	out.Meta = identity(&v.Meta)
	return &out
}
