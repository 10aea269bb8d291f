package control

import (
	"fmt"
	"slices"

	"vswitch/vswitch/cluster"
)

// fault is what is wrong with a field of an object.
type fault struct{ field, message string }

func faultf(field, format string, args ...any) *fault {
	return &fault{field, fmt.Sprintf(format, args...)}
}

// familyRules are the rules by which a service gets its families: those of the
// API server (initIPFamilyFields in pkg/registry/core/service/storage/alloc.go).
type familyRules struct {
	have []cluster.IPFamily // that there are ranges of, the default first
	// lenient takes what a service says of itself, even of a family that there
	// is no range of: the service comes from another cluster.
	lenient bool
}

func familiesOf(cfg *Config) (list []cluster.IPFamily) {
	for _, p := range cfg.ServiceRanges() {
		list = append(list, cluster.FamilyOf(p.Addr()))
	}
	return list
}

func otherFamily(f cluster.IPFamily) cluster.IPFamily {
	if f == cluster.IPv4 {
		return cluster.IPv6
	}
	return cluster.IPv4
}

// complete fills in IPFamilyPolicy and IPFamilies of v, and refuses what does
// not go together. What an earlier version of the service had has been taken
// over already.
func (r familyRules) complete(v *cluster.Service) *fault {
	if v.Type == cluster.ServiceExternalName {
		return nil
	}
	bare := v.Headless && len(v.Selector) == 0 // its families are those of endpoints that somebody else writes
	if v.IPFamilyPolicy == "" {
		v.IPFamilyPolicy = cluster.SingleStack
		if bare || r.lenient && max(len(v.ClusterIPs), len(v.IPFamilies)) > 1 {
			v.IPFamilyPolicy = cluster.RequireDualStack
		}
	}
	if f := r.consistent(v); f != nil {
		return f
	}
	for _, a := range v.ClusterIPs[min(len(v.IPFamilies), len(v.ClusterIPs)):] {
		v.IPFamilies = append(slices.Clip(v.IPFamilies), cluster.FamilyOf(a))
	}
	if !r.lenient && !bare {
		if f := r.configured(v); f != nil {
			return f
		}
	}
	if len(v.IPFamilies) == 0 {
		if len(r.have) == 0 {
			if r.lenient {
				return nil
			}
			return faultf("spec.ipFamilies", "the cluster has no range for services; give it one (--service-cidr)")
		}
		v.IPFamilies = []cluster.IPFamily{r.have[0]}
	}
	if v.IPFamilyPolicy != cluster.SingleStack && len(v.IPFamilies) == 1 && (bare || len(r.have) == 2) {
		v.IPFamilies = append(slices.Clip(v.IPFamilies), otherFamily(v.IPFamilies[0]))
	}
	return nil
}

// consistent compares cluster IPs, families and policy with each other.
func (r familyRules) consistent(v *cluster.Service) *fault {
	if len(v.ClusterIPs) > 2 || len(v.ClusterIPs) == 2 && v.ClusterIPs[0].Is4() == v.ClusterIPs[1].Is4() {
		return faultf("spec.clusterIPs", "at most one address of each family can be given")
	}
	if len(v.IPFamilies) > 2 || len(v.IPFamilies) == 2 && v.IPFamilies[0] == v.IPFamilies[1] {
		return faultf("spec.ipFamilies", "each family can be given once")
	}
	for i, a := range v.ClusterIPs {
		if i < len(v.IPFamilies) && cluster.FamilyOf(a) != v.IPFamilies[i] {
			return faultf(fmt.Sprintf("spec.clusterIPs[%d]", i), "%s is not of the family %s that spec.ipFamilies[%d] says", a, v.IPFamilies[i], i)
		}
	}
	if v.IPFamilyPolicy != cluster.SingleStack {
		return nil
	}
	if len(v.ClusterIPs) == 2 {
		return faultf("spec.ipFamilyPolicy", "two cluster IPs need PreferDualStack or RequireDualStack")
	}
	if len(v.IPFamilies) == 2 {
		return faultf("spec.ipFamilyPolicy", "two families need PreferDualStack or RequireDualStack")
	}
	return nil
}

// configured refuses families that there is no range of.
func (r familyRules) configured(v *cluster.Service) *fault {
	if v.IPFamilyPolicy == cluster.RequireDualStack && len(r.have) < 2 {
		return faultf("spec.ipFamilyPolicy", "RequireDualStack needs ranges of both families; give the cluster a second one (--service-cidr), or use PreferDualStack")
	}
	for i, f := range v.IPFamilies {
		if !slices.Contains(r.have, f) {
			field := fmt.Sprintf("spec.ipFamilies[%d]", i)
			if i < len(v.ClusterIPs) {
				field = ipField(v, i)
			}
			return faultf(field, "there is no range of %s for services; give the cluster one (--service-cidr)", f)
		}
	}
	return nil
}
