package vswitch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"vswitch/nat"
	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// Config is what a switch needs to start.
type Config struct {
	// Workers is the number of packet threads; 0 is 1.
	Workers int
	// MaxFlows bounds each worker's flow cache; 0 is 1<<20.
	MaxFlows int
	// Conns is the connection table. The switch uses it and does not close it.
	// Nil: an anonymous one of MaxFlows connections.
	Conns *nat.Table
	// Clock returns monotonic time. It must go on over a restart of the process
	// if Conns does. Nil: the system's monotonic clock.
	Clock func() time.Duration
	// Log receives what happens to the switch as a whole, never a packet. Nil: none.
	Log *slog.Logger
	// Inline makes a switch without goroutines: Step does the work. For tests,
	// traces and virtual time.
	Inline bool
}

// Switch is one node's data plane. Attach, Detach and Publish may be called
// from any goroutine, also while Run runs.
type Switch struct {
	cfg        Config
	conns      *nat.Table
	affinities *nat.Affinities
	tables     atomic.Pointer[Tables]
	ports      atomic.Pointer[[]*attached] // by id; replaced as a whole
	drops      [numReasons]atomic.Uint64   // of packets that came in by no port that is still known
	taps       taps
	observers  observers
	tracing    tracing

	mu      sync.Mutex // guards what follows, and the writing of tables and ports
	gen     uint32
	freed   map[uint16]uint32 // id -> generation at its detachment
	workers []*worker
	running bool
	closed  bool
}

// ErrSwitchClosed is returned by operations on a closed switch.
var ErrSwitchClosed = errors.New("switch closed")

// New returns a switch without ports. Its first tables are empty: all packets die.
func New(cfg Config) (*Switch, error) {
	if cfg.Workers == 0 {
		cfg.Workers = 1
	}
	if cfg.MaxFlows == 0 {
		cfg.MaxFlows = 1 << 20
	}
	if cfg.Clock == nil {
		cfg.Clock = monotonic
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Switch{cfg: cfg, conns: cfg.Conns, affinities: new(nat.Affinities), freed: map[uint16]uint32{}}
	if s.conns == nil {
		t, err := nat.Open(nat.Config{Max: cfg.MaxFlows})
		if err != nil {
			return nil, fmt.Errorf("connection table: %w", err)
		}
		s.conns = t
	}
	s.affinities.Recall(s.conns)
	s.ports.Store(new([]*attached))
	s.tables.Store(&Tables{Gen: s.nextGen()})
	seed := rand.Uint64()
	for range cfg.Workers {
		w, err := newWorker(s, seed)
		if err != nil {
			return nil, err
		}
		s.workers = append(s.workers, w)
	}
	return s, nil
}

// nextGen returns the next generation, never 0. Called with mu held, or from New.
func (s *Switch) nextGen() uint32 {
	if s.gen++; s.gen == 0 {
		s.gen = 1
	}
	return s.gen
}

// Attach gives a port to the switch and returns its id. The switch reads and
// writes it from now on, but forwards nothing until published Tables know the
// id. The caller still owns the port and closes it after Detach.
func (s *Switch) Attach(name string, p port.Port) (uint16, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return 0, ErrSwitchClosed
	}
	ports := *s.ports.Load()
	id := s.freeID(ports)
	if id >= packet.PeerBase {
		s.mu.Unlock()
		return 0, fmt.Errorf("attach %s: all %d port ids are in use", name, packet.PeerBase)
	}
	w := s.workers[0]
	for _, v := range s.workers {
		if v.nports < w.nports {
			w = v
		}
	}
	_, bursts := p.(port.Burster)
	a := &attached{id: uint16(id), name: name, port: p, worker: w, bursts: bursts, budget: 1}
	next := make([]*attached, max(len(ports), id+1))
	copy(next, ports)
	next[id] = a
	s.ports.Store(&next)
	w.nports++
	s.mu.Unlock()

	if err := w.own(a); err != nil {
		s.forget(a)
		return 0, fmt.Errorf("attach %s: %w", name, err)
	}
	return a.id, nil
}

// freeID returns the lowest id that no cached flow can still point to: one
// that is free, and was freed before the current tables were published.
func (s *Switch) freeID(ports []*attached) int {
	for id := 1; id < len(ports); id++ {
		if gen, used := s.freed[uint16(id)]; ports[id] == nil && (!used || gen != s.gen) {
			delete(s.freed, uint16(id))
			return id
		}
	}
	return max(len(ports), 1)
}

// Detach takes a port away. When it returns, no worker reads or writes it.
func (s *Switch) Detach(id uint16) {
	a := s.port(id)
	if a == nil {
		return
	}
	a.worker.disown(a)
	s.forget(a)
	// A worker that loaded the port list before still writes to the port until
	// its batch ends.
	for _, w := range s.workers {
		w.do(func() {})
	}
}

func (s *Switch) forget(a *attached) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ports := *s.ports.Load()
	next := make([]*attached, len(ports))
	copy(next, ports)
	next[a.id] = nil
	s.ports.Store(&next)
	s.freed[a.id] = s.gen
	a.worker.nports--
	for r := range numReasons {
		s.drops[r].Add(a.drops[r].Load())
	}
}

// port returns an attached port, or nil.
func (s *Switch) port(id uint16) *attached {
	if ports := *s.ports.Load(); int(id) < len(ports) {
		return ports[id]
	}
	return nil
}

// Publish makes t the world, from each worker's next batch on. The switch sets
// t.Gen; t must not be changed afterwards.
func (s *Switch) Publish(t *Tables) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Gen = s.nextGen()
	s.tables.Store(t)
}

// Tables returns the current world.
func (s *Switch) Tables() *Tables { return s.tables.Load() }

// Conns returns the connection table.
func (s *Switch) Conns() *nat.Table { return s.conns }

// Now returns the switch's monotonic time, and Seconds the same as connections
// have it.
func (s *Switch) Now() time.Duration { return s.cfg.Clock() }

// Seconds returns Now in whole seconds.
func (s *Switch) Seconds() uint32 { return uint32(s.cfg.Clock() / time.Second) }

// Run forwards packets until ctx ends or the switch is closed.
func (s *Switch) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.closed || s.running || s.cfg.Inline {
		s.mu.Unlock()
		return fmt.Errorf("run: %w", ErrSwitchClosed)
	}
	s.running = true
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, w := range s.workers {
		w.started.Store(true)
		wg.Go(w.run)
	}
	stop := context.AfterFunc(ctx, s.Close)
	defer stop()
	wg.Wait()
	return ctx.Err()
}

// Step forwards what waits at the ports and returns how many packets that was.
// Only for a switch made Inline, from one goroutine at a time.
func (s *Switch) Step() int {
	n := 0
	for _, w := range s.workers {
		if !w.stopped.Load() {
			n += w.step(false)
		}
	}
	return n
}

// Close ends Run and Step. Ports stay open; they are the caller's.
func (s *Switch) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	running := s.running
	s.mu.Unlock()
	for _, w := range s.workers {
		w.stop(running)
	}
	s.tracing.mu.Lock()
	defer s.tracing.mu.Unlock()
	if s.tracing.batch != nil {
		s.tracing.batch.Close()
		s.tracing.batch = nil
	}
}

// base anchors the process's monotonic clock to the system's.
var base = struct {
	time.Time
	uptime time.Duration
}{time.Now(), uptime()}

// monotonic is the system's monotonic time, read without a system call.
func monotonic() time.Duration { return base.uptime + time.Since(base.Time) }
