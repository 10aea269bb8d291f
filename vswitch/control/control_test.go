package control

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"vswitch/vswitch/cluster"
)

var comparers = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
}

func newController(t testing.TB, change func(*Config)) *Controller {
	t.Helper()
	cfg := Default()
	cfg.Nodes = 3
	if change != nil {
		change(&cfg)
	}
	c, err := New(cluster.NewStore(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func apply(t testing.TB, c *Controller, o *cluster.Objects) {
	t.Helper()
	if _, err := c.Apply(o, ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
}

func see(t testing.TB, c *Controller, fn func(*cluster.Txn)) {
	t.Helper()
	if err := c.Store().Update(cluster.Local, func(tx *cluster.Txn) error { fn(tx); return nil }); err != nil {
		t.Fatal(err)
	}
}

func ready(t testing.TB, c *Controller, names ...string) {
	see(t, c, func(tx *cluster.Txn) {
		for _, n := range names {
			tx.Put(&cluster.Node{Meta: cluster.Meta{Name: n}, Ready: true})
		}
	})
}

func deployment(name string, replicas int, image string) *cluster.Deployment {
	return &cluster.Deployment{Meta: cluster.Meta{Namespace: "x", Name: name}, Replicas: replicas, MaxSurge: 1, MaxUnavailable: 1,
		Template: cluster.Pod{Containers: []cluster.Container{{Name: "c", Image: image}}}}
}

func running(p *cluster.Pod, at time.Time) *cluster.Pod {
	h := hash(p.UID, p.Name)
	return &cluster.Pod{Meta: cluster.Meta{Namespace: p.Namespace, Name: p.Name, UID: p.UID}, IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(h), byte(h >> 8), byte(h >> 16)})},
		Phase: cluster.PodRunning, Ready: true, ReadyAt: at, Started: at}
}

// desired is what of a State must be the same after a restart.
func desired(s *cluster.State) *cluster.Objects {
	o := &cluster.Objects{}
	for n := range s.Namespaces.All() {
		o.Namespaces = append(o.Namespaces, n)
	}
	for n := range s.Nodes.All() {
		m := *n
		m.Ready, m.ResourceVersion = false, 0
		o.Nodes = append(o.Nodes, &m)
	}
	for d := range s.Deployments.All() {
		e := *d
		e.CurrentReplicas, e.UpdatedReplicas, e.ReadyReplicas, e.AvailableReplicas, e.ResourceVersion = 0, 0, 0, 0, 0
		o.Deployments = append(o.Deployments, &e)
	}
	for p := range s.Pods.All() {
		if p.Deleted.IsZero() {
			q := *p
			clearStatus(&q)
			q.ResourceVersion = 0
			o.Pods = append(o.Pods, &q)
		}
	}
	for v := range s.Services.All() {
		w := *v
		w.ResourceVersion, w.Conditions = 0, nil
		o.Services = append(o.Services, &w)
	}
	for v := range s.EndpointSlices.All() {
		if !derived(v) {
			w := *v
			w.ResourceVersion = 0
			o.EndpointSlices = append(o.EndpointSlices, &w)
		}
	}
	for v := range s.Endpoints.All() {
		w := *v
		w.ResourceVersion = 0
		o.Endpoints = append(o.Endpoints, &w)
	}
	for v := range s.NetworkPolicies.All() {
		w := *v
		w.ResourceVersion = 0
		o.NetworkPolicies = append(o.NetworkPolicies, &w)
	}
	for v := range s.ClusterNetworkPolicies.All() {
		w := *v
		w.ResourceVersion = 0
		o.ClusterNetworkPolicies = append(o.ClusterNetworkPolicies, &w)
	}
	return o
}

// TestRolloutKeepsPromises changes templates, sizes and pods at random, and
// checks after each step that no more pods exist, and no fewer are available,
// than maxSurge and maxUnavailable promise; and that it ends as it should.
func TestRolloutKeepsPromises(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		now := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
		c := newController(t, func(cfg *Config) { cfg.Clock = func() time.Time { return now } })
		apply(t, c, &cluster.Objects{})
		ready(t, c, "node1", "node2", "node3")
		d := deployment("web", 1+rng.IntN(8), "v0")
		d.MaxSurge, d.MaxUnavailable = rng.IntN(3), rng.IntN(3)
		d.MaxUnavailable = min(d.MaxUnavailable, d.Replicas)
		if d.MaxSurge+d.MaxUnavailable == 0 {
			d.MaxSurge = 1
		}
		d.MinReady = time.Duration(rng.IntN(3)) * time.Second
		d.Template.Labels = map[string]string{"app": "web"}
		web := &cluster.Service{Meta: cluster.Meta{Namespace: "x", Name: "web"}, Selector: d.Template.Labels,
			Ports: []cluster.ServicePort{{Protocol: 6, Port: 80}}}
		apply(t, c, &cluster.Objects{Deployments: []*cluster.Deployment{d}, Services: []*cluster.Service{web}})
		settle(t, c, &now, rng, nil)
		for version := 1; version < 4; version++ {
			next := *d
			next.Template.Containers = []cluster.Container{{Name: "c", Image: fmt.Sprint("v", version)}}
			apply(t, c, &cluster.Objects{Deployments: []*cluster.Deployment{&next}})
			steps := settle(t, c, &now, rng, func() {
				have, available := count(c, d, now)
				if have > d.Replicas+d.MaxSurge || available < d.Replicas-d.MaxUnavailable {
					t.Fatalf("seed %d: %d pods, %d available; replicas %d, surge %d, unavailable %d",
						seed, have, available, d.Replicas, d.MaxSurge, d.MaxUnavailable)
				}
				ready := 0
				for e := range endpointsOfService(c.Store().State(), web.Key()) {
					if e.Ready {
						ready++
					}
				}
				if ready < d.Replicas-d.MaxUnavailable {
					t.Fatalf("seed %d: %d endpoints are ready; replicas %d, unavailable %d", seed, ready, d.Replicas, d.MaxUnavailable)
				}
			})
			for p := range c.Store().State().Pods.All() {
				if p.Containers[0].Image != fmt.Sprint("v", version) {
					t.Fatalf("seed %d: %s still has %s after %d steps", seed, p.Name, p.Containers[0].Image, steps)
				}
			}
			if have, available := count(c, d, now); have != d.Replicas || available != d.Replicas {
				t.Fatalf("seed %d: %d pods, %d available, want %d", seed, have, available, d.Replicas)
			}
		}
	}
}

