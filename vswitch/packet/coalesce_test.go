package packet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/google/gopacket/layers"
)

// tunnel is a VXLAN header.
var tunnel = []byte{8, 0, 0, 0, 0, 0, 1, 0}

// layOut writes the frames as datagrams of one stride behind each other, as
// UDP_GRO delivers them: all of the length of the first but the last.
func layOut(t testing.TB, b *Batch, frames [][]byte) (off, stride, n int) {
	t.Helper()
	b.Reset()
	off = b.Next()
	stride = len(tunnel) + len(frames[0])
	for i, f := range frames {
		if d := len(tunnel) + len(f); d != stride && (i != len(frames)-1 || d > stride) {
			t.Fatalf("frame %d of %d has %d bytes, the first %d", i, len(frames), len(f), len(frames[0]))
		}
		n += copy(b.Buf[off+n:], tunnel)
		n += copy(b.Buf[off+n:], f)
	}
	return off, stride, n
}

// allWire returns the frames that all packets of b are on the wire.
func allWire(b *Batch) (frames [][]byte) {
	for i := range b.Packets {
		frames = append(frames, wire(b, &b.Packets[i])...)
	}
	return frames
}

func framesOf(t testing.TB, specs []frameSpec) (frames [][]byte) {
	for _, s := range specs {
		frames = append(frames, s.frame(t))
	}
	return frames
}

// stream returns n segments of one flow, each of size bytes.
func stream(s frameSpec, n, size int) []frameSpec {
	var all []frameSpec
	for i := range n {
		q := s
		q.seq += uint32(i * size)
		q.id += uint16(i)
		q.payload = pattern(size + i)[i:]
		all = append(all, q)
	}
	return all
}

// TestAddTrainMerges checks descriptor and bytes of what becomes one train.
func TestAddTrainMerges(t *testing.T) {
	for name, s := range superpackets() {
		if len(s.ipOptions) > 0 || len(s.payload) < 1402 {
			continue
		}
		for _, verify := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/verify=%v", name, verify), func(t *testing.T) {
				frames := s.segments(t, 1400)
				b := NewBatch()
				off, stride, n := layOut(t, b, frames)
				added, dropped := b.AddTrain(off, stride, n, len(tunnel), TrainOptions{Verify: verify})
				if added != 1 || dropped != 0 || len(b.Packets) != 1 {
					t.Fatalf("added %d, dropped %d, %d packets", added, dropped, len(b.Packets))
				}
				p := &b.Packets[0]
				whole := s.partial(s.frame(t))
				want := Packet{Off: uint32(off + len(tunnel)), Len: uint32(len(whole)), GSO: s.gso(), Flags: NeedsCsum,
					HdrLen: uint16(s.hdrLen(whole)), GSOSize: 1400, CsumStart: uint16(s.l4()),
					CsumOffset: uint16(s.csumAt() - s.l4()), Stride: uint16(stride)}
				if s.proto == layers.IPProtocolTCP && s.flags&TCPCwr != 0 {
					want.GSO |= GSOECN
				}
				if *p != want {
					t.Errorf("got  %+v\nwant %+v", *p, want)
				}
				if got := b.Buf[p.Off:][:p.HdrLen]; !bytes.Equal(got, whole[:p.HdrLen]) {
					t.Errorf("header of the whole: %s", difference(got, whole[:p.HdrLen]))
				}
				compareFrames(t, wire(b, p), frames)
				if b.Parse(p); p.Class != Flow || p.Tuple != s.tuple() || p.Segments() != len(frames) {
					t.Errorf("parsed as %v %v, %d segments", p.Class, p.Tuple, p.Segments())
				}
				b.Linearize(p)
				if !bytes.Equal(b.Frame(p), whole) {
					t.Errorf("linear: %s", difference(b.Frame(p), whole))
				}
			})
		}
	}
}

