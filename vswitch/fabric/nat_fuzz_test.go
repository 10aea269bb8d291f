package fabric

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// journey is one way that datagrams take in FuzzServiceNAT: who asks whom, who
// answers, and what the answerer must see.
type journey struct {
	from, backend, front string
	proto                uint8
	client, server       netip.AddrPort // as the client knows them
	seen, answerer       netip.AddrPort // as the backend does
	there, back          int            // routers on the way
}

// shape is how a datagram is sent.
type shape struct {
	fragment int // bytes of a fragment's payload; 0: whole
	order    uint64
	partial  bool // the checksum is left to the receiver
	gso      int  // bytes of a segment; 0: no superpacket
}

// plan decides, by the words of the API, what must become of a packet.
func (w *world) plan(cfg agent.ServiceConfig, from, backend, front string, proto uint8, sport uint16) *journey {
	j := &journey{from: from, backend: backend, front: front, proto: proto}
	j.client = w.at(from, sport)
	j.seen, j.answerer = j.client, w.at(backend, 8080)
	switch front {
	case "direct":
		j.server = j.answerer
	case "n1":
		j.server = w.at("n1", 30080)
	default:
		j.server = w.at(front, 80)
	}
	hidden := false
	switch {
	case front == "direct":
	case from == backend:
		hidden = true
	case from == "client":
		hidden = cfg.ExternalClient == agent.MasqueradeClient
	default:
		hidden = front != "vip" || cfg.MasqueradeAll
	}
	if hidden {
		j.seen = netip.AddrPortFrom(w.ip("n1"), sport)
	}
	j.there, j.back = 1, 1
	switch {
	case w.pods[backend].Node.Name != "n1":
		j.there, j.back = 2, 2
	case front == "direct" && from != "client":
		j.there, j.back = 0, 0 // neighbors
	case j.seen.Addr() == w.ip("a") && backend != "a":
		j.back = 0
	}
	return j
}

// emit sends a datagram in a shape. It returns what was sent, as one packet.
func (w *world) emit(who string, d dgram, s shape) []byte {
	ip := d.ip()
	to, src := w.macs(who, d.dst.Addr())
	typ := []byte{8, 0}
	hdr := 20
	if w.v6 {
		typ, hdr = []byte{0x86, 0xdd}, 40
	}
	frame := slices.Concat(to[:], src[:], typ, ip)
	l4 := 14 + hdr
	switch {
	case s.fragment > 0 && len(ip)-hdr > s.fragment:
		parts := fragments(frame, d.id, s.fragment)
		rand.New(rand.NewPCG(s.order, 1)).Shuffle(len(parts), func(i, k int) { parts[i], parts[k] = parts[k], parts[i] })
		for _, p := range parts {
			w.raw(who, p, nil)
		}
	case s.partial || s.gso > 0:
		at, _ := sumAt(d.proto)
		binary.BigEndian.PutUint16(frame[l4+at:], onesSum(pseudo(d.src.Addr(), d.dst.Addr(), d.proto, len(frame)-l4)))
		w.raw(who, frame, func(p *packet.Packet) {
			p.Flags, p.CsumStart, p.CsumOffset = packet.NeedsCsum, uint16(l4), uint16(at)
			n := len(frame) - len(d.payload)
			if s.gso > 0 && len(d.payload) > s.gso {
				p.GSOSize, p.HdrLen = uint16(s.gso), uint16(n)
				switch {
				case d.proto == packet.ProtoUDP:
					p.GSO = packet.GSOUDPL4
				case w.v6:
					p.GSO = packet.GSOTCPv6
				default:
					p.GSO = packet.GSOTCPv4
				}
			}
		})
	default:
		w.raw(who, frame, nil)
	}
	return ip
}

// arrived returns the IP packets that came out, by whom they came to.
func (w *world) arrived() map[string][][]byte {
	w.Helper()
	out := map[string][][]byte{}
	for name, end := range w.ends {
		for {
			w.batch.Reset()
			n, err := end.Read(w.batch, packet.BatchSize)
			must(w.T, err)
			if n == 0 {
				break
			}
			for i := range w.batch.Packets {
				w.batch.Each(&w.batch.Packets[i], make([]byte, 4096), func(frame []byte) {
					out[name] = append(out[name], bytes.Clone(frame[14:]))
				})
			}
		}
	}
	return out
}

