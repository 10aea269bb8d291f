package nat

import (
	"strings"

	"vswitch/vswitch/packet"
)

// State is where a connection is in its life. For SCTP, the states of TCP stand
// for their counterparts (RFC 9260 section 4): SynSent for COOKIE-WAIT, SynRecv
// for COOKIE-ECHOED, FinWait for the shutdown.
type State uint8

// States.
const (
	// New: made, and no packet seen.
	New State = iota
	// SynSent: TCP, a SYN without answer.
	SynSent
	// SynRecv: TCP, the answer to the SYN was seen, but not what completes the
	// handshake.
	SynRecv
	// Established: TCP, after the handshake, or found in the middle.
	Established
	// FinWait: TCP, one side has closed.
	FinWait
	// TimeWait: TCP, both sides have closed.
	TimeWait
	// Closed: TCP, after a reset.
	Closed
	// Unreplied: no TCP, one direction only so far.
	Unreplied
	// Replied: no TCP, both directions were seen.
	Replied
	// Stream: UDP, both directions for more than two seconds.
	Stream

	numStates
)

var stateNames = [numStates]string{"NEW", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT",
	"TIME_WAIT", "CLOSED", "UNREPLIED", "REPLIED", "STREAM"}

// String returns the name that conntrack tools use.
func (s State) String() string {
	if s < numStates {
		return stateNames[s]
	}
	return "STATE-?"
}

// ConnFlags are properties of a connection.
type ConnFlags uint32

// Flags of a connection. The lower bits of its word are its State.
const (
	// SeenReply: the other side than the one that began has been heard.
	SeenReply ConnFlags = 1 << (8 + iota)
	// Assured: it is in real use and is never given up for want of room.
	Assured
	// DNAT: the destination of the original direction is translated.
	DNAT
	// SNAT: the source of the original direction is translated.
	SNAT
	// SynOriginal and SynReply: that direction has sent a SYN.
	SynOriginal
	SynReply
	// FinOriginal and FinReply: that direction has sent a FIN.
	FinOriginal
	FinReply
	// RstOriginal and RstReply: that direction has sent the last RST.
	RstOriginal
	RstReply
	// BegunByReply: the reply direction has opened the connection again.
	BegunByReply
	// Barred: it was no longer allowed when it was last seen.
	Barred

	endFlags
)

var flagNames = []string{"seen-reply", "assured", "dnat", "snat", "syn-original", "syn-reply",
	"fin-original", "fin-reply", "rst-original", "rst-reply", "begun-by-reply", "barred"}

