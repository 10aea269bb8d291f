package packet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/gopacket/layers"
)

// ether puts an Ethernet header before an IP packet or anything else.
func ether(typ uint16, payload ...byte) []byte {
	f := append(append([]byte(nil), macB[:]...), macA[:]...)
	return append(binary.BigEndian.AppendUint16(f, typ), payload...)
}

// ip6 returns an IPv6 packet with the extension headers in chain: pairs of
// protocol and bytes, the first two bytes of each are filled in.
func ip6(proto uint8, l4 []byte, chain ...[]byte) []byte {
	h := make([]byte, 40)
	h[0], h[7] = 0x60, 64
	copy(h[8:], a6.AsSlice())
	copy(h[24:], b6.AsSlice())
	var body []byte
	at := &h[6]
	for _, ext := range chain {
		*at = ext[0]
		ext = bytes.Clone(ext[1:])
		body = append(body, ext...)
		at = &body[len(body)-len(ext)]
	}
	*at = proto
	body = append(body, l4...)
	binary.BigEndian.PutUint16(h[4:], uint16(len(body)))
	return append(h, body...)
}

// Extension headers for ip6: protocol, then the header; its first byte is set
// by ip6.
var (
	hopByHop = []byte{extHopByHop, 0, 0, 5, 2, 0, 0, 1, 0}
	destOpts = []byte{extDestOpts, 0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	routing  = []byte{extRouting, 0, 0, 4, 0, 0, 0, 0, 0}
	auth     = []byte{extAuth, 0, 4, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 1, 2, 3, 4, 5, 6, 7, 8}
	atomic   = []byte{extFragment, 0, 0, 0, 0, 0, 0, 0, 7}
	firstOf  = []byte{extFragment, 0, 0, 0, 1, 0, 0, 0, 7}
	laterOf  = []byte{extFragment, 0, 0, 0x05, 0x79, 0, 0, 0, 7} // offset 1400, more
	lastOf   = []byte{extFragment, 0, 0, 0x0a, 0xf0, 0, 0, 0, 7}
)

func TestParseIPv6Extensions(t *testing.T) {
	l4 := udp(true, pattern(20)).frame(t)[54:]
	long := func(n int) [][]byte {
		var all [][]byte
		for range n {
			all = append(all, routing)
		}
		return all
	}
	type result struct {
		class Class
		l4    int
		ports bool
	}
	tests := map[string]struct {
		proto uint8
		l4    []byte
		chain [][]byte
		want  result
	}{
		"none":                              {ProtoUDP, l4, nil, result{Flow, 54, true}},
		"hop by hop":                        {ProtoUDP, l4, [][]byte{hopByHop}, result{Flow, 62, true}},
		"all":                               {ProtoUDP, l4, [][]byte{hopByHop, destOpts, routing, auth, destOpts}, result{Flow, 54 + 8 + 16 + 8 + 24 + 16, true}},
		"atomic fragment":                   {ProtoUDP, l4, [][]byte{atomic}, result{Flow, 62, true}},
		"atomic and more headers":           {ProtoUDP, l4, [][]byte{atomic, destOpts}, result{Flow, 78, true}},
		"first fragment":                    {ProtoUDP, l4, [][]byte{firstOf}, result{Fragment, 62, true}},
		"later fragment":                    {ProtoUDP, l4, [][]byte{laterOf}, result{Fragment, 62, false}},
		"last fragment":                     {ProtoUDP, l4, [][]byte{hopByHop, lastOf}, result{Fragment, 70, false}},
		"short last fragment":               {ProtoUDP, l4[:1], [][]byte{lastOf}, result{Fragment, 62, false}},
		"first fragment, headers behind":    {ProtoUDP, l4, [][]byte{firstOf, destOpts}, result{class: Malformed}},
		"first fragment, cut off transport": {ProtoTCP, l4[:12], [][]byte{firstOf}, result{class: Malformed}},
		"no next header":                    {extNoNext, nil, nil, result{Flow, 54, false}},
		"no next header behind":             {extNoNext, l4, [][]byte{destOpts}, result{Flow, 70, false}},
		"unknown protocol":                  {253, l4, nil, result{Flow, 54, false}},
		"unknown, empty":                    {253, nil, nil, result{Flow, 54, false}},
		"seven headers":                     {ProtoUDP, l4, long(7), result{Flow, 54 + 7*8, true}},
		"eight headers":                     {ProtoUDP, l4, long(8), result{class: Malformed}},
		"cut off extension":                 {extDestOpts, []byte{ProtoUDP, 0, 0}, nil, result{class: Malformed}},
		"extension beyond packet":           {extDestOpts, []byte{ProtoUDP, 200, 0, 0, 0, 0, 0, 0}, nil, result{class: Malformed}},
		"cut off fragment header":           {extFragment, []byte{ProtoUDP, 0, 0, 0, 0, 0, 0}, nil, result{class: Malformed}},
		"cut off UDP":                       {ProtoUDP, l4[:7], nil, result{class: Malformed}},
	}
	b := NewBatch()
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b.Reset()
			p := b.Append(ether(EtherTypeIPv6, ip6(tt.proto, tt.l4, tt.chain...)...))
			b.Parse(p)
			if p.Class != tt.want.class {
				t.Fatalf("%v, want %v", p.Class, tt.want.class)
			}
			if p.Class == Malformed {
				return
			}
			want := Tuple{Src: AddrFrom(a6), Dst: AddrFrom(b6), Proto: tt.proto}
			if tt.want.ports {
				want.SrcPort, want.DstPort = 40000, 4433
			}
			if p.Tuple != want || int(p.L4) != tt.want.l4 {
				t.Errorf("%v at %d, want %v at %d", p.Tuple, p.L4, want, tt.want.l4)
			}
		})
	}
}

