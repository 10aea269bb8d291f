package lab

import (
	"fmt"
	"slices"

	"vswitch/vswitch/cluster"
)

// Reasons of events, those of the kubelet (pkg/kubelet/events).
const (
	eventStarted   = "Started"
	eventNoStart   = "Failed"
	eventKilling   = "Killing"
	eventBackOff   = "BackOff"
	eventUnhealthy = "Unhealthy"
	eventPostStart = "FailedPostStartHook"
	eventPreStop   = "FailedPreStopHook"
	eventNoNetwork = "FailedCreatePodSandBox"
	eventNetwork   = "NetworkNotReady"
)

// eventProblem is the reason of an event that tells what a node lacks. Kubernetes
// has no word for it.
const eventProblem = "NodeProblem"

// warn tells, by events, which problems of a node are not known yet.
func (n *node) warn(problems, known []string) {
	for _, p := range problems {
		if slices.Contains(known, p) {
			continue
		}
		e := cluster.Event{Object: cluster.KindNode.Ref(cluster.Key{Name: n.name}), Node: n.name, Warning: true, Reason: eventProblem, Message: p}
		if own := n.sup.store.State().Node(n.name); own != nil {
			e.ObjectUID = own.UID
		}
		n.sup.control.Events().Record(e)
	}
}

// warn tells, by an event, what is not as it should be with the pod.
func (p *pod) warn(reason, format string, args ...any) {
	p.event(cluster.Event{Warning: true, Reason: reason, Message: fmt.Sprintf(format, args...)})
}

func (p *pod) event(e cluster.Event) {
	e.Object, e.ObjectUID, e.Node = cluster.RefOf(p.spec), p.spec.UID, p.spec.Node
	p.sup.control.Events().Record(e)
}

// warn tells, by an event, what is not as it should be with the container.
func (c *container) warn(reason, format string, args ...any) {
	c.pod.event(cluster.Event{Warning: true, Part: c.part(), Reason: reason, Message: fmt.Sprintf(format, args...)})
}

// note tells, by an event, what happens to the container.
func (c *container) note(reason, format string, args ...any) {
	c.pod.event(cluster.Event{Part: c.part(), Reason: reason, Message: fmt.Sprintf(format, args...)})
}

// part is where in its pod the container is, as events have it.
func (c *container) part() string {
	list := "containers"
	if c.init {
		list = "initContainers"
	}
	return "spec." + list + "{" + c.spec.Name + "}"
}