// String lists the flags, separated by commas.
func (f ConnFlags) String() string {
	var names []string
	for i, name := range flagNames {
		if f&(SeenReply<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// word is a connection's state and flags in the form that is changed atomically.
type word uint32

const stateMask = 0xff

// fresh are the flags that outlive the opening of a connection again.
const fresh = DNAT | SNAT

func (w word) state() State             { return State(w & stateMask) }
func (w word) flags() ConnFlags         { return ConnFlags(w &^ stateMask) }
func (w word) has(f ConnFlags) bool     { return ConnFlags(w)&f != 0 }
func (w word) to(s State) word          { return w&^stateMask | word(s) }
func (w word) with(f ConnFlags) word    { return w | word(f) }
func (w word) less(f ConnFlags) word    { return w &^ word(f) }
func (w word) begunBy(dir Dir) bool     { return w.has(BegunByReply) == (dir == Reply) }
func (w word) ended() bool              { return w.state() == TimeWait || w.state() == Closed }
func of(f ConnFlags, dir Dir) ConnFlags { return f << dir }

// valid reports whether the word can be that of a connection of the protocol.
func (w word) valid(proto uint8) bool {
	s := w.state()
	switch classOf(proto) {
	case classTCP, classSCTP:
		return s <= Closed && w < word(endFlags)
	case classUDP:
		return (s == New || s >= Unreplied && s <= Stream) && w < word(endFlags)
	}
	return (s == New || s == Unreplied || s == Replied) && w < word(endFlags)
}

// next returns what becomes of a connection when a packet of the direction is
// seen, created seconds after its beginning. event is what Track says.
func next(proto uint8, w word, dir Dir, event uint8, age uint32) word {
	switch classOf(proto) {
	case classTCP:
		return nextTCP(w, dir, event)
	case classSCTP:
		return nextSCTP(w, dir, event)
	case classUDP:
		return nextUDP(w, dir, age)
	}
	if dir == Reply {
		return w.to(Replied).with(SeenReply)
	}
	if w.state() == New {
		return w.to(Unreplied)
	}
	return w
}

// streamAfter is how old in seconds a UDP connection with answers is when it
// counts as a stream: one question and its answer are none.
const streamAfter = 2

func nextUDP(w word, dir Dir, age uint32) word {
	if dir == Reply && !w.has(SeenReply) {
		return w.to(Replied).with(SeenReply)
	}
	switch {
	case w.state() == New:
		return w.to(Unreplied)
	case w.has(SeenReply) && int32(age) > streamAfter:
		return w.to(Stream).with(Assured)
	}
	return w
}

// nextTCP is liberal: it knows no windows, so that a segment that an end point
// will refuse changes as little as possible here, and nothing that the two ends
// may still say to each other is called invalid.
func nextTCP(w word, dir Dir, flags uint8) word {
	switch {
	case flags&packet.TCPRst != 0:
		if w.state() == TimeWait {
			return w
		}
		return w.to(Closed).less(RstOriginal | RstReply).with(of(RstOriginal, dir))
	case flags&packet.TCPSyn != 0 && flags&packet.TCPAck == 0:
		return synTCP(w, dir)
	case flags&packet.TCPSyn != 0:
		return synAckTCP(w, dir)
	case flags&packet.TCPFin != 0:
		if w.ended() {
			return w
		}
		w = plainTCP(w, dir).with(of(FinOriginal, dir))
		if w.has(FinOriginal) && w.has(FinReply) {
			return w.to(TimeWait)
		}
		return w.to(FinWait)
	}
	return plainTCP(w, dir)
}

// heard notes an answer: a packet of the side that did not begin.
func heard(w word, dir Dir) word {
	if !w.begunBy(dir) {
		return w.with(SeenReply)
	}
	return w
}

// established ends a handshake, of which both sides have to be part.
func established(w word) word {
	if w.has(SeenReply) {
		w = w.with(Assured)
	}
	return w.to(Established)
}

// begin is the first packet of a connection, or of the next one with the same tuples.
func begin(w word, dir Dir) word {
	w = word(SynSent).with(w.flags() & fresh).with(of(SynOriginal, dir))
	if dir == Reply {
		w = w.with(BegunByReply)
	}
	return w
}

func synTCP(w word, dir Dir) word {
	switch w.state() {
	case New, TimeWait, Closed:
		return begin(w, dir)
	case SynSent:
		w = w.with(of(SynOriginal, dir))
		if !w.begunBy(dir) { // both at once (RFC 9293 section 3.5)
			return w.to(SynRecv).with(SeenReply)
		}
	}
	return w
}

func synAckTCP(w word, dir Dir) word {
	switch w.state() {
	case New: // its SYN went another way, or was before our time
		return plainTCP(w, dir).with(of(SynOriginal, dir))
	case SynSent:
		w = w.with(of(SynOriginal, dir))
		if !w.begunBy(dir) {
			return w.to(SynRecv).with(SeenReply)
		}
	}
	return w
}

// plainTCP handles a packet without SYN, FIN and RST.
func plainTCP(w word, dir Dir) word {
	switch w.state() {
	case New: // found in the middle
		if dir == Reply {
			w = w.with(BegunByReply)
		}
		return w.to(Established)
	case SynSent:
		// The answer may have gone another way; the one to an old connection
		// (RFC 5961 section 4) is none.
		if w.begunBy(dir) {
			return w.to(Established)
		}
	case SynRecv:
		if w.begunBy(dir) {
			return established(w)
		}
	case Established:
		if w.has(SeenReply) {
			w = w.with(Assured)
		}
		return heard(w, dir)
	case Closed:
		// Who sent a reset says nothing more. If it does, the reset was not its
		// own or was not for this connection; nothing else is known then.
		if w.has(of(RstOriginal, dir)) {
			return plainTCP(word(New).with(w.flags()&fresh), dir)
		}
	}
	return w
}