// TestParseClass has whole frames and what Parse makes of them.
func TestParseClass(t *testing.T) {
	arp := ether(EtherTypeARP, append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, make([]byte, 20)...)...)
	edit := func(s frameSpec, at int, v ...byte) []byte {
		f := s.frame(t)
		copy(f[at:], v)
		return f
	}
	icmp := func(typ uint8, v6 bool) []byte {
		s := rewritten(v6)["echo/8"]
		s.icmpType = typ
		return s.frame(t)
	}
	t4, t6, u4, u6 := tcp(false, pattern(30)), tcp(true, pattern(30)), udp(false, pattern(30)), udp(true, pattern(30))
	mapped6 := u6
	mapped6.src = netip.MustParseAddr("::ffff:10.244.1.7")
	broadcast, multicast := []byte{255, 255, 255, 255, 255, 255}, []byte{0x33, 0x33, 0, 0, 0, 1}
	tests := map[string]struct {
		frame []byte
		want  Class
	}{
		"empty":                      {nil, Malformed},
		"cut off Ethernet":           {make([]byte, 13), Malformed},
		"no EtherType we know":       {ether(0x88cc, make([]byte, 50)...), Unknown},
		"no EtherType we know, runt": {ether(0x88cc), Unknown},
		"VLAN":                       {ether(0x8100, make([]byte, 50)...), Unknown},
		"runt IPv4":                  {ether(EtherTypeIPv4, make([]byte, 19)...), Malformed},
		"runt IPv6":                  {ether(EtherTypeIPv6, 0x60), Malformed},
		"runt ARP":                   {ether(EtherTypeARP, 0, 1, 8, 0, 6, 4), Malformed},
		"ARP":                        {arp, ARP},
		"ARP broadcast":              {append(bytes.Clone(broadcast), arp[6:]...), ARP},
		"ARP of another kind":        {append(bytes.Clone(arp[:14]), append([]byte{0, 6, 8, 0, 6, 4, 0, 1}, make([]byte, 20)...)...), Malformed},
		"TCPv4":                      {t4.frame(t), Flow},
		"TCPv6":                      {t6.frame(t), Flow},
		"UDPv4":                      {u4.frame(t), Flow},
		"UDPv6":                      {u6.frame(t), Flow},
		"IPv6 in IPv4's EtherType":   {edit(t6, 12, 8, 0), Malformed},
		"IPv4 in IPv6's EtherType":   {edit(t4, 12, 0x86, 0xdd), Malformed},
		"IHL too small":              {edit(t4, 14, 0x44), Malformed},
		"IHL beyond packet":          {edit(frameSpec{src: a4, dst: b4, proto: 253}, 14, 0x4f), Malformed},
		"total length too small":     {edit(t4, 16, 0, 19), Malformed},
		"total length too large":     {edit(t4, 16, 9, 0), Malformed},
		"payload length too large":   {edit(t6, 18, 9, 0), Malformed},
		"TCP offset too small":       {edit(t4, t4.l4()+12, 0x40), Malformed},
		"TCP offset too large":       {edit(tcp(false, nil), t4.l4()+12, 0xf0), Malformed},
		"TCP cut off":                {edit(t4, 16, 0, 39), Malformed},
		"UDP cut off":                {edit(u4, 16, 0, 27), Malformed},
		"UDP length too small":       {edit(u4, u4.l4()+4, 0, 7), Malformed},
		"UDP length too large":       {edit(u4, u4.l4()+4, 0, 39), Malformed},
		"UDP length smaller":         {edit(u4, u4.l4()+4, 0, 37), Flow},
		"multicast v4":               {edit(u4, 0, broadcast...), Multicast},
		"multicast v6":               {edit(u6, 0, multicast...), Multicast},
		"multicast ND":               {append(bytes.Clone(multicast), icmp(135, true)[6:]...), ICMPOther},
		"mapped address":             {mapped6.frame(t), Malformed},
		"echo":                       {icmp(8, false), Flow},
		"echo reply":                 {icmp(0, false), Flow},
		"unreachable":                {icmp(3, false), ICMPError},
		"source quench":              {icmp(4, false), ICMPError},
		"redirect":                   {icmp(5, false), ICMPError},
		"time exceeded":              {icmp(11, false), ICMPError},
		"parameter problem":          {icmp(12, false), ICMPError},
		"timestamp":                  {icmp(13, false), ICMPOther},
		"ICMP cut off":               {edit(rewritten(false)["echo/8"], 16, 0, 27), Malformed},
		"echo v6":                    {icmp(128, true), Flow},
		"echo reply v6":              {icmp(129, true), Flow},
		"too big":                    {icmp(2, true), ICMPError},
		"unknown error v6":           {icmp(127, true), ICMPError},
		"neighbor solicitation":      {icmp(135, true), ICMPOther},
		"MLD":                        {icmp(143, true), ICMPOther},
	}
	b := NewBatch()
	for name, tt := range tests {
		b.Reset()
		p := b.Append(tt.frame)
		p.In = 77
		b.Parse(p)
		if p.Class != tt.want || p.Tuple.In != 77 || p.Tuple.Flags != 0 {
			t.Errorf("%s: %v, want %v", name, p.Class, tt.want)
		}
	}
}

