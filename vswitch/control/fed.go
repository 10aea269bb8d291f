package control

import "vswitch/vswitch/cluster"

// forNodes returns what nodes are told of an object, nil for nothing.
func forNodes(o cluster.Object) cluster.Object {
	switch v := o.(type) {
	case *cluster.Namespace:
		return &cluster.Namespace{Meta: identity(&v.Meta), IsolatesIngress: v.IsolatesIngress}
	case *cluster.Node:
		return &cluster.Node{Meta: identity(&v.Meta), Addresses: v.Addresses, ExtraAddresses: v.ExtraAddresses}
	case *cluster.Pod:
		return toldPod(v)
	case *cluster.Service:
		out := cluster.Clone(v)
		out.Metadata().Manifest = nil // for people, not for the data plane
		return out
	case *cluster.EndpointSlice:
		out := *v
		out.Manifest, out.Annotations, out.Owner, out.OwnerUID = nil, nil, cluster.Ref{}, "" // as little
		return &out
	case *cluster.NetworkPolicy, *cluster.ClusterNetworkPolicy:
		out := cluster.Clone(v)
		*out.Metadata() = identity(v.Metadata())
		return out
	}
	return nil
}

// identity is what all objects are told with: who they are, and their labels.
func identity(m *cluster.Meta) cluster.Meta {
	return cluster.Meta{Namespace: m.Namespace, Name: m.Name, UID: m.UID, Labels: m.Labels}
}

// toldPod leaves out all that changes with a pod's status but its end, after which
// it has no addresses. Who has which, nodes tell each other.
func toldPod(p *cluster.Pod) *cluster.Pod {
	out := &cluster.Pod{Meta: identity(&p.Meta), Node: p.Node, HostNetwork: p.HostNetwork,
		InitContainers: toldPorts(p.InitContainers), Containers: toldPorts(p.Containers)}
	out.Deleted = p.Deleted
	if p.Ended() {
		out.Phase = p.Phase
	}
	return out
}

// toldPorts returns the containers that have ports, with nothing else.
func toldPorts(list []cluster.Container) (out []cluster.Container) {
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
