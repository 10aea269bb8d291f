package nat

import (
	"errors"
	"math/rand/v2"
	"testing"

	"vswitch/vswitch/packet"
)

// verify looks at what no caller can see: every connection is in the index
// twice and has one timer, every other entry is free.
func verify(t testing.TB, tab *Table) {
	t.Helper()
	live := map[uint32]bool{}
	for i := range tab.high.Load() {
		if tab.entries[i].commit.Load()&1 != 0 {
			live[i] = true
		}
	}
	if len(live) != tab.Len() {
		t.Fatalf("%d connections, counted %d", len(live), tab.Len())
	}
	refs, timers := map[uint32]int{}, map[uint32]int{}
	for k := range tab.shards {
		s := &tab.shards[k]
		n := uint32(0)
		for _, slots := range [][]uint32{s.x.slots, s.x.old} {
			for _, v := range slots {
				if v != 0 && v != s.x.refs {
					refs[v&s.x.refs-1]++
					n++
				}
			}
		}
		if n != s.x.n {
			t.Fatalf("shard %d has %d entries, counted %d", k, n, s.x.n)
		}
		for list, head := range s.heads {
			prev := inHead | uint32(list)
			for head != 0 {
				l := tab.links[head-1]
				if l.prev != prev {
					t.Fatalf("list %d: entry %d points back to %#x, want %#x", list, head-1, l.prev, prev)
				}
				if tab.shard(tab.tags[2*(head-1)]) != s {
					t.Fatalf("the timer of entry %d is in shard %d", head-1, k)
				}
				timers[head-1]++
				prev, head = head, l.next
			}
		}
	}
	waiting := 0
	for k := range tab.shards {
		s := &tab.shards[k]
		for r, q := range s.queues {
			last, n := uint32(0), uint32(0)
			for i := q.oldest; i != 0; i = tab.entries[i-1].newer {
				e := &tab.entries[i-1]
				if !live[i-1] || e.older != last || worth(word(e.state.Load())) != r || tab.shard(tab.tags[2*(i-1)]) != s {
					t.Fatalf("queue %d of shard %d: entry %d does not belong there", r, k, i-1)
				}
				last = i
				n++
			}
			if q.newest != last || q.n != n {
				t.Fatalf("queue %d of shard %d ends with %d, %d of %d", r, k, q.newest, q.n, n)
			}
			waiting += int(n)
		}
	}
	for i := range live {
		if worth(word(tab.entries[i].state.Load())) != kept {
			waiting--
		}
	}
	if waiting != 0 {
		t.Fatalf("%d connections too many in the queues", waiting)
	}
	if len(refs) != 2*len(live) || len(timers) != len(live) {
		t.Fatalf("%d connections, %d tuples in the index, %d timers", len(live), len(refs), len(timers))
	}
	for i := range live {
		if refs[2*i] != 1 || refs[2*i+1] != 1 || timers[i] != 1 {
			t.Fatalf("connection %d: %d, %d in the index, %d timers", i, refs[2*i], refs[2*i+1], timers[i])
		}
	}
	free := 0
	for i := tab.free.head; i != 0; i = tab.links[i-1].next {
		if live[i-1] {
			t.Fatalf("entry %d is free and in use", i-1)
		}
		free++
	}
	if free+len(live) != int(tab.high.Load()) {
		t.Fatalf("%d free and %d used entries of %d", free, len(live), tab.high.Load())
	}
}

// expireAll lets Expire come to its end.
func expireAll(tab *Table, now uint32) {
	for tab.Expire(now) {
	}
}

// modelConn is what the model knows of a connection. Its rules are those of the
// documentation, written down once more.
type modelConn struct {
	id            ID
	orig, reply   packet.Tuple
	created, last uint32
	packets       uint64
	answered      bool
	stream        bool
}

func (c *modelConn) timeout() uint32 {
	switch c.orig.Proto {
	case 17:
		if c.stream {
			return 120
		}
		return 30
	case 1:
		return 30
	}
	return 600
}

func (c *modelConn) see(dir Dir, now uint32) {
	if c.orig.Proto == 17 && c.answered && now-c.created > 2 {
		c.stream = true
	}
	c.answered = c.answered || dir == Reply
	c.last = max(c.last, now)
}

type model struct {
	t     *testing.T
	tab   *Table
	conns map[*modelConn]bool
	by    map[packet.Tuple]*modelConn
}

func (m *model) add(c *modelConn) {
	m.conns[c] = true
	m.by[c.orig], m.by[c.reply] = c, c
}

func (m *model) remove(c *modelConn) {
	delete(m.conns, c)
	delete(m.by, c.orig)
	delete(m.by, c.reply)
}

// pick returns any connection, or nil.
func (m *model) pick() *modelConn {
	for c := range m.conns {
		return c
	}
	return nil
}

func (m *model) check() {
	m.t.Helper()
	verify(m.t, m.tab)
	n := 0
	for info := range m.tab.All {
		n++
		c := m.by[info.Orig]
		if c == nil || c.id != info.ID || c.reply != info.Reply || info.Packets[0]+info.Packets[1] != c.packets ||
			max(info.Seen[0], info.Seen[1]) != c.last || info.Expires != c.last+c.timeout() || info.Flags&SeenReply != 0 != c.answered {
			m.t.Fatalf("got %+v, want %+v", info, c)
		}
	}
	if n != len(m.conns) || n != m.tab.Len() {
		m.t.Fatalf("All yields %d, Len %d, the model has %d", n, m.tab.Len(), len(m.conns))
	}
}

