package control

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"vswitch/vswitch/cluster"
)

// Static returns the cluster that objects describe, at rest, for those who
// want to look at it without running it. What objects say, status included, is
// taken as given; what they leave out is decided as a Controller would: nodes
// that pods name, their ranges and addresses, nodes for pods, replicas of
// Deployments, pods' addresses, services' addresses and ports, and
// EndpointSlices. A pod whose status is not given runs and is ready. An
// endpoint whose address is no pod's stands for a pod without labels on the
// endpoint's node; on some node, if it names none. Nothing is kept, and the
// same objects always give the same State.
func Static(cfg Config, objects *cluster.Objects) (*cluster.State, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := conflicts(objects); err != nil {
		return nil, err
	}
	cfg.StartupGrace = 0 // nodes that are not ready will not be
	uids := 0
	cfg.UID = func() string {
		uids++
		return fmt.Sprintf("00000000-0000-4000-8000-%012x", uids)
	}
	store := cluster.NewStore()
	c := &Controller{cfg: cfg, store: store, index: newIndex(&cfg)}
	err := store.Update(cluster.Desired, func(tx *cluster.Txn) error {
		// Objects without a time of their own are as old as the epoch.
		s := &static{step: &step{Controller: c, tx: tx, now: time.Unix(0, 0).UTC()}, given: map[string][]netip.Addr{},
			rules: familyRules{have: familiesOf(&cfg), lenient: true}}
		c.index.claims.lenient = true
		return s.all(objects)
	})
	if err != nil {
		return nil, err
	}
	return store.State(), nil
}

type static struct {
	*step
	given map[string][]netip.Addr // pods' addresses by node
	rules familyRules
}

func (s *static) all(o *cluster.Objects) error {
	for v := range o.All() {
		if err := s.object(v); err != nil {
			return err
		}
	}
	s.impliedNodes(o)
	s.impliedPods(o, false)
	if err := s.ranges(o); err != nil {
		return err
	}
	s.impliedPods(o, true)
	for d := range s.tx.Own().Deployments.All() {
		s.complete(d)
	}
	for _, ns := range slices.Sorted(maps.Keys(s.missingNamespaces())) {
		s.putNewNamespace(ns)
	}
	s.index.follow(s.tx.State(), s.tx.Own())
	s.schedule()
	if err := s.addresses(); err != nil {
		return err
	}
	s.count()
	s.index.follow(s.tx.State(), s.tx.Own())
	s.serve()
	return nil
}

// object puts an object as it is given.
func (s *static) object(in cluster.Object) error {
	v := cluster.Clone(in)
	s.known(v.Metadata())
	switch v := v.(type) {
	case *cluster.Pod:
		if v.Node != "" && !v.HostNetwork {
			s.given[v.Node] = append(s.given[v.Node], v.IPs...)
		}
	case *cluster.Service:
		v.Ports = slices.Clone(v.Ports)
		if v.Type == "" {
			v.Type = cluster.ServiceClusterIP
		}
		if f := s.rules.complete(v); f != nil {
			return refusal(v, f)
		}
	case *cluster.EndpointSlice:
		v.Labels = written(v.Labels)
	}
	s.put(v)
	return nil
}

// known fills in what an object from a manifest may not have.
func (s *static) known(m *cluster.Meta) {
	if m.UID == "" {
		m.UID = s.cfg.UID()
	}
	if m.Created.IsZero() {
		m.Created = s.now
	}
	m.Generation = max(m.Generation, 1)
}

func (s *static) impliedNodes(o *cluster.Objects) {
	add := func(name, source string) {
		if name != "" && s.tx.Own().Node(name) == nil {
			n := &cluster.Node{Meta: cluster.Meta{Name: name, Source: source, Labels: map[string]string{hostnameLabel: name}}, Ready: true}
			s.create(&n.Meta)
			s.put(n)
		}
	}
	for _, p := range o.Pods {
		add(p.Node, p.Source)
	}
	for e, m := range endpointsIn(o) {
		add(e.Node, m.Source)
	}
	if len(o.Nodes) == 0 {
		for i := range s.cfg.Nodes {
			add(fmt.Sprintf("node%d", i+1), "")
		}
	}
}

// ranges gives nodes what they lack: those that are written down first. Where a
// range that is given leaves none for others, they have none.
func (s *static) ranges(o *cluster.Objects) error {
	var nodes []*cluster.Node
	written := map[string]bool{}
	for _, n := range o.Nodes {
		written[n.Name] = true
		nodes = append(nodes, s.tx.Own().Node(n.Name))
	}
	for n := range s.tx.Own().Nodes.All() {
		if !written[n.Name] {
			nodes = append(nodes, n)
		}
	}
	a := newAllocator(&s.cfg, s.tx.Own(), s.given)
	a.optional = true
	return s.allocate(a, nodes)
}

