package vswitch

import (
	"sync"
	"sync/atomic"
	"time"

	"vswitch/policy"
	"vswitch/vswitch/packet"
)

// Event is what became of a packet that was worth a thought: of the first one of
// a connection, or of one that died.
type Event struct {
	At   time.Duration // of the switch's clock
	Port string        // that it came in by
	Peer string        // the node that it came from; empty: from the port itself
	// Came is its tuple as it came in, To as it goes on; To is zero if it does not.
	Came, To packet.Tuple
	TCPFlags uint8
	// Reason is Forwarded, or why it died.
	Reason Reason
	// Out is the port that it leaves by.
	Out string

	said policy.Verdict
}

// Policy names the policy and rule that let the packet pass, or that it died of;
// empty where none had a say.
func (e *Event) Policy() string {
	if e.judged() {
		return e.said.Policy()
	}
	return ""
}

// Why says in a sentence how policy came to its verdict, or why it has to wait for
// one; empty if it had none.
func (e *Event) Why() string {
	if e.judged() && e.said.Policy() != "" || e.Reason == Starting && e.said.Pending {
		return e.said.Why()
	}
	return ""
}

// judged reports whether what became of the packet may go back to policy.
func (e *Event) judged() bool {
	return e.Reason == Forwarded || e.Reason == PolicyEgress || e.Reason == PolicyIngress
}

// Events come at most at this rate from each worker, after a burst.
const (
	eventRate  = 1000 // a second
	eventBurst = 2000
)

// Observer delivers events. It costs nothing while there is none.
type Observer struct {
	// C delivers what happens.
	C <-chan Event
	// Suppressed counts events that were not delivered: they came too fast, or C
	// was full.
	Suppressed atomic.Uint64

	c      chan Event
	wanted func(Reason) bool
	from   *observers
}

// observers are those who watch.
type observers struct {
	mu     sync.Mutex
	active atomic.Pointer[[]*Observer] // nil when there are none
}

// Observe starts to deliver events whose reason is wanted; a nil function wants
// all. The function is called by workers. Close ends it.
func (s *Switch) Observe(wanted func(Reason) bool) *Observer {
	o := &Observer{c: make(chan Event, eventBurst), wanted: wanted, from: &s.observers}
	o.C = o.c
	o.from.change(func(list []*Observer) []*Observer { return append(list, o) })
	return o
}

// Close ends the observation. C is not closed; nothing comes any more.
func (o *Observer) Close() {
	o.from.change(func(list []*Observer) (rest []*Observer) {
		for _, other := range list {
			if other != o {
				rest = append(rest, other)
			}
		}
		return rest
	})
}

func (os *observers) change(f func([]*Observer) []*Observer) {
	os.mu.Lock()
	defer os.mu.Unlock()
	var old []*Observer
	if p := os.active.Load(); p != nil {
		old = append(old, *p...)
	}
	if next := f(old); len(next) > 0 {
		os.active.Store(&next)
	} else {
		os.active.Store(nil)
	}
}

// observe tells those who watch what became of a packet: it goes on as to, or
// died for r.
func (w *worker) observe(p *packet.Packet, to *packet.Tuple, r Reason) {
	list := w.sw.observers.active.Load()
	if list == nil {
		return
	}
	var e *Event
	for _, o := range *list {
		if o.wanted != nil && !o.wanted(r) {
			continue
		}
		if e == nil {
			if !w.events.take(w.now) {
				o.Suppressed.Add(1)
				continue
			}
			e = w.event(p, to, r)
		}
		select {
		case o.c <- *e:
		default:
			o.Suppressed.Add(1)
		}
	}
}

func (w *worker) event(p *packet.Packet, to *packet.Tuple, r Reason) *Event {
	e := &Event{At: w.now, Came: p.Tuple.Flow(), TCPFlags: p.TCPFlags, Reason: r, said: w.said}
	if a := w.sw.port(w.from); a != nil {
		e.Port = a.name
	}
	if peer := w.tables.Peer(p.In); peer != nil {
		e.Peer = peer.Name
	}
	if to != nil {
		e.To = *to
		if a := w.sw.port(p.Out); a != nil {
			e.Out = a.name
		}
	}
	return e
}
