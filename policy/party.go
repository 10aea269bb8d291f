package policy

import (
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"vswitch/vswitch/cluster"
)

// party is who has addresses: a pod, or a node. Pods of the host network have
// their node's, and are no parties; ended pods have none any more.
type party struct {
	key      cluster.Key
	isNode   bool
	node     string // a pod's node; a node's own name
	leaving  bool   // on its way out: another one may have its address already
	local    bool
	addrs    []netip.Addr
	identity *identity
	place    int       // in identity.parties
	drafts   [2]*draft // of local pods; nil: no policy
	endpoint *endpoint // as it is published

	queued, unresolved bool // in Compiler.changed, in Compiler.unresolved
	gone               bool // another one of its name took its place, or none
}

// before reports whether p rather than q is meant by an address that both
// claim: nodes first, then who stays, then who is here, then in order of name.
func (p *party) before(q *party) bool {
	if p.isNode != q.isNode {
		return p.isNode
	}
	if p.leaving != q.leaving {
		return q.leaving
	}
	if p.local != q.local {
		return p.local
	}
	if p.key.Namespace != q.key.Namespace {
		return p.key.Namespace < q.key.Namespace
	}
	return p.key.Name < q.key.Name
}

// setNode takes in a node, nil for one that is gone.
func (c *Compiler) setNode(name string, n *cluster.Node) {
	key := cluster.Key{Name: name}
	if n == nil {
		c.removeParty(c.nodes, key)
		return
	}
	p := &party{key: key, isNode: true, node: name, addrs: unmapped(n.Addresses, n.ExtraAddresses)}
	c.setParty(c.nodes, p, &who{node: true, labels: n.Labels}, nil)
}

// setPod takes in a pod, nil for one that is gone.
func (c *Compiler) setPod(key cluster.Key, pod *cluster.Pod) {
	if pod == nil || pod.HostNetwork || pod.Ended() || len(pod.IPs) == 0 {
		c.removeParty(c.pods, key)
		return
	}
	p := &party{key: key, node: pod.Node, leaving: !pod.Deleted.IsZero(), addrs: unmapped(pod.IPs)}
	p.local = c.node == "" || c.node == pod.Node
	ns := c.namespace(key.Namespace)
	c.setParty(c.pods, p, &who{namespace: key.Namespace, namespaceLabels: ns.labels, labels: pod.Labels}, namedPorts(pod))
}

// unmapped returns the addresses of lists that are any, as packets have them.
func unmapped(lists ...[]netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, list := range lists {
		for _, a := range list {
			if a.IsValid() {
				out = append(out, a.Unmap().WithZone(""))
			}
		}
	}
	return out
}

// setParty puts p in the place of an older one of the same name, if that
// differs.
func (c *Compiler) setParty(table map[cluster.Key]*party, p *party, w *who, ports []namedPort) {
	ik := identityKey(w.node, w.namespace, w.labels, ports)
	if old := table[p.key]; old != nil {
		if old.identity.key == ik && old.node == p.node && old.leaving == p.leaving &&
			old.local == p.local && slices.Equal(old.addrs, p.addrs) {
			return
		}
		c.dropParty(old)
	}
	table[p.key] = p
	p.identity = c.ids.byKey[ik]
	if p.identity == nil {
		p.identity = c.ids.add(ik, w, ports, c.namespaces[w.namespace])
		c.queueIdentity(p.identity)
	}
	p.place = len(p.identity.parties)
	p.identity.parties = append(p.identity.parties, p)
	for _, a := range p.addrs {
		c.claims[a] = append(c.claims[a], p)
	}
	c.queueParty(p)
	if p.local {
		c.queueResolve(p)
	}
}

func (c *Compiler) removeParty(table map[cluster.Key]*party, key cluster.Key) {
	p := table[key]
	if p == nil {
		return
	}
	delete(table, key)
	c.dropParty(p)
	if p.local {
		c.lostPods = append(c.lostPods, key)
	}
}

// dropParty takes away all that a party has.
func (c *Compiler) dropParty(p *party) {
	last := p.identity.parties[len(p.identity.parties)-1]
	p.identity.parties[p.place] = last
	last.place = p.place
	p.identity.parties = p.identity.parties[:len(p.identity.parties)-1]
	if len(p.identity.parties) == 0 {
		c.queueIdentity(p.identity)
	}
	for _, a := range p.addrs {
		if rest := without(c.claims[a], p); len(rest) > 0 {
			c.claims[a] = rest
		} else {
			delete(c.claims, a)
		}
		c.addresses[a] = struct{}{}
	}
	for _, d := range p.drafts {
		c.leaveDraft(d)
	}
	c.drops.retire(p.endpoint, p.key)
	p.gone = true
}

// publishParties makes the endpoints of the parties that changed, and brings
// the table of addresses up to date.
func (c *Compiler) publishParties() {
	for _, p := range c.changed {
		p.queued = false
		if p.gone {
			continue
		}
		c.drops.retire(p.endpoint, p.key)
		p.endpoint = c.newEndpoint(p)
		for _, a := range p.addrs {
			c.addresses[a] = struct{}{}
		}
	}
	c.changed = c.changed[:0]
	if len(c.addresses) == 0 {
		return
	}
	// A table nobody has seen is filled in place; others are shared.
	fresh := c.endpoints == nil
	if fresh {
		c.endpoints = new(bart.Table[*endpoint])
	}
	for a := range c.addresses {
		prefix := netip.PrefixFrom(a, a.BitLen())
		switch best := c.claimant(a); {
		case best == nil:
			c.endpoints = c.endpoints.DeletePersist(prefix)
		case fresh:
			c.endpoints.Insert(prefix, best.endpoint)
		default:
			c.endpoints = c.endpoints.InsertPersist(prefix, best.endpoint)
		}
	}
	clear(c.addresses)
}

// claimant returns who is meant by an address, or nil.
func (c *Compiler) claimant(a netip.Addr) *party {
	var best *party
	for _, p := range c.claims[a] {
		if best == nil || p.before(best) {
			best = p
		}
	}
	return best
}

func (c *Compiler) newEndpoint(p *party) *endpoint {
	e := &endpoint{
		identity: p.identity.id, who: p.identity.who,
		node: c.nodeNumber(p.node), isNode: p.isNode, local: p.local, name: p.key.String(),
	}
	for dir, d := range p.drafts {
		if d == nil {
			continue
		}
		e.directions[dir] = d.slot
		for i := range d.deniers {
			e.drops[dir] = append(e.drops[dir], c.drops.counter(&d.deniers[i], p.key, Direction(dir)))
		}
	}
	return e
}

// nodeNumber numbers the names of nodes; 0 is no name's.
func (c *Compiler) nodeNumber(name string) uint32 {
	if name == "" {
		return 0
	}
	n, ok := c.nodeNumbers[name]
	if !ok {
		n = uint32(len(c.nodeNumbers) + 1)
		c.nodeNumbers[name] = n
	}
	return n
}
