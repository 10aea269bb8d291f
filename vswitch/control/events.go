package control

import (
	"cmp"
	"container/list"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"vswitch/vswitch/cluster"
)

// Bounds of Events. Kubernetes forgets an event an hour after it was last seen
// (--event-ttl of kube-apiserver), and does not count them.
const (
	eventTTL = time.Hour
	// maxEvents and maxEventsIn are how many there are at most of a type, in all
	// and in one namespace. Those that were seen longest ago go first. Normal
	// ones thus push no warning out.
	maxEvents, maxEventsIn = 10000, 1000
	// An object of which there were so many events with one reason, but different
	// messages, with at most so much time in between, has one for all further
	// ones (EventAggregator in k8s.io/client-go/tools/record).
	maxMessages, similarWithin = 10, 10 * time.Minute
	// maxMessage is what is kept of a message, bytes (NoteLengthLimit in
	// pkg/apis/core/validation/events.go).
	maxMessage = 1024
)

// Events are what happened to objects of late, for people to read. They are in
// memory only, and nothing is decided by them. They are beside the State, not in
// it: else each would wake all who watch it, and be a revision that nodes are
// waited for. The methods are safe for concurrent use.
type Events struct {
	clock func() time.Time // in whole seconds
	began uint64           // Unix time in ns: makes names others than those of earlier Events

	mu       sync.Mutex // guards what follows
	revision uint64     // counts changes
	known    map[eventKey]*remembered
	similar  map[eventKey]*similar      // by key without message
	lists    map[eventList]*list.List   // of *remembered, those seen longest ago first
	waiting  map[chan struct{}]struct{} // closed by the next change
}

// eventKey is what makes two events the same one.
type eventKey struct {
	object                  cluster.Ref
	uid, part, node, reason string
	warning                 bool
	message                 string
}

// similar are the events that differ by their message only.
type similar struct {
	events   int      // remembered
	messages []string // different ones
	last     time.Time
}

// eventList names a list: the events of a type in a namespace, or without one,
// in all.
type eventList struct {
	namespace string
	warning   bool
}

// remembered is an event and where it stands in its lists.
type remembered struct {
	*cluster.Event // never changes; another one takes its place
	key            eventKey
	in             [2]eventList
	at             [2]*list.Element
}

func newEvents(clock func() time.Time) *Events {
	return &Events{clock: clock, began: uint64(time.Now().UnixNano()), known: map[eventKey]*remembered{}, similar: map[eventKey]*similar{},
		lists: map[eventList]*list.List{}, waiting: map[chan struct{}]struct{}{}}
}

// EventList is all events at a revision, which counts changes of events and is
// no State's. They are in the order in which they were last seen.
type EventList struct {
	Revision uint64           `json:"revision"`
	Events   []*cluster.Event `json:"events"`
}

// Record notes that something happened now. Of v, the object, part, node, type,
// reason and message count. If it is what happened before, that has happened once
// more.
func (e *Events) Record(v cluster.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.clock()
	e.expire(now)
	if len(v.Message) > maxMessage {
		v.Message = strings.ToValidUTF8(v.Message[:maxMessage-len(" ...")], "") + " ..."
	}
	key := eventKey{v.Object, v.ObjectUID, v.Part, v.Node, v.Reason, v.Warning, ""}
	s := e.similar[key]
	if s == nil {
		s = &similar{}
		e.similar[key] = s
	}
	if now.Sub(s.last) > similarWithin {
		s.messages = nil
	}
	s.last = now
	switch key.message = v.Message; {
	case slices.Contains(s.messages, v.Message):
	case len(s.messages) < maxMessages:
		s.messages = append(s.messages, v.Message)
	default:
		key.message, v.Message = "", "(combined from similar events): "+v.Message
	}
	e.revision++
	if r := e.known[key]; r != nil {
		again := *r.Event
		again.Message, again.Last, again.ResourceVersion = v.Message, now, e.revision
		again.Count++
		r.Event = &again
		for i, l := range r.in {
			e.lists[l].MoveToBack(r.at[i])
		}
	} else {
		v.First, v.Last, v.Count = now, now, 1
		s.events++
		e.add(&remembered{Event: &v, key: key})
	}
	e.tell()
}

