package agent

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"vswitch/overlay/gossip"
	"vswitch/vswitch"
	"vswitch/vswitch/packet"
)

// pickyLink is a link that takes no peers while err is set.
type pickyLink struct {
	link  // nil: the rest is not called
	err   error
	tries int
	peers int
}

func (l *pickyLink) add(*gossip.Node) (uint16, error) {
	l.tries++
	if l.err != nil {
		return 0, l.err
	}
	l.peers++
	return uint16(l.peers), nil
}

func (l *pickyLink) remove(uint16)                           { l.peers-- }
func (l *pickyLink) follow([]netip.Prefix, map[string]*peer) {}
func (l *pickyLink) kind() vswitch.PortKind                  { return vswitch.PortOverlay }
func (l *pickyLink) MTU() int                                { return 1450 }

// TestPeerRefused: a node that cannot be a peer is tried again, said to be so
// once, and changes no tables.
func TestPeerRefused(t *testing.T) {
	sw, err := vswitch.New(vswitch.Config{Workers: 1, MaxFlows: 1024})
	if err != nil {
		t.Fatal(err)
	}
	defer sw.Close()
	var log strings.Builder
	l := &pickyLink{err: errors.New("table full")}
	n := &Node{sw: sw, link: l, log: slog.New(slog.NewTextHandler(&log, nil)), peers: map[string]*peer{}, refused: map[string]string{},
		services: NewServices(ServiceConfig{}, "node1", "")}
	state := &gossip.State{Nodes: []gossip.Node{{Name: "node2", State: gossip.Alive,
		Facts: gossip.Facts{Underlay: netip.MustParseAddrPort("127.0.0.2:8472")}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24")}}}}
	for _, step := range []struct {
		name      string
		err       error
		tries     int
		published bool
		lines     int // of the log, so far
	}{
		{"refused", errors.New("table full"), 1, false, 1},
		{"refused again", errors.New("table full"), 2, false, 1},
		{"for another reason", errors.New("no descriptors"), 3, false, 2},
		{"taken", nil, 4, true, 3},
		{"known", nil, 4, false, 3},
	} {
		before := sw.Tables()
		l.err = step.err
		n.sync(state)
		if published := sw.Tables() != before; published != step.published {
			t.Errorf("%s: published %t, want %t", step.name, published, step.published)
		}
		if lines := strings.Count(log.String(), "\n"); lines != step.lines || l.tries != step.tries {
			t.Errorf("%s: %d lines, %d tries, want %d and %d:\n%s", step.name, lines, l.tries, step.lines, step.tries, log.String())
		}
		if refused := len(n.refused) > 0; refused != (step.err != nil) {
			t.Errorf("%s: problems %q", step.name, n.refused)
		}
	}
	n.refused["node2"] = "x"
	if n.sync(&gossip.State{}); len(n.refused) > 0 || l.peers != 0 {
		t.Errorf("after the node has gone: problems %q, %d peers", n.refused, l.peers)
	}
}

// TestNodeAddresses: what a node may have as its address is of the cluster,
// whether the node is up, down or not heard of yet, and a further address is
// used only where nobody has a better right to it.
func TestNodeAddresses(t *testing.T) {
	sw, err := vswitch.New(vswitch.Config{Workers: 1, MaxFlows: 1024})
	if err != nil {
		t.Fatal(err)
	}
	defer sw.Close()
	cfg := Default()
	cfg.Name, cfg.Addresses, cfg.NodeCIDRs = "node1", addrs("172.29.0.1"), prefixes("172.29.0.0/16", "fd00:10:29::/64")
	cfg.Services.CIDRs = prefixes("10.96.0.0/16")
	n := &Node{cfg: cfg, sw: sw, link: &pickyLink{}, log: slog.New(slog.DiscardHandler), peers: map[string]*peer{}, refused: map[string]string{},
		services: NewServices(cfg.Services, "node1", "")}
	n.setSelf()
	node := func(name string, state gossip.NodeState, addresses, extra []netip.Addr) gossip.Node {
		return gossip.Node{Name: name, State: state, Facts: gossip.Facts{Underlay: netip.MustParseAddrPort("127.0.0.2:8472"),
			Addresses: addresses, ExtraAddresses: extra}}
	}
	inCluster := func(a string) bool {
		b := packet.AddrFrom(netip.MustParseAddr(a))
		return sw.Tables().Cluster.Lookup(&b) != nil
	}
	routed := func(a string) string {
		b := packet.AddrFrom(netip.MustParseAddr(a))
		if hop := sw.Tables().Routes.Lookup(&b); hop != nil {
			return hop.Name
		}
		return ""
	}
	for a, want := range map[string]bool{"172.29.9.9": true, "fd00:10:29::9": true, "10.244.9.9": true, "10.96.0.9": true, "192.0.2.2": false, "203.0.113.1": false} {
		if inCluster(a) != want {
			t.Errorf("%s is of the cluster: %v, want %v", a, !want, want)
		}
	}
	two, extra := addrs("192.0.2.2"), addrs("198.51.100.2", "172.29.0.1", "10.244.1.5", "10.96.0.9", "192.0.2.3")
	three := node("node3", gossip.Alive, addrs("192.0.2.3"), nil)
	n.sync(&gossip.State{Nodes: []gossip.Node{three}})
	n.sync(&gossip.State{Nodes: []gossip.Node{node("node2", gossip.Alive, two, extra), three}})
	for a, want := range map[string]string{"192.0.2.2": "node2", "198.51.100.2": "node2", "172.29.0.1": "node1", "10.244.1.5": "", "10.96.0.9": "", "192.0.2.3": "node3"} {
		if got := routed(a); got != want {
			t.Errorf("%s leads to %q, want %q", a, got, want)
		}
	}
	n.sync(&gossip.State{Nodes: []gossip.Node{node("node2", gossip.Failed, two, extra), three}})
	if !inCluster("192.0.2.2") || !inCluster("198.51.100.2") || routed("192.0.2.2") != "" {
		t.Error("the addresses of a node that failed are for anybody")
	}
	n.sync(&gossip.State{Nodes: []gossip.Node{three}})
	if inCluster("192.0.2.2") {
		t.Error("the address of a node that is forgotten is still kept for it")
	}
}

// TestAnnounced: others are told of so many further addresses, and of each once.
func TestAnnounced(t *testing.T) {
	c := Default()
	c.Addresses = addrs("172.29.0.1")
	c.ExtraAddresses = addrs("192.0.2.1", "172.29.0.1", "192.0.2.1", "192.0.2.2")
	if got, untold := c.announced(); !slices.Equal(got, addrs("192.0.2.1", "192.0.2.2")) || untold != 0 {
		t.Errorf("announces %v, not %d", got, untold)
	}
	for i := range byte(gossip.MaxExtraAddresses) {
		c.ExtraAddresses = append(c.ExtraAddresses, netip.AddrFrom4([4]byte{198, 51, 100, i}))
	}
	if got, untold := c.announced(); len(got) != gossip.MaxExtraAddresses || untold != 2 {
		t.Errorf("announces %v, not %d", got, untold)
	}
}
