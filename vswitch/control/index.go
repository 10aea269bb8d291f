package control

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"vswitch/vswitch/cluster"
)

// index is what a Controller looks up again and again. It follows the State by
// its changes, so that deciding costs what changed. It may follow a
// transaction that fails: the next comparison with the State leads it back.
type index struct {
	state *cluster.State // that the index stands for
	own   *cluster.State

	owned   map[cluster.Key]map[cluster.Key]bool // replicas by Deployment
	onNode  map[string]*load                     // pods by node
	pending map[cluster.Key]bool                 // pods without a node
	reached map[string]bool                      // nodes that have been ready once
	claims  *claims                              // addresses and ports of services
	fan     *fanout                              // services' pods and slices
	wanting map[cluster.Key]bool                 // services that wait for something to become free
	retried map[cluster.Key]bool                 // those of them that are to be tried again, because something did

	// begun: something was applied, so that what the cluster has of its own takes
	// no address that somebody asks for from the start.
	begun   bool
	nameIPs []netip.Addr // the name server's addresses, as pods know them

	// What is to be looked at, and is then cleared.
	dirty      map[cluster.Key]bool // Deployments
	namespaces map[string]bool      // in which something came or went
	nodes      bool                 // nodes came, went, or changed
	names      map[string]bool      // nodes that pods are on
	services   map[cluster.Key]bool // which may lack an address or a port
	recheck    bool                 // what was decided for services was not kept
	turned     map[string]bool      // nodes that became ready, or ceased to be
	told       news                 // what events told of services, and may still be so

	// What is to be looked at by time alone.
	due      map[cluster.Key]time.Time // Deployments
	startBy  time.Time                 // pods wait for nodes that start until then; zero: they do not
	remindBy time.Time                 // what is still wrong is told again; zero: nothing is
}

// load is what a node carries.
type load struct {
	pods map[cluster.Key]bool
	held int // those that have not ended, and so hold an address
	live int // those of them that are not being deleted
}

func newIndex(cfg *Config) *index {
	return &index{
		state: &cluster.State{}, own: &cluster.State{},
		owned: map[cluster.Key]map[cluster.Key]bool{}, onNode: map[string]*load{}, pending: map[cluster.Key]bool{},
		reached: map[string]bool{}, dirty: map[cluster.Key]bool{}, namespaces: map[string]bool{}, names: map[string]bool{},
		due: map[cluster.Key]time.Time{}, claims: newClaims(cfg), fan: newFanout(),
		wanting: map[cluster.Key]bool{}, retried: map[cluster.Key]bool{}, services: map[cluster.Key]bool{}, turned: map[string]bool{}, told: news{},
	}
}

// follow takes in what changed up to state. own is the part of it that the
// Controller wrote: what others report of pods that it does not know is none
// of its business. It reports whether anything changed.
func (x *index) follow(state, own *cluster.State) bool {
	changes := x.state.Diff(state)
	ownBefore := x.own
	x.state, x.own = state, own
	for _, c := range changes.Pods {
		if c.Old != nil && ownBefore.Pod(c.Old.Key()) != nil {
			x.pod(c.Old, false)
		}
		if c.New != nil && own.Pod(c.New.Key()) != nil {
			x.pod(c.New, true)
		}
	}
	for _, c := range changes.Deployments {
		for _, d := range []*cluster.Deployment{c.Old, c.New} {
			if d != nil {
				x.dirty[d.Key()] = true
			}
		}
	}
	for _, c := range changes.Nodes {
		x.nodes = true
		if was := c.Old != nil && c.Old.Ready; c.New != nil && was != c.New.Ready {
			x.turned[c.New.Name] = true
		}
		if c.New == nil {
			delete(x.reached, c.Old.Name)
		} else if c.New.Ready {
			x.reached[c.New.Name] = true
		}
		if c.New != nil && (c.Old == nil || c.Old.Labels[cluster.LabelZone] != c.New.Labels[cluster.LabelZone] || !slices.Equal(c.Old.Addresses, c.New.Addresses)) {
			x.touchPods(c.New.Name, own)
		}
	}
	x.followServices(&changes)
	if changes.Empty() {
		return false
	}
	for old, now := range changes.All() {
		x.touchNamespace(old)
		x.touchNamespace(now)
	}
	return true
}

