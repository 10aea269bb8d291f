// Package sctp answers SCTP clients (RFC 9260) in userspace: the smallest server
// that a client of any kernel can talk to. For kernels without SCTP it reads and
// writes raw IP packets; where the kernel has SCTP, Listen leaves the work to it,
// as its own would abort every association that it does not know.
//
// The server never speaks first and has no timers: it answers each message, and
// repeats the newest answer when the client repeats its message. An older one
// that was lost, of a client that did not wait for it, stays lost. The server has
// one address and one stream, and of the protocol's extensions none. It is the
// lab's, for its built-in server.
package sctp

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Chunk types (RFC 9260 section 3.2).
const (
	typeData             = 0
	typeInit             = 1
	typeInitAck          = 2
	typeSack             = 3
	typeHeartbeat        = 4
	typeHeartbeatAck     = 5
	typeAbort            = 6
	typeShutdown         = 7
	typeShutdownAck      = 8
	typeError            = 9
	typeCookieEcho       = 10
	typeCookieAck        = 11
	typeShutdownComplete = 14
)

const (
	flagEnd   = 0x01 // of DATA: the last fragment of a message
	flagBegin = 0x02 // of DATA: the first one
	flagT     = 0x01 // of ABORT and SHUTDOWN COMPLETE: the tag is what the receiver has sent

	paramCookie = 7 // State Cookie
)

// Lengths in bytes: of the common header, of a chunk's, and of what is fixed of
// INIT, DATA and SACK with their headers.
const (
	headerLen, chunkLen       = 12, 4
	initLen, dataLen, sackLen = 20, 16, 16
)

const (
	// maxPacket is how long the server's packets are at most, bytes. They fit
	// everywhere, as IPv6 fits (RFC 8200 section 5).
	maxPacket = 1200
	// window is what clients are told that they may send ahead, bytes. Nothing is
	// kept of what they send.
	window = 1 << 16
)

// maxAssociations bounds how many associations a server knows. Of too many, the
// one goes that was silent for longest.
const maxAssociations = 1024

// Server answers the clients of some ports. Its methods are safe for concurrent
// use.
type Server struct {
	ports  []uint16
	answer func(port uint16, client netip.AddrPort) []byte
	secret [32]byte

	mu sync.Mutex // guards what follows
	// known are the associations, by the server's own tag.
	known map[uint32]*association
}

// association is a client that has brought its cookie.
type association struct {
	client netip.AddrPort
	port   uint16
	cookie
	seen time.Time
	ssn  uint16
	last []byte // the newest answer, a chunk
}

// New returns a server of ports. answer returns what it says to each message of
// a client, at most 1,000 bytes. It must not call the server.
func New(ports []uint16, answer func(port uint16, client netip.AddrPort) []byte) *Server {
	s := &Server{ports: ports, answer: answer, known: map[uint32]*association{}}
	s.drawSecret()
	return s
}

// Handle returns the SCTP packet that answers one that came from a client, or
// nil: then there is nothing to say. It keeps nothing of packet; what it returns
// is the caller's.
func (s *Server) Handle(packet []byte, from netip.Addr, now time.Time) []byte {
	if len(packet) < headerLen+chunkLen || binary.LittleEndian.Uint32(packet[8:]) != checksum(packet) {
		return nil
	}
	client := netip.AddrPortFrom(from.Unmap(), binary.BigEndian.Uint16(packet))
	port, tag := binary.BigEndian.Uint16(packet[2:]), binary.BigEndian.Uint32(packet[4:])
	if !slices.Contains(s.ports, port) {
		return nil // another program's
	}
	first, rest := cut(packet[headerLen:])
	if first == nil {
		return nil
	}
	r := newReply(port, client.Port())
	s.mu.Lock()
	defer s.mu.Unlock()
	switch a := s.known[tag]; {
	case first.kind() == typeInit:
		if tag != 0 || len(rest) > 0 || !s.begin(r, first, port, client, now) {
			return nil
		}
	case a != nil && a.client == client && a.port == port:
		r.tag, a.seen = a.theirs, now
		s.converse(r, a, first, rest)
	case first.kind() == typeCookieEcho:
		c, ok := s.open(first[chunkLen:], port, client, now)
		if !ok || c.ours != tag {
			return nil
		}
		a := &association{client: client, port: port, cookie: c, seen: now}
		r.tag = c.theirs
		s.remember(a)
		s.converse(r, a, first, rest)
	default:
		r.stranger(tag, packet[headerLen:])
	}
	return r.packet()
}

