// Package trace explains what becomes of a packet on its way through a cluster.
// It knows who sends it and where to, asks the sender's node, then the node to
// which that one passes the packet on, and so forth, and puts the answers
// together. It decides nothing itself: every answer comes from the code that
// forwards (vswitch.Switch.Trace), of running nodes or of a fabric that was
// made from manifests, and what one node is asked about is what the last one
// would have sent.
//
// The words of a Result and its JSON form are fixed: scripts rely on them.
package trace

import (
	"context"
	"encoding/json"
	"net/netip"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/packet"
)

// Probe is a packet to explain, in the words of a person.
type Probe struct {
	// ID is given back in the Result, whatever JSON it is.
	ID json.RawMessage `json:"id"`
	// From is NAMESPACE/POD, node/NAME, outside, or an IP: whoever has it.
	From string `json:"from"`
	// To is NAMESPACE/POD:PORT, svc/NAMESPACE/NAME:PORT, IP:PORT or [IP6]:PORT.
	To string `json:"to"`
	// Proto is tcp, udp, sctp or icmp; empty is tcp. ICMP has no ports.
	Proto string `json:"proto"`
	// At is the node where a client outside enters; empty is the one that has the
	// address of To, for itself or for its pods, else the first by name.
	At string `json:"at"`
	// Size of the IP packet in bytes; 0 is the smallest.
	Size int `json:"-"`
	// SourcePort is what it is sent from, where the protocol has ports; 0 is one
	// that no service has. Which endpoint of several a service chooses depends
	// on it.
	SourcePort uint16 `json:"-"`
	// Family is that of the addresses; the zero value is the first in which both
	// ends have one.
	Family Family `json:"-"`
}

// Family is a family of addresses.
type Family string

// Families.
const (
	IPv4 Family = "IPv4"
	IPv6 Family = "IPv6"
)

func familyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Result is what became of a Probe's packet.
type Result struct {
	ID      json.RawMessage `json:"id"`
	Verdict Verdict         `json:"verdict"`
	// Reason is a stable word (vswitch.Reason); empty when it was delivered.
	Reason string `json:"reason"`
	// Policy is what decided, when a policy did.
	Policy string `json:"policy"`
	// Backends are all endpoints that the service could have chosen, in order.
	Backends []string `json:"backends"`
	// Destination and Source are those that the packet arrived or died with.
	Destination string `json:"destination"`
	Source      string `json:"source"`
	// SNAT is set when the source is not the one that the packet was sent with.
	SNAT bool  `json:"snat"`
	Hops []Hop `json:"hops"`
}

// Verdict is the end of a packet's way.
type Verdict string

// Verdicts.
const (
	Delivered Verdict = "delivered"
	// Dropped packets die in silence, of Rejected ones the sender is told.
	Dropped  Verdict = "dropped"
	Rejected Verdict = "rejected"
)

// Hop is one thing that a node found or did.
type Hop struct {
	Node  string `json:"node"`
	Stage string `json:"stage"`
	Did   string `json:"did"`
}

// Nodes asks a node of the cluster what would become of a packet.
// fabric.Fabric is one.
type Nodes interface {
	Trace(ctx context.Context, node string, r agent.TraceRequest) (agent.TraceResult, error)
}

// Check says what is wrong with p, an *InputError, without tracing it.
func (c *Cluster) Check(p Probe) error {
	_, _, err := c.resolve(p)
	return err
}

// Families are those in which both ends of p have addresses, first the one that a
// Probe without a Family is of. An *InputError says what is wrong with p.
func (c *Cluster) Families(p Probe) (list []Family, err error) {
	p.Family = ""
	_, r, err := c.resolve(p)
	if err != nil {
		return nil, err
	}
	list = []Family{familyOf(r.Source.Addr())}
	for _, p.Family = range []Family{IPv4, IPv6} {
		if _, _, err := c.resolve(p); err == nil && p.Family != list[0] {
			list = append(list, p.Family)
		}
	}
	return list, nil
}

// Trace explains a packet. An *InputError says what is wrong with p; other
// errors are those of Nodes.
func (c *Cluster) Trace(ctx context.Context, p Probe) (*Result, error) {
	node, req, err := c.resolve(p)
	if err != nil {
		return nil, err
	}
	r := &Result{ID: p.ID, Backends: []string{}, Hops: []Hop{}}
	if r.ID == nil {
		r.ID = json.RawMessage(`""`)
	}
	proto, source := req.Proto, req.Source.Addr()
	for { // every hop costs the packet some of its TTL, so there is an end
		res, err := c.nodes.Trace(ctx, node, req)
		if err != nil {
			return nil, err
		}
		for _, s := range res.Steps {
			r.Hops = append(r.Hops, Hop{res.Node, s.Stage, s.Did})
		}
		if res.Policy != "" {
			r.Policy = res.Policy
		}
		r.Source = res.Source.Addr().String()
		r.SNAT = r.SNAT || res.SNAT || res.Source.Addr() != source
		if len(r.Backends) == 0 { // the node where the client comes in chooses from all
			for _, b := range res.Backends {
				r.Backends = append(r.Backends, b.String())
			}
		}
		r.Destination = endpoint(res.Destination, proto)
		switch {
		case res.Reason == "" && res.NextNode != "":
			req = agent.TraceRequest{Sender: agent.SenderPeer, Name: node, Frame: res.Frame}
			node = res.NextNode
			continue
		case res.Reason == "":
			r.Verdict = Delivered
		case res.Rejected:
			r.Verdict, r.Reason = Rejected, res.Reason
		default:
			r.Verdict, r.Reason = Dropped, res.Reason
		}
		return r, nil
	}
}

// endpoint writes a destination, without a port where the protocol has none.
func endpoint(a netip.AddrPort, proto uint8) string {
	if proto == packet.ProtoICMP {
		return a.Addr().String()
	}
	return a.String()
}
