package packet

import (
	"encoding/binary"
	"testing"
)

// TestPlain: what is plain, what is not for a single reason, and that both ways of
// reading a packet find the same in either.
func TestPlain(t *testing.T) {
	set := func(at int, v byte) func([]byte) []byte {
		return func(f []byte) []byte { f[at] = v; return f }
	}
	same := func(f []byte) []byte { return f }
	tests := []struct {
		what   string
		spec   frameSpec
		change func([]byte) []byte
		plain  bool
	}{
		{"UDP", udp(false, pattern(22)), same, true},
		{"UDP without payload", udp(false, nil), same, true},
		{"TCP", tcp(false, pattern(22)), same, true},
		{"TCP with a type of service", tcp(false, pattern(22)), set(15, 0xb8), true},
		{"TCP that may be fragmented", tcp(false, pattern(22)), set(20, 0), true},
		{"TCP that may not", tcp(false, pattern(22)), set(20, 0x40), true},
		{"TCP that resets", tcp(false, pattern(22)), set(47, TCPRst), true},
		{"a UDP length that is shorter", udp(false, pattern(22)), set(39, 8), true},
		{"IPv6", tcp(true, pattern(22)), same, false},
		{"IPv4 called IPv6", tcp(false, pattern(22)), set(12, 0x86), false},
		{"another version", tcp(false, pattern(22)), set(14, 0x65), false},
		{"IP options", tcp(false, pattern(22)), set(14, 0x46), false},
		{"a first fragment", tcp(false, pattern(22)), set(20, 0x20), false},
		{"a later fragment", tcp(false, pattern(22)), set(21, 1), false},
		{"a late fragment", tcp(false, pattern(22)), set(20, 0x1f), false},
		{"multicast", udp(false, pattern(22)), set(0, 1), false},
		{"padding", udp(false, pattern(22)), func(f []byte) []byte { return append(f, 0) }, false},
		{"cut off", udp(false, pattern(22)), func(f []byte) []byte { return f[:len(f)-1] }, false},
		{"a TCP header that is too short", tcp(false, pattern(22)), set(46, 0x40), false},
		{"a TCP header that is too long", tcp(false, pattern(22)), set(46, 0xf0), false},
		{"a UDP length that is too short", udp(false, pattern(22)), set(39, 7), false},
		{"a UDP length that is too long", udp(false, pattern(22)), set(39, 31), false},
		{"ICMP", udp(false, pattern(22)), set(23, ProtoICMP), false},
		{"SCTP", udp(false, pattern(22)), set(23, ProtoSCTP), false},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			b := NewBatch()
			f := tt.change(tt.spec.frame(t))
			p := b.Append(f)
			if b.Parse(p); p.Flags&Plain != 0 != tt.plain {
				t.Errorf("plain: %v", !tt.plain)
			}
			samePlain(t, b, f)
		})
	}
}

// TestPlainEnd: what lies behind the end of a packet is none of its headers.
func TestPlainEnd(t *testing.T) {
	b := NewBatch()
	f := tcp(false, pattern(22)).frame(t)
	headers := plainL4 + int(f[46]>>4)*4
	for end := plainL4; end <= headers; end++ {
		b.Reset()
		p := b.Append(f)
		p.Len = uint32(end)
		binary.BigEndian.PutUint16(b.Frame(p)[16:], uint16(end-EthernetLen))
		if b.Parse(p); (p.Class == Flow) != (end == headers) {
			t.Errorf("the first %d bytes are of class %v", end, p.Class)
		}
	}
}
