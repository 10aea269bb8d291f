package nat

import "unsafe"

const (
	// slots is the number of timer slots, one a second. What ends later is
	// looked at once on the way.
	slots = 256
	// pending is the list of what is being looked at.
	pending = slots
	// inHead marks a link that is the head of a list.
	inHead = 1 << 31
	// expirePerCreate and expirePerCall bound the timers that a Create and an
	// Expire look at. Every connection that is made clears away a few, so that
	// the timers keep up with whatever rate there is.
	expirePerCreate = 4
	expirePerCall   = 4096
	// dropAtOnce is how many timers are handled for each time a shard is locked.
	dropAtOnce = 16
)

// link is an entry's place in a timer list. Both are entries plus one, but prev
// of the first one is its list with inHead. Zero prev: in no list.
type link struct{ next, prev uint32 }

// linksOf views memory as n links.
func linksOf(b []byte, n int) []link {
	return unsafe.Slice((*link)(unsafe.Pointer(unsafe.SliceData(b))), n)[:n:n]
}

// The timers of a shard are a wheel: a list for each of the next seconds. A
// connection's timer is where it would have ended as far as was known when it
// was armed; packets do not move it. When its second comes, it is armed again
// if there was life in between. The shard is locked in all of this.

// arm puts an entry into the list of the second of its end.
func (t *Table) arm(s *shard, i uint32, end, now uint32) {
	s.begin(now)
	if int32(end-s.tick) < 1 {
		end = s.tick + 1
	}
	if end-s.tick > slots-1 {
		end = s.tick + slots - 1
	}
	s.push(t.links, end%slots, i)
}

// begin sets the wheel to the first time that it hears of.
func (s *shard) begin(now uint32) {
	if !s.begun {
		s.begun, s.tick = true, now
		s.done.Store(now)
	}
}

func (s *shard) push(links []link, list, i uint32) {
	head := s.heads[list]
	links[i] = link{next: head, prev: inHead | list}
	if head != 0 {
		links[head-1].prev = i + 1
	}
	s.heads[list] = i + 1
}

// disarm takes an entry out of its list.
func (t *Table) disarm(s *shard, i uint32) {
	l := t.links[i]
	switch {
	case l.prev == 0:
		return
	case l.prev&inHead != 0:
		s.heads[l.prev&^inHead] = l.next
	default:
		t.links[l.prev-1].next = l.next
	}
	if l.next != 0 {
		t.links[l.next-1].prev = l.prev
	}
	t.links[i] = link{}
}

// due reports whether there may be timers to look at. The lock is not needed.
func (s *shard) due(now uint32) bool { return int32(now-s.done.Load()) > 0 }

// turn takes the wheel to the next second that has passed and its list to
// pending. It reports false when there is none.
func (s *shard) turn(links []link, now uint32) bool {
	behind := int32(now - s.tick)
	if behind <= 0 {
		if behind < -slots { // the clock was set back
			s.tick = now - 1
		}
		return false
	}
	if behind > slots {
		s.tick = now - slots
	}
	s.tick++
	if head := s.heads[s.tick%slots]; head != 0 {
		s.heads[s.tick%slots] = 0
		s.heads[pending] = head
		links[head-1].prev = inHead | pending
	}
	return true
}

// Expire ends connections whose time is over. It does a bounded amount of work
// and reports whether there is more to do; a worker calls it once a second, and
// more often when it is idle.
func (t *Table) Expire(now uint32) (more bool) {
	budget := expirePerCall
	first := t.turn.Add(1)
	for i := range uint32(len(t.shards)) {
		s := &t.shards[(first+i)%uint32(len(t.shards))]
		if budget -= t.expireShard(s, now, budget); budget <= 0 {
			return true
		}
	}
	return false
}

// expireShard looks at up to budget timers of a shard and returns how many it
// looked at.
func (t *Table) expireShard(s *shard, now uint32, budget int) (looked int) {
	for looked < budget {
		var over [dropAtOnce]ID
		k, n := 0, 0
		s.Lock()
		s.begin(now)
		for k < dropAtOnce && looked+n < budget {
			head := s.heads[pending]
			if head == 0 {
				if !s.turn(t.links, now) {
					break
				}
				continue
			}
			n++
			i := head - 1
			e := &t.entries[i]
			t.disarm(s, i)
			end := t.end(e, now)
			if int32(end-now) <= 0 {
				over[k] = makeID(e.commit.Load()>>1, i)
				k++
			}
			t.arm(s, i, end, now) // also what is over, until it is removed below
		}
		done := s.tick
		if s.heads[pending] != 0 {
			done--
		}
		s.done.Store(done)
		s.Unlock()
		for _, id := range over[:k] {
			t.expire(id, now)
		}
		looked += n
		if !s.due(now) {
			break
		}
	}
	return looked
}

// end returns when a connection ends if nothing more is seen of it.
func (t *Table) end(e *entry, now uint32) uint32 {
	last := e.last()
	if int32(last-now) > 0 { // from before the clock was set back
		last = now
		e.seen[0].Store(now)
		e.seen[1].Store(now)
	}
	return last + t.timeout(e.orig.Proto, word(e.state.Load()))
}

// expire removes a connection unless there is life in it.
func (t *Table) expire(id ID, now uint32) {
	e, a, b, ok := t.hold(id)
	if !ok {
		return
	}
	if int32(t.end(e, now)-now) > 0 {
		t.unlock(a, b)
		return
	}
	t.drop(id.entry(), e, a, b)
	t.stats.expired.Add(1)
}
