package nat

import (
	"fmt"
	"strings"
	"testing"

	"vswitch/vswitch/packet"
)

// play shows packets to a new connection, a word each: who sends it (o or r),
// and TCP flags, an SCTP chunk by name or nothing. "+5" lets seconds pass.
func play(t *testing.T, tab *Table, orig packet.Tuple, script string, now *uint32) ID {
	t.Helper()
	id, err := tab.Create(&orig, *now)
	if err != nil {
		t.Fatal(err)
	}
	more(t, tab, id, script, now)
	return id
}

var events = map[string]uint8{
	"S": packet.TCPSyn, "SA": packet.TCPSyn | packet.TCPAck, "A": packet.TCPAck, "": 0,
	"PA": packet.TCPPsh | packet.TCPAck, "FA": packet.TCPFin | packet.TCPAck,
	"R": packet.TCPRst, "RA": packet.TCPRst | packet.TCPAck,
	"init": 1, "init-ack": 2, "sack": 3, "abort": 6, "shutdown": 7, "shutdown-ack": 8,
	"cookie": 10, "cookie-ack": 11, "complete": 14,
}

func more(t *testing.T, tab *Table, id ID, script string, now *uint32) {
	t.Helper()
	for _, word := range strings.Fields(script) {
		if word[0] == '+' {
			var n uint32
			fmt.Sscan(word[1:], &n)
			*now += n
			continue
		}
		who, what, _ := strings.Cut(word, ":")
		dir := Original
		if who == "r" {
			dir = Reply
		}
		event, ok := events[what]
		if !ok {
			t.Fatalf("unknown event %q", word)
		}
		if !tab.Track(id, dir, event, *now) {
			t.Fatalf("%s: the connection is gone", word)
		}
	}
}

