package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// world is a cluster as the oracle sees it: nothing but lists of objects.
type world struct {
	node            string // whose pods are asked about
	namespaces      []*cluster.Namespace
	nodes           []*cluster.Node
	pods            []*cluster.Pod
	policies        []*cluster.NetworkPolicy
	clusterPolicies []*cluster.ClusterNetworkPolicy
}

// question is a packet, asked about in one direction.
type question struct {
	dir      Direction
	from, to netip.Addr
	proto    uint8
	port     uint16
}

// answer is what is known of a verdict.
type answer struct {
	allowed, pending bool
	policy           string
}

// oracle answers as the API's text says, one policy after the other, with
// nothing prepared. It shares no code with the compiler.
func (w *world) oracle(q question) answer {
	own, other := q.from, q.to
	if q.dir == Ingress {
		own, other = q.to, q.from
	}
	pod, node := w.whose(own)
	if node != nil || pod == nil || w.node != "" && pod.Node != w.node {
		return answer{pending: true}
	}
	peerPod, peerNode := w.whose(other)
	if peerPod == pod {
		return answer{allowed: true}
	}
	if q.dir == Ingress && peerNode != nil && pod.Node == peerNode.Name {
		return answer{allowed: true}
	}
	o := &asked{w, q, pod, peerPod, peerNode, other}
	if a, decided := o.tier(cluster.TierAdmin); decided {
		return a
	}
	if a, decided := o.networkPolicies(); decided {
		return a
	}
	if a, decided := o.tier(cluster.TierBaseline); decided {
		return a
	}
	return answer{allowed: true}
}

// whose returns the pod or the node that an address belongs to.
func (w *world) whose(a netip.Addr) (*cluster.Pod, *cluster.Node) {
	var best *cluster.Node
	for _, n := range w.nodes {
		if (slices.Contains(n.Addresses, a) || slices.Contains(n.ExtraAddresses, a)) && (best == nil || n.Name < best.Name) {
			best = n
		}
	}
	if best != nil {
		return nil, best
	}
	var pod *cluster.Pod
	for _, p := range w.pods {
		if p.HostNetwork || p.Phase == cluster.PodSucceeded || p.Phase == cluster.PodFailed || !slices.Contains(p.IPs, a) {
			continue
		}
		switch {
		case pod == nil:
			pod = p
		case pod.Deleted.IsZero() != p.Deleted.IsZero():
			if p.Deleted.IsZero() {
				pod = p
			}
		case w.node != "" && (pod.Node == w.node) != (p.Node == w.node):
			if p.Node == w.node {
				pod = p
			}
		case p.Namespace+"/"+p.Name < pod.Namespace+"/"+pod.Name:
			pod = p
		}
	}
	return pod, nil
}

// asked is one question with what is known about it.
type asked struct {
	*world
	question
	pod, peerPod *cluster.Pod
	peerNode     *cluster.Node
	other        netip.Addr
}

func (o *asked) labelsOf(namespace string) map[string]string {
	labels := map[string]string{}
	for _, n := range o.namespaces {
		if n.Name == namespace {
			for k, v := range n.Labels {
				labels[k] = v
			}
		}
	}
	labels["kubernetes.io/metadata.name"] = namespace
	return labels
}

// tier asks the cluster-wide policies of a tier.
func (o *asked) tier(t cluster.PolicyTier) (answer, bool) {
	var list []*cluster.ClusterNetworkPolicy
	for _, p := range o.clusterPolicies {
		// One whose tier is not known counts as Admin.
		known := p.Tier == cluster.TierAdmin || p.Tier == cluster.TierBaseline
		if p.Tier == t || !known && t == cluster.TierAdmin {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b *cluster.ClusterNetworkPolicy) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Name, b.Name))
	})
	for _, p := range list {
		s := p.Subject
		if s.Nodes != nil || len(s.Blocks) > 0 || s.Namespaces == nil || !sane(s.Namespaces) || !sane(s.Pods) {
			continue // nobody is selected
		}
		if !holds(s.Namespaces, o.labelsOf(o.pod.Namespace)) || s.Pods != nil && !holds(s.Pods, o.pod.Labels) {
			continue
		}
		bad := p.Invalid != "" || p.Tier != cluster.TierAdmin && p.Tier != cluster.TierBaseline
		for _, r := range slices.Concat(p.Ingress, p.Egress) {
			action := r.Action == cluster.ActionAccept || r.Action == cluster.ActionDeny || r.Action == cluster.ActionPass
			bad = bad || !action || !saneRule(r, false)
		}
		if bad {
			return answer{policy: "ClusterNetworkPolicy " + p.Name}, true
		}
		rules := p.Egress
		if o.dir == Ingress {
			rules = p.Ingress
		}
		for i, r := range rules {
			if !o.ruleMatches(r, "") {
				continue
			}
			if r.Action == cluster.ActionPass {
				return answer{}, false
			}
			return answer{allowed: r.Action == cluster.ActionAccept, policy: "ClusterNetworkPolicy " + p.Name + " rule " + itoa(i)}, true
		}
	}
	return answer{}, false
}

