package kube

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The rules are those of k8s.io/kubernetes pkg/apis/core/validation and
// pkg/apis/apps/validation, for the fields that the switch reads.

func validateMeta(m *metav1.ObjectMeta, namespaced bool, name apivalidation.ValidateNameFunc) field.ErrorList {
	given := *m
	// Fields that an exported object carries, and that nobody reads here.
	given.ManagedFields, given.OwnerReferences, given.Finalizers, given.Generation = nil, nil, nil, 0
	if given.Name == "" && given.GenerateName != "" {
		given.Name = generated(given.GenerateName, "00000") // the loader makes one
	}
	return apivalidation.ValidateObjectMeta(&given, namespaced, name, field.NewPath("metadata"))
}

func validateNamespace(n *corev1.Namespace) field.ErrorList {
	errs := validateMeta(&n.ObjectMeta, false, apivalidation.NameIsDNSLabel)
	if _, err := isolates(n); err != nil {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "annotations").Key(annotationIsolation), n.Annotations[annotationIsolation], err.Error()))
	}
	return errs
}

func validateNode(n *corev1.Node) field.ErrorList {
	errs := validateMeta(&n.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	spec, status := field.NewPath("spec"), field.NewPath("status")
	var families [2]bool
	for i, c := range n.Spec.PodCIDRs {
		path := spec.Child("podCIDRs").Index(i)
		if len(n.Spec.PodCIDRs) == 1 && c == n.Spec.PodCIDR {
			path = spec.Child("podCIDR")
		}
		p, err := netip.ParsePrefix(c)
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(path, c, "must be a range like 10.244.1.0/24 or fd00:10:244:1::/64"))
		case p.Addr().Is4In6():
			errs = append(errs, field.Invalid(path, c, "write an IPv4 range as such"))
		case p != p.Masked():
			errs = append(errs, field.Invalid(path, c, fmt.Sprintf("has bits set behind its prefix; did you mean %s?", p.Masked())))
		case p.Bits() == 0:
			errs = append(errs, field.Invalid(path, c, "is the whole internet; give the node's own range"))
		case families[family(p.Addr())]:
			errs = append(errs, field.Invalid(path, c, "is a second range of one family; give at most one IPv4 and one IPv6 range"))
		default:
			families[family(p.Addr())] = true
		}
	}
	if len(n.Spec.PodCIDRs) > 0 && n.Spec.PodCIDR != n.Spec.PodCIDRs[0] {
		errs = append(errs, field.Invalid(spec.Child("podCIDR"), n.Spec.PodCIDR, "must be the first of podCIDRs"))
	}
	for i, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			errs = append(errs, validateIP(status.Child("addresses").Index(i).Child("address"), a.Address)...)
		}
	}
	return errs
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// validateIP refuses what the API server refuses, and zones.
func validateIP(path *field.Path, s string) field.ErrorList {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil || a.Zone() != "":
		return field.ErrorList{field.Invalid(path, s, "must be an IP address like 10.9.8.7 or 2001:db8::1")}
	case a.Is4In6():
		return field.ErrorList{field.Invalid(path, s, fmt.Sprintf("write it as %s", a.Unmap()))}
	case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast():
		return field.ErrorList{field.Invalid(path, s, "may not be an unspecified, loopback or multicast address")}
	}
	return nil
}

func validatePod(p *corev1.Pod) field.ErrorList {
	errs := validateMeta(&p.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, validatePodSpec(&p.Spec, field.NewPath("spec"))...)
	status := field.NewPath("status")
	var families [2]bool
	for i, ip := range p.Status.PodIPs {
		path := status.Child("podIPs").Index(i).Child("ip")
		if len(p.Status.PodIPs) == 1 && ip.IP == p.Status.PodIP {
			path = status.Child("podIP")
		}
		bad := validateIP(path, ip.IP)
		errs = append(errs, bad...)
		if len(bad) > 0 {
			continue
		}
		f := family(netip.MustParseAddr(ip.IP))
		if families[f] {
			errs = append(errs, field.Invalid(path, ip.IP, "is a second address of one family; a pod has at most one IPv4 and one IPv6 address"))
		}
		families[f] = true
	}
	if len(p.Status.PodIPs) > 0 && p.Status.PodIP != p.Status.PodIPs[0].IP {
		errs = append(errs, field.Invalid(status.Child("podIP"), p.Status.PodIP, "must be the first of podIPs"))
	}
	phases := []corev1.PodPhase{"", corev1.PodPending, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed, corev1.PodUnknown}
	if !slices.Contains(phases, p.Status.Phase) {
		errs = append(errs, field.NotSupported(status.Child("phase"), p.Status.Phase, phases[1:]))
	}
	return errs
}