// leg sends a datagram one way of a journey and wants it to arrive as want, byte by
// byte. It returns what was sent and what came, in packets.
func (w *world) leg(what, from, to string, d, want dgram, s shape) (sent []byte, got [][]byte) {
	w.Helper()
	sent = w.emit(from, d, s)
	out := w.arrived()
	if len(out) != 1 || len(out[to]) == 0 {
		w.Fatalf("%s: packets came out at %v, want some at %s; drops %s", what, names(out), to, w.drops())
	}
	got = out[to]
	if s.gso > 0 && len(d.payload) > s.gso {
		w.segments(what, got, want, s.gso)
		return sent, got
	}
	whole, err := join(got)
	if err != nil {
		w.Fatalf("%s: %v\n%x", what, err, got)
	}
	if s.fragment == 0 && len(got) != 1 {
		w.Fatalf("%s: came in %d packets", what, len(got))
	}
	body := want.transport()
	if d.proto == packet.ProtoUDP && !d.noSum { // a sum of zero has two forms
		for _, b := range [][]byte{body, whole.body} {
			if b[6]|b[7] == 0 {
				b[6], b[7] = 0xff, 0xff
			}
		}
	}
	id := uint32(want.id)
	if s.fragment == 0 && w.v6 {
		id = 0
	}
	if len(got) == 1 && w.v6 {
		whole.id = id
	}
	if whole.src != want.src.Addr() || whole.dst != want.dst.Addr() || whole.ttl != want.ttl || whole.id != id || !bytes.Equal(whole.body, body) {
		w.Fatalf("%s: got %v -> %v, TTL %d, id %d\n%x\nwant %v -> %v, TTL %d, id %d\n%x", what, whole.src, whole.dst, whole.ttl, whole.id, whole.body,
			want.src, want.dst, want.ttl, id, body)
	}
	return sent, got
}

// segments wants a superpacket to arrive as segments that are sound.
func (w *world) segments(what string, got [][]byte, want dgram, size int) {
	w.Helper()
	var payload []byte
	hdr := map[uint8]int{packet.ProtoTCP: 20 + 4*want.options, packet.ProtoUDP: 8}[want.proto]
	for _, ip := range got {
		s, err := join([][]byte{ip})
		if err != nil {
			w.Fatalf("%s: %v\n%x", what, err, ip)
		}
		sp, dp := binary.BigEndian.Uint16(s.body), binary.BigEndian.Uint16(s.body[2:])
		if s.src != want.src.Addr() || s.dst != want.dst.Addr() || s.ttl != want.ttl || sp != want.src.Port() || dp != want.dst.Port() || len(s.body)-hdr > size {
			w.Fatalf("%s: got a segment %v:%d -> %v:%d, TTL %d, %d bytes; want %v -> %v, TTL %d", what, s.src, sp, s.dst, dp, s.ttl, len(s.body)-hdr, want.src, want.dst, want.ttl)
		}
		payload = append(payload, s.body[hdr:]...)
	}
	if !bytes.Equal(payload, want.payload) {
		w.Fatalf("%s: %d bytes came in %d segments, want %d", what, len(payload), len(got), len(want.payload))
	}
}

func names(out map[string][][]byte) (list []string) {
	for n, l := range out {
		list = append(list, fmt.Sprintf("%s: %d", n, len(l)))
	}
	return list
}

