// Package control decides what a cluster without a Kubernetes API server looks
// like. It is the one writer of desired state: it takes objects from apply and
// delete, gives nodes their ranges and addresses, pods their nodes,
// Deployments their replicas, and services their addresses, ports and
// EndpointSlices, and writes all of it into a cluster.Store, from which
// whoever runs the nodes and pods reads. What runs is reported through
// the same Store (cluster.Local), and a Controller answers to it.
//
// What was decided stays the same over restarts: decisions follow from names
// and from a state directory, never from chance or from the order of events.
// The package starts no process and touches no network. Only the supervisor of
// a cluster makes a Controller; Static serves those who want to know what a
// cluster would look like.
package control

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"vswitch/vswitch/cluster"
)

// Errors by kind; messages that wrap them name the object and the remedy.
var (
	// ErrNotFound: an object that was to be deleted is not there.
	ErrNotFound = errors.New("not found")
	// ErrConflict: an object contradicts what is there.
	ErrConflict = errors.New("conflict")
	// ErrExhausted: a range has nothing left to give.
	ErrExhausted = errors.New("range exhausted")
)

// Config is what a Controller is told. Start from Default.
type Config struct {
	// ClusterCIDRs are the ranges of all pods, at most one per family.
	ClusterCIDRs []netip.Prefix
	// NodeMask4 and NodeMask6 are the lengths of the prefixes that nodes get
	// from ClusterCIDRs.
	NodeMask4, NodeMask6 int
	// NodeCIDRs are where nodes without addresses get them, at most one per family.
	NodeCIDRs []netip.Prefix
	// ServiceCIDRs are where services get their cluster IPs, at most one per
	// family; the family of the first is that of services that name none. Nil:
	// 10.96.0.0/16 and fd00:10:96::/112, as far as they overlap no other
	// range; empty: nowhere. ServiceRanges says which.
	ServiceCIDRs []netip.Prefix
	// LoadBalancerCIDRs are where load balancers get addresses, at most one
	// per family. Nil: 172.30.0.0/24 and fd00:10:30::/112, as far as they
	// overlap no other range; empty: nowhere. LoadBalancerRanges says which.
	LoadBalancerCIDRs []netip.Prefix
	// NodePorts are the ports of nodes that services may have.
	NodePorts cluster.PortRange
	// Nodes is how many nodes (node1, node2 and so on) the first Apply makes
	// if nobody applied a Node.
	Nodes int
	// DNS gives the cluster a name server: a pod of each node, which the node
	// serves, and the Service kube-system/kube-dns (NameServers).
	DNS bool
	// Dir keeps what was decided over restarts. Empty: nothing is kept.
	Dir string
	// StartupGrace is how long pods are given to nodes that have yet to report
	// for the first time, so that the first node to be ready does not get all.
	StartupGrace time.Duration

	// Clock is the time; nil is time.Now. UID makes unique identifiers; nil
	// makes random ones. Log may be nil.
	Clock func() time.Time
	UID   func() string
	Log   *slog.Logger
}

// LoadBalancerClass is the class (spec.loadBalancerClass) of services that get
// their addresses here; so do those that name no class.
const LoadBalancerClass = "vswitch"

// Default returns the configuration of a small dual-stack cluster without nodes.
func Default() Config {
	p := netip.MustParsePrefix
	return Config{
		ClusterCIDRs: []netip.Prefix{p("10.244.0.0/16"), p("fd00:10:244::/56")},
		NodeMask4:    24, NodeMask6: 64,
		NodeCIDRs:    []netip.Prefix{p("172.29.0.0/16"), p("fd00:10:29::/64")},
		NodePorts:    cluster.PortRange{First: 30000, Last: 32767},
		StartupGrace: 30 * time.Second,
	}
}

// Validate returns all that is wrong with c.
func (c *Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	lists := []struct {
		name, users string
		cidrs       []netip.Prefix
		optional    bool
	}{{"cluster-cidr", "pods", c.ClusterCIDRs, false}, {"node-cidr", "nodes", c.NodeCIDRs, false},
		{"service-cidr", "services", c.ServiceRanges(), true}, {"load-balancer-cidr", "load balancers", c.LoadBalancerCIDRs, true}}
	for i, list := range lists {
		var families [2]bool
		for _, p := range list.cidrs {
			if !p.IsValid() || p != p.Masked() {
				bad("%s: %s is not a range; did you mean %s?", list.name, p, p.Masked())
			}
			if families[family(p.Addr())] {
				bad("%s: %s is a second range of one family; give at most one per family", list.name, p)
			}
			families[family(p.Addr())] = true
		}
		if len(list.cidrs) == 0 && !list.optional {
			bad("%s: give at least one range", list.name)
		}
		for _, p := range list.cidrs {
			for _, other := range lists[:i] {
				for _, o := range other.cidrs {
					if o.Overlaps(p) {
						bad("%s: %s overlaps %s, which is for %s", list.name, p, o, other.users)
					}
				}
			}
			if list.optional && p.Bits() > p.Addr().BitLen()-2 {
				bad("%s: %s is too small: at most /%d", list.name, p, p.Addr().BitLen()-2)
			}
		}
	}
	for _, p := range c.ClusterCIDRs {
		if m := c.nodeMask(p); m < p.Bits() || m > p.Addr().BitLen()-2 {
			bad("node mask: a /%d does not fit between the cluster's %s and a few addresses", m, p)
		}
	}
	if c.NodePorts.First == 0 || c.NodePorts.First > c.NodePorts.Last {
		bad("node-port-range: %d-%d is not a range", c.NodePorts.First, c.NodePorts.Last)
	}
	if c.Nodes < 0 {
		bad("nodes: %d is negative", c.Nodes)
	}
	return errors.Join(errs...)
}

