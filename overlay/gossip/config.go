package gossip

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"
)

// Config is all that a Gossip is told. Start from Default; the zero value is
// not usable.
type Config struct {
	// Name is the node's name, unique in the cluster, 1 to 253 bytes.
	Name string
	// Cluster tells clusters apart, 1 to 64 bytes: packets and nodes of
	// another one are refused. It is no secret; Keys are.
	Cluster string

	// Listen is the address and port of memberlist, UDP and TCP. Port 0 takes
	// a free one. It is not used if Transport is set.
	Listen netip.AddrPort
	// Advertise is where others reach Listen. The zero value means Listen, or
	// the address of Self.Underlay where Listen is 0.0.0.0 or [::].
	Advertise netip.AddrPort
	// Join are addresses of other nodes. They are tried at the start, and
	// again whenever one of them is not a live member. The node's own address
	// may be among them, so that all nodes can have the same list.
	Join []netip.AddrPort

	// Keys encrypt the traffic with AES-GCM: 16, 24 or 32 bytes each, the
	// first one encrypts, all of them decrypt. None: no encryption, and whoever
	// reaches the port can speak.
	Keys [][]byte
	// KeyFile keeps the keyring over a restart, so that a rotation is not
	// undone: base64 keys, one a line, the first one encrypts. If the file
	// exists its keys are used instead of Keys; if not, Keys are written to it,
	// and it is an error if there are none.
	KeyFile string

	// Self are the node's own facts. SetSelf changes them later.
	Self Facts
	// PodCIDRs are the ranges the node gives to its pods, at most 8. Empty:
	// the node claims a free range per family of ClusterCIDRs.
	PodCIDRs []netip.Prefix
	// LastClaims are the claims of an earlier life of this node, as State
	// showed them in Self.Claims. With them a restarted node keeps its ranges
	// and its rank in a conflict. They may be empty.
	LastClaims []Claim
	// ClusterCIDRs are the ranges of all pods, at most one per family. What
	// lies outside is refused from peers, too. Empty: no such check, and then
	// PodCIDRs must be given.
	ClusterCIDRs []netip.Prefix
	// NodeMask4 and NodeMask6 are the prefix lengths of the ranges that are
	// cut from ClusterCIDRs: longer means more nodes with fewer pods each.
	NodeMask4, NodeMask6 int

	// Timing is LAN or Local, or tuned by hand.
	Timing Timing

	// Transport replaces UDP and TCP sockets; Network has one in memory.
	// Gossip owns it from Start on and shuts it down.
	Transport memberlist.Transport
	// Logger receives membership changes (info), conflicts (warn, error), and
	// what memberlist itself logs (debug, warn). Nil discards.
	Logger *slog.Logger
}

// Timing says how quickly things are noticed, and what that costs in packets
// and in false alarms on a slow machine. All durations must be positive.
type Timing struct {
	// ProbeInterval is the time between two probes that this node sends, each
	// to one member. ProbeTimeout is how long the answer may take before other
	// members are asked to try; it should be the 99th percentile of the round
	// trip time, and less than ProbeInterval.
	ProbeInterval, ProbeTimeout time.Duration
	// A member that does not answer is suspected for SuspicionMult * log10(N) *
	// ProbeInterval (log10(N) at least 1) if other members agree, and up to
	// SuspicionMaxMult times as long if they do not, before it has failed.
	// Shorter loses routes sooner after a crash, and after a mere hiccup.
	SuspicionMult, SuspicionMaxMult int
	// AwarenessMax is the factor by which a node slows down its own probes when
	// it finds itself slow. 1 never does.
	AwarenessMax int
	// Every GossipInterval, news goes to GossipNodes random members.
	GossipInterval time.Duration
	GossipNodes    int
	// PushPull is the time between two complete comparisons with one random
	// member. It repairs what was lost everywhere else; it scales with log2(N)
	// above 32 members.
	PushPull time.Duration
	// Stream bounds a connection: dialling, and then the whole exchange.
	Stream time.Duration
	// DeadGossip is how long a failed member is still sent news, so that it can
	// object.
	DeadGossip time.Duration
	// Rejoin is the time between two attempts to reach seeds that are no
	// members and members that failed. It bounds how long a healed partition
	// stays apart.
	Rejoin time.Duration
	// Repair is how long a node that knows itself behind waits for what is on
	// its way before it asks for it.
	Repair time.Duration
	// ClaimWait is how long a starting node looks for its seeds before it
	// claims pod ranges without knowing the others; such a claim loses against
	// any other. A node without seeds that is to choose its ranges waits as
	// long for nodes that know it from an earlier life.
	ClaimWait time.Duration
	// ClaimSettle is how long a new claim waits for objections before the node
	// may give out addresses of it.
	ClaimSettle time.Duration
	// Forget is how long nodes that left or failed are listed, and failed ones
	// are looked for.
	Forget time.Duration
}

