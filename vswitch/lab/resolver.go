package lab

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"vswitch/vswitch/cluster"
)

// DNS says whom pods ask for names, and what they find in /etc/resolv.conf.
type DNS struct {
	// Domain is the cluster's; empty means cluster.local.
	Domain string `json:"domain,omitempty"`
	// Serve makes each node a name server of the cluster: a pod of the node, behind
	// the Service kube-system/kube-dns. Without it, pods ask that Service if somebody
	// has made it, and else look names up in /etc/hosts only.
	Serve bool `json:"serve,omitempty"`
	// Upstreams are whom the nodes ask for names outside the cluster, and
	// ClusterOnly refuses those instead. Without either, they ask whom this machine
	// asks.
	Upstreams   []netip.AddrPort `json:"upstreams,omitempty"`
	ClusterOnly bool             `json:"clusterOnly,omitempty"`
}

// resolver is what is in a /etc/resolv.conf (resolv.conf(5)).
type resolver struct {
	servers []netip.Addr
	search  []string
	options []string // NAME or NAME:VALUE
}

// What is written of a resolver; C libraries read as many.
const (
	maxServers    = 3
	maxSearch     = 32
	maxSearchText = 2048 // bytes
)

// resolverOf returns a pod's, as the kubelet makes it (pkg/kubelet/network/dns).
// servers are the cluster's, and machine is what this machine has. ok is false for
// a pod that sees the file of the machine itself.
func resolverOf(p *cluster.Pod, domain string, servers []netip.Addr, machine resolver) (r resolver, ok bool) {
	policy := cmp.Or(p.DNSPolicy, cluster.DNSClusterFirst)
	if policy == cluster.DNSClusterFirst && p.HostNetwork {
		policy = cluster.DNSDefault
	}
	switch policy {
	case cluster.DNSDefault:
		if p.HostNetwork && p.DNSConfig == nil {
			return resolver{}, false
		}
		r = resolver{slices.Clone(machine.servers), slices.Clone(machine.search), slices.Clone(machine.options)}
	case cluster.DNSNone:
	default:
		// Without a name server, a resolver asks the pod itself and fails at once.
		r.servers = slices.Clone(servers)
		r.search = append([]string{p.Namespace + ".svc." + domain, "svc." + domain, domain}, machine.search...)
		r.options = []string{"ndots:5"}
	}
	if p.DNSConfig != nil {
		r.add(p.DNSConfig)
	}
	r.servers, r.search = unique(r.servers, maxServers), unique(r.search, maxSearch)
	for len(strings.Join(r.search, " ")) > maxSearchText {
		r.search = r.search[:len(r.search)-1]
	}
	return r, true
}

// add appends what a pod asks for; of an option that is there already, its value
// counts.
func (r *resolver) add(c *cluster.DNSConfig) {
	r.servers = append(r.servers, c.Servers...)
	r.search = append(r.search, c.Search...)
	for _, o := range c.Options {
		name, _, _ := strings.Cut(o, ":")
		i := slices.IndexFunc(r.options, func(have string) bool { return have == name || strings.HasPrefix(have, name+":") })
		if i < 0 {
			r.options = append(r.options, o)
		} else {
			r.options[i] = o
		}
	}
}

// unique returns the first n different ones of a list.
func unique[T comparable](list []T, n int) (out []T) {
	for _, v := range list {
		if len(out) < n && !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

// String returns the file.
func (r resolver) String() string {
	var b strings.Builder
	if len(r.search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(r.search, " "))
	}
	for _, s := range r.servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(r.options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(r.options, " "))
	}
	return b.String()
}

// parseResolver reads a /etc/resolv.conf. What it does not know it leaves out; of
// several search lists the last one counts.
func parseResolver(text string) (r resolver) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(words[1]); err == nil {
				r.servers = append(r.servers, a)
			}
		case "domain", "search":
			r.search = words[1:]
		case "options":
			r.options = append(r.options, words[1:]...)
		}
	}
	return r
}