func (c *Config) nodeMask(p netip.Prefix) int {
	if p.Addr().Is4() {
		return c.NodeMask4
	}
	return c.NodeMask6
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// Controller is the writer of desired state. Its methods are safe for
// concurrent use.
type Controller struct {
	cfg     Config
	store   *cluster.Store
	started time.Time
	events  *Events

	mu       sync.Mutex // guards what follows
	journal  *journal   // nil without a directory
	index    *index
	wake     time.Time // when something is due by time alone; zero for never
	problems []string
	applied  bool // Apply has been called
}

// New returns a Controller that writes to store, which must be new, and loads
// what an earlier one left in cfg.Dir. What could not be loaded is set aside
// and told by Problems.
func New(store *cluster.Store, cfg Config) (*Controller, error) {
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.UID == nil {
		cfg.UID = randomUID
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &Controller{cfg: cfg, store: store, index: newIndex(&cfg)}
	c.started, c.events = c.now(), newEvents(c.now)
	var kept saved
	if cfg.Dir != "" {
		var err error
		if c.journal, kept, c.problems, err = openJournal(cfg.Dir, c.started); err != nil {
			return nil, err
		}
	}
	for _, p := range c.problems {
		cfg.Log.Warn("state directory", "problem", p)
	}
	err := c.update(func(s *step) error {
		s.tx.SkipTo(kept.Revision)
		s.load(&kept)
		if s.tx.Own().Namespace("default") == nil {
			s.putNewNamespace("default")
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Problems are sentences about what the state directory lost.
func (c *Controller) Problems() []string { return c.problems }

// Store returns the Store that the Controller writes.
func (c *Controller) Store() *cluster.Store { return c.store }

// Events are what the Controller has to tell of objects. Who runs nodes and pods
// adds to them.
func (c *Controller) Events() *Events { return c.events }

// Close ends the use of the state directory.
func (c *Controller) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.journal == nil {
		return nil
	}
	return c.journal.close()
}

// Run answers to what is reported through the Store, until ctx ends. Apply and
// Delete decide at once and do not need it.
func (c *Controller) Run(ctx context.Context) {
	w := c.store.Watch()
	defer w.Close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.C():
			w.Next()
		case <-timer.C:
		}
		if err := c.Reconcile(); err != nil {
			c.cfg.Log.Error("reconcile", "err", err)
			timer.Reset(time.Second)
			continue
		}
		if wake := c.nextWake(); wake.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(0, wake.Sub(c.cfg.Clock())))
		}
	}
}

func (c *Controller) nextWake() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wake
}

// Reconcile decides what is to be decided now. Run calls it; tests that have a
// Clock of their own may.
func (c *Controller) Reconcile() error { return c.update(func(*step) error { return nil }) }

// now is the time as it is kept: UTC, whole seconds, as Kubernetes has it.
func (c *Controller) now() time.Time { return c.cfg.Clock().UTC().Truncate(time.Second) }

// step is one transaction: a change by a person, and all that follows from it.
type step struct {
	*Controller
	tx   *cluster.Txn
	now  time.Time
	said said
}

// update runs fn and then decides what follows, writes it to the state
// directory and lets the world see it: all or nothing. Then come the events.
func (c *Controller) update(fn func(*step) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var events []cluster.Event
	err := c.store.Update(cluster.Desired, func(tx *cluster.Txn) error {
		s := &step{Controller: c, tx: tx, now: c.now()}
		before := tx.Own()
		if err := fn(s); err != nil {
			return err
		}
		err := s.decide()
		if err == nil && c.journal != nil {
			err = c.journal.write(before, tx.Own())
		}
		if err != nil {
			c.index.recheck = true
			return err
		}
		events = s.eventsSince(before)
		s.wake = s.index.next()
		return nil
	})
	if err != nil {
		return err
	}
	for _, e := range events {
		c.events.Record(e)
	}
	return nil
}

// put stores a new or changed object, as of this step.
func (s *step) put(o cluster.Object) {
	o.Metadata().ResourceVersion = s.tx.Revision()
	s.tx.Put(o)
}

// create fills in what a new object gets.
func (s *step) create(m *cluster.Meta) {
	m.UID, m.Created, m.Generation = s.cfg.UID(), s.now, 1
	m.Deleted = time.Time{}
}

// randomUID returns a random UUID (RFC 9562, version 4).
func randomUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return formatUUID(b, 4)
}

// formatUUID writes a UUID of the version, whose other bits are those of b.
func formatUUID(b [16]byte, version byte) string {
	b[6], b[8] = b[6]&0x0f|version<<4, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
