package agent

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var compareAddrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func TestStateRoundTrip(t *testing.T) {
	dir := t.TempDir()
	want := state{
		Version: stateVersion, Node: "node1",
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")},
		Pods: []PodStatus{{Namespace: "shop", Name: "web", UID: "u", Node: "node1", PortSpec: PortSpec{NetNS: "/x"},
			IPs: []netip.Addr{netip.MustParseAddr("10.244.1.2")}}},
		Released: []release{{netip.MustParseAddr("10.244.1.3"), time.Unix(5, 0).UTC()}},
	}
	if err := saveState(dir, want); err != nil {
		t.Fatal(err)
	}
	got, problem, err := loadState(dir, "node1")
	if err != nil || problem != nil {
		t.Fatal(err, problem)
	}
	if d := cmp.Diff(want, got, compareAddrs); d != "" {
		t.Error(d)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.tmp")); len(left) > 0 {
		t.Errorf("temporary files stay: %v", left)
	}
}

func TestStateMissing(t *testing.T) {
	s, problem, err := loadState(t.TempDir(), "node1")
	if err != nil || problem != nil || s.Node != "node1" || len(s.Pods) != 0 {
		t.Errorf("got %+v, %v, %v", s, problem, err)
	}
}

func TestStateDamaged(t *testing.T) {
	for name, content := range map[string]string{
		"half a file":   `{"version":1,"node":"node1","po`,
		"empty":         "",
		"other version": `{"version":99,"node":"node1"}`,
		"other node":    `{"version":1,"node":"node2"}`,
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "state.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		s, problem, err := loadState(dir, "node1")
		if err != nil || problem == nil || len(s.Pods) != 0 {
			t.Errorf("%s: got %+v, %v, %v", name, s, problem, err)
			continue
		}
		aside, _ := filepath.Glob(path + ".bad-*")
		if len(aside) != 1 || !strings.Contains(problem.Error(), aside[0]) {
			t.Errorf("%s: the file was not set aside, or the report does not say where: %v, %v", name, aside, problem)
			continue
		}
		if data, _ := os.ReadFile(aside[0]); string(data) != content {
			t.Errorf("%s: the file set aside is not the damaged one", name)
		}
	}
}
