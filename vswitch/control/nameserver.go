package control

import (
	"net/netip"
	"slices"
	"strings"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// The cluster's name server has the names that it has in Kubernetes' clusters, so
// that policies and programs that know those work: Service kube-system/kube-dns, at
// the tenth address of each range if that is free, and pods with the label
// k8s-app: kube-dns behind it. There is a pod on each node, which the node serves
// by itself (cluster.Pod.NodeServes), and each node prefers its own.
//
// Both come back when they are deleted. What somebody writes of that Service is
// taken over, whatever it changes: pods that start then find it.

var nameService, systemNamespace = cluster.NameService, cluster.NameService.Namespace

// NameServers are the addresses at which the cluster's name server is asked; none,
// if there is no such service.
func NameServers(s *cluster.State) []netip.Addr {
	if v := s.Service(nameService); v != nil {
		return v.ClusterIPs
	}
	return nil
}

func nameServerLabels() map[string]string { return map[string]string{"k8s-app": "kube-dns"} }

// nameServers makes what is missing of the name server, or takes away what is left
// of it if there is to be none.
func (s *step) nameServers() {
	own := s.tx.Own()
	if ns := own.Namespace(systemNamespace); !s.index.begun || ns != nil && !ns.Deleted.IsZero() {
		return
	}
	if !s.cfg.DNS || len(s.cfg.ServiceRanges()) == 0 { // or there is nowhere to ask
		for p := range own.Pods.In(systemNamespace) {
			if p.NodeServes != "" {
				s.endPod(p.Key())
			}
		}
		if v := own.Service(nameService); v != nil && system(v) {
			s.tx.Delete(cluster.RefOf(v))
		}
		return
	}
	if v := own.Service(nameService); v != nil {
		s.index.nameIPs = v.ClusterIPs
	} else {
		s.putNameService()
	}
	for n := range own.Nodes.All() {
		// The only address of a small range is for somebody else.
		if k := nameServerOf(n.Name); own.Pod(k) == nil && capacity(n) > 1 {
			s.putNameServer(k, n.Name)
		}
	}
}

// nameServerOf is the pod of a node's name server.
func nameServerOf(node string) cluster.Key {
	const most = 200 // bytes; who runs pods makes names of files of their names
	if len(node) > most {
		node = strings.TrimRight(node[:most], "-.") + "-" + encode(hash(node), 10)
	}
	return cluster.Key{Namespace: systemNamespace, Name: "dns-" + node}
}

// mute reports whether a pod cannot be what a service is for: the built-in server
// that stands in for a name server's image, as of the manifests of CoreDNS, speaks
// no DNS.
func mute(service cluster.Key, p *cluster.Pod) bool { return service == nameService && p.BuiltIn }

func (s *step) putNameServer(k cluster.Key, node string) {
	p := nameServer(cluster.Meta{Namespace: k.Namespace, Name: k.Name, Labels: nameServerLabels()}, node)
	s.create(&p.Meta)
	s.put(p)
}

// nameServer is the pod of a node's name server.
func nameServer(m cluster.Meta, node string) *cluster.Pod {
	p := &cluster.Pod{
		Meta: m, Node: node, NodeServes: cluster.ServeDNS, RestartPolicy: cluster.RestartAlways,
		Containers: []cluster.Container{{Name: "dns", Image: "vswitch", Ports: []cluster.ContainerPort{
			{Name: "dns", Port: 53, Protocol: packet.ProtoUDP}, {Name: "dns-tcp", Port: 53, Protocol: packet.ProtoTCP},
		}}},
	}
	clearStatus(p)
	return p
}

// putNameService makes the Service: with the addresses that it had, for pods know
// those, else with the tenth ones, or with any, if they are somebody's.
func (s *step) putNameService() {
	labels := nameServerLabels()
	labels["kubernetes.io/cluster-service"] = "true"
	v := &cluster.Service{
		Meta: cluster.Meta{Namespace: nameService.Namespace, Name: nameService.Name, Labels: labels},
		Type: cluster.ServiceClusterIP, Selector: nameServerLabels(), IPFamilyPolicy: cluster.PreferDualStack, Distribution: cluster.PreferSameNode,
		Ports: []cluster.ServicePort{
			{Name: "dns", Protocol: packet.ProtoUDP, Port: 53, TargetPort: 53}, {Name: "dns-tcp", Protocol: packet.ProtoTCP, Port: 53, TargetPort: 53},
		},
	}
	a := &applying{step: s}
	x := s.index
	x.claims.follow(s.tx.Own().Services)
	taken := func(ip netip.Addr) bool { return !x.claims.free(ip) }
	if v.ClusterIPs = x.nameIPs; len(v.ClusterIPs) == 0 || slices.ContainsFunc(v.ClusterIPs, taken) {
		v.ClusterIPs = nil
		for _, r := range s.cfg.ServiceRanges() {
			const tenth = 10 // as kubeadm has it
			v.ClusterIPs = append(v.ClusterIPs, addrAt(r.Addr(), tenth, 0))
		}
	}
	if slices.ContainsFunc(v.ClusterIPs, taken) {
		v.ClusterIPs = nil
	}
	done, f := a.complete(v, nil)
	if f != nil {
		s.cfg.Log.Error("there is no Service for DNS", "err", refusal(v, f))
		return
	}
	s.create(done.Metadata())
	s.put(done)
}

// system reports whether an object is the cluster's own, which nobody wrote.
func system(o cluster.Object) bool {
	switch o := o.(type) {
	case *cluster.Pod:
		return o.NodeServes != ""
	case *cluster.Service:
		return o.Key() == nameService && len(o.Manifest) == 0
	}
	return false
}
