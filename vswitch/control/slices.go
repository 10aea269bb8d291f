package control

import (
	"maps"
	"slices"

	"vswitch/vswitch/cluster"
)

// Controllers that write EndpointSlices, as their label says.
const (
	sliceController  = "endpointslice-controller.k8s.io"
	mirrorController = "endpointslicemirroring-controller.k8s.io"
)

var controllers = map[string]bool{sliceController: true, mirrorController: true}

// derived reports whether an object is a slice that was made here, not written by
// somebody.
func derived(o cluster.Object) bool {
	v, ok := o.(*cluster.EndpointSlice)
	return ok && controllers[v.Labels[cluster.LabelManagedBy]]
}

// maxEndpoints is how many endpoints a slice holds (--max-endpoints-per-slice
// of kube-controller-manager).
const maxEndpoints = 100

// fanout is what the endpoints of services are derived from, and where they are.
type fanout struct {
	selectors *selectors
	at        map[place]string                // the slice that holds a pod's endpoint
	slices    map[cluster.Key]map[string]bool // derived ones, by service
	written   map[cluster.Key]map[string]bool // those that somebody wrote
	// lacking are the ports that a service names and a pod does not have, by
	// service and pod.
	lacking map[cluster.Key]map[cluster.Key][]string

	// What is to be looked at, and is then cleared.
	whole map[cluster.Key]bool                 // services
	moved map[cluster.Key]map[cluster.Key]bool // pods that changed, by service
	lost  map[cluster.Key]bool                 // services that a slice went from
}

// place is where a pod's endpoint of a family is looked for.
type place struct {
	service, pod cluster.Key
	family       cluster.IPFamily
}

func newFanout() *fanout {
	return &fanout{selectors: newSelectors(), at: map[place]string{}, slices: map[cluster.Key]map[string]bool{},
		written: map[cluster.Key]map[string]bool{}, lacking: map[cluster.Key]map[cluster.Key][]string{},
		whole: map[cluster.Key]bool{}, moved: map[cluster.Key]map[cluster.Key]bool{}, lost: map[cluster.Key]bool{}}
}

func (x *fanout) idle() bool { return len(x.whole)+len(x.moved)+len(x.lost) == 0 }

// touch notes that a pod changed for the services that select it.
func (x *fanout) touch(p *cluster.Pod) {
	x.selectors.selecting(p, func(service cluster.Key) { member(x.moved, service, p.Key(), true) })
}

func (x *fanout) pod(p *cluster.Pod, in bool) {
	x.touch(p)
	x.selectors.pod(p, in)
}

func (x *fanout) service(c cluster.Change[cluster.Service]) {
	if c.Old != nil && c.New != nil && sameEndpoints(c.Old, c.New) {
		return
	}
	for _, v := range []*cluster.Service{c.Old, c.New} {
		if v != nil {
			x.selectors.service(v, v == c.New)
			x.whole[v.Key()] = true
		}
	}
}

// sameEndpoints reports whether both versions of a service have the same
// endpoints, whatever pods there are.
func sameEndpoints(a, b *cluster.Service) bool {
	return a.UID == b.UID && (a.Type == cluster.ServiceExternalName) == (b.Type == cluster.ServiceExternalName) &&
		a.Headless == b.Headless && a.PublishNotReady == b.PublishNotReady && a.Distribution == b.Distribution &&
		slices.Equal(a.IPFamilies, b.IPFamilies) && maps.Equal(a.Selector, b.Selector) && maps.Equal(a.Labels, b.Labels) &&
		slices.EqualFunc(a.Ports, b.Ports, func(p, q cluster.ServicePort) bool {
			p.NodePort, q.NodePort = 0, 0
			return p == q
		})
}

func (x *fanout) slice(c cluster.Change[cluster.EndpointSlice]) {
	if c.Old != nil && (c.New == nil || c.New.Service() != c.Old.Service() || c.New.Family != c.Old.Family) {
		x.lost[c.Old.Service()] = true
	}
	for _, v := range []*cluster.EndpointSlice{c.Old, c.New} {
		if v == nil {
			continue
		}
		in, k := v == c.New, v.Service()
		if v.Family != cluster.IPv4 && v.Family != cluster.IPv6 {
			continue // names, which nothing uses (addressType FQDN)
		}
		if !derived(v) {
			had := len(x.written[k])
			nameIn(x.written, k, v.Name, in)
			if (had == 0) != (len(x.written[k]) == 0) {
				x.whole[k] = true
			}
			continue
		}
		nameIn(x.slices, k, v.Name, in)
		if !in && c.New != nil && !derived(c.New) { // somebody took its name
			x.whole[k] = true
		}
		for i := range v.Endpoints {
			p := place{k, v.Endpoints[i].Pod, v.Family}
			if in {
				x.at[p] = v.Name
			} else if x.at[p] == v.Name {
				delete(x.at, p)
			}
		}
	}
}

func nameIn(sets map[cluster.Key]map[string]bool, k cluster.Key, name string, in bool) {
	if !in {
		delete(sets[k], name)
		if len(sets[k]) == 0 {
			delete(sets, k)
		}
		return
	}
	if sets[k] == nil {
		sets[k] = map[string]bool{}
	}
	sets[k][name] = true
}

// renew gives a service that a slice went from, and none changed for, a new version.
// Its Endpoints, which EndpointsOf makes when they are read, are of the latest version
// that they are made from, and would go back to an earlier one.
func (s *step) renew(k cluster.Key) {
	v := s.tx.Own().Service(k)
	if v == nil {
		return
	}
	for _, names := range []map[string]bool{s.index.fan.slices[k], s.index.fan.written[k]} {
		for name := range names {
			slice := s.tx.Own().EndpointSlices.Get(cluster.Key{Namespace: k.Namespace, Name: name})
			if slice != nil && slice.ResourceVersion == s.tx.Revision() && (len(v.IPFamilies) == 0 || slice.Family == v.IPFamilies[0]) {
				return
			}
		}
	}
	renewed := *v
	s.put(&renewed)
}

// deriveAll derives the slices of all services that something changed for.
func (s *step) deriveAll() {
	x := s.index.fan
	whole, moved := x.whole, x.moved
	x.whole, x.moved = map[cluster.Key]bool{}, map[cluster.Key]map[cluster.Key]bool{}
	for _, k := range slices.SortedFunc(maps.Keys(moved), compareKeys) {
		if !whole[k] {
			s.derive(k, moved[k], false)
		}
	}
	for _, k := range sorted(whole) {
		s.derive(k, moved[k], true)
	}
}

// derive brings the slices of a service up to date, for some of its pods or
// for all (pkg/controller/endpointslice and k8s.io/endpointslice).
func (s *step) derive(k cluster.Key, pods map[cluster.Key]bool, whole bool) {
	x := s.index.fan
	v := s.tx.Own().Service(k)
	r := &refill{step: s, service: v, key: k, open: map[string]*cluster.EndpointSlice{}}
	switch {
	case v == nil || v.Type == cluster.ServiceExternalName || len(x.written[k]) > 0:
		r.drop()
	case len(v.Selector) == 0:
		r.mirror(s.tx.Own().Endpoints.Get(k))
	default:
		if whole {
			delete(x.lacking, k)
			r.lacks = true
			pods = x.selectors.selected(v)
			if pods == nil {
				pods = map[cluster.Key]bool{}
			}
			r.relabel(pods)
		}
		for _, p := range sorted(pods) {
			r.pod(p)
		}
		r.hold()
	}
	r.commit()
	if v != nil && (r.lacks || whole) {
		s.report(v)
	}
}