// LAN returns the timing for nodes on one network: a crash is noticed after 3
// to 7 seconds.
func LAN() Timing {
	return Timing{
		ProbeInterval: 500 * time.Millisecond, ProbeTimeout: 300 * time.Millisecond,
		SuspicionMult: 4, SuspicionMaxMult: 3, AwarenessMax: 8,
		GossipInterval: 200 * time.Millisecond, GossipNodes: 3,
		PushPull: 15 * time.Second, Stream: 5 * time.Second, DeadGossip: 30 * time.Second,
		Rejoin: 5 * time.Second, Repair: 300 * time.Millisecond,
		ClaimWait: 3 * time.Second, ClaimSettle: time.Second, Forget: 24 * time.Hour,
	}
}

// Local returns the timing for nodes that are processes of one machine: a
// crash is noticed after 1 to 2 seconds.
func Local() Timing {
	return Timing{
		ProbeInterval: 250 * time.Millisecond, ProbeTimeout: 125 * time.Millisecond,
		SuspicionMult: 3, SuspicionMaxMult: 2, AwarenessMax: 2,
		GossipInterval: 200 * time.Millisecond, GossipNodes: 3,
		PushPull: 5 * time.Second, Stream: time.Second, DeadGossip: 10 * time.Second,
		Rejoin: time.Second, Repair: 100 * time.Millisecond,
		ClaimWait: 500 * time.Millisecond, ClaimSettle: 200 * time.Millisecond, Forget: 10 * time.Minute,
	}
}

// Default returns the configuration of a node on a network, without a name,
// addresses and keys.
func Default() Config {
	return Config{
		Cluster:      "vswitch",
		Listen:       netip.MustParseAddrPort("127.0.0.1:7946"),
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/56")},
		NodeMask4:    24,
		NodeMask6:    64,
		Timing:       LAN(),
	}
}

// Validate returns all that is wrong with c, each error naming its field.
func (c *Config) Validate() error {
	var v faults
	if !validName(c.Name) {
		v.add("name", "%q is no node name; give 1 to %d printable bytes without spaces", c.Name, maxName)
	}
	if c.Cluster == "" || len(c.Cluster) > 64 {
		v.add("cluster", "has %d bytes; give 1 to 64", len(c.Cluster))
	}
	c.validateAddresses(&v)
	c.validateRanges(&v)
	for i, k := range c.Keys {
		if err := memberlist.ValidateKey(k); err != nil {
			v.add(fmt.Sprintf("keys[%d]", i), "has %d bytes; give 16, 24 or 32", len(k))
		}
	}
	if err := c.Self.validate(); err != nil {
		v.add("self", "%v", err)
	}
	c.Timing.validate(&v)
	return errors.Join(v...)
}

