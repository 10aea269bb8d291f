package lab

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"vswitch/vswitch/cluster"
)

// TestProblems: what several nodes lack is said once, and of many services some
// are named.
func TestProblems(t *testing.T) {
	got := nodeProblems([]Node{{Name: "node1", Problems: []string{"a", "b"}}, {Name: "node2"}, {Name: "node3", Problems: []string{"b"}}})
	if want := []string{"node node1: a", "nodes node1, node3: b"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	store := cluster.NewStore()
	put := func(n int) {
		t.Helper()
		if err := store.Update(cluster.Desired, func(tx *cluster.Txn) error {
			tx.Put(&cluster.Service{Meta: cluster.Meta{Namespace: "x", Name: "fine"},
				Conditions: []cluster.Condition{{Type: "Ready", True: true, Reason: "Fine"}}})
			for i := range n {
				tx.Put(&cluster.Service{Meta: cluster.Meta{Namespace: "x", Name: fmt.Sprintf("s%d", i), Source: "web.yaml:3"},
					Conditions: []cluster.Condition{{Type: "Allocated", Reason: "Taken", Message: "the port is taken"}, {Type: "Other", Reason: "Gone"}}})
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	put(1)
	if got := serviceProblems(store.State()); !slices.Equal(got, []string{"web.yaml:3: Service x/s0: the port is taken; Gone"}) {
		t.Errorf("%q", got)
	}
	put(20)
	if got := serviceProblems(store.State()); len(got) != maxServiceProblems+1 || !strings.HasPrefix(got[maxServiceProblems], "12 more Services lack something") {
		t.Errorf("%q", got)
	}
}
