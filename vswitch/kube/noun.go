package kube

import (
	"encoding/json"
	"hash/fnv"
	"net/netip"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"

	"vswitch/vswitch/cluster"
)

// toMeta takes over what the nouns have of an object's metadata, and keeps
// desired, the object without status, as its manifest.
func toMeta(m *metav1.ObjectMeta, desired any) cluster.Meta {
	rv, _ := strconv.ParseUint(m.ResourceVersion, 10, 64)
	meta := cluster.Meta{
		Namespace: m.Namespace, Name: m.Name, UID: string(m.UID), ResourceVersion: rv,
		Generation: m.Generation, Labels: m.Labels, Annotations: withoutLastApplied(m.Annotations),
	}
	meta.Created = utc(m.CreationTimestamp)
	if m.DeletionTimestamp != nil {
		meta.Deleted = utc(*m.DeletionTimestamp)
	}
	// What was decoded from JSON can be written as JSON. Keys come out sorted,
	// so equal objects have equal manifests.
	meta.Manifest, _ = json.Marshal(desired)
	return meta
}

// desiredMeta is metadata without what the API server fills in.
func desiredMeta(m *metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, Labels: m.Labels, Annotations: withoutLastApplied(m.Annotations), Finalizers: m.Finalizers,
	}
}

// withoutLastApplied drops kubectl's record of the last apply, which differs
// for equal objects, and what was said of a policy that it replaces.
func withoutLastApplied(m map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range m {
		if k != corev1.LastAppliedConfigAnnotation && k != annotationInvalid {
			out[k] = v
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func toNamespace(n *corev1.Namespace) *cluster.Namespace {
	out := &cluster.Namespace{Meta: toMeta(&n.ObjectMeta, &corev1.Namespace{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: desiredMeta(&n.ObjectMeta), Spec: n.Spec,
	})}
	out.IsolatesIngress, _ = isolates(n) // validation has looked at it
	return out
}

func toNode(n *corev1.Node) *cluster.Node {
	for i, c := range n.Spec.PodCIDRs { // in the form in which they come back
		n.Spec.PodCIDRs[i] = netip.MustParsePrefix(c).String()
	}
	if len(n.Spec.PodCIDRs) > 0 {
		n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	}
	out := &cluster.Node{
		Meta: toMeta(&n.ObjectMeta, &corev1.Node{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: desiredMeta(&n.ObjectMeta), Spec: n.Spec,
		}),
		Unschedulable: n.Spec.Unschedulable,
		Ready:         true, // unless a condition says otherwise
	}
	for _, c := range n.Spec.PodCIDRs {
		out.PodCIDRs = append(out.PodCIDRs, netip.MustParsePrefix(c))
	}
	var families [2]bool
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		addr := netip.MustParseAddr(a.Address)
		if f := family(addr); families[f] {
			out.ExtraAddresses = append(out.ExtraAddresses, addr)
		} else {
			families[f] = true
			out.Addresses = append(out.Addresses, addr)
		}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			if out.Ready = c.Status == corev1.ConditionTrue; !out.Ready {
				out.Reason = c.Message
			}
		}
	}
	return out
}

func toPod(p *corev1.Pod) *cluster.Pod {
	out := podOf(&p.Spec)
	out.Meta = toMeta(&p.ObjectMeta, &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: desiredMeta(&p.ObjectMeta), Spec: p.Spec,
	})
	for _, o := range p.OwnerReferences {
		hash := p.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
		deployment, ok := strings.CutSuffix(o.Name, "-"+hash)
		switch {
		case o.Kind == "Deployment":
			out.Owner, out.OwnerUID = cluster.Key{Namespace: p.Namespace, Name: o.Name}, string(o.UID)
		case o.Kind == "ReplicaSet" && hash != "" && ok: // exported from a cluster
			out.Owner = cluster.Key{Namespace: p.Namespace, Name: deployment}
		}
	}
	s := &p.Status
	for _, ip := range s.PodIPs {
		out.IPs = append(out.IPs, netip.MustParseAddr(ip.IP))
	}
	if s.Phase != corev1.PodUnknown {
		out.Phase = cluster.PodPhase(s.Phase)
	}
	out.Reason = s.Message
	out.Ready = s.Phase == "" || s.Phase == corev1.PodRunning
	for _, c := range s.Conditions {
		switch c.Type {
		case corev1.PodReady:
			out.Ready = c.Status == corev1.ConditionTrue
			if !c.LastTransitionTime.IsZero() {
				out.ReadyAt = utc(c.LastTransitionTime)
			}
		case corev1.PodScheduled:
			if c.Status == corev1.ConditionFalse {
				out.Reason = c.Message
			}
		}
	}
	if s.StartTime != nil {
		out.Started = utc(*s.StartTime)
	}
	for _, c := range append(s.InitContainerStatuses, s.ContainerStatuses...) {
		out.Statuses = append(out.Statuses, toContainerStatus(&c))
		out.Restarts += int(c.RestartCount)
	}
	return out
}

