package lab

import (
	"errors"
	"fmt"
	"log/slog"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
)

// newController makes the one writer of what is wanted, and gives it what the
// cluster starts with. What is wrong with that is ErrInput.
func newController(store *cluster.Store, o *Options, log *slog.Logger) (*control.Controller, error) {
	cfg := control.Default()
	cfg.Nodes, cfg.Log, cfg.Dir = o.Nodes, log, o.StateDir
	cfg.DNS = o.DNS.Serve
	cfg.ClusterCIDRs = o.Config.ClusterCIDRs
	cfg.NodeMask4, cfg.NodeMask6 = o.Config.NodeMask4, o.Config.NodeMask6
	if len(o.NodeCIDRs) > 0 {
		cfg.NodeCIDRs = o.NodeCIDRs
	}
	cfg.ServiceCIDRs, cfg.LoadBalancerCIDRs = o.Config.Services.CIDRs, o.LoadBalancerCIDRs
	if o.NodePorts != (cluster.PortRange{}) {
		cfg.NodePorts = o.NodePorts
	}
	for _, p := range cfg.LoadBalancerCIDRs {
		for _, a := range outsideAddrs {
			if p.Contains(a.Addr()) {
				return nil, failure(ErrInput, "load-balancer-cidr: %s holds %s, the address of the client outside; choose another range", p, a.Addr())
			}
		}
	}
	c, err := control.New(store, cfg)
	if err != nil {
		return nil, failure(ErrInput, "%v", err)
	}
	if o.StateDir != "" {
		if err := keepRanges(o.StateDir, &cfg); err != nil {
			return nil, fmt.Errorf("state directory: %w", err)
		}
	}
	o.Config.Services.CIDRs = cfg.ServiceRanges()
	o.Config.Services.NodePorts = cfg.NodePorts
	o.Config.NodeCIDRs = cfg.NodeCIDRs
	objects := o.Objects
	if objects == nil {
		objects = &cluster.Objects{}
	}
	if _, err := c.Apply(objects, control.ApplyOptions{}); err != nil {
		return nil, failure(ErrInput, "%v", err)
	}
	return c, nil
}

// apply makes objects the desired ones.
func (s *supervisor) apply(o *cluster.Objects, opts control.ApplyOptions) ([]control.Result, error) {
	results, err := s.control.Apply(o, opts)
	if errors.Is(err, control.ErrConflict) || errors.Is(err, control.ErrExhausted) {
		err = failure(ErrInput, "%v", err)
	}
	return results, err
}

// isolate makes policies that could not be understood isolate what they select.
func (s *supervisor) isolate(o *cluster.Objects) ([]control.Result, error) {
	results, err := s.control.Isolate(o)
	if errors.Is(err, control.ErrConflict) {
		err = failure(ErrInput, "%v", err)
	}
	return results, err
}

// delete removes objects. A node that is deleted must also be forgotten as seen.
func (s *supervisor) delete(refs []cluster.Ref) ([]control.Result, error) {
	results, err := s.control.Delete(refs)
	switch {
	case errors.Is(err, control.ErrNotFound):
		err = failure(ErrNotFound, "%v", err)
	case errors.Is(err, control.ErrConflict):
		err = failure(ErrConflict, "%v", err)
	}
	return results, errors.Join(err, s.store.Update(cluster.Local, func(tx *cluster.Txn) error {
		for _, r := range results {
			if r.Kind == cluster.KindNode {
				tx.Delete(cluster.KindNode.Ref(r.Key))
			}
		}
		return nil
	}))
}

// addNode adds a node with ranges and addresses of its own.
func (s *supervisor) addNode(name string) error {
	if err := s.control.AddNode(name); err != nil {
		return failure(ErrConflict, "%v", err)
	}
	return nil
}
