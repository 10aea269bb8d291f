package control

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"time"

	"vswitch/vswitch/cluster"
)

// hashLabel tells the replicas of one template from those of another
// (apps/v1 DefaultDeploymentUniqueLabelKey).
const hashLabel = "pod-template-hash"

// rollout brings a Deployment's replicas closer to what they should be. The
// rules are those of Kubernetes' Deployment and ReplicaSet controllers
// (pkg/controller/deployment/rolling.go, pkg/controller/controller_utils.go),
// without ReplicaSets in between: their events are the Deployment's. A replica
// that is being deleted counts no more.
func (s *step) rollout(k cluster.Key) {
	d := s.tx.Own().Deployment(k)
	if d == nil {
		for _, p := range sorted(s.index.owned[k]) {
			s.endPod(p)
		}
		return
	}
	r := s.replicas(d)
	for _, p := range r.ended {
		s.endPod(p.Key())
	}
	grown := *d
	switch {
	case len(r.old) == 0:
		r.scale(s, &grown, d.Replicas)
	case d.Recreate:
		s.end(r.old, len(r.old))
	default:
		r.roll(s, &grown)
	}
	r.report(s, d, &grown)
}

// replicas are a Deployment's pods.
type replicas struct {
	template string         // hash of the present template
	new, old []*cluster.Pod // of the present template and of others
	ended    []*cluster.Pod // not being deleted, but ended by themselves
	leaving  int            // of others, being deleted
	ready    map[*cluster.Pod]bool
	usable   map[*cluster.Pod]bool // ready for long enough: available
}

func (s *step) replicas(d *cluster.Deployment) *replicas {
	r := &replicas{template: templateHash(&d.Template), ready: map[*cluster.Pod]bool{}, usable: map[*cluster.Pod]bool{}}
	for _, k := range sorted(s.index.owned[d.Key()]) {
		p := s.tx.State().Pod(k)
		switch {
		case p == nil:
		case !p.Deleted.IsZero():
			if p.Labels[hashLabel] != r.template {
				r.leaving++
			}
		case p.Ended():
			r.ended = append(r.ended, p)
		default:
			if r.ready[p] = p.Ready; p.Ready {
				if at := p.ReadyAt.Add(d.MinReady); d.MinReady == 0 || !s.now.Before(at) {
					r.usable[p] = true
				} else {
					s.index.due[d.Key()] = earlier(s.index.due[d.Key()], at)
				}
			}
			if p.Labels[hashLabel] == r.template {
				r.new = append(r.new, p)
			} else {
				r.old = append(r.old, p)
			}
		}
	}
	return r
}

func (r *replicas) available(pods []*cluster.Pod) (n int) {
	for _, p := range pods {
		if r.usable[p] {
			n++
		}
	}
	return n
}

// scale makes or ends replicas of the present template.
func (r *replicas) scale(s *step, d *cluster.Deployment, want int) {
	if d.Recreate && r.leaving > 0 {
		return // the old ones must be gone first
	}
	if extra := len(r.new) - want; extra > 0 {
		r.new = s.end(r.new, extra)
	}
	for len(r.new) < want {
		p := s.replica(d, r.template)
		r.new = append(r.new, p)
		s.said.owner(p, "SuccessfulCreate", "Created pod: "+p.Name)
	}
}

// roll replaces replicas of old templates by new ones, as far as maxSurge and
// maxUnavailable allow now.
func (r *replicas) roll(s *step, d *cluster.Deployment) {
	total := len(r.new) + len(r.old)
	r.scale(s, d, min(d.Replicas, max(len(r.new), len(r.new)+d.Replicas+d.MaxSurge-total)))
	// Old ones that do not work cost nothing to lose. What the new ones lack
	// still counts against them, lest a broken template end all that works.
	atLeast := d.Replicas - d.MaxUnavailable
	total = len(r.new) + len(r.old)
	spare := total - atLeast - (len(r.new) - r.available(r.new))
	if spare <= 0 {
		return
	}
	broken := slices.DeleteFunc(slices.Clone(r.old), func(p *cluster.Pod) bool { return r.usable[p] })
	broken = broken[:min(len(broken), spare)]
	s.end(broken, len(broken))
	r.old = slices.DeleteFunc(r.old, func(p *cluster.Pod) bool { return slices.Contains(broken, p) })
	working := slices.DeleteFunc(slices.Clone(r.old), func(p *cluster.Pod) bool { return !r.usable[p] })
	if n := min(len(working), r.available(r.new)+len(working)-atLeast); n > 0 {
		left := s.end(working, n)
		r.old = slices.DeleteFunc(r.old, func(p *cluster.Pod) bool { return r.usable[p] && !slices.Contains(left, p) })
	}
}

