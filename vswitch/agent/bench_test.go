package agent

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"vswitch/nat"
	"vswitch/vswitch"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
	"vswitch/vswitch/packet"
)

// The cluster of these benchmarks.
const (
	manyServices = 10_000
	perService   = 10
)

func manyIP(first byte, i int) netip.Addr {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], 10<<24|uint32(first)<<16+uint32(i))
	return netip.AddrFrom4(a)
}

func manyMeta(i int) cluster.Meta {
	return cluster.Meta{Namespace: "bench", Name: fmt.Sprint("s", i), UID: fmt.Sprint("u", i)}
}

func manyService(i int) *cluster.Service {
	return &cluster.Service{
		Meta: manyMeta(i), Type: cluster.ServiceClusterIP, ClusterIPs: []netip.Addr{manyIP(96, i+10)},
		IPFamilies: []cluster.IPFamily{cluster.IPv4}, Selector: map[string]string{"app": fmt.Sprint("s", i)},
		Ports: []cluster.ServicePort{{Name: "http", Protocol: packet.ProtoTCP, Port: 80, TargetPort: 8080}},
	}
}

// manySlice is the slice of service i. One of its endpoints may be unready.
func manySlice(i, unready int) *cluster.EndpointSlice {
	m := manyMeta(i)
	m.Labels = map[string]string{cluster.LabelServiceName: m.Name}
	s := &cluster.EndpointSlice{Meta: m, Family: cluster.IPv4, Ports: []cluster.EndpointPort{{Name: "http", Protocol: packet.ProtoTCP, Port: 8080}}}
	for e := range perService {
		s.Endpoints = append(s.Endpoints, cluster.Endpoint{Addresses: []netip.Addr{manyIP(128, i*perService+e)},
			Ready: e != unready, Serving: e != unready, Node: fmt.Sprint("node", 1+e)})
	}
	return s
}

