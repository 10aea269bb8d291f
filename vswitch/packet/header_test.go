package packet

import (
	"bytes"
	"encoding/binary"
	"testing"
)

func TestDecrementTTL(t *testing.T) {
	b := NewBatch()
	for _, v6 := range []bool{false, true} {
		for ttl := 255; ttl >= 0; ttl-- {
			for _, id := range []uint16{1, 0xffff, uint16(ttl * 257)} {
				s := udp(v6, nil)
				s.ttl, s.id = uint8(ttl), id
				b.Reset()
				p := s.add(t, b)
				ok := b.DecrementTTL(p)
				if ok != (ttl > 1) {
					t.Fatalf("v6=%v ttl %d: %v", v6, ttl, ok)
				}
				if ok {
					s.ttl--
				}
				if want := s.frame(t); !bytes.Equal(b.Frame(p), want) {
					t.Fatalf("v6=%v ttl %d: %s", v6, ttl, difference(b.Frame(p), want))
				}
			}
		}
	}
}

// TestDecrementTTLAllSums goes through every header checksum.
func TestDecrementTTLAllSums(t *testing.T) {
	b := NewBatch()
	p := udp(false, nil).add(t, b)
	h := b.Frame(p)[EthernetLen:]
	for id := range 1 << 16 {
		h[8] = 64
		binary.BigEndian.PutUint16(h[4:], uint16(id))
		binary.BigEndian.PutUint16(h[10:], 0)
		binary.BigEndian.PutUint16(h[10:], ^slowSum(h[:20]))
		b.DecrementTTL(p)
		got := binary.BigEndian.Uint16(h[10:])
		binary.BigEndian.PutUint16(h[10:], 0)
		if want := ^slowSum(h[:20]); got != want {
			t.Fatalf("id %d: %#04x, want %#04x", id, got, want)
		}
	}
}

func TestSetEthernet(t *testing.T) {
	b := NewBatch()
	s := tcp(true, pattern(10))
	p := s.add(t, b)
	dst, src := [6]byte{1, 2, 3, 4, 5, 6}, [6]byte{7, 8, 9, 10, 11, 12}
	b.SetEthernet(p, &dst, &src)
	want := append([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, s.frame(t)[12:]...)
	if !bytes.Equal(b.Frame(p), want) {
		t.Error(difference(b.Frame(p), want))
	}
}
