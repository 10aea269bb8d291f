package agent

import (
	"vswitch/policy"
	"vswitch/vswitch/cluster"
)

// PolicyConfig is how a node treats network policy. It must be the same on all
// nodes.
type PolicyConfig struct {
	// Established says what becomes of connections that policy no longer allows:
	// "cut" ends them, and resets those of TCP, "keep" lets them go on. New ones
	// are refused at once, whatever it says.
	Established string `json:"established,omitempty"`
}

// Values of PolicyConfig.Established.
const (
	CutEstablished  = "cut"
	KeepEstablished = "keep"
)

func (c *Config) validatePolicy(bad func(field, format string, args ...any)) {
	if e := c.Policy.Established; e != "" && e != CutEstablished && e != KeepEstablished {
		bad("policy.established", "%q is unknown; use %s or %s", e, CutEstablished, KeepEstablished)
	}
}

// Policies follows the network policies of a cluster, for the pods of one node.
type Policies struct {
	cfg      PolicyConfig
	compiler *policy.Compiler
	// count is the number of policies, and of namespaces that isolate their pods
	// by themselves.
	count int
}

// NewPolicies returns what the node of that name knows of policies: none yet.
func NewPolicies(cfg PolicyConfig, node string) *Policies {
	return &Policies{cfg: cfg, compiler: policy.NewCompiler(node)}
}

// Apply takes in what changed, and reports whether that makes a difference to
// the data plane.
func (p *Policies) Apply(c *cluster.Changes) bool {
	before := p.count
	for _, ch := range c.Namespaces {
		p.count += one(ch.New != nil && ch.New.IsolatesIngress) - one(ch.Old != nil && ch.Old.IsolatesIngress)
	}
	for _, ch := range c.NetworkPolicies {
		p.count += one(ch.New != nil) - one(ch.Old != nil)
	}
	for _, ch := range c.ClusterNetworkPolicies {
		p.count += one(ch.New != nil) - one(ch.Old != nil)
	}
	changed := p.compiler.Apply(c)
	return changed && p.count > 0 || (before == 0) != (p.count == 0)
}

// SetRanges tells where pods have their addresses, and of which ranges all pods are
// known: where it makes a difference who has an address, it is then not nobody's.
// It reports whether that makes a difference to the data plane.
func (p *Policies) SetRanges(r policy.Ranges) bool { return p.compiler.SetRanges(r) && p.count > 0 }

func one(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// set is what the data plane asks. Without policies there is nothing to ask.
func (p *Policies) set() *policy.Set {
	if p.count == 0 {
		return nil
	}
	return p.compiler.Set()
}

// PolicyState tells what the node has to do with network policy, with reports on
// all policies if asked for.
func (n *Node) PolicyState(reports bool) PolicyState {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := PolicyState{Node: n.cfg.Name, InUse: n.policies.count > 0, Established: n.cfg.Policy.Established, Drops: []PolicyDrop{}}
	if s.Established == "" {
		s.Established = CutEstablished
	}
	for _, d := range n.policies.compiler.Set().Drops() {
		s.Drops = append(s.Drops, PolicyDrop{Policy: d.Policy, Pod: d.Pod.String(), Direction: d.Direction.String(), Packets: d.Packets, Shared: d.Shared})
	}
	if !reports {
		return s
	}
	for _, r := range n.policies.compiler.Report() {
		s.Reports = append(s.Reports, PolicyReport{Policy: r.Policy, Pods: r.Pods, Local: r.Local, Problems: r.Problems,
			Unused: remarks(r.Unused), Shadowed: remarks(r.Shadowed)})
	}
	return s
}

func remarks(list []policy.Remark) (out []PolicyRemark) {
	for _, r := range list {
		out = append(out, PolicyRemark{Direction: r.Direction.String(), Rule: r.Rule, Text: r.Text})
	}
	return out
}

// SetPolicies makes the next world's policies those that p knows.
func (c *Compiler) SetPolicies(p *Policies) {
	c.next.Policy, c.next.KeepEstablished = p.set(), p.cfg.Established == KeepEstablished
}
