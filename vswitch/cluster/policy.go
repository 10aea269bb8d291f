package cluster

import (
	"net/netip"
	"slices"
)

// NetworkPolicy says who may talk to the pods that it selects, and to whom they
// may talk (networking.k8s.io/v1). It only ever allows: a pod that some policy
// isolates in a direction may do there what any policy allows, and no more.
type NetworkPolicy struct {
	Meta
	// Pods selects pods of the policy's namespace.
	Pods Selector `json:"pods"`
	// IsolatesIngress and IsolatesEgress are the policyTypes, defaults resolved.
	// Rules of a direction that is not isolated have no effect.
	IsolatesIngress bool         `json:"isolatesIngress,omitempty"`
	IsolatesEgress  bool         `json:"isolatesEgress,omitempty"`
	Ingress         []PolicyRule `json:"ingress,omitempty"`
	Egress          []PolicyRule `json:"egress,omitempty"`
	// Invalid is why the policy could not be understood, a sentence: then it
	// has no rules, and isolates what it selects in both directions.
	Invalid string `json:"invalid,omitempty"`
}

// PolicyTier says when cluster-wide policies have their say.
type PolicyTier string

// Tiers of cluster-wide policies. NetworkPolicies are between them.
const (
	TierAdmin    PolicyTier = "Admin"
	TierBaseline PolicyTier = "Baseline"
)

// ClusterNetworkPolicy is an administrator's policy for pods of all namespaces
// (policy.networking.k8s.io/v1alpha2). Of the policies of a tier the one with
// the lowest Priority comes first, of its rules the first that matches decides.
type ClusterNetworkPolicy struct {
	Meta
	Tier     PolicyTier `json:"tier"`
	Priority int32      `json:"priority"` // 0 to 1000
	// Subject selects pods by Namespaces and Pods.
	Subject PolicyPeer   `json:"subject"`
	Ingress []PolicyRule `json:"ingress,omitempty"`
	Egress  []PolicyRule `json:"egress,omitempty"`
	// Invalid is as in NetworkPolicy. Such a policy denies its subjects all, in
	// its tier and at its place.
	Invalid string `json:"invalid,omitempty"`
}

// PolicyAction is what a rule does with what it matches.
type PolicyAction string

// Actions. Rules of a NetworkPolicy accept; only those of a ClusterNetworkPolicy
// can do anything else. Pass leaves the decision to the next tier.
const (
	ActionAccept PolicyAction = "Accept"
	ActionDeny   PolicyAction = "Deny"
	ActionPass   PolicyAction = "Pass"
)

// PolicyRule matches packets by who the other end is and by their port.
type PolicyRule struct {
	// Name is what people call the rule; it may be empty.
	Name   string       `json:"name,omitempty"`
	Action PolicyAction `json:"action"`
	// Peers are alternatives. None: everybody, inside and outside the cluster.
	Peers []PolicyPeer `json:"peers,omitempty"`
	// Ports are alternatives. None: all ports and all protocols.
	Ports []PolicyPort `json:"ports,omitempty"`
}

// PolicyPeer selects other ends in one of three ways: pods, by Pods and
// Namespaces; nodes, by Nodes; or addresses, by Blocks.
type PolicyPeer struct {
	// Namespaces nil: the policy's own namespace.
	Namespaces *Selector `json:"namespaces,omitempty"`
	// Pods nil, with Namespaces: all pods of those.
	Pods *Selector `json:"pods,omitempty"`
	// Nodes selects nodes' own addresses, and so pods of the host network.
	Nodes *Selector `json:"nodes,omitempty"`
	// Blocks are ranges of addresses, whoever has them.
	Blocks []IPBlock `json:"blocks,omitempty"`
}

// IPBlock is a range of addresses less others that lie in it.
type IPBlock struct {
	CIDR   netip.Prefix   `json:"cidr"`
	Except []netip.Prefix `json:"except,omitempty"`
}

// PolicyPort is a port, or a range of ports, of the receiver.
type PolicyPort struct {
	// Protocol is packet.ProtoTCP, ProtoUDP or ProtoSCTP; 0, with Name only:
	// that of the container's port.
	Protocol uint8 `json:"protocol,omitempty"`
	// Name is a container port's of the receiving pod; a pod without such a
	// port is not matched. Empty: First to Last, both included; First 0: all
	// ports of the protocol.
	Name  string `json:"name,omitempty"`
	First uint16 `json:"first,omitempty"`
	Last  uint16 `json:"last,omitempty"`
}

// Selector selects objects by their labels: all of its requirements must hold.
// The zero value selects everything.
type Selector struct {
	Requirements []Requirement `json:"requirements,omitempty"`
}

// Requirement is a condition on one label.
type Requirement struct {
	Key      string     `json:"key"`
	Operator SelectorOp `json:"operator"`
	// Values are sorted and without duplicates; for In and NotIn at least one.
	Values []string `json:"values,omitempty"`
}

// SelectorOp is how a label is compared (Kubernetes LabelSelectorOperator).
type SelectorOp string

// Operators. NotIn holds for objects without the label, too.
const (
	SelectIn        SelectorOp = "In"
	SelectNotIn     SelectorOp = "NotIn"
	SelectExists    SelectorOp = "Exists"
	SelectNotExists SelectorOp = "DoesNotExist"
)

// Matches reports whether labels fulfil all requirements. An operator that is
// not known is never fulfilled.
func (s *Selector) Matches(labels map[string]string) bool {
	for i := range s.Requirements {
		r := &s.Requirements[i]
		v, has := labels[r.Key]
		switch r.Operator {
		case SelectIn:
			if !has || !slices.Contains(r.Values, v) {
				return false
			}
		case SelectNotIn:
			if has && slices.Contains(r.Values, v) {
				return false
			}
		case SelectExists:
			if !has {
				return false
			}
		case SelectNotExists:
			if has {
				return false
			}
		default:
			return false
		}
	}
	return true
}
