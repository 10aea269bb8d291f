package nat

// Chunk types of SCTP that change an association (RFC 9260 section 3.2).
const (
	chunkInit             = 1
	chunkInitAck          = 2
	chunkAbort            = 6
	chunkShutdown         = 7
	chunkShutdownAck      = 8
	chunkCookieEcho       = 10
	chunkCookieAck        = 11
	chunkShutdownComplete = 14
)

// nextSCTP is as liberal as nextTCP. An association whose chunks nobody reads
// is one that was found in the middle: it lives while it is used.
func nextSCTP(w word, dir Dir, chunk uint8) word {
	switch chunk {
	case chunkInit:
		return synTCP(w, dir)
	case chunkInitAck:
		return synAckTCP(w, dir)
	case chunkCookieEcho:
		if w.state() == New {
			w = begin(w, dir)
		}
		if w.state() == SynSent {
			return w.to(SynRecv)
		}
		return w
	case chunkCookieAck:
		w = heard(w, dir)
		if w.state() < Established {
			return established(w)
		}
		return w
	case chunkAbort:
		return w.to(Closed).less(RstOriginal | RstReply).with(of(RstOriginal, dir))
	case chunkShutdown, chunkShutdownAck:
		if w.ended() {
			return w
		}
		return heard(w, dir).to(FinWait).with(of(FinOriginal, dir))
	case chunkShutdownComplete:
		return heard(w, dir).to(TimeWait)
	}
	return plainTCP(w, dir)
}
