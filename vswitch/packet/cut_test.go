package packet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/google/gopacket/layers"
)

// superpackets are those that cutting is tried on.
func superpackets() map[string]frameSpec {
	all := map[string]frameSpec{}
	for _, v6 := range []bool{false, true} {
		f := map[bool]string{false: "4", true: "6"}[v6]
		all["tcp"+f] = tcp(v6, pattern(6543))
		all["udp"+f] = udp(v6, pattern(6543))
		s := tcp(v6, pattern(4200))
		s.flags |= TCPPsh | TCPFin | TCPCwr | TCPEce
		s.tos = 2
		all["tcp"+f+"/flags"] = s
		s = tcp(v6, pattern(1401))
		s.options = nil
		all["tcp"+f+"/one_byte_more"] = s
		s.payload = pattern(1400)
		all["tcp"+f+"/single"] = s
		s.payload = nil
		all["tcp"+f+"/empty"] = s
		s.payload = pattern(65535 - 60)
		all["tcp"+f+"/largest"] = s
	}
	s := tcp(false, pattern(3000))
	s.ipOptions = []layers.IPv4Option{{OptionType: 1, OptionLength: 1}, {OptionType: 7, OptionLength: 7, OptionData: []byte{4, 0, 0, 0, 0}}}
	all["tcp4/ip_options"] = s
	return all
}

func TestCut(t *testing.T) {
	b := NewBatch()
	for name, s := range superpackets() {
		for _, size := range []int{1400, 536, 7} {
			if size == 7 && len(s.payload) > 10000 {
				continue
			}
			for _, gap := range []int{0, 74} {
				t.Run(fmt.Sprintf("%s/%d/%d", name, size, gap), func(t *testing.T) {
					b.Reset()
					want := s.segments(t, size)
					p := s.addGSO(t, b, size, gap)
					compareFrames(t, wire(b, p), want)
					if len(s.payload) > 0 && p.Segments() != len(want) {
						t.Errorf("Segments() = %d, want %d", p.Segments(), len(want))
					}
					checkPartial(t, b, p, s, want)
					var each [][]byte
					b.Each(p, make([]byte, 2000), func(f []byte) { each = append(each, bytes.Clone(f)) })
					compareFrames(t, each, want)
					b.Linearize(p)
					if p.Stride != 0 || !bytes.Equal(b.Frame(p), s.partial(s.frame(t))) {
						t.Errorf("Linearize does not give the contiguous frame")
					}
					compareFrames(t, wire(b, p), want)
				})
			}
		}
	}
}

// checkPartial cuts p with partial checksums: the segments must differ from
// want in the checksum only.
func checkPartial(t *testing.T, b *Batch, p *Packet, s frameSpec, want [][]byte) {
	t.Helper()
	hdr := make([]byte, 256)
	c := b.Cut(p, true)
	for _, f := range want {
		n, payload, ok := c.Next(hdr)
		if !ok {
			t.Fatal("partial: too few segments")
		}
		got := append(append([]byte(nil), hdr[:n]...), payload...)
		if f = s.partial(bytes.Clone(f)); !bytes.Equal(got, f) {
			t.Errorf("partial: %s", difference(got, f))
		}
	}
	if _, _, ok := c.Next(hdr); ok {
		t.Error("partial: too many segments")
	}
}

func compareFrames(t *testing.T, got, want [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d frames, want %d", len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("frame %d of %d: %s", i, len(got), difference(got[i], want[i]))
		}
	}
}

// difference shows where two frames part.
func difference(got, want []byte) string {
	n := 0
	for n < min(len(got), len(want)) && got[n] == want[n] {
		n++
	}
	return fmt.Sprintf("at %d: got %d bytes %x.., want %d bytes %x..",
		n, len(got), got[n:min(n+16, len(got))], len(want), want[n:min(n+16, len(want))])
}

func TestCutOrdinary(t *testing.T) {
	b := NewBatch()
	s := udp(true, pattern(99))
	p := s.addPartial(t, b)
	compareFrames(t, wire(b, p), [][]byte{s.frame(t)})
	if p.Flags&NeedsCsum != 0 {
		t.Error("NeedsCsum is still set")
	}
	b.Reset()
	p = s.addPartial(t, b)
	c := b.Cut(p, true)
	_, payload, ok := c.Next(nil)
	if !ok || !bytes.Equal(payload, s.partial(s.frame(t))) || p.Flags&NeedsCsum == 0 {
		t.Error("partial: an ordinary packet must stay as it is")
	}
	if _, _, ok = c.Next(nil); ok {
		t.Error("partial: more than one segment")
	}
}

