package agent

import (
	"net/netip"
	"time"
)

// The node's API is HTTP with JSON bodies over a unix socket that only its
// user can open. Errors are an Error body with a status of 400 (bad input),
// 404, 409 (conflict) or 500.
//
//	GET    /v1/status
//	GET    /v1/desired?revision=REV        Desired, once the node goes by a state as new as that
//	GET    /v1/pods/{namespace}/{name}/drained     when no young connection to the pod is left
//	PUT    /v1/pods/{namespace}/{name}     PodRequest -> PodStatus; the same request again changes nothing
//	DELETE /v1/pods/{namespace}/{name}
//	PUT    /v1/ports/node                  PortRequest -> PortStatus; the same request again changes nothing
//	DELETE /v1/ports/node
//	PUT    /v1/ports/outside               OutsideRequest -> OutsideStatus
//	DELETE /v1/ports/outside
//	GET    /v1/pods | /v1/nodes | /v1/routes | /v1/neighbors | /v1/flows
//	GET    /v1/policies?reports=BOOL       PolicyState
//	POST   /v1/trace                       TraceRequest -> TraceResult
//	GET    /v1/capture?port=NAME           pcapng until the client hangs up
//	GET    /v1/sights?port=NAME            Sight, a line each, until the client hangs up
//	GET    /v1/events?verdict=V&reason=R   Event, a line each, until the client hangs up; both may be repeated
//	GET    /v1/keys                        KeyStatus of every live node
//	POST   /v1/keys/{install|use|remove|rotate}    KeyRequest -> KeyStatus of every live node
type Error struct {
	Message string `json:"error"`
}

// PortSpec is what a pod's port is to be, or is.
type PortSpec struct {
	// Kind says what the port is (PortTAP and so on); empty asks for PortTAP.
	Kind string `json:"kind,omitempty"`
	// NetNS is the path of the pod's network namespace, which must be open to
	// the node for as long as the pod is attached. For devices, on Linux.
	NetNS string `json:"netns,omitempty"`
	// Interface is the name of the pod's interface, eth0 if empty. For devices.
	Interface string `json:"interface,omitempty"`
	// Socket is the absolute path of the unix socket that a machine is at, and
	// Connect makes the node connect to it instead of listening. Of a datagram
	// port it is the node's socket, and Remote that of the machine; without
	// Remote, whoever sends first is the machine.
	Socket  string `json:"socket,omitempty"`
	Connect bool   `json:"connect,omitempty"`
	Remote  string `json:"remote,omitempty"`
	// MAC of the pod; empty: one that is made from its first address.
	MAC string `json:"mac,omitempty"`
	// MTU of the interface in bytes; 0 is the node's default.
	MTU int `json:"mtu,omitempty"`
}

// PodRequest asks a node to attach a pod.
type PodRequest struct {
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	UID       string            `json:"uid"`
	Labels    map[string]string `json:"labels,omitempty"`
	PortSpec
	// IPs asks for particular addresses of the node's CIDRs; empty lets the
	// node choose.
	IPs []netip.Addr `json:"ips,omitempty"`
}

// PodStatus is a pod as its node sees it.
type PodStatus struct {
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	UID       string            `json:"uid"`
	Labels    map[string]string `json:"labels,omitempty"`
	Node      string            `json:"node"`
	IPs       []netip.Addr      `json:"ips"`
	// Local pods only.
	PortSpec
	// Configured: the node's own configuration has it (ports), nobody asked.
	Configured bool         `json:"configured,omitempty"`
	Gateways   []netip.Addr `json:"gateways,omitempty"`
	Counters   *Counters    `json:"counters,omitempty"`
}

// PortRequest asks a node to attach its node port: a TAP in a network namespace
// that is the node's own. It holds the node's addresses, which are the switch's
// without it. On Linux, not in mode direct, where the host has them.
type PortRequest struct {
	// NetNS is the path of the namespace, which must be open to the node for as
	// long as the port is attached.
	NetNS string `json:"netns"`
	// Interface is the name of the TAP, eth0 if empty.
	Interface string `json:"interface,omitempty"`
	// MTU of the interface in bytes; 0 is that of pods.
	MTU int `json:"mtu,omitempty"`
}

// PortStatus is the node port as it is.
type PortStatus struct {
	NetNS     string       `json:"netns"`
	Interface string       `json:"interface"`
	MTU       int          `json:"mtu"`
	MAC       string       `json:"mac"`
	Addresses []netip.Addr `json:"addresses"`
	Counters  *Counters    `json:"counters,omitempty"`
}

