package kube

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"vswitch/vswitch/cluster"
)

// Format is how Encode writes.
type Format string

// Formats.
const (
	YAML Format = "yaml"
	JSON Format = "json"
)

// Encode writes one noun, a pointer to one of package cluster's, in Kubernetes
// form, as kubectl get shows it: the manifest it came from, where there is one,
// with metadata, status and what was allocated as they are now.
func Encode(noun any, f Format) ([]byte, error) {
	o, err := object(noun)
	if err != nil {
		return nil, err
	}
	return write(o, f)
}

// EncodeList writes nouns as a List.
func EncodeList(nouns []any, f Format) ([]byte, error) {
	list := struct {
		APIVersion string            `json:"apiVersion"`
		Items      []runtime.Object  `json:"items"`
		Kind       string            `json:"kind"`
		Metadata   map[string]string `json:"metadata"`
	}{"v1", []runtime.Object{}, "List", map[string]string{"resourceVersion": ""}}
	for _, n := range nouns {
		o, err := object(n)
		if err != nil {
			return nil, err
		}
		list.Items = append(list.Items, o)
	}
	return write(list, f)
}

func write(v any, f Format) ([]byte, error) {
	switch f {
	case YAML:
		return yaml.Marshal(v)
	case JSON:
		data, err := json.MarshalIndent(v, "", "    ")
		return append(data, '\n'), err
	}
	return nil, fmt.Errorf("encode: %q is not a format; use yaml or json", f)
}

func object(noun any) (runtime.Object, error) {
	switch n := noun.(type) {
	case *cluster.Namespace:
		return fromNamespace(n)
	case *cluster.Node:
		return fromNode(n)
	case *cluster.Pod:
		return fromPod(n)
	case *cluster.Deployment:
		return fromDeployment(n)
	case *cluster.Service:
		return fromService(n)
	case *cluster.EndpointSlice:
		return fromEndpointSlice(n)
	case *cluster.Endpoints:
		return fromEndpoints(n)
	case *cluster.NetworkPolicy:
		return fromNetworkPolicy(n)
	case *cluster.ClusterNetworkPolicy:
		return fromClusterNetworkPolicy(n)
	case *cluster.Event:
		return fromEvent(n), nil
	}
	return nil, fmt.Errorf("encode: a %T has no Kubernetes form", noun)
}

// base reads the noun's manifest into o. It reports whether there is one.
func base(noun cluster.Object, o any) (bool, error) {
	manifest := noun.Metadata().Manifest
	if len(manifest) == 0 {
		return false, nil
	}
	if err := json.Unmarshal(manifest, o); err != nil {
		return false, fmt.Errorf("encode %s: its manifest cannot be read: %w", cluster.RefOf(noun), err)
	}
	return true, nil
}

func setMeta(o *metav1.ObjectMeta, m *cluster.Meta, grace time.Duration) {
	o.Name, o.Namespace, o.UID = m.Name, m.Namespace, types.UID(m.UID)
	o.Labels, o.Annotations, o.Generation = m.Labels, m.Annotations, m.Generation
	o.GenerateName = ""
	if m.ResourceVersion != 0 {
		o.ResourceVersion = strconv.FormatUint(m.ResourceVersion, 10)
	}
	if !m.Created.IsZero() && m.Created.Unix() != 0 { // objects of manifests are as old as the epoch, which says nothing
		o.CreationTimestamp = metav1.NewTime(m.Created)
	}
	if !m.Deleted.IsZero() {
		t, seconds := metav1.NewTime(m.Deleted), int64(grace/time.Second)
		o.DeletionTimestamp, o.DeletionGracePeriodSeconds = &t, &seconds
	}
}

func fromNamespace(n *cluster.Namespace) (*corev1.Namespace, error) {
	o := &corev1.Namespace{}
	if _, err := base(n, o); err != nil {
		return nil, err
	}
	o.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}
	setMeta(&o.ObjectMeta, &n.Meta, 0)
	o.Status.Phase = corev1.NamespaceActive
	if !n.Deleted.IsZero() {
		o.Status.Phase = corev1.NamespaceTerminating
	}
	return o, nil
}

