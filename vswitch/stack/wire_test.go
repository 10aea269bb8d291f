package stack

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"vswitch/vswitch/packet"
)

// Addresses of the two pods that tests join, and of the gateway beside them.
var (
	macs   = [2][6]byte{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}
	addrs4 = [2]netip.Addr{netip.MustParseAddr("10.244.0.1"), netip.MustParseAddr("10.244.0.2")}
	addrs6 = [2]netip.Addr{netip.MustParseAddr("fd00:10:244::1"), netip.MustParseAddr("fd00:10:244::2")}
	gate4  = netip.MustParseAddr("10.244.0.254")
	gate6  = netip.MustParseAddr("fd00:10:244::fe")
)

// pod returns a stack with the addresses of pod i. It is closed with the test.
func pod(t testing.TB, i, mtu int) *Stack {
	t.Helper()
	s, err := New(Config{
		Name: "test/pod",
		MAC:  macs[i],
		Addrs: []netip.Prefix{
			netip.PrefixFrom(addrs4[i], 24), netip.PrefixFrom(addrs6[i], 64),
		},
		Gateways: []netip.Addr{gate4, gate6},
		MTU:      mtu,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// wire moves batches between two stacks. It is the dumbest of switches: it
// answers nothing, and every frame goes to the other side.
type wire struct {
	ends [2]*Stack
	// send takes the packets that ends[from] sent to the other end; nil
	// writes them as they are.
	send func(from int, b *packet.Batch)
	// see is called with every packet, before send.
	see func(from int, b *packet.Batch, p *packet.Packet)

	packets, super, bytes atomic.Int64
	wg                    sync.WaitGroup
}

// run moves packets until the ends are closed; it waits for that at the end of
// the test.
func (w *wire) run(t testing.TB) {
	for from, end := range w.ends {
		wake := make(chan struct{}, 1)
		end.Notify(func() {
			select {
			case wake <- struct{}{}:
			default:
			}
		})
		w.wg.Go(func() { w.move(from, wake) })
	}
	t.Cleanup(func() {
		for _, end := range w.ends {
			end.Close()
		}
		w.wg.Wait()
	})
}

func (w *wire) move(from int, wake chan struct{}) {
	b, release := borrow()
	defer release()
	for range wake {
		for {
			b.Reset()
			n, err := w.ends[from].Read(b, packet.BatchSize)
			if err != nil {
				return
			}
			if n == 0 {
				break
			}
			w.forward(from, b)
		}
	}
}

func (w *wire) forward(from int, b *packet.Batch) {
	for i := range b.Packets {
		p := &b.Packets[i]
		w.packets.Add(1)
		w.bytes.Add(int64(p.Len))
		if p.GSO != packet.GSONone {
			w.super.Add(1)
		}
		if w.see != nil {
			w.see(from, b, p)
		}
	}
	if w.send != nil {
		w.send(from, b)
		return
	}
	w.write(from, b)
}

// write gives all packets of b to the end that did not send them.
func (w *wire) write(from int, b *packet.Batch) {
	var idx [packet.BatchSize]uint16
	for i := range b.Packets {
		idx[i] = uint16(i)
	}
	w.ends[1-from].Write(b, idx[:len(b.Packets)])
}

// pair returns two stacks joined by a wire that runs.
func pair(t testing.TB, mtu int) *wire {
	t.Helper()
	w := &wire{ends: [2]*Stack{pod(t, 0, mtu), pod(t, 1, mtu)}}
	w.run(t)
	return w
}

// trains spreads the segments of every superpacket out, as they are received
// from the overlay: each behind its own headers.
func (w *wire) trains(from int, b *packet.Batch) {
	out, release := borrow()
	defer release()
	for i := range b.Packets {
		p := &b.Packets[i]
		frame := b.AppendTo(nil, p)
		if out.Full() {
			w.write(from, out)
			out.Reset()
		}
		if p.GSO == packet.GSONone || p.Segments()*(int(p.HdrLen)+int(p.GSOSize)) > packet.MaxFrame {
			clone(out, b, p)
			continue
		}
		off := out.Next()
		stride := int(p.HdrLen) + int(p.GSOSize)
		payload := frame[p.HdrLen:]
		at := off
		for len(payload) > 0 {
			copy(out.Buf[at:], frame[:p.HdrLen])
			n := copy(out.Buf[at+int(p.HdrLen):at+stride], payload)
			payload = payload[n:]
			at += stride
		}
		q := out.Add(off, len(frame))
		out.Take(at)
		*q = packet.Packet{
			Off: uint32(off), Len: p.Len, GSO: p.GSO, Flags: p.Flags, HdrLen: p.HdrLen, GSOSize: p.GSOSize,
			CsumStart: p.CsumStart, CsumOffset: p.CsumOffset, Stride: uint16(stride),
		}
	}
	w.write(from, out)
}

// clone appends a copy of p, a packet of b, to dst.
func clone(dst, b *packet.Batch, p *packet.Packet) *packet.Packet {
	q := dst.Append(b.AppendTo(nil, p))
	q.Flags, q.GSO, q.HdrLen, q.GSOSize = p.Flags, p.GSO, p.HdrLen, p.GSOSize
	q.CsumStart, q.CsumOffset = p.CsumStart, p.CsumOffset
	return q
}

// spare holds batches that nobody uses. A batch's memory is never given back
// to the system, so tests that need many use the same ones.
var spare struct {
	sync.Mutex
	batches []*packet.Batch
}

// borrow returns an empty batch, and the function that gives it back.
func borrow() (b *packet.Batch, release func()) {
	spare.Lock()
	defer spare.Unlock()
	if n := len(spare.batches); n > 0 {
		b = spare.batches[n-1]
		spare.batches = spare.batches[:n-1]
		b.Reset()
	} else {
		b = packet.NewBatch()
	}
	return b, func() {
		spare.Lock()
		spare.batches = append(spare.batches, b)
		spare.Unlock()
	}
}
