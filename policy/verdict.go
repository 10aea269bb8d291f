package policy

import "vswitch/vswitch/packet"

// Verdict is the answer about one packet. The zero value denies.
type Verdict struct {
	// Allowed: the packet may pass.
	Allowed bool
	// Pending: this node has the pod, and its policies are not compiled yet. The
	// packet may not pass, and its sender does well to try again.
	Pending bool
	// Unknown: nothing is known of the other end but that it has an address of
	// another node's pods (Compiler.SetRanges), and it makes a difference who that
	// is. With Pending, somebody has yet to tell; without, nobody is left to be
	// told of, and the packet is denied.
	Unknown bool

	dir   Direction
	proto uint8
	port  uint16
	// by is what decided; nil: nothing speaks about the packet.
	by *decision
	// unless is what would decide otherwise if the other end were its peer; with
	// Unknown and Pending.
	unless    *decision
	pod, peer *endpoint // peer is nil where nobody is known by the address
	addr      packet.Addr
}

type action uint8

// Actions. The zero value denies.
const (
	deny action = iota
	accept
	pass
)

type tier uint8

const (
	admin tier = iota
	network
	baseline
)

// decision is what a verdict goes back to: a term of a direction.
type decision struct {
	action action
	tier   tier
	reason reason
	// place is the term's in direction.terms.
	place int
	// counter is the decision's place in endpoint.drops, if it denies.
	counter int
	// rule is the one that matched, for byRule.
	rule *rule
	// policy is the invalid one, for byInvalid.
	policy *policy
	// isolating are the policies that isolate the pod, in order, and namespace
	// the pod's if its annotation does; for byIsolation.
	isolating []*policy
	namespace string
}

// reason is how a decision came about.
type reason uint8

const (
	byRule reason = iota
	byIsolation
	byInvalid
	byItself
	byOwnNode
)

// What is allowed whatever policies say.
var (
	itself  = decision{action: accept, reason: byItself}
	ownNode = decision{action: accept, reason: byOwnNode}
)

// Decided reports whether the verdict goes back to something: policies say
// nothing of most packets where they select neither end.
func (v Verdict) Decided() bool { return v.by != nil }

// Exempt reports whether the packet may pass although policies isolate the pod,
// as they have no say about it: it is the pod's own, or its node's.
func (v Verdict) Exempt() bool {
	return (v.by == &itself || v.by == &ownNode) && v.pod.directions[v.dir] != 0
}

// Count counts a packet that was dropped for the verdict, by policy and pod.
// Verdicts that no policy made are not counted.
func (v Verdict) Count() {
	if v.by != nil && v.by.action == deny {
		v.pod.drops[v.dir][v.by.counter].packets.Add(1)
	}
}
