package gossip

import (
	"go/ast"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// What is newer is decided by life, version and stamp. A version that was made
// later in time, but is lower, loses; so does a claim that was made earlier,
// but has a higher stamp.
func TestB33NoClockDecides(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		gs := c.startN(3)
		for range 40 { // n3's first life gets far in versions
			must0(t, gs[2].SetPods(pods(3, 1)))
			must0(t, gs[2].SetPods(pods(3, 2)))
		}
		c.agree(time.Second, gs...)
		v := gs[2].own.version
		if v < 80 {
			t.Fatal(v)
		}
		c.crash("n3")
		gs[2] = c.start("n3", 3)
		must0(t, gs[2].SetPods(pods(3, 7)))
		c.agree(3*time.Second, gs...)
		if gs[2].own.version >= v {
			t.Fatal("the second life is not behind the first in versions; the test shows nothing")
		}
		// An hour later in time, an older version arrives.
		time.Sleep(time.Hour / 60)
		gs[2].mu.Lock()
		e := gs[2].own.edition
		gs[2].mu.Unlock()
		e.version--
		old := &stateMsg{edition: e, pods: pods(3, 1)}
		gs[0].receive(old.encode())
		c.never(2*time.Second, "an older version was taken because it came later", func() bool { return !agreed(gs) })
	})
	early, late := bid{"b", Claim{Prefix: prefix("10.0.0.0/24"), Stamp: 9}}, bid{"z", Claim{Prefix: prefix("10.0.0.0/24"), Stamp: 2}}
	granted, _ := grant([]bid{early, late})
	if len(granted["z"]) != 1 || len(granted["b"]) != 0 {
		t.Errorf("the claim with the lower stamp lost: %v", granted)
	}
}

// Whatever orders, encodes or decides does not import time at all, and nothing
// in the package turns a time into a number.
func TestB33NoWallClockInSource(t *testing.T) {
	pure := []string{"claim.go", "table.go", "meta.go", "message.go", "wire.go", "node.go"}
	fset := token.NewFileSet()
	names, err := filepath.Glob("*.go")
	must0(t, err)
	seen := 0
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, 0)
		must0(t, err)
		if slices.Contains(pure, name) {
			seen++
			for _, imp := range f.Imports {
				if imp.Path.Value == `"time"` {
					t.Errorf("%s imports time", name)
				}
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && (strings.HasPrefix(s.Sel.Name, "Unix") || s.Sel.Name == "Round" || s.Sel.Name == "UTC") {
				t.Errorf("%s reads the wall clock: %s", fset.Position(s.Pos()), s.Sel.Name)
			}
			return true
		})
	}
	if seen != len(pure) {
		t.Errorf("found %d of %v", seen, pure)
	}
}

// Two clusters whose seeds name each other's nodes do not merge.
func TestB35OtherCluster(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		blue := []*Gossip{c.start("n1", 1), c.start("n2", 2)}
		other := func(cfg *Config) {
			cfg.Cluster = "red"
			cfg.Join = []netip.AddrPort{at(1), at(2), at(11), at(12)}
		}
		red := []*Gossip{c.start("n1", 11, other), c.start("n12", 12, other)}
		c.within(5*time.Second, "each cluster is whole", func() bool { return agreed(blue) && agreed(red) })
		must0(t, red[0].SetPods(pods(11, 3)))
		must0(t, blue[0].SetPods(pods(1, 3)))
		time.Sleep(time.Minute)
		if !agreed(blue) || !agreed(red) {
			t.Errorf("the clusters met:\n%s", c.dump())
		}
		for _, g := range append(blue, red...) {
			if len(g.Snapshot().Nodes) != 1 {
				t.Errorf("%s knows %s", g.cfg.Name, describe(g.Snapshot()))
			}
		}
		if blue[0].Counters().OtherCluster == 0 || c.log.count("dropped traffic of another cluster") == 0 {
			t.Error("the foreign traffic was not counted and told")
		}
	})
}

// The cluster in the metadata is checked even where the packet label agrees.
func TestB35OtherClusterInMetadata(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		g := c.start("n1", 1)
		h := c.start("n2", 2, func(cfg *Config) { cfg.Join = nil })
		time.Sleep(time.Second)
		h.mu.Lock()
		m := meta{cluster: clusterID("red"), life: h.life, facts: h.facts, claims: h.claims}
		b, err := m.encode()
		must0(t, err)
		h.meta.Store(&b)
		h.mu.Unlock()
		must0(t, h.ml.UpdateNode(time.Second))
		if _, err := h.ml.Join([]string{at(1).String()}); err == nil {
			time.Sleep(time.Second)
		}
		c.never(5*time.Second, "the node was taken in", func() bool { return len(g.Snapshot().Nodes) > 0 })
		if g.Counters().RefusedNodes == 0 {
			t.Error("not counted")
		}
	})
}

