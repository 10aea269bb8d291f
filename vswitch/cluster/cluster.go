// Package cluster holds the nouns of a cluster, Node, Pod and what belongs to
// them, as plain values without behaviour, and the Store that merges them from
// several sources into one revisioned State.
//
// Objects are immutable once they are in a Store: whoever changes one stores a
// changed copy. The package knows neither YAML nor packets; package kube
// converts Kubernetes objects to these nouns and back.
package cluster

import (
	"net/netip"
	"time"
)

// Key names a namespaced object.
type Key struct{ Namespace, Name string }

// String returns "namespace/name", or the bare name of a cluster-wide object.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// Meta is what every object has.
type Meta struct {
	Namespace       string
	Name            string
	UID             string
	ResourceVersion uint64
	Created         time.Time
	Labels          map[string]string
	Annotations     map[string]string
	// Source says where the object was read, "file:line", for messages.
	Source string
}

// Key returns the object's name.
func (m *Meta) Key() Key { return Key{m.Namespace, m.Name} }

// Namespace groups objects; policy selects it by label.
type Namespace struct{ Meta }

// Node is a machine, or a process that plays one.
type Node struct {
	Meta
	// Addresses are the node's own addresses (InternalIP), at most one per
	// family, the primary family first. They are not those of the underlay.
	Addresses []netip.Addr
	// PodCIDRs are the ranges the node gives to its pods, at most one per family.
	PodCIDRs []netip.Prefix
	// Underlay is where the node's overlay endpoint receives (VTEP address
	// and UDP port). Zero while it is unknown.
	Underlay netip.AddrPort
	// VTEPMAC is the inner destination MAC that this node expects from the
	// overlay (flannel's VtepMAC).
	VTEPMAC [6]byte
	// Ready is false while the node is known but not running.
	Ready bool
}

// PodPhase is a pod's place in its life (Kubernetes PodPhase).
type PodPhase string

// Phases of a pod.
const (
	PodPending   PodPhase = "Pending"
	PodRunning   PodPhase = "Running"
	PodSucceeded PodPhase = "Succeeded"
	PodFailed    PodPhase = "Failed"
)

// RestartPolicy says when an ended container is started again.
type RestartPolicy string

// Restart policies (Kubernetes).
const (
	RestartAlways    RestartPolicy = "Always"
	RestartOnFailure RestartPolicy = "OnFailure"
	RestartNever     RestartPolicy = "Never"
)

// Pod is one or more processes that share addresses.
type Pod struct {
	Meta
	Node          string // empty: not yet scheduled
	IPs           []netip.Addr
	Hostname      string // empty: the pod's name
	Subdomain     string
	RestartPolicy RestartPolicy
	Containers    []Container
	Owner         Key // the Deployment it is a replica of; zero for none
	// RunAsUser and RunAsGroup are nil where the manifest says nothing.
	RunAsUser, RunAsGroup *int64
	// GracePeriod is how long the processes have to end after SIGTERM.
	GracePeriod time.Duration

	Phase  PodPhase
	Ready  bool
	Reason string // why it is pending or failed, a sentence
	// BuiltIn is set where no container has a command, and the built-in
	// server answers in its place.
	BuiltIn  bool
	Restarts int
	Started  time.Time
}

// Container is one process of a pod. Its image is not used.
type Container struct {
	Name       string
	Image      string
	Command    []string // command and args, $(VAR) expanded
	Env        []string // KEY=value
	WorkingDir string
	Ports      []ContainerPort
}

// ContainerPort is a port that a container says it serves.
type ContainerPort struct {
	Name     string
	Port     uint16
	HostPort uint16
	HostIP   netip.Addr
	Protocol uint8 // packet.ProtoTCP, ProtoUDP or ProtoSCTP
}

// Deployment keeps a number of replicas of a template.
type Deployment struct {
	Meta
	Replicas       int
	Selector       map[string]string
	Template       Pod
	MaxSurge       int
	MaxUnavailable int
	ReadyReplicas  int
}
