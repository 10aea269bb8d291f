package sctp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

var (
	here  = netip.MustParseAddr("10.244.1.7")
	start = time.Unix(1_800_000_000, 0)
)

// client is a client of the server by another implementation of the format.
type client struct {
	t    *testing.T
	s    *Server
	from netip.Addr
	port uint16
	tag  uint32 // the server's
	now  time.Time
}

const clientTag = 0xc11e0001

func newClient(t *testing.T, ports ...uint16) *client {
	s := New(ports, func(port uint16, c netip.AddrPort) []byte { return fmt.Appendf(nil, "%d to %s", port, c) })
	return &client{t: t, s: s, from: here, port: 40000, now: start}
}

// chunks are what a client says, each with its padding.
type chunks []gopacket.SerializableLayer

func raw(kind layers.SCTPChunkType, flags uint8, body []byte) gopacket.SerializableLayer {
	b := []byte{byte(kind), flags, byte((len(body) + 4) >> 8), byte(len(body) + 4)}
	b = append(b, body...)
	return gopacket.Payload(append(b, make([]byte, -len(b)&3)...))
}

func data(tsn uint32, text string, flags uint8) gopacket.SerializableLayer {
	b := binary.BigEndian.AppendUint32(nil, tsn)
	return raw(layers.SCTPChunkTypeData, flags, append(append(b, make([]byte, 8)...), text...))
}

const whole = 3 // flags of a message in one chunk

// send is what is on the wire.
func (c *client) send(tag uint32, all ...gopacket.SerializableLayer) []byte {
	c.t.Helper()
	head := &layers.SCTP{SrcPort: layers.SCTPPort(c.port), DstPort: 80, VerificationTag: tag}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{ComputeChecksums: true}, append(chunks{head}, all...)...); err != nil {
		c.t.Fatal(err)
	}
	return c.s.Handle(buf.Bytes(), c.from, c.now)
}

// say sends chunks and returns those of the answer as text, and the first one.
func (c *client) say(tag uint32, all ...gopacket.SerializableLayer) (string, gopacket.Layer) {
	c.t.Helper()
	return c.read(c.send(tag, all...))
}

func (c *client) read(answer []byte) (text string, first gopacket.Layer) {
	c.t.Helper()
	if answer == nil {
		return "", nil
	}
	head := &layers.SCTP{}
	if err := head.DecodeFromBytes(answer, gopacket.NilDecodeFeedback); err != nil {
		c.t.Fatal(err)
	}
	sum := head.Checksum
	again := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(again, gopacket.SerializeOptions{ComputeChecksums: true}, head, gopacket.Payload(head.Payload)); err != nil {
		c.t.Fatal(err)
	}
	if got := binary.BigEndian.Uint32(again.Bytes()[8:]); sum != got || head.SrcPort != 80 || head.DstPort != layers.SCTPPort(c.port) {
		c.t.Errorf("from port %d to %d, checksum %x, want from 80 to %d, %x", head.SrcPort, head.DstPort, sum, c.port, got)
	}
	var said []string
	// Of several chunks, gopacket takes all for the first one's data.
	for b := head.Payload; len(b) > 0; {
		n := (int(binary.BigEndian.Uint16(b[2:])) + 3) &^ 3
		p := gopacket.NewPacket(append(append([]byte(nil), answer[:12]...), b[:n]...), layers.LayerTypeSCTP, gopacket.Default)
		if e := p.ErrorLayer(); e != nil {
			c.t.Fatalf("%x: %v", answer, e.Error())
		}
		if first == nil {
			first = p.Layers()[1]
		}
		said = append(said, c.chunk(p.Layers()[1]))
		b = b[n:]
	}
	return fmt.Sprintf("%x: %s", head.VerificationTag, strings.Join(said, ", ")), first
}

// chunk is what a chunk says.
func (c *client) chunk(l gopacket.Layer) string {
	switch l := l.(type) {
	case *layers.SCTPInit:
		return l.Type.String()
	case *layers.SCTPSack:
		return fmt.Sprintf("Sack %d", l.CumulativeTSNAck)
	case *layers.SCTPData:
		if !l.BeginFragment || !l.EndFragment || l.Unordered || l.StreamId != 0 {
			c.t.Errorf("data: %+v", l)
		}
		return fmt.Sprintf("Data %d %q", l.StreamSequence, l.Payload[:l.Length-16])
	case *layers.SCTPHeartbeat:
		return fmt.Sprintf("%s %q", l.Type, l.Parameters[0].Value)
	case *layers.SCTPEmptyLayer:
		return fmt.Sprintf("%s %d", l.Type, l.Flags)
	case *layers.SCTPError:
		return fmt.Sprintf("%s %d", l.Type, l.Flags)
	case *layers.SCTPShutdownAck:
		return l.Type.String()
	}
	return fmt.Sprintf("%T", l)
}

