package gossip

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// simulate runs f in virtual time: waits cost nothing, and a test that takes a
// minute of the cluster's life ends in a moment.
func simulate(t *testing.T, f func(t *testing.T, c *sim)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &sim{t: t, net: NewNetwork(), nodes: map[string]*Gossip{}, log: &logBook{}}
		c.net.SetLink(time.Millisecond, time.Millisecond, 0)
		defer c.closeAll()
		f(t, c)
	})
}

// sim is a cluster in memory.
type sim struct {
	t     *testing.T
	net   *Network
	nodes map[string]*Gossip
	all   []*Gossip
	log   *logBook
	edit  []func(*Config) // for all nodes
}

// logBook keeps the log of all nodes, for tests that ask what was said.
type logBook struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBook) Write(p []byte) (int, error) {
	if os.Getenv("GOSSIP_LOG") != "" {
		os.Stderr.Write(p)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBook) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), s)
}

// at returns gossip address number i.
func at(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), 7946)
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// config is that of node number i with the range 10.244.i.0/24; its seed is
// node 1.
func (c *sim) config(name string, i int) Config {
	cfg := Default()
	cfg.Name, cfg.Timing, cfg.Join = name, Local(), []netip.AddrPort{at(1)}
	cfg.Self = Facts{
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{172, 29, 0, byte(i)})},
		Underlay:  netip.AddrPortFrom(at(i).Addr(), 8472),
		VTEPMAC:   [6]byte{2, 0, 0, 0, 0, byte(i)},
		Labels:    map[string]string{"zone": "z" + fmt.Sprint(i%3)},
	}
	cfg.PodCIDRs = []netip.Prefix{prefix(fmt.Sprintf("10.244.%d.0/24", i)), prefix(fmt.Sprintf("fd00:10:244:%x::/64", i))}
	cfg.Logger = slog.New(slog.NewTextHandler(c.log, &slog.HandlerOptions{Level: slog.LevelDebug})).With("self", name)
	for _, e := range c.edit {
		e(&cfg)
	}
	return cfg
}

// start starts a node at address number i.
func (c *sim) start(name string, i int, edit ...func(*Config)) *Gossip {
	c.t.Helper()
	cfg := c.config(name, i)
	tr, err := c.net.Transport(at(i))
	if err != nil {
		c.t.Fatal(err)
	}
	cfg.Transport = tr
	for _, e := range edit {
		e(&cfg)
	}
	g, err := Start(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.nodes[name] = g
	c.all = append(c.all, g)
	return g
}

// startN starts nodes n1 to nN and waits until they agree.
func (c *sim) startN(n int) []*Gossip {
	c.t.Helper()
	var gs []*Gossip
	for i := 1; i <= n; i++ {
		gs = append(gs, c.start(fmt.Sprintf("n%d", i), i))
	}
	c.agree(10*time.Second, gs...)
	return gs
}

// crash ends a node without a goodbye.
func (c *sim) crash(name string) {
	c.t.Helper()
	if err := c.nodes[name].Close(); err != nil {
		c.t.Error(err)
	}
	delete(c.nodes, name)
}

func (c *sim) closeAll() {
	var wg sync.WaitGroup
	for _, g := range c.all {
		wg.Go(func() { _ = g.Close() })
	}
	wg.Wait()
	time.Sleep(time.Minute) // memberlist's probes that are under way end by timeout
}

// within polls ok in virtual time and returns how long it took.
func (c *sim) within(limit time.Duration, what string, ok func() bool) time.Duration {
	c.t.Helper()
	begun := time.Now()
	for !ok() {
		if time.Since(begun) > limit {
			c.t.Fatalf("not within %s: %s\n%s", limit, what, c.dump())
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(begun)
}

// never fails if bad becomes true during d.
func (c *sim) never(d time.Duration, what string, bad func() bool) {
	c.t.Helper()
	for begun := time.Now(); time.Since(begun) < d; time.Sleep(5 * time.Millisecond) {
		if bad() {
			c.t.Fatalf("after %s: %s\n%s", time.Since(begun), what, c.dump())
		}
	}
}

func (c *sim) dump() string {
	var b strings.Builder
	for name, g := range c.nodes {
		fmt.Fprintf(&b, "%s: %v\n", name, describe(g.Snapshot()))
	}
	return b.String()
}

// agree waits until every node sees every other one alive, with the ranges and
// pods that it announces, and nothing else alive.
func (c *sim) agree(limit time.Duration, gs ...*Gossip) time.Duration {
	c.t.Helper()
	return c.within(limit, "all nodes agree", func() bool { return agreed(gs) })
}

func agreed(gs []*Gossip) bool {
	snaps := make([]*State, len(gs))
	for i, g := range gs {
		snaps[i] = g.Snapshot()
		if snaps[i].Alive() != len(gs) || len(snaps[i].Self.Claims) == 0 {
			return false
		}
	}
	for _, s := range snaps {
		for _, o := range snaps {
			if o != s && !sees(s, &o.Self) {
				return false
			}
		}
	}
	return true
}

// sees tells whether s shows the node as it is.
func sees(s *State, n *Node) bool {
	m := s.Node(n.Name)
	return m != nil && m.State == Alive && m.Synced && m.Underlay == n.Underlay && m.VTEPMAC == n.VTEPMAC &&
		slices.Equal(m.Addresses, n.Addresses) && slices.Equal(m.PodCIDRs, n.PodCIDRs) && slices.Equal(m.Claims, n.Claims) &&
		fmt.Sprint(m.Labels) == fmt.Sprint(n.Labels) &&
		slices.EqualFunc(m.Pods, n.Pods, func(a, b Pod) bool { return a.equal(&b) })
}

// describe is a one line picture of a view.
func describe(s *State) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%v(%d pods)", s.Self.Name, s.Self.PodCIDRs, len(s.Self.Pods))
	for _, n := range s.Nodes {
		fmt.Fprintf(&b, " %s=%s@%s%v(%d pods, synced %v)", n.Name, n.State, n.Gossip, n.PodCIDRs, len(n.Pods), n.Synced)
	}
	for _, p := range s.Problems {
		fmt.Fprintf(&b, "\n  ! %s", p)
	}
	return b.String()
}

// pods returns n pods of node number i.
func pods(i, n int) []Pod {
	out := make([]Pod, n)
	for k := range out {
		out[k] = Pod{
			Namespace: "shop", Name: fmt.Sprintf("web-%d-%d", i, k), UID: fmt.Sprintf("uid-%d-%d", i, k),
			IPs: []netip.Addr{
				netip.AddrFrom4([4]byte{10, 244, byte(i), byte(k + 2)}),
				netip.MustParseAddr(fmt.Sprintf("fd00:10:244:%x::%x", i, k+2)),
			},
			Labels: map[string]string{"app": "web", "index": fmt.Sprint(k)},
		}
	}
	return out
}

func must0(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
