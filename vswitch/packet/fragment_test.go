package packet

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// cutAll returns the fragments of p.
func cutAll(b *Batch, p *Packet, mtu int) (frames [][]byte) {
	it := b.Fragments(p, mtu)
	buf := make([]byte, EthernetLen+mtu)
	for {
		n, ok := it.Next(buf)
		if !ok {
			return frames
		}
		frames = append(frames, bytes.Clone(buf[:n]))
	}
}

// TestB20Fragments compares with fragments that gopacket builds.
func TestB20Fragments(t *testing.T) {
	b := NewBatch()
	for _, mtu := range []int{68, 576, 1280, 1450, 1499, 1500} {
		for _, n := range []int{1400, 1471, 1472, 1473, 4000, 20000} {
			s := udp(false, pattern(n))
			s.ipFlags = 0
			b.Reset()
			p := s.addPartial(t, b) // must be completed over the whole
			got := cutAll(b, p, mtu)
			want := s.fragments(t, (mtu-20)&^7)
			if len(s.payload)+28 <= mtu {
				want = [][]byte{s.frame(t)}
			}
			compareFrames(t, got, want)
		}
	}
}

// TestFragmentsOptions has options of both kinds, and puts together again what
// gopacket sees of the pieces.
func TestFragmentsOptions(t *testing.T) {
	const copied, notCopied = 0x94, 0x07
	tests := map[string][]layers.IPv4Option{
		"none":       nil,
		"copied":     {{OptionType: copied, OptionLength: 4, OptionData: []byte{0, 0}}},
		"not copied": {{OptionType: notCopied, OptionLength: 7, OptionData: []byte{4, 0, 0, 0, 0}}, {OptionType: 0, OptionLength: 1}},
		"mixed": {{OptionType: 1, OptionLength: 1}, {OptionType: notCopied, OptionLength: 7, OptionData: []byte{4, 0, 0, 0, 0}},
			{OptionType: copied, OptionLength: 4, OptionData: []byte{7, 8}}},
	}
	for name, options := range tests {
		s := udp(false, pattern(3333))
		s.ipFlags, s.ipOptions = 0, options
		b := NewBatch()
		frames := cutAll(b, s.add(t, b), 600)
		var whole []byte
		for i, f := range frames {
			if len(f) > EthernetLen+600 || slowSum(f[EthernetLen:][:int(f[EthernetLen]&15)*4]) != 0xffff {
				t.Errorf("%s: fragment %d: %d bytes or a wrong header checksum", name, i, len(f))
			}
			has := bytes.IndexByte(f[EthernetLen+20:EthernetLen+int(f[EthernetLen]&15)*4], copied) >= 0
			if want := name == "copied" || name == "mixed"; has != want {
				t.Errorf("%s: fragment %d has the copied option: %v", name, i, has)
			}
			has = bytes.IndexByte(f[EthernetLen+20:EthernetLen+int(f[EthernetLen]&15)*4], notCopied) >= 0
			if want := i == 0 && (name == "not copied" || name == "mixed"); has != want && name != "mixed" {
				t.Errorf("%s: fragment %d has the other option: %v", name, i, has)
			}
			ip := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default).Layer(layers.LayerTypeIPv4).(*layers.IPv4)
			if int(ip.FragOffset)*8 != len(whole) || (ip.Flags&layers.IPv4MoreFragments != 0) != (i < len(frames)-1) {
				t.Errorf("%s: fragment %d: offset %d, flags %v", name, i, ip.FragOffset, ip.Flags)
			}
			whole = append(whole, ip.Payload...)
		}
		if want := s.frame(t)[s.l4():]; !bytes.Equal(whole, want) {
			t.Errorf("%s: the pieces do not fit", name)
		}
	}
}