// begin answers an INIT, and keeps nothing: the client brings all again in its
// cookie. Of the parameters, none asks for anything that the server has. It
// reports false for what is no INIT.
func (s *Server) begin(r *reply, in chunk, port uint16, client netip.AddrPort, now time.Time) bool {
	if len(in) < initLen {
		return false
	}
	c := cookie{
		theirs: binary.BigEndian.Uint32(in[4:]), ours: 1 + rand.Uint32N(math.MaxUint32), // 0 is no tag
		sent: rand.Uint32(), heard: binary.BigEndian.Uint32(in[16:]) - 1, made: now,
	}
	if c.theirs == 0 || binary.BigEndian.Uint16(in[12:]) == 0 || binary.BigEndian.Uint16(in[14:]) == 0 {
		return false
	}
	r.tag = c.theirs
	b := r.chunk(typeInitAck, 0, initLen-chunkLen+chunkLen+cookieLen)
	binary.BigEndian.PutUint32(b, c.ours)
	binary.BigEndian.PutUint32(b[4:], window)
	binary.BigEndian.PutUint16(b[8:], 1)
	binary.BigEndian.PutUint16(b[10:], math.MaxUint16)
	binary.BigEndian.PutUint32(b[12:], c.sent+1)
	binary.BigEndian.PutUint16(b[16:], paramCookie)
	binary.BigEndian.PutUint16(b[18:], chunkLen+cookieLen)
	s.seal(b[20:], &c, port, client)
	return true
}

// remember adds an association. Called with mu held.
func (s *Server) remember(a *association) {
	if len(s.known) >= maxAssociations {
		var idle *association
		for _, x := range s.known {
			if idle == nil || x.seen.Before(idle.seen) {
				idle = x
			}
		}
		delete(s.known, idle.ours)
	}
	s.known[a.ours] = a
}

// converse answers the chunks of a packet of an association. Called with mu held.
func (s *Server) converse(r *reply, a *association, c chunk, rest []byte) {
	var data []byte // goes last
	sack := false
	for ; c != nil; c, rest = cut(rest) {
		switch c.kind() {
		case typeData:
			sack = true
			s.hear(r, a, c, &data)
		case typeCookieEcho:
			r.say(len(data), typeCookieAck, nil)
		case typeHeartbeat:
			r.say(len(data), typeHeartbeatAck, c[chunkLen:])
		case typeShutdown:
			r.say(len(data), typeShutdownAck, nil)
		case typeShutdownAck: // to what nobody has said
			r.say(len(data), typeShutdownComplete, nil)
			delete(s.known, a.ours)
		case typeAbort, typeShutdownComplete:
			delete(s.known, a.ours)
			r.none()
			return
		default:
			if c.kind() > typeShutdownComplete && c.kind()&0x80 == 0 {
				rest = nil // of an unknown type that says so: all that follows is dropped
			}
		}
	}
	if sack {
		b := r.chunk(typeSack, 0, sackLen-chunkLen)
		binary.BigEndian.PutUint32(b, a.heard)
		binary.BigEndian.PutUint32(b[4:], window)
	}
	r.buf = append(r.buf, data...)
}

