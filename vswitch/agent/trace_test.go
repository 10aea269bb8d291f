package agent

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"vswitch/vswitch"
	"vswitch/vswitch/packet"
)

// TestTracer asks a node that knows one pod and one other node.
func TestTracer(t *testing.T) {
	sw, err := vswitch.New(vswitch.Config{Inline: true, MaxFlows: 64})
	if err != nil {
		t.Fatal(err)
	}
	defer sw.Close()
	sw.Publish(compiled().Publish())
	node := Tracer{Switch: sw, PodCIDRs: testSelf.PodCIDRs}
	at := netip.MustParseAddrPort
	for _, c := range []struct {
		name string
		r    TraceRequest
		want string // what the last step did and where it goes next, or an error
	}{
		{"pod to node", TraceRequest{Sender: SenderPod, Name: "shop/web", Source: at("10.244.1.2:1"), Destination: at("10.244.2.9:80")}, "the first packet of a connection, to node2"},
		{"of IPv6", TraceRequest{Sender: SenderPod, Name: "shop/web", Source: at("[fd00:10:244:1::2]:1"), Destination: at("[fd00:10:244:1::1]:80")}, "fd00:10:244:1::1 is node1 itself"},
		{"neighbor to pod", TraceRequest{Sender: SenderPod, Source: at("10.244.1.77:1"), Destination: at("10.244.1.2:80")}, "the first packet of a connection, at shop/web"},
		{"node to pod", TraceRequest{Sender: SenderNode, Source: at("172.29.0.1:1"), Destination: at("10.244.1.2:80")}, "the first packet of a connection, at shop/web"},
		{"outside to nobody", TraceRequest{Sender: SenderOutside, Source: at("192.0.2.1:1"), Destination: at("10.244.1.99:80")}, "nobody has 10.244.1.99 (no-route, told)"},
		{"outside as a service", TraceRequest{Sender: SenderOutside, Source: at("10.96.0.1:1"), Destination: at("10.244.1.2:80")}, "10.96.0.1 belongs to the cluster, and came from outside (spoofed)"},
		{"pod as another", TraceRequest{Sender: SenderPod, Name: "shop/web", Source: at("10.244.1.3:1"), Destination: at("10.244.2.9:80")}, "shop/web does not own 10.244.1.3 (spoofed)"},
		{"peer with nothing", TraceRequest{Sender: SenderPeer, Name: "node2"}, " (malformed)"},

		{"no such pod", TraceRequest{Sender: SenderPod, Name: "shop/db", Source: at("10.244.1.3:1"), Destination: at("10.244.2.9:80")}, "bad request: no pod shop/db on node node1"},
		{"no such peer", TraceRequest{Sender: SenderPeer, Name: "node3"}, "bad request: node node3 is not a peer of node1"},
		{"no sender", TraceRequest{Source: at("10.244.1.3:1"), Destination: at("10.244.2.9:80")}, `bad request: sender ""`},
		{"two families", TraceRequest{Sender: SenderNode, Source: at("10.244.1.3:1"), Destination: at("[::1]:80")}, "bad request: source 10.244.1.3 and destination ::1"},
		{"no addresses", TraceRequest{Sender: SenderNode}, "bad request: source"},
		{"too large", TraceRequest{Sender: SenderNode, Source: at("172.29.0.1:1"), Destination: at("10.244.1.2:80"), Size: 65536}, "bad request: size 65536"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.r.Proto = packet.ProtoTCP
			res, err := node.Trace(c.r)
			if err != nil {
				if !errors.Is(err, ErrBadRequest) || !strings.HasPrefix(err.Error(), c.want) {
					t.Errorf("error %v, want %q", err, c.want)
				}
				return
			}
			var got string
			if n := len(res.Steps); n > 0 {
				got = res.Steps[n-1].Did
			}
			switch {
			case res.Rejected:
				got += " (" + res.Reason + ", told)"
			case res.Reason != "":
				got += " (" + res.Reason + ")"
			case res.NextNode != "":
				got += ", to " + res.NextNode
			case res.Pod != "":
				got += ", at " + res.Pod
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if (res.NextNode != "") != (res.Frame != nil) {
				t.Errorf("next node %q, and %d bytes go on", res.NextNode, len(res.Frame))
			}
		})
	}
}
