package kube

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"vswitch/vswitch/cluster"
)

func toProbe(p *corev1.Probe) *cluster.Probe {
	if p == nil {
		return nil
	}
	out := &cluster.Probe{
		Handler:          toHandler(p.Exec, p.HTTPGet, p.TCPSocket),
		InitialDelay:     inSeconds(p.InitialDelaySeconds),
		Period:           inSeconds(p.PeriodSeconds),
		Timeout:          inSeconds(p.TimeoutSeconds),
		SuccessThreshold: int(p.SuccessThreshold),
		FailureThreshold: int(p.FailureThreshold),
	}
	if g := p.GRPC; g != nil {
		out.GRPC = &cluster.GRPC{Port: uint16(g.Port), Service: valueOf(g.Service)}
	}
	if g := p.TerminationGracePeriodSeconds; g != nil {
		grace := inSeconds(*g)
		out.GracePeriod = &grace
	}
	return out
}

func inSeconds[T int32 | int64](n T) time.Duration { return time.Duration(n) * time.Second }

func toPostStart(l *corev1.Lifecycle) *cluster.Handler {
	if l == nil {
		return nil
	}
	return toHook(l.PostStart)
}

func toPreStop(l *corev1.Lifecycle) *cluster.Handler {
	if l == nil {
		return nil
	}
	return toHook(l.PreStop)
}

// toHook converts a lifecycle handler. One that does nothing is nil: a
// connection that nobody waits for, or no time to sleep.
func toHook(l *corev1.LifecycleHandler) *cluster.Handler {
	if l == nil || l.TCPSocket != nil {
		return nil
	}
	h := toHandler(l.Exec, l.HTTPGet, nil)
	if s := l.Sleep; s != nil {
		if s.Seconds == 0 {
			return nil
		}
		h.Sleep = inSeconds(s.Seconds)
	}
	return &h
}

func toHandler(exec *corev1.ExecAction, get *corev1.HTTPGetAction, tcp *corev1.TCPSocketAction) cluster.Handler {
	var h cluster.Handler
	switch {
	case exec != nil:
		h.Exec = exec.Command
	case get != nil:
		h.HTTP = &cluster.HTTPGet{HTTPS: get.Scheme == corev1.URISchemeHTTPS, Host: get.Host, Path: get.Path}
		h.HTTP.Port, h.HTTP.PortName = toPort(get.Port)
		for _, header := range get.HTTPHeaders {
			h.HTTP.Headers = append(h.HTTP.Headers, [2]string{header.Name, header.Value})
		}
	case tcp != nil:
		h.TCP = &cluster.TCPSocket{Host: tcp.Host}
		h.TCP.Port, h.TCP.PortName = toPort(tcp.Port)
	}
	return h
}

func toPort(p intstr.IntOrString) (number uint16, name string) {
	if p.Type == intstr.String {
		return 0, p.StrVal
	}
	return uint16(p.IntVal), ""
}

func fromPort(number uint16, name string) intstr.IntOrString {
	if name != "" {
		return intstr.FromString(name)
	}
	return intstr.FromInt32(int32(number))
}

func fromProbe(p *cluster.Probe) *corev1.Probe {
	if p == nil {
		return nil
	}
	exec, get, tcp := fromHandler(&p.Handler)
	out := &corev1.Probe{
		ProbeHandler:        corev1.ProbeHandler{Exec: exec, HTTPGet: get, TCPSocket: tcp},
		InitialDelaySeconds: int32(p.InitialDelay / time.Second),
		PeriodSeconds:       int32(p.Period / time.Second),
		TimeoutSeconds:      int32(p.Timeout / time.Second),
		SuccessThreshold:    int32(p.SuccessThreshold),
		FailureThreshold:    int32(p.FailureThreshold),
	}
	if g := p.GRPC; g != nil {
		out.GRPC = &corev1.GRPCAction{Port: int32(g.Port), Service: &g.Service}
	}
	if p.GracePeriod != nil {
		grace := int64(*p.GracePeriod / time.Second)
		out.TerminationGracePeriodSeconds = &grace
	}
	return out
}

func fromHooks(postStart, preStop *cluster.Handler) *corev1.Lifecycle {
	if postStart == nil && preStop == nil {
		return nil
	}
	return &corev1.Lifecycle{PostStart: fromHook(postStart), PreStop: fromHook(preStop)}
}

func fromHook(h *cluster.Handler) *corev1.LifecycleHandler {
	if h == nil {
		return nil
	}
	out := &corev1.LifecycleHandler{}
	out.Exec, out.HTTPGet, out.TCPSocket = fromHandler(h)
	if h.Sleep > 0 {
		out.Sleep = &corev1.SleepAction{Seconds: int64(h.Sleep / time.Second)}
	}
	return out
}

func fromHandler(h *cluster.Handler) (exec *corev1.ExecAction, get *corev1.HTTPGetAction, tcp *corev1.TCPSocketAction) {
	if len(h.Exec) > 0 {
		exec = &corev1.ExecAction{Command: h.Exec}
	}
	if g := h.HTTP; g != nil {
		get = &corev1.HTTPGetAction{Host: g.Host, Port: fromPort(g.Port, g.PortName), Path: g.Path, Scheme: corev1.URISchemeHTTP}
		if g.HTTPS {
			get.Scheme = corev1.URISchemeHTTPS
		}
		for _, header := range g.Headers {
			get.HTTPHeaders = append(get.HTTPHeaders, corev1.HTTPHeader{Name: header[0], Value: header[1]})
		}
	}
	if t := h.TCP; t != nil {
		tcp = &corev1.TCPSocketAction{Host: t.Host, Port: fromPort(t.Port, t.PortName)}
	}
	return exec, get, tcp
}
