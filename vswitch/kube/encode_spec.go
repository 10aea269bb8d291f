package kube

import (
	"net/netip"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"vswitch/vswitch/cluster"
)

// fromPodSpec writes the specification of a pod that has no manifest, such as
// one made by a test, from what the noun knows.
func fromPodSpec(p *cluster.Pod) corev1.PodSpec {
	grace := int64(p.GracePeriod / time.Second)
	s := corev1.PodSpec{
		NodeName: p.Node, NodeSelector: p.NodeSelector, HostNetwork: p.HostNetwork,
		Hostname: p.Hostname, Subdomain: p.Subdomain,
		RestartPolicy: corev1.RestartPolicy(p.RestartPolicy), TerminationGracePeriodSeconds: &grace,
		SecurityContext: &corev1.PodSecurityContext{RunAsUser: p.RunAsUser, RunAsGroup: p.RunAsGroup},
	}
	for _, h := range p.HostAliases {
		s.HostAliases = append(s.HostAliases, corev1.HostAlias{IP: h.IP.String(), Hostnames: h.Names})
	}
	s.DNSPolicy, s.DNSConfig = corev1.DNSPolicy(p.DNSPolicy), fromDNSConfig(p.DNSConfig)
	for i := range p.InitContainers {
		c := fromContainer(&p.InitContainers[i])
		if p.InitContainers[i].Sidecar {
			always := corev1.ContainerRestartPolicyAlways
			c.RestartPolicy = &always
		}
		s.InitContainers = append(s.InitContainers, c)
	}
	for i := range p.Containers {
		s.Containers = append(s.Containers, fromContainer(&p.Containers[i]))
	}
	defaultPodSpec(&s)
	return s
}

func fromDNSConfig(c *cluster.DNSConfig) *corev1.PodDNSConfig {
	if c == nil {
		return nil
	}
	out := &corev1.PodDNSConfig{Searches: c.Search}
	for _, a := range c.Servers {
		out.Nameservers = append(out.Nameservers, a.String())
	}
	for _, text := range c.Options {
		name, value, ok := strings.Cut(text, ":")
		o := corev1.PodDNSConfigOption{Name: name}
		if ok {
			o.Value = &value
		}
		out.Options = append(out.Options, o)
	}
	return out
}

func fromContainer(c *cluster.Container) corev1.Container {
	out := corev1.Container{
		Name: c.Name, Image: c.Image, Command: c.Command, WorkingDir: c.WorkingDir,
		StartupProbe: fromProbe(c.Startup), LivenessProbe: fromProbe(c.Liveness), ReadinessProbe: fromProbe(c.Readiness), Lifecycle: fromHooks(c.PostStart, c.PreStop),
	}
	for _, e := range c.Env {
		name, value, _ := strings.Cut(e, "=")
		v := corev1.EnvVar{Name: name, Value: value}
		if path, ok := c.EnvFields[name]; ok && value == "" {
			v.ValueFrom = &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
		}
		out.Env = append(out.Env, v)
	}
	for _, p := range c.Ports {
		port := corev1.ContainerPort{Name: p.Name, ContainerPort: int32(p.Port), HostPort: int32(p.HostPort), Protocol: protocolName(p.Protocol)}
		if p.HostIP != (netip.Addr{}) {
			port.HostIP = p.HostIP.String()
		}
		out.Ports = append(out.Ports, port)
	}
	if c.RunAsUser != nil || c.RunAsGroup != nil {
		out.SecurityContext = &corev1.SecurityContext{RunAsUser: c.RunAsUser, RunAsGroup: c.RunAsGroup}
	}
	return out
}

func strategyOf(d *cluster.Deployment) appsv1.DeploymentStrategy {
	if d.Recreate {
		return appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	}
	surge, unavailable := intstr.FromInt32(int32(d.MaxSurge)), intstr.FromInt32(int32(d.MaxUnavailable))
	return appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable}}
}
