package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
			tx.Put(&cluster.Service{Meta: m, Type: cluster.ServiceClusterIP, ClusterIPs: []netip.Addr{netip.MustParseAddr(ip)}})
			m.Labels = map[string]string{cluster.LabelServiceName: m.Name}
			tx.Put(&cluster.EndpointSlice{Meta: m, Family: cluster.IPv4})
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
		tx.Delete(cluster.KindService.Ref(cluster.Key{Namespace: "x", Name: "s1"}))
		tx.Delete(cluster.KindEndpointSlice.Ref(cluster.Key{Namespace: "x", Name: "s1"}))
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
		tx.Delete(cluster.KindService.Ref(cluster.Key{Namespace: "x", Name: "s2"}))
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
		tx.Put(&cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: "p"}})
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

// told reads the lines that changes are told in, as one.
func told(t *testing.T, c *cluster.Changes) (o cluster.Objects, deleted []cluster.Ref, revision uint64, lines int) {
	t.Helper()
	var buf bytes.Buffer
	if err := writeChanges(json.NewEncoder(&buf), c, false); err != nil {
		t.Fatal(err)
	}
	lines = bytes.Count(buf.Bytes(), []byte("\n"))
	batch, err := readBatch(json.NewDecoder(&buf))
	if err != nil {
		t.Fatal(err)
	}
	store := cluster.NewStore()
	if err := store.Update(cluster.Desired, func(tx *cluster.Txn) error { accept(tx, batch); return nil }); err != nil {
		t.Fatal(err)
	}
	for _, u := range batch {
		deleted = append(deleted, u.Deleted...)
		revision = u.Revision
	}
	s := store.State()
	o.Namespaces = slices.Collect(s.Namespaces.All())
	o.Nodes = slices.Collect(s.Nodes.All())
	o.Pods = slices.Collect(s.Pods.All())
	o.Services = slices.Collect(s.Services.All())
	o.EndpointSlices = slices.Collect(s.EndpointSlices.All())
	o.NetworkPolicies = slices.Collect(s.NetworkPolicies.All())
	o.ClusterNetworkPolicies = slices.Collect(s.ClusterNetworkPolicies.All())
	return o, deleted, revision, lines
}

// everything is one object of each kind, with all that nodes need not know.
func everything() *cluster.Objects {
	meta := func(namespace, name string) cluster.Meta {
		return cluster.Meta{Namespace: namespace, Name: name, UID: "u-" + name, Labels: map[string]string{"app": name}, ResourceVersion: 7,
			Generation: 2, Created: time.Unix(9, 0), Annotations: map[string]string{"x": "y"}, Source: "f.yaml:1", Manifest: json.RawMessage(`{"a":1}`)}
	}
	addr := netip.MustParseAddr
	pods := &cluster.Selector{Requirements: []cluster.Requirement{{Key: "app", Operator: cluster.SelectIn, Values: []string{"p"}}}}
	rules := []cluster.PolicyRule{{Name: "r", Action: cluster.ActionAccept, Peers: []cluster.PolicyPeer{{Namespaces: &cluster.Selector{}, Pods: pods},
		{Blocks: []cluster.IPBlock{{CIDR: netip.MustParsePrefix("10.0.0.0/8"), Except: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}}}},
		Ports: []cluster.PolicyPort{{Name: "http"}, {Protocol: 6, First: 80, Last: 90}}}}
	return &cluster.Objects{
		Namespaces: []*cluster.Namespace{{Meta: meta("", "ns"), IsolatesIngress: true}},
		Nodes: []*cluster.Node{{Meta: meta("", "n1"), Addresses: []netip.Addr{addr("172.29.0.1")}, ExtraAddresses: []netip.Addr{addr("192.0.2.1")},
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}, Ready: true, Reason: "r"}},
		Pods: []*cluster.Pod{{Meta: meta("ns", "p"), Node: "n1", IPs: []netip.Addr{addr("10.244.1.2")}, Hostname: "h",
			InitContainers: []cluster.Container{{Name: "init"}, {Name: "side", Sidecar: true, Ports: []cluster.ContainerPort{{Name: "m", Port: 90, Protocol: 17}}}},
			Containers: []cluster.Container{{Name: "c", Image: "i", Command: []string{"x"}, Env: []string{"A=b"},
				Ports: []cluster.ContainerPort{{Name: "http", Port: 80, HostPort: 8080, Protocol: 6}}}},
			Phase: cluster.PodRunning, Ready: true, Restarts: 3, Started: time.Unix(10, 0), Statuses: []cluster.ContainerStatus{{Name: "c"}}}},
		EndpointSlices: []*cluster.EndpointSlice{{Meta: meta("ns", "s-1"), Owner: cluster.KindService.Ref(cluster.Key{Namespace: "ns", Name: "s"}), OwnerUID: "u-s",
			Family: cluster.IPv4, Endpoints: []cluster.Endpoint{{Addresses: []netip.Addr{addr("10.244.1.2")}, Ready: true, Serving: true}}}},
		NetworkPolicies: []*cluster.NetworkPolicy{{Meta: meta("ns", "np"), Pods: *pods, IsolatesIngress: true, Ingress: rules, Invalid: "why"}},
		ClusterNetworkPolicies: []*cluster.ClusterNetworkPolicy{{Meta: meta("", "cnp"), Tier: cluster.TierAdmin, Priority: 5,
			Subject: cluster.PolicyPeer{Namespaces: &cluster.Selector{}}, Egress: rules}},
	}
}