// complete makes the replicas that the Deployment lacks. Replicas that were exported
// together with it count, whatever hash they carry.
func (s *static) complete(d *cluster.Deployment) {
	have := 0
	for p := range s.tx.Own().Pods.In(d.Namespace) {
		if p.Owner == d.Key() && p.Deleted.IsZero() && !p.Ended() {
			have++
		}
	}
	grown := *d
	for ; have < d.Replicas; have++ {
		p := *s.replica(&grown, templateHash(&d.Template))
		p.Phase, p.Ready = cluster.PodRunning, true
		s.put(&p)
	}
	if grown.Serial != d.Serial {
		s.put(&grown)
	}
}

func (s *static) missingNamespaces() map[string]bool {
	missing := map[string]bool{"default": true}
	for o := range s.tx.Own().All() {
		if o.Kind().Namespaced() {
			missing[o.Key().Namespace] = true
		}
	}
	for n := range s.tx.Own().Namespaces.All() {
		delete(missing, n.Name)
	}
	return missing
}

// addresses gives pods that have none, but a node, those that are free.
func (s *static) addresses() error {
	used := map[netip.Addr]bool{}
	for p := range s.tx.Own().Pods.All() {
		for _, ip := range p.IPs {
			used[ip] = true
		}
	}
	next := map[netip.Prefix]netip.Addr{} // where to go on searching
	for own := range s.tx.Own().Pods.All() {
		p := *own
		if p.Phase == "" && p.Ready {
			p.Phase = cluster.PodRunning
		}
		n := s.tx.Own().Node(p.Node)
		switch {
		case n == nil:
			p.Phase, p.Ready = cluster.PodPending, false
		case len(p.IPs) > 0 || p.Ended():
		case p.HostNetwork:
			p.IPs = n.Addresses
		case len(n.PodCIDRs) == 0:
			return fmt.Errorf("Pod %s: %w: its node %s has no range of pods; give it one (spec.podCIDRs), or the cluster a larger one (--cluster-cidr)",
				p.Key(), ErrExhausted, n.Name)
		default:
			for _, r := range n.PodCIDRs {
				ip, err := freeAddress(r, used, next)
				if err != nil {
					return fmt.Errorf("Pod %s on node %s: %w", p.Key(), n.Name, err)
				}
				p.IPs = append(p.IPs, ip)
			}
		}
		s.put(&p)
	}
	return nil
}

// freeAddress returns the first address of r for a pod that nobody uses. The
// first two are the network's own and the gateway's, the last of IPv4 is the
// broadcast address.
func freeAddress(r netip.Prefix, used map[netip.Addr]bool, next map[netip.Prefix]netip.Addr) (netip.Addr, error) {
	ip, ok := next[r]
	if !ok {
		ip = r.Addr().Next().Next()
	}
	for used[ip] {
		ip = ip.Next()
	}
	if !r.Contains(ip) || ip.Is4() && !r.Contains(ip.Next()) {
		return netip.Addr{}, fmt.Errorf("%w: no address is free in %s; give the node a larger range", ErrExhausted, r)
	}
	used[ip], next[r] = true, ip.Next()
	return ip, nil
}

// count fills in the status of Deployments.
func (s *static) count() {
	total, ready := map[cluster.Key]int{}, map[cluster.Key]int{}
	for p := range s.tx.Own().Pods.All() {
		if p.Owner.Name != "" && p.Deleted.IsZero() && !p.Ended() {
			total[p.Owner]++
			if p.Ready {
				ready[p.Owner]++
			}
		}
	}
	for own := range s.tx.Own().Deployments.All() {
		d := *own
		d.CurrentReplicas, d.UpdatedReplicas = total[d.Key()], total[d.Key()]
		d.ReadyReplicas, d.AvailableReplicas = ready[d.Key()], ready[d.Key()]
		s.put(&d)
	}
}

// conflicts checks what is given, and only that: a pod of another cluster may
// well have an address that is in no range here.
func conflicts(o *cluster.Objects) error {
	var errs []error
	for _, c := range slices.Concat(cluster.Conflicts(o.Nodes, o.Pods), cluster.ServiceConflicts(o.Services)) {
		errs = append(errs, refusal(c.Object, &fault{c.Field, c.Message}))
	}
	return errors.Join(errs...)
}
