package sctp

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"time"
)

// cookie is what the server knows of an association that begins. The client
// keeps it, so that nobody fills the server with associations of addresses that
// are not theirs (RFC 9260 section 5.1.3).
type cookie struct {
	theirs, ours uint32 // tags
	// sent and heard are the newest sequence numbers (TSN) of each side.
	sent, heard uint32
	made        time.Time // with seconds
}

const (
	cookieBody = 24
	cookieLen  = cookieBody + sha256.Size
	// cookieLife is how long a cookie is good (Valid.Cookie.Life, section 16).
	cookieLife = time.Minute
)

// drawSecret draws what the server's cookies are sealed with.
func (s *Server) drawSecret() { _, _ = rand.Read(s.secret[:]) } // never fails

// seal writes c into b, which is of cookieLen bytes.
func (s *Server) seal(b []byte, c *cookie, port uint16, client netip.AddrPort) {
	for i, v := range []uint32{c.theirs, c.ours, c.sent, c.heard} {
		binary.BigEndian.PutUint32(b[4*i:], v)
	}
	binary.BigEndian.PutUint64(b[16:], uint64(c.made.Unix()))
	copy(b[cookieBody:], s.mac(b[:cookieBody], port, client))
}

// open reads a cookie that this server gave to this very client not long ago.
func (s *Server) open(b []byte, port uint16, client netip.AddrPort, now time.Time) (c cookie, ok bool) {
	if len(b) != cookieLen || !hmac.Equal(b[cookieBody:], s.mac(b[:cookieBody], port, client)) {
		return c, false
	}
	for i, v := range []*uint32{&c.theirs, &c.ours, &c.sent, &c.heard} {
		*v = binary.BigEndian.Uint32(b[4*i:])
	}
	c.made = time.Unix(int64(binary.BigEndian.Uint64(b[16:])), 0)
	return c, now.Sub(c.made) <= cookieLife
}

func (s *Server) mac(body []byte, port uint16, client netip.AddrPort) []byte {
	h := hmac.New(sha256.New, s.secret[:])
	h.Write(body)
	a := client.Addr().As16()
	h.Write(a[:])
	h.Write(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, client.Port()), port))
	return h.Sum(nil)
}