func TestStates(t *testing.T) {
	const hour = 3600
	for _, tt := range []struct {
		proto   uint8
		script  string
		want    string // state and flags
		timeout uint32
	}{
		// TCP: the handshake.
		{6, "", "NEW", 60},
		{6, "o:S", "SYN_SENT syn-original", 60},
		{6, "o:S o:S +1 o:S", "SYN_SENT syn-original", 60},
		{6, "o:S r:SA", "SYN_RECV seen-reply,syn-original,syn-reply", 60},
		{6, "o:S r:SA r:SA", "SYN_RECV seen-reply,syn-original,syn-reply", 60},
		{6, "o:S r:SA r:A", "SYN_RECV seen-reply,syn-original,syn-reply", 60},
		{6, "o:S r:SA o:A", "ESTABLISHED seen-reply,assured,syn-original,syn-reply", 24 * hour},
		{6, "o:S r:SA o:PA r:PA o:A", "ESTABLISHED seen-reply,assured,syn-original,syn-reply", 24 * hour},
		{6, "o:S r:RA", "CLOSED syn-original,rst-reply", 10},
		{6, "o:S r:A", "SYN_SENT syn-original", 60}, // an answer to an old connection
		{6, "o:S r:A o:R", "CLOSED syn-original,rst-original", 10},
		{6, "o:S r:A o:R o:S r:SA o:A", "ESTABLISHED seen-reply,assured,syn-original,syn-reply", 24 * hour},
		{6, "o:S r:S", "SYN_RECV seen-reply,syn-original,syn-reply", 60}, // both at once
		{6, "o:S r:S o:SA r:SA o:A", "ESTABLISHED seen-reply,assured,syn-original,syn-reply", 24 * hour},
		{6, "o:S o:A", "ESTABLISHED syn-original", 300}, // the answer went another way
		// TCP: found in the middle.
		{6, "o:A", "ESTABLISHED", 300},
		{6, "o:PA o:PA", "ESTABLISHED", 300},
		{6, "o:PA r:A", "ESTABLISHED seen-reply", 24 * hour},
		{6, "o:PA r:A o:PA", "ESTABLISHED seen-reply,assured", 24 * hour},
		{6, "o:SA", "ESTABLISHED syn-original", 300},
		{6, "o:SA r:A", "ESTABLISHED seen-reply,syn-original", 24 * hour},
		{6, "o:SA o:R +1 o:A o:A", "ESTABLISHED", 300}, // one side alone convinces nobody
		{6, "o:FA", "FIN_WAIT fin-original", 120},
		{6, "o:R", "CLOSED rst-original", 10},
		// TCP: closing.
		{6, "o:S r:SA o:A o:FA", "FIN_WAIT seen-reply,assured,syn-original,syn-reply,fin-original", 120},
		{6, "o:S r:SA o:FA", "FIN_WAIT seen-reply,assured,syn-original,syn-reply,fin-original", 120},
		{6, "o:S r:SA o:A o:FA r:PA r:PA", "FIN_WAIT seen-reply,assured,syn-original,syn-reply,fin-original", 120},
		{6, "o:S r:SA o:A r:FA o:FA", "TIME_WAIT seen-reply,assured,syn-original,syn-reply,fin-original,fin-reply", 120},
		{6, "o:S r:SA o:A r:FA o:FA r:A o:R", "TIME_WAIT seen-reply,assured,syn-original,syn-reply,fin-original,fin-reply", 120},
		{6, "o:S r:SA o:A r:FA o:FA r:FA o:A", "TIME_WAIT seen-reply,assured,syn-original,syn-reply,fin-original,fin-reply", 120},
		{6, "o:S r:SA o:A o:R", "CLOSED seen-reply,assured,syn-original,syn-reply,rst-original", 10},
		{6, "o:S r:SA o:A r:R o:PA +5 o:PA", "CLOSED seen-reply,assured,syn-original,syn-reply,rst-reply", 10},
		// A reset that its sender knows nothing of.
		{6, "o:S r:SA o:A r:R r:PA", "CLOSED seen-reply,assured,syn-original,syn-reply,rst-reply", 10},
		{6, "o:S r:SA o:A r:R +1 r:PA r:PA", "ESTABLISHED begun-by-reply", 300},
		{6, "o:S r:SA o:A r:R +1 r:PA o:A", "ESTABLISHED seen-reply,begun-by-reply", 24 * hour},
		{6, "o:S r:SA o:A r:R +1 r:PA o:A r:PA", "ESTABLISHED seen-reply,assured,begun-by-reply", 24 * hour},
		// TCP: the same ports again.
		{6, "o:S r:SA o:A r:FA o:FA o:S", "SYN_SENT syn-original", 60},
		{6, "o:S r:SA o:A r:FA o:FA r:S", "SYN_SENT syn-reply,begun-by-reply", 60},
		{6, "o:S r:SA o:A r:FA o:FA r:S o:SA r:A", "ESTABLISHED seen-reply,assured,syn-original,syn-reply,begun-by-reply", 24 * hour},
		{6, "o:S r:SA o:A o:S", "ESTABLISHED seen-reply,assured,syn-original,syn-reply", 24 * hour},

		// UDP.
		{17, "", "NEW", 30},
		{17, "o:", "UNREPLIED", 30},
		{17, "o: +100 o:", "UNREPLIED", 30},
		{17, "o: r:", "REPLIED seen-reply", 30},
		{17, "o: r: +2 o: r:", "REPLIED seen-reply", 30},
		{17, "o: r: +3 o:", "STREAM seen-reply,assured", 120},
		{17, "o: +20 r:", "REPLIED seen-reply", 30},
		{17, "o: +20 r: r:", "STREAM seen-reply,assured", 120},
		// ICMP echo, both families, and protocols without ports.
		{1, "o:", "UNREPLIED", 30},
		{58, "o: r: +20 o: r:", "REPLIED seen-reply", 30},
		{47, "o:", "UNREPLIED", 600},
		{0, "o: r:", "REPLIED seen-reply", 600},

		// SCTP, with chunk types and without.
		{132, "o:init", "SYN_SENT syn-original", 30},
		{132, "o:init r:init-ack", "SYN_RECV seen-reply,syn-original,syn-reply", 30},
		{132, "o:init r:init-ack o:cookie r:cookie-ack", "ESTABLISHED seen-reply,assured,syn-original,syn-reply", 210},
		{132, "o:init r:init-ack o:cookie r:cookie-ack o:shutdown r:shutdown-ack", "FIN_WAIT seen-reply,assured,syn-original,syn-reply,fin-original,fin-reply", 10},
		{132, "o:init r:init-ack o:cookie r:cookie-ack o:shutdown r:shutdown-ack o:complete", "TIME_WAIT seen-reply,assured,syn-original,syn-reply,fin-original,fin-reply", 10},
		{132, "o:init r:abort", "CLOSED syn-original,rst-reply", 10},
		{132, "o:init r:abort o:init", "SYN_SENT syn-original", 30},
		{132, "o:cookie r:cookie-ack", "ESTABLISHED seen-reply,assured,syn-original", 210},
		{132, "o:", "ESTABLISHED", 30},
		{132, "o: r: o:", "ESTABLISHED seen-reply,assured", 210},
	} {
		t.Run(packet.ProtoName(tt.proto)+"/"+tt.script, func(t *testing.T) {
			tab := open(t, Config{Max: 16})
			now := uint32(1000)
			orig := packet.Tuple{Src: packet.Addr{1}, Dst: packet.Addr{2}, SrcPort: 1, DstPort: 2, Proto: tt.proto}
			info, ok := tab.Get(play(t, tab, orig, tt.script, &now))
			if !ok {
				t.Fatal("the connection is gone")
			}
			if got := strings.TrimSpace(info.State.String() + " " + info.Flags.String()); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			last := max(info.Seen[0], info.Seen[1])
			if got := info.Expires - last; got != tt.timeout {
				t.Errorf("timeout %d s, want %d s", got, tt.timeout)
			}
		})
	}
}

