package gossip

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestThreeNodes(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		gs := c.startN(3)
		for i, g := range gs {
			must0(t, g.SetPods(pods(i+1, 5)))
		}
		took := c.agree(time.Second, gs...)
		t.Logf("pods are everywhere after %s", took)
		for _, p := range gs[0].Snapshot().Problems {
			t.Error(p)
		}
	})
}

func TestCrashIsNoticed(t *testing.T) {
	for _, n := range []int{2, 3, 8} {
		simulate(t, func(t *testing.T, c *sim) {
			gs := c.startN(n)
			must0(t, gs[n-1].SetPods(pods(n, 3)))
			c.agree(time.Second, gs...)
			c.crash(gs[n-1].cfg.Name)
			took := c.within(3*time.Second, "the crashed node's routes are gone", func() bool {
				for _, g := range gs[:n-1] {
					m := g.Snapshot().Node(gs[n-1].cfg.Name)
					if m.State != Failed || len(m.PodCIDRs)+len(m.Pods) > 0 {
						return false
					}
				}
				return true
			})
			t.Logf("%d nodes: crash noticed everywhere after %s", n, took)
		})
	}
}

func TestLeaveIsImmediate(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		gs := c.startN(4)
		begun := time.Now()
		must0(t, gs[3].Leave(context.Background()))
		t.Logf("leaving took %s", time.Since(begun))
		for _, g := range gs[:3] {
			if m := g.Snapshot().Node("n4"); m.State != Left || len(m.PodCIDRs) > 0 {
				t.Errorf("%s: n4 is %s with %v", g.cfg.Name, m.State, m.PodCIDRs)
			}
		}
		must0(t, gs[3].Close())
		c.never(5*time.Second, "n4 is back", func() bool { return gs[0].Snapshot().Node("n4").State != Left })
	})
}

// Twenty nodes that start at the same moment with one seed find each other,
// and then a thousand pods.
func TestTwentyNodesThousandPods(t *testing.T) {
	for _, tc := range []struct {
		name   string
		timing Timing
		loss   float64
		limit  time.Duration
	}{
		{"local", Local(), 0, 5 * time.Second},
		{"lan", LAN(), 0, 15 * time.Second},
		{"local, 20% loss", Local(), 0.2, 15 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			simulate(t, func(t *testing.T, c *sim) {
				c.edit = append(c.edit, func(cfg *Config) { cfg.Timing = tc.timing })
				c.net.SetLink(time.Millisecond, 4*time.Millisecond, tc.loss)
				var gs []*Gossip
				for i := 1; i <= 20; i++ {
					gs = append(gs, c.start(fmt.Sprintf("n%d", i), i))
				}
				t.Logf("20 nodes agree after %s", c.agree(tc.limit, gs...))
				for i, g := range gs {
					must0(t, g.SetPods(pods(i+1, 50)))
				}
				t.Logf("1000 pods are everywhere after %s", c.agree(tc.limit, gs...))
				all := pods(7, 50)
				must0(t, gs[6].SetPods(append(all[:20:20], all[21:]...)))
				t.Logf("one pod is gone everywhere after %s", c.agree(tc.limit, gs...))
				gs = append(gs, c.start("late", 21))
				t.Logf("a late node knows all after %s", c.agree(tc.limit, gs...))
				if tc.loss == 0 {
					for _, g := range gs {
						if n := g.Counters(); n.Malformed+n.BadKey+n.Garbage > 0 {
							t.Errorf("%s: %+v", g.cfg.Name, n)
						}
					}
				}
			})
		})
	}
}

// A thousand pods of one node, started one by one: the deltas add up while a
// stream is under way, and never is a state seen that the owner did not have.
func TestThousandPodsOfOneNode(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		c.edit = append(c.edit, func(cfg *Config) { cfg.PodCIDRs = append(cfg.PodCIDRs[:1:1], prefix("10.244.128.0/18"))[:2] })
		gs := []*Gossip{c.start("n1", 1)}
		for i := 2; i <= 5; i++ {
			gs = append(gs, c.start(fmt.Sprintf("n%d", i), i, func(cfg *Config) { cfg.PodCIDRs = cfg.PodCIDRs[:1] }))
		}
		c.agree(5*time.Second, gs...)
		var all []Pod
		for i := range 1000 {
			all = append(all, Pod{Namespace: "load", Name: fmt.Sprintf("p%04d", i), UID: fmt.Sprint(i),
				IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, byte(128 + i>>8), byte(i)})}})
			must0(t, gs[0].SetPods(slices.Clone(all)))
			if i%50 == 0 {
				time.Sleep(time.Millisecond)
				for _, g := range gs[1:] {
					for k, p := range g.Snapshot().Node("n1").Pods {
						if p.Name != all[k].Name {
							t.Fatalf("%s sees %s at place %d", g.cfg.Name, p.Name, k)
						}
					}
				}
			}
		}
		t.Logf("the last pod is everywhere after %s", c.agree(2*time.Second, gs...))
		n := gs[0].Counters()
		t.Logf("%d messages, %d bytes for 1000 changes to 4 members", n.Sent, n.SentBytes)
		if n.SentBytes > 8<<20 {
			t.Error("changes do not go as deltas")
		}
	})
}