// hear takes one DATA chunk, if it is the next one and its answer fits; what is
// not taken comes again. What has been taken, and comes again, has had an answer
// that was lost.
func (s *Server) hear(r *reply, a *association, c chunk, data *[]byte) {
	if len(c) <= dataLen {
		return // has no data
	}
	switch tsn := binary.BigEndian.Uint32(c[4:]); {
	case tsn == a.heard && len(*data) == 0 && r.room(sackLen+len(a.last)):
		*data = append(*data, a.last...)
	case tsn == a.heard+1 && c[1]&flagEnd == 0:
		a.heard++ // the message goes on
	case tsn == a.heard+1:
		text := s.answer(a.port, a.client)
		if !r.room(len(*data) + sackLen + dataLen + len(text) + 3) {
			return
		}
		a.heard++
		a.sent++
		answer := appendChunk(nil, typeData, flagBegin|flagEnd, dataLen-chunkLen+len(text))
		binary.BigEndian.PutUint32(answer[4:], a.sent)
		binary.BigEndian.PutUint16(answer[10:], a.ssn)
		copy(answer[dataLen:], text)
		a.ssn++
		a.last = answer
		*data = append(*data, answer...)
	}
}

// stranger answers a packet of an association that the server does not know
// (RFC 9260 section 8.4).
func (r *reply) stranger(tag uint32, chunks []byte) {
	r.tag = tag
	answer := uint8(typeAbort)
	for c, rest := cut(chunks); c != nil; c, rest = cut(rest) {
		switch c.kind() {
		case typeAbort, typeShutdownComplete, typeCookieEcho, typeCookieAck, typeInit, typeInitAck, typeError:
			return
		case typeShutdownAck:
			answer = typeShutdownComplete
		}
	}
	r.chunk(answer, flagT, 0)
}

// chunk is a chunk without its padding.
type chunk []byte

func (c chunk) kind() uint8 { return c[0] }

// cut returns the first chunk, nil if there is none, and what comes after it.
func cut(b []byte) (c chunk, rest []byte) {
	if len(b) < chunkLen {
		return nil, nil
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if n < chunkLen || n > len(b) {
		return nil, nil
	}
	return chunk(b[:n]), b[min((n+3)&^3, len(b)):]
}

// appendChunk appends a chunk with a body of n zeros, and its padding.
func appendChunk(b []byte, kind, flags uint8, n int) []byte {
	b = append(b, kind, flags)
	b = binary.BigEndian.AppendUint16(b, uint16(chunkLen+n))
	return append(b, make([]byte, (n+3)&^3)...)
}

// reply is a packet that is being written.
type reply struct {
	buf []byte
	tag uint32
}

func newReply(from, to uint16) *reply {
	r := &reply{buf: make([]byte, headerLen, 256)}
	binary.BigEndian.PutUint16(r.buf, from)
	binary.BigEndian.PutUint16(r.buf[2:], to)
	return r
}

// chunk adds a chunk and returns its body, n zeros.
func (r *reply) chunk(kind, flags uint8, n int) []byte {
	at := len(r.buf)
	r.buf = appendChunk(r.buf, kind, flags, n)
	return r.buf[at+chunkLen : at+chunkLen+n]
}

// say adds a chunk, if it fits beside a SACK and that many bytes of data.
func (r *reply) say(data int, kind uint8, body []byte) {
	if r.room(data + sackLen + chunkLen + len(body) + 3) {
		copy(r.chunk(kind, 0, len(body)), body)
	}
}

// room reports whether n bytes more fit.
func (r *reply) room(n int) bool { return len(r.buf)+n <= maxPacket }

// none takes all back.
func (r *reply) none() { r.buf = r.buf[:headerLen] }

// packet is the packet, nil if it has no chunks.
func (r *reply) packet() []byte {
	if len(r.buf) == headerLen {
		return nil
	}
	binary.BigEndian.PutUint32(r.buf[4:], r.tag)
	binary.LittleEndian.PutUint32(r.buf[8:], checksum(r.buf))
	return r.buf
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is the CRC32c of a packet whose checksum is taken for zero (RFC 9260
// appendix A).
func checksum(packet []byte) uint32 {
	c := crc32.Update(0, castagnoli, packet[:8])
	c = crc32.Update(c, castagnoli, make([]byte, 4))
	return crc32.Update(c, castagnoli, packet[headerLen:])
}
