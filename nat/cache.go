package nat

import (
	"unsafe"

	"vswitch/vswitch/packet"
)

const (
	// minFlows is the smallest Cache; it is larger than a batch, so that the
	// flows of a batch can be spared when another one needs room.
	minFlows = 4 * packet.BatchSize
	// firstFlows is the number of flows that the index begins with.
	firstFlows = 1024
	// nearFlows is how many flows are at hand anyway: they fit in a processor's cache.
	nearFlows = 2048
	// candidates is how many flows are compared to find one to give up.
	candidates = 4
	// releaseStep bounds the bytes that one Sweep gives back.
	releaseStep = 4 * hugePage

	wideSize = int(unsafe.Sizeof(wide{}))
)

// Cache finds the Flow of a packet. It belongs to one worker: no method may be
// called while another one runs, but Conn by what that one calls. Lookups do not
// allocate, and neither they nor insertions wait for a growing table.
//
// Flows lie densely in one stretch of memory, beside an index of four-byte
// slots. What is needed only of some, or seldom, lies in other stretches of the
// same order. Pointers to flows are valid until the next Sweep, Delete or Close, and
// those that LookupBatch returned, with insertions in between, until its next call.
type Cache struct {
	// Evicted, if set, sees a flow before another one takes its place for want
	// of room.
	Evicted func(*Flow)

	x     index
	flows []Flow // as many as there may be; the first used of them hold flows or holes
	conns []ID   // the connection of each flow
	wides []wide // the rest of each flow that is of IPv6
	used  uint32
	holes uint32
	six   uint32 // flows of IPv6
	hand  uint32 // where the search for a flow to give up goes on
	broom uint32 // where Sweep goes on

	// pins are the entries plus one that the last LookupBatch found, 0 for none.
	pins [packet.BatchSize]uint32

	mem, tagMem, connMem, wideMem *region
}

// NewCache returns an empty cache for at most size flows, but room for 256 and
// for no more than 2*MaxConns. Memory is used as it fills.
func NewCache(size int) *Cache {
	size = min(max(size, minFlows), 2*MaxConns)
	c := &Cache{mem: reserve(size * FlowSize), tagMem: reserve(size * 4), connMem: reserve(size * 8), wideMem: reserve(size * wideSize)}
	c.flows = unsafe.Slice((*Flow)(unsafe.Pointer(unsafe.SliceData(c.mem.mem))), size)
	c.conns = unsafe.Slice((*ID)(unsafe.Pointer(unsafe.SliceData(c.connMem.mem))), size)
	c.wides = unsafe.Slice((*wide)(unsafe.Pointer(unsafe.SliceData(c.wideMem.mem))), size)
	c.x = makeIndex(&ground{indexes: 1}, 0, 2*firstFlows, uint32(size), words(c.tagMem.mem, size))
	return c
}

// Len returns the number of flows.
func (c *Cache) Len() int { return int(c.used - c.holes) }

// Close gives the memory back. No flow may be used afterwards.
func (c *Cache) Close() {
	c.x.close()
	for _, r := range []*region{c.mem, c.tagMem, c.connMem, c.wideMem} {
		r.close()
	}
	*c = Cache{}
}

// LookupBatch sets out[i] to the flow of ps[i], by its Tuple and Hash, or to
// nil. It works in passes over all packets, so that the memory accesses of many
// packets overlap.
func (c *Cache) LookupBatch(ps []packet.Packet, out []*Flow) {
	if c.x.old != nil {
		c.x.migrate(movesPerBatch)
	}
	for len(ps) > len(c.pins) {
		c.lookupBatch(ps[:len(c.pins)], out)
		ps, out = ps[len(c.pins):], out[len(c.pins):]
	}
	c.lookupBatch(ps, out)
}

