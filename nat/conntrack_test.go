package nat

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"vswitch/vswitch/packet"
)

// The clock may wrap around, jump and be set back; nothing stays forever.
func TestTimers(t *testing.T) {
	for _, start := range []uint32{0, 1000, 0xfffffff0} {
		tab := open(t, Config{Max: 1000})
		orig := v4(packet.ProtoUDP, [4]byte{10, 0, 0, 1}, 1, [4]byte{10, 0, 0, 2}, 53)
		alive := func(at uint32) bool {
			expireAll(tab, at)
			verify(t, tab)
			return tab.Len() == 1
		}
		id, err := tab.Create(&orig, start)
		if err != nil {
			t.Fatal(err)
		}
		if !alive(start + 29) {
			t.Errorf("start %d: over too soon", start)
		}
		tab.Touch(id, Original, start+29, 1, 1)
		if !alive(start+30) || !alive(start+58) {
			t.Errorf("start %d: over in spite of a packet", start)
		}
		if alive(start + 59) {
			t.Errorf("start %d: still there", start)
		}
		// A jump of a day.
		tab.Create(&orig, start+60)
		if alive(start + 86400) {
			t.Errorf("start %d: still there after a day", start)
		}
		// Set back by an hour: over at the latest a turn of the wheel later.
		tab.Create(&orig, start+86400)
		alive(start + 82800)
		gone := false
		for s := range uint32(slots + 31) {
			gone = gone || !alive(start+82800+s)
		}
		if !gone {
			t.Errorf("start %d: still there after the clock was set back", start)
		}
	}
}

// A reset or a close is noticed long before the timer that was armed.
func TestTimerComesForward(t *testing.T) {
	tab := open(t, Config{Max: 1000})
	now := uint32(1000)
	orig := v4(packet.ProtoTCP, [4]byte{10, 0, 0, 1}, 1, [4]byte{10, 0, 0, 2}, 80)
	id := play(t, tab, orig, "o:S r:SA o:A", &now)
	for ; now < 5000; now += 100 {
		expireAll(tab, now)
	}
	if !tab.Valid(id) {
		t.Fatal("an established connection ended")
	}
	tab.Track(id, Reply, packet.TCPRst, now)
	expireAll(tab, now+9)
	if !tab.Valid(id) {
		t.Error("over too soon after the reset")
	}
	expireAll(tab, now+10)
	if tab.Valid(id) {
		t.Error("still there 10 s after the reset")
	}
}

// Timers keep up with any rate, because whoever makes a connection clears some.
func TestExpireKeepsUp(t *testing.T) {
	tab := open(t, Config{Max: 1 << 20})
	i := 0
	for now := uint32(1); now < 100; now++ {
		for range 2000 {
			k := key(i&^3 | 2) // UDP
			k.DstPort = uint16(now)
			if _, err := tab.Create(&k, now); err != nil && !errors.Is(err, ErrExists) {
				t.Fatal(err)
			}
			i += 4
		}
	}
	if n := tab.Len(); n > 2000*35 {
		t.Errorf("%d connections, want about %d without a call of Expire", n, 2000*30)
	}
	verify(t, tab)
}

func TestAllocatesNothing(t *testing.T) {
	tab := open(t, Config{Max: 1 << 16})
	now := uint32(1)
	n := 0
	run := func() {
		k := key(n)
		n++
		id, err := tab.Create(&k, now)
		if err != nil {
			t.Fatal(err)
		}
		tab.Lookup(&k)
		tab.Track(id, Original, packet.TCPSyn, now)
		tab.Touch(id, Original, now, 1, 60)
		tab.To(id, Reply)
		tab.Valid(id)
		tab.Get(id)
		if n%3 == 0 {
			tab.Delete(id)
		}
		if n%100 == 0 {
			now += 5
			tab.Expire(now)
		}
	}
	for range 20000 { // the indexes of the shards have grown
		run()
	}
	if got := testing.AllocsPerRun(10000, run); got > 0 {
		t.Errorf("%v allocations", got)
	}
}

// Several workers, an expiring one and a pod that goes away at once.
func TestTableConcurrently(t *testing.T) {
	tab := open(t, Config{Max: 3000})
	var wg sync.WaitGroup
	ops := 30000
	if raceEnabled {
		ops = 8000
	}
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			var ids []ID
			for op := range ops {
				now := uint32(op * 100 / ops)
				orig := randomTuple(r)
				orig.SrcPort = uint16(r.IntN(500))
				id, dir, ok := tab.Lookup(&orig)
				if !ok {
					var err error
					m := Mapping{Reply: orig.Reverse()}
					if r.IntN(3) == 0 {
						m.Reply.DstPort = uint16(r.IntN(500))
					}
					id, err = tab.CreateMapped(&orig, &m, now)
					if err != nil {
						continue
					}
				}
				ids = append(ids, id)
				tab.Track(id, dir, 0, now)
				old := ids[r.IntN(len(ids))]
				tab.Touch(old, Dir(r.IntN(2)), now, 1, 64)
				switch r.IntN(200) {
				case 0:
					tab.DeleteByAddr(orig.Src)
				case 1:
					for info := range tab.All {
						if info.Orig.Proto != info.Reply.Proto {
							t.Errorf("torn copy: %+v", info)
						}
					}
				case 2, 3, 4, 5:
					tab.Expire(now)
				case 6, 7, 8, 9:
					tab.Delete(old)
				}
			}
		})
	}
	wg.Wait()
	verify(t, tab)
	expireAll(tab, 1<<20)
	verify(t, tab)
	if tab.Len() != 0 {
		t.Errorf("%d connections left", tab.Len())
	}
}