// init says INIT and returns the cookie to echo.
func (c *client) init() gopacket.SerializableLayer {
	c.t.Helper()
	text, first := c.say(0, &layers.SCTPInit{SCTPChunk: layers.SCTPChunk{Type: layers.SCTPChunkTypeInit, Length: 20}, InitiateTag: clientTag,
		AdvertisedReceiverWindowCredit: 1000, OutboundStreams: 10, InboundStreams: 10, InitialTSN: 100})
	if text != "c11e0001: InitAck" {
		c.t.Fatalf("INIT is answered by %q", text)
	}
	ack := first.(*layers.SCTPInit)
	if c.tag = ack.InitiateTag; c.tag == 0 || ack.AdvertisedReceiverWindowCredit < 1500 || ack.OutboundStreams != 1 || ack.InboundStreams < 10 ||
		len(ack.Parameters) != 1 || ack.Parameters[0].Type != 7 {
		c.t.Fatalf("INIT ACK: %+v", ack)
	}
	return raw(layers.SCTPChunkTypeCookieEcho, 0, ack.Parameters[0].Value)
}

func (c *client) expect(want string, tag uint32, all ...gopacket.SerializableLayer) {
	c.t.Helper()
	if got, _ := c.say(tag, all...); got != want {
		c.t.Errorf("%q, want %q", got, want)
	}
}

// TestConversation is an association from INIT to SHUTDOWN COMPLETE, with what
// gets lost on the way and comes again.
func TestConversation(t *testing.T) {
	c := newClient(t, 79, 80)
	cookie := c.init()
	answer := func(n int) string { return fmt.Sprintf(`Data %d "80 to 10.244.1.7:40000"`, n) }
	both := []gopacket.SerializableLayer{cookie, data(100, "hi", whole)}
	c.expect("c11e0001: CookieAck 0, Sack 100, "+answer(0), c.tag, both...)
	c.expect("c11e0001: CookieAck 0, Sack 100, "+answer(0), c.tag, both...)
	c.expect("c11e0001: Sack 101, "+answer(1), c.tag, data(101, "hello", whole))
	c.expect("c11e0001: Sack 101, "+answer(1), c.tag, data(101, "hello", whole))
	c.expect("c11e0001: Sack 101", c.tag, data(100, "hi", whole))
	c.expect("c11e0001: Sack 101", c.tag, data(103, "too early", whole))
	c.expect("c11e0001: Sack 103", c.tag, data(102, "a long ", 2), data(103, "long ", 0))
	c.expect("c11e0001: Sack 104, "+answer(2), c.tag, data(104, "message", 1))
	c.expect("c11e0001: Sack 106, "+answer(3)+", "+answer(4), c.tag, data(105, "x", whole), data(106, "y", whole))
	c.expect("c11e0001: HeartbeatAck \"abcd\", Sack 107, "+answer(5), c.tag, raw(layers.SCTPChunkTypeHeartbeat, 0, []byte("\x00\x01\x00\x08abcd")), data(107, "z", whole))
	c.expect("", c.tag, raw(layers.SCTPChunkTypeSack, 0, make([]byte, 12)))
	// Types of chunks that are not known: one to be passed over, one to stop at.
	c.expect("c11e0001: Sack 108, "+answer(6), c.tag, raw(0xc1, 0, make([]byte, 5)), data(108, "after", whole))
	c.expect("", c.tag, raw(0x3f, 0, nil), data(109, "after", whole))
	shutdown := raw(layers.SCTPChunkTypeShutdown, 0, make([]byte, 4))
	c.expect("c11e0001: ShutdownAck", c.tag, shutdown)
	c.expect("c11e0001: ShutdownAck", c.tag, shutdown)
	c.expect("", c.tag, raw(layers.SCTPChunkTypeShutdownComplete, 0, nil))
	if len(c.s.known) != 0 {
		t.Errorf("%d associations are left", len(c.s.known))
	}
}