// TestAddTrainKeepsApart gives three segments of which the second differs from
// what the first makes expect.
func TestAddTrainKeepsApart(t *testing.T) {
	const size = 500
	other := []layers.TCPOption{{OptionType: 1}, {OptionType: 1},
		{OptionType: layers.TCPOptionKindTimestamps, OptionData: []byte{1, 2, 3, 5, 5, 6, 7, 8}}}
	tests := map[string]struct {
		change func(all []frameSpec)
		want   []int // segments of each packet
	}{
		"nothing":               {func([]frameSpec) {}, []int{3}},
		"gap":                   {func(a []frameSpec) { a[1].seq++; a[2].seq++ }, []int{1, 2}},
		"retransmission":        {func(a []frameSpec) { a[1].seq = a[0].seq; a[2].seq = a[0].seq }, []int{1, 1, 1}},
		"acknowledgement":       {func(a []frameSpec) { a[1].ack++ }, []int{1, 1, 1}},
		"window":                {func(a []frameSpec) { a[1].window++ }, []int{1, 1, 1}},
		"urgent pointer":        {func(a []frameSpec) { a[1].urgent++ }, []int{1, 1, 1}},
		"options":               {func(a []frameSpec) { a[1].options = other; a[2].options = other }, []int{1, 2}},
		"PSH":                   {func(a []frameSpec) { a[1].flags |= TCPPsh }, []int{2, 1}},
		"PSH first":             {func(a []frameSpec) { a[0].flags |= TCPPsh }, []int{1, 2}},
		"PSH last":              {func(a []frameSpec) { a[2].flags |= TCPPsh }, []int{3}},
		"FIN":                   {func(a []frameSpec) { a[1].flags |= TCPFin }, []int{2, 1}},
		"SYN":                   {func(a []frameSpec) { a[1].flags |= TCPSyn }, []int{1, 1, 1}},
		"RST":                   {func(a []frameSpec) { a[1].flags |= TCPRst }, []int{1, 1, 1}},
		"URG":                   {func(a []frameSpec) { a[1].flags |= TCPUrg }, []int{1, 1, 1}},
		"no ACK":                {func(a []frameSpec) { a[1].flags = 0 }, []int{1, 1, 1}},
		"ECE":                   {func(a []frameSpec) { a[1].flags |= TCPEce; a[2].flags |= TCPEce }, []int{1, 2}},
		"CWR first":             {func(a []frameSpec) { a[0].flags |= TCPCwr }, []int{3}},
		"CWR second":            {func(a []frameSpec) { a[1].flags |= TCPCwr }, []int{1, 2}},
		"CE mark":               {func(a []frameSpec) { a[1].tos = 3 }, []int{1, 1, 1}},
		"TTL":                   {func(a []frameSpec) { a[1].ttl-- }, []int{1, 1, 1}},
		"source port":           {func(a []frameSpec) { a[1].sport++ }, []int{1, 1, 1}},
		"destination port":      {func(a []frameSpec) { a[1].dport++ }, []int{1, 1, 1}},
		"source address":        {func(a []frameSpec) { a[1].src = a[1].src.Next() }, []int{1, 1, 1}},
		"destination address":   {func(a []frameSpec) { a[1].dst = a[1].dst.Next() }, []int{1, 1, 1}},
		"protocol":              {func(a []frameSpec) { a[1] = udp(a[1].is6(), pattern(size+24)) }, []int{1, 1, 1}},
		"identification":        {func(a []frameSpec) { a[1].id = 9 }, []int{3}}, // DF is set
		"identification, no DF": {func(a []frameSpec) { noDF(a); a[1].id = 9 }, []int{1, 1, 1}},
		"no DF":                 {noDF, []int{3}},
		"DF differs":            {func(a []frameSpec) { a[1].ipFlags = 0 }, []int{1, 1, 1}},
		"more fragments":        {func(a []frameSpec) { a[1].ipFlags |= layers.IPv4MoreFragments }, []int{1, 1, 1}},
		"fragment offset":       {func(a []frameSpec) { a[1].fragOffset = 100 }, []int{1, 1, 1}},
		"IP options":            {ipOptions, []int{1, 1, 1}},
		"pure ACK last":         {func(a []frameSpec) { a[2].payload = nil }, []int{2, 1}},
		"pure ACKs":             {func(a []frameSpec) { a[0].payload, a[1].payload, a[2].payload = nil, nil, nil }, []int{1, 1, 1}},
		"short segment first": {func(a []frameSpec) {
			a[1].options, a[1].payload = nil, pattern(size+12)
		}, []int{1, 1, 1}},
	}
	only4 := []string{"identification", "identification, no DF", "no DF", "DF differs", "more fragments", "fragment offset", "IP options"}
	for name, tt := range tests {
		for _, v6 := range []bool{false, true} {
			if v6 && slices.Contains(only4, name) {
				continue
			}
			t.Run(fmt.Sprintf("%s/v6=%v", name, v6), func(t *testing.T) {
				all := stream(tcp(v6, nil), 3, size)
				tt.change(all)
				checkTrain(t, framesOf(t, all), tt.want, name == "identification")
			})
		}
	}
}

