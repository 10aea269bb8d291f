package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func pod(ns, name string, change ...func(*Pod)) *Pod {
	p := &Pod{Meta: Meta{Namespace: ns, Name: name}}
	for _, c := range change {
		c(p)
	}
	return p
}

func uid(u string) func(*Pod) { return func(p *Pod) { p.UID = u } }
func ip(a string) func(*Pod)  { return func(p *Pod) { p.IPs = []netip.Addr{netip.MustParseAddr(a)} } }
func phase(ph PodPhase) func(*Pod) {
	return func(p *Pod) { p.Phase, p.Ready = ph, ph == PodRunning }
}

func update(t testing.TB, s *Store, src Source, fn func(*Txn)) {
	t.Helper()
	if err := s.Update(src, func(tx *Txn) error { fn(tx); return nil }); err != nil {
		t.Fatal(err)
	}
}

func TestUpdateIsAllOrNothing(t *testing.T) {
	s := NewStore()
	update(t, s, Desired, func(tx *Txn) { tx.Put(pod("a", "one")) })
	before := s.State()
	bad := errors.New("no")
	err := s.Update(Desired, func(tx *Txn) error {
		tx.Put(pod("a", "two"))
		tx.Delete(KindPod.Ref(Key{"a", "one"}))
		if tx.State().Pod(Key{"a", "two"}) == nil || tx.State().Pod(Key{"a", "one"}) != nil {
			t.Error("the transaction does not see its own changes")
		}
		return bad
	})
	if err != bad || s.State() != before {
		t.Fatalf("err %v, state changed %v", err, s.State() != before)
	}
	update(t, s, Desired, func(tx *Txn) { tx.Put(pod("a", "two")) })
	if s.State().Revision != before.Revision+1 || before.Pods.Len() != 1 || s.State().Pods.Len() != 2 {
		t.Fatal("a later transaction carries traces of the failed one")
	}
}

func TestUpdateRevision(t *testing.T) {
	s := NewStore()
	update(t, s, Desired, func(tx *Txn) { tx.SkipTo(41); tx.Put(&Node{Meta: Meta{Name: "n"}}) })
	put := func(tx *Txn) { tx.Put(pod("a", "one", uid("1"))); tx.Put(&Node{Meta: Meta{Name: "n"}}) }
	update(t, s, Desired, put)
	if s.State().Revision != 42 {
		t.Fatalf("revision %d, want 42", s.State().Revision)
	}
	one := s.State()
	update(t, s, Desired, func(tx *Txn) { tx.SkipTo(7); put(tx) }) // equal objects
	update(t, s, Desired, func(tx *Txn) { tx.Clear(); put(tx) })
	update(t, s, Gossip, func(tx *Txn) { tx.Delete(KindPod.Ref(Key{"a", "one"})) })
	if s.State() != one {
		t.Fatal("a transaction without a change made a new State")
	}
	if err := s.Update("rumour", func(*Txn) error { return nil }); err == nil {
		t.Fatal("an unknown source was accepted")
	}
}

func TestMergePod(t *testing.T) {
	for _, tt := range []struct {
		name                   string
		desired, local, gossip *Pod
		want                   *Pod
	}{
		{name: "gossip alone", gossip: pod("a", "p", ip("10.0.0.1")), want: pod("a", "p", ip("10.0.0.1"))},
		{
			name:    "desired labels, observed address and phase",
			desired: pod("a", "p", uid("1"), phase(PodPending), func(p *Pod) { p.Labels = map[string]string{"x": "y"}; p.Node = "n1" }),
			local:   pod("a", "p", uid("1"), ip("10.0.0.1"), phase(PodRunning)),
			want:    pod("a", "p", uid("1"), ip("10.0.0.1"), phase(PodRunning), func(p *Pod) { p.Labels = map[string]string{"x": "y"}; p.Node = "n1" }),
		},
		{
			name:    "an address without a phase says nothing of the status",
			desired: pod("a", "p", uid("1"), phase(PodRunning)),
			gossip:  pod("a", "p", uid("1"), ip("10.0.0.1")),
			want:    pod("a", "p", uid("1"), phase(PodRunning), ip("10.0.0.1")),
		},
		{
			name:    "the pod that had the name before",
			desired: pod("a", "p", uid("2"), phase(PodPending)),
			gossip:  pod("a", "p", uid("1"), ip("10.0.0.1"), phase(PodRunning)),
			want:    pod("a", "p", uid("2"), phase(PodPending)),
		},
		{
			name:   "local before gossip",
			local:  pod("a", "p", uid("1"), ip("10.0.0.2")),
			gossip: pod("a", "p", uid("1"), ip("10.0.0.1")),
			want:   pod("a", "p", uid("1"), ip("10.0.0.2")),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// The order in which sources speak must not matter.
			parts := []*Pod{tt.desired, tt.local, tt.gossip}
			for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}} {
				s := NewStore()
				for _, i := range order {
					if parts[i] != nil {
						update(t, s, []Source{Desired, Local, Gossip}[i], func(tx *Txn) { tx.Put(parts[i]) })
					}
				}
				got := s.State().Pod(Key{"a", "p"})
				got.ResourceVersion = 0
				if d := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
					t.Fatalf("order %v: %s", order, d)
				}
			}
		})
	}
}