func fromNode(n *cluster.Node) (*corev1.Node, error) {
	o := &corev1.Node{}
	if _, err := base(n, o); err != nil {
		return nil, err
	}
	o.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}
	setMeta(&o.ObjectMeta, &n.Meta, 0)
	o.Spec.Unschedulable = n.Unschedulable
	o.Spec.PodCIDR, o.Spec.PodCIDRs = "", nil
	for _, p := range n.PodCIDRs {
		o.Spec.PodCIDRs = append(o.Spec.PodCIDRs, p.String())
	}
	if len(n.PodCIDRs) > 0 {
		o.Spec.PodCIDR = n.PodCIDRs[0].String()
	}
	for _, a := range append(n.Addresses[:len(n.Addresses):len(n.Addresses)], n.ExtraAddresses...) {
		o.Status.Addresses = append(o.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	o.Status.Addresses = append(o.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: n.Name})
	ready := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "NodeReady", Message: "the node runs"}
	if !n.Ready {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "NodeNotReady", n.Reason
	}
	o.Status.Conditions = []corev1.NodeCondition{ready}
	return o, nil
}

func fromDeployment(d *cluster.Deployment) (*appsv1.Deployment, error) {
	o := &appsv1.Deployment{}
	known, err := base(d, o)
	if err != nil {
		return nil, err
	}
	if !known {
		t := fromPodSpec(&d.Template)
		o.Spec = appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: d.Selector},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: d.Template.Labels, Annotations: d.Template.Annotations}, Spec: t},
			Paused:   d.Paused, MinReadySeconds: int32(d.MinReady / time.Second),
			Strategy: strategyOf(d),
		}
	}
	o.TypeMeta = metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}
	setMeta(&o.ObjectMeta, &d.Meta, 0)
	replicas := int32(d.Replicas)
	o.Spec.Replicas = &replicas
	o.Status = appsv1.DeploymentStatus{
		ObservedGeneration: d.Generation,
		Replicas:           int32(d.CurrentReplicas), UpdatedReplicas: int32(d.UpdatedReplicas),
		ReadyReplicas: int32(d.ReadyReplicas), AvailableReplicas: int32(d.AvailableReplicas),
		UnavailableReplicas: int32(max(0, max(d.Replicas, d.CurrentReplicas)-d.AvailableReplicas)),
	}
	available := appsv1.DeploymentCondition{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionTrue,
		Reason: "MinimumReplicasAvailable", Message: "Deployment has minimum availability."}
	if d.AvailableReplicas < d.Replicas-d.MaxUnavailable {
		available.Status, available.Reason, available.Message = corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability."
	}
	o.Status.Conditions = []appsv1.DeploymentCondition{available}
	return o, nil
}

func fromPod(p *cluster.Pod) (*corev1.Pod, error) {
	o := &corev1.Pod{}
	known, err := base(p, o)
	if err != nil {
		return nil, err
	}
	if !known {
		o.Spec = fromPodSpec(p)
	}
	o.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	setMeta(&o.ObjectMeta, &p.Meta, p.GracePeriod)
	if p.Owner.Name != "" {
		yes := true
		o.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: p.Owner.Name,
			UID: types.UID(p.OwnerUID), Controller: &yes, BlockOwnerDeletion: &yes}}
	}
	o.Spec.NodeName = p.Node
	o.Status = podStatus(p, &o.Spec)
	return o, nil
}

