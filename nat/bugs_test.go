package nat

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"vswitch/vswitch/packet"
)

// A restart without change: UDP connections keep their backend.
func TestB04SurvivesRestart(t *testing.T) {
	needFiles(t)
	cfg := Config{Path: filepath.Join(t.TempDir(), "conntrack"), Max: 1000}
	tab, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	orig := v4(packet.ProtoUDP, [4]byte{10, 0, 0, 1}, 4000, [4]byte{10, 96, 0, 10}, 53)
	backend := v4(packet.ProtoUDP, [4]byte{10, 0, 1, 9}, 5353, [4]byte{10, 0, 0, 1}, 4000)
	id, err := tab.CreateMapped(&orig, &Mapping{Reply: backend, Service: 3, Backend: 5}, 100)
	if err != nil {
		t.Fatal(err)
	}
	tab.Track(id, Original, 0, 100)
	tab.Track(id, Reply, 0, 101)
	tab.Close()

	tab = open(t, cfg)
	id, dir, ok := tab.Lookup(&orig)
	if !ok || dir != Original {
		t.Fatal("the connection is gone")
	}
	want := backend.Reverse()
	if to, ok := tab.To(id, Original); !ok || to != want {
		t.Errorf("goes to %v, want %v", to, want)
	}
	expireAll(tab, 130)
	if !tab.Valid(id) {
		t.Error("ended 29 s after its last packet")
	}
	expireAll(tab, 131)
	if tab.Valid(id) {
		t.Error("outlived its timeout because of the restart")
	}
}

// Segments that an end point refuses change nothing: there are no windows here,
// so nothing is INVALID and nothing passes without its translation.
func TestB06OutOfWindow(t *testing.T) {
	tab := open(t, Config{Max: 1000})
	now := uint32(1000)
	orig := v4(packet.ProtoTCP, [4]byte{10, 0, 0, 1}, 4000, [4]byte{10, 96, 0, 10}, 80)
	id := play(t, tab, orig, "o:S r:SA o:A", &now)
	before, _ := tab.Get(id)
	more(t, tab, id, "r:PA r:SA o:S o:A r:A", &now)
	after, _ := tab.Get(id)
	if before.State != after.State || before.Flags != after.Flags {
		t.Errorf("%v %v became %v %v", before.State, before.Flags, after.State, after.Flags)
	}
	if _, dir, ok := tab.Lookup(new(orig.Reverse())); !ok || dir != Reply {
		t.Error("the answers are not found any more")
	}
}

// The end of an orderly close, and what comes late, still finds its way.
func TestB07LateSegments(t *testing.T) {
	tab := open(t, Config{Max: 1000})
	now := uint32(1000)
	orig := v4(packet.ProtoTCP, [4]byte{10, 0, 0, 1}, 4000, [4]byte{10, 96, 0, 10}, 80)
	id := play(t, tab, orig, "o:S r:SA o:PA o:FA r:A +1 r:FA", &now)
	for _, late := range []string{"o:A", "+30 r:FA", "o:A", "+60 r:PA", "o:R"} {
		more(t, tab, id, late, &now)
		expireAll(tab, now)
		if info, ok := tab.Get(id); !ok || info.State != TimeWait {
			t.Fatalf("after %s: %v, %v", late, info.State, ok)
		}
	}
	expireAll(tab, now+119)
	if !tab.Valid(id) {
		t.Error("TIME_WAIT is over too soon")
	}
	expireAll(tab, now+120)
	if tab.Valid(id) {
		t.Error("TIME_WAIT does not end")
	}
}

