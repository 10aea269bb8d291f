package policy

import (
	"net/netip"
	"reflect"

	"github.com/gaissmai/bart"

	"vswitch/vswitch/cluster"
)

// Compiler follows a cluster and keeps the Set of one node. What a change costs
// follows the change. It is not safe for concurrent use; its Sets are.
type Compiler struct {
	node string
	set  *Set

	// What there is.
	namespaces  map[string]*namespace
	pods, nodes map[cluster.Key]*party
	claims      map[netip.Addr][]*party // who says that an address is theirs
	nodeNumbers map[string]uint32
	ids         identities
	selectors   selectors
	policies    map[policyKey]*policy
	drafts      map[string]*draft
	// open are drafts with rules for named ports of peers that are not selected
	// by label: everybody, or blocks.
	open   map[*draft]struct{}
	serial uint64 // the last policy's
	drops  *ledger

	// What build works with.
	row     []uint64
	scratch []uint64
	marked  []bool

	// What is published.
	endpoints  *bart.Table[*endpoint]
	directions []*direction
	freeSlots  []uint32

	// What Apply has yet to do.
	unmatched    []*identity             // to be matched with the selectors anew
	freed        []uint32                // numbers of identities that nobody has
	moved        []*selector             // whose policies came, went or changed
	left         []*selector             // that policies had which are gone
	idle         []*draft                // that a pod has left
	unresolved   []*party                // whose list of policies may have changed
	changed      []*party                // whose endpoint did
	addresses    map[netip.Addr]struct{} // that lead to somebody else
	stale        []*draft                // with identities whose row changed
	renamed      map[string]struct{}     // port names that got or lost a value
	lostPods     []cluster.Key           // local ones
	lostPolicies map[string]struct{}     // by name for people
}

// policyKey names a policy; the namespace of a cluster-wide one is empty.
type policyKey struct {
	clusterWide bool
	key         cluster.Key
}

// namespace is one that exists, or that pods say they are in.
type namespace struct {
	labels   map[string]string
	isolates bool // by annotation
	exists   bool
	postings postings
}

// NewCompiler returns a Compiler for the pods of a node, which knows nobody
// yet. With an empty name it compiles the policies of all pods of the cluster.
func NewCompiler(node string) *Compiler {
	return &Compiler{
		node:        node,
		namespaces:  map[string]*namespace{},
		pods:        map[cluster.Key]*party{},
		nodes:       map[cluster.Key]*party{},
		claims:      map[netip.Addr][]*party{},
		nodeNumbers: map[string]uint32{},
		ids: identities{
			byKey: map[string]*identity{}, byID: make([]*identity, 1),
			named: map[string]map[namedPort]int{}, ported: map[uint32]*identity{},
		},
		selectors:    selectors{byKey: map[string]*selector{}, byAnchor: map[anchor][]*selector{}},
		policies:     map[policyKey]*policy{},
		drafts:       map[string]*draft{},
		open:         map[*draft]struct{}{},
		drops:        newLedger(),
		set:          &Set{},
		directions:   make([]*direction, 1),
		addresses:    map[netip.Addr]struct{}{},
		renamed:      map[string]struct{}{},
		lostPolicies: map[string]struct{}{},
	}
}

// Set returns the present Set.
func (c *Compiler) Set() *Set { return c.set }

// Apply takes in what changed: namespaces, nodes, pods and policies. It reports
// whether that makes a difference to Set.
func (c *Compiler) Apply(ch *cluster.Changes) bool {
	for _, n := range ch.Namespaces {
		c.setNamespace(either(n.Old, n.New).Name, n.New)
	}
	for _, n := range ch.Nodes {
		c.setNode(either(n.Old, n.New).Name, n.New)
	}
	for _, p := range ch.Pods {
		c.setPod(either(p.Old, p.New).Key(), p.New)
	}
	c.matchIdentities()
	for _, p := range ch.NetworkPolicies {
		c.setNetworkPolicy(either(p.Old, p.New).Key(), p.New)
	}
	for _, p := range ch.ClusterNetworkPolicies {
		c.setClusterNetworkPolicy(either(p.Old, p.New).Name, p.New)
	}
	c.resolve()
	return c.publish()
}

