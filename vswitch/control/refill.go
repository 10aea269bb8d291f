package control

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"vswitch/vswitch/cluster"
)

// refill changes the slices of one service.
type refill struct {
	*step
	service *cluster.Service
	key     cluster.Key
	open    map[string]*cluster.EndpointSlice // copies that may be changed
	names   []string                          // of slices that may have room; nil: not looked up
	lacks   bool                              // the ports that pods lack changed
	held    map[string]bool                   // slices that stay without endpoints
}

// look returns a derived slice as it is so far, not to be changed, or nil.
func (r *refill) look(name string) *cluster.EndpointSlice {
	if v := r.open[name]; v != nil {
		return v
	}
	own := r.tx.Own().EndpointSlices.Get(cluster.Key{Namespace: r.key.Namespace, Name: name})
	if own == nil || !derived(own) {
		return nil
	}
	return own
}

// slice returns a copy of a slice to change, or nil.
func (r *refill) slice(name string) *cluster.EndpointSlice {
	own := r.look(name)
	if own == nil || own == r.open[name] {
		return own
	}
	v := *own
	v.Endpoints = slices.Clone(own.Endpoints)
	r.open[name] = &v
	return &v
}

// drop empties all derived slices.
func (r *refill) drop() {
	delete(r.index.fan.lacking, r.key)
	r.lacks = true
	for name := range r.index.fan.slices[r.key] {
		r.empty(name)
	}
}

func (r *refill) empty(name string) {
	if v := r.slice(name); v != nil {
		v.Endpoints = nil
	}
}

// relabel gives all slices the labels that they should have, and adds the pods
// that are in them to pods, so that each is looked at.
func (r *refill) relabel(pods map[cluster.Key]bool) {
	labels := r.labels(sliceController)
	for name := range r.index.fan.slices[r.key] {
		v := r.slice(name)
		if v == nil {
			continue
		}
		if v.Labels[cluster.LabelManagedBy] != sliceController { // it has a selector now
			v.Endpoints = nil
		}
		v.Labels, v.Owner, v.OwnerUID = labels, cluster.RefOf(r.service), r.service.UID
		for i := range v.Endpoints {
			pods[v.Endpoints[i].Pod] = true
		}
	}
}

