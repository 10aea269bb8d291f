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
	n.synced, n.serial = true, uint32(c.To.Revision)
	n.namespaces, n.podObjects = c.To.Namespaces, c.To.Pods
	n.generation++
	e := edit{zone: &n, open: map[cluster.Key]*opened{}}
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
		s.close(n.generation)
		if s.obj == nil && len(s.parts) == 0 {
			n.services = n.services.Without(key)
		} else {
			n.services = n.services.With(key, s.service)
		}
	}
	for a, gone := range e.goneNames {
		take(&n.names, e.freshNames, n.generation, a, gone)
	}
	for a, gone := range e.gonePods {
		take(&n.pods, e.freshPods, n.generation, a, gone)
	}
	return &n
}

// edit is a Zone in the making. What goes from a long list is taken out last, all of
// it at once: one by one, each would move the whole list.
type edit struct {
	zone                  *Zone
	open                  map[cluster.Key]*opened
	goneNames             gone[netip.Addr, owner]
	gonePods              gone[netip.Addr, cluster.Key]
	freshNames, freshPods bool
}

// opened is a copy of a service that may be changed.
type opened struct {
	*service
	come      []*part // new ones; each slice comes or goes once
	goneParts map[*part]bool
	goneHosts gone[string, place]
}

// at returns the service to change it.
func (e *edit) at(k cluster.Key) *opened {
	if s := e.open[k]; s != nil {
		return s
	}
	s := &opened{service: &service{key: &k}}
	if old := e.zone.services.Get(k); old != nil {
		*s.service = *old
		s.parts = slices.Clone(old.parts)
	}
	e.open[k] = s
	return s
}

// close brings the service's lists up to date.
func (s *opened) close(generation uint64) {
	if len(s.goneParts) > 0 {
		s.parts = slices.DeleteFunc(s.parts, func(p *part) bool { return s.goneParts[p] })
	}
	if len(s.come) > 0 {
		s.parts = append(s.parts, s.come...)
		slices.SortFunc(s.parts, func(a, b *part) int { return cmp.Compare(a.name, b.name) })
	}
	for host, gone := range s.goneHosts {
		s.takeHost(generation, host, gone)
	}
}

// takeHost takes out of what a hostname has.
func (s *opened) takeHost(generation uint64, host string, gone []place) {
	key := cluster.Key{Name: host}
	old := s.hosts.Get(key)
	switch now := old.without(generation, gone); {
	case now == nil:
		s.hosts = s.hosts.Without(key)
	case now != old:
		s.hosts = s.hosts.With(key, now)
	}
}

func (e *edit) service(c cluster.Change[cluster.Service]) {
	var s *opened
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
		if s.goneParts == nil {
			s.goneParts = map[*part]bool{}
		}
		s.goneParts[old] = true
	case now != nil:
		s.come = append(s.come, now)
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
func (e *edit) endpoints(s *opened, old, now *part) {
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
		e.unname(s, x, old.name)
	}
	for _, x := range come {
		e.add(x.addr, owner{s.key, now.name, x.host})
		e.rename(s, x, now.name)
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

// rename adds an endpoint to those of its hostname.
func (e *edit) rename(s *opened, x endpoint, slice string) {
	if x.host == "" {
		return
	}
	key := cluster.Key{Name: x.host}
	old := s.hosts.Get(key)
	if now := old.with(e.zone.generation, place{slice, x.addr}); now != old {
		s.hosts = s.hosts.With(key, now)
	}
}

// unname takes an endpoint out of those of its hostname.
func (e *edit) unname(s *opened, x endpoint, slice string) {
	if x.host == "" {
		return
	}
	gone := place{slice, x.addr}
	if s.hosts.Get(cluster.Key{Name: x.host}).isLong() {
		s.goneHosts.add(x.host, gone)
	} else {
		s.takeHost(e.zone.generation, x.host, []place{gone})
	}
}

func (e *edit) add(a netip.Addr, o owner) { put(&e.zone.names, e.freshNames, e.zone.generation, a, o) }

func (e *edit) remove(a netip.Addr, o owner) {
	drop(&e.zone.names, &e.goneNames, e.freshNames, e.zone.generation, a, o)
}

func (e *edit) pod(c cluster.Change[cluster.Pod]) {
	gone, come := podIPs(c.Old), podIPs(c.New)
	if slices.Equal(gone, come) {
		return
	}
	for _, a := range gone {
		drop(&e.zone.pods, &e.gonePods, e.freshPods, e.zone.generation, a, c.Old.Key())
	}
	for _, a := range come {
		put(&e.zone.pods, e.freshPods, e.zone.generation, a, c.New.Key())
	}
}

// podIPs are the addresses of a pod that has not ended.
func podIPs(p *cluster.Pod) []netip.Addr {
	if p == nil || p.Ended() {
		return nil
	}
	return p.IPs
}
