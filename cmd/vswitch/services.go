package main

import (
	"fmt"

	"github.com/spf13/pflag"

	"vswitch/vswitch/agent"
)

// serviceFlags say how a cluster treats services.
type serviceFlags struct {
	cidrs, nodePorts []string
	externalClient   string
	masqueradeAll    bool
}

// add makes the flags part of f. when says which use they are for.
func (s *serviceFlags) add(f *pflag.FlagSet, when string) {
	f.StringArrayVar(&s.cidrs, "service-cidr", nil, "range of services, one per family (default 10.96.0.0/16 and fd00:10:96::/112)"+when)
	f.StringVar(&s.externalClient, "external-client", agent.PreserveClient,
		"what policy Cluster does with clients outside: preserve keeps their address, masquerade hides it as kube-proxy does"+when)
	f.StringArrayVar(&s.nodePorts, "nodeport-addresses", nil, "ranges of those node addresses that serve node ports (default the first of each node, per family)"+when)
	f.BoolVar(&s.masqueradeAll, "masquerade-all", false, "hide pods, too, from the backends of cluster IPs"+when)
}

// policyFlags say how a cluster treats network policy.
type policyFlags struct{ established string }

// add makes the flag part of f. when says which use it is for.
func (p *policyFlags) add(f *pflag.FlagSet, when string) {
	f.StringVar(&p.established, "policy-established", agent.CutEstablished,
		"what becomes of connections that policy no longer allows: cut ends them, keep lets them go on"+when)
}

// to writes what the flag says into c.
func (p *policyFlags) to(c *agent.PolicyConfig) error {
	if p.established != agent.CutEstablished && p.established != agent.KeepEstablished {
		return fmt.Errorf("--policy-established %q: use %s or %s", p.established, agent.CutEstablished, agent.KeepEstablished)
	}
	c.Established = p.established
	return nil
}

// names are the flags' names.
func (*serviceFlags) names() []string {
	return []string{"service-cidr", "external-client", "nodeport-addresses", "masquerade-all"}
}

// to writes what the flags say into c.
func (s *serviceFlags) to(c *agent.ServiceConfig) error {
	if s.externalClient != agent.PreserveClient && s.externalClient != agent.MasqueradeClient {
		return fmt.Errorf("--external-client %q: use %s or %s", s.externalClient, agent.PreserveClient, agent.MasqueradeClient)
	}
	c.ExternalClient, c.MasqueradeAll = s.externalClient, s.masqueradeAll
	if err := parsePrefixes("service-cidr", s.cidrs, &c.CIDRs); err != nil {
		return err
	}
	return parsePrefixes("nodeport-addresses", s.nodePorts, &c.NodePortAddresses)
}
