package gossip

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// Sentinels that callers test for.
var (
	// ErrRangeLost: a pod's address is in a range that the node claims and lost.
	ErrRangeLost = errors.New("pod range lost to another node")
	// ErrOutOfRange: a pod's address is in none of the node's ranges.
	ErrOutOfRange = errors.New("outside this node's pod ranges")
	// ErrClosed: the Gossip was closed or has left.
	ErrClosed = errors.New("gossip is closed")
)

// Gossip is a node's membership in the cluster.
type Gossip struct {
	cfg      Config
	log      *slog.Logger
	life     uint64
	self     netip.AddrPort // advertised; set once, under mu, before started is closed
	ml       *memberlist.Memberlist
	ring     *keyring // nil without encryption
	lines    *lines   // memberlist's log
	counters counters

	started chan struct{} // closed once ml is set
	done    chan struct{} // closed by Close
	wake    chan struct{} // something for tend to do
	remeta  chan struct{} // metadata changed
	rejoin  chan struct{} // look for nodes now
	sending chan struct{} // one token per stream that is being sent
	wg      sync.WaitGroup
	ending  sync.Once
	parting sync.Mutex // held by Leave and Close: memberlist must not leave after its shutdown

	meta    atomic.Pointer[[]byte] // encoded, what memberlist announces
	alive   atomic.Int64           // live members, this node included
	beacons memberlist.TransmitLimitedQueue
	asks    asks
	// rotating is held while this node rotates keys.
	rotating sync.Mutex

	// mu guards all that follows. It may be taken under memberlist's own lock,
	// so no method of ml may be called while it is held.
	mu         sync.Mutex
	facts      Facts
	pods       []Pod // as SetPods gave them; own has those inside the claims
	claims     []Claim
	claimable  claimable
	settling   map[netip.Prefix]time.Time // claims that may not be used before
	exhausted  []string                   // sentences about ranges that are used up
	own        *ledger
	members    map[string]*member
	gaps       map[string]*gap
	memories   map[string]memory       // by node, those in members excepted
	suspects   map[netip.AddrPort]bool // addresses to join at once
	rivals     map[string]rival
	complaints map[string]time.Time // sentences about what was refused, and when last
	alone      bool                 // no seed answers
	leaving    bool
	bidden     []bid // what granted and conflicts were made of
	granted    map[string][]netip.Prefix
	conflicts  []Conflict
	fresh      bool // state reflects all of the above
	state      *State
	changes    chan struct{} // closed by the next change
	told       map[string]bool
}

// member is another node. Its meta is what it announced last.
type member struct {
	name  string
	state NodeState
	since time.Time // of the state; used for forgetting alone
	addr  netip.AddrPort
	meta  *meta
	held  *held   // nil until its state of this life is known
	peer  *peer   // nil unless alive
	heard edition // newest beacon
	over  uint64  // life that said goodbye
	// view is what a snapshot shows of held within granted; shared by snapshots.
	view struct {
		held    *held
		granted []netip.Prefix
		pods    []Pod
		outside int
		example string
	}
}

// Start listens, and begins to look for the nodes of cfg.Join. It returns as
// soon as the node listens; Changes tells when others were found and when the
// node has pod ranges.
func Start(cfg Config) (*Gossip, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("gossip configuration: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Gossip{
		cfg: cfg, log: cfg.Logger, life: newLife(),
		started: make(chan struct{}), done: make(chan struct{}), wake: make(chan struct{}, 1),
		remeta: make(chan struct{}, 1), rejoin: make(chan struct{}, 1), sending: make(chan struct{}, maxStreams),
		facts: cfg.Self.clone(), members: map[string]*member{}, gaps: map[string]*gap{},
		suspects: map[netip.AddrPort]bool{}, rivals: map[string]rival{}, complaints: map[string]time.Time{}, changes: make(chan struct{}), told: map[string]bool{},
		settling: map[netip.Prefix]time.Time{}, memories: map[string]memory{},
	}
	g.alive.Store(1)
	g.lines = newLines(g.log, &g.counters, g.complain)
	g.beacons.RetransmitMult = 2
	g.beacons.NumNodes = func() int { return int(g.alive.Load()) }
	g.own = newLedger(cfg.Name, g.life, g.facts.Labels)
	if err := g.announce(); err != nil {
		return nil, err
	}
	ring, err := openKeyring(cfg.Keys, cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("gossip keyring: %w", err)
	}
	g.ring = ring
	if err := g.listen(); err != nil {
		close(g.done)
		return nil, fmt.Errorf("gossip on %s: %w", cfg.Listen, err)
	}
	for _, f := range []func(){g.tend, g.find, g.publish} {
		g.wg.Go(f)
	}
	close(g.started)
	return g, nil
}

