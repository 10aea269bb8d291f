package cluster

import (
	"net/netip"
	"slices"
	"testing"
)

func TestExpand(t *testing.T) {
	vars := map[string]string{"A": "1", "B": "$(A)", "E": ""}
	for _, tt := range []struct{ in, want string }{
		{"", ""}, {"plain", "plain"}, {"$(A)", "1"}, {"x$(A)y$(A)", "x1y1"},
		{"$(B)", "$(A)"}, // values are not expanded twice
		{"$(C)", "$(C)"}, {"$$(A)", "$(A)"}, {"$$$(A)", "$1"}, {"$$$$(A)", "$$(A)"},
		{"$(A", "$(A"}, {"$", "$"}, {"$A", "$A"}, {"a$", "a$"}, {"$(E)", ""}, {"$()", "$()"}, {"$($(A)", "$($(A)"},
	} {
		if got := expand(tt.in, vars); got != tt.want {
			t.Errorf("expand(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestResolve(t *testing.T) {
	p := &Pod{
		Meta: Meta{Namespace: "shop", Name: "web", UID: "u1", Labels: map[string]string{"app": "web", "a": "b"}},
		Node: "n1", IPs: []netip.Addr{netip.MustParseAddr("10.1.1.2"), netip.MustParseAddr("fd00::2")},
		Containers: []Container{{
			Name:    "c",
			Command: []string{"serve", "--name=$(NAME)", "--me=$(URL)", "$$(NAME)", "$(NONE)"},
			Env: []string{"LATER=$(NAME)", "NAME=", "NS=", "IP=", "IPS=", "APP=", "LABELS=", "NODE=", "HOST=", "UID=",
				"URL=http://$(IP):80", "URL=$(URL)/x", "EMPTY="},
			EnvFields: map[string]string{"NAME": "metadata.name", "NS": "metadata.namespace", "IP": "status.podIP", "IPS": "status.podIPs",
				"APP": "metadata.labels['app']", "LABELS": "metadata.labels", "NODE": "spec.nodeName", "HOST": "status.hostIP", "UID": "metadata.uid"},
		}},
	}
	n := &Node{Addresses: []netip.Addr{netip.MustParseAddr("172.29.0.1")}}
	got := p.Resolve(n).Containers[0]
	want := []string{"LATER=$(NAME)", "NAME=web", "NS=shop", "IP=10.1.1.2", "IPS=10.1.1.2,fd00::2", "APP=web",
		"LABELS=a=\"b\"\napp=\"web\"", "NODE=n1", "HOST=172.29.0.1", "UID=u1", "URL=http://10.1.1.2:80/x", "EMPTY="}
	if !slices.Equal(got.Env, want) {
		t.Errorf("env\n got %q\nwant %q", got.Env, want)
	}
	if c := []string{"serve", "--name=web", "--me=http://10.1.1.2:80/x", "$(NAME)", "$(NONE)"}; !slices.Equal(got.Command, c) {
		t.Errorf("command %q", got.Command)
	}
	if p.Containers[0].Env[1] != "NAME=" || p.Containers[0].EnvFields == nil {
		t.Error("Resolve changed the pod it was given")
	}
	if _, ok := p.Field("status.phase", n); ok {
		t.Error("an unknown path was answered")
	}
	for _, path := range []string{"metadata.labels[app]", "metadata.labels['app'", "metadata.name['x']"} {
		if _, ok := p.Field(path, nil); ok {
			t.Errorf("%s was answered", path)
		}
	}
}