func noDF(a []frameSpec) {
	for i := range a {
		a[i].ipFlags = 0
	}
}

func ipOptions(a []frameSpec) {
	for i := range a {
		a[i].ipOptions = []layers.IPv4Option{{OptionType: 0x94, OptionLength: 4, OptionData: []byte{0, 0}}}
	}
}

// checkTrain adds the frames and checks how many segments each packet has and
// that the wire shows the same frames.
func checkTrain(t *testing.T, frames [][]byte, want []int, renumbered bool) {
	t.Helper()
	b := NewBatch()
	off, stride, n := layOut(t, b, frames)
	if added, dropped := b.AddTrain(off, stride, n, len(tunnel), TrainOptions{Verify: true}); added != len(b.Packets) || dropped != 0 {
		t.Fatalf("added %d, dropped %d", added, dropped)
	}
	var got []int
	for i := range b.Packets {
		p := &b.Packets[i]
		got = append(got, p.Segments())
		if !bytes.Equal(b.Buf[int(p.Off)-len(tunnel):p.Off], tunnel) {
			t.Errorf("packet %d is not behind its tunnel header", i)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("segments %v, want %v", got, want)
	}
	out := allWire(b)
	if renumbered {
		for i := range out {
			out[i], frames[i] = normal(out[i]), normal(frames[i])
		}
	}
	compareFrames(t, out, frames)
}

// normal returns a frame without what cutting a train may change and no
// receiver may look at: the identification of an IPv4 packet with DF (RFC 6864),
// with the header checksum that covers it, and which zero a checksum is.
func normal(f []byte) []byte {
	f = bytes.Clone(f)
	if len(f) < EthernetLen+20 || binary.BigEndian.Uint16(f[12:]) != EtherTypeIPv4 {
		return f
	}
	if f[20]&0x40 != 0 {
		copy(f[18:20], []byte{0, 0})
		copy(f[24:26], []byte{0, 0})
	}
	return f
}

func TestAddTrainTunnelHeaders(t *testing.T) {
	frames := framesOf(t, stream(tcp(false, nil), 4, 300))
	b := NewBatch()
	off, stride, n := layOut(t, b, frames)
	b.Buf[off+2*stride+6] ^= 1 // another VNI
	b.AddTrain(off, stride, n, len(tunnel), TrainOptions{})
	var got []int
	for i := range b.Packets {
		got = append(got, b.Packets[i].Segments())
	}
	if fmt.Sprint(got) != "[2 1 1]" {
		t.Errorf("segments %v, want [2 1 1]", got)
	}
}

// TestAddTrainBadChecksum damages one segment's payload.
func TestAddTrainBadChecksum(t *testing.T) {
	for _, s := range []frameSpec{tcp(false, nil), tcp(true, nil), udp(false, nil), udp(true, nil)} {
		frames := framesOf(t, stream(s, 5, 300))
		frames[2][len(frames[2])-1] ^= 0x40
		b := NewBatch()
		off, stride, n := layOut(t, b, frames)
		b.AddTrain(off, stride, n, len(tunnel), TrainOptions{Verify: true})
		if len(b.Packets) != 3 || b.Packets[0].Segments() != 2 || b.Packets[2].Segments() != 2 {
			t.Fatalf("%v: %d packets", s.proto, len(b.Packets))
		}
		if p := &b.Packets[1]; p.Flags != 0 || p.GSO != GSONone {
			t.Errorf("%v: the damaged segment is blessed: %+v", s.proto, p)
		}
		compareFrames(t, allWire(b), frames)
	}
}

// TestAddTrainIPv4Checksum damages the IPv4 header: cutting would mend it.
func TestAddTrainIPv4Checksum(t *testing.T) {
	frames := framesOf(t, stream(tcp(false, nil), 3, 300))
	frames[1][24] ^= 1
	checkTrain(t, frames, []int{1, 1, 1}, false)
}

// TestAddTrainVersion has frames whose IP version contradicts the EtherType.
func TestAddTrainVersion(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		frames := framesOf(t, stream(tcp(v6, nil), 3, 300))
		for _, f := range frames {
			f[EthernetLen] ^= 0x10
			if !v6 {
				copy(f[24:26], []byte{0, 0})
				binary.BigEndian.PutUint16(f[24:], ^slowSum(f[EthernetLen:34]))
			}
		}
		checkTrain(t, frames, []int{1, 1, 1}, false)
	}
}

