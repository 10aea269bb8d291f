package lab

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/netns"
)

// space is the network namespace that stands for a node's own network: its
// programs, its pods of hostNetwork and the probes of its pods are in it. It
// lives as long as the node is part of the cluster, over all of its processes.
type space struct {
	node string
	ns   string // path of the namespace
	etc  string // directory of its files in /etc
}

// newSpace names the space of a node. Nothing is made.
func newSpace(dir, node string) *space {
	// No pod's namespace has that name: theirs begin with a letter or digit.
	return &space{node: node, ns: filepath.Join(dir, netnsDir, "@"+node), etc: filepath.Join(nodeDir(dir, node), "etc")}
}

func (s *space) open() error { return makeNS(s.ns) }

// writeEtc writes what programs in the space see in /etc.
func (s *space) writeEtc(n *cluster.Node) error {
	p := &cluster.Pod{Meta: cluster.Meta{Name: s.node}, Node: s.node, HostNetwork: true}
	return writeEtc(s.etc, p, slices.Concat(n.Addresses, n.ExtraAddresses), "", nil)
}

// close ends all that is in the space, and then the space.
func (s *space) close(log *slog.Logger) {
	if inode := inodeOf(s.ns); inode != 0 {
		killMembers("net", inode)
	}
	if err := netns.Delete(s.ns); err != nil {
		log.Error("namespace stays", "err", err)
	}
}

// makeNS makes a namespace that has only lo, unless there is one.
func makeNS(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := netns.New(path); err != nil {
		return err
	}
	return netns.Do(path, func() error { return netns.SetUp("lo") })
}
