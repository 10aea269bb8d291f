package policy

import (
	"net/netip"

	"vswitch/vswitch/cluster"
)

// shades finds rules that others make superfluous. It compares those of policies
// with the same subject, and with those that select all pods; of these, the ones
// that may cover a rule by something that a rule must have to do so.
type shades struct {
	bySubject map[subjectOf]*coverIndex
	rules     int
}

type subjectOf struct {
	key string // of the selector
	dir Direction
}

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
	s := &shades{bySubject: map[subjectOf]*coverIndex{}}
	for _, p := range policies { // in the order in which they have their say
		if p.subject == nil {
			continue
		}
		key := subjectKey(p)
		for dir := range p.rules {
			if p.tier != network && len(p.problems) > 0 {
				s.add(key, &rule{policy: p, dir: Direction(dir), index: -1, spec: &cluster.PolicyRule{}})
			}
			for _, r := range p.rules[dir] {
				s.add(key, r)
			}
		}
	}
	return s
}

func (s *shades) add(key string, r *rule) {
	of := subjectOf{key, r.dir}
	if s.bySubject[of] == nil {
		s.bySubject[of] = &coverIndex{}
	}
	s.bySubject[of].add(r, s.rules)
	s.rules++
}

// over returns a rule because of which r makes no difference, or nil.
func (s *shades) over(r *rule) *rule {
	if r.policy.subject == nil {
		return nil
	}
	own, all := subjectKey(r.policy), everything(r.policy)
	if q := s.bySubject[subjectOf{own, r.dir}].first(r); q != nil || own == all {
		return q
	}
	return s.bySubject[subjectOf{all, r.dir}].first(r)
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

// coverIndex finds rules that may cover another one. A rule is kept by what its
// peers and its ports are; one that covers r has, among that, something of which
// there are few for r's first peer, and for its first port.
type coverIndex map[peerMark]map[portMark][]numbered

type numbered struct {
	*rule
	number int // in the order in which rules have their say
}

func (x *coverIndex) add(r *rule, number int) {
	for _, p := range marksOfPeers(r) {
		if (*x)[p] == nil {
			(*x)[p] = map[portMark][]numbered{}
		}
		for _, port := range marksOfPorts(r.spec.Ports) {
			list := (*x)[p][port]
			if n := len(list); n == 0 || list[n-1].number != number {
				(*x)[p][port] = append(list, numbered{r, number})
			}
		}
	}
}

// first returns the first rule that shadows r, or nil.
func (x *coverIndex) first(r *rule) *rule {
	if x == nil {
		return nil
	}
	var best numbered
	ports := portMarksOver(r.spec.Ports)
	for _, p := range peerMarksOver(r) {
		byPort := (*x)[p]
		if len(byPort) == 0 {
			continue
		}
		for _, port := range ports {
			for _, q := range byPort[port] {
				if best.rule != nil && q.number >= best.number {
					break
				}
				if q.rule != r && shadows(q.rule, r) && covers(q.rule, r) {
					best = q
					break
				}
			}
		}
	}
	return best.rule
}

// peerMark is something that a peer has. The zero value is that of rules for
// everybody, and of those with very many peers.
type peerMark struct {
	kind       byte // of label: 'l' a pod's, 'n' a node's, 'p' a namespace's; 'b' a block
	op         cluster.SelectorOp
	key, value string
	block      netip.Prefix
}

// portMark is something that a port has. The zero value is that of rules without
// ports, and of those with very many.
type portMark struct {
	proto uint8
	name  string
	// bits and base are of a range of ports whose first bits are equal, as of a
	// prefix of addresses; bits is one more than there are, 0 for names.
	bits uint8
	base uint16
}

// maxMarks bounds by how many peers, and by how many ports, a rule is kept.
const maxMarks = 32

// marksOfPeers returns what a rule is kept by: one mark, or more, of each peer.
func marksOfPeers(r *rule) (marks []peerMark) {
	for i := range r.spec.Peers {
		peer := &r.spec.Peers[i]
		for _, b := range peer.Blocks {
			marks = append(marks, peerMark{kind: 'b', block: b.CIDR.Masked()})
		}
		if len(peer.Blocks) == 0 {
			s := r.policy.peerSelector(peer)
			marks = append(marks, marksOfSelector(&s)...)
		}
	}
	if len(marks) == 0 || len(marks) > maxMarks {
		return []peerMark{{}}
	}
	return marks
}

// kindOf tells whose labels a selector's are.
func (s *selector) kindOf() byte {
	if s.nodes {
		return 'n'
	}
	return 'l'
}

// marksOfSelector returns marks of one of its requirements, of which any selector
// that it covers has to have one.
func marksOfSelector(s *selector) []peerMark {
	kind, r := s.kindOf(), strictest(requirements(s.labels))
	if r == nil || r.Operator != cluster.SelectIn {
		if p := strictest(placeOf(s)); p != nil && (r == nil || p.Operator == cluster.SelectIn) && !s.nodes {
			kind, r = 'p', p
		}
	}
	switch {
	case r == nil:
		return []peerMark{{kind: s.kindOf()}}
	case r.Operator != cluster.SelectIn:
		return []peerMark{{kind: kind, op: r.Operator, key: r.Key}}
	}
	var marks []peerMark
	for _, v := range r.Values {
		marks = append(marks, peerMark{kind, r.Operator, r.Key, v, netip.Prefix{}})
	}
	return marks
}

// strictest returns the requirement that few fulfil, or nil if there is none.
func strictest(list []cluster.Requirement) (best *cluster.Requirement) {
	for i := range list {
		r := &list[i]
		if best == nil || r.Operator == cluster.SelectIn && (best.Operator != cluster.SelectIn || len(r.Values) < len(best.Values)) {
			best = r
		}
	}
	return best
}

// peerMarksOver returns marks of which a rule that covers r has one.
func peerMarksOver(r *rule) []peerMark {
	marks := []peerMark{{}}
	if len(r.spec.Peers) == 0 {
		return marks
	}
	peer := &r.spec.Peers[0]
	if len(peer.Blocks) > 0 {
		cidr := peer.Blocks[0].CIDR
		for bits := cidr.Bits(); bits >= 0; bits-- {
			marks = append(marks, peerMark{kind: 'b', block: netip.PrefixFrom(cidr.Addr(), bits).Masked()})
		}
		return marks
	}
	s := r.policy.peerSelector(peer)
	marks = append(marks, peerMark{kind: s.kindOf()})
	marks = appendImplied(marks, s.kindOf(), requirements(s.labels))
	if !s.nodes {
		marks = appendImplied(marks, 'p', placeOf(&s))
	}
	return marks
}

// appendImplied appends the marks of all requirements that one of a list implies,
// as impliesOne has it.
func appendImplied(marks []peerMark, kind byte, list []cluster.Requirement) []peerMark {
	add := func(r *cluster.Requirement, op cluster.SelectorOp, value string) {
		marks = append(marks, peerMark{kind, op, r.Key, value, netip.Prefix{}})
	}
	for i := range list {
		switch r := &list[i]; r.Operator {
		case cluster.SelectIn:
			if len(r.Values) > 0 {
				add(r, cluster.SelectIn, r.Values[0]) // all of the values, so the first one, too
			}
			add(r, cluster.SelectExists, "")
			add(r, cluster.SelectNotIn, "")
		case cluster.SelectExists:
			add(r, cluster.SelectExists, "")
		case cluster.SelectNotIn:
			add(r, cluster.SelectNotIn, "")
		case cluster.SelectNotExists:
			add(r, cluster.SelectNotExists, "")
			add(r, cluster.SelectNotIn, "")
		}
	}
	return marks
}

// marksOfPorts returns what ports are kept by.
func marksOfPorts(ports []cluster.PolicyPort) (marks []portMark) {
	for i := range ports {
		switch p := &ports[i]; {
		case p.Name != "":
			marks = append(marks, portMark{name: p.Name})
		case p.First == 0:
			marks = append(marks, portMark{proto: p.Protocol})
		default:
			marks = appendHalves(marks, p)
		}
	}
	if len(marks) == 0 || len(marks) > maxMarks {
		return []portMark{{}}
	}
	return marks
}

// appendHalves cuts a range into ranges of ports that begin with the same bits.
func appendHalves(marks []portMark, p *cluster.PolicyPort) []portMark {
	for at, end := uint32(p.First), uint32(p.Last)+1; at < end; {
		size := uint32(1)
		bits := uint8(16)
		for at%(2*size) == 0 && at+2*size <= end && bits > 0 {
			size, bits = 2*size, bits-1
		}
		marks = append(marks, portMark{proto: p.Protocol, bits: bits + 1, base: uint16(at)})
		at += size
	}
	return marks
}

// portMarksOver returns marks of which ports that cover these have one.
func portMarksOver(ports []cluster.PolicyPort) []portMark {
	marks := []portMark{{}}
	if len(ports) == 0 {
		return marks
	}
	p := &ports[0]
	if p.Name != "" {
		marks = append(marks, portMark{name: p.Name})
	}
	if p.Protocol == 0 {
		return marks
	}
	marks = append(marks, portMark{proto: p.Protocol})
	if p.Name == "" && p.First != 0 {
		for bits := 0; bits <= 16; bits++ {
			marks = append(marks, portMark{proto: p.Protocol, bits: uint8(bits) + 1, base: uint16(uint32(p.First) &^ (1<<(16-bits) - 1))})
		}
	}
	return marks
}