// TestParseControl: Control marks what connection tracking has to see, by the TCP
// flags or the first chunk of SCTP that is whole.
func TestParseControl(t *testing.T) {
	b := NewBatch()
	for _, v6 := range []bool{false, true} {
		for flags := range 256 {
			s := tcp(v6, nil)
			s.flags = uint8(flags)
			p := s.add(t, b)
			b.Parse(p)
			if want := flags&(TCPSyn|TCPFin|TCPRst) != 0; p.Control != want || p.Event() != s.flags {
				t.Errorf("TCP %#x: control %t, event %#x", flags, p.Control, p.Event())
			}
			b.Reset()
		}
		s := rewritten(v6)["sctp"]
		for _, c := range []struct {
			chunk   string
			event   uint8
			control bool
		}{
			{"", 0, false},                           // no chunk
			{"\x01\x00\x00", 0, false},               // cut off
			{"\x01\x00\x00\x03", 0, false},           // shorter than its own header
			{"\x00\x03\x00\x11data", 0, false},       // DATA
			{"\x01\x00\x00\x14init", 1, true},        // INIT
			{"\x02\x00\x00\x14", 2, true},            // INIT ACK
			{"\x03\x00\x00\x10", 3, false},           // SACK
			{"\x04\x00\x00\x08", 4, false},           // HEARTBEAT
			{"\x06\x00\x00\x04", 6, true},            // ABORT
			{"\x07\x00\x00\x08", 7, true},            // SHUTDOWN
			{"\x08\x00\x00\x04", 8, true},            // SHUTDOWN ACK
			{"\x0a\x00\x00\x08\x00\x03", 10, true},   // COOKIE ECHO
			{"\x0b\x00\x00\x04", 11, true},           // COOKIE ACK
			{"\x0e\x00\x00\x04", 14, true},           // SHUTDOWN COMPLETE
			{"\x21\x00\x00\x04", 33, false},          // 33 is not 1
			{"\xc1\x00\x00\x04address", 0xc1, false}, // ASCONF
		} {
			s.payload = []byte(c.chunk)
			p := s.add(t, b)
			b.Parse(p)
			if p.Control != c.control || p.Event() != c.event || p.Class != Flow {
				t.Errorf("SCTP %q: %v, control %t, event %d, want %t and %d", c.chunk, p.Class, p.Control, p.Event(), c.control, c.event)
			}
			b.Reset()
		}
	}
}