func (c *Cache) lookupBatch(ps []packet.Packet, out []*Flow) {
	out = out[:len(ps)]
	slots, mask, refs := c.x.slots, c.x.mask, c.x.refs
	pins := &c.pins
	clear(pins[len(ps):])
	if len(ps) == 0 {
		return
	}
	far := c.used > nearFlows
	if far {
		prefetchSlots(unsafe.SliceData(slots), mask, &ps[0].Hash, unsafe.Sizeof(ps[0]), len(ps))
	}
	for i := range ps {
		h := ps[i].Hash
		pos, want := uint32(h)&mask, uint32(h>>32)&^refs
		s := slots[pos]
		for s != 0 && s&^refs != want {
			pos = (pos + 1) & mask
			s = slots[pos]
		}
		pins[i&(packet.BatchSize-1)] = s & refs
	}
	if far {
		prefetchLines(uintptr(unsafe.Pointer(unsafe.SliceData(c.flows))), pins, len(ps))
		if c.six > 0 && any6(ps) {
			prefetchLines(uintptr(unsafe.Pointer(unsafe.SliceData(c.wides))), pins, len(ps))
		}
	}
	for i := range ps {
		p := &ps[i]
		if r := pins[i&(packet.BatchSize-1)]; r != 0 {
			f := &c.flows[r-1]
			// Of IPv4 this is all of what is says, without a call.
			if f.key == shorten(&p.Tuple) && (f.Flags&inWide == 0 && p.Tuple.Is4() || c.is(r-1, &p.Tuple)) {
				out[i] = f
				continue
			}
		} else if c.x.old == nil {
			out[i] = nil
			continue
		}
		// Another flow with the same bits of the hash, or a growing index.
		out[i], pins[i&(packet.BatchSize-1)] = nil, 0
		if entry, ok := c.find(&p.Tuple, p.Hash); ok {
			out[i], pins[i&(packet.BatchSize-1)] = &c.flows[entry], entry+1
		}
	}
}

// any6 reports whether any of the packets is of IPv6.
func any6(ps []packet.Packet) bool {
	for i := range ps {
		if !ps[i].Tuple.Is4() {
			return true
		}
	}
	return false
}

// Lookup returns the flow of a tuple with that hash, or nil.
func (c *Cache) Lookup(key *packet.Tuple, hash uint64) *Flow {
	if entry, ok := c.find(key, hash); ok {
		return &c.flows[entry]
	}
	return nil
}

func (c *Cache) find(key *packet.Tuple, hash uint64) (entry uint32, ok bool) {
	for cur := c.x.seek(hash); ; {
		entry, ok = c.x.next(&cur)
		if !ok || c.is(entry, key) {
			return entry, ok
		}
	}
}

// is reports whether the flow of an entry is that of a tuple.
func (c *Cache) is(entry uint32, key *packet.Tuple) bool {
	f := &c.flows[entry]
	if f.key != shorten(key) {
		return false
	}
	if f.Flags&inWide == 0 {
		return key.Is4()
	}
	w := &c.wides[entry]
	return w.src == key.Src && w.dst == key.Dst
}

// entry returns the number of a flow.
func (c *Cache) entry(f *Flow) uint32 {
	return uint32((uintptr(unsafe.Pointer(f)) - uintptr(unsafe.Pointer(unsafe.SliceData(c.flows)))) / FlowSize)
}

// Conn returns the connection of a flow.
func (c *Cache) Conn(f *Flow) ID { return c.conns[c.entry(f)] }

// Translation returns what becomes of addresses and ports of a flow that Rewrites.
func (c *Cache) Translation(f *Flow) packet.Translation {
	t := f.To.Translation()
	if f.Flags&inWide != 0 {
		w := &c.wides[c.entry(f)]
		t.Src, t.Dst = w.toSrc, w.toDst
	}
	return t
}

// Set makes a flow what was decided at a second. What it has counted is lost.
// LastSeen is a second before that one, so that the Table hears of the flow's
// next packet at once: for TCP that packet completes the handshake.
func (c *Cache) Set(f *Flow, d *Decision, now uint32) {
	entry, is6 := c.entry(f), f.Flags&inWide
	f.Gen, f.LastSeen, f.counted = d.Gen, now-1, 0
	f.Exit = d.Exit
	f.Flags |= is6
	f.To = d.Translation.Short()
	c.conns[entry] = d.Conn
	if is6 != 0 {
		w := &c.wides[entry]
		w.toSrc, w.toDst = d.Src, d.Dst
	}
}

// Insert returns the flow of a tuple with that hash, a new one if there is none:
// it forwards nothing until it is Set. When the cache is full, a new flow takes the
// place of the one of a few that was not seen for longest.
func (c *Cache) Insert(key *packet.Tuple, hash uint64) *Flow {
	c.x.prefetch(hash)
	entry := c.used
	if entry == uint32(len(c.flows)) {
		entry = c.spare()
		c.x.prefetch(uint64(c.x.tags[entry]))
	}
	if found, ok := c.find(key, hash); ok {
		return &c.flows[found]
	}
	c.take(entry)
	f := &c.flows[entry]
	*f = Flow{key: shorten(key)}
	c.conns[entry] = 0
	if !key.Is4() {
		f.Flags = inWide
		c.six++
		c.widen(entry)
		c.wides[entry] = wide{src: key.Src, dst: key.Dst}
	}
	c.x.tags[entry] = uint32(hash)
	c.x.insert(hash, entry)
	return f
}

