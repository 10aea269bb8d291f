package nat

import (
	"encoding/binary"
	"math"
	"sync"
	"testing"

	"vswitch/vswitch/packet"
)

func backends(n int) []Backend {
	out := make([]Backend, n)
	for i := range out {
		out[i] = Backend{Addr: addr4([4]byte{10, 1, byte(i >> 8), byte(i)}), Port: 80}
		out[i].ID = uint32(out[i].hash())
	}
	return out
}

func client(n int) *packet.Tuple {
	t := v4(packet.ProtoTCP, [4]byte{}, 1000, [4]byte{10, 96, 0, 1}, 80)
	binary.BigEndian.PutUint32(t.Src[12:], uint32(n)+0x0a000000)
	return &t
}

// at returns a hash by which Service.Choose takes the i-th of n.
func at(i, n int) uint64 {
	from := make([]Backend, n)
	for hash := uint64(0); ; hash++ {
		if Draw(from, hash) == &from[i] {
			return hash
		}
	}
}

// TestB17Affinity: a client stays with its backend for as long as it comes within the
// time, on any second of the clock, and for as long as the backend is there.
func TestB17Affinity(t *testing.T) {
	for name, start := range map[string]uint32{"": 5000, "from zero": 0, "over the end of the clock": math.MaxUint32 - 50} {
		t.Run("time "+name, func(t *testing.T) {
			var a Affinities
			s := &Service{ID: 1, Affinity: 100}
			list := backends(4)
			now := start
			if b := a.Choose(s, list, client(1), at(2, 4), now); *b != list[2] {
				t.Fatalf("chose %v", b)
			}
			for range 5 {
				now += 99
				for _, f := range []func(*Service, []Backend, *packet.Tuple, uint64, uint32) *Backend{a.Peek, a.Choose} {
					if b := f(s, list, client(1), at(0, 4), now); *b != list[2] {
						t.Fatalf("%d s after the start: %v", now-start, b)
					}
				}
			}
			if b := a.Peek(s, list, client(1), at(1, 4), now+100); *b != list[1] {
				t.Errorf("after its time: %v", b)
			}
			if b := a.Choose(s, list, client(1), at(3, 4), now+100); *b != list[3] {
				t.Errorf("after its time: %v", b)
			}
		})
	}
	t.Run("backend gone", func(t *testing.T) {
		var a Affinities
		s := &Service{ID: 1, Affinity: 100}
		list := backends(4)
		a.Choose(s, list, client(1), at(2, 4), 1)
		less := append(backends(2), backends(4)[3])
		if b := a.Choose(s, less, client(1), at(0, 3), 2); *b != list[0] {
			t.Errorf("chose %v", b)
		}
		// It came back, but the client has another one now.
		if b := a.Choose(s, list, client(1), at(2, 4), 3); *b != list[0] {
			t.Errorf("chose %v", b)
		}
	})
	t.Run("others", func(t *testing.T) {
		var a Affinities
		list := backends(4)
		a.Choose(&Service{ID: 1, Affinity: 100}, list, client(1), at(2, 4), 1)
		if b := a.Choose(&Service{ID: 2, Affinity: 100}, list, client(1), at(0, 4), 1); *b != list[0] {
			t.Errorf("of another service: %v", b)
		}
		if b := a.Choose(&Service{ID: 1, Affinity: 100}, list, client(2), at(1, 4), 1); *b != list[1] {
			t.Errorf("of another client: %v", b)
		}
	})
}

func TestAffinityBound(t *testing.T) {
	var a Affinities
	s := &Service{ID: 1, Affinity: 1000}
	list := backends(2)
	for i := range maxAffinities + 5000 {
		a.Choose(s, list, client(i), uint64(i)<<40, uint32(i/1000))
	}
	if len(a.m) != maxAffinities {
		t.Fatalf("%d clients are remembered, want %d", len(a.m), maxAffinities)
	}
	a.Choose(s, list, client(-1), at(1, 2), 300)
	if b := a.Choose(s, list, client(-1), at(0, 2), 300); *b != list[1] {
		t.Error("the newest client was forgotten")
	}
	a.Expire(300 + 86400)
	if n := len(a.m); n == 0 || n >= maxAffinities {
		t.Errorf("%d are left of those that came within a day", n)
	}
	a.Expire(300 + 86400 + 1) // too soon to look again
	a.Expire(300 + 2*86400)
	if len(a.m) != 0 {
		t.Errorf("%d are left after two days", len(a.m))
	}
}

// TestAffinityRecall: connections that outlived a restart say who had which backend.
func TestAffinityRecall(t *testing.T) {
	tab := open(t, Config{Max: 100})
	s := &Service{ID: 9, Affinity: 100}
	list := backends(4)
	for i, b := range []int{0, 3} { // the later one counts
		orig := *client(1)
		orig.SrcPort += uint16(i)
		m := Mapping{Reply: orig.Reverse(), Service: s.ID, Backend: list[b].ID}
		m.Reply.Src, m.Reply.SrcPort = list[b].Addr, list[b].Port
		if _, err := tab.CreateMapped(&orig, &m, uint32(50+i)); err != nil {
			t.Fatal(err)
		}
	}
	passedOn := *client(3) // another node translates
	if _, err := tab.CreateMapped(&passedOn, &Mapping{Reply: passedOn.Reverse(), Service: s.ID, Backend: list[2].ID, Zone: 1, Via: 7}, 55); err != nil {
		t.Fatal(err)
	}
	plain := *client(2)
	if _, err := tab.Create(&plain, 50); err != nil {
		t.Fatal(err)
	}
	var a Affinities
	a.Recall(tab)
	if len(a.m) != 2 {
		t.Errorf("%d affinities", len(a.m))
	}
	if b := a.Choose(s, list, client(3), at(1, 4), 60); *b != list[2] {
		t.Errorf("of a client that was passed on: chose %v, want %v", b, list[2])
	}
	if b := a.Choose(s, list, client(1), at(1, 4), 60); *b != list[3] {
		t.Errorf("chose %v, want %v", b, list[3])
	}
}

// TestAffinityConcurrent: workers that see one client at once agree.
func TestAffinityConcurrent(t *testing.T) {
	var a Affinities
	s := &Service{ID: 1, Affinity: 100}
	list := backends(8)
	for c := range 200 {
		var got [8]*Backend
		var wg sync.WaitGroup
		for i := range got {
			wg.Go(func() { got[i] = a.Choose(s, list, client(c), at(i, 8), 1) })
		}
		wg.Wait()
		for _, b := range got {
			if b != got[0] {
				t.Fatalf("client %d: %v and %v", c, b, got[0])
			}
		}
	}
}
