package kube

import (
	"fmt"

	"k8s.io/apimachinery/pkg/labels"
)

// ParseSelector reads a label selector as command lines have it ("app=web",
// "tier in (front,back),!canary") and returns what it matches.
func ParseSelector(text string) (matches func(map[string]string) bool, err error) {
	s, err := labels.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("label selector %q: %w", text, err)
	}
	return func(have map[string]string) bool { return s.Matches(labels.Set(have)) }, nil
}
