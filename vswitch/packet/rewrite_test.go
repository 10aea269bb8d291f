package packet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/gopacket/layers"
)

// rewritten is what rewriting is tried on, by family: every protocol that
// Rewrite knows and one that it does not.
func rewritten(v6 bool) map[string]frameSpec {
	all := map[string]frameSpec{
		"tcp":     tcp(v6, pattern(100)),
		"tcp/odd": tcp(v6, pattern(101)),
		"udp":     udp(v6, pattern(33)),
		"empty":   udp(v6, nil),
	}
	s := udp(v6, pattern(9))
	s.noChecksum = true
	all["udp/no checksum"] = s
	s = udp(v6, pattern(5000))
	s.proto = layers.IPProtocolSCTP
	all["sctp"] = s
	s.payload = nil
	all["sctp/empty"] = s
	for _, typ := range []uint8{8, 0} {
		s = udp(v6, pattern(56))
		s.proto, s.icmpType = layers.IPProtocolICMPv4, typ
		if v6 {
			s.proto, s.icmpType = layers.IPProtocolICMPv6, 128+typ/8
		}
		all[fmt.Sprintf("echo/%d", typ)] = s
	}
	s = udp(v6, pattern(77))
	s.proto = layers.IPProtocolGRE
	all["gre"] = s
	return all
}