// TestB20TinyFragments has first fragments that end inside the transport header
// (RFC 1858): they must not pass as fragments whose ports are zero.
func TestB20TinyFragments(t *testing.T) {
	b := NewBatch()
	for _, v6 := range []bool{false, true} {
		for name, s := range rewritten(v6) {
			if len(s.payload) == 0 || s.proto == layers.IPProtocolGRE {
				continue
			}
			tiny, least := 8, 8
			switch s.proto {
			case layers.IPProtocolTCP:
				tiny, least = 24, 32
			case layers.IPProtocolSCTP:
				least = 16
			default:
				tiny = 0
			}
			if tiny != 0 {
				if p := b.Append(s.fragments(t, tiny)[0]); true {
					if b.Parse(p); p.Class != Malformed {
						t.Errorf("%s: a first fragment of %d bytes is %v", name, tiny, p.Class)
					}
				}
			}
			p := b.Append(s.fragments(t, least)[0])
			b.Parse(p)
			want := s.tuple()
			if p.Class != Fragment || p.Tuple != want {
				t.Errorf("%s: a first fragment of %d bytes is %v %v", name, least, p.Class, p.Tuple)
			}
			b.Reset()
		}
	}
}

func TestFragmentID(t *testing.T) {
	b := NewBatch()
	for _, v6 := range []bool{false, true} {
		s := udp(v6, pattern(3000))
		for i, f := range s.fragments(t, 1200) {
			b.Reset()
			p := b.Append(f)
			b.Parse(p)
			wantID := uint32(s.id)
			if v6 {
				wantID = 42
			}
			if id, off, more := b.FragmentID(p); id != wantID || off != i*1200 || more != (i < 2) {
				t.Errorf("v6=%v: fragment %d: id %d, offset %d, more %v", v6, i, id, off, more)
			}
		}
	}
}

// TestParsePadding checks that a frame loses what Ethernet padded it with, so
// that no checksum or superpacket takes it for payload.
func TestParsePadding(t *testing.T) {
	b := NewBatch()
	for _, s := range []frameSpec{udp(false, []byte{1}), udp(true, nil), tcp(false, nil)} {
		f := s.frame(t)
		p := b.Append(append(bytes.Clone(f), 0xee, 0xee, 0xee, 0xee))
		b.Parse(p)
		if p.Class != Flow || !bytes.Equal(b.Frame(p), f) || !b.VerifyTransport(p) {
			t.Errorf("%v: %v, %d bytes, want %d", s.proto, p.Class, p.Len, len(f))
		}
	}
}