// TestCutExtensionHeaders has headers between IPv6 and TCP: all segments must
// have them, and too many make a packet that nobody has room to cut.
func TestCutExtensionHeaders(t *testing.T) {
	b := NewBatch()
	s := tcp(true, pattern(3000))
	for n, chain := range [][][]byte{{destOpts}, {hopByHop, destOpts, auth}, {destOpts, destOpts, destOpts, destOpts, destOpts, destOpts, destOpts}} {
		extended := func(f []byte) []byte { return ether(EtherTypeIPv6, ip6(ProtoTCP, f[s.l4():], chain...)...) }
		var want [][]byte
		for _, f := range s.segments(t, 1200) {
			want = append(want, extended(f))
		}
		b.Reset()
		p := b.Append(extended(s.partial(s.frame(t))))
		shift := p.Len - uint32(s.l4()+32+len(s.payload))
		p.GSO, p.GSOSize, p.Flags = GSOTCPv6, 1200, NeedsCsum
		p.CsumStart, p.CsumOffset = uint16(s.l4())+uint16(shift), tcpCsum
		b.Parse(p)
		if n == 2 {
			if p.Class != Malformed {
				t.Errorf("%d bytes of headers are %v", p.HdrLen, p.Class)
			}
			continue
		}
		if p.Class != Flow || uint32(p.HdrLen) != uint32(s.l4())+32+shift {
			t.Fatalf("%v, header of %d bytes", p.Class, p.HdrLen)
		}
		compareFrames(t, wire(b, p), want)
	}
}

// TestCutContradictions gives descriptors that do not fit the frame: no
// segments must come, and no panic.
func TestCutContradictions(t *testing.T) {
	tests := map[string]func(p *Packet, f []byte){
		"kind":         func(p *Packet, f []byte) { p.GSO = GSOUDPL4 },
		"family":       func(p *Packet, f []byte) { p.GSO = GSOTCPv6 },
		"unknown kind": func(p *Packet, f []byte) { p.GSO = 3 },
		"zero size":    func(p *Packet, f []byte) { p.GSOSize = 0 },
		"short header": func(p *Packet, f []byte) { p.HdrLen = 40 },
		"long header":  func(p *Packet, f []byte) { p.HdrLen = 9000 },
		"huge header":  func(p *Packet, f []byte) { p.HdrLen = MaxHeader + 1 },
		"fragment":     func(p *Packet, f []byte) { f[EthernetLen+7] = 1 },
		"cut off IP":   func(p *Packet, f []byte) { f[EthernetLen] = 0x44 },
		"no IP":        func(p *Packet, f []byte) { f[EthernetLen] = 0x25 },
		"short frame":  func(p *Packet, f []byte) { p.Len = 60 },
		"wide stride":  func(p *Packet, f []byte) { p.Stride, p.GSOSize, p.Len = 65535, 500, 60000 },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			b := NewBatch()
			s := tcp(false, pattern(4000))
			p := s.addGSO(t, b, 1400, 0)
			change(p, b.Buf[p.Off:])
			if got := wire(b, p); len(got) != 0 {
				t.Errorf("%d segments", len(got))
			}
		})
	}
}

// FuzzCut compares with a plain cutter over a superpacket of any shape.
func FuzzCut(f *testing.F) {
	f.Add(uint8(0), uint16(4000), uint16(1400), uint32(1), uint16(1), uint8(0x18), uint8(0))
	f.Add(uint8(1), uint16(100), uint16(1), uint32(1<<32-50), uint16(65535), uint8(0xff), uint8(3))
	f.Add(uint8(2), uint16(65000), uint16(999), uint32(0), uint16(65535), uint8(0), uint8(90))
	f.Add(uint8(3), uint16(12), uint16(5), uint32(0), uint16(0), uint8(0), uint8(1))
	b := NewBatch()
	f.Fuzz(func(t *testing.T, kind uint8, n, size uint16, seq uint32, id uint16, flags, gap uint8) {
		n %= 65000
		if size == 0 || int(n)/int(size) > 400 {
			return
		}
		s := tcp(kind&1 != 0, pattern(int(n)))
		if kind&2 != 0 {
			s = udp(kind&1 != 0, pattern(int(n)))
		}
		s.seq, s.id, s.flags = seq, id, flags
		if int(n)+(int(n)/int(size)+1)*int(gap) > ArenaSize-1000 {
			return
		}
		b.Reset()
		p := s.addGSO(t, b, int(size), int(gap))
		compareFrames(t, wire(b, p), s.segments(t, int(size)))
	})
}

