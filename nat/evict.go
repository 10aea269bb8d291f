package nat

// What a connection is worth when the table is full.
const (
	// unanswered: only one side was heard of.
	unanswered = iota
	// passing: answered but never in real use, or closed.
	passing
	// kept: in use; never given up.
	kept
)

// patience is how many seconds an unanswered connection has to be answered
// before it is the first to go.
const patience = 1

// worth returns what a connection in that state is worth.
func worth(w word) int {
	switch {
	case !w.has(SeenReply):
		return unanswered
	case !w.has(Assured), w.ended():
		return passing
	}
	return kept
}

// queue holds the connections of a shard that are worth the same, in the order
// in which they came to be so. It is linked by older and newer of the entries,
// which are entries plus one. The shard is locked in all of this.
type queue struct{ oldest, newest, n uint32 }

// enqueue puts an entry into the queue of what it is worth now.
func (t *Table) enqueue(s *shard, i uint32, w word) {
	r := worth(w)
	if r == kept {
		return
	}
	q, e := &s.queues[r], &t.entries[i]
	e.older, e.newer = q.newest, 0
	if q.newest != 0 {
		t.entries[q.newest-1].newer = i + 1
	} else {
		q.oldest = i + 1
	}
	q.newest = i + 1
	q.n++
}

// dequeue takes an entry out of the queue of what it was worth with that word.
func (t *Table) dequeue(s *shard, i uint32, w word) {
	r := worth(w)
	if r == kept {
		return
	}
	q, e := &s.queues[r], &t.entries[i]
	if e.older != 0 {
		t.entries[e.older-1].newer = e.newer
	} else {
		q.oldest = e.newer
	}
	if e.newer != 0 {
		t.entries[e.newer-1].older = e.older
	} else {
		q.newest = e.older
	}
	q.n--
}

// evict gives one connection up, of one shard after the other. It reports
// whether there may be room now.
func (t *Table) evict(now uint32) bool {
	first := t.hand.Add(1)
	for k := range uint32(len(t.shards)) {
		s := &t.shards[(first+k)%uint32(len(t.shards))]
		s.Lock()
		id := t.victim(s, now)
		s.Unlock()
		if id == 0 {
			continue
		}
		e, a, b, ok := t.hold(id)
		if !ok {
			return true // somebody else made room
		}
		if worth(word(e.state.Load())) == kept {
			t.unlock(a, b)
			return true // it has just come into use; try another one
		}
		t.drop(id.entry(), e, a, b)
		t.stats.evicted.Add(1)
		return true
	}
	return false
}

// victim returns the connection of a shard that is missed least, or 0: the
// oldest that nobody answered, unless it has hardly had the time for it and it
// is the others that crowd the table. In a flood, either kind may be what the
// flood is made of; whoever only comes in between has the better chances.
func (t *Table) victim(s *shard, now uint32) ID {
	u, p := &s.queues[unanswered], &s.queues[passing]
	i := u.oldest
	if p.n > u.n && (i == 0 || int32(now-t.entries[i-1].last()) < patience) {
		i = p.oldest
	}
	if i == 0 {
		return 0
	}
	return makeID(t.entries[i-1].commit.Load()>>1, i-1)
}
