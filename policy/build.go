package policy

import (
	"slices"

	"vswitch/vswitch/cluster"
)

// builder is what a draft becomes while it is built.
type builder struct {
	c       *Compiler
	draft   *draft
	terms   []decision
	ranges  [][]portRange
	every   []int // terms that match every peer
	unnamed []int // terms without port names
	blocks  []block
	// openNames are direction.openNames.
	openNames []decision
}

// build makes the direction of a draft from its policies and all identities.
func (c *Compiler) build(d *draft) {
	b := &builder{c: c, draft: d}
	d.bits, d.names, d.named = map[*selector][]int{}, map[string]struct{}{}, map[namedPort][]int{}
	d.deniers, d.stale = nil, nil
	out := &direction{}
	policies := d.policies
	take := func(t tier) {
		for len(policies) > 0 && policies[0].tier == t {
			b.addPolicy(policies[0])
			policies = policies[1:]
		}
	}
	take(admin)
	out.network = len(b.terms)
	take(network)
	b.addIsolation()
	take(baseline)

	out.terms, out.words, out.openNames = b.terms, rowWords(len(b.terms)), b.openNames
	out.selected = make([]uint64, out.words)
	for s, terms := range d.bits {
		for _, t := range terms {
			if !s.nodes {
				setBit(out.selected, t)
			}
		}
	}
	out.stride = out.words
	if len(d.names) > 0 {
		out.stride *= 2
	}
	d.base = make([]uint64, out.stride)
	for _, t := range b.every {
		setBit(d.base, t)
	}
	if len(d.names) > 0 {
		for _, t := range b.unnamed {
			setBit(d.base[out.words:], t)
		}
	}
	out.ports = compilePorts(b.ranges)
	out.prefixes, out.blocks = compilePrefixes(b.blocks, out.words)
	d.direction = out
	c.fillRows(d)
}

func (b *builder) addPolicy(p *policy) {
	if len(p.problems) > 0 {
		if p.tier != network {
			b.addForAll(decision{tier: p.tier, reason: byInvalid, policy: p})
		}
		return
	}
	for _, r := range p.rules[b.draft.dir] {
		b.addRule(r)
	}
}

// addIsolation adds the term that denies what no NetworkPolicy lets pass, if
// some of them isolate the pod.
func (b *builder) addIsolation() {
	d := decision{tier: network, reason: byIsolation, namespace: b.draft.namespace}
	for _, p := range b.draft.policies {
		if p.tier == network {
			d.isolating = append(d.isolating, p)
		}
	}
	if len(d.isolating) > 0 || b.draft.isolated {
		b.addForAll(d)
	}
}

// addForAll adds a term that matches every packet.
func (b *builder) addForAll(t decision) {
	b.count(&t)
	b.every = append(b.every, b.addUnnamed(t, nil))
}

// count gives a decision that denies its counter. Which counters there are must
// not depend on who is in the cluster: endpoints have them, too.
func (b *builder) count(t *decision) {
	if t.action != deny {
		return
	}
	who := newDenier(t.policies())
	t.counter = slices.IndexFunc(b.draft.deniers, func(d denier) bool { return d.key == who.key })
	if t.counter < 0 {
		t.counter = len(b.draft.deniers)
		b.draft.deniers = append(b.draft.deniers, who)
	}
}

// add adds a term; nil ranges match all protocols.
func (b *builder) add(t decision, ranges []portRange) int {
	t.place = len(b.terms)
	b.terms = append(b.terms, t)
	b.ranges = append(b.ranges, ranges)
	return len(b.terms) - 1
}

// addRule adds the terms of a rule: one for its ports by number, and on egress,
// where a name means another port with every peer, one for each port that its
// names may mean.
func (b *builder) addRule(r *rule) {
	t := decision{action: r.action, tier: r.policy.tier, rule: r}
	b.count(&t)
	if len(r.spec.Ports) == 0 {
		b.addPeers(r, b.addUnnamed(t, nil))
		return
	}
	if r.dir == Egress && r.usesNames() {
		t.place = len(b.terms)
		b.openNames = append(b.openNames, t)
	}
	var ranges []portRange
	var values []namedPort
	for i := range r.spec.Ports {
		switch p := &r.spec.Ports[i]; {
		case p.Name != "" && r.dir == Ingress:
			for _, own := range b.draft.ports {
				if meansPort(p, own) {
					ranges = append(ranges, portRange{own.proto, own.port, own.port})
				}
			}
		case p.Name != "":
			b.draft.names[p.Name] = struct{}{}
			if len(r.peers) < len(r.spec.Peers) || len(r.spec.Peers) == 0 {
				b.c.open[b.draft] = struct{}{}
			}
			for v := range b.c.ids.named[p.Name] {
				if meansPort(p, v) {
					values = append(values, v)
				}
			}
		case p.First == 0:
			ranges = append(ranges, portRange{p.Protocol, 0, 0xffff})
		default:
			ranges = append(ranges, portRange{p.Protocol, p.First, p.Last})
		}
	}
	if len(ranges) > 0 {
		b.addPeers(r, b.addUnnamed(t, ranges))
	}
	slices.SortFunc(values, comparePorts)
	for _, v := range slices.Compact(values) {
		term := b.add(t, []portRange{{v.proto, v.port, v.port}})
		b.draft.named[v] = append(b.draft.named[v], term)
		b.addPeers(r, term)
	}
}

func (b *builder) addUnnamed(t decision, ranges []portRange) int {
	n := b.add(t, ranges)
	b.unnamed = append(b.unnamed, n)
	return n
}

// meansPort reports whether the container's port is one that p names.
func meansPort(p *cluster.PolicyPort, own namedPort) bool {
	return p.Name == own.name && (p.Protocol == 0 || p.Protocol == own.proto)
}

// addPeers gives a term the peers of its rule.
func (b *builder) addPeers(r *rule, term int) {
	if len(r.spec.Peers) == 0 {
		b.every = append(b.every, term)
	}
	for _, s := range r.peers {
		b.draft.bits[s] = append(b.draft.bits[s], term)
	}
	for i := range r.spec.Peers {
		for _, ip := range r.spec.Peers[i].Blocks {
			b.blocks = append(b.blocks, block{term, ip.CIDR, ip.Except})
		}
	}
}