// A member cannot say more than its ranges allow: what is outside is ignored
// and reported, the rest stays.
func TestImplausibleAnnouncements(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		gs := []*Gossip{c.start("n1", 1), c.start("n2", 2)}
		c.agree(2*time.Second, gs...)
		liar := c.start("liar", 3, func(cfg *Config) {
			cfg.ClusterCIDRs = nil // it would not announce such a range otherwise
			cfg.PodCIDRs = []netip.Prefix{prefix("10.244.3.0/24"), prefix("192.168.0.0/16")}
			cfg.Self.Underlay = netip.AddrPortFrom(at(1).Addr(), 8472)
		})
		c.within(2*time.Second, "the liar has its claims", func() bool { return len(liar.Snapshot().Self.PodCIDRs) == 2 })
		liar.mu.Lock()
		liar.own.setPods([]Pod{
			{Name: "good", IPs: []netip.Addr{netip.MustParseAddr("10.244.3.3")}},
			{Name: "host", IPs: []netip.Addr{netip.MustParseAddr("172.29.0.3")}},
			{Name: "of-n2", IPs: []netip.Addr{netip.MustParseAddr("10.244.2.3")}},
			{Name: "twice", IPs: []netip.Addr{netip.MustParseAddr("10.244.3.3")}},
		})
		liar.spread()
		liar.mu.Unlock()
		for _, g := range gs {
			c.within(2*time.Second, "the lies are reported", func() bool {
				all := strings.Join(g.Snapshot().Problems, "\n")
				return strings.Contains(all, "claims pod range 192.168.0.0/16 outside") && strings.Contains(all, "announces 2 pods outside") &&
					strings.Contains(all, "announce the same underlay endpoint")
			})
			n := g.Snapshot().Node("liar")
			var names []string
			for _, p := range n.Pods {
				names = append(names, p.Name)
			}
			if !slices.Equal(names, []string{"good", "host"}) || !slices.Equal(n.PodCIDRs, []netip.Prefix{prefix("10.244.3.0/24")}) {
				t.Errorf("%s believes %v %v", g.cfg.Name, names, n.PodCIDRs)
			}
		}
	})
}

// Strangers on the port, and members that send rubbish, are counted and change
// nothing.
func TestGarbage(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		simulate(t, func(t *testing.T, c *sim) {
			if encrypted {
				c.edit = append(c.edit, withKeys(keyA))
			}
			gs := c.startN(3)
			r := rand.New(rand.NewPCG(1, 2))
			stranger := netip.MustParseAddrPort("192.0.2.7:53")
			label := append([]byte{244, byte(len(gs[0].cfg.Cluster))}, gs[0].cfg.Cluster...)
			for i := range 3000 {
				b := make([]byte, r.IntN(200))
				for k := range b {
					b[k] = byte(r.Uint32())
				}
				if len(b) > 0 && i%2 == 0 {
					b[0] %= 16 // a message type
				}
				if i%3 > 0 {
					b = append(slices.Clone(label), b...)
				}
				c.net.Packet(stranger, at(1), b)
				if i%10 == 0 {
					conn, err := c.net.Dial(stranger, at(1), 100*time.Millisecond)
					must0(t, err)
					_, _ = conn.Write(b)
					_ = conn.Close()
				}
				gs[1].receive(b)
			}
			time.Sleep(3 * time.Second)
			if !agreed(gs) {
				t.Errorf("the cluster changed:\n%s", c.dump())
			}
			n := gs[0].Counters()
			if n.Garbage+n.BadKey < 2000 || gs[1].Counters().Malformed < 2900 {
				t.Errorf("not all was counted: %+v, malformed %d", n, gs[1].Counters().Malformed)
			}
			if said := c.log.count("level=WARN"); said > 40 {
				t.Errorf("%d warnings for 3000 packets", said)
			}
		})
	}
}

// Packets of a real cluster, damaged in a few places, crash nobody. Without
// encryption such a packet can lie, so nothing else is asked for.
func TestDamagedTraffic(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		var seen [][]byte
		c.net.tap = func(b []byte) {
			if len(seen) < 4000 {
				seen = append(seen, slices.Clone(b))
			}
		}
		gs := c.startN(4)
		c.crash("n4")
		time.Sleep(5 * time.Second)
		c.net.mu.Lock()
		c.net.tap = nil
		c.net.mu.Unlock()
		if len(seen) < 100 {
			t.Fatalf("only %d packets", len(seen))
		}
		r := rand.New(rand.NewPCG(1, 9))
		for i := range 20000 {
			b := slices.Clone(seen[r.IntN(len(seen))])
			for range 1 + r.IntN(4) {
				b[r.IntN(len(b))] = byte(r.Uint32())
			}
			if r.IntN(4) == 0 {
				b = b[:r.IntN(len(b))]
			}
			c.net.Packet(at(77), gs[i%3].Addr(), b)
			if i%20 == 0 {
				time.Sleep(10 * time.Millisecond)
			}
			if i%100 == 0 {
				if conn, err := c.net.Dial(at(77), gs[i%3].Addr(), 100*time.Millisecond); err == nil {
					_, _ = conn.Write(b)
					_ = conn.Close()
				}
			}
		}
		time.Sleep(10 * time.Second)
		for _, g := range gs[:3] {
			_ = describe(g.Snapshot())
		}
	})
}
