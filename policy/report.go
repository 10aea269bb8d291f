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
	m := &reporter{c, map[*selector]*selected{}, map[string]bool{}}
	out := make([]PolicyReport, 0, len(all))
	for _, p := range all {
		r := PolicyReport{Policy: p.String(), Problems: slices.Clone(p.problems)}
		if p.subject != nil {
			of := m.selected(p.subject)
			r.Pods, r.Local = of.pods, of.local
		}
		for dir := range p.rules {
			for _, rule := range p.rules[dir] {
				m.reportRule(&r, rule)
				if by := shades.over(rule); by != nil {
					r.Shadowed = append(r.Shadowed, Remark{rule.dir, rule.index, by.String()})
				}
			}
		}
		out = append(out, r)
	}
	return out
}

// reporter remembers what many policies have in common.
type reporter struct {
	c        *Compiler
	subjects map[*selector]*selected
	peers    map[string]bool // by key of the selector: somebody is one
}

// selected is what there is to say of the pods that a selector selects.
type selected struct {
	pods, local int
	ports       map[namedPort]struct{} // without their numbers
}

func (m *reporter) selected(s *selector) *selected {
	of := m.subjects[s]
	if of != nil {
		return of
	}
	of = &selected{ports: map[namedPort]struct{}{}}
	m.subjects[s] = of
	for _, id := range s.members {
		i := m.c.ids.byID[id]
		for _, p := range i.parties {
			of.pods++
			if p.local {
				of.local++
			}
		}
		for _, p := range i.ports {
			of.ports[namedPort{name: p.name}] = struct{}{}
			of.ports[namedPort{name: p.name, proto: p.proto}] = struct{}{}
		}
	}
	return of
}

// reportRule reports what keeps a rule from having an effect.
func (m *reporter) reportRule(r *PolicyReport, rule *rule) {
	p := rule.policy
	remark := func(text string) { r.Unused = append(r.Unused, Remark{rule.dir, rule.index, text}) }
	if p.tier == network && !p.isolates[rule.dir] {
		remark("the policy does not isolate " + rule.dir.String() + ", so its rules of that direction do nothing")
		return
	}
	if len(rule.spec.Peers) > 0 && !slices.ContainsFunc(rule.spec.Peers, func(peer cluster.PolicyPeer) bool { return m.anybody(p, &peer) }) {
		remark("no pod or node is one of its peers")
	}
	if r.Pods == 0 {
		return
	}
	for i := range rule.spec.Ports {
		port := &rule.spec.Ports[i]
		if port.Name == "" || m.hasPort(rule, port) {
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
func (m *reporter) anybody(p *policy, peer *cluster.PolicyPeer) bool {
	if len(peer.Blocks) > 0 {
		return true
	}
	s := p.peerSelector(peer)
	key := selectorKey(&s)
	found, known := m.peers[key]
	if !known {
		m.c.candidates(&s, func(i *identity) { found = found || s.matches(i.who) })
		m.peers[key] = found
	}
	return found
}

// hasPort reports whether some receiver of a rule's packets has a named port.
func (m *reporter) hasPort(r *rule, port *cluster.PolicyPort) bool {
	if r.dir == Egress {
		for v := range m.c.ids.named[port.Name] {
			if meansPort(port, v) {
				return true
			}
		}
		return false
	}
	_, ok := m.selected(r.policy.subject).ports[namedPort{name: port.Name, proto: port.Protocol}]
	return ok
}