func endpointsOfService(s *cluster.State, k cluster.Key) iter.Seq[*cluster.Endpoint] {
	return func(yield func(*cluster.Endpoint) bool) {
		for v := range s.EndpointSlices.In(k.Namespace) {
			for i := range v.Endpoints {
				if v.Service() == k && !yield(&v.Endpoints[i]) {
					return
				}
			}
		}
	}
}

func count(c *Controller, d *cluster.Deployment, now time.Time) (have, available int) {
	for p := range c.Store().State().Pods.All() {
		if p.Owner == d.Key() && p.Deleted.IsZero() {
			have++
			if p.Ready && !now.Before(p.ReadyAt.Add(d.MinReady)) {
				available++
			}
		}
	}
	return have, available
}

// settle starts and ends pods in random order until nothing is left to do.
func settle(t *testing.T, c *Controller, now *time.Time, rng *rand.Rand, check func()) (steps int) {
	t.Helper()
	for quiet := 0; quiet < 5; steps++ {
		if steps > 1000 {
			t.Fatal("it does not settle")
		}
		var todo []func()
		for p := range c.Store().State().Pods.All() {
			switch {
			case !p.Deleted.IsZero():
				todo = append(todo, func() {
					see(t, c, func(tx *cluster.Txn) { tx.Delete(cluster.RefOf(p)) })
					if err := c.PodGone(p.Key(), p.UID); err != nil {
						t.Fatal(err)
					}
				})
			case p.Phase == cluster.PodPending && p.Node != "":
				todo = append(todo, func() { see(t, c, func(tx *cluster.Txn) { tx.Put(running(p, *now)) }) })
			}
		}
		if len(todo) > 0 {
			quiet = 0
			todo[rng.IntN(len(todo))]()
		} else {
			quiet++
			*now = now.Add(time.Second)
		}
		if err := c.Reconcile(); err != nil {
			t.Fatal(err)
		}
		if check != nil {
			check()
		}
	}
	return steps
}

