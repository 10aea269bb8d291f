package vswitch

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"vswitch/nat"
	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

const (
	// tick is how often a worker looks after what has no packet to trigger it:
	// expired flows and lost fragments.
	tick = time.Second
	// sweepFlows bounds the flow cache entries that one tick looks at.
	sweepFlows = 1 << 14
	// flowIdle is how many seconds an unused flow stays in the cache. The
	// connection lives longer; its next packet finds it there.
	flowIdle = 60
	// spin is how long a worker that was just busy polls before it sleeps.
	spin = 30 * time.Microsecond
)

// worker reads some ports, and writes all. Its batch, cache and fragments are
// its own; it runs on one locked thread and sleeps only in its poller.
type worker struct {
	sw     *Switch
	poll   poller
	nports int // guarded by sw.mu

	decider             // the world of this batch, and how the first packet is decided
	seed     uint64     // of tuple hashes; the same in all workers
	cache    *nat.Cache // flows by tuple
	frags    *fragments // datagrams of which some fragments are known
	in       *packet.Batch
	made     *packet.Batch               // what the switch says itself
	waited   *packet.Batch               // for a fragment that waited; made with the first
	flows    [packet.BatchSize]*nat.Flow // of in's packets, as they were looked up
	inserted bool                        // flows were inserted since
	out      outputs
	outMade  outputs
	errors   bucket // limits ICMP errors and resets
	flood    bucket // limits multicast
	events   bucket // limits what observers are told
	cur      int    // the packet being worked on, for recovery
	from     uint16 // the port that the batch came in by
	mac      uint64 // its MAC, as macWord
	ticked   time.Duration
	ready    []*attached

	started atomic.Bool
	stopped atomic.Bool
	cmds    struct {
		sync.Mutex
		list []func()
		any  atomic.Bool
	}
}

func newWorker(s *Switch, seed uint64) (*worker, error) {
	w := &worker{
		sw: s, seed: seed,
		cache: nat.NewCache(s.cfg.MaxFlows),
		in:    packet.NewBatch(), made: packet.NewBatch(),
		errors: bucket{rate: 1000, burst: 100},
		flood:  bucket{rate: 2000, burst: 500},
		events: bucket{rate: eventRate, burst: eventBurst},
	}
	w.cache.Evicted = w.drain
	w.frags = newFragments(w.fragmentsLost)
	w.decider = decider{conns: s.conns, affinities: s.affinities, tables: s.tables.Load()}
	w.seconds = uint32(s.cfg.Clock() / time.Second)
	var err error
	if w.poll, err = newPoller(s.cfg.Inline); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	return w, nil
}

// run works until the switch is closed.
func (w *worker) run() {
	runtime.LockOSThread()
	defer w.free()
	busyUntil := time.Duration(0)
	for !w.stopped.Load() {
		now := w.sw.cfg.Clock()
		if w.step(now >= busyUntil) > 0 {
			busyUntil = w.now + spin
		}
	}
	// Commands that came too late must not leave their callers waiting.
	w.commands()
}

// step reads every ready port once and forwards what it gave. It returns the
// number of packets. With block, it waits until there is something to do or a
// tick has passed.
func (w *worker) step(block bool) int {
	w.ready = w.poll.wait(block, w.ready[:0])
	if w.cmds.any.Load() {
		w.commands()
	}
	n := 0
	for _, a := range w.ready {
		n += w.serve(a)
	}
	if len(w.ready) == 0 {
		w.now = w.sw.cfg.Clock()
	}
	if w.now-w.ticked >= tick {
		w.tick()
	}
	return n
}

// serve reads one batch from a port and takes it through the switch.
func (w *worker) serve(a *attached) int {
	if a.gone {
		return 0
	}
	if a.rung.Load() {
		a.rung.Store(false) // before Read, so that what comes after rings again
	}
	if a.bursts {
		a.budget = packet.BatchSize
	}
	n, err := a.port.Read(w.in, a.budget)
	// A port that fills its budget, or the batch, is busy: let it read more at
	// once. One that does not is asked for one frame at a time, which saves the
	// read that finds nothing.
	if n == a.budget || w.in.Full() {
		a.budget = min(a.budget*2, packet.BatchSize)
		w.poll.again(a)
	} else {
		a.budget = max(a.budget/2, 1)
	}
	if n > 0 {
		w.now = w.sw.cfg.Clock()
		w.seconds = uint32(w.now / time.Second)
		w.tables = w.sw.tables.Load()
		w.forward(a)
		w.in.Reset()
	}
	if err != nil {
		w.bury(a, err)
	}
	return n
}

