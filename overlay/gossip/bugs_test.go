package gossip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// A node that comes back with its name at another address is taken in as soon
// as the old one is gone, and everything points to the new place.
func TestB28SameNameOtherAddress(t *testing.T) {
	for _, tc := range []struct {
		name   string
		timing Timing
		end    func(c *sim, g *Gossip)
	}{
		{"crashed/local", Local(), func(c *sim, g *Gossip) { c.crash("n4") }},
		{"crashed/lan", LAN(), func(c *sim, g *Gossip) { c.crash("n4") }},
		{"suspected/lan", LAN(), func(c *sim, g *Gossip) { c.crash("n4"); time.Sleep(2 * time.Second) }},
		{"failed/local", Local(), func(c *sim, g *Gossip) { c.crash("n4"); time.Sleep(10 * time.Second) }},
		{"forgotten by memberlist/local", Local(), func(c *sim, g *Gossip) { c.crash("n4"); time.Sleep(time.Minute) }},
		{"left/local", Local(), func(c *sim, g *Gossip) { must0(c.t, g.Leave(context.Background())); c.crash("n4") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			simulate(t, func(t *testing.T, c *sim) {
				c.edit = append(c.edit, func(cfg *Config) { cfg.Timing = tc.timing })
				gs := c.startN(6)
				must0(t, gs[3].SetPods(pods(4, 3)))
				c.agree(5*time.Second, gs...)
				tc.end(c, gs[3])
				gs[3] = c.start("n4", 44, func(cfg *Config) {
					cfg.PodCIDRs = []netip.Prefix{prefix("10.244.44.0/24")}
				})
				must0(t, gs[3].SetPods([]Pod{{Namespace: "shop", Name: "moved", UID: "u", IPs: []netip.Addr{netip.MustParseAddr("10.244.44.2")}}}))
				took := c.agree(10*time.Second, gs...)
				t.Logf("reachable at its new address everywhere after %s", took)
				for _, g := range []*Gossip{gs[0], gs[1], gs[2], gs[4], gs[5]} {
					n := g.Snapshot().Node("n4")
					if n.Gossip != at(44) || n.Underlay.Addr() != at(44).Addr() || len(n.Pods) != 1 || n.Pods[0].Name != "moved" {
						t.Errorf("%s still has the old n4: %+v", g.cfg.Name, n)
					}
				}
				c.within(time.Minute, "the name conflict is over", func() bool {
					return !slices.ContainsFunc(gs, func(g *Gossip) bool { return len(g.Snapshot().Problems) > 0 })
				})
			})
		})
	}
}

// A node that restarts faster than anybody notices is back at once with its
// new facts, even if it knows no seed, and nothing of its old life remains.
func TestB28SameNameSameAddress(t *testing.T) {
	for _, seeds := range []bool{true, false} {
		t.Run(fmt.Sprintf("seeds=%v", seeds), func(t *testing.T) {
			simulate(t, func(t *testing.T, c *sim) {
				gs := c.startN(5)
				must0(t, gs[0].SetPods(pods(1, 3)))
				c.agree(time.Second, gs...)
				c.crash("n1")
				gs[0] = c.start("n1", 1, func(cfg *Config) {
					cfg.Self.VTEPMAC[0] = 6
					if !seeds {
						cfg.Join = nil
					} else {
						cfg.Join = []netip.AddrPort{at(1), at(2)}
					}
				})
				must0(t, gs[0].SetPods(pods(1, 1)))
				took := c.agree(2*time.Second, gs...)
				t.Logf("back everywhere after %s", took)
			})
		})
	}
}

// A node that comes back at its address under another name evicts no live
// node, and the old name's state goes away.
func TestB29OtherNameSameAddress(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		gs := c.startN(5)
		must0(t, gs[4].SetPods(pods(5, 3)))
		c.agree(time.Second, gs...)
		c.crash("n5")
		gs[4] = c.start("renamed", 5)
		must0(t, gs[4].SetPods(pods(5, 2)))
		begun := time.Now()
		for !agreed(gs) {
			for _, g := range gs[:4] {
				s := g.Snapshot()
				for _, o := range gs[:4] {
					if o != g && s.Node(o.cfg.Name).State != Alive {
						t.Fatalf("%s: live node %s was evicted", g.cfg.Name, o.cfg.Name)
					}
				}
				disjoint(t, s)
			}
			if time.Since(begun) > 10*time.Second {
				t.Fatalf("no agreement\n%s", c.dump())
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Logf("the new name is everywhere, the old one gone, after %s", time.Since(begun))
		c.within(5*time.Second, "the old name is forgotten", func() bool {
			return !slices.ContainsFunc(gs, func(g *Gossip) bool { return g.Snapshot().Node("n5") != nil })
		})
	})
}

