package nat

import (
	"errors"
	"testing"

	"vswitch/vswitch/packet"
)

var (
	nodeAddr = [4]byte{172, 29, 0, 1}
	server   = [4]byte{192, 0, 2, 80}
)

// masqueraded returns the mapping by which orig leaves with the node's address.
func masqueraded(orig *packet.Tuple) *Mapping {
	to := *orig
	to.Src = addr4(nodeAddr)
	return &Mapping{Reply: to.Reverse()}
}

// TestB08PortCollision: two pods, the same source port, one destination: the
// first keeps its port, the second gets another, and answers are told apart.
func TestB08PortCollision(t *testing.T) {
	for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP, packet.ProtoICMP} {
		t.Run(packet.ProtoName(proto), func(t *testing.T) {
			tab := open(t, Config{Max: 1000})
			dport := uint16(53)
			if proto == packet.ProtoICMP {
				dport = 4000 // both are the identifier
			}
			seen := map[packet.Tuple]ID{}
			for pod := range byte(50) {
				orig := v4(proto, [4]byte{10, 244, 1, pod}, 4000, server, dport)
				m := masqueraded(&orig)
				id, err := tab.Masquerade(&orig, m, 1)
				if err != nil {
					t.Fatalf("pod %d: %v", pod, err)
				}
				if kept := m.Reply.DstPort == 4000; kept != (pod == 0) || m.Reply.DstPort < 1024 {
					t.Errorf("pod %d leaves with port %d", pod, m.Reply.DstPort)
				}
				if proto == packet.ProtoICMP && m.Reply.SrcPort != m.Reply.DstPort || proto != packet.ProtoICMP && m.Reply.SrcPort != 53 {
					t.Errorf("pod %d: answers come from port %d", pod, m.Reply.SrcPort)
				}
				if _, twice := seen[m.Reply]; twice {
					t.Fatalf("two have %v", m.Reply)
				}
				seen[m.Reply] = id
			}
			for reply, id := range seen {
				if got, dir, ok := tab.Lookup(&reply); !ok || got != id || dir != Reply {
					t.Errorf("the answer %v finds %v %v", reply, got, dir)
				}
			}
			verify(t, tab)
		})
	}
}

// TestB08SameQuestionTwice: two questions from one socket at once, as two workers may
// see them, are one connection.
func TestB08SameQuestionTwice(t *testing.T) {
	tab := open(t, Config{Max: 1000})
	orig := v4(packet.ProtoUDP, [4]byte{10, 244, 1, 2}, 4000, server, 53)
	first, err := tab.Masquerade(&orig, masqueraded(&orig), 1)
	if err != nil {
		t.Fatal(err)
	}
	again, err := tab.Masquerade(&orig, masqueraded(&orig), 1)
	if !errors.Is(err, ErrExists) || again != first {
		t.Errorf("%v, %v; want ErrExists with %v", again, err, first)
	}
	if tab.Len() != 1 {
		t.Errorf("%d connections", tab.Len())
	}
}

// TestB09PortExhaustion: when all ports towards a destination are in use, the next
// connection fails at once and is counted, others are not affected, and it gets
// one as soon as some end.
func TestB09PortExhaustion(t *testing.T) {
	tab := open(t, Config{Max: 1 << 17})
	// All ports of the node towards the server, as if one pod had opened them.
	for port := 1; port < 1<<16; port++ {
		orig := v4(packet.ProtoUDP, [4]byte{10, 244, 1, 2}, uint16(port), server, 53)
		if _, err := tab.Masquerade(&orig, masqueraded(&orig), 1); err != nil {
			t.Fatalf("port %d: %v", port, err)
		}
	}
	for i := range 100 {
		orig := v4(packet.ProtoUDP, [4]byte{10, 244, 1, 3}, uint16(2000+i), server, 53)
		if id, err := tab.Masquerade(&orig, masqueraded(&orig), 2); !errors.Is(err, ErrNoPort) {
			t.Fatalf("%v, %v; want ErrNoPort", id, err)
		}
	}
	if n := tab.Stats().NoPort; n != 100 {
		t.Errorf("%d failures were counted, want 100", n)
	}
	orig := v4(packet.ProtoUDP, [4]byte{10, 244, 1, 3}, 2000, server, 54)
	if _, err := tab.Masquerade(&orig, masqueraded(&orig), 2); err != nil {
		t.Errorf("towards another port: %v", err)
	}
	orig = v4(packet.ProtoUDP, [4]byte{10, 244, 1, 3}, 2000, server, 53)
	expireAll(tab, 1+30)
	if _, err := tab.Masquerade(&orig, masqueraded(&orig), 1+30); err != nil {
		t.Errorf("after the others' time: %v", err)
	}
}

