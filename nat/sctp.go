package nat

import "vswitch/vswitch/packet"

// nextSCTP is as liberal as nextTCP. An association whose chunks nobody reads
// is one that was found in the middle: it lives while it is used.
func nextSCTP(w word, dir Dir, chunk uint8) word {
	switch chunk {
	case packet.ChunkInit:
		return synTCP(w, dir)
	case packet.ChunkInitAck:
		return synAckTCP(w, dir)
	case packet.ChunkCookieEcho:
		if w.state() == New {
			w = begin(w, dir)
		}
		if w.state() == SynSent {
			return w.to(SynRecv)
		}
		return w
	case packet.ChunkCookieAck:
		w = heard(w, dir)
		if w.state() < Established {
			return established(w)
		}
		return w
	case packet.ChunkAbort:
		return w.to(Closed).less(RstOriginal | RstReply).with(of(RstOriginal, dir))
	case packet.ChunkShutdown, packet.ChunkShutdownAck:
		if w.ended() {
			return w
		}
		return heard(w, dir).to(FinWait).with(of(FinOriginal, dir))
	case packet.ChunkShutdownComplete:
		return heard(w, dir).to(TimeWait)
	}
	return plainTCP(w, dir)
}
