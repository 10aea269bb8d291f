package kube

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Fields that are accepted and kept, but that nothing acts on yet, where that
// makes a difference to who wrote them. What makes none is not listed: what
// concerns images, resources, priorities and accounts, and what only takes
// rights away or, like a toleration, allows what is allowed anyhow.

// podFields are those of a pod.
var podFields = []struct {
	name string // from the spec
	set  func(*corev1.PodSpec) bool
	why  string
}{
	{"activeDeadlineSeconds", func(s *corev1.PodSpec) bool { return s.ActiveDeadlineSeconds != nil }, "the pod may run for as long as it likes"},
	{"affinity", func(s *corev1.PodSpec) bool { return s.Affinity != nil }, "only nodeSelector and nodeName choose a node"},
	{"ephemeralContainers", func(s *corev1.PodSpec) bool { return len(s.EphemeralContainers) > 0 }, "vswitch exec runs a program in a pod"},
	{"hostPID", func(s *corev1.PodSpec) bool { return s.HostPID }, "a pod sees the processes of the cluster only"},
	{"readinessGates", func(s *corev1.PodSpec) bool { return len(s.ReadinessGates) > 0 }, whenReady},
	{"securityContext.sysctls", func(s *corev1.PodSpec) bool { return s.SecurityContext != nil && len(s.SecurityContext.Sysctls) > 0 }, "the pod's kernel settings are those of every pod"},
	{"setHostnameAsFQDN", func(s *corev1.PodSpec) bool { return s.SetHostnameAsFQDN != nil && *s.SetHostnameAsFQDN }, "the host name is the short one"},
	{"topologySpreadConstraints", func(s *corev1.PodSpec) bool { return len(s.TopologySpreadConstraints) > 0 }, "a pod goes to the node with the fewest"},
	{"volumes", func(s *corev1.PodSpec) bool { return len(s.Volumes) > 0 }, seesMachine},
}

const (
	whenReady   = "the pod counts as ready when its containers are"
	seesMachine = "a container sees the files of this machine"
	speaksHTTP1 = "the probe speaks HTTP/1.1"
)

func isHTTP2(p *corev1.Probe) bool {
	return p != nil && p.HTTPGet != nil && p.HTTPGet.Protocol != nil && *p.HTTPGet.Protocol == corev1.HTTPProtocolHTTP2
}

// containerFields are those of a container.
var containerFields = []struct {
	name string // from the container
	set  func(*corev1.Container) bool
	why  string
}{
	{"args", func(c *corev1.Container) bool { return len(c.Args) > 0 && len(c.Command) == 0 }, "without a command, a built-in server runs in place of the image"},
	{"envFrom", func(c *corev1.Container) bool { return len(c.EnvFrom) > 0 }, "variables from a ConfigMap or Secret stay unset"},
	{"lifecycle.postStart.tcpSocket", func(c *corev1.Container) bool {
		return c.Lifecycle != nil && c.Lifecycle.PostStart != nil && c.Lifecycle.PostStart.TCPSocket != nil
	}, "the kubelet does not act on it either; use exec, httpGet or sleep"},
	{"lifecycle.preStop.tcpSocket", func(c *corev1.Container) bool {
		return c.Lifecycle != nil && c.Lifecycle.PreStop != nil && c.Lifecycle.PreStop.TCPSocket != nil
	}, "the kubelet does not act on it either; use exec, httpGet or sleep"},
	{"lifecycle.stopSignal", func(c *corev1.Container) bool { return c.Lifecycle != nil && c.Lifecycle.StopSignal != nil }, "every container is sent SIGTERM"},
	{"livenessProbe.httpGet.protocol", func(c *corev1.Container) bool { return isHTTP2(c.LivenessProbe) }, speaksHTTP1},
	{"readinessProbe.httpGet.protocol", func(c *corev1.Container) bool { return isHTTP2(c.ReadinessProbe) }, speaksHTTP1},
	{"startupProbe.httpGet.protocol", func(c *corev1.Container) bool { return isHTTP2(c.StartupProbe) }, speaksHTTP1},
	{"stdin", func(c *corev1.Container) bool { return c.Stdin }, "a container's standard input is empty"},
	{"tty", func(c *corev1.Container) bool { return c.TTY }, "a container has no terminal; vswitch exec -t gives one"},
	{"volumeDevices", func(c *corev1.Container) bool { return len(c.VolumeDevices) > 0 }, seesMachine},
	{"volumeMounts", func(c *corev1.Container) bool { return len(c.VolumeMounts) > 0 }, seesMachine},
}

