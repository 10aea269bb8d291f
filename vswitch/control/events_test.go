package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vswitch/vswitch/cluster"
)

// occurred is an event of Service x/NAME.
func occurred(name, reason, message string, warning bool) cluster.Event {
	return cluster.Event{Object: cluster.KindService.Ref(cluster.Key{Namespace: "x", Name: name}), ObjectUID: "u", Warning: warning, Reason: reason, Message: message}
}

// eventLines are the events in one line each.
func eventLines(e *Events) (out []string) {
	for _, v := range e.List().Events {
		out = append(out, fmt.Sprintf("%s %s %s %s x%d %s-%s", v.Type(), v.Reason, v.Object.Key, v.Message, v.Count, v.First.Format("15:04"), v.Last.Format("15:04")))
	}
	return out
}

func compareLines(t *testing.T, e *Events, want ...string) {
	t.Helper()
	if got := eventLines(e); !slices.Equal(got, want) {
		t.Errorf("events\n%q\nwant\n%q", got, want)
	}
}

func newTestEvents() *Events { return newEvents(func() time.Time { return time.Now().UTC() }) }

// TestEventsAge: what happens again is one event, which lives for an hour from the
// last time, and is another one after that.
func TestEventsAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins at midnight
		e := newTestEvents()
		e.Record(occurred("a", "Sick", "cold", true))
		e.Record(occurred("b", "Well", "warm", false))
		first := e.List().Events[0]
		time.Sleep(20 * time.Minute)
		e.Record(occurred("a", "Sick", "cold", true))
		compareLines(t, e, "Normal Well x/b warm x1 00:00-00:00", "Warning Sick x/a cold x2 00:00-00:20")
		again := e.List().Events[1]
		if again.Name != first.Name || again.UID != first.UID || again.ResourceVersion <= first.ResourceVersion || first.Count != 1 {
			t.Errorf("%+v became %+v", first, again)
		}
		time.Sleep(40*time.Minute - time.Nanosecond)
		compareLines(t, e, "Normal Well x/b warm x1 00:00-00:00", "Warning Sick x/a cold x2 00:00-00:20")
		time.Sleep(time.Nanosecond)
		compareLines(t, e, "Warning Sick x/a cold x2 00:00-00:20")
		time.Sleep(20 * time.Minute)
		if n := e.Warnings(); n != 0 {
			t.Errorf("%d warnings are left", n)
		}
		e.Record(occurred("a", "Sick", "cold", true))
		compareLines(t, e, "Warning Sick x/a cold x1 01:20-01:20")
		if v := e.List().Events[0]; v.Name == first.Name || v.UID == first.UID {
			t.Errorf("a new event is called %s, as the old one was", v.Name)
		}
		if n := len(e.known) + len(e.lists) + len(e.similar); n != 1+2+1 {
			t.Errorf("%d things are remembered of one event: %v, %v, %v", n, e.known, e.lists, e.similar)
		}
	})
}

// TestEventsKey: events differ by all that they say, but not by when.
func TestEventsKey(t *testing.T) {
	e := newTestEvents()
	base := occurred("a", "Sick", "cold", true)
	e.Record(base)
	for _, change := range []func(*cluster.Event){
		func(v *cluster.Event) { v.Object.Name = "b" },
		func(v *cluster.Event) { v.Object.Namespace = "y" },
		func(v *cluster.Event) { v.Object.Kind = cluster.KindPod },
		func(v *cluster.Event) { v.ObjectUID = "other" },
		func(v *cluster.Event) { v.Part = "spec.containers{c}" },
		func(v *cluster.Event) { v.Node = "node1" },
		func(v *cluster.Event) { v.Warning = false },
		func(v *cluster.Event) { v.Reason = "Ill" },
		func(v *cluster.Event) { v.Message = "colder" },
	} {
		v := base
		change(&v)
		e.Record(v)
		e.Record(v)
	}
	list := e.List().Events
	names := map[string]bool{}
	for i, v := range list {
		if want := min(i+1, 2); v.Count != want {
			t.Errorf("%+v: count %d, want %d", v, v.Count, want)
		}
		if names[v.Key().String()] = true; v.Namespace != v.Object.Namespace {
			t.Errorf("event of %s in namespace %s", v.Object, v.Namespace)
		}
	}
	if len(list) != 10 || len(names) != 10 {
		t.Errorf("%d events of %d names, want 10", len(list), len(names))
	}
	e.Record(cluster.Event{Object: cluster.KindNode.Ref(cluster.Key{Name: "node1"}), Reason: "NodeReady"})
	if v := e.List().Events[10]; v.Namespace != "default" || v.Object.Namespace != "" {
		t.Errorf("event of a node: %+v", v)
	}
}

