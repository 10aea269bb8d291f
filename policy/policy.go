package policy

import (
	"cmp"
	"slices"
	"strings"

	"vswitch/vswitch/cluster"
)

// policy is a NetworkPolicy or a ClusterNetworkPolicy, as one thing.
type policy struct {
	kind     string // as its users know it
	key      cluster.Key
	serial   uint64 // never given twice: the policy as it is now
	tier     tier
	priority int32
	// isolates tells the directions in which a NetworkPolicy isolates.
	isolates [2]bool
	rules    [2][]*rule
	// problems are why it cannot be followed, sentences. A policy with problems
	// has no rules, and denies all: it fails closed.
	problems []string
	subject  *selector // nil: it selects nobody
	users    [2]int    // drafts that have it; its rules have their peers then
	spec     any       // what it was made from
}

// rule is a rule of a policy in one direction.
type rule struct {
	policy *policy
	dir    Direction
	index  int // in the list of the policy
	spec   *cluster.PolicyRule
	action action
	peers  []*selector // while some draft has the policy
}

// String returns the policy's name for people: "NetworkPolicy x/allow-web".
func (p *policy) String() string { return p.kind + " " + p.key.String() }

// speaks reports whether the policy has a say about a direction of its pods.
func (p *policy) speaks(dir Direction) bool {
	if p.tier == network {
		return p.isolates[dir]
	}
	return len(p.problems) > 0 || len(p.rules[dir]) > 0
}

// comparePolicies orders policies as they have their say.
func comparePolicies(a, b *policy) int {
	return cmp.Or(cmp.Compare(a.tier, b.tier), cmp.Compare(a.priority, b.priority),
		strings.Compare(a.key.Namespace, b.key.Namespace), strings.Compare(a.key.Name, b.key.Name))
}

// fromNetworkPolicy returns the policy and how it selects its pods.
func fromNetworkPolicy(np *cluster.NetworkPolicy) (*policy, *selector) {
	p := &policy{kind: "NetworkPolicy", key: np.Key(), tier: network, spec: np}
	p.isolates = [2]bool{Egress: np.IsolatesEgress, Ingress: np.IsolatesIngress}
	subject := &selector{scoped: true, namespace: np.Namespace, labels: &np.Pods}
	if np.Invalid != "" {
		p.problems = append(p.problems, np.Invalid)
	}
	if bad := checkSelector(&np.Pods); bad != "" {
		p.problems = append(p.problems, "podSelector "+bad+"; so the policy selects all pods of its namespace")
		subject.labels = nil
	}
	p.setRules(np.Egress, np.Ingress)
	if len(p.problems) > 0 {
		p.isolates = [2]bool{true, true}
	}
	return p, subject
}

// fromClusterNetworkPolicy returns the policy and how it selects its pods; nil
// where that is not to be understood.
func fromClusterNetworkPolicy(cnp *cluster.ClusterNetworkPolicy) (*policy, *selector) {
	p := &policy{kind: "ClusterNetworkPolicy", key: cluster.Key{Name: cnp.Name}, priority: cnp.Priority, spec: cnp}
	if cnp.Invalid != "" {
		p.problems = append(p.problems, cnp.Invalid)
	}
	switch cnp.Tier {
	case cluster.TierAdmin:
	case cluster.TierBaseline:
		p.tier = baseline
	default:
		p.problems = append(p.problems, "tier "+quote(string(cnp.Tier))+" is not known; so the policy is taken for one of tier Admin")
	}
	subject := &selector{namespaces: cnp.Subject.Namespaces, labels: cnp.Subject.Pods}
	if bad := checkSubject(&cnp.Subject); bad != "" {
		p.problems = append(p.problems, "subject "+bad+"; so the policy selects no pods")
		subject = nil
	}
	p.setRules(cnp.Egress, cnp.Ingress)
	return p, subject
}

// setRules takes the rules of both directions, or finds what is wrong in them.
func (p *policy) setRules(egress, ingress []cluster.PolicyRule) {
	for dir, list := range [2][]cluster.PolicyRule{Egress: egress, Ingress: ingress} {
		for i := range list {
			r := &rule{policy: p, dir: Direction(dir), index: i, spec: &list[i]}
			var bad string
			if r.action, bad = p.checkRule(r.spec); bad != "" {
				p.problems = append(p.problems, Direction(dir).String()+" rule "+itoa(i)+" "+bad)
			}
			p.rules[dir] = append(p.rules[dir], r)
		}
	}
	if len(p.problems) > 0 {
		p.rules = [2][]*rule{}
	}
}

// peerSelector returns how a peer that is no block selects, to be looked up.
func (p *policy) peerSelector(peer *cluster.PolicyPeer) selector {
	switch {
	case peer.Nodes != nil:
		return selector{nodes: true, labels: peer.Nodes}
	case peer.Namespaces != nil:
		return selector{namespaces: peer.Namespaces, labels: peer.Pods}
	}
	return selector{scoped: true, namespace: p.key.Namespace, labels: peer.Pods}
}

// usesNames reports whether a rule has named ports.
func (r *rule) usesNames() bool {
	return slices.ContainsFunc(r.spec.Ports, func(p cluster.PolicyPort) bool { return p.Name != "" })
}