// noEffect warns of a field at path of an object.
func (l *loader) noEffect(m *manifest, object, path, name, why string) {
	kind, _, _ := strings.Cut(object, " ")
	l.warnings = append(l.warnings, Warning{m.doc.file, m.line(path), m.doc.number, kind, object, name + " has no effect: " + why})
}

// podNoEffect warns of the fields of a pod's spec at path, of each once,
// however many containers have it.
func (l *loader) podNoEffect(m *manifest, object, path string, s *corev1.PodSpec) {
	for _, f := range podFields {
		if f.set(s) {
			l.noEffect(m, object, path+"."+f.name, f.name, f.why)
		}
	}
	said := map[string]bool{}
	// Mounting what has no effect has none either.
	said["volumeMounts"], said["volumeDevices"] = len(s.Volumes) > 0, len(s.Volumes) > 0
	say := func(at, name, why string) {
		if !said[name] {
			said[name] = true
			l.noEffect(m, object, at, name, why)
		}
	}
	for _, list := range []struct {
		name       string
		containers []corev1.Container
	}{{"initContainers", s.InitContainers}, {"containers", s.Containers}} {
		for i := range list.containers {
			c, at := &list.containers[i], fmt.Sprintf("%s.%s[%d]", path, list.name, i)
			for _, f := range containerFields {
				if f.set(c) {
					say(at+"."+f.name, f.name, f.why)
				}
			}
			for j, e := range c.Env {
				if e.ValueFrom != nil && e.ValueFrom.FieldRef == nil {
					say(fmt.Sprintf("%s.env[%d].valueFrom", at, j), "env.valueFrom", "variables with a value from elsewhere than the pod, like "+e.Name+", stay unset")
				}
			}
			for j, p := range c.Ports {
				if p.HostPort != 0 && !s.HostNetwork {
					say(fmt.Sprintf("%s.ports[%d].hostPort", at, j), "ports.hostPort", "no port of this machine leads to the pod")
				}
			}
		}
	}
}

// nodeNoEffect warns of the fields of a node.
func (l *loader) nodeNoEffect(m *manifest, object string, n *corev1.Node) {
	if len(n.Spec.Taints) > 0 {
		l.noEffect(m, object, "spec.taints", "taints", "pods are put on the node all the same; unschedulable keeps new ones away")
	}
}

// serviceNoEffect warns of the fields and annotations of a service.
func (l *loader) serviceNoEffect(m *manifest, object string, v *corev1.Service) {
	s := &v.Spec
	warn := func(path, name, why string) { l.noEffect(m, object, path, name, why) }
	if s.HealthCheckNodePort != 0 && !needsHealthCheck(s) {
		warn("spec.healthCheckNodePort", "healthCheckNodePort", "only services of type LoadBalancer with externalTrafficPolicy Local have it")
	}
	if name, _, ok := annotated(v.Annotations, annotationHealthCheck, annotationHealthCheckAlpha); ok && !needsHealthCheck(s) {
		warn("metadata.annotations["+name+"]", name, "only services of type LoadBalancer with externalTrafficPolicy Local have it")
	}
	local := s.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	if name, value, ok := annotated(v.Annotations, annotationExternalTraffic, annotationExternalTrafficAlpha); ok && local != (value == externalOnlyLocal) {
		warn("metadata.annotations["+name+"]", name, "spec.externalTrafficPolicy is set, too")
	}
	if _, ok := v.Annotations[annotationSourceRanges]; ok && len(s.LoadBalancerSourceRanges) > 0 {
		warn("metadata.annotations["+annotationSourceRanges+"]", annotationSourceRanges, "spec.loadBalancerSourceRanges is set, too")
	}
	name, value, ok := annotated(v.Annotations, corev1.AnnotationTopologyMode, corev1.DeprecatedAnnotationTopologyAwareHints)
	if ok && !strings.EqualFold(value, "disabled") {
		warn("metadata.annotations["+name+"]", name, "use spec.trafficDistribution PreferSameZone")
	}
	if s.LoadBalancerIP != "" {
		if _, ok := balancerIP(s); !ok {
			warn("spec.loadBalancerIP", "loadBalancerIP", "it is not an IP address")
		}
	}
	if len(v.Status.LoadBalancer.Ingress) > 0 && s.Type != corev1.ServiceTypeLoadBalancer {
		warn("status.loadBalancer", "status.loadBalancer", "only services of type LoadBalancer have it")
	}
}
