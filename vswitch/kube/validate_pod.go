package kube

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"vswitch/vswitch/cluster"
)

func validatePodSpec(s *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(s.Containers) == 0 {
		errs = append(errs, field.Required(path.Child("containers"), "a pod has at least one container"))
	}
	names := map[string]bool{}
	hostPorts := map[string]bool{}
	for _, list := range []struct {
		path       *field.Path
		containers []corev1.Container
		init       bool
	}{{path.Child("initContainers"), s.InitContainers, true}, {path.Child("containers"), s.Containers, false}} {
		for i := range list.containers {
			c, at := &list.containers[i], list.path.Index(i)
			errs = append(errs, validateContainer(c, at)...)
			runsToEnd := list.init && (c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways)
			errs = append(errs, validateHooks(c, at, runsToEnd, *s.TerminationGracePeriodSeconds)...)
			if c.Name != "" && names[c.Name] {
				errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
			}
			names[c.Name] = true
			errs = append(errs, validatePorts(c.Ports, at.Child("ports"), s.HostNetwork, hostPorts)...)
		}
	}
	restart := []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}
	if !slices.Contains(restart, s.RestartPolicy) {
		errs = append(errs, field.NotSupported(path.Child("restartPolicy"), s.RestartPolicy, restart))
	}
	errs = append(errs, validatePodDNS(s, path)...)
	if g := *s.TerminationGracePeriodSeconds; g < 0 || g > maxGrace {
		errs = append(errs, field.Invalid(path.Child("terminationGracePeriodSeconds"), g, "must be 0 or more, and not more than 2147483648"))
	}
	if s.NodeName != "" {
		errs = append(errs, each(path.Child("nodeName"), s.NodeName, validation.IsDNS1123Subdomain(s.NodeName))...)
	}
	if s.Hostname != "" {
		errs = append(errs, each(path.Child("hostname"), s.Hostname, validation.IsDNS1123Label(s.Hostname))...)
	}
	if s.Subdomain != "" {
		errs = append(errs, each(path.Child("subdomain"), s.Subdomain, validation.IsDNS1123Label(s.Subdomain))...)
	}
	errs = append(errs, metavalidation.ValidateLabels(s.NodeSelector, path.Child("nodeSelector"))...)
	for i, h := range s.HostAliases {
		at := path.Child("hostAliases").Index(i)
		if _, err := netip.ParseAddr(h.IP); err != nil {
			errs = append(errs, field.Invalid(at.Child("ip"), h.IP, "must be an IP address"))
		}
		for j, n := range h.Hostnames {
			errs = append(errs, each(at.Child("hostnames").Index(j), n, validation.IsDNS1123Subdomain(n))...)
		}
	}
	if c := s.SecurityContext; c != nil {
		errs = append(errs, validateUser(c.RunAsUser, c.RunAsGroup, path.Child("securityContext"))...)
	}
	return errs
}

// maxGrace is the longest grace period, in seconds: one that a Duration holds.
const maxGrace = 1 << 31

func validateUser(user, group *int64, path *field.Path) (errs field.ErrorList) {
	if user != nil {
		errs = append(errs, each(path.Child("runAsUser"), *user, validation.IsValidUserID(*user))...)
	}
	if group != nil {
		errs = append(errs, each(path.Child("runAsGroup"), *group, validation.IsValidGroupID(*group))...)
	}
	return errs
}

func validateContainer(c *corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	} else {
		errs = append(errs, each(path.Child("name"), c.Name, validation.IsDNS1123Label(c.Name))...)
	}
	if len(c.Command) > 0 && c.Command[0] == "" {
		errs = append(errs, field.Invalid(path.Child("command").Index(0), "", "must name a program"))
	}
	for i := range c.Env {
		errs = append(errs, validateEnv(&c.Env[i], path.Child("env").Index(i))...)
	}
	if c.SecurityContext != nil {
		errs = append(errs, validateUser(c.SecurityContext.RunAsUser, c.SecurityContext.RunAsGroup, path.Child("securityContext"))...)
	}
	return errs
}

func validateEnv(e *corev1.EnvVar, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if e.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	} else {
		errs = append(errs, each(path.Child("name"), e.Name, validation.IsRelaxedEnvVarName(e.Name))...)
	}
	v := e.ValueFrom
	if v == nil {
		return errs
	}
	path = path.Child("valueFrom")
	if e.Value != "" {
		errs = append(errs, field.Invalid(path, "", "may not be given together with value"))
	}
	kinds := 0
	for _, given := range []bool{v.FieldRef != nil, v.ResourceFieldRef != nil, v.ConfigMapKeyRef != nil, v.SecretKeyRef != nil, v.FileKeyRef != nil} {
		if given {
			kinds++
		}
	}
	if kinds != 1 {
		errs = append(errs, field.Invalid(path, "", "must have exactly one of fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef, fileKeyRef"))
	}
	if v.FieldRef != nil {
		at := path.Child("fieldRef", "fieldPath")
		if v.FieldRef.FieldPath == "" {
			errs = append(errs, field.Required(at, ""))
		} else if _, ok := (&cluster.Pod{}).Field(v.FieldRef.FieldPath, nil); !ok || v.FieldRef.FieldPath == "metadata.labels" || v.FieldRef.FieldPath == "metadata.annotations" {
			errs = append(errs, field.NotSupported(at, v.FieldRef.FieldPath, []string{"metadata.name", "metadata.namespace", "metadata.uid",
				"metadata.labels['KEY']", "metadata.annotations['KEY']", "spec.nodeName", "spec.serviceAccountName",
				"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}))
		}
	}
	return errs
}

var protocols = []corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP}

// validatePorts checks a container's ports. hostPorts are those of the pod's
// containers so far.
func validatePorts(ports []corev1.ContainerPort, path *field.Path, hostNetwork bool, hostPorts map[string]bool) field.ErrorList {
	var errs field.ErrorList
	names := map[string]bool{}
	for i, p := range ports {
		at := path.Index(i)
		if p.Name != "" {
			errs = append(errs, each(at.Child("name"), p.Name, validation.IsValidPortName(p.Name))...)
			if names[p.Name] {
				errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
			}
			names[p.Name] = true
		}
		if p.ContainerPort == 0 {
			errs = append(errs, field.Required(at.Child("containerPort"), "a port from 1 to 65535"))
		} else {
			errs = append(errs, each(at.Child("containerPort"), p.ContainerPort, validation.IsValidPortNum(int(p.ContainerPort)))...)
		}
		if !slices.Contains(protocols, p.Protocol) {
			errs = append(errs, field.NotSupported(at.Child("protocol"), p.Protocol, protocols))
		}
		if a, err := netip.ParseAddr(p.HostIP); p.HostIP != "" && (err != nil || a.Zone() != "") {
			errs = append(errs, field.Invalid(at.Child("hostIP"), p.HostIP, "must be an IP address"))
		}
		if p.HostPort == 0 {
			continue
		}
		errs = append(errs, each(at.Child("hostPort"), p.HostPort, validation.IsValidPortNum(int(p.HostPort)))...)
		if hostNetwork && p.HostPort != p.ContainerPort {
			errs = append(errs, field.Invalid(at.Child("hostPort"), p.HostPort, "must be the containerPort, because the pod is in the host's network"))
		}
		key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
		if hostPorts[key] {
			errs = append(errs, field.Duplicate(at.Child("hostPort"), p.HostPort))
		}
		hostPorts[key] = true
	}
	return errs
}