// TestRestart does random things, and after each of some compares what a
// second Controller reads from the directory. The directory is that of a
// program that was killed: nothing was closed.
func TestRestart(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	dir := t.TempDir()
	c := newController(t, func(cfg *Config) { cfg.Dir = dir })
	apply(t, c, &cluster.Objects{})
	ready(t, c, "node1", "node2", "node3")
	name := func(n int) string { return fmt.Sprint("o", rng.IntN(n)) }
	for step := range 400 {
		switch rng.IntN(6) {
		case 0, 1:
			d := deployment(name(5), rng.IntN(5), fmt.Sprint("v", rng.IntN(3)))
			d.Namespace = fmt.Sprint("ns", rng.IntN(3))
			_, _ = c.Apply(&cluster.Objects{Deployments: []*cluster.Deployment{d}}, ApplyOptions{})
		case 2, 3:
			p := &cluster.Pod{Meta: cluster.Meta{Namespace: fmt.Sprint("ns", rng.IntN(3)), Name: name(20), Labels: map[string]string{"v": name(3)}}}
			_, _ = c.Apply(&cluster.Objects{Pods: []*cluster.Pod{p}}, ApplyOptions{Replace: true})
		case 4:
			s := c.Store().State()
			refs := (&cluster.Objects{Pods: slices.Collect(s.Pods.All()), Deployments: slices.Collect(s.Deployments.All()),
				Namespaces: slices.Collect(s.Namespaces.All())}).Refs()
			_, _ = c.Delete([]cluster.Ref{refs[rng.IntN(len(refs))]})
		case 5:
			for p := range c.Store().State().Pods.All() {
				if !p.Deleted.IsZero() {
					if err := c.PodGone(p.Key(), p.UID); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		if step%20 != 0 {
			continue
		}
		// Namespaces on their way out go on going at the restart.
		if slices.ContainsFunc(slices.Collect(c.Store().State().Namespaces.All()), func(n *cluster.Namespace) bool { return !n.Deleted.IsZero() }) {
			continue
		}
		copied := t.TempDir()
		data, err := os.ReadFile(filepath.Join(dir, journalName))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(copied, journalName), data, 0o600); err != nil {
			t.Fatal(err)
		}
		again := newController(t, func(cfg *Config) { cfg.Dir = copied })
		if p := again.Problems(); len(p) > 0 {
			t.Fatal(p)
		}
		if again.Store().State().Revision <= c.Store().State().Revision {
			t.Fatalf("revision %d after %d", again.Store().State().Revision, c.Store().State().Revision)
		}
		want, got := desired(c.Store().State()), desired(again.Store().State())
		// What has been ended has been replaced; what the restart replaces
		// anew (those that were being deleted) it must not.
		if d := cmp.Diff(want, got, comparers); d != "" {
			t.Fatalf("step %d (-before +after): %s", step, d)
		}
	}
}

// TestRun lets time and reports do the work.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newController(t, nil)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { c.Run(ctx); close(done) }()
		apply(t, c, &cluster.Objects{})
		ready(t, c, "node1")
		d := deployment("web", 1, "v1")
		d.MinReady = 10 * time.Second
		apply(t, c, &cluster.Objects{Deployments: []*cluster.Deployment{d}})
		synctest.Wait()
		for p := range c.Store().State().Pods.All() {
			see(t, c, func(tx *cluster.Txn) { tx.Put(running(p, time.Now().UTC())) })
		}
		synctest.Wait()
		if d := c.Store().State().Deployment(d.Key()); d.ReadyReplicas != 1 || d.AvailableReplicas != 0 {
			t.Errorf("at once: %+v", d)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if d := c.Store().State().Deployment(d.Key()); d.AvailableReplicas != 1 {
			t.Errorf("after 11 s: %+v", d)
		}
		apply(t, c, &cluster.Objects{Pods: []*cluster.Pod{{Meta: cluster.Meta{Namespace: "x", Name: "p"}, NodeSelector: map[string]string{"kubernetes.io/hostname": "node2"}}}})
		if p := c.Store().State().Pod(cluster.Key{Namespace: "x", Name: "p"}); p.Node != "node2" {
			t.Errorf("a node that starts was not considered: %+v", p)
		}
		time.Sleep(time.Minute)
		apply(t, c, &cluster.Objects{Pods: []*cluster.Pod{{Meta: cluster.Meta{Namespace: "x", Name: "q"}, NodeSelector: map[string]string{"kubernetes.io/hostname": "node3"}}}})
		if p := c.Store().State().Pod(cluster.Key{Namespace: "x", Name: "q"}); p.Node != "" || p.Reason == "" {
			t.Errorf("a node that never came was considered: %+v", p)
		}
		ready(t, c, "node3")
		synctest.Wait()
		if p := c.Store().State().Pod(cluster.Key{Namespace: "x", Name: "q"}); p.Node != "node3" || p.Reason != "" {
			t.Errorf("its node came: %+v", p)
		}
		stop()
		<-done
	})
}

