// Package policy answers who may talk to whom: it compiles NetworkPolicies and
// ClusterNetworkPolicies to a [Set] for the pods of one node, and checks the
// first packet of a flow against it. It owns what the API says about selectors,
// tiers and ports; it knows no packets but their addresses, protocol and port,
// and no connections: answers to what was allowed are not asked about.
//
// Egress and Ingress are always as the pod sees it: Egress asks the sender's
// policies, Ingress the receiver's.
package policy