// TestMasqueradeFindsFreePort: with one port in sixteen free, nearly all find one.
func TestMasqueradeFindsFreePort(t *testing.T) {
	tab := open(t, Config{Max: 1 << 17})
	for port := 1024; port < 1<<16; port++ {
		if port%16 == 0 {
			continue
		}
		orig := v4(packet.ProtoTCP, [4]byte{10, 244, 1, 2}, uint16(port), server, 80)
		if _, err := tab.Masquerade(&orig, masqueraded(&orig), 1); err != nil {
			t.Fatal(err)
		}
	}
	failed := 0
	for i := range 500 {
		orig := v4(packet.ProtoTCP, [4]byte{10, 244, 1, 3}, uint16(1025+16*i), server, 80)
		if _, err := tab.Masquerade(&orig, masqueraded(&orig), 1); err != nil {
			failed++
		}
	}
	if failed > 5 { // each fails with (15/16)^128, 3 in 10,000
		t.Errorf("%d of 500 found none", failed)
	}
}

// TestMasqueradeWithoutPorts: what has no ports can be told apart only by addresses.
func TestMasqueradeWithoutPorts(t *testing.T) {
	tab := open(t, Config{Max: 100})
	one, two := v4(47, [4]byte{10, 244, 1, 2}, 0, server, 0), v4(47, [4]byte{10, 244, 1, 3}, 0, server, 0)
	if _, err := tab.Masquerade(&one, masqueraded(&one), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := tab.Masquerade(&two, masqueraded(&two), 1); !errors.Is(err, ErrNoPort) {
		t.Errorf("%v, want ErrNoPort", err)
	}
}

// TestDirectAndThroughService: a pod speaks to a backend directly and through its
// service, from one source port. To the backend these must be two connections,
// and each answer has its own way back.
func TestDirectAndThroughService(t *testing.T) {
	pod, backend, vip := [4]byte{10, 244, 1, 2}, [4]byte{10, 244, 2, 2}, [4]byte{10, 96, 0, 1}
	direct := v4(packet.ProtoTCP, pod, 4000, backend, 80)
	service := v4(packet.ProtoTCP, pod, 4000, vip, 80)
	mappings := map[packet.Tuple]Mapping{
		direct:  {Reply: direct.Reverse()},
		service: {Reply: direct.Reverse(), Service: 1},
	}
	for name, order := range map[string][]packet.Tuple{"direct first": {direct, service}, "service first": {service, direct}} {
		t.Run(name, func(t *testing.T) {
			tab := open(t, Config{Max: 100})
			var replies []packet.Tuple
			for _, orig := range order {
				m := mappings[orig]
				id, err := tab.Masquerade(&orig, &m, 1)
				if err != nil {
					t.Fatal(err)
				}
				if to, ok := tab.To(id, Reply); !ok || to != orig.Reverse() {
					t.Errorf("answers to %v become %v", orig, to)
				}
				replies = append(replies, m.Reply)
			}
			if replies[0] == replies[1] || replies[0] != direct.Reverse() {
				t.Errorf("answers are %v", replies)
			}
		})
	}
}

func TestMasqueradeDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	tab := open(t, Config{Max: 1 << 16})
	n := 0
	if got := testing.AllocsPerRun(2000, func() {
		n++
		orig := v4(packet.ProtoUDP, [4]byte{10, 244, byte(n >> 8), byte(n)}, 4000, server, 53)
		to := orig
		to.Src = addr4(nodeAddr)
		m := Mapping{Reply: to.Reverse()}
		if _, err := tab.Masquerade(&orig, &m, 1); err != nil {
			t.Fatal(err)
		}
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}