func toContainerStatus(c *corev1.ContainerStatus) cluster.ContainerStatus {
	out := cluster.ContainerStatus{Name: c.Name, Ready: c.Ready, Restarts: int(c.RestartCount)}
	last := c.LastTerminationState.Terminated
	switch {
	case c.State.Running != nil:
		out.Running, out.Started = true, utc(c.State.Running.StartedAt)
	case c.State.Terminated != nil:
		last = c.State.Terminated
		out.Reason = last.Reason
	case c.State.Waiting != nil:
		out.Reason = c.State.Waiting.Reason
	}
	if last != nil {
		out.ExitCode, out.Finished = int(last.ExitCode), utc(last.FinishedAt)
		if !out.Running && out.Started.IsZero() {
			out.Started = utc(last.StartedAt)
		}
	}
	return out
}

func utc(t metav1.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Second) // which is what is written
}

// podOf converts the part that a pod and a template have in common.
func podOf(s *corev1.PodSpec) *cluster.Pod {
	out := &cluster.Pod{
		Node: s.NodeName, NodeSelector: s.NodeSelector, HostNetwork: s.HostNetwork,
		Hostname: s.Hostname, Subdomain: s.Subdomain,
		RestartPolicy: cluster.RestartPolicy(s.RestartPolicy),
		GracePeriod:   time.Duration(*s.TerminationGracePeriodSeconds) * time.Second,
		BuiltIn:       true,
	}
	if c := s.SecurityContext; c != nil {
		out.RunAsUser, out.RunAsGroup = c.RunAsUser, c.RunAsGroup
	}
	for _, h := range s.HostAliases {
		out.HostAliases = append(out.HostAliases, cluster.HostAlias{IP: netip.MustParseAddr(h.IP), Names: h.Hostnames})
	}
	if s.DNSPolicy != corev1.DNSClusterFirst {
		out.DNSPolicy = cluster.DNSPolicy(s.DNSPolicy)
	}
	out.DNSConfig = toDNSConfig(s.DNSConfig)
	for i := range s.InitContainers {
		c := toContainer(&s.InitContainers[i])
		r := s.InitContainers[i].RestartPolicy
		c.Sidecar = r != nil && *r == corev1.ContainerRestartPolicyAlways
		out.InitContainers = append(out.InitContainers, c)
	}
	for i := range s.Containers {
		c := toContainer(&s.Containers[i])
		out.BuiltIn = out.BuiltIn && len(c.Command) == 0
		out.Containers = append(out.Containers, c)
	}
	return out
}

func toDNSConfig(c *corev1.PodDNSConfig) *cluster.DNSConfig {
	if c == nil {
		return nil
	}
	out := &cluster.DNSConfig{Servers: parseAddrs(c.Nameservers), Search: c.Searches}
	for _, o := range c.Options {
		text := o.Name
		if o.Value != nil && *o.Value != "" {
			text += ":" + *o.Value
		}
		out.Options = append(out.Options, text)
	}
	return out
}

var protocolNumbers = map[corev1.Protocol]uint8{corev1.ProtocolTCP: 6, corev1.ProtocolUDP: 17, corev1.ProtocolSCTP: 132}

// protocolName is empty for a number that no port has.
func protocolName(number uint8) corev1.Protocol {
	for name, n := range protocolNumbers {
		if n == number {
			return name
		}
	}
	return ""
}