// TestEventsBounds: the oldest go first, of a namespace and of all, and warnings
// never for events that are none.
func TestEventsBounds(t *testing.T) {
	e := newTestEvents()
	e.Record(occurred("first", "Sick", "cold", true))
	for i := range maxEventsIn + 10 {
		e.Record(occurred(fmt.Sprint("a", i), "Well", "warm", false))
	}
	list := e.List().Events
	if len(list) != 1+maxEventsIn || list[0].Object.Name != "first" || list[1].Object.Name != "a10" {
		t.Fatalf("%d events, the first ones of %s and %s", len(list), list[0].Object, list[1].Object)
	}
	e.Record(occurred("a10", "Well", "warm", false)) // now it is the newest
	e.Record(occurred("more", "Well", "warm", false))
	if list = e.List().Events; list[1].Object.Name != "a12" || list[maxEventsIn-1].Object.Name != "a10" || list[maxEventsIn-1].Count != 2 {
		t.Errorf("the oldest is of %s, the last but one of %s", list[1].Object, list[maxEventsIn-1].Object)
	}
	for i := range 2 * maxEvents {
		v := occurred("b", "Sick", "cold", true)
		v.Object.Namespace = fmt.Sprint("n", i)
		e.Record(v)
	}
	if list = e.List().Events; len(list) != maxEventsIn+maxEvents || e.Warnings() != maxEvents || list[maxEventsIn].Object.Namespace != fmt.Sprint("n", maxEvents) {
		t.Errorf("%d events, %d warnings, the oldest of %s", len(list), e.Warnings(), list[maxEventsIn].Object)
	}
	if n := len(e.known); n != len(list) || len(e.similar) != n {
		t.Errorf("%d and %d remembered of %d", n, len(e.similar), len(list))
	}
}

// TestEventsLong: of a message without end, the beginning is kept, in whole runes.
func TestEventsLong(t *testing.T) {
	e := newTestEvents()
	for _, long := range []string{strings.Repeat("a", maxMessage), strings.Repeat("b", maxMessage+1), strings.Repeat("é", maxMessage), "x" + strings.Repeat("é", maxMessage)} {
		e.Record(occurred("a", "Sick", long, true))
	}
	var got []string
	for _, v := range e.List().Events {
		got = append(got, v.Message)
	}
	want := []string{strings.Repeat("a", 1024), strings.Repeat("b", 1020) + " ...", strings.Repeat("é", 510) + " ...", "x" + strings.Repeat("é", 509) + " ..."}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// TestEventsSimilar: many messages of one kind become one event.
func TestEventsSimilar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEvents()
		for i := range 30 {
			e.Record(occurred("a", "Sick", fmt.Sprint("cold ", i), true))
		}
		e.Record(occurred("a", "Sick", "cold 3", true))
		list := e.List().Events
		if len(list) != maxMessages+1 || list[9].Message != "(combined from similar events): cold 29" || list[9].Count != 20 || list[10].Message != "cold 3" || list[10].Count != 2 {
			t.Errorf("%q", eventLines(e))
		}
		time.Sleep(similarWithin + 1)
		e.Record(occurred("a", "Sick", "cold at last", true))
		if list = e.List().Events; list[11].Message != "cold at last" {
			t.Errorf("%q", eventLines(e))
		}
	})
}