// networkPolicies asks those that select the pod.
func (o *asked) networkPolicies() (answer, bool) {
	var isolating, allowing []string
	for _, p := range o.policies {
		selects := !sane(&p.Pods) || holds(&p.Pods, o.pod.Labels)
		if p.Namespace != o.pod.Namespace || !selects {
			continue
		}
		bad := p.Invalid != "" || !sane(&p.Pods)
		for _, r := range slices.Concat(p.Ingress, p.Egress) {
			bad = bad || r.Action != "" && r.Action != cluster.ActionAccept || !saneRule(r, true)
		}
		isolates, rules := p.IsolatesEgress, p.Egress
		if o.dir == Ingress {
			isolates, rules = p.IsolatesIngress, p.Ingress
		}
		if !isolates && !bad {
			continue
		}
		isolating = append(isolating, "NetworkPolicy "+p.Namespace+"/"+p.Name)
		for i, r := range rules {
			if !bad && o.ruleMatches(r, p.Namespace) {
				allowing = append(allowing, isolating[len(isolating)-1]+" rule "+itoa(i))
				break
			}
		}
	}
	if len(allowing) > 0 {
		return answer{allowed: true, policy: slices.Min(allowing)}, true
	}
	slices.Sort(isolating)
	for _, n := range o.namespaces {
		if n.Name == o.pod.Namespace && n.IsolatesIngress && o.dir == Ingress {
			isolating = append(isolating, "Namespace "+n.Name+" DefaultDeny")
		}
	}
	if len(isolating) > 0 {
		return answer{policy: strings.Join(isolating, ", ")}, true
	}
	return answer{}, false
}

func (o *asked) ruleMatches(r cluster.PolicyRule, namespace string) bool {
	peer := len(r.Peers) == 0
	for _, p := range r.Peers {
		peer = peer || o.peerMatches(p, namespace)
	}
	port := len(r.Ports) == 0
	for _, p := range r.Ports {
		port = port || o.portMatches(p)
	}
	return peer && port
}

func (o *asked) peerMatches(p cluster.PolicyPeer, namespace string) bool {
	for _, b := range p.Blocks {
		in := b.CIDR.Contains(o.other)
		for _, e := range b.Except {
			in = in && !e.Contains(o.other)
		}
		if in {
			return true
		}
	}
	switch {
	case len(p.Blocks) > 0:
		return false
	case p.Nodes != nil:
		return o.peerNode != nil && holds(p.Nodes, o.peerNode.Labels)
	case o.peerPod == nil:
		return false
	case p.Namespaces == nil:
		return o.peerPod.Namespace == namespace && holds(p.Pods, o.peerPod.Labels)
	}
	return holds(p.Namespaces, o.labelsOf(o.peerPod.Namespace)) && (p.Pods == nil || holds(p.Pods, o.peerPod.Labels))
}

func (o *asked) portMatches(p cluster.PolicyPort) bool {
	if o.proto != packet.ProtoTCP && o.proto != packet.ProtoUDP && o.proto != packet.ProtoSCTP {
		return false
	}
	if p.Protocol != 0 && p.Protocol != o.proto {
		return false
	}
	if p.Name == "" {
		return p.First == 0 || p.First <= o.port && o.port <= p.Last
	}
	receiver := o.pod
	if o.dir == Egress {
		receiver = o.peerPod
	}
	if receiver == nil {
		return false
	}
	for _, c := range receiver.Containers {
		for _, cp := range c.Ports {
			if cp.Name == p.Name && cp.Protocol == o.proto && cp.Port == o.port {
				return true
			}
		}
	}
	return false
}

// sane reports whether a selector can be understood.
func sane(s *cluster.Selector) bool {
	if s == nil {
		return true
	}
	for _, r := range s.Requirements {
		switch r.Operator {
		case "Exists", "DoesNotExist":
		case "In", "NotIn":
			if len(r.Values) == 0 {
				return false
			}
		default:
			return false
		}
	}
	return true
}

func saneRule(r cluster.PolicyRule, namespaced bool) bool {
	for _, p := range r.Peers {
		ways := 0
		if p.Namespaces != nil || p.Pods != nil {
			ways++
		}
		if p.Nodes != nil {
			ways++
		}
		if len(p.Blocks) > 0 {
			ways++
		}
		if ways != 1 || !sane(p.Namespaces) || !sane(p.Pods) || !sane(p.Nodes) || !namespaced && p.Pods != nil && p.Namespaces == nil {
			return false
		}
		for _, b := range p.Blocks {
			if !b.CIDR.IsValid() {
				return false
			}
			for _, e := range b.Except {
				if !e.IsValid() {
					return false
				}
			}
		}
	}
	for _, p := range r.Ports {
		if p.Protocol == 0 && p.Name == "" || p.Protocol == packet.ProtoICMP {
			return false
		}
		if p.Name == "" && p.First > 0 && p.First > p.Last {
			return false
		}
	}
	return true
}

// holds reports whether labels fulfil a selector.
func holds(s *cluster.Selector, labels map[string]string) bool {
	for _, r := range s.Requirements {
		value, has := labels[r.Key]
		among := false
		for _, v := range r.Values {
			among = among || has && v == value
		}
		ok := map[cluster.SelectorOp]bool{"In": among, "NotIn": !among, "Exists": has, "DoesNotExist": !has}[r.Operator]
		if !ok {
			return false
		}
	}
	return true
}
