package kube

import (
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// sourceRanges returns who may use a load balancer as the manifest says it, in
// the field or else in the annotation, and the path of the i-th range, or of
// all of them for -1.
func sourceRanges(v *corev1.Service) (ranges []string, path func(i int) *field.Path) {
	all := field.NewPath("spec", "loadBalancerSourceRanges")
	if len(v.Spec.LoadBalancerSourceRanges) > 0 {
		return v.Spec.LoadBalancerSourceRanges, func(i int) *field.Path {
			if i < 0 {
				return all
			}
			return all.Index(i)
		}
	}
	if text := strings.TrimSpace(v.Annotations[annotationSourceRanges]); text != "" {
		ranges = strings.Split(text, ",")
	}
	return ranges, func(int) *field.Path { return field.NewPath("metadata", "annotations").Key(annotationSourceRanges) }
}

// parseRange reads a range as kube-proxy does: white space around it, leading
// zeros in decimal numbers and bits behind the prefix are overlooked.
func parseRange(s string) (netip.Prefix, bool) {
	addr, bits, ok := strings.Cut(strings.TrimSpace(s), "/")
	if !ok {
		return netip.Prefix{}, false
	}
	a, err := netip.ParseAddr(withoutZeros(addr))
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, false
	}
	n, ok := decimal(bits)
	if !ok {
		return netip.Prefix{}, false
	}
	if a.Is4In6() { // not an IPv4 range unless all of the mapping is its prefix
		if n < 96 {
			return netip.Prefix{}, false
		}
		a, n = a.Unmap(), n-96
	}
	p, err := a.Prefix(n)
	return p, err == nil
}

// decimal reads a number from 0 to 65535, without sign.
func decimal(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err == nil
}

// withoutZeros drops leading zeros of the decimal numbers in an address, which
// netip refuses because some programs take them for octal.
func withoutZeros(addr string) string {
	head, v4 := "", addr
	if i := strings.LastIndexByte(addr, ':'); i >= 0 {
		head, v4 = addr[:i+1], addr[i+1:]
	}
	if !strings.Contains(v4, ".") {
		return addr
	}
	octets := strings.Split(v4, ".")
	for i, o := range octets {
		if t := strings.TrimLeft(o, "0"); t != "" {
			octets[i] = t
		} else if o != "" {
			octets[i] = "0"
		}
	}
	return head + strings.Join(octets, ".")
}
