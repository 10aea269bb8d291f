package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"vswitch/vswitch/cluster"
)

// progress remembers what was said about a cluster that comes up. Nothing is
// said twice, however often a container comes and goes.
type progress map[string]bool

// lines returns what is new in a state, a line an object.
func (said progress) lines(state *cluster.State) (lines []string) {
	say := func(object, what string) {
		if line := object + " " + what; what != "" && !said[line] {
			said[line] = true
			lines = append(lines, line)
		}
	}
	for n := range state.Nodes.All() {
		if n.Ready {
			say("node "+n.Name, fmt.Sprintf("is ready: pods %s, underlay %s", join(n.PodCIDRs), n.Underlay))
		}
	}
	for p := range state.Pods.All() {
		name := "pod " + p.Key().String()
		switch {
		case !p.Deleted.IsZero():
		case p.Phase == cluster.PodSucceeded || p.Phase == cluster.PodFailed:
			say(name, strings.TrimSuffix(strings.ToLower(string(p.Phase))+": "+p.Reason, ": "))
		case p.Ready:
			what := fmt.Sprintf("is running on %s: %s", p.Node, join(p.IPs))
			if p.BuiltIn {
				what += " (built-in server)"
			}
			say(name, what)
		case failing(p):
			// The time of the next try is not news.
			reason, _, _ := strings.Cut(p.Reason, "; next try at ")
			say(name, "is failing: "+reason)
		case p.Node == "":
			say(name, p.Reason)
		}
	}
	return lines
}

// settled reports whether each pod that is wanted has started, ended or failed,
// and each Deployment says so of its own: its status is written after the pods'.
func settled(state *cluster.State) bool {
	replicas, ready := map[cluster.Key]int{}, map[cluster.Key]int{}
	for p := range state.Pods.All() {
		if !p.Deleted.IsZero() || p.Ended() && p.Owner != (cluster.Key{}) {
			continue
		}
		replicas[p.Owner]++
		if p.Ready {
			ready[p.Owner]++
		}
		done := p.Ready || p.Phase == cluster.PodSucceeded || p.Phase == cluster.PodFailed
		if !done && !(failing(p) && tried(p)) && (p.Node != "" || p.Reason == "") {
			return false
		}
	}
	for d := range state.Deployments.All() {
		k := d.Key()
		if replicas[k] < d.Replicas || d.CurrentReplicas != replicas[k] || d.ReadyReplicas != ready[k] {
			return false
		}
	}
	return true
}

// tried reports whether nothing of a pod waits for its first start but what
// waits for an init container that fails.
func tried(p *cluster.Pod) bool {
	for i, s := range p.Statuses {
		switch {
		case s.Running:
		case s.Finished.IsZero():
			return false
		case i < len(p.InitContainers) && s.ExitCode != 0:
			return true
		}
	}
	return true
}

// failing reports whether a container of a pod ended when it should not have.
func failing(p *cluster.Pod) bool {
	return slices.ContainsFunc(p.Statuses, func(s cluster.ContainerStatus) bool {
		return !s.Running && !s.Finished.IsZero() && s.ExitCode != 0
	})
}

func join[T netip.Addr | netip.Prefix](list []T) string {
	var s []string
	for _, v := range list {
		s = append(s, fmt.Sprint(v))
	}
	return strings.Join(s, ", ")
}