// complain sends an ICMP error about a packet that somebody got, with quote bytes of
// it, and wants who sent that packet to know it again.
func (w *world) complain(what, from, to string, j *journey, about, sent []byte, quote int) {
	w.Helper()
	s, err := parseIP(about)
	must(w.T, err)
	hdr := len(about) - len(s.body)
	quoted := about[:min(max(quote, hdr+8), len(about), 1200)]
	e := dgram{src: netip.AddrPortFrom(s.dst, 0), dst: netip.AddrPortFrom(s.src, 0), proto: packet.ProtoICMP, flags: 3, ttl: 64, payload: quoted}
	if w.v6 {
		e.proto, e.flags = packet.ProtoICMPv6, 1
	}
	// The code, port unreachable, is in the octet behind the type: dgram has none.
	ip := e.ip()
	l4 := len(ip) - 8 - len(quoted)
	ip[l4+1] = map[bool]byte{false: 3, true: 4}[w.v6]
	ip[l4+2], ip[l4+3] = 0, 0
	var ph []byte
	if w.v6 {
		ph = pseudo(s.dst, s.src, packet.ProtoICMPv6, len(ip)-l4)
	}
	binary.BigEndian.PutUint16(ip[l4+2:], ^onesSum(ph, ip[l4:]))
	mac, src := w.macs(from, s.src)
	w.raw(from, slices.Concat(mac[:], src[:], map[bool][]byte{false: {8, 0}, true: {0x86, 0xdd}}[w.v6], ip), nil)
	out := w.arrived()
	if len(out) != 1 || len(out[to]) != 1 {
		w.Fatalf("%s: packets came out at %v, want one at %s; drops %s", what, names(out), to, w.drops())
	}
	got, err := join(out[to])
	if err != nil {
		w.Fatalf("%s: %v\n%x", what, err, out[to])
	}
	orig, err := parseIP(sent)
	must(w.T, err)
	if got.dst != orig.src || len(got.body) != 8+len(quoted) {
		w.Fatalf("%s: %v got an error of %d bytes, want %v with %d", what, got.dst, len(got.body), orig.src, 8+len(quoted))
	}
	in, want := bytes.Clone(got.body[8:]), bytes.Clone(sent)
	if !w.v6 {
		if onesSum(in[:20]) != 0xffff {
			w.Errorf("%s: the header of the quoted packet has a wrong checksum", what)
		}
		in[8], in[10], in[11], want[8], want[10], want[11] = 0, 0, 0, 0, 0, 0
	} else {
		in[7], want[7] = 0, 0
	}
	if j.proto == packet.ProtoSCTP && len(in) < len(want) && len(in) > hdr+8 {
		clear(in[hdr+8 : min(hdr+12, len(in))]) // nobody can check it
		clear(want[hdr+8 : hdr+12])
	}
	if j.proto == packet.ProtoUDP && in[hdr+6]&in[hdr+7]|want[hdr+6]&want[hdr+7] == 0xff {
		clear(in[hdr+6 : hdr+8]) // a sum of zero has two forms
		clear(want[hdr+6 : hdr+8])
	}
	if !bytes.Equal(in, want[:len(in)]) {
		w.Fatalf("%s: the quoted packet\n got %x\nwant %x", what, in, want[:len(in)])
	}
}

