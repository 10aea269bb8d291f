package control

import (
	"maps"
	"math"

	"vswitch/vswitch/cluster"
)

// selectors finds the services that select a pod, and the pods that a service
// selects, without a look at all others. Every pod stands under each of its
// labels, every service under the rarest of those that it selects by.
type selectors struct {
	pods     map[label]map[cluster.Key]bool
	services map[label]map[cluster.Key]map[string]string // to their selectors
	under    map[cluster.Key]label                       // where a service stands
}

// label is one label of the pods of a namespace.
type label struct{ namespace, key, value string }

func newSelectors() *selectors {
	return &selectors{pods: map[label]map[cluster.Key]bool{}, services: map[label]map[cluster.Key]map[string]string{}, under: map[cluster.Key]label{}}
}

// pod takes a pod in or out.
func (x *selectors) pod(p *cluster.Pod, in bool) {
	for k, v := range p.Labels {
		l := label{p.Namespace, k, v}
		if !in {
			delete(x.pods[l], p.Key())
			if len(x.pods[l]) == 0 {
				delete(x.pods, l)
			}
			continue
		}
		if x.pods[l] == nil {
			x.pods[l] = map[cluster.Key]bool{}
		}
		x.pods[l][p.Key()] = true
	}
}

// service takes a service in or out.
func (x *selectors) service(v *cluster.Service, in bool) {
	k := v.Key()
	if !in {
		l := x.under[k]
		delete(x.under, k)
		delete(x.services[l], k)
		if len(x.services[l]) == 0 {
			delete(x.services, l)
		}
		return
	}
	if len(v.Selector) == 0 || v.Type == cluster.ServiceExternalName {
		return
	}
	l := x.rarest(v.Namespace, v.Selector, func(l label) int { return len(x.services[l]) })
	x.under[k] = l
	if x.services[l] == nil {
		x.services[l] = map[cluster.Key]map[string]string{}
	}
	x.services[l][k] = v.Selector
}

// rarest returns the label of a selector that counts least; of equals, the
// first by key.
func (x *selectors) rarest(namespace string, selector map[string]string, count func(label) int) (best label) {
	least := math.MaxInt
	for k, v := range selector {
		l := label{namespace, k, v}
		if n := count(l); n < least || n == least && k < best.key {
			least, best = n, l
		}
	}
	return best
}

// selecting calls fn for each service that selects p.
func (x *selectors) selecting(p *cluster.Pod, fn func(cluster.Key)) {
	for k, v := range p.Labels {
		for service, selector := range x.services[label{p.Namespace, k, v}] {
			if selects(selector, p.Labels) {
				fn(service)
			}
		}
	}
}

// selected returns the pods that v may select: those with the rarest of its labels.
func (x *selectors) selected(v *cluster.Service) map[cluster.Key]bool {
	if len(v.Selector) == 0 {
		return nil
	}
	return maps.Clone(x.pods[x.rarest(v.Namespace, v.Selector, func(l label) int { return len(x.pods[l]) })])
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}