// Two translations must never share a reply tuple, nor take that of a
// connection without translation.
func TestB08SNATCollision(t *testing.T) {
	tab := open(t, Config{Max: 1000})
	node, server := [4]byte{172, 29, 0, 1}, [4]byte{203, 0, 113, 5}
	one := v4(packet.ProtoUDP, [4]byte{10, 0, 0, 1}, 4000, server, 53)
	two := v4(packet.ProtoUDP, [4]byte{10, 0, 0, 2}, 4000, server, 53)
	masqueraded := func(port uint16) *Mapping {
		return &Mapping{Reply: v4(packet.ProtoUDP, server, 53, node, port)}
	}
	a, err := tab.CreateMapped(&one, masqueraded(4000), 1)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := tab.CreateMapped(&two, masqueraded(4000), 1); !errors.Is(err, ErrExists) || id != a {
		t.Fatalf("the same source twice: %v, %v", id, err)
	}
	b, err := tab.CreateMapped(&two, masqueraded(4001), 1)
	if err != nil {
		t.Fatal(err)
	}
	for id, port := range map[ID]uint16{a: 4000, b: 4001} {
		got, dir, ok := tab.Lookup(&masqueraded(port).Reply)
		if !ok || got != id || dir != Reply {
			t.Errorf("the answer to port %d is of %v %v %v, want %v", port, got, dir, ok, id)
		}
	}
	if to, _ := tab.To(b, Reply); to != two.Reverse() {
		t.Errorf("the answer goes to %v, want %v", to, two.Reverse())
	}
	own := v4(packet.ProtoUDP, node, 4000, server, 53) // the node itself, by the same port
	if _, err := tab.Create(&own, 1); !errors.Is(err, ErrExists) {
		t.Errorf("a connection of the node's own took a translation's answers: %v", err)
	}
	// A and AAAA: the same five values twice are one connection.
	if id, err := tab.CreateMapped(&one, masqueraded(4002), 1); !errors.Is(err, ErrExists) || id != a {
		t.Errorf("a second connection with the same tuple: %v, %v", id, err)
	}
	tab.Delete(a)
	if _, err := tab.CreateMapped(&own, masqueraded(4000), 1); err != nil {
		t.Errorf("the port is not free again: %v", err)
	}
}

// A pod that is gone leaves no connection to the next owner of its address.
func TestB16PodGone(t *testing.T) {
	tab := open(t, Config{Max: 10000})
	pod, other := [4]byte{10, 0, 0, 7}, [4]byte{10, 0, 0, 8}
	vip, node := [4]byte{10, 96, 0, 1}, [4]byte{172, 29, 0, 1}
	want, kept := 0, 0
	for _, proto := range []uint8{1, 6, 17, 132, 47} {
		for port := range uint16(50) {
			for _, c := range []struct {
				orig, reply packet.Tuple
				gone        bool
			}{
				{v4(proto, pod, port, other, 80), packet.Tuple{}, true},
				{v4(proto, other, port, pod, 80), packet.Tuple{}, true},
				{v4(proto, other, port, vip, 80), v4(proto, pod, 8080, other, port), true},
				{v4(proto, pod, port, [4]byte{203, 0, 113, 1}, 80), v4(proto, [4]byte{203, 0, 113, 1}, 80, node, port), true},
				{v4(proto, other, port, [4]byte{10, 0, 0, 9}, 80), packet.Tuple{}, false},
			} {
				if c.reply == (packet.Tuple{}) {
					c.reply = c.orig.Reverse()
				}
				if _, err := tab.CreateMapped(&c.orig, &Mapping{Reply: c.reply}, 1); err != nil {
					t.Fatal(err)
				}
				if c.gone {
					want++
				} else {
					kept++
				}
			}
		}
	}
	if got := tab.DeleteByAddr(addr4(pod)); got != want {
		t.Errorf("%d connections ended, want %d", got, want)
	}
	if tab.Len() != kept {
		t.Errorf("%d connections left, want %d", tab.Len(), kept)
	}
	for info := range tab.All {
		for _, a := range []packet.Addr{info.Orig.Src, info.Orig.Dst, info.Reply.Src, info.Reply.Dst} {
			if a == addr4(pod) {
				t.Fatalf("left: %+v", info)
			}
		}
	}
	verify(t, tab)
}

