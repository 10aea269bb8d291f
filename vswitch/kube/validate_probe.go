package kube

import (
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateHooks checks a container's probes and lifecycle handlers. runsToEnd
// says that it is an init container that the next ones wait for, which may
// have neither; grace is the pod's termination grace period in seconds.
func validateHooks(c *corev1.Container, path *field.Path, runsToEnd bool, grace int64) field.ErrorList {
	var errs field.ErrorList
	given := map[string]bool{"lifecycle": c.Lifecycle != nil}
	for _, p := range probesOf(c) {
		given[p.name] = p.probe != nil
	}
	if runsToEnd {
		for _, name := range []string{"lifecycle", "livenessProbe", "readinessProbe", "startupProbe"} {
			if given[name] {
				errs = append(errs, field.Forbidden(path.Child(name), "an init container may have it only with restartPolicy Always"))
			}
		}
		return errs
	}
	for _, p := range probesOf(c) {
		if p.probe != nil {
			errs = append(errs, validateProbe(p.probe, path.Child(p.name), p.probe == c.ReadinessProbe)...)
		}
	}
	if c.Lifecycle != nil {
		path = path.Child("lifecycle")
		if h := c.Lifecycle.PostStart; h != nil {
			errs = append(errs, validateLifecycleHandler(h, path.Child("postStart"), grace)...)
		}
		if h := c.Lifecycle.PreStop; h != nil {
			errs = append(errs, validateLifecycleHandler(h, path.Child("preStop"), grace)...)
		}
	}
	return errs
}

type namedProbe struct {
	name  string // of the container's field
	probe *corev1.Probe
}

func probesOf(c *corev1.Container) [3]namedProbe {
	return [3]namedProbe{{"livenessProbe", c.LivenessProbe}, {"readinessProbe", c.ReadinessProbe}, {"startupProbe", c.StartupProbe}}
}

func validateProbe(p *corev1.Probe, path *field.Path, readiness bool) field.ErrorList {
	var errs field.ErrorList
	for _, n := range []struct {
		name  string
		value int32
	}{
		{"initialDelaySeconds", p.InitialDelaySeconds}, {"timeoutSeconds", p.TimeoutSeconds}, {"periodSeconds", p.PeriodSeconds},
		{"successThreshold", p.SuccessThreshold}, {"failureThreshold", p.FailureThreshold},
	} {
		if n.value < 0 {
			errs = append(errs, field.Invalid(path.Child(n.name), n.value, "must not be negative"))
		}
	}
	if !readiness && p.SuccessThreshold > 1 {
		errs = append(errs, field.Invalid(path.Child("successThreshold"), p.SuccessThreshold, "must be 1"))
	}
	if g := p.TerminationGracePeriodSeconds; g != nil {
		at := path.Child("terminationGracePeriodSeconds")
		switch {
		case readiness:
			errs = append(errs, field.Invalid(at, *g, "must not be set for readiness probes, which end nothing"))
		case *g <= 0 || *g > maxGrace:
			errs = append(errs, field.Invalid(at, *g, fmt.Sprintf("must be greater than 0, and not more than %d", int64(maxGrace))))
		}
	}
	count := 0
	if p.GRPC != nil {
		count++
		errs = append(errs, each(path.Child("grpc", "port"), p.GRPC.Port, validation.IsValidPortNum(int(p.GRPC.Port)))...)
	}
	return append(errs, validateHandler(p.Exec, p.HTTPGet, p.TCPSocket, count, path)...)
}

func validateLifecycleHandler(h *corev1.LifecycleHandler, path *field.Path, grace int64) field.ErrorList {
	var errs field.ErrorList
	count := 0
	if h.Sleep != nil {
		count++
		if s := h.Sleep.Seconds; s < 0 || s > grace {
			errs = append(errs, field.Invalid(path.Child("sleep", "seconds"), s,
				fmt.Sprintf("must not be negative, nor longer than the pod's terminationGracePeriodSeconds (%d)", grace)))
		}
	}
	return append(errs, validateHandler(h.Exec, h.HTTPGet, h.TCPSocket, count, path)...)
}

// validateHandler checks the actions that probes and lifecycle handlers have
// in common. others is the number of those given that only one of them has.
func validateHandler(exec *corev1.ExecAction, get *corev1.HTTPGetAction, tcp *corev1.TCPSocketAction, others int, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if exec != nil {
		others++
		if len(exec.Command) == 0 {
			errs = append(errs, field.Required(path.Child("exec", "command"), ""))
		} else if exec.Command[0] == "" {
			errs = append(errs, field.Invalid(path.Child("exec", "command").Index(0), "", "must name a program"))
		}
	}
	if get != nil {
		others++
		errs = append(errs, validateHTTPGet(get, path.Child("httpGet"))...)
	}
	if tcp != nil {
		others++
		errs = append(errs, validatePortOrName(tcp.Port, path.Child("tcpSocket", "port"))...)
	}
	switch {
	case others == 0:
		errs = append(errs, field.Required(path, "must have a handler, one of exec, httpGet and tcpSocket"))
	case others > 1:
		errs = append(errs, field.Forbidden(path, "may not have more than one handler"))
	}
	return errs
}

func validateHTTPGet(g *corev1.HTTPGetAction, path *field.Path) field.ErrorList {
	errs := validatePortOrName(g.Port, path.Child("port"))
	schemes := []corev1.URIScheme{corev1.URISchemeHTTP, corev1.URISchemeHTTPS}
	if !slices.Contains(schemes, g.Scheme) {
		errs = append(errs, field.NotSupported(path.Child("scheme"), g.Scheme, schemes))
	}
	for i, h := range g.HTTPHeaders {
		errs = append(errs, each(path.Child("httpHeaders").Index(i).Child("name"), h.Name, validation.IsHTTPHeaderName(h.Name))...)
	}
	if p := g.Protocol; p != nil {
		at := path.Child("protocol")
		known := []corev1.HTTPProtocol{corev1.HTTPProtocolHTTP1, corev1.HTTPProtocolHTTP2}
		switch {
		case !slices.Contains(known, *p):
			errs = append(errs, field.NotSupported(at, *p, known))
		case *p == corev1.HTTPProtocolHTTP2 && g.Scheme != corev1.URISchemeHTTP:
			errs = append(errs, field.Invalid(at, *p, "must be used with the scheme HTTP"))
		}
	}
	return errs
}

// validatePortOrName checks a port that may be given by the name of a
// container's port.
func validatePortOrName(p intstr.IntOrString, path *field.Path) field.ErrorList {
	if p.Type == intstr.String {
		if _, err := strconv.ParseUint(p.StrVal, 10, 16); err == nil {
			return field.ErrorList{field.Invalid(path, p.StrVal, "is a number; write it without quotes")}
		}
		return each(path, p.StrVal, validation.IsValidPortName(p.StrVal))
	}
	return each(path, p.IntVal, validation.IsValidPortNum(int(p.IntVal)))
}
