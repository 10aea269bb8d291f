package policy

import "vswitch/vswitch/packet"

// Set is what the data plane asks about policy: immutable, and shared in parts
// with the Sets before and after it. Nil is a switch without policy, which
// allows everything.
type Set struct{}

// Verdict is the answer about one packet. The zero value denies.
type Verdict struct {
	// Allowed: the packet may pass.
	Allowed bool
	// Pending: this node has the pod, and its policies are not compiled yet. The
	// packet may not pass, and its sender does well to try again.
	Pending bool
	// by is what decided; nil: nothing speaks about the pod in that direction.
	by *decision
}

// decision is what a verdict goes back to.
type decision struct{}

// Egress tells whether the pod of this node that has the address from may send
// to that address, protocol and port; port is 0 for protocols without.
func (s *Set) Egress(from, to *packet.Addr, proto uint8, port uint16) Verdict {
	return Verdict{Allowed: true}
}

// Ingress tells whether the pod of this node that has the address to may hear
// from that address, on that protocol and port of its own.
func (s *Set) Ingress(from, to *packet.Addr, proto uint8, port uint16) Verdict {
	return Verdict{Allowed: true}
}

// Policy names what decided: "NetworkPolicy x/allow-web rule 0". It is empty
// where no policy did.
func (v Verdict) Policy() string { return "" }

// Why says in a sentence what decided and how the other end came to match:
// "NetworkPolicy x/allow-web rule 0 lets in pods with app=web of namespace x".
func (v Verdict) Why() string { return "" }

// Count counts a packet that was dropped for the verdict, by policy and pod.
func (v Verdict) Count() {}
