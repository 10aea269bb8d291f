package policy

import (
	"net/netip"
	"strconv"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

func itoa(i int) string     { return strconv.Itoa(i) }
func quote(s string) string { return strconv.Quote(s) }

// checkSelector returns what is wrong with a selector, or nothing. Nil is none,
// with which nothing is wrong.
func checkSelector(s *cluster.Selector) string {
	if s == nil {
		return ""
	}
	for i := range s.Requirements {
		r := &s.Requirements[i]
		switch r.Operator {
		case cluster.SelectExists, cluster.SelectNotExists:
		case cluster.SelectIn, cluster.SelectNotIn:
			if len(r.Values) == 0 {
				return "requires " + r.Key + " to be " + string(r.Operator) + " no values"
			}
		default:
			return "has the operator " + quote(string(r.Operator)) + ", which is not known"
		}
	}
	return ""
}

// checkSubject returns what is wrong with the subject of a ClusterNetworkPolicy.
func checkSubject(s *cluster.PolicyPeer) string {
	if s.Nodes != nil || len(s.Blocks) > 0 {
		return "selects what is no pod"
	}
	if s.Namespaces == nil {
		return "selects no namespaces"
	}
	if bad := checkSelector(s.Namespaces); bad != "" {
		return bad
	}
	return checkSelector(s.Pods)
}

// checkRule returns the rule's action, and what is wrong with the rule.
func (p *policy) checkRule(r *cluster.PolicyRule) (action, string) {
	var act action
	switch {
	case r.Action == cluster.ActionAccept, r.Action == "" && p.tier == network:
		act = accept
	case r.Action == cluster.ActionDeny && p.tier != network:
		act = deny
	case r.Action == cluster.ActionPass && p.tier != network:
		act = pass
	default:
		return deny, "has the action " + quote(string(r.Action)) + ", which a " + p.kind + " cannot have"
	}
	for i := range r.Peers {
		if bad := p.checkPeer(&r.Peers[i]); bad != "" {
			return deny, "peer " + itoa(i) + " " + bad
		}
	}
	for i := range r.Ports {
		if bad := checkPort(&r.Ports[i]); bad != "" {
			return deny, "port " + itoa(i) + " " + bad
		}
	}
	return act, ""
}

func (p *policy) checkPeer(peer *cluster.PolicyPeer) string {
	kinds := 0
	for _, has := range []bool{peer.Namespaces != nil || peer.Pods != nil, peer.Nodes != nil, len(peer.Blocks) > 0} {
		if has {
			kinds++
		}
	}
	switch {
	case kinds == 0:
		return "selects nobody"
	case kinds > 1:
		return "selects in more than one way"
	case peer.Pods != nil && peer.Namespaces == nil && p.tier != network:
		return "selects pods of no namespace"
	}
	for _, s := range []*cluster.Selector{peer.Namespaces, peer.Pods, peer.Nodes} {
		if bad := checkSelector(s); bad != "" {
			return bad
		}
	}
	for _, b := range peer.Blocks {
		for _, c := range append([]netip.Prefix{b.CIDR}, b.Except...) {
			if !c.IsValid() || c.Addr().Is4In6() {
				return "has the prefix " + c.String() + ", which is not valid"
			}
		}
	}
	return ""
}

func checkPort(p *cluster.PolicyPort) string {
	switch p.Protocol {
	case packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP:
	case 0:
		if p.Name == "" {
			return "has no protocol"
		}
	default:
		return "has a protocol without ports, " + packet.ProtoName(p.Protocol)
	}
	if p.Name == "" && p.First != 0 && p.Last < p.First {
		return "has an empty range, " + itoa(int(p.First)) + " to " + itoa(int(p.Last))
	}
	return ""
}