// bury stops reading a port that died. Its owner detaches it.
func (w *worker) bury(a *attached, err error) {
	a.gone = true
	w.poll.remove(a)
	w.sw.cfg.Log.Warn("port died", "port", a.name, "err", err)
}

func (w *worker) tick() {
	w.ticked = w.now
	w.seconds = uint32(w.now / time.Second)
	w.cache.Sweep(sweepFlows, w.keep)
	w.conns.Expire(w.seconds)
	w.frags.expire(w.seconds)
	w.affinities.Expire(w.seconds)
}

// keep tells whether a flow stays in the cache. One that pauses has no packet
// to report with, so what it counted last is reported here.
func (w *worker) keep(f *nat.Flow) bool {
	idle := w.seconds - f.LastSeen
	if idle > 0 {
		w.drain(f)
	}
	return idle < flowIdle
}

// drain reports what a flow has counted and may not come to report with a packet.
func (w *worker) drain(f *nat.Flow) {
	if f.Counted() {
		w.report(f, f.LastSeen)
	}
}

// report adds what f has counted to its connection, and that it was seen at a
// second. It reports false if the connection is gone.
func (w *worker) report(f *nat.Flow, at uint32) bool {
	packets, bytes := f.Drain()
	return w.conns.Touch(w.cache.Conn(f), f.Dir(), at, packets, bytes)
}

// do runs f on the worker, between two batches, and waits for it.
func (w *worker) do(f func()) {
	if !w.started.Load() || w.stopped.Load() {
		f()
		return
	}
	done := make(chan struct{})
	w.cmds.Lock()
	w.cmds.list = append(w.cmds.list, func() { f(); close(done) })
	w.cmds.any.Store(true)
	w.cmds.Unlock()
	w.poll.wake()
	<-done
}

func (w *worker) commands() {
	w.cmds.Lock()
	list := w.cmds.list
	w.cmds.list = nil
	w.cmds.any.Store(false)
	w.cmds.Unlock()
	for _, f := range list {
		f()
	}
}

func (w *worker) stop(running bool) {
	if !running {
		w.stopped.Store(true)
		w.free()
		return
	}
	w.cmds.Lock()
	w.cmds.list = append(w.cmds.list, func() { w.stopped.Store(true) })
	w.cmds.any.Store(true)
	w.cmds.Unlock()
	w.poll.wake()
}

// free gives back what the garbage collector would not: memory and descriptors.
// The worker is stopped, and does nothing more but commands.
func (w *worker) free() {
	w.poll.close()
	w.cache.Close()
	w.in.Close()
	w.made.Close()
	if w.waited != nil {
		w.waited.Close()
	}
}

// own makes the worker read a port.
func (w *worker) own(a *attached) (err error) {
	w.do(func() { err = w.poll.add(a) })
	if err != nil {
		return err
	}
	if n, ok := a.port.(port.Notifier); ok {
		n.Notify(func() { w.ring(a) })
	}
	return nil
}

// ring is called by Notifier ports, from any goroutine.
func (w *worker) ring(a *attached) {
	if !a.rung.Swap(true) {
		w.poll.ring(a)
	}
}

// disown makes the worker stop reading a port.
func (w *worker) disown(a *attached) {
	if n, ok := a.port.(port.Notifier); ok {
		n.Notify(func() {})
	}
	w.do(func() {
		a.gone = true
		w.poll.remove(a)
	})
}

// recovered notes a panic of packet code: the packet is lost, the switch is not.
func (w *worker) recovered(r any) {
	w.sw.cfg.Log.Error("packet code panicked; the packet was dropped", "panic", r, "stack", string(debug.Stack()))
}

// bucket is a token bucket that is refilled by the clock of the batch.
type bucket struct {
	rate   float64 // tokens a second
	burst  float64
	tokens float64
	last   time.Duration
}

func (b *bucket) take(now time.Duration) bool {
	b.tokens = min(b.burst, b.tokens+(now-b.last).Seconds()*b.rate)
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