func toContainer(c *corev1.Container) cluster.Container {
	out := cluster.Container{
		Name: c.Name, Image: c.Image, WorkingDir: c.WorkingDir,
		Startup: toProbe(c.StartupProbe), Liveness: toProbe(c.LivenessProbe), Readiness: toProbe(c.ReadinessProbe), PostStart: toPostStart(c.Lifecycle), PreStop: toPreStop(c.Lifecycle),
	}
	if len(c.Command) > 0 {
		out.Command = append(append([]string{}, c.Command...), c.Args...)
	}
	for _, e := range c.Env {
		switch {
		case e.ValueFrom == nil:
			out.Env = append(out.Env, e.Name+"="+e.Value)
		case e.ValueFrom.FieldRef != nil:
			out.Env = append(out.Env, e.Name+"=")
			if out.EnvFields == nil {
				out.EnvFields = map[string]string{}
			}
			out.EnvFields[e.Name] = e.ValueFrom.FieldRef.FieldPath
		}
	}
	for _, p := range c.Ports {
		port := cluster.ContainerPort{Name: p.Name, Port: uint16(p.ContainerPort), HostPort: uint16(p.HostPort), Protocol: protocolNumbers[p.Protocol]}
		if p.HostIP != "" {
			port.HostIP = netip.MustParseAddr(p.HostIP)
		}
		out.Ports = append(out.Ports, port)
	}
	if s := c.SecurityContext; s != nil {
		out.RunAsUser, out.RunAsGroup = s.RunAsUser, s.RunAsGroup
	}
	return out
}

func toDeployment(d *appsv1.Deployment) *cluster.Deployment {
	s := &d.Spec
	template := podOf(&s.Template.Spec)
	template.Meta = toMeta(&s.Template.ObjectMeta, &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Labels: s.Template.Labels, Annotations: s.Template.Annotations},
		Spec:       s.Template.Spec,
	})
	template.Name, template.Namespace = "", ""
	out := &cluster.Deployment{
		Meta: toMeta(&d.ObjectMeta, &appsv1.Deployment{
			TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: desiredMeta(&d.ObjectMeta), Spec: d.Spec,
		}),
		Replicas: int(*s.Replicas), Selector: s.Selector.MatchLabels, Template: *template,
		Recreate: s.Strategy.Type == appsv1.RecreateDeploymentStrategyType,
		Paused:   s.Paused, MinReady: time.Duration(s.MinReadySeconds) * time.Second,
		CurrentReplicas: int(d.Status.Replicas), UpdatedReplicas: int(d.Status.UpdatedReplicas),
		ReadyReplicas: int(d.Status.ReadyReplicas), AvailableReplicas: int(d.Status.AvailableReplicas),
	}
	if r := s.Strategy.RollingUpdate; r != nil {
		out.MaxSurge = scaled(r.MaxSurge, out.Replicas, true)
		out.MaxUnavailable = min(scaled(r.MaxUnavailable, out.Replicas, false), out.Replicas)
		if out.MaxSurge == 0 && out.MaxUnavailable == 0 {
			out.MaxUnavailable = 1 // both were rounded to nothing
		}
	}
	return out
}

// generateName gives an object that asks for a generated name one that is the
// same whenever the same input is read, so that applying it again changes
// nothing.
func (l *loader) generateName(kind cluster.Kind, m *metav1.ObjectMeta, o any) {
	if m.Name != "" || m.GenerateName == "" {
		return
	}
	data, _ := json.Marshal(o)
	h := fnv.New64a()
	h.Write(data)
	for taken := true; taken; {
		h.Write([]byte{1})
		suffix := rand.SafeEncodeString(strconv.FormatUint(h.Sum64()|1<<63, 10))
		m.Name = generated(m.GenerateName, suffix[len(suffix)-5:])
		_, taken = l.first[cluster.Ref{Kind: kind, Key: cluster.Key{Namespace: m.Namespace, Name: m.Name}}]
	}
}

// generated is a name that has prefix as far as there is room: 63 letters in
// all, as the API server leaves it (apiserver/pkg/storage/names).
func generated(prefix, suffix string) string {
	return prefix[:min(len(prefix), 63-len(suffix))] + suffix
}