// Begins tells a new connection from what still belongs to an ended one.
func TestBegins(t *testing.T) {
	for _, tt := range []struct {
		proto         uint8
		script, event string
		want          bool
	}{
		{6, "o:S r:SA o:A r:FA o:FA", "S", true},
		{6, "o:S r:SA o:A r:FA o:FA", "A", false},
		{6, "o:S r:SA o:A r:FA o:FA", "FA", false},
		{6, "o:S r:SA o:A r:FA o:FA", "SA", false},
		{6, "o:S r:RA", "S", true},
		{6, "o:S r:SA o:A", "S", false},
		{6, "o:S", "S", false},
		{6, "o:S r:SA o:A r:FA", "S", false},
		{17, "o: r:", "", false},
		{132, "o:init r:abort", "init", true},
	} {
		tab := open(t, Config{Max: 16})
		now := uint32(1000)
		orig := packet.Tuple{Src: packet.Addr{1}, Dst: packet.Addr{2}, SrcPort: 1, DstPort: 2, Proto: tt.proto}
		id := play(t, tab, orig, tt.script, &now)
		if got := tab.Begins(id, events[tt.event]); got != tt.want {
			t.Errorf("%s, then %q: %v, want %v", tt.script, tt.event, got, tt.want)
		}
	}
}

// The worker shows Track only the packets with SYN, FIN or RST and the first
// one of each flow; the third packet of a handshake comes as a Touch.
func TestHandshakeByTouch(t *testing.T) {
	for _, later := range []uint32{0, 1, 30} {
		tab := open(t, Config{Max: 16})
		orig := v4(packet.ProtoTCP, [4]byte{10, 0, 0, 1}, 1, [4]byte{10, 0, 0, 2}, 80)
		id, _ := tab.Create(&orig, 100)
		c := NewCache(1)
		defer c.Close()
		out := c.Insert(&orig, 1)
		c.Set(out, &Decision{Conn: id}, 100)
		tab.Track(id, Original, packet.TCPSyn, 100)
		tab.Track(id, Reply, packet.TCPSyn|packet.TCPAck, 100)

		// The sweep reports the flow's SYN: no further packet, no handshake.
		tab.Touch(id, Original, out.LastSeen, 1, 60)
		if info, _ := tab.Get(id); info.State != SynRecv {
			t.Fatalf("%v after the report of what was seen before", info.State)
		}
		now := 100 + later
		if out.LastSeen == now {
			t.Fatal("the worker would not report the flow's second packet")
		}
		tab.Touch(id, Original, now, 0, 0)
		info, _ := tab.Get(id)
		if info.State != Established || info.Flags&Assured == 0 || info.Seen[Original] != now || info.Packets[Original] != 1 || info.Bytes[Original] != 60 {
			t.Errorf("after %d s: %+v", later, info)
		}
	}
}

// Whatever comes, a connection stays in a state of its protocol, and nothing
// that was never answered stays for long.
func FuzzStates(f *testing.F) {
	f.Add(uint8(6), []byte{0x02, 0x92, 0x10, 0x11, 0x91})
	f.Add(uint8(6), []byte{0x02, 0x94, 0x42, 0x92})
	f.Add(uint8(132), []byte{1, 0x82, 10, 0x8b, 7, 0x88, 14})
	f.Add(uint8(17), []byte{0, 0x80, 0x40, 0x80})
	f.Add(uint8(6), []byte{0x12, 0x14, 0x50, 0x10, 0x10})
	f.Fuzz(func(t *testing.T, proto uint8, steps []byte) {
		var w word
		heard := [2]bool{true, false} // a packet of the original direction has made it
		for _, step := range steps {
			dir, age, event := Dir(step>>7), uint32(step>>6&1)*5, step&0x3f
			heard[dir] = true
			w = next(proto, w, dir, event, age)
			if !w.valid(proto) {
				t.Fatalf("%#x: %v %v", step, w.state(), w.flags())
			}
			if w.state() == New {
				t.Fatalf("%#x leads back to the beginning", step)
			}
			if w.has(Assured) && (!heard[0] || !heard[1]) {
				t.Fatalf("%#x: assured by one side alone", step)
			}
		}
	})
}