// targets are the translations that are tried on s.
func targets(s frameSpec) map[string]frameSpec {
	all := map[string]frameSpec{"nothing": s}
	set := func(name string, f func(q *frameSpec)) {
		q := s
		f(&q)
		all[name] = q
	}
	newSrc, newDst := netip.MustParseAddr("172.29.0.1"), netip.MustParseAddr("255.255.255.254")
	if s.is6() {
		newSrc, newDst = netip.MustParseAddr("2001:db8::f"), netip.MustParseAddr("fd00:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
	}
	set("destination", func(q *frameSpec) { q.dst = newDst })
	set("source", func(q *frameSpec) { q.src = newSrc })
	set("both", func(q *frameSpec) { q.src, q.dst = newSrc, newDst })
	set("swapped", func(q *frameSpec) { q.src, q.dst = s.dst, s.src })
	if t := s.tuple(); t.SrcPort != 0 {
		set("source port", func(q *frameSpec) { q.sport = 65535 })
		set("destination port", func(q *frameSpec) { q.dport = 1 })
		set("all", func(q *frameSpec) { q.src, q.dst, q.sport, q.dport = newSrc, newDst, 1, 65535 })
	}
	return all
}

// TestRewrite compares with the frame that gopacket builds for the new tuple.
func TestRewrite(t *testing.T) {
	b := NewBatch()
	for _, v6 := range []bool{false, true} {
		for name, s := range rewritten(v6) {
			for what, to := range targets(s) {
				t.Run(fmt.Sprintf("%s/v6=%v/%s", name, v6, what), func(t *testing.T) {
					from, dest := s.tuple(), to.tuple()
					tr := Translate(&from, &dest)
					b.Reset()
					p := s.add(t, b)
					b.Parse(p)
					if p.Tuple != from || p.Class != Flow {
						t.Fatalf("parsed as %v %v, want %v", p.Class, p.Tuple, from)
					}
					if !b.Rewrite(p, &tr) {
						t.Fatal("refused")
					}
					if want := to.frame(t); !bytes.Equal(b.Frame(p), want) {
						t.Errorf("complete: %s", difference(b.Frame(p), want))
					}
					if s.proto != layers.IPProtocolTCP && s.proto != layers.IPProtocolUDP || s.noChecksum {
						return
					}
					p = s.addPartial(t, b)
					b.Parse(p)
					b.Rewrite(p, &tr)
					if want := to.partial(to.frame(t)); !bytes.Equal(b.Frame(p), want) {
						t.Errorf("partial: %s", difference(b.Frame(p), want))
					}
					if b.Complete(p); !bytes.Equal(b.Frame(p), to.frame(t)) {
						t.Errorf("completed: %s", difference(b.Frame(p), to.frame(t)))
					}
				})
			}
		}
	}
}

// TestB13RewriteSuperpackets translates superpackets and trains and compares
// what is on the wire.
func TestB13RewriteSuperpackets(t *testing.T) {
	b := NewBatch()
	for name, s := range superpackets() {
		if len(s.payload) < 1400 {
			continue
		}
		for what, to := range targets(s) {
			for _, gap := range []int{0, 62} {
				b.Reset()
				from, dest := s.tuple(), to.tuple()
				tr := Translate(&from, &dest)
				p := s.addGSO(t, b, 1398, gap)
				b.Parse(p)
				if p.Class != Flow || !b.Rewrite(p, &tr) {
					t.Fatalf("%s: %v, or refused", name, p.Class)
				}
				want := to.segments(t, 1398)
				got := wire(b, p)
				if len(got) != len(want) {
					t.Fatalf("%s/%s: %d frames", name, what, len(got))
				}
				for i := range want {
					if !bytes.Equal(got[i], want[i]) {
						t.Fatalf("%s/%s: frame %d: %s", name, what, i, difference(got[i], want[i]))
					}
				}
				if p.Stride == 0 && binary.BigEndian.Uint16(b.Frame(p)[to.csumAt():]) != to.pseudo(int(p.Len)-to.l4()) {
					t.Errorf("%s/%s: the pseudo header sum is wrong", name, what)
				}
			}
		}
	}
}

// TestRewriteBadChecksum checks that a wrong checksum is not made right.
func TestRewriteBadChecksum(t *testing.T) {
	b := NewBatch()
	for _, v6 := range []bool{false, true} {
		for name, s := range rewritten(v6) {
			if s.noChecksum || s.proto == layers.IPProtocolGRE {
				continue
			}
			for what, to := range targets(s) {
				f := s.frame(t)
				f[len(f)-1] ^= 1
				b.Reset()
				p := b.Append(f)
				b.Parse(p)
				from, dest := s.tuple(), to.tuple()
				tr := Translate(&from, &dest)
				if b.Rewrite(p, &tr); b.VerifyTransport(p) {
					t.Errorf("%s/v6=%v/%s: mended", name, v6, what)
				}
			}
		}
	}
}

// TestRewriteInnerPartial has a packet in a tunnel of the pod's own whose inner
// checksum is partial: the outer one is complete and must stay right.
func TestRewriteInnerPartial(t *testing.T) {
	inner := tcp(false, pattern(200))
	f := inner.partial(inner.frame(t))
	s := udp(false, append(append([]byte(nil), tunnel...), f...))
	to := targets(s)["all"]
	from, dest := s.tuple(), to.tuple()
	tr := Translate(&from, &dest)
	b := NewBatch()
	p := s.add(t, b)
	at := s.l4() + 8 + len(tunnel)
	p.Flags, p.CsumStart, p.CsumOffset = NeedsCsum, uint16(at+inner.l4()), tcpCsum
	b.Parse(p)
	if p.Class != Flow || !b.Rewrite(p, &tr) {
		t.Fatalf("%v, or refused", p.Class)
	}
	if want := to.frame(t); !bytes.Equal(b.Frame(p), want) {
		t.Errorf("outer: %s", difference(b.Frame(p), want))
	}
	b.Complete(p)
	if got := b.Frame(p)[at:]; !bytes.Equal(got, inner.frame(t)) {
		t.Errorf("inner: %s", difference(got, inner.frame(t)))
	}
}

// TestB20RewriteFragments translates every fragment of a datagram and compares
// with the fragments of the datagram that was translated whole.
func TestB20RewriteFragments(t *testing.T) {
	b := NewBatch()
	for _, v6 := range []bool{false, true} {
		for name, s := range rewritten(v6) {
			if s.proto == layers.IPProtocolSCTP || len(s.payload) == 0 {
				continue
			}
			s.payload = pattern(1111)
			for what, to := range targets(s) {
				from, dest := s.tuple(), to.tuple()
				tr := Translate(&from, &dest)
				want := to.fragments(t, 400)
				for i, f := range s.fragments(t, 400) {
					b.Reset()
					p := b.Append(f)
					b.Parse(p)
					if p.Class != Fragment || b.FirstFragment(p) != (i == 0) {
						t.Fatalf("%s/v6=%v: fragment %d is %v", name, v6, i, p.Class)
					}
					if !b.Rewrite(p, &tr) {
						t.Fatalf("%s/v6=%v: fragment %d refused", name, v6, i)
					}
					if !bytes.Equal(b.Frame(p), want[i]) {
						t.Errorf("%s/v6=%v/%s: fragment %d: %s", name, v6, what, i, difference(b.Frame(p), want[i]))
					}
				}
			}
		}
	}
}

func TestRewriteRefuses(t *testing.T) {
	b := NewBatch()
	for name, f := range map[string][]byte{
		"an ICMP error":       icmpErrorFrame(t, b4, a4, tcp(false, nil).frame(t), 60),
		"a malformed packet":  tcp(false, nil).frame(t)[:40],
		"a multicast packet":  append([]byte{1, 0, 0x5e, 0, 0, 1}, udp(false, nil).frame(t)[6:]...),
		"an unknown protocol": ether(0x88cc, make([]byte, 60)...),
	} {
		p := b.Append(f)
		b.Parse(p)
		tr := Translate(&p.Tuple, &p.Tuple)
		tr.Src = AddrFrom(b4)
		if b.Rewrite(p, &tr) || !bytes.Equal(b.Frame(p), f[:p.Len]) {
			t.Errorf("%s was rewritten", name)
		}
	}
	for _, v6 := range []bool{false, true} {
		s, other := udp(v6, pattern(9)), udp(!v6, pattern(9))
		p := s.add(t, b)
		b.Parse(p)
		from, dest := other.tuple(), other.tuple()
		tr := Translate(&from, &dest)
		if b.Rewrite(p, &tr) || !bytes.Equal(b.Frame(p), s.frame(t)) {
			t.Error("a packet of the other family was rewritten")
		}
		s = rewritten(v6)["sctp"]
		p = b.Append(s.fragments(t, 800)[0])
		b.Parse(p)
		from = s.tuple()
		to := targets(s)["all"].tuple()
		tr = Translate(&from, &to)
		if b.Rewrite(p, &tr) {
			t.Error("the ports of an SCTP fragment were rewritten")
		}
		to = targets(s)["destination"].tuple()
		tr = Translate(&from, &to)
		if !b.Rewrite(p, &tr) {
			t.Error("the addresses of an SCTP fragment were refused")
		}
	}
}

// TestTranslateEcho gives the new identifier in either port.
func TestTranslateEcho(t *testing.T) {
	for _, proto := range []uint8{ProtoICMP, ProtoICMPv6} {
		from := Tuple{SrcPort: 7, DstPort: 7, Proto: proto}
		want := Tuple{SrcPort: 9, DstPort: 9, Proto: proto}
		w := Translate(&from, &want)
		for _, to := range []Tuple{{SrcPort: 9, DstPort: 7, Proto: proto}, {SrcPort: 7, DstPort: 9, Proto: proto}} {
			if got := Translate(&from, &to); got != w || got.SrcPort != 9 {
				t.Errorf("proto %d: %+v, want %+v", proto, got, w)
			}
		}
	}
}

// FuzzRewrite translates a random packet to a random tuple; the oracle computes
// every checksum anew.
func FuzzRewrite(f *testing.F) {
	f.Add(uint8(0), []byte("abcdefghijklmnopqrstuvwxyzabcdefghijklmnop"), []byte("payload"))
	f.Add(uint8(1), make([]byte, 40), []byte{})
	f.Add(uint8(6), bytes.Repeat([]byte{0xff}, 40), []byte{1})
	f.Add(uint8(11), bytes.Repeat([]byte{0, 1, 0xff}, 14), make([]byte, 99))
	f.Add(uint8(15), bytes.Repeat([]byte{9, 0, 0xff}, 14), make([]byte, 5000))
	b := NewBatch()
	f.Fuzz(func(t *testing.T, kind uint8, tuples, payload []byte) {
		if len(payload) > 9000 {
			return
		}
		var raw [80]byte
		copy(raw[:], tuples)
		v6 := kind&1 != 0
		s, to := udp(v6, payload), udp(v6, payload)
		switch kind >> 1 & 3 {
		case 0:
			s.proto = layers.IPProtocolTCP
		case 1:
			s.proto = layers.IPProtocolSCTP
		case 2:
			s.proto, s.icmpType = layers.IPProtocolICMPv4, 8
			if v6 {
				s.proto, s.icmpType = layers.IPProtocolICMPv6, 128
			}
		}
		to.proto, to.icmpType = s.proto, s.icmpType
		randomTuple(&s, raw[:40])
		randomTuple(&to, raw[40:])
		if s.src.Is4In6() || s.dst.Is4In6() || to.src.Is4In6() || to.dst.Is4In6() {
			return
		}
		from, dest := s.tuple(), to.tuple()
		tr := Translate(&from, &dest)
		b.Reset()
		p := s.add(t, b)
		b.Parse(p)
		if !b.Rewrite(p, &tr) {
			t.Fatal("refused")
		}
		if want := to.frame(t); !bytes.Equal(b.Frame(p), want) {
			t.Fatalf("complete: %s", difference(b.Frame(p), want))
		}
		if s.proto == layers.IPProtocolTCP || s.proto == layers.IPProtocolUDP {
			p = s.addPartial(t, b)
			b.Parse(p)
			b.Rewrite(p, &tr)
			if want := to.partial(to.frame(t)); !bytes.Equal(b.Frame(p), want) {
				t.Fatalf("partial: %s", difference(b.Frame(p), want))
			}
		}
	})
}

func randomTuple(s *frameSpec, raw []byte) {
	if s.is6() {
		s.src, s.dst = netip.AddrFrom16([16]byte(raw[0:16])), netip.AddrFrom16([16]byte(raw[16:32]))
	} else {
		s.src, s.dst = netip.AddrFrom4([4]byte(raw[0:4])), netip.AddrFrom4([4]byte(raw[4:8]))
	}
	s.sport, s.dport = binary.BigEndian.Uint16(raw[32:]), binary.BigEndian.Uint16(raw[34:])
}