// TestFragmentsOfFragment cuts a fragment again: the last piece of a middle one
// still has more behind it.
func TestFragmentsOfFragment(t *testing.T) {
	s := udp(false, pattern(4000))
	s.ipFlags = 0
	b := NewBatch()
	var got [][]byte
	for _, f := range s.fragments(t, 1480) {
		b.Reset()
		got = append(got, cutAll(b, b.Append(f), 20+296)...)
	}
	compareFrames(t, got, s.fragments(t, 296))
}

func TestFragmentsRefuses(t *testing.T) {
	b := NewBatch()
	s := udp(false, pattern(3000))
	if got := cutAll(b, s.add(t, b), 1500); len(got) != 0 {
		t.Errorf("DF: %d fragments", len(got))
	}
	if got := cutAll(b, udp(true, pattern(3000)).add(t, b), 1500); len(got) != 0 {
		t.Errorf("IPv6: %d fragments", len(got))
	}
	if got := cutAll(b, s.addGSO(t, b, 1000, 0), 1500); len(got) != 0 {
		t.Errorf("superpacket: %d fragments", len(got))
	}
	if got := cutAll(b, s.add(t, b), 3028); len(got) != 1 {
		t.Errorf("DF, but it fits: %d fragments", len(got))
	}
	s.ipFlags = 0
	for _, mtu := range []int{0, 20, 27} {
		if got := cutAll(b, s.add(t, b), mtu); len(got) != 0 {
			t.Errorf("MTU %d: %d fragments", mtu, len(got))
		}
	}
	p := s.add(t, b)
	b.Buf[p.Off+EthernetLen] = 0x41
	if got := cutAll(b, p, 1500); len(got) != 0 {
		t.Errorf("short header: %d fragments", len(got))
	}
}

// FuzzFragments puts what comes out together again, by offset.
func FuzzFragments(f *testing.F) {
	s := udp(false, pattern(300))
	s.ipFlags = 0
	f.Add(s.frame(f), uint16(100))
	s.ipOptions = []layers.IPv4Option{{OptionType: 0x94, OptionLength: 4, OptionData: []byte{0, 0}}}
	f.Add(s.frame(f), uint16(68))
	f.Add([]byte{}, uint16(0))
	b := NewBatch()
	f.Fuzz(func(t *testing.T, data []byte, mtu uint16) {
		if len(data) > 9000 || mtu > 9000 {
			return
		}
		b.Reset()
		p := b.Append(data)
		if b.Parse(p); p.Class == Malformed || !is4(append(data, make([]byte, 14)...)) {
			return
		}
		h := bytes.Clone(b.Frame(p)[EthernetLen:])
		ihl := int(h[0]&15) * 4
		base := int(binary.BigEndian.Uint16(h[6:])&0x1fff) * 8
		next := 0
		for i, g := range cutAll(b, p, int(mtu)) {
			g = g[EthernetLen:]
			n := int(g[0]&15) * 4
			if len(g) > int(mtu) || int(binary.BigEndian.Uint16(g[2:])) != len(g) || slowSum(g[:n]) != 0xffff {
				t.Fatalf("fragment %d: %d bytes, MTU %d", i, len(g), mtu)
			}
			// Offsets have 13 bits; nothing longer than 65,535 bytes is whole anyway.
			if at := int(binary.BigEndian.Uint16(g[6:])&0x1fff) * 8; at != (base+next)&0xffff {
				t.Fatalf("fragment %d at %d, want %d", i, at, base+next)
			}
			if !bytes.Equal(g[n:], h[ihl+next:ihl+next+len(g)-n]) {
				t.Fatalf("fragment %d: payload differs", i)
			}
			next += len(g) - n
			more := binary.BigEndian.Uint16(g[6:])&ipMF != 0
			if want := next < len(h)-ihl || binary.BigEndian.Uint16(h[6:])&ipMF != 0; more != want {
				t.Fatalf("fragment %d: more fragments %v, want %v", i, more, want)
			}
		}
		if next != 0 && next != len(h)-ihl {
			t.Fatalf("%d bytes of %d", next, len(h)-ihl)
		}
	})
}