// TestEventsWait: who waits wakes for what is new and for what is too old, and not
// before.
func TestEventsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEvents()
		woke := make(chan error)
		ctx, cancel := context.WithCancel(t.Context())
		wait := func() { go func() { woke <- e.Wait(ctx, e.List().Revision) }() }
		expect := func(want error) {
			t.Helper()
			synctest.Wait()
			select {
			case err := <-woke:
				if !errors.Is(err, want) {
					t.Errorf("Wait: %v, want %v", err, want)
				}
			default:
				t.Error("nobody woke")
			}
		}
		quiet := func() {
			t.Helper()
			synctest.Wait()
			select {
			case err := <-woke:
				t.Errorf("Wait returned %v without news", err)
			default:
			}
		}
		wait()
		time.Sleep(3 * time.Hour)
		quiet()
		e.Record(occurred("a", "Sick", "cold", true))
		expect(nil)
		wait()
		time.Sleep(59 * time.Minute)
		quiet()
		time.Sleep(time.Minute)
		expect(nil)
		if n := len(e.List().Events); n != 0 {
			t.Errorf("%d events are left", n)
		}
		if err := e.Wait(ctx, 0); err != nil { // there was news before
			t.Error(err)
		}
		wait()
		quiet()
		cancel()
		expect(context.Canceled)
		if len(e.waiting) != 0 {
			t.Errorf("%d still wait", len(e.waiting))
		}
	})
}

// TestNoEvents: a change of services that are all right tells nothing, and what
// does not happen is not told.
func TestNoEvents(t *testing.T) {
	cfg := Default()
	cfg.ServiceCIDRs = prefixes("10.96.0.0/30")
	c, err := New(cluster.NewStore(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Apply(objects(service("a"), service("b")), ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	if l := c.Events().List(); len(l.Events) != 0 || l.Revision != 0 {
		t.Errorf("events of services that are all right: %q", eventLines(c.Events()))
	}
	bad := service("z", func(v *cluster.Service) { v.ClusterIPs = addrs("10.1.1.1") })
	if _, err := c.Apply(objects(service("c"), bad), ApplyOptions{}); err == nil {
		t.Fatal("a wrong address is accepted")
	}
	compareLines(t, c.Events())
	if _, err := c.Apply(objects(service("c")), ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := eventLines(c.Events()); len(got) != 1 || c.Events().Warnings() != 1 {
		t.Errorf("events %q, want the one of x/c", got)
	}
	// A Service that is replaced in one step is another one.
	if _, err := c.Delete(objects(service("c")).Refs()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Apply(objects(service("c")), ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	if l := c.Events().List().Events; len(l) != 2 || l[0].ObjectUID == l[1].ObjectUID || l[0].Name == l[1].Name {
		t.Errorf("events %q, want one of each Service x/c", eventLines(c.Events()))
	}
}

// TestEventsRemind: Run tells again what is still wrong, and sleeps as long as
// nothing is.
func TestEventsRemind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins at midnight
		cfg := Default()
		cfg.ServiceCIDRs = prefixes("10.96.0.0/30")
		c, err := New(cluster.NewStore(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { c.Run(ctx); close(ended) }()
		defer func() { cancel(); <-ended }()
		apply(t, c, objects(service("a"), service("b")))
		time.Sleep(time.Hour)
		synctest.Wait()
		compareLines(t, c.Events())
		if wake := c.nextWake(); !wake.IsZero() {
			t.Errorf("the next thing to do is at %v, want none", wake)
		}
		apply(t, c, objects(service("c")))
		const full = "Warning ServiceCIDRFull x/c no address is free in 10.96.0.0/30; delete services, or give the cluster a larger range (--service-cidr) "
		compareLines(t, c.Events(), full+"x1 01:00-01:00")
		time.Sleep(2*remindEvery - time.Second)
		synctest.Wait()
		compareLines(t, c.Events(), full+"x2 01:00-01:05")
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		compareLines(t, c.Events(), full+"x26 01:00-03:05")
		if _, err := c.Delete(objects(service("a")).Refs()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Minute)
		synctest.Wait()
		compareLines(t, c.Events(), full+"x26 01:00-03:05")
		if wake := c.nextWake(); !wake.IsZero() || len(c.index.told) != 0 {
			t.Errorf("the next thing to do is at %v, because of %v; want none", wake, c.index.told)
		}
	})
}