// TestFull shows that nothing is taken whose answer would not fit.
func TestFull(t *testing.T) {
	c := newClient(t, 80)
	cookie := c.init()
	c.expect("c11e0001: CookieAck 0", c.tag, cookie)
	var many []gopacket.SerializableLayer
	for i := range uint32(100) {
		many = append(many, data(100+i, "x", whole))
	}
	answer := c.send(c.tag, many...)
	text, _ := c.read(answer)
	n := strings.Count(text, "Data")
	if len(answer) > maxPacket || n < 20 || n > 40 || !strings.Contains(text, fmt.Sprintf("Sack %d,", 99+n)) {
		t.Errorf("%d bytes: %s", len(answer), text)
	}
	c.expect(fmt.Sprintf(`c11e0001: Sack %d, Data %d "80 to 10.244.1.7:40000"`, 100+n, n), c.tag, many[n])

	// What has an answer of its own is answered as far as it fits, too.
	tsn := 101 + uint32(n)
	beat := raw(layers.SCTPChunkTypeHeartbeat, 0, make([]byte, 57))
	echo, shutdown := raw(layers.SCTPChunkTypeCookieEcho, 0, nil), raw(layers.SCTPChunkTypeShutdown, 0, make([]byte, 4))
	for _, more := range []gopacket.SerializableLayer{beat, echo, shutdown} {
		for _, last := range []bool{false, true} {
			all := append([]gopacket.SerializableLayer{data(tsn, "x", whole)}, slices.Repeat(chunks{more}, 1000)...)
			if last {
				slices.Reverse(all)
			}
			if answer := c.send(c.tag, all...); len(answer) > maxPacket || len(answer) < maxPacket-100 {
				t.Errorf("%d bytes", len(answer))
			}
			tsn++
		}
	}
}

// TestStranger is what is said to packets of associations that there are not
// (RFC 9260 section 8.4).
func TestStranger(t *testing.T) {
	abort, complete := "bad: Abort 1", "bad: ShutdownComplete 1"
	for _, tt := range []struct {
		name string
		says []gopacket.SerializableLayer
		want string
	}{
		{"data", chunks{data(1, "x", whole)}, abort},
		{"heartbeat", chunks{raw(4, 0, nil)}, abort},
		{"shutdown", chunks{raw(7, 0, make([]byte, 4))}, abort},
		{"shutdown ack", chunks{raw(8, 0, nil)}, complete},
		{"abort", chunks{raw(6, 0, nil)}, ""},
		{"data and abort", chunks{data(1, "x", whole), raw(6, 0, nil)}, ""},
		{"init ack", chunks{raw(2, 0, make([]byte, 16))}, ""},
		{"error", chunks{raw(9, 0, make([]byte, 4))}, ""},
		{"cookie ack", chunks{raw(11, 0, nil)}, ""},
		{"shutdown complete", chunks{raw(14, 0, nil)}, ""},
		{"cookie of nobody", chunks{raw(10, 0, make([]byte, cookieLen))}, ""},
		{"short cookie", chunks{raw(10, 0, nil)}, ""},
		{"nothing", nil, ""},
		{"no chunk", chunks{gopacket.Payload("\x00\x00\x00\x03")}, ""},
		{"too long a chunk", chunks{gopacket.Payload("\x00\x00\x00\x05")}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) { newClient(t, 80).expect(tt.want, 0xbad, tt.says...) })
	}
}

// TestBadInit shows what is no INIT, and gets no answer.
func TestBadInit(t *testing.T) {
	good := []byte{0, 0, 0, 1, 0, 0, 4, 0, 0, 1, 0, 1, 0, 0, 0, 1}
	without := func(at, n int) []byte {
		b := append([]byte(nil), good...)
		copy(b[at:], make([]byte, n))
		return b
	}
	for _, tt := range []struct {
		name string
		tag  uint32
		says []gopacket.SerializableLayer
		want string
	}{
		{"good", 0, chunks{raw(1, 0, good)}, "1: InitAck"},
		{"parameters of which none is known", 0, chunks{raw(1, 0, append(good[:16:16], 0xc0, 0, 0, 4))}, "1: InitAck"},
		{"with a tag", 1, chunks{raw(1, 0, good)}, ""},
		{"no tag to answer to", 0, chunks{raw(1, 0, without(0, 4))}, ""},
		{"no streams out", 0, chunks{raw(1, 0, without(8, 2))}, ""},
		{"no streams in", 0, chunks{raw(1, 0, without(10, 2))}, ""},
		{"short", 0, chunks{raw(1, 0, good[:12])}, ""},
		{"not alone", 0, chunks{raw(1, 0, good), data(1, "x", whole)}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClient(t, 80)
			c.expect(tt.want, tt.tag, tt.says...)
			if len(c.s.known) != 0 {
				t.Error("an association is known before its cookie has come")
			}
		})
	}
	c := newClient(t, 81)
	c.expect("", 0, raw(1, 0, good)) // another port
	c = newClient(t, 80)
	packet := []byte{0x9c, 0x40, 0, 80, 0, 0, 0, 0, 1, 2, 3, 4, 1, 0, 0, 20}
	if got := c.s.Handle(append(packet, good...), here, start); got != nil {
		t.Errorf("a wrong checksum is answered: %x", got)
	}
}