// many fills a store with all services and their endpoints.
func many(tb testing.TB) *cluster.Store {
	tb.Helper()
	store := cluster.NewStore()
	err := store.Update(cluster.Desired, func(tx *cluster.Txn) error {
		for i := range manyServices {
			tx.Put(manyService(i))
			tx.Put(manySlice(i, -1))
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return store
}

// following is a running switch that follows the services of a store, as a
// node does. It ends with the benchmark.
func following(tb testing.TB, store *cluster.Store) *vswitch.Switch {
	tb.Helper()
	sw, err := vswitch.New(vswitch.Config{MaxFlows: 4096})
	if err != nil {
		tb.Fatal(err)
	}
	n := &Node{
		sw: sw, store: store, services: NewServices(ServiceConfig{CIDRs: prefixes("10.96.0.0/12")}, "node1", ""),
		policies: NewPolicies(PolicyConfig{}, "node1"), hearsay: newHearsay(), watch: store.Watch(), revisions: newRevisions(), health: newHealthPorts(slog.New(slog.DiscardHandler)), lost: make(chan struct{}, 1),
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() { _ = sw.Run(ctx); done <- struct{}{} }() // ends with ctx
	go func() { n.follow(ctx); done <- struct{}{} }()
	tb.Cleanup(func() {
		cancel()
		<-done
		<-done
		sw.Conns().Close()
	})
	return sw
}

// backends returns how many backends a switch has for service i, -1 for none.
func backends(sw *vswitch.Switch, i int) int { return backendsOf(sw.Tables(), i) }

func backendsOf(tables *vswitch.Tables, i int) int {
	f := frontendOf(tables, i)
	if f == nil {
		return -1
	}
	return len(f.Service.Cluster)
}

func frontendOf(tables *vswitch.Tables, i int) *nat.Frontend {
	t := packet.Tuple{Dst: packet.AddrFrom(manyIP(96, i+10)), DstPort: 80, Proto: packet.ProtoTCP}
	f, _ := tables.Services.Lookup(&t, false)
	return f
}

// await waits until the switch has n backends for service i.
func await(tb testing.TB, sw *vswitch.Switch, i, n int) {
	for deadline := time.Now().Add(time.Minute); backends(sw, i) != n; runtime.Gosched() {
		if time.Now().After(deadline) {
			tb.Fatalf("the switch has %d backends for service %d, not %d", backends(sw, i), i, n)
		}
	}
}

// BenchmarkEndpointChange: one endpoint of 100,000 behind 10,000 services
// becomes unready, or ready again, in a node's store, until the data plane of
// its running switch knows.
func BenchmarkEndpointChange(b *testing.B) {
	store := many(b)
	sw := following(b, store)
	await(b, sw, manyServices-1, perService)
	b.ReportAllocs()
	b.ResetTimer()
	for n := range b.N {
		// Each is changed, and then changed back.
		i, unready, left := n/2*7919%manyServices, 1, perService-1
		if n%2 == 1 {
			unready, left = -1, perService
		}
		err := store.Update(cluster.Desired, func(tx *cluster.Txn) error {
			tx.Put(manySlice(i, unready))
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		await(b, sw, i, left)
	}
}

// BenchmarkCompileServices: all of it at once, as a node does when it starts.
func BenchmarkCompileServices(b *testing.B) {
	w := many(b).Watch()
	defer w.Close()
	c := w.Next()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		s := NewServices(ServiceConfig{CIDRs: prefixes("10.96.0.0/12")}, "node1", "")
		s.Apply(&c)
		compiler := new(Compiler)
		compiler.SetServices(s)
		if got := backendsOf(compiler.Publish(), manyServices-1); got != perService {
			b.Fatalf("%d backends, not %d", got, perService)
		}
	}
}

// BenchmarkPodChange: one of 100,000 pods becomes unready, or ready again, as
// its node reports it to the control plane, until the data plane of another
// node's running switch knows: the EndpointSlice is written, fed through a unix
// socket, and compiled.
func BenchmarkPodChange(b *testing.B) {
	store := cluster.NewStore()
	cfg := control.Default()
	cfg.ServiceCIDRs = prefixes("10.96.0.0/12")
	c, err := control.New(store, cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	o := &cluster.Objects{}
	for i := range manyServices {
		v := manyService(i)
		o.Services = append(o.Services, v)
		for e := range perService {
			o.Pods = append(o.Pods, &cluster.Pod{Node: fmt.Sprint("node", 1+e),
				Meta: cluster.Meta{Namespace: "bench", Name: fmt.Sprintf("s%d-%d", i, e), Labels: v.Selector}})
		}
	}
	for e := range perService {
		o.Nodes = append(o.Nodes, &cluster.Node{Meta: cluster.Meta{Name: fmt.Sprint("node", 1+e)}})
	}
	if _, err := c.Apply(o, control.ApplyOptions{}); err != nil {
		b.Fatal(err)
	}
	report := func(tx *cluster.Txn, i, e int, ready bool) {
		p := tx.State().Pod(cluster.Key{Namespace: "bench", Name: fmt.Sprintf("s%d-%d", i, e)})
		tx.Put(&cluster.Pod{Meta: cluster.Meta{Namespace: p.Namespace, Name: p.Name, UID: p.UID}, Node: p.Node,
			IPs: []netip.Addr{manyIP(128, i*perService+e)}, Phase: cluster.PodRunning, Ready: ready})
	}
	err = store.Update(cluster.Local, func(tx *cluster.Txn) error {
		for i := range manyServices {
			for e := range perService {
				report(tx, i, e, true)
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Reconcile(); err != nil {
		b.Fatal(err)
	}

	l, err := net.Listen("unix", filepath.Join(b.TempDir(), "s"))
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: control.Feed(store)}
	follower := cluster.NewStore()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 3)
	go func() { _ = srv.Serve(l); done <- struct{}{} }() // ends with Close
	go func() { c.Run(ctx); done <- struct{}{} }()
	go func() {
		control.Follow(ctx, l.Addr().String(), follower, func(uint64) {}, func(error) {})
		done <- struct{}{}
	}()
	b.Cleanup(func() {
		cancel()
		srv.Close()
		for range cap(done) {
			<-done
		}
	})
	sw := following(b, follower)
	await(b, sw, manyServices-1, perService)
	b.ReportAllocs()
	b.ResetTimer()
	for n := range b.N {
		i, ready := n/2*7919%manyServices, n%2 == 1
		err := store.Update(cluster.Local, func(tx *cluster.Txn) error { report(tx, i, 1, ready); return nil })
		if err != nil {
			b.Fatal(err)
		}
		left := perService
		if !ready {
			left--
		}
		await(b, sw, i, left)
	}
}

// TestEndpointChangeIsLocal: what changes behind one service leaves all others
// as they are, and costs no more among ten times as many.
func TestEndpointChangeIsLocal(t *testing.T) {
	cost := func(total int) float64 {
		store := cluster.NewStore()
		put := func(i, unready int) {
			if err := store.Update(cluster.Desired, func(tx *cluster.Txn) error {
				tx.Put(manyService(i))
				tx.Put(manySlice(i, unready))
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range total {
			put(i, -1)
		}
		w := store.Watch()
		defer w.Close()
		s, c := NewServices(ServiceConfig{CIDRs: prefixes("10.96.0.0/12")}, "node1", ""), w.Next()
		s.Apply(&c)
		compiler := new(Compiler)
		compiler.SetServices(s)
		before := compiler.Publish()
		put(7, 1)
		c = w.Next()
		allocs := testing.AllocsPerRun(10, func() { s.Apply(&c) })
		compiler.SetServices(s)
		after := compiler.Publish()
		if a, b := backendsOf(before, 7), backendsOf(after, 7); a != perService || b != perService-1 {
			t.Errorf("service 7 had %d backends and has %d", a, b)
		}
		for i := range total {
			if same := frontendOf(before, i).Service == frontendOf(after, i).Service; same != (i != 7) {
				t.Errorf("service %d: the same as before: %v", i, same)
			}
		}
		return allocs
	}
	// From 256 neighbors on, there is no more of them to copy.
	if few, many := cost(500), cost(5000); many > 1.2*few {
		t.Errorf("%v allocations among 500 services, %v among 5000", few, many)
	}
}