// disjoint fails if a view has two nodes for one address.
func disjoint(t *testing.T, s *State) {
	t.Helper()
	all := append(slices.Clone(s.Nodes), s.Self)
	for i := range all {
		for j := range i {
			for _, p := range all[i].PodCIDRs {
				if overlapsAny(p, all[j].PodCIDRs) {
					t.Fatalf("%s sees %s at both %s and %s", s.Self.Name, p, all[i].Name, all[j].Name)
				}
			}
		}
		if all[i].State != Alive && len(all[i].PodCIDRs)+len(all[i].Pods) > 0 {
			t.Fatalf("%s sees %s %s with %v", s.Self.Name, all[i].Name, all[i].State, all[i].PodCIDRs)
		}
	}
}

// Of two nodes configured with one range, all nodes choose the same one; the
// other has no range, says so loudly, and takes over when the winner goes.
func TestB30DuplicateRange(t *testing.T) {
	same := []netip.Prefix{prefix("10.244.9.0/24")}
	simulate(t, func(t *testing.T, c *sim) {
		gs := []*Gossip{c.start("n1", 1), c.start("old", 2, func(cfg *Config) { cfg.PodCIDRs = same }), c.start("n3", 3)}
		c.agree(5*time.Second, gs...)
		must0(t, gs[1].SetPods(pods(9, 2)[:0]))
		late := c.start("a-late", 4, func(cfg *Config) { cfg.PodCIDRs = []netip.Prefix{prefix("10.244.8.0/23")} })
		gs = append(gs, late)
		c.within(2*time.Second, "all nodes see the conflict", func() bool {
			for _, g := range gs {
				s := g.Snapshot()
				disjoint(t, s)
				if len(s.Conflicts) != 1 || s.Conflicts[0].Winner != "old" || s.Conflicts[0].Loser != "a-late" {
					return false
				}
			}
			return true
		})
		if got := late.Snapshot().Self.PodCIDRs; len(got) != 0 {
			t.Errorf("the loser keeps %v", got)
		}
		err := late.SetPods([]Pod{{Name: "p", IPs: []netip.Addr{netip.MustParseAddr("10.244.8.7")}}})
		if !errors.Is(err, ErrRangeLost) {
			t.Errorf("the loser accepts a pod: %v", err)
		}
		time.Sleep(time.Second)
		for _, g := range gs[:3] {
			if n := g.Snapshot().Node("a-late"); n.State != Alive || len(n.Pods) != 0 {
				t.Errorf("%s: the loser's pods are taken: %+v", g.cfg.Name, n)
			}
		}
		if c.log.count("this node lost a pod range") != 1 {
			t.Error("the loser is not loud")
		}
		c.crash("old")
		took := c.within(5*time.Second, "the loser takes over", func() bool {
			return len(late.Snapshot().Self.PodCIDRs) == 1 && len(gs[0].Snapshot().Node("a-late").Pods) == 1
		})
		t.Logf("the loser took over %s after the winner's crash", took)
	})
}

// Two parts of a cluster that chose one range while they did not see each
// other: a node without pods moves, one with pods keeps running and is loud.
func TestB30DuplicateRangeAfterPartition(t *testing.T) {
	for _, loserHasPods := range []bool{false, true} {
		t.Run(fmt.Sprintf("pods=%v", loserHasPods), func(t *testing.T) {
			simulate(t, func(t *testing.T, c *sim) {
				// Two ranges for two nodes: each takes its favourite one.
				c.edit = append(c.edit, func(cfg *Config) {
					cfg.PodCIDRs, cfg.ClusterCIDRs, cfg.NodeMask4 = nil, []netip.Prefix{prefix("10.244.0.0/16")}, 17
				})
				x, y := clash(t)
				c.net.Partition([]netip.AddrPort{at(1)}, []netip.AddrPort{at(2)})
				gs := []*Gossip{c.start(x, 1), c.start(y, 2)}
				time.Sleep(3 * time.Second)
				if a, b := gs[0].Snapshot().Self.PodCIDRs, gs[1].Snapshot().Self.PodCIDRs; !slices.Equal(a, b) || len(a) != 1 {
					t.Fatalf("no clash: %v %v", a, b)
				}
				ip := gs[0].Snapshot().Self.PodCIDRs[0].Addr().Next().Next()
				for i, g := range gs {
					if i == 0 || loserHasPods {
						must0(t, g.SetPods([]Pod{{Name: "p", IPs: []netip.Addr{ip}}}))
					}
				}
				c.net.Partition()
				if loserHasPods {
					c.within(10*time.Second, "both see the conflict", func() bool {
						a, b := gs[0].Snapshot(), gs[1].Snapshot()
						return slices.Equal(a.Conflicts, b.Conflicts) && len(a.Conflicts) == 1
					})
					s := gs[1].Snapshot()
					if s.Conflicts[0].Loser != y || len(s.Self.PodCIDRs) != 0 || len(s.Self.Pods) != 1 || len(gs[0].Snapshot().Node(y).Pods) != 0 {
						t.Fatalf("conflict is not settled: %v\n%s", s.Conflicts, c.dump())
					}
					must0(t, gs[1].SetPods(nil)) // the pods are drained: now it can move
				}
				took := c.within(10*time.Second, "both have a range", func() bool {
					return agreed(gs) && len(gs[0].Snapshot().Self.PodCIDRs) == 1 && len(gs[1].Snapshot().Self.PodCIDRs) == 1
				})
				t.Logf("settled after %s", took)
				for _, g := range gs {
					disjoint(t, g.Snapshot())
				}
				if gs[0].Snapshot().Self.Pods[0].IPs[0] != ip {
					t.Error("the winner moved")
				}
			})
		})
	}
}

