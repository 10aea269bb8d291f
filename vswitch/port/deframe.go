package port

import (
	"encoding/binary"
	"errors"
)

// QEMU's framing of -netdev stream and -netdev socket (net/stream.c,
// net_fill_rstate in net/net.c): the length of the frame in four bytes, big
// endian, then the frame.
const (
	prefixLen = 4
	// qemuMax is the largest frame QEMU accepts (NET_BUFSIZE). A longer one
	// means that the two ends have lost each other.
	qemuMax = 4096 + 65536
	// streamBuf holds at least one frame and what a busy stream brings at once.
	streamBuf = 128 << 10
)

var errFraming = errors.New("length prefix out of range: the stream is out of step")

// deframer cuts a stream of bytes into frames.
type deframer struct {
	buf        []byte
	start, end int // of what is not yet cut
}

// space returns where the next bytes of the stream go; wrote must follow. Frames
// that were returned before are overwritten.
func (d *deframer) space() []byte {
	if d.start == d.end {
		d.start, d.end = 0, 0
	} else if len(d.buf)-d.start < prefixLen+qemuMax {
		d.end = copy(d.buf, d.buf[d.start:d.end])
		d.start = 0
	}
	return d.buf[d.end:]
}

func (d *deframer) wrote(n int) { d.end += n }

// next returns the next whole frame, valid until space; not ok when more bytes
// are needed. After an error, the stream cannot be read on.
func (d *deframer) next() (frame []byte, ok bool, err error) {
	have := d.buf[d.start:d.end]
	if len(have) < prefixLen {
		return nil, false, nil
	}
	n := int(binary.BigEndian.Uint32(have))
	if n > qemuMax {
		return nil, false, errFraming
	}
	if len(have) < prefixLen+n {
		return nil, false, nil
	}
	d.start += prefixLen + n
	return have[prefixLen : prefixLen+n], true, nil
}