func TestAddTrainUDP(t *testing.T) {
	tests := map[string]struct {
		change func(all []frameSpec)
		want   []int
	}{
		"nothing":     {func([]frameSpec) {}, []int{3}},
		"short last":  {func(a []frameSpec) { a[2].payload = a[2].payload[:1] }, []int{3}},
		"empty last":  {func(a []frameSpec) { a[2].payload = nil }, []int{2, 1}},
		"port":        {func(a []frameSpec) { a[1].sport++ }, []int{1, 1, 1}},
		"CE mark":     {func(a []frameSpec) { a[1].tos = 3 }, []int{1, 1, 1}},
		"no checksum": {func(a []frameSpec) { a[0].noChecksum, a[1].noChecksum = true, true }, []int{1, 1, 1}},
	}
	for name, tt := range tests {
		for _, v6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/v6=%v", name, v6), func(t *testing.T) {
				all := stream(udp(v6, nil), 3, 800)
				tt.change(all)
				checkTrain(t, framesOf(t, all), tt.want, false)
			})
		}
	}
}

// TestAddTrainLargest checks that a train never outgrows an IP packet.
func TestAddTrainLargest(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		frames := framesOf(t, stream(tcp(v6, nil), 60, 1398))
		b := NewBatch()
		off, stride, n := layOut(t, b, frames)
		b.AddTrain(off, stride, n, len(tunnel), TrainOptions{Verify: true})
		if len(b.Packets) != 2 || b.Packets[0].Segments() != 46 || b.Packets[0].Len > MaxFrame {
			t.Errorf("v6=%v: %d packets, the first of %d bytes in %d segments", v6, len(b.Packets), b.Packets[0].Len, b.Packets[0].Segments())
		}
		compareFrames(t, allWire(b), frames)
	}
}

func TestAddTrainFull(t *testing.T) {
	all := stream(tcp(false, nil), 40, 100)
	for i := range all {
		if i%4 == 0 {
			all[i].flags |= TCPPsh // ten trains of four, shifted by one
		}
	}
	frames := framesOf(t, all)
	b := NewBatch()
	off, stride, n := layOut(t, b, frames)
	for range BatchSize - 3 {
		b.Add(off, 1)
	}
	added, dropped := b.AddTrain(off, stride, n, len(tunnel), TrainOptions{})
	if added != 3 || len(b.Packets) != BatchSize {
		t.Fatalf("added %d, %d packets", added, len(b.Packets))
	}
	var got [][]byte
	for i := BatchSize - 3; i < BatchSize; i++ {
		got = append(got, wire(b, &b.Packets[i])...)
	}
	compareFrames(t, got, frames[:len(got)])
	if len(got)+dropped != len(frames) || len(got) != 9 {
		t.Errorf("%d frames kept, %d dropped, of %d", len(got), dropped, len(frames))
	}
	if added, dropped = b.AddTrain(off, stride, n, len(tunnel), TrainOptions{}); added != 0 || dropped != len(frames) {
		t.Errorf("a full batch took %d", added)
	}
}

func TestAddTrainNothing(t *testing.T) {
	b := NewBatch()
	off := b.Next()
	for _, tt := range []struct{ stride, n, inner, added, dropped int }{
		{0, 10, 8, 0, 0}, {10, 0, 8, 0, 0}, {8, 24, 8, 0, 3}, {9, 27, 8, 3, 0}, {9, 26, 8, 2, 1}, {100, 9, 8, 1, 0}, {100, 7, 8, 0, 1},
	} {
		b.Reset()
		if added, dropped := b.AddTrain(off, tt.stride, tt.n, tt.inner, TrainOptions{Verify: true}); added != tt.added || dropped != tt.dropped {
			t.Errorf("%+v: added %d, dropped %d", tt, added, dropped)
		}
	}
}
