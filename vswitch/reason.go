package vswitch

// Reason says what became of a packet. The zero value is a drop: a path that
// forgets to decide forwards nothing.
type Reason uint8

// Reasons. Their names are stable; operators and tests rely on them.
const (
	// Unexplained is the zero value; it counts packets that a panic in packet
	// code took with it.
	Unexplained Reason = iota
	// Forwarded: not a drop.
	Forwarded
	// Answered: the switch itself replied (ARP, echo); not a drop.
	Answered
	Malformed
	UnknownEtherType
	Spoofed
	NotAttached
	NoRoute
	TTLExpired
	TooBig
	TableFull
	UnrelatedICMP
	MulticastLimit
	NoListener
	FragmentLost
	PortGone
	QueueFull
	UnknownMAC
	Blackholed
	// NoEndpoints, NoLocalEndpoints, SourceRange, NotServicePort and
	// UnallocatedService are what services say no with.
	NoEndpoints
	NoLocalEndpoints
	SourceRange
	NotServicePort
	UnallocatedService
	// NoConnection: TCP or SCTP to a service that is neither the first packet of a
	// connection nor of one that is known.
	NoConnection
	// EndpointGone: the other end of a TCP or SCTP connection is not there any more.
	EndpointGone
	NoSNATPort
	// Untranslatable: a packet whose addresses cannot be changed (fragments of SCTP).
	Untranslatable
	// Starting: it may be for a service, or for another node, and this one does not
	// know yet which there are.
	Starting
	// PolicyEgress: a policy of the sender does not let it; PolicyIngress: one of
	// the receiver.
	PolicyEgress
	PolicyIngress

	numReasons
)

var reasonNames = [numReasons]string{
	Unexplained:        "panic",
	Forwarded:          "",
	Answered:           "answered",
	Malformed:          "malformed",
	UnknownEtherType:   "unknown-ethertype",
	Spoofed:            "spoofed",
	NotAttached:        "not-attached",
	NoRoute:            "no-route",
	TTLExpired:         "ttl-expired",
	TooBig:             "too-big",
	TableFull:          "table-full",
	UnrelatedICMP:      "unrelated-icmp-error",
	MulticastLimit:     "multicast-limit",
	NoListener:         "no-listener",
	FragmentLost:       "fragment-lost",
	PortGone:           "port-gone",
	QueueFull:          "queue-full",
	UnknownMAC:         "unknown-mac",
	Blackholed:         "blackhole",
	NoEndpoints:        "no-endpoints",
	NoLocalEndpoints:   "no-local-endpoints",
	SourceRange:        "source-range",
	NotServicePort:     "not-a-service-port",
	UnallocatedService: "unallocated-service-address",
	NoConnection:       "no-connection",
	EndpointGone:       "endpoint-gone",
	NoSNATPort:         "no-snat-port",
	Untranslatable:     "untranslatable",
	Starting:           "starting",
	PolicyEgress:       "policy-egress",
	PolicyIngress:      "policy-ingress",
}

// String returns the stable kebab-case word, empty for Forwarded.
func (r Reason) String() string {
	if r < numReasons {
		return reasonNames[r]
	}
	return "reason-?"
}

// Rejected reports whether the sender of a packet that dies for r is told, by an
// ICMP error, a TCP reset or an ABORT of SCTP. All other packets die in silence.
func (r Reason) Rejected() bool {
	switch r {
	case NoRoute, TTLExpired, TooBig, NoListener, NoEndpoints, NotServicePort, NoConnection, EndpointGone:
		return true
	}
	return false
}

// Reasons returns all reasons for which a packet can die.
func Reasons() []Reason {
	var rs []Reason
	for r := range numReasons {
		if r != Forwarded && r != Answered {
			rs = append(rs, r)
		}
	}
	return rs
}
