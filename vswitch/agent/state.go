package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"vswitch/overlay/gossip"
)

// stateVersion is that of the file's format.
const stateVersion = 1

// state is what a node must not forget: its pods and their addresses, the
// ranges it took, and when addresses were given back.
type state struct {
	Version  int            `json:"version"`
	Node     string         `json:"node"`
	PodCIDRs []netip.Prefix `json:"podCIDRs"`
	Pods     []PodStatus    `json:"pods"`
	Released []release      `json:"released,omitempty"`
	// Own is the node port.
	Own *PortStatus `json:"own,omitempty"`
	// Claims are the node's claims on its ranges, as gossip had them.
	Claims []gossip.Claim `json:"claims,omitempty"`
}

// loadState reads the state of the node. A missing file is an empty state. A
// file that cannot be understood is set aside, and what is wrong with it is
// returned as a problem: pods are then known again when they are next attached.
func loadState(dir, node string) (s state, problem error, err error) {
	s = state{Version: stateVersion, Node: node}
	path := filepath.Join(dir, "state.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil, nil
	}
	if err != nil {
		return s, nil, fmt.Errorf("read state: %w", err)
	}
	var got state
	switch err := json.Unmarshal(data, &got); {
	case err != nil:
		problem = fmt.Errorf("%s is damaged (%v)", path, err)
	case got.Version != stateVersion:
		problem = fmt.Errorf("%s has version %d, this program reads %d", path, got.Version, stateVersion)
	case got.Node != node:
		problem = fmt.Errorf("%s belongs to node %s", path, got.Node)
	default:
		return got, nil, nil
	}
	aside := fmt.Sprintf("%s.bad-%d", path, time.Now().Unix())
	if err := os.Rename(path, aside); err != nil {
		return s, nil, fmt.Errorf("set the damaged state aside: %w", err)
	}
	return s, fmt.Errorf("%w; it was set aside as %s and the node starts afresh", problem, aside), nil
}

// saveState writes the state so that a crash at any moment leaves the old one
// or the new one.
func saveState(dir string, s state) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "state-*.tmp")
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(data, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, "state.json")); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	defer d.Close()
	// Not every system can sync a directory; the rename is then as durable as
	// the system makes it.
	_ = d.Sync()
	return nil
}
