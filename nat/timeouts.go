package nat

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"vswitch/vswitch/packet"
)

// Timeouts are how long a connection is kept after its last packet, by what
// that packet left it in. They count in whole seconds; a fraction is rounded up.
type Timeouts struct {
	// TCPSynSent and TCPSynRecv end handshakes that do not get on. They should
	// outlast the ends' first retransmissions, and no more: floods are made of them.
	TCPSynSent, TCPSynRecv time.Duration
	// TCPEstablished is for connections that nobody closes. Shorter than the
	// keepalive of applications, it cuts connections that are merely quiet.
	TCPEstablished time.Duration
	// TCPUnreplied is for connections found in the middle of which only one
	// direction was seen.
	TCPUnreplied time.Duration
	// TCPFinWait is for half-closed connections.
	TCPFinWait time.Duration
	// TCPTimeWait is for connections that both sides have closed: late
	// segments still have to find their way.
	TCPTimeWait time.Duration
	// TCPClosed is for connections that were reset.
	TCPClosed time.Duration

	// UDP is for a question, answered or not; UDPStream for a lasting exchange.
	UDP, UDPStream time.Duration
	// ICMP is for an echo request and its replies.
	ICMP time.Duration

	// SCTPOpening is for handshakes, SCTPEstablished for associations (which
	// send heartbeats, RFC 9260 section 8.3), SCTPClosing for the rest.
	SCTPOpening, SCTPEstablished, SCTPClosing time.Duration

	// Generic is for protocols without ports.
	Generic time.Duration
}

// DefaultTimeouts returns those of Linux (nf_conntrack_proto_*.c), but for TCP
// handshakes, which are given up sooner, quiet TCP connections, which are kept a
// day instead of five, and SCTP handshakes, which get a few retransmissions.
func DefaultTimeouts() Timeouts {
	return Timeouts{
		TCPSynSent: 60 * time.Second, TCPSynRecv: 60 * time.Second,
		TCPEstablished: 24 * time.Hour, TCPUnreplied: 300 * time.Second,
		TCPFinWait: 120 * time.Second, TCPTimeWait: 120 * time.Second, TCPClosed: 10 * time.Second,
		UDP: 30 * time.Second, UDPStream: 120 * time.Second,
		ICMP:        30 * time.Second,
		SCTPOpening: 30 * time.Second, SCTPEstablished: 210 * time.Second, SCTPClosing: 10 * time.Second,
		Generic: 600 * time.Second,
	}
}

// timeout is one of Timeouts and the name that people know it by.
type timeout struct {
	name string
	d    *time.Duration
}

func (ts *Timeouts) all() []timeout {
	return []timeout{
		{"tcpSynSent", &ts.TCPSynSent}, {"tcpSynRecv", &ts.TCPSynRecv}, {"tcpEstablished", &ts.TCPEstablished},
		{"tcpUnreplied", &ts.TCPUnreplied}, {"tcpFinWait", &ts.TCPFinWait}, {"tcpTimeWait", &ts.TCPTimeWait},
		{"tcpClosed", &ts.TCPClosed}, {"udp", &ts.UDP}, {"udpStream", &ts.UDPStream}, {"icmp", &ts.ICMP},
		{"sctpOpening", &ts.SCTPOpening}, {"sctpEstablished", &ts.SCTPEstablished},
		{"sctpClosing", &ts.SCTPClosing}, {"generic", &ts.Generic},
	}
}

// Set changes the timeout of a name, which is that of its field with the first
// word in lower case: "tcpEstablished".
func (ts *Timeouts) Set(name string, d time.Duration) error {
	var names []string
	for _, f := range ts.all() {
		if f.name == name {
			*f.d = d
			return nil
		}
		names = append(names, f.name)
	}
	return fmt.Errorf("there is no conntrack timeout %q; there are %s", name, strings.Join(names, ", "))
}

// Validate returns what is wrong with the timeouts, all of it.
func (ts *Timeouts) Validate() error {
	var errs []error
	for _, f := range ts.all() {
		if *f.d <= 0 || *f.d > maxTimeout {
			errs = append(errs, fmt.Errorf("conntrack timeout %s: %v is outside 1s..%v", f.name, *f.d, maxTimeout))
		}
	}
	return errors.Join(errs...)
}

// maxTimeout keeps differences of times within half the range of the clock.
const maxTimeout = math.MaxInt32 / 4 * time.Second

// class is a group of protocols with states and timeouts of their own.
type class uint8

const (
	classOther class = iota
	classTCP
	classUDP
	classICMP
	classSCTP
	numClasses
)

func classOf(proto uint8) class {
	switch proto {
	case packet.ProtoTCP:
		return classTCP
	case packet.ProtoUDP:
		return classUDP
	case packet.ProtoICMP, packet.ProtoICMPv6:
		return classICMP
	case packet.ProtoSCTP:
		return classSCTP
	}
	return classOther
}

// seconds are Timeouts by class and state. State numStates stands for
// Established without an answer.
type seconds [numClasses][numStates + 1]uint32

func (ts *Timeouts) seconds() (s seconds) {
	whole := func(d time.Duration) uint32 { return uint32((d + time.Second - 1) / time.Second) }
	fill := func(c class, d time.Duration, states ...State) {
		for _, st := range states {
			s[c][st] = whole(d)
		}
	}
	for c := range numClasses {
		for st := range s[c] {
			s[c][st] = whole(ts.Generic)
		}
	}
	fill(classTCP, ts.TCPSynSent, New, SynSent)
	fill(classTCP, ts.TCPSynRecv, SynRecv)
	fill(classTCP, ts.TCPEstablished, Established)
	fill(classTCP, ts.TCPUnreplied, numStates)
	fill(classTCP, ts.TCPFinWait, FinWait)
	fill(classTCP, ts.TCPTimeWait, TimeWait)
	fill(classTCP, ts.TCPClosed, Closed)
	fill(classUDP, ts.UDP, New, Unreplied, Replied)
	fill(classUDP, ts.UDPStream, Stream)
	fill(classICMP, ts.ICMP, New, Unreplied, Replied)
	fill(classSCTP, ts.SCTPOpening, New, SynSent, SynRecv, numStates)
	fill(classSCTP, ts.SCTPEstablished, Established)
	fill(classSCTP, ts.SCTPClosing, FinWait, TimeWait, Closed)
	return s
}

// timeout returns how long a connection in that state is kept, in seconds.
func (t *Table) timeout(proto uint8, w word) uint32 {
	s := w.state()
	if s == Established && !w.has(SeenReply) {
		s = numStates
	}
	return t.timeouts[classOf(proto)][s]
}
