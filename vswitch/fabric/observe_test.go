package fabric

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"vswitch/vswitch/agent"
)

// watch observes node n1. What it returns waits for n events, told or suppressed,
// and returns them.
func (w *world) watch(f agent.EventFilter) (await func(n int) []agent.Event) {
	names := func(a netip.Addr) string {
		for name, p := range w.pods {
			for _, ip := range p.IPs {
				if ip.Addr() == a {
					return "x/" + name
				}
			}
		}
		return ""
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.Cleanup(cancel)
	heard := make(chan agent.Event)
	done := agent.Observe(ctx, w.f.Node("n1").Switch, "n1", f, names, func(e agent.Event) {
		select {
		case heard <- e:
		case <-ctx.Done():
		}
	})
	return func(n int) (events []agent.Event) {
		late := time.After(time.Minute)
		for n > 0 {
			select {
			case e := <-heard:
				events = append(events, e)
				n -= int(e.Suppressed)
				if e.Verdict != "" {
					n--
				}
			case <-late:
				w.Errorf("%d events are missing", n)
				n = 0
			}
		}
		cancel()
		<-done
		return events
	}
}

// TestObserve: first packets and drops, in words.
func TestObserve(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{}, func(w *world) {
		w.serve("c")
		all, dropped := w.watch(agent.EventFilter{}), w.watch(agent.EventFilter{Verdicts: []agent.EventVerdict{agent.EventDropped}})
		for range 2 { // the second packet is no event
			w.send("a", seg{src: w.at("a", 1000), dst: w.at("vip", 80), udp: true})
		}
		w.send("a", seg{src: w.at("b", 1000), dst: w.at("c", 80), udp: true}) // a speaks as b
		w.send("a", seg{src: w.at("a", 1000), dst: w.at("stranger", 80), flags: "S"})
		w.send("a", seg{src: w.at("a", 1000), dst: w.at("free", 80), flags: "S"})
		w.all()
		want := []agent.Event{
			{Verdict: agent.EventForwarded, Proto: "udp", Source: w.at("a", 1000), Destination: w.at("vip", 80), Backend: w.at("c", 8080),
				From: "x/a", To: "x/c", Service: "x/web:u", In: "x/a", Out: "overlay"},
			{Verdict: agent.EventDropped, Reason: "spoofed", Proto: "udp", Source: w.at("b", 1000), Destination: w.at("c", 80), From: "x/a", To: "x/c", In: "x/a"},
			{Verdict: agent.EventRejected, Reason: "no-route", Proto: "tcp", Source: w.at("a", 1000), Destination: w.at("stranger", 80), From: "x/a", In: "x/a", TCPFlags: "S"},
			{Verdict: agent.EventDropped, Reason: "unallocated-service-address", Proto: "tcp", Source: w.at("a", 1000), Destination: w.at("free", 80), From: "x/a", In: "x/a", TCPFlags: "S"},
		}
		got := all(len(want))
		if len(got) != len(want) {
			t.Fatalf("%d events, want %d: %+v", len(got), len(want), got)
		}
		for i := range want {
			got[i].Time, want[i].Node = time.Time{}, "n1"
			if got[i] != want[i] {
				t.Errorf("event %d\n got %+v\nwant %+v", i, got[i], want[i])
			}
		}
		if got := dropped(2); len(got) != 2 || got[0].Reason != "spoofed" || got[1].Reason != "unallocated-service-address" {
			t.Errorf("dropped: %+v", got)
		}
	})
}

// TestObserveSuppresses: what comes too fast is counted, and nothing is lost of
// the count.
func TestObserveSuppresses(t *testing.T) {
	w := newWorld(t, agent.ServiceConfig{}, false)
	const n = 10000
	await := w.watch(agent.EventFilter{})
	for range n {
		w.send("a", seg{src: w.at("a", 1000), dst: w.at("free", 80), udp: true})
	}
	told, suppressed := 0, 0
	for _, e := range await(n) {
		if e.Verdict != "" {
			told++
		}
		suppressed += int(e.Suppressed)
	}
	if told+suppressed != n || told == 0 || suppressed == 0 {
		t.Errorf("of %d events %d were told and %d suppressed", n, told, suppressed)
	}
}
