// Package policy answers who may talk to whom: it compiles NetworkPolicies and
// ClusterNetworkPolicies to a [Set] for the pods of one node, and checks the
// first packet of a flow against it. It owns what the API says about selectors,
// tiers and ports; it knows no packets but their addresses, protocol and port,
// and no connections: answers to what was allowed are not asked about.
//
// Egress and Ingress are always as the pod sees it: Egress asks the sender's
// policies, Ingress the receiver's.
//
// # From objects to a Set
//
//	Namespace, Pod, Node            NetworkPolicy, ClusterNetworkPolicy
//	        |                                  |
//	 who selectors see:                    a subject,
//	    [identity] <---- [selector] ---- rules with peers
//	        |        members, kept          |        \
//	        |        up to date             |      blocks, ports
//	   [endpoint]                           |         /
//	   by address                      [direction]: first match of a list of terms
//	        \______________   ______________/
//	                       Set
//
// Pods that selectors cannot tell apart have one identity, a dense number.
// Selectors that are written the same are one selector, which knows at any time
// the identities that it matches. Both find each other through an index
// (anchors one way, postings the other), so that neither a pod with new labels
// nor a new policy walks through all there is.
//
// A direction is ingress or egress of a pod, and shared by all pods about which
// the same policies speak. Its terms are rules in the order in which they have
// their say, and where NetworkPolicies isolate, a last one of theirs that denies
// everything; the first that matches decides. Terms are bits: one row of them
// for the peer's identity, one for its address in the blocks, one for the port.
// (identity | blocks) & port are the terms that match. So a verdict costs three
// searches and a few words, however many policies and pods there are; there is
// no entry per port of a range, and no selector is looked at per packet.
//
// On ingress a named port is the port of the pod itself, known beforehand. On
// egress it is another one for each peer: there a rule is one term for every
// port that its names mean in the cluster, and a second half of the identity's
// row says which of them are the peer's own.
//
// A change makes stale: rows, if an identity comes, goes or is selected by
// others; directions, if a pod's list of policies is another one. What is stale
// is copied and changed, the rest shared with the Set before.
//
// # What is always allowed, and what fails
//
// A pod may talk to itself, and hears the addresses of its own node, whose
// probes come from there. Pods of the host network are their node to others, and
// no policy is for them. A pod on its way out gives up its address to another
// that has it, too; addresses that are claimed twice are a node's first.
//
// Nothing is open because something failed. A NetworkPolicy that is invalid, or
// has something in it that cannot be compiled, isolates its pods in both
// directions and allows nothing; if not even its selector can be used, these are
// all pods of its namespace. A ClusterNetworkPolicy denies its subjects
// everything, in its tier and at its place; one whose subject cannot be used
// selects nobody, because the whole cluster would be the alternative; one whose
// tier is not known is of the Admin tier. [Compiler.Report] and [Verdict.Why]
// say so. An address that is no pod's of this node, or not yet, gets a Pending
// verdict, which does not allow.
package policy
