package policy

import (
	"net/netip"
	"slices"
	"strings"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// maxNamed is how many policies of those that decided together are named.
const maxNamed = 8

// Policy names what decided: "NetworkPolicy x/allow-web rule 0", or without a
// rule all policies that isolate the pod, none of which allowed the packet:
// "NetworkPolicy x/deny, NetworkPolicy x/web". Of very many, it counts the last
// ones. It is empty where no policy decided.
func (v Verdict) Policy() string {
	switch {
	case v.by == nil:
		return ""
	case v.by.reason == byRule:
		return v.by.rule.String()
	}
	return several(v.by.policies(), ", ")
}

// several lists names, and counts those that are too many.
func several(names []string, and string) string {
	if over := len(names) - maxNamed; over > 1 {
		names = append(slices.Clone(names[:maxNamed]), itoa(over)+" others")
	}
	return strings.Join(names, and)
}

// policies names the policies that a decision goes back to, without rules.
func (d *decision) policies() (names []string) {
	switch d.reason {
	case byRule:
		return []string{d.rule.policy.String()}
	case byInvalid:
		return []string{d.policy.String()}
	case byIsolation:
		for _, p := range d.isolating {
			names = append(names, p.String())
		}
		if d.namespace != "" {
			names = append(names, "Namespace "+d.namespace+" DefaultDeny")
		}
	}
	return names
}

// String names a rule: "NetworkPolicy x/allow-web rule 0".
func (r *rule) String() string { return r.policy.String() + " rule " + itoa(r.index) }

// Why says in a sentence what decided and how the other end came to match:
// "NetworkPolicy x/allow-web rule 0 lets in pods with app=web of namespace x".
func (v Verdict) Why() string {
	switch {
	case v.Unknown && v.Pending:
		return v.whyUnknown()
	case v.Pending:
		return "the policies of the pod are not compiled yet"
	case v.by == nil && v.pod == nil && v.Allowed:
		return "no policy is in use"
	case v.by == nil && v.pod == nil:
		return "nothing was asked"
	case v.by == nil:
		return "no policy speaks about " + v.dir.String() + " of " + v.pod.name + " with " + v.other()
	}
	switch v.by.reason {
	case byItself:
		return "a pod may always talk to itself"
	case byOwnNode:
		return "a pod always hears its own node " + v.peer.name
	case byInvalid:
		return v.by.policy.String() + " is invalid, and so denies everything: " + v.by.policy.problems[0]
	case byIsolation:
		return v.whyIsolated()
	}
	r := v.by.rule
	s := r.String()
	if r.spec.Name != "" {
		s += " (" + r.spec.Name + ")"
	}
	return s + " " + v.verb(r.action == accept) + " " + v.matchedPeer(r) + describePorts(r, v)
}

// whyUnknown says why it matters who has an address.
func (v Verdict) whyUnknown() string {
	s := "nobody has said yet which pod has " + v.addr.Netip().String()
	if v.unless == nil {
		return s
	}
	return s + ", and " + v.unless.rule.String() + " may be about that one"
}

// whyIsolated names the policies that no rule of which lets the packet pass.
func (v Verdict) whyIsolated() string {
	d := v.by
	rest := " " + v.verb(true) + " " + v.other() + portOf(v.proto, v.port)
	if len(d.isolating) == 0 {
		return "Namespace " + d.namespace + " DefaultDeny isolates " + v.pod.name + ", and no NetworkPolicy" + rest
	}
	var keys []string
	for _, p := range d.isolating {
		keys = append(keys, p.key.String())
	}
	s := "no rule of NetworkPolicy " + several(keys, " or ") + rest
	if d.namespace != "" {
		s += ", and Namespace " + d.namespace + " DefaultDeny isolates " + v.pod.name + " as well"
	}
	if v.dir == Egress && v.peer != nil && v.peer.isNode && v.peer.node != v.pod.node {
		s += "; a node port of another node is judged as that node's address"
	}
	for _, p := range d.isolating {
		if len(p.problems) > 0 {
			return s + "; " + p.String() + " is invalid, and so allows nothing: " + p.problems[0]
		}
	}
	return s
}

// verb says what is done about the other end.
func (v Verdict) verb(allow bool) string {
	switch {
	case v.dir == Ingress && allow:
		return "lets in"
	case v.dir == Ingress:
		return "keeps out"
	case allow:
		return "lets out to"
	}
	return "keeps from"
}

// other names the other end: "10.244.1.3 (x/web)".
func (v Verdict) other() string {
	s := v.addr.String()
	switch {
	case v.peer == nil:
		return s
	case v.peer.isNode:
		return s + " (node " + v.peer.name + ")"
	}
	return s + " (pod " + v.peer.name + ")"
}

// matchedPeer describes the peer of a rule that the other end is.
func (v Verdict) matchedPeer(r *rule) string {
	if len(r.spec.Peers) == 0 {
		return "everybody"
	}
	for i := range r.spec.Peers {
		peer := &r.spec.Peers[i]
		for _, b := range peer.Blocks {
			if b.CIDR.Contains(v.addr.Netip()) && !containsAny(b.Except, v.addr.Netip()) {
				return describeBlock(b)
			}
		}
		if s := r.policy.peerSelector(peer); len(peer.Blocks) == 0 && v.peer != nil && s.matches(v.peer.who) {
			return describeSelector(&s)
		}
	}
	return v.other()
}

func containsAny(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func describeBlock(b cluster.IPBlock) string {
	s := "addresses in " + b.CIDR.String()
	for i, e := range b.Except {
		if i == 0 {
			s += " except "
		} else {
			s += ", "
		}
		s += e.String()
	}
	return s
}

// describeSelector says whom a selector selects: "pods with app=web of
// namespaces with team=a".
func describeSelector(s *selector) string {
	if s.nodes {
		return describe("nodes", s.labels)
	}
	pods := describe("pods", s.labels)
	switch {
	case s.scoped:
		return pods + " of namespace " + s.namespace
	case s.namespaces == nil || len(s.namespaces.Requirements) == 0:
		return pods + " of all namespaces"
	}
	if r := s.namespaces.Requirements; len(r) == 1 && r[0].Key == nameLabel && r[0].Operator == cluster.SelectIn && len(r[0].Values) == 1 {
		return pods + " of namespace " + r[0].Values[0]
	}
	return pods + " of " + describe("namespaces", s.namespaces)
}

func describe(noun string, s *cluster.Selector) string {
	if s == nil || len(s.Requirements) == 0 {
		return "all " + noun
	}
	var parts []string
	for _, r := range s.Requirements {
		parts = append(parts, describeRequirement(r))
	}
	return noun + " with " + strings.Join(parts, " and ")
}

func describeRequirement(r cluster.Requirement) string {
	switch values := strings.Join(r.Values, ", "); {
	case r.Operator == cluster.SelectExists:
		return "a label " + r.Key
	case r.Operator == cluster.SelectNotExists:
		return "no label " + r.Key
	case r.Operator == cluster.SelectIn && len(r.Values) == 1:
		return r.Key + "=" + values
	case r.Operator == cluster.SelectIn:
		return r.Key + " in (" + values + ")"
	case len(r.Values) == 1:
		return r.Key + "!=" + values
	default:
		return r.Key + " not in (" + values + ")"
	}
}

// describePorts says by which port a rule that has some matched.
func describePorts(r *rule, v Verdict) string {
	if len(r.spec.Ports) == 0 {
		return ""
	}
	return portOf(v.proto, v.port)
}

// portOf returns " on TCP 80", or less for protocols without ports.
func portOf(proto uint8, port uint16) string {
	name := strings.ToUpper(packet.ProtoName(proto))
	switch proto {
	case packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP:
		return " on " + name + " " + itoa(int(port))
	}
	return " by " + name
}
