package control

import (
	"maps"

	"vswitch/vswitch/cluster"
)

// serve gives services what they lack, and derives their endpoints.
func (s *step) serve() {
	services := s.index.services
	s.index.services = map[cluster.Key]bool{}
	for _, k := range sorted(services) {
		s.assign(k)
	}
	lost := s.index.fan.lost
	s.index.fan.lost = map[cluster.Key]bool{}
	for _, k := range sorted(lost) {
		s.renew(k)
	}
	s.deriveAll()
}

// followServices takes in what changed of services and their endpoints.
func (x *index) followServices(changes *cluster.Changes) {
	for _, c := range changes.Services {
		for _, v := range []*cluster.Service{c.Old, c.New} {
			if v != nil {
				x.services[v.Key()] = true
			}
		}
		x.fan.service(c)
	}
	for _, c := range changes.EndpointSlices {
		x.fan.slice(c)
	}
	for _, c := range changes.Endpoints {
		for _, v := range []*cluster.Endpoints{c.Old, c.New} {
			if v != nil {
				x.fan.whole[v.Key()] = true
			}
		}
	}
	x.claims.follow(x.own.Services)
	if x.claims.freed {
		maps.Copy(x.services, x.wanting)
		maps.Copy(x.retried, x.wanting)
		x.claims.freed = false
	}
	if x.recheck {
		for v := range x.own.Services.All() {
			x.services[v.Key()], x.fan.whole[v.Key()] = true, true
		}
		x.recheck = false
	}
}

// touchPods notes that a node changed for the endpoints on it.
func (x *index) touchPods(node string, own *cluster.State) {
	if l := x.onNode[node]; l != nil {
		for k := range l.pods {
			if p := own.Pod(k); p != nil {
				x.fan.touch(p)
			}
		}
	}
}
