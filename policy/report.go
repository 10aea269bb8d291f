package policy

import (
	"slices"

	"vswitch/vswitch/cluster"
)

// PolicyReport is what there is to say about a policy to whom wrote it.
type PolicyReport struct {
	Policy string // "NetworkPolicy x/allow-web"
	// Pods is how many pods it selects, Local how many of them are compiled here.
	Pods, Local int
	// Problems are why it does not do what it says, sentences.
	Problems []string
	// Unused are rules that nobody can match at present, Shadowed those that
	// make no difference because of others.
	Unused, Shadowed []Remark
}

// Remark is something about a rule.
type Remark struct {
	Direction Direction
	Rule      int
	Text      string
}

// Report returns a report on each policy, in the order in which they have their
// say: Admin tier, NetworkPolicies, Baseline tier. Shadowed rules are not all
// found, but those that are named are really shadowed.
func (c *Compiler) Report() []PolicyReport {
	var all []*policy
	for _, p := range c.policies {
		all = append(all, p)
	}
	slices.SortFunc(all, comparePolicies)
	shades := newShades(all)
	out := make([]PolicyReport, 0, len(all))
	for _, p := range all {
		r := PolicyReport{Policy: p.String(), Problems: slices.Clone(p.problems)}
		if p.subject != nil {
			for _, id := range p.subject.members {
				for _, q := range c.ids.byID[id].parties {
					r.Pods++
					if q.local {
						r.Local++
					}
				}
			}
		}
		for dir := range p.rules {
			for _, rule := range p.rules[dir] {
				c.reportRule(&r, rule)
				if by := shades.over(rule); by != nil {
					r.Shadowed = append(r.Shadowed, Remark{rule.dir, rule.index, by.String()})
				}
			}
		}
		out = append(out, r)
	}
	return out
}

// reportRule reports what keeps a rule from having an effect.
func (c *Compiler) reportRule(r *PolicyReport, rule *rule) {
	p := rule.policy
	remark := func(text string) { r.Unused = append(r.Unused, Remark{rule.dir, rule.index, text}) }
	if p.tier == network && !p.isolates[rule.dir] {
		remark("the policy does not isolate " + rule.dir.String() + ", so its rules of that direction do nothing")
		return
	}
	if len(rule.spec.Peers) > 0 && !slices.ContainsFunc(rule.spec.Peers, func(peer cluster.PolicyPeer) bool { return c.anybody(p, &peer) }) {
		remark("no pod or node is one of its peers")
	}
	if r.Pods == 0 {
		return
	}
	for i := range rule.spec.Ports {
		port := &rule.spec.Ports[i]
		if port.Name == "" || c.hasPort(rule, port) {
			continue
		}
		whose := "pod that it selects"
		if rule.dir == Egress {
			whose = "pod"
		}
		r.Problems = append(r.Problems, rule.dir.String()+" rule "+itoa(rule.index)+" names the port "+quote(port.Name)+", which no "+whose+" has")
	}
}

// anybody reports whether a peer is somebody at present. Addresses always are.
func (c *Compiler) anybody(p *policy, peer *cluster.PolicyPeer) bool {
	if len(peer.Blocks) > 0 {
		return true
	}
	s, found := p.peerSelector(peer), false
	c.candidates(&s, func(i *identity) { found = found || s.matches(i.who) })
	return found
}

// hasPort reports whether some receiver of a rule's packets has a named port.
func (c *Compiler) hasPort(r *rule, port *cluster.PolicyPort) bool {
	if r.dir == Egress {
		for v := range c.ids.named[port.Name] {
			if meansPort(port, v) {
				return true
			}
		}
		return false
	}
	for _, id := range r.policy.subject.members {
		if slices.ContainsFunc(c.ids.byID[id].ports, func(v namedPort) bool { return meansPort(port, v) }) {
			return true
		}
	}
	return false
}

// shades finds rules that others make superfluous. It compares those of policies
// with the same subject, and with those that select all pods.
type shades struct{ bySubject map[string][]*rule }

// everything is the key of rules of policies for all pods, one namespace's or
// all of them.
func everything(p *policy) string {
	s := selector{scoped: p.tier == network, namespace: p.key.Namespace, labels: &cluster.Selector{}}
	return selectorKey(&s)
}

func subjectKey(p *policy) string {
	if (p.subject.labels == nil || len(p.subject.labels.Requirements) == 0) &&
		(p.subject.namespaces == nil || len(p.subject.namespaces.Requirements) == 0) {
		return everything(p)
	}
	return p.subject.key
}

func newShades(policies []*policy) *shades {
	s := &shades{map[string][]*rule{}}
	for _, p := range policies { // in the order in which they have their say
		if p.subject == nil {
			continue
		}
		key := subjectKey(p)
		for dir := range p.rules {
			if p.tier != network && len(p.problems) > 0 {
				all := &rule{policy: p, dir: Direction(dir), index: -1, spec: &cluster.PolicyRule{}}
				s.bySubject[key] = append(s.bySubject[key], all)
			}
			s.bySubject[key] = append(s.bySubject[key], p.rules[dir]...)
		}
	}
	return s
}

// over returns a rule because of which r makes no difference, or nil.
func (s *shades) over(r *rule) *rule {
	if r.policy.subject == nil {
		return nil
	}
	lists := [][]*rule{s.bySubject[subjectKey(r.policy)], s.bySubject[everything(r.policy)]}
	for _, list := range lists {
		for _, q := range list {
			if q.dir == r.dir && q != r && shadows(q, r) && covers(q, r) {
				return q
			}
		}
	}
	return nil
}

// shadows reports whether q, if it matches all that r does, takes away r's
// effect. In a tier of cluster-wide policies the first that matches decides, or
// passes on to the next tier. The rules of NetworkPolicies have no order; of two
// that match the same, the later is idle.
func shadows(q, r *rule) bool {
	switch {
	case q.policy.tier != r.policy.tier:
		return false // a packet can pass by q to r's tier
	case r.policy.tier == network:
		return q.policy.isolates[q.dir] && (before(q, r) || !covers(r, q))
	}
	return before(q, r)
}

func before(q, r *rule) bool {
	if q.policy == r.policy {
		return q.index < r.index
	}
	return comparePolicies(q.policy, r.policy) < 0
}