// FuzzServiceNAT sends datagrams of all protocols through a service, on one node and
// on two, with every kind of translation, whole and in fragments of any order, with
// full and partial checksums and as superpackets, and the answers and ICMP errors
// back. What arrives is compared, byte by byte, with what is made from scratch.
func FuzzServiceNAT(f *testing.F) {
	long := bytes.Repeat([]byte("0123456789abcdef"), 200)
	for i, s := range []struct {
		payload []byte
		bits    uint32
	}{
		{[]byte("hello"), 0}, {nil, 0x1}, {long, 0x10}, {long, 0x2341}, {long[:301], 0x8a2}, {long[:1200], 0x5d4e3}, {long, 0x3f21}, {bytes.Repeat([]byte{0xff}, 800), 0x999},
	} {
		f.Add(s.payload, uint16(1000+i), uint32(i)*0x1234567, s.bits, uint64(i))
	}
	f.Fuzz(func(t *testing.T, payload []byte, sport uint16, seq, bits uint32, order uint64) {
		if sport == 0 || len(payload) > 8000 {
			return
		}
		take := func(n uint32) int {
			v := bits % n
			bits /= n
			return int(v)
		}
		v6 := take(2) == 1
		proto := []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP, packet.ProtoICMP}[take(4)]
		from, backend := []string{"a", "client"}[take(2)], []string{"b", "c", "a"}[take(3)]
		front := []string{"vip", "lb", "n1", "direct"}[take(4)]
		cfg := agent.ServiceConfig{ExternalClient: []string{agent.PreserveClient, agent.MasqueradeClient}[take(2)], MasqueradeAll: take(4) == 0}
		if proto == packet.ProtoICMP {
			front = "direct"
			if v6 {
				proto = packet.ProtoICMPv6
			}
		}
		if front == "direct" && (from == backend || from == "client" && backend == "c") {
			return // a pod alone with itself, and what nobody lets through
		}
		there, back := shapeOf(take, proto, order), shapeOf(take, proto, order>>8)
		noSum := !v6 && proto == packet.ProtoUDP && take(4) == 0
		options, quote := take(8), take(1300)
		w := newWorldOf(t, Config{Services: cfg, MaxFlows: 64}, v6)
		t.Cleanup(w.batch.Close)
		w.serve(backend, withSCTP)
		if backend == "a" && from == "a" && sport == 30080 {
			return
		}
		j := w.plan(cfg, from, backend, front, proto, sport)
		ask, answer := uint8(0x02), uint8(0x12) // SYN, and its answer
		switch proto {
		case packet.ProtoSCTP:
			ask, answer = 1, 2
		case packet.ProtoICMP:
			ask, answer = 8, 0
		case packet.ProtoICMPv6:
			ask, answer = 128, 129
		}
		if proto == packet.ProtoICMP || proto == packet.ProtoICMPv6 {
			j.server, j.answerer = netip.AddrPortFrom(j.server.Addr(), sport), netip.AddrPortFrom(j.answerer.Addr(), sport)
		}
		question := dgram{src: j.client, dst: j.server, proto: proto, flags: ask, seq: seq, ttl: 64, id: 0x1111, payload: []byte("first")}
		reply := dgram{src: j.answerer, dst: j.seen, proto: proto, flags: answer, seq: seq + 1, ttl: 64, id: 0x2222, payload: []byte("answer")}
		translated := func(d dgram, src, dst netip.AddrPort, hops int) dgram {
			d.src, d.dst, d.ttl = src, dst, d.ttl-uint8(hops)
			return d
		}
		for round := range 3 {
			var s, r shape
			if round == 1 {
				question.payload, question.options, question.noSum = payload, options, noSum && !there.partial && there.gso == 0
				reply.payload, reply.noSum = append([]byte("re: "), payload...), noSum && !back.partial && back.gso == 0
				s, r = there, back
				if proto == packet.ProtoTCP {
					question.flags, reply.flags = 0x10, 0x10
				}
				if proto == packet.ProtoSCTP {
					question.flags, reply.flags = 0, 0
				}
				if n := 1300; s.fragment == 0 && s.gso == 0 {
					question.payload = question.payload[:min(n, len(payload))]
				}
				if n := 1300; r.fragment == 0 && r.gso == 0 {
					reply.payload = reply.payload[:min(n, len(reply.payload))]
				}
			}
			if round == 2 { // and all is as before
				question.payload, reply.payload = []byte("last"), []byte("words")
			}
			question.id++
			reply.id++
			sent, got := w.leg(fmt.Sprintf("question %d", round), from, backend, question, translated(question, j.seen, j.answerer, j.there), s)
			if len(got) == 1 && !s.partial && s.gso == 0 {
				w.complain(fmt.Sprintf("error about question %d", round), backend, from, j, got[0], sent, quote)
			}
			sent, got = w.leg(fmt.Sprintf("answer %d", round), backend, from, reply, translated(reply, j.server, j.client, j.back), r)
			if len(got) == 1 && !r.partial && r.gso == 0 && proto != packet.ProtoICMP && proto != packet.ProtoICMPv6 {
				w.complain(fmt.Sprintf("error about answer %d", round), from, backend, j, got[0], sent, quote)
			}
			w.now += time.Second
		}
	})
}

// shapeOf draws a shape that a protocol can have.
func shapeOf(take func(uint32) int, proto uint8, order uint64) (s shape) {
	kind, size := take(4), take(64)
	switch {
	case kind == 1 && proto != packet.ProtoSCTP: // whose fragments cannot be translated
		s.fragment, s.order = 64+8*(size*2), order
	case kind == 2 && (proto == packet.ProtoTCP || proto == packet.ProtoUDP):
		s.partial = true
	case kind == 3 && (proto == packet.ProtoTCP || proto == packet.ProtoUDP):
		s.gso = 100 + 16*size
	}
	return s
}

// withSCTP gives the service a port of SCTP, too.
func withSCTP(s *cluster.Service) {
	s.Ports = append(s.Ports, cluster.ServicePort{Name: "s", Protocol: packet.ProtoSCTP, Port: 80, NodePort: 30080})
}