// listen opens the transport and hands it to memberlist.
func (g *Gossip) listen() error {
	t := g.cfg.Transport
	if t == nil {
		nt, err := newSockets(&g.cfg, g.lines.logger())
		if err != nil {
			return err
		}
		t = nt
	}
	conf := g.memberlistConfig(t)
	ml, err := memberlist.Create(conf)
	if err != nil {
		_ = t.Shutdown()
		return err
	}
	g.ml = ml
	self := nodeAddr(ml.LocalNode())
	g.mu.Lock()
	defer g.mu.Unlock()
	g.self = self
	g.replace(g.cfg.Name, self)
	return nil
}

func (g *Gossip) memberlistConfig(t memberlist.Transport) *memberlist.Config {
	c, tm, d := memberlist.DefaultLANConfig(), &g.cfg.Timing, delegate{g}
	c.Name, c.Label, c.Transport = g.cfg.Name, g.cfg.Cluster, t
	c.AdvertiseAddr, c.AdvertisePort = "", 0
	if a := g.advertised(); a.IsValid() {
		c.AdvertiseAddr, c.AdvertisePort = a.Addr().String(), int(a.Port())
	}
	c.Logger = g.lines.logger()
	c.TCPTimeout = tm.Stream
	// memberlist's 4 leaves one in a few hundred announcements unheard by some
	// node of a small cluster until the next push/pull.
	c.RetransmitMult = 8
	c.ProbeInterval, c.ProbeTimeout = tm.ProbeInterval, tm.ProbeTimeout
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = tm.SuspicionMult, tm.SuspicionMaxMult
	c.AwarenessMaxMultiplier = tm.AwarenessMax
	c.GossipInterval, c.GossipNodes, c.GossipToTheDeadTime = tm.GossipInterval, tm.GossipNodes, tm.DeadGossip
	c.PushPullInterval = tm.PushPull
	// Compressing allocates 64 KiB a packet, and most packets are a probe of a
	// few bytes: it was most of what an idle node did.
	c.EnableCompression = false
	// A name may move to another address as soon as its node has failed.
	c.DeadNodeReclaimTime = 1
	if g.ring != nil {
		c.Keyring = g.ring.ring
	}
	c.Delegate, c.Events, c.Alive, c.Merge, c.Conflict, c.Ping = d, d, d, d, d, d
	return c
}

// advertised returns the configured address for others, or the zero value
// where the transport knows it.
func (g *Gossip) advertised() netip.AddrPort {
	a, l := g.cfg.Advertise, g.cfg.Listen
	if !a.IsValid() && g.cfg.Transport == nil && l.Addr().IsUnspecified() {
		a = netip.AddrPortFrom(g.cfg.Self.Underlay.Addr(), 0)
	}
	if a.IsValid() && a.Port() == 0 {
		a = netip.AddrPortFrom(a.Addr(), l.Port())
	}
	return a
}

// newLife draws the number of this process's life.
func newLife() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails (crypto/rand)
	return max(1, binary.BigEndian.Uint64(b[:]))
}

func nodeAddr(n *memberlist.Node) netip.AddrPort {
	a, _ := netip.AddrFromSlice(n.Addr)
	return netip.AddrPortFrom(a.Unmap(), n.Port)
}

// Addr returns the address that the node advertises.
func (g *Gossip) Addr() netip.AddrPort { return g.self }

// Snapshot returns the present view. It is immutable and shared.
func (g *Gossip) Snapshot() *State {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.rebuild()
}