// randomTuple is one of few, so that tuples meet.
func randomTuple(r *rand.Rand) packet.Tuple {
	protos := []uint8{17, 17, 1, 47}
	a := func() [4]byte { return [4]byte{10, 0, 0, byte(r.IntN(12))} }
	return v4(protos[r.IntN(4)], a(), uint16(r.IntN(6)), a(), uint16(r.IntN(3)))
}

func (m *model) create(r *rand.Rand, now uint32) {
	orig := randomTuple(r)
	mapping := Mapping{Reply: orig.Reverse(), Service: 1, Via: uint32(now)}
	if r.IntN(2) == 0 {
		o := randomTuple(r)
		o.Proto = orig.Proto
		mapping.Reply = o
	}
	id, err := m.tab.CreateMapped(&orig, &mapping, now)
	taken := m.by[orig]
	if taken == nil {
		taken = m.by[mapping.Reply]
	}
	switch {
	case taken != nil:
		if !errors.Is(err, ErrExists) || id != taken.id {
			m.t.Fatalf("create %v %v: %v, %v; the model has it as %v", orig, mapping.Reply, id, err, taken.id)
		}
		return
	case errors.Is(err, ErrFull):
		if len(m.conns) < m.tab.max {
			m.t.Fatalf("full with %d connections of %d", len(m.conns), m.tab.max)
		}
		for c := range m.conns {
			if !c.stream { // without answer, or one question and its answers
				m.t.Fatalf("full, with %+v to give up", c)
			}
		}
		return
	case err != nil:
		m.t.Fatal(err)
	}
	if len(m.conns) == m.tab.max {
		m.evicted()
	}
	m.add(&modelConn{id: id, orig: orig, reply: mapping.Reply, created: now, last: now})
}

// evicted finds the one connection that had to go.
func (m *model) evicted() {
	for c := range m.conns {
		if !m.tab.Valid(c.id) {
			if c.stream {
				m.t.Fatalf("a stream was given up: %+v", c)
			}
			m.remove(c)
			return
		}
	}
	m.t.Fatal("full, and room was made of nothing")
}

func (m *model) packet(r *rand.Rand, now uint32) {
	tuple := randomTuple(r)
	id, dir, ok := m.tab.Lookup(&tuple)
	c := m.by[tuple]
	if ok != (c != nil) || ok && (id != c.id || (dir == Reply) != (c.orig != tuple)) {
		m.t.Fatalf("lookup %v: %v %v %v, the model has %+v", tuple, id, dir, ok, c)
	}
	if !ok {
		return
	}
	if r.IntN(2) == 0 {
		ok = m.tab.Track(id, dir, 0, now)
	} else {
		ok = m.tab.Touch(id, dir, now, 3, 100)
		c.packets += 3
	}
	if !ok {
		m.t.Fatalf("%v is gone", id)
	}
	c.see(dir, now)
	back := c.orig
	if dir == Original {
		back = c.reply
	}
	if to, ok := m.tab.To(id, dir); !ok || to != back.Reverse() {
		m.t.Fatalf("%v leaves as %v, want %v", tuple, to, back.Reverse())
	}
}

func TestTableModel(t *testing.T) {
	for _, tt := range []struct{ max, ops int }{{64, 20000}, {2000, 60000}, {1 << 17, 60000}} {
		r := rand.New(rand.NewPCG(7, uint64(tt.max)))
		m := &model{t, open(t, Config{Max: tt.max}), map[*modelConn]bool{}, map[packet.Tuple]*modelConn{}}
		now := uint32(1000)
		for op := range tt.ops {
			switch n := r.IntN(1000); {
			case n < 400:
				m.create(r, now)
			case n < 900:
				m.packet(r, now)
			case n < 950:
				if c := m.pick(); c != nil {
					m.remove(c)
					if !m.tab.Delete(c.id) || m.tab.Delete(c.id) || m.tab.Valid(c.id) || m.tab.Touch(c.id, Original, now, 1, 1) || m.tab.Track(c.id, Original, 0, now) {
						t.Fatalf("%v is not gone, or twice", c.id)
					}
				}
			case n < 955:
				addr := addr4([4]byte{10, 0, 0, byte(r.IntN(12))})
				want := 0
				for c := range m.conns {
					if c.orig.Src == addr || c.orig.Dst == addr || c.reply.Src == addr || c.reply.Dst == addr {
						m.remove(c)
						want++
					}
				}
				if got := m.tab.DeleteByAddr(addr); got != want {
					t.Fatalf("%d connections of %v ended, want %d", got, addr, want)
				}
			default:
				now += uint32(r.IntN(20))
				if r.IntN(50) == 0 {
					now += uint32(r.IntN(2000))
				}
				expireAll(m.tab, now)
				for c := range m.conns {
					if c.last+c.timeout() <= now {
						m.remove(c)
					}
				}
			}
			if op%200 == 0 {
				m.check()
			}
		}
		m.check()
	}
}
