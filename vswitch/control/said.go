package control

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"vswitch/vswitch/cluster"
)

// remindEvery is when an event tells again what is still wrong. Kubernetes'
// controllers try again, and tell, at least that often (unschedulable pods of
// kube-scheduler; maxRetryDelay in k8s.io/cloud-provider/controllers/service).
const remindEvery = 5 * time.Minute

// said is what a step has to tell of objects, once it is certain that it happens.
// Its zero value is empty, and stays so where all is well.
type said struct {
	news    news
	ensured map[cluster.Key]bool // services whose load balancers got addresses
	events  []cluster.Event
}

// news is why conditions of services are not so, by condition.
type news map[cluster.Key]map[string]reported

// reported is why a condition is not so. again: it was so before, and something
// was tried in vain.
type reported struct {
	lack
	again bool
}

// lacks notes that a condition of a service is not so.
func (s *said) lacks(k cluster.Key, condition string, l *lack) {
	if n := s.news[k][condition]; n.lack != *l {
		s.note(k, condition, reported{*l, false})
	}
}

// retried notes that a service was tried to be given what it lacks.
func (s *said) retried(k cluster.Key, condition string, l *lack) {
	if l.passes() {
		s.note(k, condition, reported{*l, true})
	}
}

func (s *said) note(k cluster.Key, condition string, r reported) {
	if s.news == nil {
		s.news = news{}
	}
	s.news.add(k, condition, r)
}

func (n news) add(k cluster.Key, condition string, r reported) {
	if n[k] == nil {
		n[k] = map[string]reported{}
	}
	n[k][condition] = r
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
	x := s.index
	for _, k := range sorted(s.said.ensured) {
		v, old := s.tx.Own().Service(k), before.Service(k)
		if v != nil && len(v.Ingress) > 0 && (old == nil || old.UID != v.UID || !slices.Equal(old.Ingress, v.Ingress)) {
			s.said.happened(v, false, eventBalanced, "Ensured load balancer: "+ingressText(v))
		}
	}
	s.remind(before)
	s.tell(before)
	if x.remindBy.IsZero() && len(x.told)+len(x.pending) > 0 {
		x.remindBy = s.now.Add(remindEvery)
	}
	if len(x.turned) > 0 {
		for _, name := range slices.Sorted(maps.Keys(x.turned)) {
			if n := s.tx.State().Node(name); n != nil {
				s.said.nodeTurned(n)
			}
		}
		clear(x.turned)
	}
	return s.said.events
}

// tell makes events of what services lack and no event told of since it is so.
func (s *step) tell(before *cluster.State) {
	told := s.index.told
	for _, k := range sorted(s.said.news) {
		v, old := s.tx.Own().Service(k), before.Service(k)
		if v == nil {
			continue
		}
		for _, condition := range slices.Sorted(maps.Keys(s.said.news[k])) {
			n := s.said.news[k][condition]
			if !n.of(v, condition) {
				continue
			}
			was := old != nil && old.UID == v.UID && n.of(old, condition) && told[k][condition].lack == n.lack
			if !was || n.again {
				s.said.happened(v, true, cmp.Or(n.event, n.reason), n.message)
				told.add(k, condition, n)
			}
		}
	}
}

// remind makes events once more, when it is time to, of what services lack and of
// pods without a node.
func (s *step) remind(before *cluster.State) {
	x := s.index
	if x.remindBy.IsZero() || s.now.Before(x.remindBy) {
		return
	}
	x.remindBy = time.Time{}
	for _, k := range sorted(x.told) {
		s.remindOf(k)
	}
	for _, k := range sorted(x.pending) {
		p, old := s.tx.Own().Pod(k), before.Pod(k)
		if p != nil && p.Reason != "" && old != nil && old.Reason == p.Reason {
			s.said.happened(p, true, eventUnschedulable, p.Reason)
		}
	}
}

// remindOf makes the events of one service, and forgets what is not so any more.
func (s *step) remindOf(k cluster.Key) {
	told, v := s.index.told, s.tx.Own().Service(k)
	for _, condition := range slices.Sorted(maps.Keys(told[k])) {
		if n := told[k][condition]; v != nil && n.of(v, condition) {
			s.said.happened(v, true, cmp.Or(n.event, n.reason), n.message)
		} else {
			delete(told[k], condition)
		}
	}
	if len(told[k]) == 0 {
		delete(told, k)
	}
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
func (n *reported) of(v *cluster.Service, condition string) bool {
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
