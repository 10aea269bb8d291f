package packet

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/gopacket/layers"
)

// syn returns a SYN whose options are nops before the MSS, and others behind.
func syn(v6 bool, mss, nops int) frameSpec {
	s := tcp(v6, nil)
	s.flags = TCPSyn
	s.options = nil
	for range nops {
		s.options = append(s.options, layers.TCPOption{OptionType: 1})
	}
	s.options = append(s.options,
		layers.TCPOption{OptionType: layers.TCPOptionKindMSS, OptionData: []byte{byte(mss >> 8), byte(mss)}},
		layers.TCPOption{OptionType: layers.TCPOptionKindSACKPermitted},
		layers.TCPOption{OptionType: layers.TCPOptionKindWindowScale, OptionData: []byte{7}})
	return s
}

func TestClampMSS(t *testing.T) {
	b := NewBatch()
	for _, v6 := range []bool{false, true} {
		overhead := 40
		if v6 {
			overhead = 60
		}
		for _, flags := range []uint8{TCPSyn, TCPSyn | TCPAck, TCPSyn | TCPEce | TCPCwr} {
			for _, nops := range []int{0, 1, 2, 3} { // the value at odd offsets, too
				for _, mss := range []int{65475, 8960, 1461, 1400, 1399, 536, 0} {
					for _, partial := range []bool{false, true} {
						name := fmt.Sprintf("v6=%v flags=%#x nops=%d mss=%d partial=%v", v6, flags, nops, mss, partial)
						s := syn(v6, mss, nops)
						s.flags = flags
						want := syn(v6, min(mss, 1399), nops)
						want.flags = flags
						b.Reset()
						p, f := s.add(t, b), want.frame(t)
						if partial {
							p, f = s.addPartial(t, b), want.partial(f)
						}
						b.Parse(p)
						if got := b.ClampMSS(p, 1399+overhead); got != (mss > 1399) {
							t.Errorf("%s: changed %v", name, got)
						}
						if !bytes.Equal(b.Frame(p), f) {
							t.Errorf("%s: %s", name, difference(b.Frame(p), f))
						}
					}
				}
			}
		}
	}
}

// TestClampMSSLeaves has packets that must stay as they are.
func TestClampMSSLeaves(t *testing.T) {
	options := func(raw ...byte) func(f []byte) {
		return func(f []byte) { copy(f[EthernetLen+40:], raw) }
	}
	tests := map[string]func(f []byte){
		"no SYN":             func(f []byte) { f[EthernetLen+33] = TCPAck },
		"UDP":                func(f []byte) { f[EthernetLen+9] = ProtoUDP; f[EthernetLen+25] = 20; f[EthernetLen+24] = 0 },
		"later fragment":     func(f []byte) { f[EthernetLen+7] = 1 },
		"end before":         options(0, 2, 4, 9, 9),
		"zero length":        options(3, 0, 2, 4, 255, 255),
		"length one":         options(3, 1, 2, 4, 255, 255),
		"beyond the header":  options(3, 200, 2, 4, 255, 255),
		"MSS of wrong size":  options(2, 3, 255, 1, 1, 1, 1, 1, 1, 1, 1, 1),
		"cut off kind":       options(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2),
		"cut off MSS":        options(1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 255),
		"unknown option":     options(254, 12, 2, 4, 255, 255),
		"no option at all":   func(f []byte) { f[EthernetLen+32] = 0x50 },
		"only no operations": options(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1),
	}
	b := NewBatch()
	for name, change := range tests {
		b.Reset()
		f := syn(false, 9000, 0).frame(t)
		change(f)
		p := b.Append(f)
		b.Parse(p)
		if b.ClampMSS(p, 1400) || !bytes.Equal(b.Frame(p), f[:p.Len]) {
			t.Errorf("%s: changed", name)
		}
	}
	p := syn(false, 9000, 0).add(t, b)
	if b.Parse(p); b.ClampMSS(p, 40) {
		t.Error("an MTU without room for data was taken")
	}
}

// FuzzClampMSS gives any options: no panic, and a right checksum stays right.
func FuzzClampMSS(f *testing.F) {
	f.Add([]byte{2, 4, 255, 255}, uint16(1400), false)
	f.Add([]byte{1, 2, 4, 255, 255, 3, 3, 7}, uint16(1280), true)
	f.Add([]byte{3, 0, 2, 4, 255, 255}, uint16(0), true)
	b := NewBatch()
	f.Fuzz(func(t *testing.T, raw []byte, mtu uint16, v6 bool) {
		s := tcp(v6, nil)
		s.flags, s.options = TCPSyn, nil
		if len(raw) > 40 {
			return
		}
		for range (len(raw) + 3) / 4 * 4 {
			s.options = append(s.options, layers.TCPOption{OptionType: 1})
		}
		frame := s.frame(t)
		copy(frame[s.l4()+20:], raw)
		b.Reset()
		p := b.Append(s.partial(frame))
		p.Flags, p.CsumStart, p.CsumOffset = NeedsCsum, uint16(s.l4()), tcpCsum
		b.Parse(p)
		b.Complete(p)
		changed := b.ClampMSS(p, int(mtu))
		if !b.VerifyTransport(p) {
			t.Fatalf("wrong checksum; changed %v", changed)
		}
		if changed && b.ClampMSS(p, int(mtu)) {
			t.Fatal("changed twice")
		}
	})
}
