package kube

import "testing"

func TestParseSelector(t *testing.T) {
	have := map[string]string{"app": "web", "tier": "front"}
	for text, want := range map[string]bool{
		"": true, "app=web": true, "app==web": true, "app=web,tier=back": false, "app!=web": false, "tier in (front,back)": true,
		"tier notin (front)": false, "app": true, "!app": false, "canary": false, "!canary": true,
	} {
		matches, err := ParseSelector(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got := matches(have); got != want {
			t.Errorf("%q matches %v: %v", text, have, got)
		}
	}
	for _, text := range []string{"app=web=1", "app in web", "-app", "app,,tier"} {
		if _, err := ParseSelector(text); err == nil {
			t.Errorf("%q is taken for a selector", text)
		}
	}
}