// either returns the one that is not nil.
func either[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

// namespace returns the namespace of that name, made up if need be.
func (c *Compiler) namespace(name string) *namespace {
	ns := c.namespaces[name]
	if ns == nil {
		ns = &namespace{labels: map[string]string{nameLabel: name}}
		c.namespaces[name] = ns
	}
	return ns
}

// setNamespace takes in a namespace, nil for one that is gone: its pods, if it
// still has some, are then in one without labels.
func (c *Compiler) setNamespace(name string, n *cluster.Namespace) {
	ns := c.namespace(name)
	ns.exists = n != nil
	labels, isolates := map[string]string{nameLabel: name}, false
	if n != nil {
		for k, v := range n.Labels {
			if k != nameLabel {
				labels[k] = v
			}
		}
		isolates = n.IsolatesIngress
	}
	relabelled := !reflect.DeepEqual(labels, ns.labels)
	if relabelled {
		ns.labels = labels
	}
	for _, i := range ns.postings.all {
		if relabelled {
			w := *i.who
			w.namespaceLabels = labels
			i.who = &w
			c.queueIdentity(i)
		}
		for _, p := range i.parties {
			if relabelled {
				c.queueParty(p)
			}
			if isolates != ns.isolates && p.local {
				c.queueResolve(p)
			}
		}
	}
	ns.isolates = isolates
	if !ns.exists && len(ns.postings.all) == 0 {
		delete(c.namespaces, name)
	}
}

// setNetworkPolicy takes in a policy, nil for one that is gone.
func (c *Compiler) setNetworkPolicy(key cluster.Key, np *cluster.NetworkPolicy) {
	k := policyKey{key: key}
	if old := c.policies[k]; old != nil && np != nil && sameNetworkPolicy(old.spec.(*cluster.NetworkPolicy), np) {
		return
	}
	c.removePolicy(k)
	if np != nil {
		p, subject := fromNetworkPolicy(np)
		c.addPolicy(k, p, subject)
	}
}

// setClusterNetworkPolicy is setNetworkPolicy for cluster-wide ones.
func (c *Compiler) setClusterNetworkPolicy(name string, cnp *cluster.ClusterNetworkPolicy) {
	k := policyKey{true, cluster.Key{Name: name}}
	if old := c.policies[k]; old != nil && cnp != nil && sameClusterNetworkPolicy(old.spec.(*cluster.ClusterNetworkPolicy), cnp) {
		return
	}
	c.removePolicy(k)
	if cnp != nil {
		p, subject := fromClusterNetworkPolicy(cnp)
		c.addPolicy(k, p, subject)
	}
}

// sameNetworkPolicy reports whether two differ in nothing but their metadata.
func sameNetworkPolicy(a, b *cluster.NetworkPolicy) bool {
	x, y := *a, *b
	x.Meta, y.Meta = cluster.Meta{}, cluster.Meta{}
	return reflect.DeepEqual(x, y)
}

func sameClusterNetworkPolicy(a, b *cluster.ClusterNetworkPolicy) bool {
	x, y := *a, *b
	x.Meta, y.Meta = cluster.Meta{}, cluster.Meta{}
	return reflect.DeepEqual(x, y)
}

func (c *Compiler) addPolicy(k policyKey, p *policy, subject *selector) {
	c.serial++
	p.serial = c.serial
	c.policies[k] = p
	delete(c.lostPolicies, p.String())
	if subject == nil {
		return
	}
	p.subject = c.acquire(*subject)
	p.subject.subjects[p] = struct{}{}
	c.queueSelector(p.subject)
}

func (c *Compiler) removePolicy(k policyKey) {
	p := c.policies[k]
	if p == nil {
		return
	}
	delete(c.policies, k)
	c.lostPolicies[p.String()] = struct{}{}
	if p.subject == nil {
		return
	}
	delete(p.subject.subjects, p)
	c.queueSelector(p.subject)
	c.left = append(c.left, p.subject)
}

// publish makes the next Set, if there is a difference.
func (c *Compiler) publish() bool {
	drafts := c.patch()
	c.ids.free = append(c.ids.free, c.freed...)
	c.freed = c.freed[:0]
	parties := len(c.changed)+len(c.addresses) > 0
	c.publishParties()
	c.forgetDrops()
	if !drafts && !parties && c.set.drops != nil {
		return false
	}
	set := &Set{endpoints: c.endpoints, directions: c.set.directions, drops: c.drops, elsewhere: c.set.elsewhere}
	if drafts || set.directions == nil {
		set.directions = append([]*direction(nil), c.directions...)
	}
	c.set = set
	return true
}

// forgetDrops drops the counters of pods and policies that are gone.
func (c *Compiler) forgetDrops() {
	c.drops.sweep()
	if len(c.lostPods)+len(c.lostPolicies) == 0 {
		return
	}
	lost := map[cluster.Key]struct{}{}
	for _, k := range c.lostPods {
		if p := c.pods[k]; p == nil || !p.local {
			lost[k] = struct{}{}
		}
	}
	c.drops.forget(lost, c.lostPolicies)
	c.lostPods = c.lostPods[:0]
	clear(c.lostPolicies)
}
