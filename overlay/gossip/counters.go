package gossip

import "sync/atomic"

// Counters count what happened since the start. The bad input among them is
// logged at most once a minute per kind.
type Counters struct {
	// Garbage are packets and streams that are no memberlist traffic at all.
	Garbage uint64
	// OtherCluster carried the label of another cluster.
	OtherCluster uint64
	// BadKey could not be decrypted with any installed key, or came without
	// encryption, or encrypted to a node that has no keys.
	BadKey uint64
	// RefusedNodes counts announcements of nodes that were refused: malformed
	// metadata, or another cluster's.
	RefusedNodes uint64
	// Malformed counts messages of members that could not be read.
	Malformed uint64
	// Stale counts states and deltas that were not applied because they were
	// already known, or because their owner is not alive with that life.
	Stale uint64
	// Sent and SentBytes count messages over streams, besides push/pull;
	// SendErrors those that failed and are tried again.
	Sent, SentBytes, SendErrors uint64
	// Asked counts questions for states that were missing.
	Asked uint64
	// Joins counts push/pulls with seeds and lost nodes that worked.
	Joins uint64
}

type counters struct {
	garbage, otherCluster, badKey, refusedNodes, malformed, stale atomic.Uint64
	sent, sentBytes, sendErrors, asked, joins                     atomic.Uint64
}

// Counters returns the present counts.
func (g *Gossip) Counters() Counters {
	c := &g.counters
	return Counters{
		Garbage: c.garbage.Load(), OtherCluster: c.otherCluster.Load(), BadKey: c.badKey.Load(),
		RefusedNodes: c.refusedNodes.Load(), Malformed: c.malformed.Load(), Stale: c.stale.Load(),
		Sent: c.sent.Load(), SentBytes: c.sentBytes.Load(), SendErrors: c.sendErrors.Load(),
		Asked: c.asked.Load(), Joins: c.joins.Load(),
	}
}
