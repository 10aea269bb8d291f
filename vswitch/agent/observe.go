package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"vswitch/nat"
	"vswitch/vswitch"
	"vswitch/vswitch/packet"
)

// Event is what became of the first packet of a connection, or of a packet that
// died. It is of the node that says it: a connection to another node begins on
// both.
type Event struct {
	Time time.Time `json:"time,omitzero"`
	Node string    `json:"node"`
	// Suppressed are events that came too fast to be told, since the last one
	// that was. There may be nothing else to tell.
	Suppressed uint64 `json:"suppressed,omitempty"`

	Verdict EventVerdict `json:"verdict,omitempty"`
	// Reason is a stable word (vswitch.Reason), empty if it was forwarded.
	Reason string `json:"reason,omitempty"`
	// Policy is the policy and rule that let it pass, or that it died of, and Why how
	// that came to be; empty where none had a say. Policies that isolate a pod, and of
	// which none let it pass, are all named, up to eight of them: "NetworkPolicy x/a,
	// NetworkPolicy x/b".
	Policy string `json:"policy,omitempty"`
	Why    string `json:"why,omitempty"`
	Proto  string `json:"proto,omitempty"`
	// Source and Destination are those of the packet as it came; ports are zero
	// for protocols without. Backend is where it goes instead of Destination,
	// and Masqueraded what its Source becomes.
	Source      netip.AddrPort `json:"source,omitzero"`
	Destination netip.AddrPort `json:"destination,omitzero"`
	Backend     netip.AddrPort `json:"backend,omitzero"`
	Masqueraded netip.AddrPort `json:"masqueraded,omitzero"`
	// From is the pod or node that sent it, To the one that it is for in the end,
	// where they are known.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
	// Service is the one whose address Destination is, "shop/web:http".
	Service  string `json:"service,omitempty"`
	TCPFlags string `json:"tcpFlags,omitempty"` // as tcpdump writes them
	// In and Out are the ports that it came in and leaves by; Peer is the node
	// that it came from.
	In   string `json:"in,omitempty"`
	Out  string `json:"out,omitempty"`
	Peer string `json:"peer,omitempty"`
}

// EventVerdict is what became of a packet, in a word.
type EventVerdict string

// Verdicts of events.
const (
	EventForwarded EventVerdict = "forwarded"
	EventDropped   EventVerdict = "dropped"  // it died in silence
	EventRejected  EventVerdict = "rejected" // it died, and the sender was told
)

func verdictOf(r vswitch.Reason) EventVerdict {
	switch {
	case r == vswitch.Forwarded:
		return EventForwarded
	case r.Rejected():
		return EventRejected
	}
	return EventDropped
}

// EventFilter says which events are wanted: those that have one of the Verdicts
// and one of the Reasons. Empty: all.
type EventFilter struct {
	Verdicts []EventVerdict
	Reasons  []string
}

// Check says what is wrong with the filter, as an error that wraps ErrBadRequest.
func (f *EventFilter) Check() error {
	for _, v := range f.Verdicts {
		if v != EventForwarded && v != EventDropped && v != EventRejected {
			return fmt.Errorf("%w: verdict %q: use forwarded, dropped or rejected", ErrBadRequest, v)
		}
	}
	for _, r := range f.Reasons {
		if !slices.ContainsFunc(vswitch.Reasons(), func(known vswitch.Reason) bool { return known.String() == r }) {
			return fmt.Errorf("%w: there is no reason %q", ErrBadRequest, r)
		}
	}
	return nil
}

// wants returns the function that Switch.Observe takes. It costs a look into a
// table.
func (f *EventFilter) wants() func(vswitch.Reason) bool {
	if len(f.Verdicts) == 0 && len(f.Reasons) == 0 {
		return nil
	}
	var wanted [256]bool
	for _, r := range append(vswitch.Reasons(), vswitch.Forwarded) {
		wanted[r] = (len(f.Verdicts) == 0 || slices.Contains(f.Verdicts, verdictOf(r))) &&
			(len(f.Reasons) == 0 || slices.Contains(f.Reasons, r.String()))
	}
	return func(r vswitch.Reason) bool { return wanted[r] }
}

// Observe calls see for every event of a switch that is wanted, until ctx ends.
// It returns once it watches, and done is closed when see will not be called any
// more. name tells who has an address.
func Observe(ctx context.Context, sw *vswitch.Switch, node string, f EventFilter, name func(netip.Addr) string, see func(Event)) (done <-chan struct{}) {
	o := sw.Observe(f.wants())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer o.Close()
		observe(ctx, sw, o, node, name, see)
	}()
	return ended
}

