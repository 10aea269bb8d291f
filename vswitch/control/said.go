package control

import (
	"cmp"
	"maps"
	"slices"

	"vswitch/vswitch/cluster"
)

// said is what a step has to tell of objects, once it is certain that it happens.
// Its zero value is empty, and stays so where all is well.
type said struct {
	news    map[cluster.Key]map[string]news // of services, by condition
	ensured map[cluster.Key]bool            // services whose load balancers got addresses
	events  []cluster.Event
}

// news is why a condition is not so. again: it was so before, and something was
// tried in vain.
type news struct {
	lack
	again bool
}

// lacks notes that a condition of a service changed.
func (s *said) lacks(k cluster.Key, condition string, l *lack) { s.note(k, condition, news{*l, false}) }

// retried notes that a service was tried to be given what it lacks.
func (s *said) retried(k cluster.Key, condition string, l *lack) {
	if l.passes() {
		s.note(k, condition, news{*l, true})
	}
}

func (s *said) note(k cluster.Key, condition string, n news) {
	if s.news == nil {
		s.news = map[cluster.Key]map[string]news{}
	}
	if s.news[k] == nil {
		s.news[k] = map[string]news{}
	}
	s.news[k][condition] = n
}

// ensure notes that the load balancer of a service got addresses.
func (s *said) ensure(k cluster.Key) {
	if s.ensured == nil {
		s.ensured = map[cluster.Key]bool{}
	}
	s.ensured[k] = true
}

// happened notes an event of an object.
func (s *said) happened(o cluster.Object, warning bool, reason, message string) {
	s.events = append(s.events, cluster.Event{Object: cluster.RefOf(o), ObjectUID: o.Metadata().UID, Warning: warning, Reason: reason, Message: message})
}

// owner notes an event of a replica's Deployment.
func (s *said) owner(p *cluster.Pod, reason, message string) {
	s.events = append(s.events, cluster.Event{Object: cluster.KindDeployment.Ref(p.Owner), ObjectUID: p.OwnerUID, Reason: reason, Message: message})
}

// eventsSince returns what is to be told of the step, which began with before. What
// changed and changed back meanwhile is not mentioned.
func (s *step) eventsSince(before *cluster.State) []cluster.Event {
	for _, k := range sorted(s.said.ensured) {
		v, old := s.tx.Own().Service(k), before.Service(k)
		if v != nil && len(v.Ingress) > 0 && (old == nil || old.UID != v.UID || !slices.Equal(old.Ingress, v.Ingress)) {
			s.said.happened(v, false, eventBalanced, "Ensured load balancer: "+ingressText(v))
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(s.said.news), compareKeys) {
		v, old := s.tx.Own().Service(k), before.Service(k)
		if v == nil {
			continue
		}
		for _, condition := range slices.Sorted(maps.Keys(s.said.news[k])) {
			n := s.said.news[k][condition]
			if n.of(v, condition) && (n.again || old == nil || old.UID != v.UID || !n.of(old, condition)) {
				s.said.happened(v, true, cmp.Or(n.event, n.reason), n.message)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.index.turned)) {
		if n := s.tx.State().Node(name); n != nil {
			s.said.nodeTurned(n)
		}
	}
	clear(s.index.turned)
	return s.said.events
}

// nodeTurned tells that a node is ready, or is not any more, in the words of
// Kubernetes (pkg/kubelet/kubelet_node_status.go).
func (s *said) nodeTurned(n *cluster.Node) {
	reason, why := "NodeReady", ""
	if !n.Ready {
		reason = "NodeNotReady"
		if n.Reason != "" {
			why = ": " + n.Reason
		}
	}
	s.happened(n, false, reason, "Node "+n.Name+" status is now: "+reason+why)
}

// of reports whether a service has the condition.
func (n *news) of(v *cluster.Service, condition string) bool {
	return slices.ContainsFunc(v.Conditions, func(c cluster.Condition) bool {
		return c.Type == condition && c.Reason == n.reason && c.Message == n.message
	})
}

// ingressText is where a load balancer is.
func ingressText(v *cluster.Service) (text string) {
	for i, g := range v.Ingress {
		if i > 0 {
			text += ","
		}
		if g.IP.IsValid() {
			text += g.IP.String()
		} else {
			text += g.Hostname
		}
	}
	return text
}
