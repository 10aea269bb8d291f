package vswitch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"vswitch/vswitch/packet"
)

// fragmentsOf cuts a frame into fragments with size bytes of payload.
func fragmentsOf(t *testing.T, frame []byte, id uint16, size int) (out [][]byte) {
	t.Helper()
	ip, body := frame[14:34], frame[34:]
	v6 := frame[12] == 0x86
	if v6 {
		ip, body = frame[14:54], frame[54:]
	}
	for off := 0; off < len(body); off += size {
		part, more := body[off:], uint16(0)
		if len(part) > size {
			part, more = part[:size], 1
		}
		f := append(bytes.Clone(frame[:14]), ip...)
		if v6 {
			f[14+6] = 44
			f = append(f, ip[6], 0)
			f = binary.BigEndian.AppendUint16(f, uint16(off)|more)
			f = binary.BigEndian.AppendUint32(f, uint32(id))
			binary.BigEndian.PutUint16(f[14+4:], uint16(8+len(part)))
		} else {
			binary.BigEndian.PutUint16(f[14+2:], uint16(20+len(part)))
			binary.BigEndian.PutUint16(f[14+4:], id)
			binary.BigEndian.PutUint16(f[14+6:], uint16(off/8)|more<<13)
			binary.BigEndian.PutUint16(f[14+10:], 0)
			binary.BigEndian.PutUint16(f[14+10:], ^packet.Fold(packet.Sum(f[14:34], 0)))
		}
		out = append(out, append(f, part...))
	}
	return out
}

// TestFragments: what belongs to a datagram goes the way of its first
// fragment, in whatever order it comes, and without it goes nowhere.
func TestFragments(t *testing.T) {
	families(t, func(t *testing.T, a, b, far, _ string) {
		for _, c := range []struct {
			name  string
			order []int
			sent  []int // fragments that came out, in their order
		}{
			{"in order", []int{0, 1, 2}, []int{0, 1, 2}},
			{"first in the middle", []int{1, 0, 2}, []int{0, 1, 2}},
			{"first at last", []int{2, 1, 0}, []int{0, 2, 1}},
			{"no last", []int{0, 1}, []int{0, 1}},
			{"no first", []int{1, 2}, nil},
			{"two first ones", []int{0, 0, 1}, []int{0, 1}},
			{"some twice", []int{1, 1, 2, 2, 0}, []int{0, 2}},
		} {
			for out, frame := range map[string][]byte{
				"b":       build(t, macB, macA, a, b, udp(), 3000),
				"overlay": build(t, macGW, macA, a, far, udp(), 3000),
			} {
				t.Run(c.name+" to "+out, func(t *testing.T) {
					r := newRig(t)
					whole := fragmentsOf(t, frame, 9, 1200)
					for _, i := range c.order {
						r.send("a", whole[i])
					}
					var sent []int
					for _, got := range r.got(out) {
						// Payload is what no router changes.
						n := slices.IndexFunc(whole, func(f []byte) bool { return bytes.HasSuffix(got.frame, f[len(f)-600:]) })
						sent = append(sent, n)
					}
					if !slices.Equal(sent, c.sent) {
						t.Errorf("fragments %v came out, want %v; drops %v", sent, c.sent, r.sw.Drops())
					}
				})
			}
		}
	})
}

// TestB20FragmentsTooBig: fragments that do not fit the way are cut, in whatever
// order they come, and where that is not allowed, none goes out.
func TestB20FragmentsTooBig(t *testing.T) {
	families(t, func(t *testing.T, a, _, far, _ string) {
		frame := build(t, macGW, macA, a, far, udp(), 5000)
		for _, order := range [][]int{{0, 1, 2}, {1, 0, 2}, {2, 1, 0}, {1, 2, 0}} {
			t.Run(fmt.Sprint(order), func(t *testing.T) {
				r := newRig(t)
				whole := fragmentsOf(t, frame, 9, 2000)
				for _, i := range order {
					r.send("a", whole[i])
				}
				if frame[12] == 0x86 {
					if n := len(r.got("overlay")); n != 1 { // the last one fits
						t.Errorf("%d fragments came out", n)
					}
					if d := r.sw.Drops(); d[TooBig] != 2 || len(d) != 1 {
						t.Errorf("drops are %v, want two too big", d)
					}
					return
				}
				got := make([]byte, len(frame)-34)
				n := 0
				for _, f := range r.got("overlay") {
					at := int(binary.BigEndian.Uint16(f.frame[20:])&0x1fff) * 8
					n += copy(got[at:], f.frame[34:])
					if len(f.frame)-14 > 1450 || f.frame[22] != 63 {
						t.Errorf("a fragment of %d bytes with TTL %d came out", len(f.frame)-14, f.frame[22])
					}
				}
				if n != len(got) || !bytes.Equal(got, frame[34:]) {
					t.Errorf("%d bytes came out, want %d; drops %v", n, len(got), r.sw.Drops())
				}
			})
		}
	})
}

// TestManyFragmentedDatagrams: what has passed takes no room, however much of
// it there is in a moment.
func TestManyFragmentedDatagrams(t *testing.T) {
	families(t, func(t *testing.T, a, b, _, _ string) {
		r := newRig(t)
		frame := build(t, macB, macA, a, b, udp(), 2000)
		for id := range 4 * maxDatagrams {
			for _, f := range fragmentsOf(t, frame, uint16(id), 1200) {
				r.send("a", f)
			}
			if n := len(r.got("b")); n != 2 {
				t.Fatalf("%d of 2 fragments of datagram %d came out; drops %v", n, id, r.sw.Drops())
			}
		}
		if fs := r.sw.workers[0].frags; len(fs.m) != 0 || fs.waiting != 0 {
			t.Errorf("%d datagrams and %d bytes are kept", len(fs.m), fs.waiting)
		}
	})
}

// TestFragmentsAreBounded: datagrams that never get whole make room for others,
// and are forgotten in time.
func TestFragmentsAreBounded(t *testing.T) {
	r := newRig(t)
	fs := r.sw.workers[0].frags
	frame := build(t, macB, macA, podA, podB, udp(), 2000)
	for id := range 2 * maxDatagrams {
		r.send("a", fragmentsOf(t, frame, uint16(id), 1200)[1])
		if len(fs.m) > maxDatagrams || fs.waiting > maxWaiting {
			t.Fatalf("%d datagrams and %d bytes are kept", len(fs.m), fs.waiting)
		}
	}
	if len(r.got("b")) != 0 {
		t.Error("a fragment went out whose first one never came")
	}
	if r.sw.Drops()[FragmentLost] == 0 {
		t.Error("what finds no room to wait is not counted")
	}
	for _, f := range fragmentsOf(t, frame, 60000, 1200) {
		r.send("a", f)
	}
	if n := len(r.got("b")); n != 2 {
		t.Errorf("%d of 2 fragments came out while the table was full", n)
	}
	r.now += (fragTimeout + 2) * time.Second
	r.sw.Step()
	if len(fs.m) != 0 || fs.waiting != 0 {
		t.Errorf("%d datagrams and %d bytes are kept after their time", len(fs.m), fs.waiting)
	}
}