// A delta that never arrives is noticed by the version that is gossiped; one
// whose news is lost, too, by the next push/pull.
func TestLostDeltaIsRepaired(t *testing.T) {
	for _, beacon := range []bool{true, false} {
		simulate(t, func(t *testing.T, c *sim) {
			gs := c.startN(4)
			time.Sleep(time.Second)
			g := gs[0]
			g.mu.Lock()
			g.pods = pods(1, 4)
			g.own.setPods(g.pods)
			g.changed()
			for _, p := range g.peers() {
				p.sent = g.own.version // as if it had arrived
			}
			if beacon {
				g.beacons.QueueBroadcast(newBeacon(g.own.edition))
			}
			g.mu.Unlock()
			// A gossiped version mostly reaches all within 200 ms, but it is sent to
			// random members and only so often; the exchange with each of them,
			// every 10 s, is what can be relied on.
			const limit = 30 * time.Second
			t.Logf("repaired after %s, gossiped version %v", c.agree(limit, gs...), beacon)
		})
	}
}

// Facts that change reach everybody; pods that were given before the node had
// its ranges are announced once it has.
func TestSetSelfAndEarlyPods(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		gs := []*Gossip{c.start("n1", 1), c.start("n2", 2)}
		must0(t, gs[1].SetPods(pods(2, 3)))
		c.agree(3*time.Second, gs...)
		if n := gs[0].Snapshot().Node("n2"); len(n.Pods) != 3 {
			t.Fatal("early pods are lost")
		}
		f := gs[1].Snapshot().Self.Facts
		f.VTEPMAC[5], f.SourcePorts, f.Labels = 99, []uint16{4000, 4001}, map[string]string{"zone": "other"}
		must0(t, gs[1].SetSelf(f))
		t.Logf("new facts after %s", c.agree(time.Second, gs...))
		if n := gs[0].Snapshot().Node("n2"); !slices.Equal(n.SourcePorts, f.SourcePorts) || n.Labels["zone"] != "other" {
			t.Errorf("%+v", n)
		}
		f.Addresses = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
		if err := gs[1].SetSelf(f); err == nil {
			t.Error("a loopback node address was accepted")
		}
	})
}

// Changes wakes whoever waits, and its channel stays closed after the end.
func TestChanges(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		g := c.start("n1", 1)
		time.Sleep(time.Second)
		changed, before := g.Changes(), g.Snapshot()
		select {
		case <-changed:
			t.Fatal("a change out of nothing")
		case <-time.After(10 * time.Second):
		}
		if g.Snapshot() != before {
			t.Error("a new snapshot without a change")
		}
		c.start("n2", 2)
		<-changed
		if s := g.Snapshot(); s.Version <= before.Version || before.Alive() != 1 {
			t.Error("the snapshot did not change, or the old one did")
		}
		must0(t, g.Close())
		<-g.Changes()
		must0(t, g.Close())
		if err := g.Leave(context.Background()); err != ErrClosed {
			t.Errorf("leave after close: %v", err)
		}
	})
}