// TestB14ParseOffload has offload metadata, which the other end of a port may
// have made up.
func TestB14ParseOffload(t *testing.T) {
	t4, t6, u4 := tcp(false, pattern(4000)), tcp(true, pattern(4000)), udp(false, pattern(4000))
	fragment := u4
	fragment.ipFlags = layers.IPv4MoreFragments
	tests := map[string]struct {
		s      frameSpec
		change func(p *Packet)
		want   Class
	}{
		"TCPv4":                   {t4, func(p *Packet) {}, Flow},
		"TCPv6":                   {t6, func(p *Packet) {}, Flow},
		"UDP":                     {u4, func(p *Packet) {}, Flow},
		"ECN":                     {t4, func(p *Packet) { p.GSO |= GSOECN }, Flow},
		"header length is a hint": {t4, func(p *Packet) { p.HdrLen = 4000 }, Flow},
		"wrong family":            {t4, func(p *Packet) { p.GSO = GSOTCPv6 }, Malformed},
		"wrong family v6":         {t6, func(p *Packet) { p.GSO = GSOTCPv4 }, Malformed},
		"UDP as TCP":              {u4, func(p *Packet) { p.GSO = GSOTCPv4 }, Malformed},
		"TCP as UDP":              {t4, func(p *Packet) { p.GSO = GSOUDPL4 }, Malformed},
		"unknown kind":            {t4, func(p *Packet) { p.GSO = 3 }, Malformed},
		"no size":                 {t4, func(p *Packet) { p.GSOSize = 0 }, Malformed},
		"complete checksum":       {t4, func(p *Packet) { p.Flags = 0 }, Malformed},
		"checksum elsewhere":      {t4, func(p *Packet) { p.CsumStart += 2 }, Malformed},
		"checksum offset":         {t4, func(p *Packet) { p.CsumOffset = 6 }, Malformed},
		"fragment":                {fragment, func(p *Packet) {}, Malformed},
		"train, header length":    {t4, func(p *Packet) { p.Stride, p.HdrLen = 1500, 54 }, Malformed},
		"train, short stride":     {t4, func(p *Packet) { p.Stride = 10 }, Malformed},
		"ordinary":                {u4, func(p *Packet) { p.GSO = GSONone }, Flow},
		"ordinary, offset":        {u4, func(p *Packet) { p.GSO, p.CsumOffset = GSONone, 16 }, Malformed},
		"ordinary, in a tunnel":   {u4, func(p *Packet) { p.GSO, p.CsumStart, p.CsumOffset = GSONone, 400, 16 }, Flow},
		"ordinary, before":        {u4, func(p *Packet) { p.GSO, p.CsumStart = GSONone, 14 }, Malformed},
		"ordinary, behind":        {u4, func(p *Packet) { p.GSO, p.CsumStart, p.CsumOffset = GSONone, 4040, 10 }, Malformed},
		"ordinary, far behind":    {u4, func(p *Packet) { p.GSO, p.CsumStart, p.CsumOffset = GSONone, 65535, 65535 }, Malformed},
	}
	b := NewBatch()
	for name, tt := range tests {
		b.Reset()
		p := tt.s.addGSO(t, b, 1400, 0)
		hdr := p.HdrLen
		tt.change(p)
		gso := p.GSO
		b.Parse(p)
		if p.Class != tt.want {
			t.Errorf("%s: %v, want %v", name, p.Class, tt.want)
		}
		if p.Class == Flow && gso != GSONone && (p.HdrLen != hdr || p.GSO != gso || p.Segments() != 3) {
			t.Errorf("%s: header %d, want %d; kind %d, %d segments", name, p.HdrLen, hdr, p.GSO, p.Segments())
		}
	}
}

// TestParseSingleSegment checks that a superpacket of one segment is an
// ordinary packet from Parse on.
func TestParseSingleSegment(t *testing.T) {
	b := NewBatch()
	for _, s := range []frameSpec{tcp(false, pattern(1400)), tcp(true, nil), udp(false, pattern(7))} {
		for _, gap := range []int{0, 62} {
			b.Reset()
			p := s.addGSO(t, b, 1400, gap)
			b.Parse(p)
			if p.Class != Flow || p.GSO != GSONone || p.Stride != 0 || p.Segments() != 1 || p.WireLen() != int(p.Len)-EthernetLen {
				t.Errorf("%v: %+v", s.proto, p)
			}
			if b.Complete(p); !bytes.Equal(b.Frame(p), s.frame(t)) {
				t.Errorf("%v: %s", s.proto, difference(b.Frame(p), s.frame(t)))
			}
		}
	}
}
