package control

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"vswitch/vswitch/cluster"
)

const (
	// labelSkipMirror on Endpoints keeps them from being mirrored.
	labelSkipMirror = "endpointslice.kubernetes.io/skip-mirror"
	// annotationLeader is on Endpoints that are used as a lock.
	annotationLeader = "control-plane.alpha.kubernetes.io/leader"
)

// maxMirrored is how many endpoints a mirrored slice holds
// (--mirroring-max-endpoints-per-subset of kube-controller-manager).
const maxMirrored = 1000

// mirror makes slices of the Endpoints that somebody wrote for a service
// without a selector (k8s.io/endpointslice mirroring controller).
func (r *refill) mirror(e *cluster.Endpoints) {
	delete(r.index.fan.lacking, r.key)
	r.lacks = true
	have := slices.Sorted(maps.Keys(r.index.fan.slices[r.key]))
	var groups []mirrorGroup
	if e != nil && e.Labels[labelSkipMirror] != "true" && e.Annotations[annotationLeader] == "" {
		groups = mirrorGroups(e)
	}
	used := map[string]bool{}
	for _, g := range groups {
		for chunk := range slices.Chunk(g.endpoints, maxMirrored) {
			v := r.mirrored(g, have, used)
			used[v.Name] = true
			v.Endpoints = chunk
			v.Labels, v.Annotations = r.mirrorLabels(e), mirrorAnnotations(e)
			v.Owner, v.OwnerUID = cluster.RefOf(e), e.UID
		}
	}
	for _, name := range have {
		if !used[name] {
			r.empty(name)
		}
	}
}

// mirrored returns a slice for endpoints of g that is not used yet.
func (r *refill) mirrored(g mirrorGroup, have []string, used map[string]bool) *cluster.EndpointSlice {
	for _, name := range have {
		if v := r.slice(name); v != nil && !used[name] && v.Labels[cluster.LabelManagedBy] == mirrorController && v.Family == g.family && slices.Equal(v.Ports, g.ports) {
			return v
		}
	}
	return r.add(g.family, g.ports)
}

func (r *refill) mirrorLabels(e *cluster.Endpoints) map[string]string {
	labels := maps.Clone(e.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[cluster.LabelServiceName] = r.key.Name
	labels[cluster.LabelManagedBy] = mirrorController
	return labels
}

// mirrorAnnotations are those of the Endpoints, but for what is true of themselves
// only.
func mirrorAnnotations(e *cluster.Endpoints) map[string]string {
	annotations := maps.Clone(e.Annotations)
	delete(annotations, cluster.AnnotationTrigger)
	return annotations
}

// mirrorGroup is what goes into the same slices.
type mirrorGroup struct {
	family    cluster.IPFamily
	ports     []cluster.EndpointPort
	endpoints []cluster.Endpoint
}

// mirrorGroups sorts the addresses of e by family and ports.
func mirrorGroups(e *cluster.Endpoints) (groups []mirrorGroup) {
	at := map[string]int{}
	seen := map[string]bool{}
	for i := range e.Subsets {
		sub := &e.Subsets[i]
		ports := slices.SortedFunc(slices.Values(sub.Ports), comparePorts)
		for j, list := range [][]cluster.Endpoint{sub.Ready, sub.NotReady} {
			for _, p := range list {
				if len(p.Addresses) == 0 {
					continue
				}
				p.Ready, p.Serving, p.Terminating = j == 0, j == 0, false
				f := cluster.FamilyOf(p.Addresses[0])
				group := fmt.Sprint(f, ports)
				if once := fmt.Sprint(group, p.Addresses[0]); seen[once] {
					continue
				} else {
					seen[once] = true
				}
				n, ok := at[group]
				if !ok {
					n = len(groups)
					at[group] = n
					groups = append(groups, mirrorGroup{family: f, ports: ports})
				}
				groups[n].endpoints = append(groups[n].endpoints, p)
			}
		}
	}
	for i := range groups {
		slices.SortStableFunc(groups[i].endpoints, compareAddresses)
	}
	return groups
}

func compareAddresses(a, b cluster.Endpoint) int {
	x, y := a.Addresses[0].As16(), b.Addresses[0].As16()
	return bytes.Compare(x[:], y[:])
}