// Automatic ranges: every node gets one per family, no two the same, the same
// after a restart with its last claims, and nobody takes that of a node that
// is away.
func TestAutomaticRanges(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		c.edit = append(c.edit, func(cfg *Config) {
			cfg.PodCIDRs = nil
			cfg.ClusterCIDRs, cfg.NodeMask4 = []netip.Prefix{prefix("10.244.0.0/16"), prefix("fd00:10:244::/56")}, 20 // 16 ranges
		})
		var gs []*Gossip
		for i := 1; i <= 10; i++ {
			gs = append(gs, c.start(fmt.Sprintf("n%d", i), i))
		}
		ranged := func(gs []*Gossip) func() bool {
			return func() bool {
				return agreed(gs) && !slices.ContainsFunc(gs, func(g *Gossip) bool { return len(g.Snapshot().Self.PodCIDRs) != 2 })
			}
		}
		t.Logf("10 nodes have ranges after %s", c.within(15*time.Second, "all have two ranges", ranged(gs)))
		for _, g := range gs {
			disjoint(t, g.Snapshot())
		}
		claims := gs[4].Snapshot().Self.Claims
		c.crash("n5")
		rest := slices.Delete(slices.Clone(gs), 4, 5)
		c.within(5*time.Second, "n5 is gone", func() bool { return agreed(rest) })
		for i := 11; i <= 15; i++ { // 14 of 16 are taken without n5
			g := c.start(fmt.Sprintf("n%d", i), i)
			gs, rest = append(gs, g), append(rest, g)
		}
		c.within(15*time.Second, "all have two ranges", ranged(rest))
		for _, last := range [][]Claim{claims, nil} { // without its own record others remember
			gs[4] = c.start("n5", 5, func(cfg *Config) { cfg.LastClaims = last })
			c.within(15*time.Second, "n5 has its ranges again", ranged(gs))
			if got := gs[4].Snapshot().Self.Claims; !slices.Equal(got, claims) {
				t.Errorf("n5 has %v, had %v", got, claims)
			}
			if last != nil {
				c.crash("n5")
			}
		}
		gs = append(gs, c.start("n16", 16), c.start("n17", 17))
		c.within(15*time.Second, "the 17th node says that no range is free", func() bool {
			var without int
			for _, g := range gs[15:] {
				s := g.Snapshot()
				if len(s.Self.PodCIDRs) == 1 && slices.ContainsFunc(s.Problems, isExhausted) {
					without++
				}
			}
			return without == 1
		})
		c.crash("n3")
		c.within(15*time.Second, "it takes the range of a node that is gone", func() bool {
			return len(gs[15].Snapshot().Self.PodCIDRs) == 2 && len(gs[16].Snapshot().Self.PodCIDRs) == 2
		})
	})
}

// An automatic claim without pods makes room for a configured one.
func TestAutomaticYieldsToConfigured(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		auto := c.start("auto", 1, func(cfg *Config) { cfg.PodCIDRs = nil; cfg.ClusterCIDRs = cfg.ClusterCIDRs[:1] })
		c.within(time.Second, "it has a range", func() bool { return len(auto.Snapshot().Self.PodCIDRs) == 1 })
		p := auto.Snapshot().Self.PodCIDRs
		conf := c.start("conf", 2, func(cfg *Config) { cfg.PodCIDRs = p })
		c.within(5*time.Second, "both have a range", func() bool {
			return slices.Equal(conf.Snapshot().Self.PodCIDRs, p) && len(auto.Snapshot().Self.PodCIDRs) == 1 && agreed([]*Gossip{auto, conf})
		})
	})
}

// Gossip over IPv6 addresses.
func TestIPv6(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		addr := func(i int) netip.AddrPort { return netip.MustParseAddrPort(fmt.Sprintf("[fd00::%x]:7946", i)) }
		var gs []*Gossip
		for i := 1; i <= 3; i++ {
			gs = append(gs, c.start(fmt.Sprintf("n%d", i), i, func(cfg *Config) {
				must0(t, cfg.Transport.Shutdown())
				tr, err := c.net.Transport(addr(i))
				must0(t, err)
				cfg.Transport, cfg.Join = tr, []netip.AddrPort{addr(1)}
				cfg.Self.Underlay = netip.AddrPortFrom(addr(i).Addr(), 8472)
			}))
		}
		c.agree(5*time.Second, gs...)
		if a := gs[0].Snapshot().Node("n2").Gossip; a != addr(2) {
			t.Error(a)
		}
	})
}

// The cost of one node's change in a large cluster.
func BenchmarkSnapshot(b *testing.B) {
	for _, n := range []int{20, 200, 1000} {
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) {
			c := &sim{log: &logBook{}}
			g := &Gossip{cfg: c.config("self", 1), members: map[string]*member{}, own: newLedger("self", 1, nil)}
			for i := range n {
				m := &member{name: fmt.Sprintf("n%d", i), state: Alive, meta: &meta{claims: []Claim{
					{Prefix: subnet(prefix("10.0.0.0/8"), 24, uint64(i)), Stamp: uint64(i)}, {Prefix: subnet(prefix("fd00::/48"), 64, uint64(i)), Stamp: uint64(i)}}}}
				g.members[m.name] = m
			}
			g.cfg.ClusterCIDRs = nil
			ps := [][]Pod{{{Name: "a", IPs: []netip.Addr{netip.MustParseAddr("10.0.7.2")}}}, nil}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				g.members["n7"].held = &held{pods: ps[i%2]}
				g.fresh = false
				g.rebuild()
			}
		})
	}
}