// widen prepares the rest of an entry of IPv6 to be written. Where most flows are
// of IPv4, only those pages of it are used that have to be.
func (c *Cache) widen(entry uint32) {
	end := int(entry+1) * wideSize
	if c.six > c.used/2 {
		_ = c.wideMem.ready(end)
	} else {
		c.wideMem.reached(end)
	}
}

// leaves counts what goes with a flow that is given up.
func (c *Cache) leaves(f *Flow) {
	if f.Flags&inWide != 0 {
		c.six--
	}
}

// take makes an entry free: the next that was never used, or what spare chose.
func (c *Cache) take(entry uint32) {
	switch f := &c.flows[entry]; {
	case entry == c.used:
		c.used++
		// Only asks for huge pages here, which may fail without harm.
		_ = c.mem.ready(int(c.used) * FlowSize)
		_ = c.tagMem.ready(int(c.used) * 4)
		_ = c.connMem.ready(int(c.used) * 8)
	case f.Flags&hole != 0:
		c.holes--
	default:
		if c.Evicted != nil {
			c.Evicted(f)
		}
		c.leaves(f)
		c.x.remove(entry)
	}
}

// spare returns the entry to use for a new flow when all are in use: a hole, or
// a flow to give up.
func (c *Cache) spare() uint32 {
	entry := c.oldest()
	for c.pinned(entry) {
		entry = c.oldest()
	}
	return entry
}

// oldest returns a hole, or of the next few flows the one that was not seen for
// longest.
func (c *Cache) oldest() uint32 {
	oldest := c.hand
	for range candidates {
		entry := c.hand
		if c.hand++; c.hand == c.used {
			c.hand = 0
		}
		f := &c.flows[entry]
		if f.Flags&hole != 0 {
			return entry
		}
		if int32(f.LastSeen-c.flows[oldest].LastSeen) < 0 {
			oldest = entry
		}
	}
	return oldest
}

// pinned reports whether the last LookupBatch returned the entry.
func (c *Cache) pinned(entry uint32) bool {
	for _, pin := range c.pins {
		if pin == entry+1 {
			return true
		}
	}
	return false
}

// Delete forgets a flow. Its place is filled by a later Sweep or Insert.
func (c *Cache) Delete(f *Flow) {
	if f.Flags&hole != 0 {
		return
	}
	c.leaves(f)
	c.x.remove(c.entry(f))
	*f = Flow{Exit: Exit{Flags: hole}}
	c.holes++
}

// Sweep looks at the next n flows and forgets those that keep says no to. Called
// again and again it comes round to all. The last flows move to where some are
// gone, and memory that was not needed for a while goes back to the system.
func (c *Cache) Sweep(n int, keep func(*Flow) bool) {
	clear(c.pins[:])
	for ; n > 0 && c.used > 0; n-- {
		if c.broom >= c.used {
			c.broom = 0
		}
		f := &c.flows[c.broom]
		if f.Flags&hole == 0 {
			if keep(f) {
				c.broom++
				continue
			}
			c.leaves(f)
			c.x.remove(c.broom)
			c.holes++
		}
		c.fill(c.broom)
	}
	c.mem.release(int(c.used)*FlowSize, releaseStep)
	c.connMem.release(int(c.used)*8, releaseStep)
	c.wideMem.release(int(c.used)*wideSize, releaseStep)
	if c.hand >= c.used {
		c.hand = 0
	}
}

// fill moves the last flow into a hole.
func (c *Cache) fill(entry uint32) {
	c.holes--
	c.used--
	if entry == c.used {
		return
	}
	last := &c.flows[c.used]
	c.flows[entry] = *last
	if last.Flags&hole != 0 {
		return // the hole moved; it is looked at next
	}
	c.conns[entry] = c.conns[c.used]
	if last.Flags&inWide != 0 {
		c.widen(entry)
		c.wides[entry] = c.wides[c.used]
	}
	c.x.rename(c.used, entry)
}
