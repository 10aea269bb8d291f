package agent

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"vswitch/overlay/gossip"
	"vswitch/vswitch"
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
