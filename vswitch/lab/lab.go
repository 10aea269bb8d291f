// Package lab runs a cluster on this machine without root: N real node
// processes, and the pods' processes in network namespaces of their own.
//
// A command calls Start, which makes a runtime directory and starts this very
// program again, behind Subcommand, in new user, mount and PID namespaces but
// in the host's network:
//
//	vswitch up                      the command; may leave (Detach)
//	└─ init                         process 1: collects orphans, cleans up
//	   └─ supervisor                this package: nodes, pods, API, exec
//	      ├─ vswitch node ×N        one process a node (package agent)
//	      └─ shim → command ×M      one process a container, in its pod's namespaces
//
// When the supervisor ends, whatever the reason, init ends everything and
// removes the runtime directory; when init ends, the kernel kills all others.
// What even that leaves, files of a directory whose lock is free, the next
// Start removes. Other commands reach the supervisor with Open.
//
// The package owns processes, namespaces and the runtime directory. It decides
// nothing about objects, which is package control's part, and touches no
// packet. A pod is not a sandbox: its processes have the rights of the user who
// started the cluster. It needs Linux; elsewhere Start and Open fail.
package lab

import (
	"errors"
	"net/netip"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
)

// Subcommand is the first argument with which this program runs the processes
// of a cluster. A main function hands what follows it to Main:
//
//	if len(os.Args) > 1 && os.Args[1] == lab.Subcommand {
//		os.Exit(lab.Main(os.Args[2:]))
//	}
//
// It must also understand "node --config FILE".
const Subcommand = "lab-process"

// Errors by kind. The message of an error that wraps one is for people.
var (
	// ErrRunning says that a cluster of that name runs already.
	ErrRunning = errors.New("it is running already; take it down first, or choose another name")
	// ErrNotRunning says that no cluster of that name runs.
	ErrNotRunning = errors.New("it is not running")
	// ErrInput says that the caller's input is at fault.
	ErrInput = errors.New("bad input")
	// ErrNotFound says that there is no such object.
	ErrNotFound = errors.New("not found")
	// ErrConflict says that the state of an object forbids what was asked.
	ErrConflict = errors.New("conflict")
)

// DefaultNodes is how many nodes a cluster has if nobody says a number.
const DefaultNodes = 3

// Options are what a cluster is started with.
type Options struct {
	// Name tells the user's clusters apart: at most 40 lower-case letters,
	// digits and dashes.
	Name string `json:"name"`
	// Config is what all nodes have in common. Name, Cluster, the
	// directories, the addresses to listen on and the gossip settings are set
	// for each node.
	Config agent.Config `json:"config"`
	// Nodes is the number of nodes, node1 and so on, if Objects name none. With a
	// StateDir, 0 is as many as the last time, or DefaultNodes.
	Nodes int `json:"nodes"`
	// Objects is what runs in the cluster.
	Objects *cluster.Objects `json:"objects"`
	// NodeCIDRs are where the addresses of nodes come from, at most one a family.
	NodeCIDRs []netip.Prefix `json:"nodeCIDRs,omitempty"`
	// LoadBalancerCIDRs are where load balancers get their addresses, at most one a
	// family, and NodePorts the ports of nodes that services may have. Nil and zero
	// are control's defaults.
	LoadBalancerCIDRs []netip.Prefix    `json:"loadBalancerCIDRs,omitempty"`
	NodePorts         cluster.PortRange `json:"nodePorts"`
	// StateDir keeps objects and what was given out for them when the cluster goes
	// down, however it does, and the ranges: those that are nil or zero here are then
	// those of the last time. It is made if need be, and is one cluster's at a time.
	// Empty: nothing is kept.
	StateDir string `json:"stateDir,omitempty"`
	DNS      DNS    `json:"dns"`
	// Dir is the working directory of containers that name none. Path and
	// Home are their PATH and the HOME of their root. Empty: the caller's.
	Dir  string `json:"dir"`
	Path string `json:"path"`
	Home string `json:"home"`
	// Wait is how long Start waits for nodes and pods. 0 is 30 seconds.
	Wait time.Duration `json:"wait"`

	// Detach lets the cluster outlive the caller.
	Detach bool `json:"-"`
	// Progress is called with lines for people while Start waits; it may be nil.
	Progress func(line string) `json:"-"`
}

// Names in a runtime directory.
const (
	netnsDir   = "netns" // a pinned namespace a pod
	podsDir    = "pods"  // logs and /etc of each pod
	nodesDir   = "nodes" // configuration, state, log and API socket of each node
	apiSocket  = "api.sock"
	execSocket = "exec.sock"
)