// TestFeedTells: nodes are told what policy needs, and nothing else.
func TestFeedTells(t *testing.T) {
	in := everything()
	none := cluster.State{}
	c := none.Diff(in.State())
	got, _, _, _ := told(t, &c)
	meta := func(m cluster.Meta) cluster.Meta {
		return cluster.Meta{Namespace: m.Namespace, Name: m.Name, UID: m.UID, Labels: m.Labels}
	}
	want := *in
	ns, node, pod, np, cnp := *in.Namespaces[0], *in.Nodes[0], *in.Pods[0], *in.NetworkPolicies[0], *in.ClusterNetworkPolicies[0]
	ns.Meta, np.Meta, cnp.Meta = meta(ns.Meta), meta(np.Meta), meta(cnp.Meta)
	want.Namespaces, want.NetworkPolicies, want.ClusterNetworkPolicies = []*cluster.Namespace{&ns}, []*cluster.NetworkPolicy{&np}, []*cluster.ClusterNetworkPolicy{&cnp}
	want.Nodes = []*cluster.Node{{Meta: meta(node.Meta), Addresses: node.Addresses, ExtraAddresses: node.ExtraAddresses}}
	want.Pods = []*cluster.Pod{{Meta: meta(pod.Meta), Node: "n1",
		InitContainers: []cluster.Container{{Name: "side", Sidecar: true, Ports: []cluster.ContainerPort{{Name: "m", Port: 90, Protocol: 17}}}},
		Containers:     []cluster.Container{{Name: "c", Ports: []cluster.ContainerPort{{Name: "http", Port: 80, Protocol: 6}}}}}}
	slice := *in.EndpointSlices[0]
	slice.Annotations, slice.Manifest, slice.Owner, slice.OwnerUID = nil, nil, cluster.Ref{}, ""
	want.EndpointSlices = []*cluster.EndpointSlice{&slice}
	text := func(o *cluster.Objects) string {
		b, err := json.MarshalIndent(o, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if d := cmp.Diff(text(&want), text(&got)); d != "" {
		t.Error(d)
	}
}

// TestFeedStatus: what is only status costs nothing but its revision; what is
// desired is told, and so is what goes.
func TestFeedStatus(t *testing.T) {
	before := everything().State()
	before.Revision = 5
	for name, tt := range map[string]struct {
		change  func(o *cluster.Objects)
		objects int
	}{
		"status of a pod": {func(o *cluster.Objects) {
			p := o.Pods[0]
			p.Phase, p.Ready, p.Restarts, p.Reason, p.ResourceVersion = cluster.PodPending, false, 9, "x", 100
			p.IPs, p.Statuses = nil, nil
		}, 0},
		"pod ended":          {func(o *cluster.Objects) { o.Pods[0].Phase = cluster.PodFailed }, 1},
		"status of a node":   {func(o *cluster.Objects) { o.Nodes[0].Ready, o.Nodes[0].PodCIDRs = false, nil }, 0},
		"source of a policy": {func(o *cluster.Objects) { o.NetworkPolicies[0].Source = "g.yaml:9" }, 0},
		"label of a pod":     {func(o *cluster.Objects) { o.Pods[0].Labels = map[string]string{"app": "q"} }, 1},
		"pod replaced":       {func(o *cluster.Objects) { o.Pods[0].UID = "v" }, 1},
		"pod leaving":        {func(o *cluster.Objects) { o.Pods[0].Deleted = time.Unix(20, 0) }, 1},
		"port of a pod":      {func(o *cluster.Objects) { o.Pods[0].Containers[0].Ports[0].Port = 81 }, 1},
		"owner of a slice":   {func(o *cluster.Objects) { o.EndpointSlices[0].OwnerUID, o.EndpointSlices[0].Annotations = "v", nil }, 0},
		"namespace's label":  {func(o *cluster.Objects) { o.Namespaces[0].Labels = nil }, 1},
		"policy's rule":      {func(o *cluster.Objects) { o.NetworkPolicies[0].Ingress = nil }, 1},
		"priority":           {func(o *cluster.Objects) { o.ClusterNetworkPolicies[0].Priority = 6 }, 1},
	} {
		o := everything()
		tt.change(o)
		now := o.State()
		now.Revision = 6
		c := before.Diff(now)
		got, deleted, revision, lines := told(t, &c)
		if got.Len() != tt.objects || len(deleted) != 0 || revision != 6 || lines != 1 {
			t.Errorf("%s: told %d objects, %v deleted, revision %d in %d lines, want %d objects of revision 6", name, got.Len(), deleted, revision, lines, tt.objects)
		}
	}
	c := before.Diff(&cluster.State{})
	if _, deleted, _, _ := told(t, &c); len(deleted) != everything().Len() {
		t.Errorf("deleted are %v, want one of each kind", deleted)
	}
	// Who has known them all knows none any more.
	follower := cluster.NewStore()
	none := cluster.State{}
	for _, c := range []cluster.Changes{none.Diff(before), before.Diff(&none)} {
		var buf bytes.Buffer
		if err := writeChanges(json.NewEncoder(&buf), &c, false); err != nil {
			t.Fatal(err)
		}
		batch, err := readBatch(json.NewDecoder(&buf))
		if err != nil {
			t.Fatal(err)
		}
		if err := follower.Update(cluster.Desired, func(tx *cluster.Txn) error { accept(tx, batch); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if c := none.Diff(follower.State()); !c.Empty() {
		t.Errorf("%v are left", follower.State())
	}
}