// podStatus is the status as the kubelet would report it. It has no hostIP:
// that is the node's to say.
func podStatus(p *cluster.Pod, spec *corev1.PodSpec) corev1.PodStatus {
	s := corev1.PodStatus{Phase: corev1.PodPhase(p.Phase), QOSClass: qosClass(spec)}
	for _, a := range p.IPs {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: a.String()})
	}
	if len(p.IPs) > 0 {
		s.PodIP = p.IPs[0].String()
	}
	if !p.Started.IsZero() {
		t := metav1.NewTime(p.Started)
		s.StartTime = &t
	}
	if p.Phase == "" && p.Ready {
		return s // nobody ever looked at it: there is nothing to say
	}
	condition := func(t corev1.PodConditionType, ok bool, at time.Time) *corev1.PodCondition {
		c := corev1.PodCondition{Type: t, Status: corev1.ConditionFalse}
		if ok {
			c.Status = corev1.ConditionTrue
		}
		if !at.IsZero() {
			c.LastTransitionTime = metav1.NewTime(at)
		}
		s.Conditions = append(s.Conditions, c)
		return &s.Conditions[len(s.Conditions)-1]
	}
	if c := condition(corev1.PodScheduled, p.Node != "", p.Created); p.Node == "" {
		c.Reason, c.Message = corev1.PodReasonUnschedulable, p.Reason
	} else {
		s.Message = p.Reason
	}
	condition(corev1.PodInitialized, p.Phase != "" && p.Phase != cluster.PodPending, p.Started)
	condition(corev1.ContainersReady, p.Ready, p.ReadyAt)
	condition(corev1.PodReady, p.Ready, p.ReadyAt)
	for i := range p.Statuses {
		c := fromContainerStatus(&p.Statuses[i], spec)
		if isInit(c.Name, spec) {
			s.InitContainerStatuses = append(s.InitContainerStatuses, c)
		} else {
			s.ContainerStatuses = append(s.ContainerStatuses, c)
		}
	}
	return s
}

func isInit(name string, spec *corev1.PodSpec) bool {
	for i := range spec.InitContainers {
		if spec.InitContainers[i].Name == name {
			return true
		}
	}
	return false
}

func fromContainerStatus(c *cluster.ContainerStatus, spec *corev1.PodSpec) corev1.ContainerStatus {
	running := c.Running
	s := corev1.ContainerStatus{Name: c.Name, Ready: c.Ready, RestartCount: int32(c.Restarts), Started: &running}
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			if list[i].Name == c.Name {
				s.Image = list[i].Image
			}
		}
	}
	var ended *corev1.ContainerStateTerminated
	if !c.Finished.IsZero() {
		ended = &corev1.ContainerStateTerminated{ExitCode: int32(c.ExitCode), Reason: endReason(c), FinishedAt: metav1.NewTime(c.Finished)}
		if !c.Started.After(c.Finished) { // else that is when the present run began
			ended.StartedAt = metav1.NewTime(c.Started)
		}
	}
	switch {
	case c.Running:
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(c.Started)}
		s.LastTerminationState.Terminated = ended
	case ended != nil && !strings.HasSuffix(c.Reason, "BackOff"):
		s.State.Terminated = ended
	default:
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: c.Reason}
		s.LastTerminationState.Terminated = ended
	}
	return s
}

func endReason(c *cluster.ContainerStatus) string {
	switch {
	case c.Reason != "" && !c.Running && !strings.HasSuffix(c.Reason, "BackOff"):
		return c.Reason
	case c.ExitCode == 0:
		return "Completed"
	}
	return "Error"
}

// qosClass is Kubernetes' rule: Guaranteed if every container's requests equal
// its limits of CPU and memory, BestEffort if none has any.
func qosClass(s *corev1.PodSpec) corev1.PodQOSClass {
	any, all := false, true
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			r := &list[i].Resources
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				request, requested := r.Requests[name]
				limit, limited := r.Limits[name]
				any = any || requested || limited
				all = all && limited && (!requested || request.Cmp(limit) == 0)
			}
		}
	}
	switch {
	case any && all:
		return corev1.PodQOSGuaranteed
	case any:
		return corev1.PodQOSBurstable
	}
	return corev1.PodQOSBestEffort
}
