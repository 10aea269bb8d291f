package policy_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"vswitch/policy"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/kube"
	"vswitch/vswitch/kube/kubetest"
	"vswitch/vswitch/packet"
)

// netpolCase is a case of Kubernetes' own tests of network policies.
type netpolCase struct {
	ID, Name string
	Pods     []struct {
		Name, Namespace, Node, IP string
		Labels                    map[string]string
		Ports                     []netpolPort
	}
	Steps []struct {
		Actions []struct {
			CreatePolicy, UpdatePolicy string
			DeleteAllPolicies          bool
			SetNamespaceLabels         struct {
				Name   string
				Labels map[string]string
			}
			SetPodLabels struct {
				Namespace, Name string
				Labels          map[string]string
			}
		}
		Pods     []string
		Expected map[string][]string // by protocol and port, a row for each sender
	}
}

type netpolPort struct {
	Name          string
	ContainerPort uint16
	Protocol      string
}

// TestKubernetesCases does, step by step, what Kubernetes' own tests do, where
// the cases are at hand: one Compiler follows all steps.
func TestKubernetesCases(t *testing.T) {
	var file struct {
		Namespaces map[string]map[string]string
		Cases      []netpolCase
	}
	kubetest.Cases(t, "netpol-e2e.json", &file)
	for _, c := range file.Cases {
		t.Run(c.ID, func(t *testing.T) {
			r := &netpolRun{c: policy.NewCompiler(""), pods: map[string]*cluster.Pod{}}
			for name, labels := range file.Namespaces {
				r.namespace(name, labels)
			}
			r.start(&c)
			r.run(t, &c)
		})
	}
}

// netpolRun is a cluster in the course of a case.
type netpolRun struct {
	c        *policy.Compiler
	pods     map[string]*cluster.Pod
	policies []*cluster.NetworkPolicy
}

var protocols = map[string]uint8{"TCP": packet.ProtoTCP, "UDP": packet.ProtoUDP, "SCTP": packet.ProtoSCTP}

func (r *netpolRun) start(c *netpolCase) {
	for _, p := range c.Pods {
		pod := &cluster.Pod{Meta: cluster.Meta{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels},
			Node: p.Node, IPs: []netip.Addr{netip.MustParseAddr(p.IP)}, Containers: make([]cluster.Container, 1)}
		for _, port := range p.Ports {
			pod.Containers[0].Ports = append(pod.Containers[0].Ports,
				cluster.ContainerPort{Name: port.Name, Port: port.ContainerPort, Protocol: protocols[port.Protocol]})
		}
		r.pod(pod)
	}
}

func (r *netpolRun) namespace(name string, labels map[string]string) {
	n := &cluster.Namespace{Meta: cluster.Meta{Name: name, Labels: labels}}
	r.c.Apply(&cluster.Changes{Namespaces: []cluster.Change[cluster.Namespace]{{New: n}}})
}

func (r *netpolRun) pod(p *cluster.Pod) {
	old := r.pods[p.Key().String()]
	r.pods[p.Key().String()] = p
	r.c.Apply(&cluster.Changes{Pods: []cluster.Change[cluster.Pod]{{Old: old, New: p}}})
}

func (r *netpolRun) policy(t *testing.T, manifest string) {
	t.Helper()
	o, _, err := kube.Parse("case", []byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	p := o.NetworkPolicies[0]
	r.policies = append(r.policies, p)
	r.c.Apply(&cluster.Changes{NetworkPolicies: added([]*cluster.NetworkPolicy{p})})
}

func (r *netpolRun) run(t *testing.T, c *netpolCase) {
	for i, s := range c.Steps {
		for _, a := range s.Actions {
			if m := a.CreatePolicy + a.UpdatePolicy; m != "" {
				r.policy(t, m)
			}
			if n := a.SetNamespaceLabels; n.Name != "" {
				r.namespace(n.Name, n.Labels)
			}
			if p := a.SetPodLabels; p.Name != "" {
				changed := *r.pods[p.Namespace+"/"+p.Name]
				changed.Labels = p.Labels
				r.pod(&changed)
			}
			if a.DeleteAllPolicies {
				for _, p := range r.policies {
					r.c.Apply(&cluster.Changes{NetworkPolicies: []cluster.Change[cluster.NetworkPolicy]{{Old: p}}})
				}
			}
		}
		for port, rows := range s.Expected {
			r.compare(t, fmt.Sprintf("%s, step %d", c.Name, i), port, s.Pods, rows)
		}
	}
}

// compare asks about all pairs of pods. Who does not listen cannot be reached,
// whatever policy says.
func (r *netpolRun) compare(t *testing.T, what, port string, names, rows []string) {
	proto, number, _ := strings.Cut(port, "/")
	var n uint16
	fmt.Sscan(number, &n)
	for i, from := range names {
		for j, to := range names {
			listens := slices.ContainsFunc(r.pods[to].Containers[0].Ports, func(p cluster.ContainerPort) bool {
				return p.Port == n && p.Protocol == protocols[proto]
			})
			if i == j || !listens && rows[i][j] == '0' {
				continue
			}
			a, b := packet.AddrFrom(r.pods[from].IPs[0]), packet.AddrFrom(r.pods[to].IPs[0])
			out := r.c.Set().Egress(&a, &b, protocols[proto], n)
			in := r.c.Set().Ingress(&a, &b, protocols[proto], n)
			if got, want := out.Allowed && in.Allowed, rows[i][j] == '1'; got != want {
				t.Errorf("%s: %s from %s to %s: %v, want %v (%s; %s)", what, port, from, to, got, want, out.Why(), in.Why())
			}
		}
	}
}