func (c *Config) validateAddresses(v *faults) {
	if c.Transport == nil {
		switch a := c.Listen.Addr(); {
		case !a.IsValid():
			v.add("listen", "is empty; give an address and a port, as 127.0.0.1:7946")
		case a.Zone() != "":
			v.add("listen", "%s has a zone, which other nodes do not know; give an address without", a)
		case a.IsUnspecified() && !c.Advertise.IsValid() && !c.Self.Underlay.IsValid():
			v.add("advertise", "is empty while listen is %s; give the address that others reach", a)
		}
	}
	if a := c.Advertise; a.IsValid() && (a.Addr().IsUnspecified() || a.Addr().Zone() != "") {
		v.add("advertise", "%s is no address that others reach", a)
	}
	for i, a := range c.Join {
		if !a.IsValid() || a.Addr().IsUnspecified() || a.Addr().Zone() != "" || a.Port() == 0 {
			v.add(fmt.Sprintf("join[%d]", i), "%s is no address and port of a node", a)
		}
	}
}

func (c *Config) validateRanges(v *faults) {
	for i, p := range c.ClusterCIDRs {
		field := fmt.Sprintf("clusterCIDRs[%d]", i)
		switch {
		case !validRange(p):
			v.add(field, "%s is no range; give one like 10.244.0.0/16, without bits behind the prefix", p)
		case slices.ContainsFunc(c.ClusterCIDRs[:i], func(o netip.Prefix) bool { return o.Addr().Is4() == p.Addr().Is4() }):
			v.add(field, "%s is a second range of its family; give at most one per family", p)
		}
		if mask := c.nodeMask(p); len(c.PodCIDRs) == 0 && p.IsValid() && (mask < p.Bits() || mask > p.Addr().BitLen() || mask-p.Bits() > 32) {
			v.add(field, "no ranges of /%d can be cut from %s; choose a node mask of %d to %d", mask, p, p.Bits(), min(p.Bits()+32, p.Addr().BitLen()))
		}
	}
	if len(c.PodCIDRs) == 0 && len(c.ClusterCIDRs) == 0 {
		v.add("podCIDRs", "neither podCIDRs nor clusterCIDRs are given; pods could have no address")
	}
	if len(c.PodCIDRs) > maxClaims {
		v.add("podCIDRs", "has %d ranges; at most %d can be announced", len(c.PodCIDRs), maxClaims)
	}
	for i, p := range c.PodCIDRs {
		field := fmt.Sprintf("podCIDRs[%d]", i)
		switch {
		case !validRange(p):
			v.add(field, "%s is no range; give one like 10.244.1.0/24, without bits behind the prefix", p)
		case !inside(p, c.ClusterCIDRs):
			v.add(field, "%s lies outside clusterCIDRs %v", p, c.ClusterCIDRs)
		case overlapsAny(p, c.PodCIDRs[:i]):
			v.add(field, "%s overlaps another one", p)
		}
	}
}

// nodeMask returns the prefix length of the ranges cut from p.
func (c *Config) nodeMask(p netip.Prefix) int {
	if p.Addr().Is4() {
		return c.NodeMask4
	}
	return c.NodeMask6
}

func (t *Timing) validate(v *faults) {
	for _, d := range []struct {
		name string
		d    time.Duration
	}{
		{"probeInterval", t.ProbeInterval}, {"probeTimeout", t.ProbeTimeout}, {"gossipInterval", t.GossipInterval},
		{"pushPull", t.PushPull}, {"stream", t.Stream}, {"deadGossip", t.DeadGossip}, {"rejoin", t.Rejoin},
		{"repair", t.Repair}, {"claimWait", t.ClaimWait}, {"claimSettle", t.ClaimSettle}, {"forget", t.Forget},
	} {
		if d.d <= 0 {
			v.add("timing."+d.name, "%s is not positive; start from LAN or Local", d.d)
		}
	}
	if t.ProbeTimeout >= t.ProbeInterval {
		v.add("timing.probeTimeout", "%s is not less than probeInterval %s", t.ProbeTimeout, t.ProbeInterval)
	}
	if t.SuspicionMult < 1 || t.SuspicionMaxMult < 1 || t.AwarenessMax < 1 || t.GossipNodes < 1 {
		v.add("timing", "suspicionMult, suspicionMaxMult, awarenessMax and gossipNodes must be at least 1")
	}
}

type faults []error

func (v *faults) add(field, format string, args ...any) {
	*v = append(*v, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
}