// labels are those of the service's slices.
func (r *refill) labels(controller string) map[string]string {
	labels := maps.Clone(r.service.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	delete(labels, cluster.LabelHeadless)
	if r.service.Headless {
		labels[cluster.LabelHeadless] = ""
	}
	labels[cluster.LabelServiceName] = r.key.Name
	labels[cluster.LabelManagedBy] = controller
	return labels
}

// pod puts the endpoints of a pod where they belong.
func (r *refill) pod(k cluster.Key) {
	x := r.index.fan
	p := r.tx.State().Pod(k)
	if r.tx.Own().Pod(k) == nil || p != nil && (p.Ended() || !selects(r.service.Selector, p.Labels) || mute(r.key, p)) {
		p = nil
	}
	var ports []cluster.EndpointPort
	var missing []string
	if p != nil {
		ports, missing = portsOf(r.service, p)
	}
	r.lack(k, missing)
	for _, f := range []cluster.IPFamily{cluster.IPv4, cluster.IPv6} {
		var want *cluster.Endpoint
		if p != nil && slices.Contains(r.service.IPFamilies, f) {
			want = r.endpoint(p, f)
		}
		name := x.at[place{r.key, k, f}]
		if name != "" && !r.keep(name, k, want, ports) {
			name = ""
		}
		if name == "" && want != nil {
			v := r.room(f, ports)
			at, _ := position(v, k)
			v.Endpoints = slices.Insert(v.Endpoints, at, *want)
		}
	}
}

// keep brings a pod's endpoint in a slice up to date. It takes it out, and
// returns false, if the slice is not the one for it.
func (r *refill) keep(name string, pod cluster.Key, want *cluster.Endpoint, ports []cluster.EndpointPort) bool {
	own := r.look(name)
	if own == nil {
		return false
	}
	at, found := position(own, pod)
	if !found {
		return false
	}
	stays := want != nil && slices.Equal(own.Ports, ports)
	if stays && equalEndpoint(&own.Endpoints[at], want) {
		return true
	}
	v := r.slice(name)
	if stays {
		v.Endpoints[at] = *want
		return true
	}
	v.Endpoints = slices.Delete(v.Endpoints, at, at+1)
	return false
}

func equalEndpoint(a, b *cluster.Endpoint) bool {
	return slices.Equal(a.Addresses, b.Addresses) && a.Ready == b.Ready && a.Serving == b.Serving && a.Terminating == b.Terminating &&
		a.Hostname == b.Hostname && a.Node == b.Node && a.Zone == b.Zone && a.Pod == b.Pod && a.PodUID == b.PodUID &&
		slices.Equal(a.ForZones, b.ForZones) && slices.Equal(a.ForNodes, b.ForNodes)
}

// position returns where a pod's endpoint is, or should be: slices are in
// order of their pods.
func position(v *cluster.EndpointSlice, pod cluster.Key) (int, bool) {
	return slices.BinarySearchFunc(v.Endpoints, pod, func(e cluster.Endpoint, k cluster.Key) int { return compareKeys(e.Pod, k) })
}

// room returns a slice for one more endpoint.
func (r *refill) room(f cluster.IPFamily, ports []cluster.EndpointPort) *cluster.EndpointSlice {
	if r.names == nil {
		r.names = slices.Sorted(maps.Keys(r.index.fan.slices[r.key]))
	}
	for _, name := range r.names {
		if own := r.look(name); own != nil && own.Family == f && len(own.Endpoints) < maxEndpoints && slices.Equal(own.Ports, ports) {
			return r.slice(name)
		}
	}
	v := r.add(f, ports)
	r.names = append(r.names, v.Name)
	return v
}

// add makes a slice of the service whose name follows from what is in it, and from
// how many like it there are already.
func (r *refill) add(f cluster.IPFamily, ports []cluster.EndpointPort) *cluster.EndpointSlice {
	v := &cluster.EndpointSlice{Family: f, Ports: ports, Owner: cluster.RefOf(r.service), OwnerUID: r.service.UID}
	v.Namespace, v.Labels = r.key.Namespace, r.labels(sliceController)
	base := r.key.Name[:min(len(r.key.Name), 57)] + "-"
	for serial := 0; ; serial++ {
		v.Name = base + encode(hash(r.key, f, ports, serial), 5)
		if r.open[v.Name] == nil && r.tx.Own().EndpointSlices.Get(v.Key()) == nil {
			break
		}
	}
	r.create(&v.Meta)
	v.Generation = 0 // commit counts
	r.open[v.Name] = v
	return v
}

// hold leaves a service one slice without endpoints and ports for every family in
// which it has no other: who watches slices can tell a service without endpoints
// from one that nobody has looked at yet (k8s.io/endpointslice/reconciler.go).
func (r *refill) hold() {
	names := maps.Clone(r.index.fan.slices[r.key])
	if names == nil {
		names = map[string]bool{}
	}
	for name := range r.open {
		names[name] = true
	}
	held := map[cluster.IPFamily]string{}
	for name := range names {
		v := r.look(name)
		switch {
		case v == nil:
		case len(v.Endpoints) > 0:
			held[v.Family] = "" // a real one
		case len(v.Ports) == 0 && v.Labels[cluster.LabelManagedBy] == sliceController:
			if h, ok := held[v.Family]; !ok || h > name && h != "" {
				held[v.Family] = name
			}
		}
	}
	for name := range names {
		if v := r.look(name); v != nil && len(v.Endpoints) == 0 {
			r.empty(name)
		}
	}
	r.held = map[string]bool{}
	for _, f := range r.service.IPFamilies {
		switch name, ok := held[f]; {
		case !ok:
			r.held[r.add(f, nil).Name] = true
		case name != "":
			r.held[name] = true
		}
	}
}

// commit writes what changed; a slice without endpoints goes, unless it is held.
func (r *refill) commit() {
	for _, name := range slices.Sorted(maps.Keys(r.open)) {
		v := r.open[name]
		own := r.tx.Own().EndpointSlices.Get(v.Key())
		switch {
		case len(v.Endpoints) == 0 && !r.held[name]:
			r.tx.Delete(cluster.RefOf(v))
		case own == nil || !sameMeta(own, v) || !slices.EqualFunc(own.Endpoints, v.Endpoints, func(a, b cluster.Endpoint) bool { return equalEndpoint(&a, &b) }):
			v.Generation++
			if v.Owner.Kind == cluster.KindService {
				v.Annotations = map[string]string{cluster.AnnotationTrigger: r.now.Format(time.RFC3339)}
			}
			r.put(v)
		}
	}
}

// sameMeta compares what two slices have of their owner.
func sameMeta(a, b *cluster.EndpointSlice) bool {
	return a.Owner == b.Owner && a.OwnerUID == b.OwnerUID && maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations)
}

// endpoint is what a pod is as an endpoint of the service, or nil without an
// address of the family.
func (r *refill) endpoint(p *cluster.Pod, f cluster.IPFamily) *cluster.Endpoint {
	node := r.tx.State().Node(p.Node)
	ips := p.IPs
	if len(ips) == 0 && p.HostNetwork && p.Phase == cluster.PodRunning && node != nil {
		ips = node.Addresses
	}
	at := slices.IndexFunc(ips, func(a netip.Addr) bool { return cluster.FamilyOf(a) == f })
	if at < 0 {
		return nil
	}
	terminating := !p.Deleted.IsZero()
	e := &cluster.Endpoint{
		Addresses: []netip.Addr{ips[at]}, Node: p.Node, Pod: p.Key(), PodUID: p.UID,
		Ready:   r.service.PublishNotReady || p.Ready && !terminating,
		Serving: p.Ready, Terminating: terminating,
	}
	if node != nil {
		e.Zone = node.Labels[cluster.LabelZone]
	}
	if p.Hostname != "" && p.Subdomain == r.key.Name {
		e.Hostname = p.Hostname
	}
	if r.service.Distribution != "" && e.Ready {
		// k8s.io/endpointslice/trafficdist: each endpoint is for its own zone.
		if e.Zone != "" {
			e.ForZones = []string{e.Zone}
		}
		if r.service.Distribution == cluster.PreferSameNode && e.Node != "" {
			e.ForNodes = []string{e.Node}
		}
	}
	return e
}