func observe(ctx context.Context, sw *vswitch.Switch, o *vswitch.Observer, node string, name func(netip.Addr) string, see func(Event)) {
	// What was suppressed is told though nothing else comes.
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var told uint64
	suppressed := func() uint64 {
		n := o.Suppressed.Load() - told
		told += n
		return n
	}
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-o.C:
			out := eventOf(sw, node, &e, name)
			out.Suppressed = suppressed()
			see(out)
		case <-tick.C:
			if n := suppressed(); n > 0 {
				see(Event{Time: time.Now(), Node: node, Suppressed: n})
			}
		}
	}
}

// eventOf puts an event into words.
func eventOf(sw *vswitch.Switch, node string, e *vswitch.Event, name func(netip.Addr) string) Event {
	out := Event{
		Time: time.Now().Add(e.At - sw.Now()), Node: node, Verdict: verdictOf(e.Reason), Reason: e.Reason.String(),
		Policy: e.Policy(), Why: e.Why(), In: e.Port, Out: e.Out, Peer: e.Peer,
	}
	if e.Came == (packet.Tuple{}) { // it could not be read
		out.From = podOf(e.Port)
		return out
	}
	ends := func(t *packet.Tuple) (src, dst netip.AddrPort) {
		switch t.Proto {
		case packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP:
			return netip.AddrPortFrom(t.Src.Netip(), t.SrcPort), netip.AddrPortFrom(t.Dst.Netip(), t.DstPort)
		}
		return netip.AddrPortFrom(t.Src.Netip(), 0), netip.AddrPortFrom(t.Dst.Netip(), 0)
	}
	out.Proto = packet.ProtoName(e.Came.Proto)
	out.Source, out.Destination = ends(&e.Came)
	if e.Came.Proto == packet.ProtoTCP {
		out.TCPFlags = tcpFlags(e.TCPFlags)
	}
	to := out.Destination
	if e.To != (packet.Tuple{}) {
		src, dst := ends(&e.To)
		if dst != out.Destination {
			to, out.Backend = dst, dst
		}
		if src != out.Source {
			out.Masqueraded = src
		}
	}
	if front, match := sw.Tables().Services.Lookup(&e.Came, true); match == nat.Matched {
		out.Service = front.Service.Name
	}
	out.From, out.To = name(out.Source.Addr()), name(to.Addr())
	if pod := podOf(e.Port); pod != "" {
		out.From = pod // whatever it says that it is
	}
	return out
}

// podOf is the pod whose port it is; empty if it is none's.
func podOf(port string) string {
	if strings.Contains(port, "/") {
		return port
	}
	return ""
}

// events streams events as JSON lines until the client hangs up.
func (n *Node) events(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	f := EventFilter{Reasons: q["reason"]}
	for _, v := range q["verdict"] {
		f.Verdicts = append(f.Verdicts, EventVerdict(v))
	}
	if err := f.Check(); err != nil {
		answer(w, nil, err)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.Header().Set("Content-Type", "application/x-ndjson")
	rc := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	names := &addressNames{node: n}
	done := Observe(ctx, n.sw, n.cfg.Name, f, names.of, func(e Event) {
		if enc.Encode(e) != nil || rc.Flush() != nil {
			cancel()
		}
	})
	// A client waits for the head of the answer.
	if rc.Flush() != nil {
		cancel()
	}
	<-done
}

// addressNames are the pods and nodes that have addresses, as the node knows
// them now and then. It is used by one goroutine.
type addressNames struct {
	node  *Node
	names map[netip.Addr]string
	at    time.Time
}

// namesAge is how old the names may be: pods that are new have none until then.
const namesAge = 500 * time.Millisecond

func (a *addressNames) of(addr netip.Addr) string {
	if time.Since(a.at) > namesAge {
		a.names, a.at = a.node.names(), time.Now()
	}
	return a.names[addr]
}

// names returns who has which address: "shop/web-1", or the name of a node.
func (n *Node) names() map[netip.Addr]string {
	names := map[netip.Addr]string{}
	for _, p := range n.Pods() {
		for _, ip := range p.IPs {
			names[ip] = p.Namespace + "/" + p.Name
		}
	}
	for _, node := range n.Nodes() {
		for _, ip := range node.Addresses {
			names[ip] = node.Name
		}
	}
	return names
}
