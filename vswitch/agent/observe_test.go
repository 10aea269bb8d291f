package agent

import (
	"errors"
	"testing"

	"vswitch/vswitch"
)

func TestEventFilter(t *testing.T) {
	for _, c := range []struct {
		name string
		f    EventFilter
		want []vswitch.Reason
		not  []vswitch.Reason
	}{
		{"all", EventFilter{}, []vswitch.Reason{vswitch.Forwarded, vswitch.NoRoute, vswitch.PolicyIngress}, nil},
		{"verdict", EventFilter{Verdicts: []EventVerdict{EventDropped}},
			[]vswitch.Reason{vswitch.PolicyIngress, vswitch.Spoofed}, []vswitch.Reason{vswitch.Forwarded, vswitch.NoRoute}},
		{"verdicts", EventFilter{Verdicts: []EventVerdict{EventForwarded, EventRejected}},
			[]vswitch.Reason{vswitch.Forwarded, vswitch.NoRoute}, []vswitch.Reason{vswitch.PolicyIngress}},
		{"reason", EventFilter{Reasons: []string{"no-route", "spoofed"}},
			[]vswitch.Reason{vswitch.Spoofed, vswitch.NoRoute}, []vswitch.Reason{vswitch.PolicyIngress, vswitch.Forwarded}},
		{"both", EventFilter{Verdicts: []EventVerdict{EventDropped}, Reasons: []string{"no-route", "spoofed"}},
			[]vswitch.Reason{vswitch.Spoofed}, []vswitch.Reason{vswitch.NoRoute}},
	} {
		t.Run(c.name, func(t *testing.T) {
			wants := c.f.wants()
			if wants == nil { // as Switch.Observe has it
				wants = func(vswitch.Reason) bool { return true }
			}
			for _, r := range c.want {
				if !wants(r) {
					t.Errorf("%q is not wanted", r)
				}
			}
			for _, r := range c.not {
				if wants(r) {
					t.Errorf("%q is wanted", r)
				}
			}
			if err := c.f.Check(); err != nil {
				t.Error(err)
			}
		})
	}
	for _, f := range []EventFilter{{Verdicts: []EventVerdict{"gone"}}, {Reasons: []string{"because"}}, {Reasons: []string{""}}} {
		if err := f.Check(); !errors.Is(err, ErrBadRequest) {
			t.Errorf("%+v: %v", f, err)
		}
	}
}