// touchNamespace notes the namespace of what somebody wrote and that changed. Pods
// are left to pod.
func (x *index) touchNamespace(o cluster.Object) {
	switch o := o.(type) {
	case nil, *cluster.Pod:
	case *cluster.Namespace:
		x.namespaces[o.Name] = true
	default:
		if ns := o.Key().Namespace; ns != "" && !derived(o) {
			x.namespaces[ns] = true
		}
	}
}

// pod takes a pod in or out.
func (x *index) pod(p *cluster.Pod, in bool) {
	k := p.Key()
	x.fan.pod(p, in)
	x.namespaces[p.Namespace] = true
	if p.Owner.Name != "" {
		member(x.owned, p.Owner, k, in)
		x.dirty[p.Owner] = true
	}
	if p.Node == "" {
		if in && p.Deleted.IsZero() {
			x.pending[k] = true
		} else {
			delete(x.pending, k)
		}
		return
	}
	l := x.onNode[p.Node]
	if l == nil {
		l = &load{pods: map[cluster.Key]bool{}}
		x.onNode[p.Node] = l
	}
	delta := 1
	if in {
		l.pods[k] = true
		x.names[p.Node] = true
	} else {
		delete(l.pods, k)
		delta = -1
	}
	if p.Ended() {
		return
	}
	l.held += delta
	if p.Deleted.IsZero() {
		l.live += delta
	}
}

// begin notes that something was applied.
func (x *index) begin() {
	if !x.begun {
		x.begun, x.nodes = true, true
	}
}

func member(sets map[cluster.Key]map[cluster.Key]bool, set, k cluster.Key, in bool) {
	if !in {
		delete(sets[set], k)
		if len(sets[set]) == 0 {
			delete(sets, set)
		}
		return
	}
	if sets[set] == nil {
		sets[set] = map[cluster.Key]bool{}
	}
	sets[set][k] = true
}

// sorted returns a set's keys in order; what is decided must not depend on the
// order of a map.
func sorted[V any](set map[cluster.Key]V) []cluster.Key {
	if len(set) == 0 { // as is usual, and then it costs nothing
		return nil
	}
	return slices.SortedFunc(maps.Keys(set), compareKeys)
}

func compareKeys(a, b cluster.Key) int {
	switch {
	case a.Namespace != b.Namespace && a.Namespace < b.Namespace, a.Namespace == b.Namespace && a.Name < b.Name:
		return -1
	case a == b:
		return 0
	}
	return 1
}

// maxPasses bounds decide. Each pass does what the one before made necessary:
// a pod needs a namespace, a Deployment's replicas need nodes, and so on.
const maxPasses = 50

// decide does all that follows from the State as it is.
func (s *step) decide() error {
	x := s.index
	x.clock(s.now)
	for range maxPasses {
		if !x.follow(s.tx.State(), s.tx.Own()) && x.idle() {
			return nil
		}
		if err := s.pass(); err != nil {
			return err
		}
	}
	s.cfg.Log.Error("decisions do not settle", "passes", maxPasses)
	return nil
}

// clock marks what has become due.
func (x *index) clock(now time.Time) {
	for k, t := range x.due {
		if !now.Before(t) {
			delete(x.due, k)
			x.dirty[k] = true
		}
	}
	if !x.startBy.IsZero() && !now.Before(x.startBy) {
		x.nodes = true
	}
}

// next is when something will be due; zero for never.
func (x *index) next() time.Time {
	wake := x.startBy
	for _, t := range x.due {
		wake = earlier(wake, t)
	}
	if !x.remindBy.IsZero() {
		wake = earlier(wake, x.remindBy)
	}
	return wake
}

func (x *index) idle() bool {
	return len(x.dirty)+len(x.namespaces)+len(x.names)+len(x.services) == 0 && !x.nodes && x.fan.idle()
}