// add gives an event a name, and remembers it.
func (e *Events) add(r *remembered) {
	v := r.Event
	v.Meta = cluster.Meta{Namespace: cmp.Or(v.Object.Namespace, "default"), UID: randomUID(), Created: v.First, ResourceVersion: e.revision}
	v.Name = fmt.Sprintf("%s.%016x", v.Object.Name, e.began+e.revision)
	e.known[r.key] = r
	r.in = [2]eventList{{v.Namespace, v.Warning}, {"", v.Warning}}
	for i, most := range [2]int{maxEventsIn, maxEvents} {
		l := e.lists[r.in[i]]
		if l == nil {
			l = list.New()
			e.lists[r.in[i]] = l
		}
		r.at[i] = l.PushBack(r)
		if l.Len() > most {
			e.forget(l.Front().Value.(*remembered))
		}
	}
}

func (e *Events) forget(r *remembered) {
	delete(e.known, r.key)
	for i, at := range r.at {
		if l := e.lists[r.in[i]]; l.Len() > 1 {
			l.Remove(at)
		} else {
			delete(e.lists, r.in[i])
		}
	}
	key := r.key
	key.message = ""
	if s := e.similar[key]; s != nil {
		if s.events--; s.events <= 0 {
			delete(e.similar, key)
		}
	}
}

// expire forgets what is too old.
func (e *Events) expire(now time.Time) {
	for _, warning := range []bool{false, true} {
		for {
			l := e.lists[eventList{"", warning}]
			if l == nil {
				break
			}
			oldest := l.Front().Value.(*remembered)
			if now.Before(oldest.Last.Add(eventTTL)) {
				break
			}
			e.forget(oldest)
			e.revision++
			e.tell()
		}
	}
}

// tell wakes who waits.
func (e *Events) tell() {
	for c := range e.waiting {
		close(c)
	}
	clear(e.waiting)
}

// List returns what is remembered. The events do not change.
func (e *Events) List() EventList {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.expire(e.clock())
	out := EventList{Revision: e.revision, Events: make([]*cluster.Event, 0, len(e.known))}
	for _, r := range e.known {
		out.Events = append(out.Events, r.Event)
	}
	slices.SortFunc(out.Events, func(a, b *cluster.Event) int {
		return cmp.Or(a.Last.Compare(b.Last), cmp.Compare(a.ResourceVersion, b.ResourceVersion))
	})
	return out
}

// Warnings counts the events that are warnings.
func (e *Events) Warnings() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.expire(e.clock())
	if l := e.lists[eventList{"", true}]; l != nil {
		return l.Len()
	}
	return 0
}

// Wait returns once there is a revision newer than after, or ctx ends, with its
// error. That an event is forgotten for its age is news, too.
func (e *Events) Wait(ctx context.Context, after uint64) error {
	for {
		news, due := e.next(after)
		if news == nil {
			return nil
		}
		expired := time.NewTimer(due)
		select {
		case <-ctx.Done():
		case <-news:
		case <-expired.C:
		}
		expired.Stop()
		e.mu.Lock()
		delete(e.waiting, news)
		e.mu.Unlock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// next returns nil if there is a revision newer than after, else what is closed
// when there is, and how long it is until the first event expires.
func (e *Events) next(after uint64) (news chan struct{}, due time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.clock()
	if e.expire(now); e.revision > after {
		return nil, 0
	}
	due = eventTTL
	for _, warning := range []bool{false, true} {
		if l := e.lists[eventList{"", warning}]; l != nil {
			due = min(due, l.Front().Value.(*remembered).Last.Add(eventTTL).Sub(now))
		}
	}
	news = make(chan struct{})
	e.waiting[news] = struct{}{}
	return news, max(due, time.Second)
}