// OutsideRequest asks a node to attach its outside port: a unix datagram socket,
// a frame each, by which clients that are not of the cluster reach the node.
type OutsideRequest struct {
	// Socket is the node's, Remote that of who is out there.
	Socket string `json:"socket"`
	Remote string `json:"remote"`
	// Prefixes are the ranges that are out there.
	Prefixes []netip.Prefix `json:"prefixes"`
	// MTU of packets in bytes; 0 is that of pods.
	MTU int `json:"mtu,omitempty"`
}

// OutsideStatus is the outside port as it is.
type OutsideStatus struct {
	OutsideRequest
	// GatewayMAC is whom frames from outside must be addressed to.
	GatewayMAC string `json:"gatewayMAC"`
}

// Counters of a port, from the switch's point of view: Rx is what the port
// delivered to the switch. Bytes are of frames; a superpacket counts as its segments.
type Counters struct {
	RxPackets uint64            `json:"rxPackets"`
	RxBytes   uint64            `json:"rxBytes"`
	TxPackets uint64            `json:"txPackets"`
	TxBytes   uint64            `json:"txBytes"`
	Drops     map[string]uint64 `json:"drops,omitempty"` // by reason
}

// Status is a node's view of itself.
type Status struct {
	Name      string         `json:"name"`
	Version   string         `json:"version"`
	PID       int            `json:"pid"`
	Started   time.Time      `json:"started"`
	Ready     bool           `json:"ready"`
	Problems  []string       `json:"problems,omitempty"` // sentences, each with its fix
	NodePort  *PortStatus    `json:"nodePort,omitempty"` // nil: not attached
	Underlay  netip.AddrPort `json:"underlay"`
	Gossip    netip.AddrPort `json:"gossip"`
	Addresses []netip.Addr   `json:"addresses"`
	PodCIDRs  []netip.Prefix `json:"podCIDRs"`
	Pods      int            `json:"pods"`
	Peers     int            `json:"peers"`
	// Life is a word that each start of the node draws anew.
	Life string `json:"life"`
	// Reached are the other nodes that the published tables have routes to, by
	// name. Packets pass between two nodes for sure when each reaches the other
	// in its present life, with all its ranges.
	Reached    map[string]Reached `json:"reached,omitempty"`
	Flows      int                `json:"flows"`
	Generation uint32             `json:"generation"` // of the published tables
	// DesiredRevision is that of the cluster's desired state that the published
	// tables go by; 0: nobody told the node yet.
	DesiredRevision uint64            `json:"desiredRevision"`
	Drops           map[string]uint64 `json:"drops,omitempty"`
}

// Reached is what a node has heard of another one that it has routes to.
type Reached struct {
	Life     string         `json:"life"`
	PodCIDRs []netip.Prefix `json:"podCIDRs"`
}

// Desired is what of the cluster's desired state a node goes by.
type Desired struct {
	// Revision of the state, as its writer counts.
	Revision uint64 `json:"revision"`
}

// NodeStatus is a node as another node, or itself, sees it.
type NodeStatus struct {
	Name      string            `json:"name"`
	State     string            `json:"state"` // "self", "alive", "left" or "failed"
	Labels    map[string]string `json:"labels,omitempty"`
	Addresses []netip.Addr      `json:"addresses"`
	PodCIDRs  []netip.Prefix    `json:"podCIDRs"`
	Underlay  netip.AddrPort    `json:"underlay"`
	VTEPMAC   string            `json:"vtepMAC"`
	Pods      int               `json:"pods"`
	// Overlay traffic with this peer; in mode direct only the kernels know it.
	Counters *Counters `json:"counters,omitempty"`
}

// Route is a row of the forwarding table.
type Route struct {
	Prefix netip.Prefix `json:"prefix"`
	Kind   string       `json:"kind"`          // "pod", "local" (the switch itself), "peer", "host", "outside" or "unreachable"
	To     string       `json:"to"`            // the pod's or node's name
	Via    string       `json:"via,omitempty"` // the peer's VTEP, or the host's next hop in mode direct
	Port   string       `json:"port,omitempty"`
	MTU    int          `json:"mtu,omitempty"`
}

// Neighbor is a row of the ARP and ND tables.
type Neighbor struct {
	IP   netip.Addr `json:"ip"`
	MAC  string     `json:"mac"`
	Kind string     `json:"kind"` // "pod", "node" or "gateway"
	To   string     `json:"to"`
	Port string     `json:"port,omitempty"`
}