// TestResourceVersion: who observes does not count versions, the Store does.
func TestResourceVersion(t *testing.T) {
	s := NewStore()
	version := func() uint64 { return s.State().Pod(Key{"a", "p"}).ResourceVersion }
	update(t, s, Desired, func(tx *Txn) {
		tx.Put(pod("a", "p", func(p *Pod) { p.ResourceVersion = 9 }))
		tx.SkipTo(9)
	})
	if version() != 9 {
		t.Fatalf("what desires says the version: %d", version())
	}
	seen := func(ph PodPhase) { update(t, s, Local, func(tx *Txn) { tx.Put(pod("a", "p", phase(ph))) }) }
	seen(PodPending)
	seen(PodPending)
	seen(PodRunning)
	seen(PodRunning)
	if version() != 11 || s.State().Revision != 11 {
		t.Fatalf("version %d, revision %d, want 11", version(), s.State().Revision)
	}
}

func TestMergeNode(t *testing.T) {
	s := NewStore()
	cidr := func(c string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(c)} }
	update(t, s, Desired, func(tx *Txn) {
		tx.Put(&Node{Meta: Meta{Name: "n", Labels: map[string]string{"zone": "a"}}, PodCIDRs: cidr("10.244.1.0/24")})
	})
	update(t, s, Gossip, func(tx *Txn) {
		tx.Put(&Node{Meta: Meta{Name: "n", Labels: map[string]string{"zone": "b"}}, PodCIDRs: cidr("10.244.9.0/24"),
			Underlay: netip.MustParseAddrPort("127.0.0.2:8472"), VTEPMAC: [6]byte{2}, Ready: true})
	})
	n := s.State().Node("n")
	if n.Labels["zone"] != "a" || n.PodCIDRs[0].String() != "10.244.9.0/24" || !n.Ready || !n.Underlay.IsValid() || n.VTEPMAC[0] != 2 {
		t.Fatalf("%+v", n)
	}
	update(t, s, Local, func(tx *Txn) { tx.Put(&Node{Meta: Meta{Name: "n"}, Reason: "its process ended"}) })
	if n := s.State().Node("n"); n.Ready || n.Reason == "" || !n.Underlay.IsValid() {
		t.Fatalf("%+v", n)
	}
	update(t, s, Gossip, func(tx *Txn) { tx.Clear() })
	update(t, s, Local, func(tx *Txn) { tx.Clear() })
	if n := s.State().Node("n"); n.PodCIDRs[0].String() != "10.244.1.0/24" || n.Underlay.IsValid() {
		t.Fatalf("what a source no longer says is still there: %+v", n)
	}
}

func TestWatchCoalesces(t *testing.T) {
	s := NewStore()
	update(t, s, Desired, func(tx *Txn) { tx.Put(pod("a", "old", uid("1"))) })
	w := s.Watch()
	defer w.Close()
	if c := w.Next(); len(c.Pods) != 1 || c.Pods[0].Old != nil || c.Pods[0].New.Name != "old" {
		t.Fatalf("first read: %+v", c.Pods)
	}
	if c := w.Next(); !c.Empty() || c.From != c.To {
		t.Fatal("second read is not empty")
	}
	for i := range 5 {
		update(t, s, Local, func(tx *Txn) {
			tx.Put(pod("a", "old", uid("1"), phase(PodRunning), func(p *Pod) { p.Restarts = i }))
		})
	}
	update(t, s, Desired, func(tx *Txn) { tx.Put(pod("a", "brief")) })
	update(t, s, Desired, func(tx *Txn) { tx.Delete(KindPod.Ref(Key{"a", "brief"})); tx.Put(&Node{Meta: Meta{Name: "n"}}) })
	c := w.Next()
	if len(c.Pods) != 1 || c.Pods[0].Old.Restarts != 0 || c.Pods[0].New.Restarts != 4 || len(c.Nodes) != 1 {
		t.Fatalf("%+v", c)
	}
}