func validateDeployment(d *appsv1.Deployment) field.ErrorList {
	errs := validateMeta(&d.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	spec := field.NewPath("spec")
	if *d.Spec.Replicas < 0 {
		errs = append(errs, field.Invalid(spec.Child("replicas"), *d.Spec.Replicas, "must not be negative"))
	} else if *d.Spec.Replicas > maxReplicas {
		errs = append(errs, field.Invalid(spec.Child("replicas"), *d.Spec.Replicas, fmt.Sprintf("must not be more than %d", maxReplicas)))
	}
	if d.Spec.MinReadySeconds < 0 {
		errs = append(errs, field.Invalid(spec.Child("minReadySeconds"), d.Spec.MinReadySeconds, "must not be negative"))
	}
	t := &d.Spec.Template
	template := spec.Child("template")
	errs = append(errs, metavalidation.ValidateLabels(t.Labels, template.Child("metadata", "labels"))...)
	errs = append(errs, apivalidation.ValidateAnnotations(t.Annotations, template.Child("metadata", "annotations"))...)
	errs = append(errs, validateDeploymentSelector(d, spec.Child("selector"))...)
	errs = append(errs, validatePodSpec(&t.Spec, template.Child("spec"))...)
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(template.Child("spec", "restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	return append(errs, validateStrategy(&d.Spec.Strategy, spec.Child("strategy"))...)
}

// maxReplicas is more pods than one machine can hold; a number above it is a
// slip of the finger that would fill its memory.
const maxReplicas = 100000

func validateDeploymentSelector(d *appsv1.Deployment, path *field.Path) field.ErrorList {
	s := d.Spec.Selector
	if s == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	errs := metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, path)
	if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path, "{}", "selects every pod; give at least one label"))
	}
	if len(errs) > 0 {
		return errs
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return field.ErrorList{field.Invalid(path, "", err.Error())}
	}
	if !selector.Matches(labels.Set(d.Spec.Template.Labels)) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "template", "metadata", "labels"), d.Spec.Template.Labels,
			"does not match spec.selector"))
	}
	return errs
}

func validateStrategy(s *appsv1.DeploymentStrategy, path *field.Path) field.ErrorList {
	types := []appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType}
	switch {
	case !slices.Contains(types, s.Type):
		return field.ErrorList{field.NotSupported(path.Child("type"), s.Type, types)}
	case s.Type == appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(path.Child("rollingUpdate"), "only for the type RollingUpdate")}
		}
		return nil
	}
	path = path.Child("rollingUpdate")
	errs := append(validateIntOrPercent(s.RollingUpdate.MaxUnavailable, path.Child("maxUnavailable"), 100),
		validateIntOrPercent(s.RollingUpdate.MaxSurge, path.Child("maxSurge"), 1<<20)...)
	if len(errs) == 0 && scaled(s.RollingUpdate.MaxUnavailable, 1000, false) == 0 && scaled(s.RollingUpdate.MaxSurge, 1000, true) == 0 {
		errs = append(errs, field.Invalid(path.Child("maxUnavailable"), s.RollingUpdate.MaxUnavailable.String(),
			"may not be 0 when maxSurge is 0: the update could never begin"))
	}
	return errs
}

func validateIntOrPercent(v *intstr.IntOrString, path *field.Path, most int) field.ErrorList {
	if v.Type == intstr.Int {
		if v.IntVal < 0 {
			return field.ErrorList{field.Invalid(path, v.IntVal, "must not be negative")}
		}
		return nil
	}
	if bad := validation.IsValidPercent(v.StrVal); bad != nil {
		return field.ErrorList{field.Invalid(path, v.StrVal, "must be a number or a percentage like 25%")}
	}
	if n, err := intstr.GetScaledValueFromIntOrPercent(v, 100, true); err != nil || n > most {
		return field.ErrorList{field.Invalid(path, v.StrVal, fmt.Sprintf("must not be more than %d%%", most))}
	}
	return nil
}

// scaled resolves a percentage of total; errors were found by validation.
func scaled(v *intstr.IntOrString, total int, roundUp bool) int {
	n, err := intstr.GetScaledValueFromIntOrPercent(v, total, roundUp)
	if err != nil {
		return 0
	}
	return n
}

// each joins messages of one value into errors.
func each(path *field.Path, value any, messages []string) (errs field.ErrorList) {
	if len(messages) > 0 {
		errs = append(errs, field.Invalid(path, value, strings.Join(messages, "; ")))
	}
	return errs
}