// FlowStatus is a tracked connection.
type FlowStatus struct {
	Proto       string         `json:"proto"`
	Source      netip.AddrPort `json:"source"` // ports are zero for protocols without
	Destination netip.AddrPort `json:"destination"`
	State       string         `json:"state"`
	From        string         `json:"from,omitempty"` // pod or node names, where known
	To          string         `json:"to,omitempty"`
	// Service is the service whose address Destination is, and Backend what it
	// was translated to. Masqueraded is the source that the backend sees, if that
	// is not Source.
	Service     string         `json:"service,omitempty"`
	Backend     netip.AddrPort `json:"backend,omitzero"`
	Masqueraded netip.AddrPort `json:"masqueraded,omitzero"`
	// Why is how the backend was chosen: "random", "affinity" or "maglev", and if
	// not of all that are ready, "-zone", "-node" or "-local" for those that were in
	// question, and "-terminating" if none was ready.
	Why string `json:"why,omitempty"`
	// Via is the node that the packets are passed on to untouched, or that
	// answers go back through, to keep the address of a client outside.
	Via     string    `json:"via,omitempty"`
	Age     uint32    `json:"ageSeconds"`  // since its first packet
	Idle    uint32    `json:"idleSeconds"` // since its last packet
	Packets [2]uint64 `json:"packets"`     // original direction, reply direction
	Bytes   [2]uint64 `json:"bytes"`       // of frames; a superpacket counts as one
}

// PolicyState is what a node has to do with network policy.
type PolicyState struct {
	Node string `json:"node"`
	// InUse: there are policies. Else everything is allowed, and nothing asked.
	InUse bool `json:"inUse"`
	// Established is what becomes of connections that are no longer allowed,
	// CutEstablished or KeepEstablished.
	Established string `json:"established"`
	// Drops are what the policies dropped of the node's pods, since the node runs
	// and both the policy and the pod are there, in order of policy and pod.
	Drops []PolicyDrop `json:"drops"`
	// Reports are about each policy, in the order in which they have their say,
	// if they were asked for. All nodes say the same but for Local.
	Reports []PolicyReport `json:"reports,omitempty"`
}

// PolicyReport is what there is to say about a policy to whom wrote it.
type PolicyReport struct {
	Policy string `json:"policy"` // kind and name
	// Pods is how many pods it selects, Local how many of those are the node's.
	Pods  int `json:"pods"`
	Local int `json:"local"`
	// Problems are why it does not do what it says, sentences.
	Problems []string `json:"problems,omitempty"`
	// Unused are rules that nobody can match at present, Shadowed those that make
	// no difference because of others, not all of them.
	Unused   []PolicyRemark `json:"unused,omitempty"`
	Shadowed []PolicyRemark `json:"shadowed,omitempty"`
}

// PolicyRemark is something about a rule.
type PolicyRemark struct {
	Direction string `json:"direction"` // "egress" or "ingress"
	Rule      int    `json:"rule"`      // its place in that direction, from 0
	Text      string `json:"text"`
}

// PolicyDrop is what a policy dropped of a pod.
type PolicyDrop struct {
	// Policy is kind and name: "NetworkPolicy shop/allow-web".
	Policy    string `json:"policy"`
	Pod       string `json:"pod"`       // "shop/web-1"
	Direction string `json:"direction"` // "egress" or "ingress", as the pod sees it
	// Packets are all that the policy dropped. What no NetworkPolicy lets pass is
	// dropped by every one that isolates the pod: Shared are those of Packets that
	// other policies dropped as well.
	Packets uint64 `json:"packets"`
	Shared  uint64 `json:"shared,omitempty"`
}

// KeyRequest is about the gossip keyring of all live nodes.
type KeyRequest struct {
	// Key is the one to install, 16, 24 or 32 bytes. A rotation without it
	// draws one.
	Key []byte `json:"key,omitempty"`
	// Fingerprint names the key to use or to remove.
	Fingerprint string `json:"fingerprint,omitempty"`
	// Force rotates though a node is down and will miss it.
	Force bool `json:"force,omitempty"`
}

// KeyStatus is a node's gossip keyring.
type KeyStatus struct {
	Node string `json:"node"`
	// Keys are fingerprints, that of the key that encrypts first.
	Keys []string `json:"keys,omitempty"`
	// Error is why the node did not do it; "no answer" if it did not say.
	Error string `json:"error,omitempty"`
}
