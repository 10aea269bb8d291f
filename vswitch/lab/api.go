package lab

import (
	"net/netip"
	"time"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
)

// The supervisor's API is HTTP with JSON bodies over a unix socket that only
// its user can open. Errors are an apiError with a status of 400 (ErrInput),
// 404 (ErrNotFound), 409 (ErrConflict) or 500.
//
//	GET  /v1/status
//	GET  /v1/state?after=REVISION     waits until there is a newer one
//	GET  /v1/events?after=REVISION    control.EventList; waits until there is a newer one
//	GET  /v1/inforce                  waits until all nodes that are ready go by the State of now
//	GET  /v1/nodes
//	GET  /v1/policies?reports=BOOL    []agent.PolicyState, of the nodes that are ready
//	GET  /v1/logs?namespace=&pod=&container=  or  ?node=    and LogOptions in JSON as options=
//	POST /v1/apply                    applyRequest -> []control.Result
//	POST /v1/isolate                  cluster.Objects -> []control.Result
//	POST /v1/delete                   []cluster.Ref -> []control.Result, also with an error
//	POST /v1/nodes/{name}             adds a node
//	POST /v1/nodes/{name}/{verb}      kill, stop or start
//	POST /v1/down                     answers when all pods and nodes have ended
type apiError struct {
	Message string `json:"error"`
	// Results are what was done all the same.
	Results []control.Result `json:"results,omitempty"`
}

// Status is a cluster as a whole.
type Status struct {
	Name string `json:"name"`
	// ID is the name by which the nodes know their cluster.
	ID      string    `json:"id"`
	Dir     string    `json:"dir"` // runtime directory
	Started time.Time `json:"started"`
	// Revision is that of the State.
	Revision uint64 `json:"revision"`
	Nodes    []Node `json:"nodes"`
	// Pods, Ready and Failing count pods.
	Pods    int `json:"pods"`
	Ready   int `json:"ready"`
	Failing int `json:"failing"` // those with a Reason
	// Warnings counts the events that are warnings.
	Warnings int `json:"warnings"`
	// Problems are sentences about what is not as it should be, those of nodes,
	// pods and services included, each with the object's name.
	Problems []string `json:"problems,omitempty"`
}

// Node is a node's process.
type Node struct {
	Name   string `json:"name"`
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"` // why it is not ready, or the first of Problems
	// Problems are what the node lacks, sentences each with its fix.
	Problems []string `json:"problems,omitempty"`
	// Held is set while StopNode keeps the process down.
	Held bool `json:"held,omitempty"`
	// PID is the process's in the cluster's own PID namespace; 0: none.
	PID int `json:"pid,omitempty"`
	// Restarts counts the ends of its process.
	Restarts int            `json:"restarts"`
	Started  time.Time      `json:"started,omitzero"` // of the process
	Underlay netip.AddrPort `json:"underlay"`
	Gossip   netip.AddrPort `json:"gossip"`
	// Socket is the path of the node's own API (agent.NewClient).
	Socket   string         `json:"socket"`
	PodCIDRs []netip.Prefix `json:"podCIDRs,omitempty"`
}

// ExitNotStarted is the exit code of a container whose command could not be
// started, which the pod's Reason then explains.
const ExitNotStarted = 128

// State is all objects of a cluster at a revision.
type State struct {
	Revision uint64 `json:"revision"`
	cluster.Objects
}

// StateOf returns all objects of a state.
func StateOf(s *cluster.State) *State {
	return &State{Revision: s.Revision, Objects: *s.Objects()}
}

// LogRequest names a log: that of a container (the first one if Container is
// empty), or of a node's process.
type LogRequest struct {
	Namespace, Pod, Container string
	Node                      string
	LogOptions
}

// ExecRequest is a command to run in a pod, a node, or outside of the cluster.
type ExecRequest struct {
	// Outside: the command runs outside of the cluster. Node is the node in
	// whose namespace it runs. Neither: a pod's.
	Outside   bool   `json:"outside,omitempty"`
	Node      string `json:"node,omitempty"`
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Container string `json:"container,omitempty"` // the first one if empty
	// Command is looked up in the container's PATH.
	Command []string `json:"command"`
	// Env are variables, KEY=value, beside those of the container.
	Env []string `json:"env,omitempty"`
	// TTY gives the command a terminal of its own, if the caller's standard
	// input is one.
	TTY bool `json:"tty,omitempty"`
}

// where is the place of the command, for people.
func (r *ExecRequest) where() string {
	switch {
	case r.Outside:
		return "the network outside"
	case r.Node != "":
		return "node " + r.Node
	}
	return "pod " + r.Namespace + "/" + r.Pod
}

// applyRequest is the body of an apply.
type applyRequest struct {
	Objects *cluster.Objects     `json:"objects"`
	Options control.ApplyOptions `json:"options"`
}