// A full table gives up what was never answered, then what is not in real use,
// and never an established connection; it recovers by itself.
func TestB18TableFull(t *testing.T) {
	const size = 2048
	tab := open(t, Config{Max: size})
	now := uint32(1000)
	tcp := func(i int) packet.Tuple {
		return v4(packet.ProtoTCP, [4]byte{10, 1, byte(i >> 8), byte(i)}, 4000, [4]byte{10, 0, 0, 2}, 80)
	}
	var established []ID
	for i := range size / 2 {
		established = append(established, play(t, tab, tcp(i), "o:S r:SA o:A", &now))
	}
	for i := size / 2; i < size; i++ {
		play(t, tab, tcp(i), "o:S", &now)
	}
	for i := size; i < 5*size; i++ {
		play(t, tab, tcp(i), "o:S", &now) // each finds room
	}
	if got := tab.Stats(); got.Evicted != 4*size || got.Refused != 0 || tab.Len() != size {
		t.Errorf("%+v, %d connections", got, tab.Len())
	}
	for _, id := range established {
		if !tab.Valid(id) {
			t.Fatal("an established connection was given up")
		}
	}
	// All in use: refused, until something ends.
	for info := range tab.All {
		if info.State == SynSent {
			more(t, tab, info.ID, "r:SA o:A", &now)
			established = append(established, info.ID)
		}
	}
	for i := 5 * size; i < 6*size; i++ {
		if _, err := tab.Create(new(tcp(i)), now); !errors.Is(err, ErrFull) {
			t.Fatalf("got %v, want %v", err, ErrFull)
		}
	}
	if got := tab.Stats().Refused; got != size {
		t.Errorf("%d refused, want %d", got, size)
	}
	more(t, tab, established[9], "o:FA r:FA", &now) // TIME_WAIT may go
	if _, err := tab.Create(new(tcp(6*size)), now); err != nil || tab.Valid(established[9]) {
		t.Errorf("a closed connection keeps its place in a full table: %v", err)
	}
	expireAll(tab, now+100000)
	if tab.Len() != 0 {
		t.Errorf("%d connections left", tab.Len())
	}
	verify(t, tab)
}

// 100,000 SYNs a second from addresses that do not exist, for 20 seconds:
// bounded memory, and real connections old and new do not notice.
func TestB19SYNFlood(t *testing.T) {
	const size = 1 << 16
	tab := open(t, Config{Max: size})
	r := rand.New(rand.NewPCG(1, 2))
	now := uint32(1000)
	victim := [4]byte{10, 0, 0, 2}
	real := func(i int) packet.Tuple {
		return v4(packet.ProtoTCP, [4]byte{10, 1, byte(i >> 8), byte(i)}, 4000, victim, 80)
	}
	var ids []ID
	for i := range 1000 {
		ids = append(ids, play(t, tab, real(i), "o:S r:SA o:A", &now))
	}
	opened, lost := 0, 0
	var opening ID
	seconds := 20
	if raceEnabled {
		seconds = 3
	}
	for range seconds {
		for i := range 100_000 {
			var src [4]byte
			binary.BigEndian.PutUint32(src[:], r.Uint32()|0x80000000)
			syn := v4(packet.ProtoTCP, src, uint16(r.Uint32()), victim, 80)
			if id, err := tab.Create(&syn, now); err == nil {
				tab.Track(id, Original, packet.TCPSyn, now)
				if i%2 == 0 { // the victim answers half of them
					tab.Track(id, Reply, packet.TCPSyn|packet.TCPAck, now)
				}
			} else if !errors.Is(err, ErrExists) {
				t.Fatal(err)
			}
			// Ten real connections a second, whose handshake takes 50 ms.
			switch i % 10_000 {
			case 0:
				opening = play(t, tab, real(1000+opened), "o:S", &now)
				opened++
			case 5_000:
				if !tab.Track(opening, Reply, packet.TCPSyn|packet.TCPAck, now) || !tab.Track(opening, Original, packet.TCPAck, now) {
					lost++
					continue
				}
				ids = append(ids, opening)
			}
		}
		now++
		tab.Expire(now)
		if n := tab.Len(); n > size {
			t.Fatalf("%d connections of %d", n, size)
		}
	}
	if lost*50 > opened {
		t.Errorf("%d of %d new connections were lost", lost, opened)
	}
	for _, id := range ids {
		if info, ok := tab.Get(id); !ok || info.State != Established {
			t.Fatal("an established connection was given up")
		}
	}
	t.Logf("%d of %d new connections lost, %+v", lost, opened, tab.Stats())
	for now += 60; tab.Expire(now); {
	}
	if n := tab.Len(); n != len(ids) {
		t.Errorf("%d connections a minute later, want %d", n, len(ids))
	}
	verify(t, tab)
}