// clash returns two names whose search starts at the same of two ranges; the
// first of them has no seeds (it is node 1), and so the older claim.
func clash(t *testing.T) (x, y string) {
	first := map[netip.Prefix]string{}
	for i := range 100 {
		name := fmt.Sprintf("node-%d", i)
		p, _ := free(prefix("10.244.0.0/16"), 17, name, nil)
		if o, ok := first[p]; ok {
			return o, name
		}
		first[p] = name
	}
	t.Fatal("no two names clash")
	return "", ""
}

// A partition that outlasts memberlist's memory heals without a human; each
// side works on meanwhile.
func TestB31Partition(t *testing.T) {
	forgetful := LAN()
	forgetful.Forget = 40 * time.Second
	for _, tc := range []struct {
		name   string
		timing Timing
		join   func(i int) []netip.AddrPort
		long   time.Duration
	}{
		{"local/one seed", Local(), func(int) []netip.AddrPort { return []netip.AddrPort{at(1)} }, time.Minute},
		{"lan/one seed", LAN(), func(int) []netip.AddrPort { return []netip.AddrPort{at(1)} }, 90 * time.Second},
		{"lan/all seeds, longer than remembered", forgetful, func(int) []netip.AddrPort {
			return []netip.AddrPort{at(1), at(2), at(3), at(4), at(5), at(6)}
		}, 90 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			simulate(t, func(t *testing.T, c *sim) {
				i := 0
				c.edit = append(c.edit, func(cfg *Config) { i++; cfg.Timing, cfg.Join = tc.timing, tc.join(i) })
				gs := c.startN(6)
				left, right := gs[:3], gs[3:]
				for i, g := range gs {
					must0(t, g.SetPods(pods(i+1, 4)))
				}
				c.agree(5*time.Second, gs...)
				c.net.Partition([]netip.AddrPort{at(1), at(2), at(3)}, []netip.AddrPort{at(4), at(5), at(6)})
				c.within(time.Minute, "each side is a cluster of its own", func() bool { return agreed(left) && agreed(right) })
				must0(t, gs[0].SetPods(pods(1, 2)))
				must0(t, gs[4].SetPods(pods(5, 7)))
				c.within(5*time.Second, "each side works on", func() bool { return agreed(left) && agreed(right) })
				time.Sleep(tc.long)
				c.net.Partition()
				t.Logf("healed after %s", c.agree(30*time.Second, gs...))
			})
		})
	}
}

// What a third node kept of an owner that is gone, or of its earlier life, is
// not taken back; when the owner is back, all of its pods are known again.
func TestB32NoResurrection(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		gs := c.startN(4)
		must0(t, gs[3].SetPods(pods(4, 5)))
		c.agree(time.Second, gs...)
		// n3 is cut off with everything it knows, and the others lose n4.
		old := gs[2].digest(true)
		c.crash("n4")
		gone := func() bool {
			for _, g := range gs[:3] {
				if n := g.Snapshot().Node("n4"); n.State == Alive || len(n.Pods) > 0 {
					return false
				}
			}
			return true
		}
		c.within(3*time.Second, "n4 is gone", gone)
		for _, g := range gs[:3] {
			g.receive(old.encode())
			for _, s := range old.states {
				g.receive(s)
			}
		}
		c.never(10*time.Second, "n4's pods are back without n4", func() bool { return !gone() })

		gs[3] = c.start("n4", 4)
		must0(t, gs[3].SetPods(pods(4, 2)))
		c.agree(3*time.Second, gs...)
		for _, g := range gs[:3] {
			for _, s := range old.states {
				g.receive(s)
			}
		}
		c.never(10*time.Second, "pods of n4's earlier life are back", func() bool { return !agreed(gs) })
		must0(t, gs[3].SetPods(pods(4, 6)))
		c.agree(time.Second, gs...)
	})
}

// A node that others wrongly take for failed, because they cannot hear it for
// a while, is back with all of its pods.
func TestB32FalseAlarm(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		gs := c.startN(5)
		for i, g := range gs {
			must0(t, g.SetPods(pods(i+1, 20)))
		}
		c.agree(time.Second, gs...)
		for range 5 {
			c.net.Partition([]netip.AddrPort{at(3)})
			time.Sleep(4 * time.Second)
			c.net.Partition()
			t.Logf("whole again after %s", c.agree(10*time.Second, gs...))
		}
	})
}
