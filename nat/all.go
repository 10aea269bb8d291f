package nat

import "vswitch/vswitch/packet"

// All yields a copy of every connection, one at a time and without holding
// locks while it yields. Those that are made or end meanwhile are seen or not.
func (t *Table) All(yield func(Info) bool) {
	for i := uint32(0); i < t.high.Load(); i++ {
		c := t.entries[i].commit.Load()
		if c&1 == 0 {
			continue
		}
		if info, ok := t.Get(makeID(c>>1, i)); ok && !yield(info) {
			return
		}
	}
}

// DeleteFunc ends the connections that match says yes to, and returns their
// number. A shard is locked while match runs: it must be short and must not use
// the table.
func (t *Table) DeleteFunc(match func(*Info) bool) int {
	return t.deleteIf(func(i uint32, _ *entry) bool {
		info := t.info(i)
		return match(&info)
	})
}

// DeleteByAddr ends all connections from or to an address, before or after
// translation: its pod is gone, and the next one with that address must not
// hear of its connections. It returns their number.
func (t *Table) DeleteByAddr(addr packet.Addr) int {
	return t.deleteIf(func(_ uint32, e *entry) bool {
		return e.orig.Src == addr || e.orig.Dst == addr || e.reply.Src == addr || e.reply.Dst == addr
	})
}

// deleteIf ends the connections that match says yes to. Each is held while
// match looks at it.
func (t *Table) deleteIf(match func(uint32, *entry) bool) (n int) {
	for i := uint32(0); i < t.high.Load(); i++ {
		c := t.entries[i].commit.Load()
		if c&1 == 0 {
			continue
		}
		e, a, b, ok := t.hold(makeID(c>>1, i))
		if !ok {
			continue
		}
		if match(i, e) {
			t.drop(i, e, a, b)
			n++
		} else {
			t.unlock(a, b)
		}
	}
	return n
}
