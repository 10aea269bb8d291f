package lab

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
)

// TestDeleteEachOfMany: what was deleted of very many objects is told beside the
// error of the one that is missing.
func TestDeleteEachOfMany(t *testing.T) {
	dir := t.TempDir()
	var deleted []control.Result
	for i := range 20000 {
		deleted = append(deleted, control.Result{Ref: cluster.KindService.Ref(cluster.Key{Namespace: "shop", Name: fmt.Sprint("service-", i)}), Action: "deleted"})
	}
	l, err := net.Listen("unix", filepath.Join(dir, apiSocket))
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer(w, deleted, failure(ErrNotFound, "Service shop/none: not found"))
	})}
	go server.Serve(l)
	defer server.Close()
	got, err := newClient("x", dir).DeleteEach(t.Context(), nil)
	if !errors.Is(err, ErrNotFound) || err.Error() != "Service shop/none: not found" {
		t.Errorf("error %v", err)
	}
	if len(got) != len(deleted) || got[len(got)-1].Ref != deleted[len(deleted)-1].Ref {
		t.Errorf("%d results, want %d", len(got), len(deleted))
	}
}