// Changes returns a channel that is closed at the next change of the view, and
// when the Gossip is closed. Take the channel before the snapshot, and no
// change is missed:
//
//	for {
//		changed := g.Changes()
//		use(g.Snapshot())
//		<-changed
//	}
func (g *Gossip) Changes() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changes
}

// changed notes that the view is another one. It needs g.mu.
func (g *Gossip) changed() {
	g.fresh = false
	select {
	case <-g.done:
		return
	default:
	}
	close(g.changes)
	g.changes = make(chan struct{})
	poke(g.wake)
}

// poke puts a token into a channel that holds one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// SetSelf replaces the node's facts, except its pod ranges.
func (g *Gossip) SetSelf(f Facts) error {
	if err := f.validate(); err != nil {
		return fmt.Errorf("node %s: %w", g.cfg.Name, err)
	}
	f = f.clone()
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.facts
	g.facts = f
	if err := g.announce(); err != nil {
		g.facts = old
		return fmt.Errorf("node %s: %w", g.cfg.Name, err)
	}
	if g.own.setLabels(f.Labels) {
		g.spread()
	}
	g.changed()
	return nil
}

// SetPods replaces the pods of this node. The caller must not modify what it
// gave. The error joins one error per pod that cannot be announced
// (ErrOutOfRange, or malformed), and one per pod in a range that the node has
// lost (ErrRangeLost), which is announced but ignored by others. All other
// pods are announced in any case. Pods given before the node has claimed its
// ranges are announced as soon as it has.
func (g *Gossip) SetPods(pods []Pod) error {
	kept, err := vetPods(pods)
	errs := []error{err}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pods = kept
	g.offer()
	if len(g.claims) == 0 {
		return err
	}
	ranges, lost := g.claimed(), g.rebuild().Conflicts
	for i := range kept {
		p := &kept[i]
		if !p.covers(ranges, g.facts.Addresses) {
			errs = append(errs, fmt.Errorf("pod %s/%s %v: %w %v", p.Namespace, p.Name, p.IPs, ErrOutOfRange, ranges))
		}
		for _, c := range lost {
			if c.Loser == g.cfg.Name && slices.ContainsFunc(p.IPs, c.Prefix.Contains) {
				errs = append(errs, fmt.Errorf("pod %s/%s %v: %w: %s", p.Namespace, p.Name, p.IPs, ErrRangeLost, c))
			}
		}
	}
	return errors.Join(errs...)
}

// offer announces those of the node's pods that its claims cover. It needs
// g.mu.
func (g *Gossip) offer() {
	ranges := g.claimed()
	kept := make([]Pod, 0, len(g.pods))
	for i := range g.pods {
		if g.pods[i].covers(ranges, g.facts.Addresses) {
			kept = append(kept, g.pods[i])
		}
	}
	if g.own.setPods(kept) {
		g.spread()
		g.changed()
	}
}

// claimed returns the ranges of the node's claims. It needs g.mu.
func (g *Gossip) claimed() []netip.Prefix {
	ranges := make([]netip.Prefix, len(g.claims))
	for i, c := range g.claims {
		ranges[i] = c.Prefix
	}
	return ranges
}

// announce encodes the metadata and has memberlist spread it. It needs g.mu,
// except before the start.
func (g *Gossip) announce() error {
	m := meta{cluster: clusterID(g.cfg.Cluster), life: g.life, facts: g.facts, claims: g.claims}
	b, err := m.encode()
	if err != nil {
		return err
	}
	if old := g.meta.Swap(&b); old != nil && !slices.Equal(*old, b) {
		poke(g.remeta)
	}
	return nil
}

// publish tells memberlist about changed metadata. It is no delegate's and
// caller's business: memberlist takes its own lock.
func (g *Gossip) publish() {
	<-g.started
	for {
		select {
		case <-g.remeta:
		case <-g.done:
			return
		}
		// The news is queued before UpdateNode begins to wait for its end, which
		// nobody here needs to know.
		_ = g.ml.UpdateNode(time.Millisecond)
	}
}

// memberNode is what memberlist needs to know to send to a node.
func memberNode(name string, a netip.AddrPort) memberlist.Node {
	return memberlist.Node{Name: name, Addr: net.IP(a.Addr().AsSlice()), Port: a.Port()}
}
