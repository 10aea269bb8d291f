package lab

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
)

// TestReadyMeansReached: when a node is called ready again after the others gave
// it up, the first packet to one of its pods passes, and so does one from it.
func TestReadyMeansReached(t *testing.T) {
	t.Setenv(realNodes, "1")
	o := options(newTestPod("a"), newTestPod("b"))
	o.Nodes = 2
	for i, p := range o.Objects.Pods {
		p.Node = fmt.Sprintf("node%d", i+1)
		p.Containers[0].Ports = []cluster.ContainerPort{{Port: 80, Protocol: 6}}
	}
	c := start(t, o)
	ask := func(from, to string) {
		t.Helper()
		url := "http://" + netip.AddrPortFrom(getPod(t, c, to).IPs[0], 80).String() + "/"
		got, code := run(t, c, ExecRequest{Pod: from, Command: []string{"curl", "-sS", "-m", "20", url}}, "")
		if want := fmt.Sprintf("shop/%s on ", to); !strings.HasPrefix(got, want) || code != 0 {
			t.Errorf("%s asks %s: %q, exit code %d", from, to, got, code)
		}
	}
	for range 4 {
		if err := c.StopNode(t.Context(), "node2"); err != nil {
			t.Fatal(err)
		}
		givenUp(t, c, "node1")
		if err := c.StartNode(t.Context(), "node2"); err != nil {
			t.Fatal(err)
		}
		waitReady(t, c)
		ask("a", "b")
		ask("b", "a")
	}
}

// givenUp waits until a node takes all others for dead.
func givenUp(t *testing.T, c *Client, node string) {
	t.Helper()
	a, err := c.Agent(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	eventually(t, func() string {
		if s, err := a.Status(t.Context()); err != nil || len(s.Reached) > 0 {
			return fmt.Sprintf("%s still reaches %v, error %v", node, s.Reached, err)
		}
		return ""
	})
}

// TestMissing: what a node lacks until it is called ready.
func TestMissing(t *testing.T) {
	r1, r2 := netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("10.244.2.0/24")
	node1 := func(reached map[string]agent.Reached) says {
		return says{node: &node{name: "node1"}, restored: true, Status: agent.Status{Life: "1", PodCIDRs: []netip.Prefix{r1}, Reached: reached}}
	}
	node2 := func(reached map[string]agent.Reached) says {
		return says{node: &node{name: "node2"}, restored: true, Status: agent.Status{Life: "2", PodCIDRs: []netip.Prefix{r2}, Reached: reached}}
	}
	one := func(name, life string, ranges ...netip.Prefix) map[string]agent.Reached {
		return map[string]agent.Reached{name: {Life: life, PodCIDRs: ranges}}
	}
	lost := node1(nil)
	lost.restored = false
	for _, tc := range []struct {
		name string
		all  []says
		want string
	}{
		{"alone", []says{node1(nil)}, ""},
		{"without its pods", []says{lost}, "its pods are not attached again yet"},
		{"both", []says{node1(one("node2", "2", r2)), node2(one("node1", "1", r1, r2))}, ""},
		{"knows nobody", []says{node1(nil), node2(one("node1", "1", r1))}, "it does not reach node node2 yet"},
		{"is not known", []says{node1(one("node2", "2", r2)), node2(nil)}, "node node2 does not reach it yet"},
		{"is known as it was", []says{node1(one("node2", "2", r2)), node2(one("node1", "0", r1))}, "node node2 does not reach it yet"},
		{"is known without its range", []says{node1(one("node2", "2", r2)), node2(one("node1", "1"))}, "node node2 does not reach it yet"},
	} {
		if got := tc.all[0].missing(tc.all); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}
