package control

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"vswitch/vswitch/cluster"
)

// serveFeed serves a store's feed at a socket until the returned function is called.
func serveFeed(t *testing.T, store *cluster.Store, socket string) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+FeedPath, Feed(store))
	srv := &http.Server{Handler: mux}
	go srv.Serve(l)
	return func() { srv.Close() }
}

func putServices(t *testing.T, store *cluster.Store, from, to int, ip string) {
	t.Helper()
	err := store.Update(cluster.Desired, func(tx *cluster.Txn) error {
		for i := from; i < to; i++ {
			m := cluster.Meta{Namespace: "x", Name: fmt.Sprintf("s%d", i)}
			tx.PutService(&cluster.Service{Meta: m, Type: cluster.ServiceClusterIP, ClusterIPs: []netip.Addr{netip.MustParseAddr(ip)}})
			m.Labels = map[string]string{cluster.LabelServiceName: m.Name}
			tx.PutEndpointSlice(&cluster.EndpointSlice{Meta: m, Family: cluster.IPv4})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// until waits until the follower's services and slices are those of the store.
func until(t *testing.T, store, follower *cluster.Store) {
	t.Helper()
	w := follower.Watch()
	defer w.Close()
	for {
		a, b := store.State(), follower.State()
		if a.Services.Len() == b.Services.Len() && a.EndpointSlices.Len() == b.EndpointSlices.Len() {
			same := true
			for s := range a.Services.All() {
				o := b.Service(s.Key())
				same = same && o != nil && o.ClusterIPs[0] == s.ClusterIPs[0]
			}
			if same {
				return
			}
		}
		select {
		case <-w.C():
			w.Next()
		case <-time.After(10 * time.Second):
			t.Fatalf("%d services and %d slices, want %d and %d", b.Services.Len(), b.EndpointSlices.Len(), a.Services.Len(), a.EndpointSlices.Len())
		}
	}
}

// TestFeed: a follower has what the store has: at first, after changes, after
// the feed was lost and objects changed and went meanwhile.
func TestFeed(t *testing.T) {
	store, follower := cluster.NewStore(), cluster.NewStore()
	socket := filepath.Join(t.TempDir(), "s")
	putServices(t, store, 0, 2*feedChunk+7, "10.96.0.1")
	stop := serveFeed(t, store, socket)
	ctx, cancel := context.WithCancel(t.Context())
	lost := make(chan error, 10)
	var heard atomic.Uint64
	done := make(chan struct{})
	go func() {
		defer close(done)
		Follow(ctx, socket, follower, heard.Store, func(err error) { lost <- err })
	}()
	if err := <-lost; err != nil {
		t.Errorf("at first: %v", err)
	}
	if n := follower.State().Services.Len(); n != 2*feedChunk+7 {
		t.Errorf("told that the feed is there with %d services, want %d", n, 2*feedChunk+7)
	}
	until(t, store, follower)
	putServices(t, store, 5, 10, "10.96.0.2")
	store.Update(cluster.Desired, func(tx *cluster.Txn) error {
		tx.DeleteService(cluster.Key{Namespace: "x", Name: "s1"})
		tx.DeleteEndpointSlice(cluster.Key{Namespace: "x", Name: "s1"})
		return nil
	})
	until(t, store, follower)
	if svc := follower.State().Service(cluster.Key{Namespace: "x", Name: "s3"}); len(svc.Manifest) > 0 {
		t.Error("manifests are fed")
	}
	stop()
	if err := <-lost; err == nil {
		t.Error("lost without an error")
	}
	before := follower.State()
	store.Update(cluster.Desired, func(tx *cluster.Txn) error {
		tx.DeleteService(cluster.Key{Namespace: "x", Name: "s2"})
		return nil
	})
	putServices(t, store, 600, 610, "10.96.0.3")
	if follower.State() != before {
		t.Error("what was known did not stay while the feed was lost")
	}
	defer serveFeed(t, store, socket)()
	until(t, store, follower)
	if err := <-lost; err != nil {
		t.Errorf("back again: %v", err)
	}
	// What nodes need not know is told by its revision.
	if err := store.Update(cluster.Local, func(tx *cluster.Txn) error {
		tx.PutPod(&cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: "p"}})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for want, end := store.State().Revision, time.Now().Add(10*time.Second); heard.Load() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("heard of revision %d, want %d", heard.Load(), want)
		}
	}
	cancel()
	<-done
}
