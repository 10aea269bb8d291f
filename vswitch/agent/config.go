package agent

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"vswitch/nat"
	"vswitch/overlay/gossip"
	"vswitch/vswitch/cluster"
)

// Config is all that a node is told. The zero value is not usable; start from
// Default. It is written as YAML with the names in the tags; unknown fields
// are errors.
type Config struct {
	// Name is the node's name, unique in the cluster.
	Name string `json:"name"`
	// Cluster tells clusters apart: nodes of another one are refused.
	Cluster string `json:"cluster"`
	// RuntimeDir holds the API socket and what lives as long as the machine
	// runs (conntrack). StateDir holds what must outlive it (leases, identity).
	RuntimeDir string `json:"runtimeDir"`
	StateDir   string `json:"stateDir"`

	// Labels are announced to other nodes (zone and the like).
	Labels map[string]string `json:"labels,omitempty"`
	// Addresses are the node's own addresses, one per family (InternalIP).
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// ExtraAddresses are further addresses of the node. Other nodes are told of
	// the first eight, but in mode direct of none.
	ExtraAddresses []netip.Addr `json:"extraAddresses,omitempty"`
	// NodeCIDRs are ranges of nodes' own addresses, whether the node that has one
	// is known and up or not: no client outside has an address in them.
	NodeCIDRs []netip.Prefix `json:"nodeCIDRs,omitempty"`
	// PodCIDRs are the node's pod ranges. Empty: a free one per family is
	// taken from ClusterCIDRs.
	PodCIDRs []netip.Prefix `json:"podCIDRs,omitempty"`
	// ClusterCIDRs are the ranges of all pods, at most one per family.
	ClusterCIDRs []netip.Prefix `json:"clusterCIDRs"`
	// NodeMask4 and NodeMask6 are the prefix lengths cut from ClusterCIDRs.
	NodeMask4 int `json:"nodeMask4"`
	NodeMask6 int `json:"nodeMask6"`
	// PodMTU of pod interfaces, bytes. 0: what fits the overlay.
	PodMTU int `json:"podMTU,omitempty"`

	Overlay  OverlayConfig `json:"overlay"`
	Uplink   UplinkConfig  `json:"uplink"`
	Gossip   GossipConfig  `json:"gossip"`
	Services ServiceConfig `json:"services"`
	Policy   PolicyConfig  `json:"policy"`
	DNS      DNSConfig     `json:"dns,omitzero"`
	// Control is the unix socket of whoever decides what is desired: services,
	// their endpoints, policies, and the pods that they select. Empty: the node
	// knows of no services and no policies.
	Control string `json:"control,omitempty"`

	// Ports are pods that the node attaches by itself.
	Ports []PortConfig `json:"ports,omitempty"`

	// MaxFlows bounds connection tracking.
	MaxFlows int `json:"maxFlows"`
	// Timeouts are those of connection tracking that are not the default, by
	// name (nat.Timeouts.Set): tcpEstablished, udp and so on.
	Timeouts map[string]Duration `json:"timeouts,omitempty"`
	// Workers is the number of packet threads.
	Workers int `json:"workers"`
	// PodReuseAfter is how long a released pod address stays unused, if
	// others are free.
	PodReuseAfter Duration `json:"podReuseAfter"`
}

// OverlayConfig is the node's VXLAN endpoint.
type OverlayConfig struct {
	// Mode is "vxlan" or "direct" (no encapsulation, through a TUN uplink).
	Mode string `json:"mode"`
	// Listen is the underlay address and UDP port of this node (8472 is what
	// flannel uses). A port of 0 takes a free one; mode direct uses none.
	Listen netip.AddrPort `json:"listen"`
	// VNI is the VXLAN network identifier, 24 bits; flannel's is 1.
	VNI uint32 `json:"vni"`
	// UnderlayMTU is the largest IP packet of the network between nodes.
	UnderlayMTU int `json:"underlayMTU"`
	// Offload allows UDP_SEGMENT and UDP_GRO where the system has them.
	Offload bool `json:"offload"`
}

// GossipConfig is how the node finds the others.
type GossipConfig struct {
	// Listen is the address and port of memberlist, TCP and UDP.
	Listen netip.AddrPort `json:"listen"`
	// Join are addresses of other nodes, tried until one answers, and again
	// whenever this node finds itself alone.
	Join []netip.AddrPort `json:"join,omitempty"`
	// KeyFile holds the keyring: base64 keys of 16, 24 or 32 bytes, a line
	// each, the first one encrypts. Empty: no encryption.
	KeyFile string `json:"keyFile,omitempty"`
}

// Default returns the configuration of a node of a small cluster on one machine
// or one network of MTU 1500.
func Default() Config {
	return Config{
		Cluster:      "vswitch",
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/56")},
		NodeMask4:    24,
		NodeMask6:    64,
		Overlay: OverlayConfig{Mode: modeVXLAN, VNI: 1, UnderlayMTU: 1500, Offload: true,
			Listen: netip.MustParseAddrPort("127.0.0.1:8472")},
		Uplink:        UplinkConfig{Device: "vswitch0", Routes: RoutesAll, RouteProtocol: 86},
		Gossip:        GossipConfig{Listen: netip.MustParseAddrPort("127.0.0.1:7946")},
		Services:      ServiceConfig{ExternalClient: PreserveClient, NodePorts: cluster.PortRange{First: 30000, Last: 32767}},
		Policy:        PolicyConfig{Established: CutEstablished},
		MaxFlows:      1 << 20,
		Workers:       1,
		PodReuseAfter: Duration(2 * time.Minute),
	}
}