// end ends n of pods, those that are missed least first, and returns the rest.
func (s *step) end(pods []*cluster.Pod, n int) []*cluster.Pod {
	crowd := map[string]int{}
	for _, p := range pods {
		crowd[p.Node]++
	}
	order := slices.Clone(pods)
	later := func(a, b time.Time) int { return b.Compare(a) }
	yes := func(a, b bool) int { // false before true
		switch {
		case a == b:
			return 0
		case b:
			return -1
		}
		return 1
	}
	slices.SortStableFunc(order, func(a, b *cluster.Pod) int {
		return cmp.Or(
			yes(a.Node != "", b.Node != ""),
			yes(a.Phase == cluster.PodRunning, b.Phase == cluster.PodRunning),
			yes(a.Ready, b.Ready),
			cmp.Compare(crowd[b.Node], crowd[a.Node]),
			later(a.ReadyAt, b.ReadyAt),
			cmp.Compare(b.Restarts, a.Restarts),
			later(a.Created, b.Created),
			compareKeys(b.Key(), a.Key()),
		)
	})
	for _, p := range order[:n] {
		s.endPod(p.Key())
		s.said.owner(p, "SuccessfulDelete", "Deleted pod: "+p.Name)
	}
	return order[n:]
}

// replica makes a pod of the template.
func (s *step) replica(d *cluster.Deployment, template string) *cluster.Pod {
	p := d.Template
	name := ""
	for name == "" || s.tx.State().Pod(cluster.Key{Namespace: d.Namespace, Name: name}) != nil {
		d.Serial++
		name = replicaName(d, template, d.Serial)
	}
	p.Meta = cluster.Meta{
		Namespace: d.Namespace, Name: name, Labels: maps.Clone(d.Template.Labels), Annotations: d.Template.Annotations,
		Source: d.Source, Manifest: d.Template.Manifest,
	}
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Labels[hashLabel] = template
	p.Owner, p.OwnerUID = d.Key(), d.UID
	s.create(&p.Meta)
	clearStatus(&p)
	s.put(&p)
	return &p
}

// report brings the Deployment's counts up to date.
func (r *replicas) report(s *step, before, d *cluster.Deployment) {
	all := slices.Concat(r.new, r.old)
	d.CurrentReplicas, d.UpdatedReplicas = len(all), len(r.new)
	d.ReadyReplicas, d.AvailableReplicas = 0, r.available(all)
	for _, p := range all {
		if r.ready[p] {
			d.ReadyReplicas++
		}
	}
	if d.Serial != before.Serial || d.CurrentReplicas != before.CurrentReplicas || d.UpdatedReplicas != before.UpdatedReplicas ||
		d.ReadyReplicas != before.ReadyReplicas || d.AvailableReplicas != before.AvailableReplicas {
		s.put(d)
	}
}

// clearStatus makes a pod one that has yet to run.
func clearStatus(p *cluster.Pod) {
	p.IPs, p.Phase, p.Ready, p.ReadyAt, p.Reason = nil, cluster.PodPending, false, time.Time{}, ""
	p.Restarts, p.Started, p.Statuses = 0, time.Time{}, nil
}

// safe are the letters of generated names: no vowels, so no words, and none
// that look alike (k8s.io/apimachinery/pkg/util/rand).
const safe = "bcdfghjklmnpqrstvwxz2456789"

// encode writes n in safe letters.
func encode(n uint64, length int) string {
	b := make([]byte, length)
	for i := range b {
		b[i] = safe[n%uint64(len(safe))]
		n /= uint64(len(safe))
	}
	return string(b)
}

func hash(parts ...any) uint64 {
	h := fnv.New64a()
	for _, p := range parts {
		fmt.Fprintf(h, "%v\x00", p)
	}
	x := h.Sum64()
	x ^= x >> 32 // FNV leaves the high bits of short input alike
	x *= 0xd6e8feb86659fd93
	return x ^ x>>32
}

// templateHash names a template by what it says.
func templateHash(t *cluster.Pod) string {
	if len(t.Manifest) > 0 {
		return encode(hash(string(t.Manifest)), 10)
	}
	bare := *t
	bare.Source = ""
	data, _ := json.Marshal(&bare) // nouns can always be written
	return encode(hash(string(data)), 10)
}

// replicaName is the name of a Deployment's serial-th replica.
func replicaName(d *cluster.Deployment, template string, serial uint64) string {
	base := d.Name + "-" + template + "-"
	return base[:min(len(base), 58)] + encode(hash(d.Namespace, d.Name, template, serial), 5)
}
