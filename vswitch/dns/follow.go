package dns

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/gaissmai/bart"

	"vswitch/vswitch/cluster"
)

// Follow returns the Zone after the changes, which are all since the last ones:
// those of a cluster.Watcher, say. It costs what has changed: of a slice, the
// endpoints that differ; of a service, its own slices only if it is another one
// for DNS. z is as it was.
func (z *Zone) Follow(c *cluster.Changes) *Zone {
	n := *z
	n.synced, n.serial, n.namespaces = true, uint32(c.To.Revision), c.To.Namespaces
	n.generation++
	e := edit{zone: &n, open: map[cluster.Key]*service{}}
	// Tables that nobody has seen are filled in place.
	if e.freshNames = z.names.Size() == 0; e.freshNames {
		n.names = new(bart.Table[*shared[owner]])
	}
	if e.freshPods = z.pods.Size() == 0; e.freshPods {
		n.pods = new(bart.Table[*shared[cluster.Key]])
	}
	for _, ch := range c.Services {
		e.service(ch)
	}
	for _, ch := range c.EndpointSlices {
		e.slice(ch)
	}
	for _, ch := range c.Pods {
		e.pod(ch)
	}
	for key, s := range e.open {
		if s.obj == nil && len(s.parts) == 0 {
			n.services = n.services.Without(key)
		} else {
			n.services = n.services.With(key, s)
		}
	}
	return &n
}

// edit is a Zone in the making.
type edit struct {
	zone                  *Zone
	open                  map[cluster.Key]*service // copies that may be changed
	freshNames, freshPods bool
}

// at returns the service to change it.
func (e *edit) at(k cluster.Key) *service {
	if s := e.open[k]; s != nil {
		return s
	}
	s := &service{key: &k}
	if old := e.zone.services.Get(k); old != nil {
		*s = *old
		s.parts = slices.Clone(old.parts)
	}
	e.open[k] = s
	return s
}

func (e *edit) service(c cluster.Change[cluster.Service]) {
	var s *service
	for _, v := range []*cluster.Service{c.Old, c.New} {
		if v != nil {
			s = e.at(v.Key())
		}
	}
	was := s.obj
	s.obj = c.New
	gone, come := clusterIPs(was), clusterIPs(s.obj)
	if !slices.Equal(gone, come) {
		for _, a := range gone {
			e.remove(a, owner{service: s.key})
		}
		for _, a := range come {
			e.add(a, owner{service: s.key})
		}
	}
	if was == nil || s.obj == nil || was.Type != s.obj.Type || was.PublishNotReady != s.obj.PublishNotReady {
		for i, p := range s.parts {
			s.parts[i] = newPart(p.source, s.obj)
			e.endpoints(s, p, s.parts[i])
		}
	}
}

// clusterIPs are those that a service answers at.
func clusterIPs(s *cluster.Service) []netip.Addr {
	if s == nil || s.Headless || s.Type == cluster.ServiceExternalName {
		return nil
	}
	return s.ClusterIPs
}

func (e *edit) slice(c cluster.Change[cluster.EndpointSlice]) {
	if c.Old != nil && usable(c.Old) && (c.New == nil || !usable(c.New) || c.New.Service() != c.Old.Service()) {
		e.part(c.Old.Service(), c.Old.Name, nil)
	}
	if c.New != nil && usable(c.New) {
		e.part(c.New.Service(), c.New.Name, c.New)
	}
}

// usable reports whether a slice holds addresses of a service.
func usable(v *cluster.EndpointSlice) bool {
	return v.Service().Name != "" && (v.Family == cluster.IPv4 || v.Family == cluster.IPv6)
}

// part puts a slice in its place, nil for none.
func (e *edit) part(key cluster.Key, name string, source *cluster.EndpointSlice) {
	s := e.at(key)
	i, found := slices.BinarySearchFunc(s.parts, name, func(p *part, name string) int { return cmp.Compare(p.name, name) })
	var old, now *part
	if found {
		old = s.parts[i]
	}
	if source != nil {
		now = newPart(source, s.obj)
	}
	switch {
	case found && now != nil:
		s.parts[i] = now
	case found:
		s.parts = slices.Delete(s.parts, i, i+1)
	case now != nil:
		s.parts = slices.Insert(s.parts, i, now)
	}
	e.endpoints(s, old, now)
}