// TestCookie shows who may bring a cookie: the client that it was given to, once
// and again, within its time.
func TestCookie(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*client, []byte)
		want   string
	}{
		{"as it was", func(*client, []byte) {}, "c11e0001: CookieAck 0"},
		{"in time", func(c *client, _ []byte) { c.now = start.Add(cookieLife) }, "c11e0001: CookieAck 0"},
		{"stale", func(c *client, _ []byte) { c.now = start.Add(cookieLife + time.Second) }, ""},
		{"another address", func(c *client, _ []byte) { c.from = netip.MustParseAddr("10.244.1.8") }, ""},
		{"another port", func(c *client, _ []byte) { c.port++ }, ""},
		{"another tag", func(c *client, _ []byte) { c.tag++ }, ""},
		{"changed", func(_ *client, b []byte) { b[4+3]++ }, ""},
		{"another server", func(c *client, _ []byte) { c.s.drawSecret() }, ""},
		{"mapped address", func(c *client, _ []byte) { c.from = netip.AddrFrom16(c.from.As16()) }, "c11e0001: CookieAck 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClient(t, 80)
			cookie := c.init()
			tt.change(c, cookie.(gopacket.Payload))
			c.expect(tt.want, c.tag, cookie)
		})
	}
}

// TestMany shows that of too many associations, the longest silent one goes.
func TestMany(t *testing.T) {
	c := newClient(t, 80)
	begin := func() (tag uint32) {
		t.Helper()
		c.now = c.now.Add(time.Millisecond)
		c.port++
		cookie := c.init()
		c.expect("c11e0001: CookieAck 0", c.tag, cookie)
		return c.tag
	}
	first := c.port + 1
	firstTag, secondTag := begin(), begin()
	for range maxAssociations - 2 {
		begin()
	}
	c.port, c.now = first, c.now.Add(time.Millisecond)
	c.expect("c11e0001: ShutdownAck", firstTag, raw(7, 0, make([]byte, 4)))
	c.port += maxAssociations
	begin()
	if n := len(c.s.known); n != maxAssociations || c.s.known[firstTag] == nil || c.s.known[secondTag] != nil {
		t.Errorf("%d associations are known, of the first %v, of the second %v", n, c.s.known[firstTag], c.s.known[secondTag])
	}
	c.port = first
	c.expect("c11e0001: ShutdownAck", firstTag, raw(7, 0, make([]byte, 4)))
	c.port++
	c.expect(fmt.Sprintf("%x: Abort 1", secondTag), secondTag, raw(7, 0, make([]byte, 4)))
}

// FuzzHandle says to a server in the middle of an association what comes to
// mind. What it answers can be read, and fits.
func FuzzHandle(f *testing.F) {
	for _, b := range []string{"", "\x00\x03\x00\x12\x00\x00\x00\x64aaaabbbbhi\x00\x00", "\x04\x00\x00\x08\x00\x01\x00\x04", "\x07\x00\x00\x08\x00\x00\x00\x00", "\x0a\x00\x00\x04", "\xc1\x00\x00\x04\x06\x00\x00\x04"} {
		f.Add([]byte(b), true)
		f.Add([]byte(b), false)
	}
	f.Fuzz(func(t *testing.T, body []byte, known bool) {
		c := newClient(t, 80)
		cookie := c.init()
		if known {
			c.expect("c11e0001: CookieAck 0", c.tag, cookie)
		}
		answer := c.send(c.tag, gopacket.Payload(body))
		if len(answer) > maxPacket || len(answer)%4 != 0 {
			t.Errorf("%d bytes: %x", len(answer), answer)
		}
		c.s.Handle(body, c.from, c.now)
		if answer == nil {
			return
		}
		for b := answer[headerLen:]; len(b) > 0; {
			chunk, rest := cut(b)
			if chunk == nil {
				t.Fatalf("%x ends with what is no chunk: %x", answer, b)
			}
			b = rest
		}
	})
}