func (s *step) pass() error {
	x := s.index
	names, namespaces, dirty, nodes := x.names, x.namespaces, x.dirty, x.nodes
	x.names, x.namespaces, x.dirty, x.nodes = map[string]bool{}, map[string]bool{}, map[cluster.Key]bool{}, false
	err := func() error {
		s.nodesOf(slices.Sorted(maps.Keys(names)))
		if nodes || len(names) > 0 {
			if err := s.allocateNodes(); err != nil {
				return err
			}
		}
		for _, ns := range slices.Sorted(maps.Keys(namespaces)) {
			s.namespace(ns)
		}
		if nodes || namespaces[systemNamespace] {
			s.nameServers()
		}
		for _, k := range sorted(dirty) {
			s.rollout(k)
		}
		s.schedule()
		s.serve()
		return nil
	}()
	if err != nil { // it is to be looked at again
		maps.Copy(x.names, names)
		maps.Copy(x.namespaces, namespaces)
		maps.Copy(x.dirty, dirty)
		x.nodes = x.nodes || nodes
	}
	return err
}

// nodesOf makes the nodes that pods name.
func (s *step) nodesOf(names []string) {
	for _, name := range names {
		l := s.index.onNode[name]
		if l == nil || s.tx.Own().Node(name) != nil {
			continue
		}
		for _, k := range sorted(l.pods) {
			if p := s.tx.Own().Pod(k); p != nil && p.Deleted.IsZero() {
				s.putNewNode(name, p.Source)
				break
			}
		}
	}
}

func (s *step) putNewNode(name, source string) {
	n := &cluster.Node{Meta: cluster.Meta{Name: name, Source: source, Labels: map[string]string{hostnameLabel: name}}}
	s.create(&n.Meta)
	s.put(n)
}

// hostnameLabel is what Kubernetes' nodes carry, and selectors ask for.
const hostnameLabel = "kubernetes.io/hostname"

// namespace makes a namespace that objects name, and empties one that is
// being deleted.
func (s *step) namespace(name string) {
	own := s.tx.Own()
	n := own.Namespace(name)
	switch {
	case n == nil && !s.isEmpty(name):
		s.putNewNamespace(name)
	case n != nil && !n.Deleted.IsZero():
		for o := range own.In(name) {
			switch o := o.(type) {
			case *cluster.Pod:
				s.endPod(o.Key())
			case *cluster.NetworkPolicy:
				if none(s.tx.Own().Pods.In(name)) { // until then they are protected
					s.tx.Delete(cluster.RefOf(o))
				}
			default:
				if !derived(o) { // those go with their services
					s.tx.Delete(cluster.RefOf(o))
				}
			}
		}
		if s.isEmpty(name) {
			s.tx.Delete(cluster.KindNamespace.Ref(cluster.Key{Name: name}))
		}
	}
}

// isEmpty reports whether a namespace has nothing that somebody wrote, or that
// has to end first.
func (s *step) isEmpty(namespace string) bool {
	for o := range s.tx.Own().In(namespace) {
		if !derived(o) {
			return false
		}
	}
	return true
}

func none[T any](list iter.Seq[T]) bool {
	for range list {
		return false
	}
	return true
}

func (s *step) putNewNamespace(name string) {
	n := &cluster.Namespace{Meta: cluster.Meta{Name: name, Labels: map[string]string{"kubernetes.io/metadata.name": name}}}
	s.create(&n.Meta)
	s.put(n)
}

// endPod asks for the end of a pod. One that never had a node is gone at once;
// the others stay, as being deleted, until PodGone.
func (s *step) endPod(k cluster.Key) {
	own := s.tx.Own().Pod(k)
	if own == nil || !own.Deleted.IsZero() {
		return
	}
	if own.Node == "" {
		s.tx.Delete(cluster.KindPod.Ref(k))
		return
	}
	p := *own
	p.Deleted = s.now.Add(p.GracePeriod)
	s.put(&p)
}

// PodGone says that nothing of a pod that was to be deleted is left. A pod of
// that name with another UID is not meant.
func (c *Controller) PodGone(k cluster.Key, uid string) error {
	return c.update(func(s *step) error {
		if p := s.tx.Own().Pod(k); p != nil && p.UID == uid && !p.Deleted.IsZero() {
			s.tx.Delete(cluster.KindPod.Ref(k))
		}
		return nil
	})
}