func TestComplete(t *testing.T) {
	b := NewBatch()
	for _, v6 := range []bool{false, true} {
		for _, s := range []frameSpec{tcp(v6, pattern(77)), udp(v6, pattern(1400)), udp(v6, nil)} {
			b.Reset()
			p := s.addPartial(t, b)
			b.Complete(p)
			if !bytes.Equal(b.Frame(p), s.frame(t)) || p.Flags != 0 {
				t.Errorf("%v: not complete", s.proto)
			}
			b.Parse(p)
			if !b.VerifyTransport(p) || p.Flags&^Plain != Verified {
				t.Errorf("%v: not verified", s.proto)
			}
		}
	}
}

// TestCompleteZero builds a datagram whose sum is zero: RFC 768 wants ones.
func TestCompleteZero(t *testing.T) {
	b := NewBatch()
	s := udp(false, []byte{0, 0})
	f := s.frame(t)
	s.payload = f[s.csumAt() : s.csumAt()+2] // its sum so far, inverted, cancels it
	p := s.addPartial(t, b)
	b.Complete(p)
	if got := binary.BigEndian.Uint16(b.Frame(p)[s.csumAt():]); got != 0xffff {
		t.Errorf("checksum %#04x, want 0xffff", got)
	}
	if !bytes.Equal(b.Frame(p), s.frame(t)) {
		t.Error("frame differs")
	}
}

func TestCompleteOutOfBounds(t *testing.T) {
	b := NewBatch()
	s := udp(false, pattern(10))
	p := s.addPartial(t, b)
	p.CsumStart, p.CsumOffset = 65535, 65535
	before := bytes.Clone(b.Frame(p))
	b.Complete(p)
	if p.Flags != 0 || !bytes.Equal(before, b.Frame(p)) {
		t.Error("offsets outside of the frame must only lose the flag")
	}
}

func TestVerifyTransport(t *testing.T) {
	icmp := frameSpec{src: a4, dst: b4, proto: layers.IPProtocolICMPv4, icmpType: 8, sport: 7, ttl: 3, payload: pattern(33)}
	icmp6 := frameSpec{src: a6, dst: b6, proto: layers.IPProtocolICMPv6, icmpType: 128, sport: 7, ttl: 3, payload: pattern(33)}
	sctp := tcp(false, pattern(100))
	sctp.proto = layers.IPProtocolSCTP
	b := NewBatch()
	for _, s := range []frameSpec{tcp(false, pattern(5)), tcp(true, pattern(500)), udp(false, pattern(5)), udp(true, nil), icmp, icmp6, sctp} {
		f := s.frame(t)
		for _, at := range []int{s.l4(), s.l4() + 4, s.l4() + 7, len(f) - 1} {
			b.Reset()
			p := b.Append(f)
			b.Parse(p)
			if !b.VerifyTransport(p) {
				t.Errorf("%v: a right checksum is found wrong", s.proto)
			}
			f[at] ^= 0x21
			p = b.Append(f)
			b.Parse(p)
			if b.VerifyTransport(p) || p.Flags&Verified != 0 {
				t.Errorf("%v: an error at %d goes unseen", s.proto, at-s.l4())
			}
			f[at] ^= 0x21
		}
	}
	s := udp(false, pattern(5))
	s.noChecksum = true
	p := s.add(t, b)
	if b.Parse(p); !b.VerifyTransport(p) {
		t.Error("UDP over IPv4 without checksum is right")
	}
	s = udp(true, pattern(5))
	s.noChecksum = true
	p = s.add(t, b)
	if b.Parse(p); b.VerifyTransport(p) {
		t.Error("UDP over IPv6 without checksum is wrong")
	}
}
