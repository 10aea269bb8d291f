package fabric

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/kube"
	"vswitch/vswitch/kube/kubetest"
	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// conntrackEntry is a connection to a service, and whether kube-proxy forgets it
// when it sees which endpoints there are.
type conntrackEntry struct {
	Deleted      bool
	Proto        string
	OrigDst      string // empty: the node's own address
	OrigDstPort  uint16
	ReplySrc     string // who answers
	ReplySrcPort uint16
}

// TestCasesConntrack: a connection stays with its endpoint where kube-proxy keeps
// it, and moves where kube-proxy forgets it. Where its endpoint is ready, though it
// does not serve, docs/compat.md says that it stays.
func TestCasesConntrack(t *testing.T) {
	var file struct {
		ConntrackCleanup struct {
			Service       map[string]any
			EndpointSlice json.RawMessage
			Entries       []conntrackEntry
		}
	}
	kubetest.Cases(t, "kubeproxy-flows.json", &file)
	c := &file.ConntrackCleanup
	c.Service["spec"].(map[string]any)["type"] = "LoadBalancer" // it has what only these may have
	service, err := json.Marshal(c.Service)
	must(t, err)
	o, _, err := kube.Parse("cases.yaml", fmt.Appendf(nil, "%s\n---\n%s\n", service, c.EndpointSlice))
	must(t, err)
	ends := map[string]bool{"10.240.0.9": true} // the client
	for _, e := range c.Entries {
		if e.ReplySrcPort != 0 {
			ends[e.ReplySrc] = true
		}
	}
	w := newCasesWorld(t, slices.Sorted(maps.Keys(ends)))
	stayed, moved, explained := 0, 0, 0
	for i, e := range c.Entries {
		switch got := w.conntrack(o, &e, uint16(1000+i)); {
		case e.Proto == "SCTP" || e.Proto == "UDP" && e.OrigDst != "" && e.OrigDstPort != o.Services[0].Ports[0].Port:
			// Segments of SCTP are not made here; datagrams to a port of no service are
			// nobody's that a service could have translated (TestB03ServiceDeleted).
		case e.Deleted == (got != e.ReplySrc):
			stayed, moved = stayed+count(!e.Deleted), moved+count(e.Deleted)
		case e.Deleted && readyOnly(o.EndpointSlices[0], e.ReplySrc):
			explained++
		default:
			t.Errorf("%+v: went to %s", e, got)
		}
	}
	t.Logf("%d connections stayed, %d moved; explained: %d", stayed, moved, explained)
	if stayed == 0 || moved == 0 {
		t.Error("nothing was compared")
	}
}

func count(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// readyOnly reports whether the endpoint is ready and does not serve.
func readyOnly(sl *cluster.EndpointSlice, addr string) bool {
	return slices.ContainsFunc(sl.Endpoints, func(e cluster.Endpoint) bool {
		return e.Addresses[0].String() == addr && e.Ready && !e.Serving
	})
}

// newCasesWorld makes a world of one node with a pod at each address, called by it.
func newCasesWorld(t *testing.T, addrs []string) *world {
	t.Helper()
	w := &world{T: t, now: time.Hour, ends: map[string]*port.PipeEnd{}, pods: map[string]*Pod{}, batch: packet.NewBatch()}
	var o cluster.Objects
	o.Nodes = []*cluster.Node{{Meta: cluster.Meta{Name: "n1"}, Addresses: []netip.Addr{netip.MustParseAddr("192.168.0.2")}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.240.0.0/16")}}}
	for _, a := range addrs {
		o.Pods = append(o.Pods, &cluster.Pod{
			Meta: cluster.Meta{Namespace: "x", Name: strings.ReplaceAll(a, ".", "-")}, Node: "n1", Phase: cluster.PodRunning, Ready: true,
			IPs: []netip.Addr{netip.MustParseAddr(a)},
		})
	}
	w.state = o.State()
	var err error
	w.f, err = FromState(w.state, Config{Inline: true, Clock: func() time.Duration { return w.now },
		Services: agent.ServiceConfig{CIDRs: []netip.Prefix{netip.MustParsePrefix("172.30.0.0/16")}}})
	must(t, err)
	t.Cleanup(w.f.Close)
	for _, p := range w.f.Pods {
		name := p.IPs[0].Addr().String()
		w.pods[name], w.ends[name] = p, p.End
	}
	return w
}

// follow makes the world's services and slices these.
func (w *world) follow(services []*cluster.Service, endpoints []*cluster.EndpointSlice) {
	next := *w.state
	empty := cluster.State{}
	next.Services, next.EndpointSlices = empty.Services, empty.EndpointSlices
	for _, v := range services {
		next.Services = next.Services.With(v.Key(), v)
	}
	for _, v := range endpoints {
		next.EndpointSlices = next.EndpointSlices.With(v.Key(), v)
	}
	w.f.Follow(w.state.Diff(&next))
	w.state = &next
}

// conntrack makes the connection of an entry, when its endpoint is the only one of
// the service, and says who gets its next packet when the service is as in o.
func (w *world) conntrack(o *cluster.Objects, e *conntrackEntry, from uint16) (got string) {
	w.Helper()
	dst := netip.AddrPortFrom(w.state.Node("n1").Addresses[0], e.OrigDstPort)
	if e.OrigDst != "" {
		dst = netip.AddrPortFrom(netip.MustParseAddr(e.OrigDst), e.OrigDstPort)
	}
	ask := seg{src: netip.MustParseAddrPort(fmt.Sprint("10.240.0.9:", from)), dst: dst, udp: e.Proto == "UDP", flags: "S", payload: []byte("?")}
	if e.ReplySrcPort == 0 { // nobody translated it
		w.follow(nil, nil)
		w.send("10.240.0.9", ask)
		w.all()
	} else {
		before, sl := *o.Services[0], *o.EndpointSlices[0]
		before.Ports = slices.Clone(before.Ports)
		sl.Ports = slices.Clone(sl.Ports)
		for i := range before.Ports {
			if e.OrigDst == "" {
				before.Ports[i].NodePort = e.OrigDstPort
			} else {
				before.Ports[i].Port = e.OrigDstPort
			}
			sl.Ports[i].Port = e.ReplySrcPort
		}
		sl.Endpoints = []cluster.Endpoint{{Addresses: []netip.Addr{netip.MustParseAddr(e.ReplySrc)}, Ready: true, Serving: true, Node: "n1"}}
		w.follow([]*cluster.Service{&before}, []*cluster.EndpointSlice{&sl})
		w.send("10.240.0.9", ask)
		_, first := w.one(e.ReplySrc)
		w.send(e.ReplySrc, first.reverse("SA"))
		w.one("10.240.0.9")
		ask.flags = "A"
	}
	w.follow(o.Services, o.EndpointSlices)
	w.send("10.240.0.9", ask)
	for name, list := range w.all() {
		if name != "10.240.0.9" && len(list) == 1 && (name != e.ReplySrc || list[0].dst.Port() == e.ReplySrcPort) {
			return name
		}
	}
	return ""
}