// Duration is a time.Duration that is written as "1m30s".
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// Validate returns all that is wrong with c, each error naming its field.
func (c *Config) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	if c.Name == "" {
		bad("name", "is empty; every node needs a name of its own")
	}
	if c.RuntimeDir == "" {
		bad("runtimeDir", "is empty; give a directory that only the node's user can write")
	}
	if c.StateDir == "" {
		bad("stateDir", "is empty; give a directory that outlives a restart")
	}
	families := map[bool]bool{}
	for i, p := range c.ClusterCIDRs {
		field := fmt.Sprintf("clusterCIDRs[%d]", i)
		if p != p.Masked() {
			bad(field, "%s has bits set behind its prefix; did you mean %s?", p, p.Masked())
		}
		if families[p.Addr().Is4()] {
			bad(field, "%s is a second range of one family; give at most one per family", p)
		}
		families[p.Addr().Is4()] = true
	}
	for i, p := range c.PodCIDRs {
		field := fmt.Sprintf("podCIDRs[%d]", i)
		if p != p.Masked() {
			bad(field, "%s has bits set behind its prefix; did you mean %s?", p, p.Masked())
		}
		inside := false
		for _, cc := range c.ClusterCIDRs {
			inside = inside || cc.Overlaps(p) && cc.Bits() <= p.Bits()
		}
		if !inside {
			bad(field, "%s lies outside clusterCIDRs %v", p, c.ClusterCIDRs)
		}
	}
	if len(c.PodCIDRs) == 0 && len(c.ClusterCIDRs) == 0 {
		bad("podCIDRs", "neither podCIDRs nor clusterCIDRs are given; pods could have no address")
	}
	if c.PodMTU != 0 && (c.PodMTU < 1280 || c.PodMTU > 65521) {
		bad("podMTU", "%d is outside 1280..65521", c.PodMTU)
	}
	smallest := 1350 // what leaves IPv6 pods their 1280 inside of VXLAN
	switch c.Overlay.Mode {
	case modeVXLAN:
		c.validateNoUplink(bad)
	case modeDirect:
		smallest = 1280
		c.validateDirect(bad)
	default:
		bad("overlay.mode", "%q is not a mode; use %s or %s", c.Overlay.Mode, modeVXLAN, modeDirect)
	}
	if c.Overlay.VNI >= 1<<24 {
		bad("overlay.vni", "%d does not fit 24 bits", c.Overlay.VNI)
	}
	if c.Overlay.UnderlayMTU < smallest || c.Overlay.UnderlayMTU > 65535 {
		bad("overlay.underlayMTU", "%d is outside %d..65535", c.Overlay.UnderlayMTU, smallest)
	}
	c.validatePorts(bad)
	c.validateServices(bad)
	c.validatePolicy(bad)
	c.validateDNS(bad)
	c.validateNodeCIDRs(bad)
	if c.MaxFlows < 1024 || c.MaxFlows > 1<<26 {
		bad("maxFlows", "%d is outside 1024..%d", c.MaxFlows, 1<<26)
	}
	if _, err := c.timeouts(); err != nil {
		bad("timeouts", "%v", err)
	}
	if c.Workers < 1 || c.Workers > 64 {
		bad("workers", "%d is outside 1..64", c.Workers)
	}
	return errors.Join(errs...)
}

// timeouts are those of connection tracking.
func (c *Config) timeouts() (nat.Timeouts, error) {
	ts := nat.DefaultTimeouts()
	for _, name := range slices.Sorted(maps.Keys(c.Timeouts)) {
		if err := ts.Set(name, time.Duration(c.Timeouts[name])); err != nil {
			return ts, err
		}
	}
	return ts, ts.Validate()
}

func (c *Config) validateNodeCIDRs(bad func(field, format string, args ...any)) {
	for i, p := range c.NodeCIDRs {
		field := fmt.Sprintf("nodeCIDRs[%d]", i)
		if !p.IsValid() {
			bad(field, "is no range such as 172.29.0.0/16")
			continue
		}
		if p != p.Masked() {
			bad(field, "%s has bits set behind its prefix; did you mean %s?", p, p.Masked())
		}
		for _, o := range slices.Concat(c.ClusterCIDRs, c.PodCIDRs, c.Services.CIDRs) {
			if o.Overlaps(p) {
				bad(field, "%s overlaps %s of pods or services", p, o)
				break
			}
		}
	}
}

// announced are the further addresses that other nodes are told of, and how many
// are not.
func (c *Config) announced() (extra []netip.Addr, untold int) {
	if c.Overlay.Mode == modeDirect {
		return nil, 0
	}
	for _, a := range c.ExtraAddresses {
		if !slices.Contains(c.Addresses, a) && !slices.Contains(extra, a) {
			extra = append(extra, a)
		}
	}
	if untold = len(extra) - gossip.MaxExtraAddresses; untold > 0 {
		return extra[:gossip.MaxExtraAddresses], untold
	}
	return extra, 0
}

// allAddresses are the node's own, the first of each family first.
func (c *Config) allAddresses() []netip.Addr {
	return slices.Concat(c.Addresses, c.ExtraAddresses)
}

// CheckFiles returns what is wrong with the files that c names. A key file that
// is missing must not make a node that does without encryption.
func (c *Config) CheckFiles() error {
	if c.Gossip.KeyFile == "" {
		return nil
	}
	if err := gossip.CheckKeyFile(c.Gossip.KeyFile); err != nil {
		return fmt.Errorf("gossip.keyFile: %w", err)
	}
	return nil
}