// newPart takes from a slice what has a name: its ready endpoints, or all of them
// if the service says so. A service that is not there, or stands for another
// name, has none.
func newPart(v *cluster.EndpointSlice, of *cluster.Service) *part {
	p := &part{name: v.Name, ports: v.Ports, source: v}
	if v.Family == cluster.IPv6 {
		p.family = v6
	}
	if of == nil || of.Type == cluster.ServiceExternalName {
		return p
	}
	p.ready = make([]endpoint, 0, len(v.Endpoints))
	seen := make(map[endpoint]bool, len(v.Endpoints))
	for i := range v.Endpoints {
		in := &v.Endpoints[i]
		if !in.Ready && !of.PublishNotReady {
			continue
		}
		for _, a := range in.Addresses {
			at := endpoint{a, strings.ToLower(in.Hostname)}
			if familyOf(a) == p.family && !seen[at] {
				seen[at] = true
				p.ready = append(p.ready, at)
			}
		}
	}
	return p
}

// endpoints brings the indexes from an old part, or none, to what it is now.
func (e *edit) endpoints(s *service, old, now *part) {
	var gone, come []endpoint
	if old != nil {
		gone = old.ready
		s.ready[old.family] -= len(old.ready)
		e.zone.endpoints -= len(old.ready)
	}
	if now != nil {
		come = now.ready
		s.ready[now.family] += len(now.ready)
		e.zone.endpoints += len(now.ready)
	}
	gone, come = difference(gone, come)
	for _, x := range gone {
		e.remove(x.addr, owner{s.key, old.name, x.host})
		e.rename(s, x, old.name, false)
	}
	for _, x := range come {
		e.add(x.addr, owner{s.key, now.name, x.host})
		e.rename(s, x, now.name, true)
	}
}

// difference returns what is only in a, and what is only in b. Endpoints keep
// their order from one version of a slice to the next, so most are equal from one
// of the ends.
func difference(a, b []endpoint) (onlyA, onlyB []endpoint) {
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	if len(a) == 0 || len(b) == 0 {
		return a, b
	}
	in := make(map[endpoint]bool, len(b))
	for _, x := range b {
		in[x] = true
	}
	for _, x := range a {
		if in[x] {
			delete(in, x)
		} else {
			onlyA = append(onlyA, x)
		}
	}
	return onlyA, slices.Collect(maps.Keys(in))
}

// rename adds an endpoint to those of its hostname, or takes it out.
func (e *edit) rename(s *service, x endpoint, slice string, in bool) {
	if x.host == "" {
		return
	}
	key := cluster.Key{Name: x.host}
	old := s.hosts.Get(key)
	switch now := old.change(e.zone.generation, place{slice, x.addr}, in); {
	case now == nil:
		s.hosts = s.hosts.Without(key)
	case now != old:
		s.hosts = s.hosts.With(key, now)
	}
}

// shared is a list that Zones share. The one that is being made may change those
// that it has made itself, so that many changes of one list cost one copy.
type shared[T comparable] struct {
	list []T
	made uint64 // the generation
}

// change returns the list with x, or without: l itself if it may be changed, and nil
// if nothing is left.
func (l *shared[T]) change(generation uint64, x T, in bool) *shared[T] {
	if l == nil {
		l = &shared[T]{made: generation}
	} else if l.made != generation {
		l = &shared[T]{slices.Clone(l.list), generation}
	}
	if in {
		l.list = append(l.list, x)
	} else if i := slices.Index(l.list, x); i >= 0 {
		l.list = slices.Delete(l.list, i, i+1)
	}
	if len(l.list) == 0 {
		return nil
	}
	return l
}

func (e *edit) add(a netip.Addr, o owner) {
	store(&e.zone.names, e.freshNames, e.zone.generation, a, o, true)
}

func (e *edit) remove(a netip.Addr, o owner) {
	store(&e.zone.names, e.freshNames, e.zone.generation, a, o, false)
}

// store puts x among what an address has, or takes it out. A table that is fresh
// is changed in place.
func store[T comparable](t **bart.Table[*shared[T]], fresh bool, generation uint64, a netip.Addr, x T, in bool) {
	p := netip.PrefixFrom(a, a.BitLen())
	old, _ := (*t).Get(p)
	switch now := old.change(generation, x, in); {
	case now == nil && fresh:
		(*t).Delete(p)
	case now == nil:
		*t = (*t).DeletePersist(p)
	case now == old:
	case fresh:
		(*t).Insert(p, now)
	default:
		*t = (*t).InsertPersist(p, now)
	}
}

func (e *edit) pod(c cluster.Change[cluster.Pod]) {
	gone, come := podIPs(c.Old), podIPs(c.New)
	if slices.Equal(gone, come) {
		return
	}
	for _, a := range gone {
		store(&e.zone.pods, e.freshPods, e.zone.generation, a, c.Old.Key(), false)
	}
	for _, a := range come {
		store(&e.zone.pods, e.freshPods, e.zone.generation, a, c.New.Key(), true)
	}
}

// podIPs are the addresses of a pod that has not ended.
func podIPs(p *cluster.Pod) []netip.Addr {
	if p == nil || p.Ended() {
		return nil
	}
	return p.IPs
}