func TestExhausted(t *testing.T) {
	c := newController(t, func(cfg *Config) {
		cfg.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/22")}
		cfg.Nodes = 4
	})
	apply(t, c, &cluster.Objects{})
	cidrs := map[netip.Prefix]bool{}
	for n := range c.Store().State().Nodes.All() {
		cidrs[n.PodCIDRs[0]] = true
	}
	if len(cidrs) != 4 {
		t.Fatalf("ranges %v", cidrs)
	}
	before := c.Store().State()
	err := c.AddNode("one-more")
	if !errors.Is(err, ErrExhausted) || !strings.Contains(err.Error(), "10.0.0.0/22") || c.Store().State() != before {
		t.Errorf("%v", err)
	}
	if _, err := c.Delete([]cluster.Ref{{Kind: cluster.KindNode, Key: cluster.Key{Name: "node2"}}}); err != nil {
		t.Fatal(err)
	}
	if err := c.AddNode("one-more"); err != nil {
		t.Errorf("a range was given back: %v", err)
	}
}

func TestValidate(t *testing.T) {
	cfg := Default()
	cfg.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.7/16"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/64")}
	cfg.NodeCIDRs = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}
	cfg.NodeMask6 = 63
	cfg.Nodes = -1
	err := cfg.Validate()
	if err == nil || len(strings.Split(err.Error(), "\n")) != 5 {
		t.Errorf("%v", err)
	}
	if _, err := New(cluster.NewStore(), cfg); err == nil {
		t.Error("New took it")
	}
	if _, err := Static(cfg, &cluster.Objects{}); err == nil {
		t.Error("Static took it")
	}
}

func TestStaticRefusesConflicts(t *testing.T) {
	ip := []netip.Addr{netip.MustParseAddr("10.244.1.2")}
	o := &cluster.Objects{Pods: []*cluster.Pod{{Meta: cluster.Meta{Namespace: "x", Name: "a"}, IPs: ip}, {Meta: cluster.Meta{Namespace: "x", Name: "b", Source: "f:7"}, IPs: ip}}}
	if _, err := Static(Default(), o); !errors.Is(err, ErrConflict) || err.Error() != "f:7: Pod x/b: status.podIPs[0].ip: 10.244.1.2 is also the address of Pod x/a" {
		t.Errorf("%v", err)
	}
}

// TestChangeCostsTheChange: one pod's report among 10,000 must not look at
// them all.
func TestChangeCostsTheChange(t *testing.T) {
	cost := func(n int) float64 {
		c := crowd(t, n, "")
		i := 0
		p := c.Store().State().Pod(cluster.Key{Namespace: "x", Name: "p7"})
		return testing.AllocsPerRun(100, func() {
			i++
			seen := running(p, time.Unix(int64(i), 0))
			see(t, c, func(tx *cluster.Txn) { tx.Put(seen) })
			if err := c.Reconcile(); err != nil {
				t.Fatal(err)
			}
		})
	}
	small, large := cost(100), cost(10000)
	t.Logf("%.0f allocations among 100 pods, %.0f among 10000", small, large)
	if large > 4*small {
		t.Errorf("one report costs %.0f allocations among 10000 pods, %.0f among 100", large, small)
	}
}

func crowd(t testing.TB, n int, dir string) *Controller {
	c := newController(t, func(cfg *Config) { cfg.Nodes = 50; cfg.Dir = dir })
	o := &cluster.Objects{}
	for i := range n {
		o.Pods = append(o.Pods, &cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: fmt.Sprint("p", i)}})
	}
	apply(t, c, o)
	return c
}

func BenchmarkReport10k(b *testing.B) {
	c := crowd(b, 10000, "")
	p := c.Store().State().Pod(cluster.Key{Namespace: "x", Name: "p7"})
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		i++
		seen := running(p, time.Unix(int64(i), 0))
		see(b, c, func(tx *cluster.Txn) { tx.Put(seen) })
		if err := c.Reconcile(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkApply10k(b *testing.B) {
	for b.Loop() {
		crowd(b, 10000, "")
	}
}

// BenchmarkApplyOneKept applies one changed pod among 10,000, on the disk.
func BenchmarkApplyOneKept(b *testing.B) {
	c := crowd(b, 10000, b.TempDir())
	i := 0
	for b.Loop() {
		i++
		apply(b, c, &cluster.Objects{Pods: []*cluster.Pod{{Meta: cluster.Meta{Namespace: "x", Name: "p7", Labels: map[string]string{"v": fmt.Sprint(i)}}}}})
	}
}

func BenchmarkStatic10k(b *testing.B) {
	cfg := Default()
	cfg.Nodes = 50
	o := &cluster.Objects{}
	for i := range 10000 {
		o.Pods = append(o.Pods, &cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: fmt.Sprint("p", i)}, Ready: true})
	}
	for b.Loop() {
		if _, err := Static(cfg, o); err != nil {
			b.Fatal(err)
		}
	}
}
