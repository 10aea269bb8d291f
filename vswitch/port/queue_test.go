package port

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"vswitch/vswitch/packet"
)

// TestQueueModel puts and reads at random and compares with a list.
func TestQueueModel(t *testing.T) {
	for seed := range uint64(48) {
		r := rand.New(rand.NewPCG(seed, 1))
		limit := []int{1000, 5000, 100_000, queueBytes}[seed%4]
		largest := []int{60, 700, 3000, packet.MaxFrame}[seed/4%4]
		modelQueue(t, r, limit, min(largest, limit))
	}
}

func modelQueue(t *testing.T, r *rand.Rand, limit, largest int) {
	var q queue
	q.init(limit)
	b := packet.NewBatch()
	type item struct {
		data []byte
		meta packet.Packet
	}
	var list []item
	held := 0
	put := func() {
		data := make([]byte, 14+r.IntN(largest-13))
		for i, start := 0, r.IntN(256); i < len(data); i++ {
			data[i] = byte(start + i + i>>8)
		}
		meta := packet.Packet{GSO: packet.GSOTCPv6, Flags: byte(r.IntN(4)), HdrLen: uint16(r.Uint32()),
			GSOSize: uint16(r.Uint32()), CsumStart: uint16(r.Uint32()), CsumOffset: uint16(r.Uint32())}
		q.mu.Lock()
		dst := q.put(len(data), &meta)
		if dst == nil && (len(list) == 0 || len(list) < queueDepth && held+2*largest <= limit/2) {
			t.Fatalf("no room for %d bytes in %d, with %d packets of %d bytes in it", len(data), limit, len(list), held)
		}
		if dst != nil {
			copy(dst, data)
			list = append(list, item{data, meta})
			held += len(data)
		}
		q.flush()
	}
	take := func() {
		b.Reset()
		max := r.IntN(8)
		n, err := q.read(b, max)
		if err != nil || n != len(b.Packets) || n < min(max, len(list)) && !b.Full() {
			t.Fatalf("read(%d) = %d, %v, with %d in the queue", max, n, err, len(list))
		}
		for i := range b.Packets {
			p, want := b.Packets[i], list[i]
			if !bytes.Equal(b.Frame(&p), want.data) {
				t.Fatalf("packet %d: %d bytes, want %d", i, p.Len, len(want.data))
			}
			want.meta.Off, want.meta.Len = p.Off, p.Len
			if p != want.meta {
				t.Fatalf("packet %d: %+v, want %+v", i, p, want.meta)
			}
			held -= len(want.data)
		}
		list = list[n:]
	}
	for range 2000 {
		if r.IntN(5) < 3 {
			put()
		} else {
			take()
		}
	}
	drainClosed(t, &q, b, len(list))
}

// drainClosed closes q and expects it to give what it holds, then ErrClosed.
func drainClosed(t *testing.T, q *queue, b *packet.Batch, left int) {
	t.Helper()
	q.close(false)
	for {
		b.Reset()
		n, err := q.read(b, packet.BatchSize)
		if left -= n; n > 0 && err == nil {
			continue
		}
		if left != 0 || !errors.Is(err, ErrClosed) {
			t.Fatalf("%v with %d packets left", err, left)
		}
		return
	}
}
