package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
)

// serviceFlags say how a cluster treats services.
type serviceFlags struct {
	cidrs, nodePorts []string
	balancers        []string
	portRange        string
	externalClient   string
	masqueradeAll    bool
}

// add makes the flags part of f. when says which use they are for.
func (s *serviceFlags) add(f *pflag.FlagSet, when string) {
	f.StringArrayVar(&s.cidrs, "service-cidr", nil, "range of services, one per family (default 10.96.0.0/16 and fd00:10:96::/112)"+when)
	f.StringArrayVar(&s.balancers, "load-balancer-cidr", nil, "range that load balancers get addresses of, one per family (default 172.30.0.0/24 and fd00:10:30::/112)"+when)
	f.StringVar(&s.portRange, "node-port-range", "30000-32767", "ports of nodes that services may have, FIRST-LAST"+when)
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
	return []string{"service-cidr", "load-balancer-cidr", "node-port-range", "external-client", "nodeport-addresses", "masquerade-all"}
}

// pools writes what the flags say of what services get into c.
func (s *serviceFlags) pools(c *control.Config) (err error) {
	if err := parsePrefixes("service-cidr", s.cidrs, &c.ServiceCIDRs); err != nil {
		return err
	}
	if err := parsePrefixes("load-balancer-cidr", s.balancers, &c.LoadBalancerCIDRs); err != nil {
		return err
	}
	c.NodePorts, err = parsePortRange(s.portRange)
	return err
}

// parsePortRange reads FIRST-LAST; nothing is the default.
func parsePortRange(text string) (cluster.PortRange, error) {
	if text == "" {
		return control.Default().NodePorts, nil
	}
	first, last, ok := strings.Cut(text, "-")
	a, err1 := strconv.ParseUint(first, 10, 16)
	b, err2 := strconv.ParseUint(last, 10, 16)
	if !ok || err1 != nil || err2 != nil || a == 0 || a > b {
		return cluster.PortRange{}, fmt.Errorf("--node-port-range %q is not a range of ports such as 30000-32767", text)
	}
	return cluster.PortRange{First: uint16(a), Last: uint16(b)}, nil
}

// to writes what the flags say of how nodes treat services into c.
func (s *serviceFlags) to(c *agent.ServiceConfig) error {
	if s.externalClient != agent.PreserveClient && s.externalClient != agent.MasqueradeClient {
		return fmt.Errorf("--external-client %q: use %s or %s", s.externalClient, agent.PreserveClient, agent.MasqueradeClient)
	}
	c.ExternalClient, c.MasqueradeAll = s.externalClient, s.masqueradeAll
	return parsePrefixes("nodeport-addresses", s.nodePorts, &c.NodePortAddresses)
}
