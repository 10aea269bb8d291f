package gossip

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// errMalformed says that bytes from a peer are no message of this protocol.
var errMalformed = errors.New("malformed")

// writer appends fields. Numbers are varints (encoding/binary) unless a
// function says otherwise.
type writer []byte

func (w *writer) u8(v uint8)    { *w = append(*w, v) }
func (w *writer) u64(v uint64)  { *w = binary.BigEndian.AppendUint64(*w, v) }
func (w *writer) uint(v uint64) { *w = binary.AppendUvarint(*w, v) }
func (w *writer) text(s string) { w.uint(uint64(len(s))); *w = append(*w, s...) }

func (w *writer) addr(a netip.Addr) {
	b := a.AsSlice()
	w.u8(uint8(len(b)))
	*w = append(*w, b...)
}

// reader takes fields off the front of buf. The first mistake sticks: all
// later fields are zero, and err is set.
type reader struct {
	buf []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err != nil || n < 0 || n > len(r.buf) {
		r.err = errMalformed
		return nil
	}
	b := r.buf[:n:n]
	r.buf = r.buf[n:]
	return b
}

func (r *reader) u8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) uint() uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.buf)
	if n <= 0 {
		r.err = errMalformed
		return 0
	}
	r.buf = r.buf[n:]
	return v
}

// count reads the number of items that follow, at most limit, each of at least
// size bytes, so that a slice for them is never larger than the message.
func (r *reader) count(limit, size int) int {
	n := r.uint()
	if r.err == nil && (n > uint64(limit) || n*uint64(size) > uint64(len(r.buf))) {
		r.err = errMalformed
	}
	if r.err != nil {
		return 0
	}
	return int(n)
}

func (r *reader) text(limit int) string {
	n := r.uint()
	if r.err != nil || n > uint64(limit) {
		r.err = errMalformed
		return ""
	}
	return string(r.take(int(n)))
}

func (r *reader) addr() netip.Addr {
	return r.addrOf(int(r.u8()))
}

// addrOf reads an address of n bytes, 4 or 16; an IPv4 address in IPv6 form is
// refused, because two spellings of one address would not compare equal.
func (r *reader) addrOf(n int) netip.Addr {
	a, ok := netip.AddrFromSlice(r.take(n))
	if !ok || a != a.Unmap() {
		r.err = errMalformed
		return netip.Addr{}
	}
	return a
}

// end reports a mistake, or bytes that are left over.
func (r *reader) end() error {
	if r.err == nil && len(r.buf) > 0 {
		r.err = errMalformed
	}
	return r.err
}