// TestWatchNeverLoses runs writers against a slow subscriber in virtual time.
// Replaying the changes must give the Store's own end state.
func TestWatchNeverLoses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStore()
		w := s.Watch()
		var wg sync.WaitGroup
		for i, src := range []Source{Desired, Gossip} {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(i), 7))
				for range 2000 {
					k := Key{"a", fmt.Sprint(rng.IntN(50))}
					_ = s.Update(src, func(tx *Txn) error {
						if rng.IntN(2) == 0 {
							tx.Delete(KindPod.Ref(k))
						} else {
							tx.Put(pod(k.Namespace, k.Name, func(p *Pod) { p.Restarts = rng.IntN(9) }))
						}
						return nil
					})
					time.Sleep(time.Duration(rng.IntN(1000)) * time.Microsecond)
				}
			})
		}
		done := make(chan struct{})
		go func() { wg.Wait(); time.Sleep(time.Second); close(done) }()
		seen := map[Key]*Pod{}
		for running := true; running; {
			select {
			case <-w.C():
				for _, c := range w.Next().Pods {
					k := Key{}
					if c.Old != nil {
						k = c.Old.Key()
						if seen[k] != c.Old {
							t.Fatalf("%s: Old is not what was reported last", k)
						}
						delete(seen, k)
					}
					if c.New != nil {
						seen[c.New.Key()] = c.New
					}
				}
				time.Sleep(13 * time.Millisecond) // a slow subscriber
			case <-done:
				running = false
			}
		}
		if len(seen) != s.State().Pods.Len() {
			t.Fatalf("%d pods seen, %d are there", len(seen), s.State().Pods.Len())
		}
		for p := range s.State().Pods.All() {
			if seen[p.Key()] != p {
				t.Fatalf("%s differs", p.Key())
			}
		}
		w.Close()
		w.Close()
		update(t, s, Desired, func(tx *Txn) { tx.Put(pod("z", "z")) })
		select {
		case <-w.C():
			t.Fatal("a closed watcher was signalled")
		default:
		}
	})
}

func fill(s *Store, n int) {
	_ = s.Update(Desired, func(tx *Txn) error {
		for i := range n {
			tx.Put(pod("shop", fmt.Sprintf("web-%05d", i), uid(fmt.Sprint(i))))
		}
		return nil
	})
}

// TestChangeCostsTheChange compares what one change allocates among 100 pods
// and among 10,000: a copy of everything would be 100 times as much.
func TestChangeCostsTheChange(t *testing.T) {
	cost := func(n int) float64 {
		s := NewStore()
		fill(s, n)
		w := s.Watch()
		w.Next()
		i := 0
		return testing.AllocsPerRun(200, func() {
			i++
			update(t, s, Local, func(tx *Txn) {
				tx.Put(pod("shop", "web-00042", uid("42"), phase(PodRunning), func(p *Pod) { p.Restarts = i }))
			})
			if c := w.Next(); len(c.Pods) != 1 {
				t.Fatalf("%d changes", len(c.Pods))
			}
		})
	}
	small, large := cost(100), cost(10000)
	t.Logf("%.0f allocations among 100 pods, %.0f among 10000", small, large)
	if large > 4*small {
		t.Fatalf("one change costs %.0f allocations among 10000 pods, %.0f among 100", large, small)
	}
}

func BenchmarkStoreChange(b *testing.B) {
	for _, n := range []int{100, 10000} {
		b.Run(fmt.Sprint("pods=", n), func(b *testing.B) {
			s := NewStore()
			fill(s, n)
			w := s.Watch()
			w.Next()
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				update(b, s, Local, func(tx *Txn) {
					tx.Put(pod("shop", "web-00042", uid("42"), phase(PodRunning), func(p *Pod) { p.Restarts = i }))
				})
				w.Next()
			}
		})
	}
}

func BenchmarkStoreFill10k(b *testing.B) {
	for b.Loop() {
		fill(NewStore(), 10000)
	}
}
