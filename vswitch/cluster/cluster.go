// Package cluster holds the nouns of a cluster, Node, Pod and what belongs to
// them, as plain values without behaviour, and the Store that merges them from
// several sources into one revisioned State.
//
// Objects are immutable once they are in a Store: whoever changes one stores a
// changed copy. The package knows neither YAML nor packets; package kube
// converts Kubernetes objects to these nouns and back. The JSON names of the
// fields are those of state files and of what a supervisor sends its nodes;
// they are not Kubernetes'.
package cluster

import (
	"encoding/json"
	"net/netip"
	"time"
)

// Key names a namespaced object.
type Key struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// String returns "namespace/name", or the bare name of a cluster-wide object.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// Meta is what every object has.
type Meta struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
	// ResourceVersion is the revision at which the object last changed.
	ResourceVersion uint64 `json:"resourceVersion,omitempty"`
	// Generation counts changes of what is desired of the object.
	Generation  int64             `json:"generation,omitempty"`
	Created     time.Time         `json:"created,omitzero"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// Deleted is when the object must be gone (deletionTimestamp): it is on
	// its way out. Zero for all others.
	Deleted time.Time `json:"deleted,omitzero"`
	// Source says where the object was read, "file:line", for messages.
	Source string `json:"source,omitempty"`
	// Manifest is the object as it was applied, defaults filled in, without
	// status: JSON in Kubernetes form. It keeps the fields that the nouns do
	// not have. Only package kube looks inside. Nil for an object that nobody
	// wrote down.
	Manifest json.RawMessage `json:"manifest,omitempty"`
}

// Key returns the object's name.
func (m *Meta) Key() Key { return Key{m.Namespace, m.Name} }

// Metadata returns m itself.
func (m *Meta) Metadata() *Meta { return m }

// Namespace groups objects; policy selects it by label.
type Namespace struct {
	Meta
	// IsolatesIngress is the DefaultDeny isolation of the annotation
	// net.beta.kubernetes.io/network-policy: its pods hear only what a policy
	// allows.
	IsolatesIngress bool `json:"isolatesIngress,omitempty"`
}

// Node is a machine, or a process that plays one.
type Node struct {
	Meta
	// Addresses are the node's own addresses (InternalIP), at most one per
	// family, the primary family first. They are not those of the underlay.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// ExtraAddresses are further addresses of the node (InternalIP), which
	// node ports may be told to listen on, and which masquerade never uses.
	ExtraAddresses []netip.Addr `json:"extraAddresses,omitempty"`
	// PodCIDRs are the ranges the node gives to its pods, at most one per family.
	PodCIDRs []netip.Prefix `json:"podCIDRs,omitempty"`
	// Underlay is where the node's overlay endpoint receives (VTEP address
	// and UDP port). Zero while it is unknown.
	Underlay netip.AddrPort `json:"underlay,omitzero"`
	// VTEPMAC is the inner destination MAC that this node expects from the
	// overlay (flannel's VtepMAC).
	VTEPMAC [6]byte `json:"vtepMAC,omitzero"`
	// Unschedulable keeps new pods away (kubectl cordon).
	Unschedulable bool `json:"unschedulable,omitempty"`
	// Ready is false while the node is known but not running.
	Ready bool `json:"ready,omitempty"`
	// Reason says why the node is not ready, a sentence.
	Reason string `json:"reason,omitempty"`
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
	Node string       `json:"node,omitempty"` // empty: not yet scheduled
	IPs  []netip.Addr `json:"ips,omitempty"`
	// NodeSelector are labels that the node must have.
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	// HostNetwork pods live in their node's network and have its addresses.
	HostNetwork   bool          `json:"hostNetwork,omitempty"`
	Hostname      string        `json:"hostname,omitempty"` // empty: the pod's name
	Subdomain     string        `json:"subdomain,omitempty"`
	RestartPolicy RestartPolicy `json:"restartPolicy,omitempty"`
	// InitContainers run one after the other, each to its end, before the
	// Containers start.
	InitContainers []Container `json:"initContainers,omitempty"`
	Containers     []Container `json:"containers,omitempty"`
	Owner          Key         `json:"owner,omitzero"` // the Deployment it is a replica of; zero for none
	OwnerUID       string      `json:"ownerUID,omitempty"`
	// HostAliases are lines for the pod's /etc/hosts.
	HostAliases []HostAlias `json:"hostAliases,omitempty"`
	// DNSPolicy says where the pod's /etc/resolv.conf comes from, and DNSConfig
	// what it has besides; empty is DNSClusterFirst.
	DNSPolicy DNSPolicy  `json:"dnsPolicy,omitempty"`
	DNSConfig *DNSConfig `json:"dnsConfig,omitempty"`
	// RunAsUser and RunAsGroup are nil where the manifest says nothing.
	RunAsUser  *int64 `json:"runAsUser,omitempty"`
	RunAsGroup *int64 `json:"runAsGroup,omitempty"`
	// GracePeriod is how long the processes have to end after SIGTERM.
	GracePeriod time.Duration `json:"gracePeriod,omitempty"`
	// BuiltIn is set where no container has a command, and the built-in
	// server answers in its place.
	BuiltIn bool `json:"builtIn,omitempty"`
	// NodeServes is what the pod's node serves at the pod's addresses by itself:
	// ServeDNS. The pod has no processes then. Empty: it has.
	NodeServes string `json:"nodeServes,omitempty"`

	Phase PodPhase `json:"phase,omitempty"`
	Ready bool     `json:"ready,omitempty"`
	// ReadyAt is when Ready last changed.
	ReadyAt  time.Time `json:"readyAt,omitzero"`
	Reason   string    `json:"reason,omitempty"` // why it is pending or failed, a sentence
	Restarts int       `json:"restarts,omitempty"`
	Started  time.Time `json:"started,omitzero"`
	// Statuses are the containers' own, init containers first, in the order
	// of the manifest; empty where nobody reports them.
	Statuses []ContainerStatus `json:"statuses,omitempty"`
}

// Ended reports whether all of the pod's processes have come to their end. Its
// addresses are free then.
func (p *Pod) Ended() bool { return p.Phase == PodSucceeded || p.Phase == PodFailed }

// ServeDNS is a pod that is the cluster's name server (Pod.NodeServes).
const ServeDNS = "dns"

// DNSPolicy says whom a pod asks for names (Kubernetes).
type DNSPolicy string

// DNS policies.
const (
	// DNSClusterFirst asks the cluster's name server; of a pod in its node's
	// network it is DNSDefault.
	DNSClusterFirst DNSPolicy = "ClusterFirst"
	// DNSClusterFirstWithHostNet asks the cluster's name server in any network.
	DNSClusterFirstWithHostNet DNSPolicy = "ClusterFirstWithHostNet"
	// DNSDefault asks those whom the node's machine asks.
	DNSDefault DNSPolicy = "Default"
	// DNSNone asks whom Pod.DNSConfig says.
	DNSNone DNSPolicy = "None"
)

// DNSConfig is what a pod's /etc/resolv.conf has besides what its DNSPolicy says.
type DNSConfig struct {
	Servers []netip.Addr `json:"servers,omitempty"`
	Search  []string     `json:"search,omitempty"`
	// Options are NAME or NAME:VALUE, as they are written there.
	Options []string `json:"options,omitempty"`
}

// HostAlias is a line of /etc/hosts.
type HostAlias struct {
	IP    netip.Addr `json:"ip"`
	Names []string   `json:"names"`
}

// Container is one process of a pod. Its image is not used.
type Container struct {
	Name  string `json:"name"`
	Image string `json:"image,omitempty"`
	// Command is command and args. Like Env it may hold $(VAR); Pod.Resolve
	// expands them.
	Command []string `json:"command,omitempty"`
	// Env are the variables in the order of the manifest, KEY=value. The ones
	// that EnvFields names have an empty value until Pod.Resolve.
	Env []string `json:"env,omitempty"`
	// EnvFields are the variables that take their value from the pod: name of
	// the variable to field path (status.podIP and the like).
	EnvFields  map[string]string `json:"envFields,omitempty"`
	WorkingDir string            `json:"workingDir,omitempty"`
	Ports      []ContainerPort   `json:"ports,omitempty"`
	// Sidecar is an init container that the next ones do not wait for, and
	// that runs as long as the pod does (restartPolicy Always of its own).
	Sidecar bool `json:"sidecar,omitempty"`
	// RunAsUser and RunAsGroup override the pod's.
	RunAsUser  *int64 `json:"runAsUser,omitempty"`
	RunAsGroup *int64 `json:"runAsGroup,omitempty"`
	// Startup holds back the other two until it has succeeded once. Liveness
	// restarts the container when it fails, Readiness takes it out of services.
	Startup   *Probe `json:"startup,omitempty"`
	Liveness  *Probe `json:"liveness,omitempty"`
	Readiness *Probe `json:"readiness,omitempty"`
	// PostStart runs when the container's process has been started. The container
	// does not count as running before it has succeeded, and must end if it fails.
	PostStart *Handler `json:"postStart,omitempty"`
	// PreStop runs before the container gets SIGTERM, within the grace period.
	PreStop *Handler `json:"preStop,omitempty"`
}

// ContainerPort is a port that a container says it serves.
type ContainerPort struct {
	Name     string     `json:"name,omitempty"`
	Port     uint16     `json:"port"`
	HostPort uint16     `json:"hostPort,omitempty"`
	HostIP   netip.Addr `json:"hostIP,omitzero"`
	Protocol uint8      `json:"protocol"` // packet.ProtoTCP, ProtoUDP or ProtoSCTP
}

// ContainerStatus is what became of a container.
type ContainerStatus struct {
	Name     string    `json:"name"`
	Running  bool      `json:"running,omitempty"`
	Ready    bool      `json:"ready,omitempty"`
	Restarts int       `json:"restarts,omitempty"`
	Started  time.Time `json:"started,omitzero"`
	// Finished is when it last ended; zero if it never did.
	Finished time.Time `json:"finished,omitzero"`
	ExitCode int       `json:"exitCode,omitempty"`
	// Reason is one word in Kubernetes' manner: Completed, Error, CrashLoopBackOff.
	Reason string `json:"reason,omitempty"`
}

// Deployment keeps a number of replicas of a template.
type Deployment struct {
	Meta
	Replicas int `json:"replicas"`
	// Selector are the labels by which the manifest selects its pods. They
	// are for showing: a replica knows its Deployment by Pod.Owner.
	Selector map[string]string `json:"selector,omitempty"`
	Template Pod               `json:"template"`
	// MaxSurge and MaxUnavailable are numbers of pods, percentages resolved.
	MaxSurge       int `json:"maxSurge,omitempty"`
	MaxUnavailable int `json:"maxUnavailable,omitempty"`
	// Recreate ends all old replicas before a new one starts.
	Recreate bool `json:"recreate,omitempty"`
	// Paused keeps a changed template from being rolled out.
	Paused bool `json:"paused,omitempty"`
	// MinReady is how long a replica must be ready to count as available.
	MinReady time.Duration `json:"minReady,omitempty"`
	// Serial is the number of replicas ever made; it names the next one.
	Serial uint64 `json:"serial,omitempty"`

	CurrentReplicas   int `json:"currentReplicas,omitempty"`
	UpdatedReplicas   int `json:"updatedReplicas,omitempty"` // of the present template
	ReadyReplicas     int `json:"readyReplicas,omitempty"`
	AvailableReplicas int `json:"availableReplicas,omitempty"`
}
