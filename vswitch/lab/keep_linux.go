package lab

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
)

// A cluster leaves nothing behind, unless it has a state directory: there,
// package control keeps what was decided about objects, and this file keeps the
// ranges that it was decided by. Pods get new addresses, as with Kubernetes.

// rangesName is the file of a state directory that holds ranges.
const rangesName = "ranges.json"

// ranges are where nodes and services get what they get. Nil is not said.
type ranges struct {
	// Count is how many nodes there are if no manifest names one.
	Count         int               `json:"count,omitempty"`
	Cluster       []netip.Prefix    `json:"cluster,omitempty"`
	Nodes         []netip.Prefix    `json:"nodes,omitempty"`
	Services      []netip.Prefix    `json:"services,omitempty"`
	LoadBalancers []netip.Prefix    `json:"loadBalancers,omitempty"`
	NodePorts     cluster.PortRange `json:"nodePorts"`
}

// recall gives o those ranges of its state directory that the caller leaves
// open. Other ranges than before are refused where nodes have theirs of them: a
// node cannot change. Services keep what they have, and say so in a condition.
func (o *Options) recall() error {
	var kept ranges
	if o.StateDir != "" {
		var err error
		if o.StateDir, err = filepath.Abs(o.StateDir); err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
		path := filepath.Join(o.StateDir, rangesName)
		data, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(data, &kept)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return failure(ErrInput, "state directory: read %s: %v; give the ranges by flags and remove the file, or use another directory", path, err)
		}
	}
	for _, r := range []struct {
		flag  string
		said  *[]netip.Prefix
		kept  []netip.Prefix
		fixed bool
	}{
		{"cluster-cidr", &o.Config.ClusterCIDRs, kept.Cluster, true}, {"node-cidr", &o.NodeCIDRs, kept.Nodes, true},
		{"service-cidr", &o.Config.Services.CIDRs, kept.Services, false}, {"load-balancer-cidr", &o.LoadBalancerCIDRs, kept.LoadBalancers, false},
	} {
		switch {
		case r.kept == nil:
		case *r.said == nil:
			*r.said = r.kept
		case r.fixed && !slices.Equal(*r.said, r.kept):
			return failure(ErrInput, "%s: the nodes of state directory %s have theirs of %s, and keep it; leave the flag out, or use another directory",
				r.flag, o.StateDir, joinPrefixes(r.kept))
		}
	}
	if o.Nodes == 0 && o.StateDir != "" {
		o.Nodes = cmp.Or(kept.Count, DefaultNodes)
	}
	if o.Config.ClusterCIDRs == nil {
		o.Config.ClusterCIDRs = agent.Default().ClusterCIDRs
	}
	if o.NodePorts == (cluster.PortRange{}) {
		o.NodePorts = kept.NodePorts
	}
	return nil
}

func joinPrefixes(list []netip.Prefix) (text string) {
	for i, p := range list {
		if i > 0 {
			text += ","
		}
		text += p.String()
	}
	return text
}

// keepRanges writes down what the next start is to go by.
func keepRanges(dir string, cfg *control.Config) error {
	data, err := json.MarshalIndent(ranges{cfg.Nodes, cfg.ClusterCIDRs, cfg.NodeCIDRs, cfg.ServiceRanges(), cfg.LoadBalancerRanges(), cfg.NodePorts}, "", "\t")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, rangesName)
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// lockState makes a state directory, if need be, and takes its lock, which ends
// with the file.
func lockState(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, failure(ErrInput, "state directory: %v", err)
	}
	lock, err := tryLock(dir)
	if errors.Is(err, ErrRunning) {
		return nil, failure(ErrInput, "state directory %s: another cluster runs with it; take that down, or use another directory", dir)
	}
	if err != nil {
		return nil, failure(ErrInput, "state directory %s: %v", dir, err)
	}
	return lock, nil
}
